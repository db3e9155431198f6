"""What readers of annotation files find wrong, and what was done about it by a declared policy.

    intake = Intake(policy="repair")
    document = intake.document("25763772", text, mentions, where="team_a.txt:12")
    intake.faults                        # every skipped or repaired annotation, by place
    intake.left_out["relation"]          # what a format has and documents do not keep

Policies: ``refuse`` raises at the first fault; ``skip`` leaves the faulty annotation out and lists it; ``repair`` looks for
the annotated string near its offsets, and skips what it does not find once. A document whose id is taken gets another,
listed. No text of a document is kept here, and of its id eight bytes.
"""

import contextlib
import heapq
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from medtuner.documents import SPAN_KEYS, Document, Offsets, Span, is_broken, refuse_broken
from medtuner.errors import DataError

Policy = Literal["refuse", "skip", "repair"]
POLICIES: tuple[Policy, ...] = ("refuse", "skip", "repair")
_NEAR = 100  # characters before and after a wrong place that are searched for the annotated string


@contextlib.contextmanager
def shaped(where: str, tool: str) -> Iterator[None]:
    """Turn what a record of another shape than the tool's makes fail into an error that names the record."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where}: not the shape of a {tool} record ({what}).") from None


def check_policy(name: str) -> Policy:
    """Return a policy by its name."""
    for policy in POLICIES:
        if policy == name:
            return policy
    raise DataError(f"--on-error {name}: valid are {', '.join(POLICIES)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """An annotation as a file has it, not yet checked against the text; `text` is the annotated string, if given."""

    fragments: tuple[Offsets, ...]
    labels: tuple[str, ...]
    text: str | None = None
    where: str = ""
    score: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that was wrong: where, in which document, what, and whether it was repaired or skipped."""

    where: str
    document: str
    what: str
    action: Literal["skipped", "repaired"]


