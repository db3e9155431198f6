"""The ledger: every gold mention that came in, what became of it, and why.

    ledger = Ledger()
    account = ledger.account("train")
    account.mentions += 1
    account.lose(document, span, "overlaps a longer mention")
    ledger.refuse_above(0.02)                     # too large a share lost stops the run
    write_json(path, ledger.to_json())

In each account ``mentions == kept + sum(lost.values())``.
"""

from collections import Counter
from dataclasses import dataclass, field

from medtuner.documents import Document, Span
from medtuner.errors import DataError

OUTSIDE_SPACE = "its type is outside the label space"
_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One mention that did not reach training, by place and reason; no text, which may be confidential."""

    document: str
    start: int
    end: int
    labels: tuple[str, ...]
    reason: str


@dataclass(slots=True, kw_only=True)
class Account:
    """The mentions of one split: how many came in, how many were kept, and each that was lost."""

    documents: int = 0
    mentions: int = 0
    kept: int = 0
    kept_types: Counter[str] = field(default_factory=Counter)
    collapsed: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)

    def lose(self, document: Document, span: Span, reason: str) -> None:
        """Record a mention that was not kept."""
        self.losses.append(
            Loss(document=document.id, start=span.start, end=span.end, labels=span.labels, reason=reason)
        )

    @property
    def lost(self) -> Counter[str]:
        """Return how many mentions were lost for each reason."""
        return Counter(loss.reason for loss in self.losses)


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The accounts of a run, one a split."""

    accounts: dict[str, Account] = field(default_factory=dict)

    def account(self, split: str) -> Account:
        """Return the account of a split, opening it if needed."""
        return self.accounts.setdefault(split, Account())

    def refuse_above(self, share: float) -> None:
        """Raise `DataError` when a split lost more than `share` of its mentions, with reasons and examples.

        Types that the label space leaves out on purpose are counted apart: they are no fault of the annotations.
        """
        for name, account in self.accounts.items():
            losses = [loss for loss in account.losses if loss.reason != OUTSIDE_SPACE]
            if len(losses) > share * account.mentions:
                reasons = "; ".join(f"{count} {why}" for why, count in Counter(x.reason for x in losses).most_common())
                places = ", ".join(f"{loss.document} {loss.start}-{loss.end}" for loss in losses[:_EXAMPLES])
                raise DataError(
                    f"data.{name}: {len(losses)} of {account.mentions} mentions would be lost ({reasons}), more "
                    f"than data.max_lost = {share} allows. First places: {places}. Mend the annotations, or raise "
                    "data.max_lost."
                )

    def to_json(self) -> dict[str, object]:
        """Return the ledger as JSON: counts for each split, and every loss by document and offsets."""
        return {
            name: {
                "documents": account.documents,
                "mentions": account.mentions,
                "kept": account.kept,
                "lost": dict(account.lost),
                "kept_types": dict(account.kept_types),
                "collapsed_labels": dict(account.collapsed),
                "mended_tags": dict(account.mended),
                "losses": [
                    {
                        "document": loss.document,
                        "start": loss.start,
                        "end": loss.end,
                        "labels": list(loss.labels),
                        "reason": loss.reason,
                    }
                    for loss in account.losses
                ],
            }
            for name, account in self.accounts.items()
        }

    def summary(self) -> list[str]:
        """Return one line a split, for the terminal."""
        lines: list[str] = []
        for name, account in self.accounts.items():
            reasons = "".join(f"; lost {count}: {reason}" for reason, count in account.lost.most_common())
            mended = "".join(f"; {count} {what}" for what, count in account.mended.most_common())
            collapsed = sum(account.collapsed.values())
            if collapsed:
                mended += f"; {collapsed} labels brought into the label space, or reduced to one (ledger.json)"
            counts = f"{account.documents:,} documents, {account.mentions:,} mentions, {account.kept:,} kept"
            lines.append(f"{name}: {counts}{reasons}{mended}")
        return lines
