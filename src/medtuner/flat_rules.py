"""What flat BIO keeps of mentions that overlap, are discontinuous or bear several types: declared rules.

    rules = FlatRules(overlap="priority", priority=("T047",), several="specific")
    rules.order(spans)                    # who comes first keeps the place
    rules.place(span)                     # hull or first fragment; None: left out
    rules.pick(labels)                    # the one type to train on

What loses its place is entered in the ledger by the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medtuner import semantic_network
from medtuner.documents import Offsets, Span
from medtuner.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatRules:
    """The rules of a run.

    `overlap`: ``longest``, ``shortest``, or ``priority`` (types listed first win, then the longest). `several`:
    ``first`` as annotated, ``frequent`` (in training, by `counts`), or ``specific`` (deepest in the semantic network).
    `discontinuous`: ``hull``, ``first`` fragment, or ``drop``.
    """

    overlap: str = "longest"
    several: str = "first"
    discontinuous: str = "hull"
    priority: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def order(self, spans: Sequence[Span]) -> list[Span]:
        """Return mentions in the order in which they take their places."""
        sign = 1 if self.overlap == "shortest" else -1
        return sorted(spans, key=lambda span: (self._rank(span), sign * (span.end - span.start), span.start))

    def _rank(self, span: Span) -> int:
        if self.overlap != "priority":
            return 0
        ranks = [self.priority.index(label) for label in span.labels if label in self.priority]
        return min(ranks, default=len(self.priority))

    def place(self, span: Span) -> Offsets | None:
        """Return the characters a mention takes; None when it is to be left out for being discontinuous."""
        if not span.fragments or self.discontinuous == "hull":
            return span.start, span.end
        return span.fragments[0] if self.discontinuous == "first" else None

    def pick(self, labels: Sequence[str]) -> str:
        """Return the one of several types to train on; among equals the first."""
        if self.several == "frequent":
            return max(labels, key=lambda label: self.counts.get(label, 0))
        return max(labels, key=_depth) if self.several == "specific" else labels[0]


def _depth(label: str) -> int:
    """Return how deep a type lies in the semantic network; labels that are none of its types lie at 0."""
    try:
        return 1 + len(semantic_network.ancestors(semantic_network.find(label)))
    except DataError:
        return 0