class Intake:
    """Checks mentions against their texts and keeps account of what did not fit."""

    def __init__(self, policy: Policy = "refuse") -> None:
        self.policy = policy
        self.faults: list[Fault] = []
        self.left_out: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.documents = 0
        self.mentions = 0
        self.kept = 0
        self._ids = _Seen()

    def document(
        self,
        identifier: str,
        text: str,
        mentions: Iterable[Mention],
        *,
        where: str,
        tokens: tuple[Offsets, ...] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Document:
        """Build a document of those mentions that fit its text, in their order."""
        self.documents += 1
        refuse_broken(identifier, text, where=where)
        if tokens is not None:
            tokens = self._check_tokens(text, tokens, where)
        spans = [span for mention in mentions for span in self._span(identifier, text, mention, where)]
        document = Document(id=identifier, text=text, spans=tuple(spans), tokens=tokens, extra=extra or {})
        return self._name_apart(document, where)

    def _check_tokens(self, text: str, tokens: tuple[Offsets, ...], where: str) -> tuple[Offsets, ...]:
        """Return the tokens that are no white space; refuse those outside the text or out of order."""
        for start, end in tokens:
            if not 0 <= start < end <= len(text):
                raise DataError(f"{where}: a token at {start}-{end}, outside the text of {len(text)} characters.")
        if any(after < end for (_, end), (after, _) in pairwise(tokens)):
            raise DataError(f"{where}: tokens that overlap or are out of order.")
        words = tuple((start, end) for start, end in tokens if not text[start:end].isspace())
        self.mended["blank token left out"] += len(tokens) - len(words)
        return words

    def take(self, document: Document, where: str) -> Document:
        """Count a document whose reader has checked its mentions itself; all of them are kept."""
        self.documents += 1
        self.mentions += len(document.spans)
        self.kept += len(document.spans)
        return self._name_apart(document, where)

    def _name_apart(self, document: Document, where: str) -> Document:
        """Give a document whose id another one has (and the same annotator) an id of its own, listed; or refuse it."""
        annotator = str(document.extra.get("annotator", ""))
        name, number = document.id, 2
        while (key := hash((name, annotator))) in self._ids:
            name, number = f"{document.id}#{number}", number + 1
        self._ids.add(key)
        if name == document.id:
            return document
        what = f"another document has its id: renamed {name}"
        if self.policy == "refuse":
            raise DataError(
                f"{where}: document {document.id}: another document has this id. Give each its own, or choose --on-error "
                "skip (in a configuration data.on_error), by which it is renamed and listed."
            )
        self.faults.append(Fault(where=where, document=document.id, what=what, action="repaired"))
        return replace(document, id=name)

    def _span(self, identifier: str, text: str, mention: Mention, where: str) -> Iterator[Span]:
        self.mentions += 1
        where = mention.where or where
        if not mention.labels or not all(mention.labels) or any(map(is_broken, mention.labels)):
            self.skip(where, identifier, "an annotation without a label, or with a damaged one")
            return
        fragments = self._place(identifier, text, mention, where)
        if fragments is None:
            return
        self.kept += 1
        yield Span(
            start=fragments[0][0],
            end=max(end for _, end in fragments),
            labels=mention.labels,
            score=mention.score,
            fragments=fragments if len(fragments) > 1 else (),
            # A tool's own key must not pass for one of ours.
            extra={f"source_{key}" if key in SPAN_KEYS else key: value for key, value in mention.extra.items()},
        )

    def _place(self, identifier: str, text: str, mention: Mention, where: str) -> tuple[Offsets, ...] | None:
        """Return the fragments, in order, if they fit the text or could be repaired."""
        fragments = tuple(sorted(mention.fragments))
        fault = _find_fault(text, fragments, mention.text)
        if not fault:
            return fragments
        if self.policy == "repair" and mention.text and len(fragments) == 1:
            found = _search(text, mention.text, near=fragments[0])
            if found is not None:
                self.faults.append(Fault(where=where, document=identifier, what=fault, action="repaired"))
                return (found,)
        self.skip(where, identifier, fault)
        return None

    def skip(self, where: str, document: str, what: str) -> None:
        """Leave something out and list it; under ``refuse`` raise `DataError` instead."""
        if self.policy == "refuse":
            raise DataError(
                f"{where}: document {document}: {what}. Mend the file, or choose --on-error skip (leave it out, listed) or "
                "repair (search nearby for the annotated string, else skip); in a configuration data.on_error."
            )
        self.faults.append(Fault(where=where, document=document, what=what, action="skipped"))

    def skip_mention(self, where: str, document: str, what: str) -> None:
        """Skip an annotation that its reader cannot place at all."""
        self.mentions += 1
        self.skip(where, document, what)

    def count(self, action: Literal["skipped", "repaired"]) -> Counter[str]:
        """Return how often each kind of fault, without its offsets, was skipped or repaired."""
        return Counter(fault.what.partition(":")[0] for fault in self.faults if fault.action == action)

    def summary(self) -> list[str]:
        """Return the account in a few lines for the terminal."""
        lines = [f"{self.documents:,} documents, {self.mentions:,} mentions, {self.kept:,} kept"]
        for action in ("repaired", "skipped"):
            lines += [f"{action} {count}: {what}" for what, count in self.count(action).most_common()]
        lines += [f"mended {count}: {what}" for what, count in (+self.mended).most_common()]
        lines += [f"left out {count}: {what}" for what, count in (+self.left_out).most_common()]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the account: what came in, what was kept, every fault by place."""
        return {
            "documents": self.documents,
            "mentions": self.mentions,
            "kept": self.kept,
            "policy": self.policy,
            "left_out": dict(+self.left_out),
            "mended": dict(+self.mended),
            "faults": [
                {"where": fault.where, "document": fault.document, "what": fault.what, "action": fault.action}
                for fault in self.faults
            ],
        }


class _Seen:
    """A growing set of 64-bit numbers in little more than eight bytes each: a sorted array, and a set of the latest."""

    _LATEST = 16_384

    def __init__(self) -> None:
        self._sorted = array("q")
        self._latest: set[int] = set()

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._sorted, number)
        return number in self._latest or self._sorted[place : place + 1] == array("q", [number])

    def add(self, number: int) -> None:
        self._latest.add(number)
        if len(self._latest) == self._LATEST:
            self._sorted = array("q", heapq.merge(self._sorted, sorted(self._latest)))
            self._latest.clear()


def _find_fault(text: str, fragments: tuple[Offsets, ...], wanted: str | None) -> str:
    """Say what is wrong with a place; "" when nothing is."""
    if not fragments:
        return "an annotation without offsets"
    for start, end in fragments:
        if not 0 <= start < end <= len(text):
            return f"offsets outside the text: {start}-{end} of {len(text)} characters"
    for (_, end), (start, _) in pairwise(fragments):
        if start < end:
            return f"fragments overlap: at {start}"
    found = " ".join(text[start:end] for start, end in fragments)
    if wanted is not None and squeeze(found) != squeeze(wanted):
        return f"the text differs from the annotated string: at {fragments[0][0]}-{fragments[-1][1]}"
    return ""


def squeeze(text: str) -> str:
    """Return a text without white space: formats write line breaks as blanks, and join fragments with or without one."""
    return "".join(text.split())


def _is_whole(text: str, start: int, end: int) -> bool:
    """Say whether a place begins and ends at word borders."""
    begins = start == 0 or not (text[start - 1].isalnum() and text[start].isalnum())
    return begins and (end == len(text) or not (text[end - 1].isalnum() and text[end].isalnum()))


def _search(text: str, wanted: str, *, near: Offsets) -> Offsets | None:
    """Return the place of a string nearest to its stated one; None when it is far, absent, or twice as near."""
    first = max(0, near[0] - _NEAR)
    last = max(near[0], near[1]) + _NEAR
    found: list[int] = []
    position = text.find(wanted, first)
    while 0 <= position <= last:
        found.append(position)
        position = text.find(wanted, position + 1)
    whole = [start for start in found if _is_whole(text, start, start + len(wanted))]
    found = sorted(whole or found, key=lambda start: abs(start - near[0]))
    if not found or (len(found) > 1 and abs(found[0] - near[0]) == abs(found[1] - near[0])):
        return None
    return found[0], found[0] + len(wanted)
