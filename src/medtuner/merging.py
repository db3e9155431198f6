"""Several teams' annotations and MedMentions into one training file: labels mapped, duplicates joined, conflicts listed.

sources = [read_source("team_a=notes.pubtator", mapping, policy="refuse"), read_source("medmentions", mapping)]
merged = merge(sources, on_conflict="majority")
merged.documents, merged.conflicts
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medtuner.documents import Document, Offsets, Span, document_weight
from medtuner.duplicates import TextIndex, normalise
from medtuner.errors import DataError
from medtuner.labels import ANNOTATED_TYPES
from medtuner.sources import Source, refuse_same_names

OnConflict = Literal["majority", "priority", "union", "refuse"]
ON_CONFLICT: tuple[OnConflict, ...] = ("majority", "priority", "union", "refuse")
# Keys of documents that merging decides about itself.
_OF_MERGING = ("source", ANNOTATED_TYPES, "annotator", "weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A place that sources of one text annotate differently: what each has there, and what was kept."""

    document: str
    start: int
    end: int
    votes: Mapping[str, Sequence[str]]
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The merged documents, conflicts between sources, near-duplicates left side by side, and what joining dropped."""

    documents: Sequence[Document]
    conflicts: Sequence[Conflict]
    near: Sequence[tuple[str, str]]
    joined: int
    joined_ids: Sequence[Sequence[str]]
    dropped: Mapping[str, int]


def merge(sources: Sequence[Source], *, on_conflict: OnConflict = "majority") -> Merged:
    """Join documents of equal text (up to white space) into one; others stand side by side with ids of their own.

    Raises `DataError` for two sources of one name, and under ``refuse`` at the first conflict.
    """
    refuse_same_names([source.name for source in sources])
    groups: dict[str, list[Document]] = defaultdict(list)
    for source in sources:
        for document in source.documents:
            groups[normalise(document.text)].append(document)
    dropped: Counter[str] = Counter()
    found: list[list[Conflict]] = [[] for _ in groups]
    pairs = zip(groups.values(), found, strict=True)
    documents = name_apart([_join(group, on_conflict, own, dropped) for group, own in pairs])
    conflicts = [replace(row, document=one.id) for one, own in zip(documents, found, strict=True) for row in own]
    joined = sum(len(group) - 1 for group in groups.values())
    return Merged(
        documents=documents,
        conflicts=conflicts,
        near=TextIndex(documents).near_pairs(),
        joined=joined,
        joined_ids=[
            [f"{row.extra['source']}/{row.id}" for row in group] for group in groups.values() if len(group) > 1
        ],
        dropped=+dropped,
    )


def name_apart(documents: Sequence[Document]) -> list[Document]:
    """Give each document an id that no other has; only one source's versions of one text, by annotator, share theirs."""
    owners: dict[str, tuple[str, str]] = {}
    taken: set[tuple[str, str]] = set()
    apart: list[Document] = []
    for document in documents:
        annotator = str(document.extra.get("annotator", ""))
        owner = str(document.extra["source"]), document.text
        name, number = document.id, 1
        while owners.get(name, owner) != owner or (name, annotator) in taken:
            name = f"{document.extra['source']}/{document.id}" + (f"#{number}" if number > 1 else "")
            number += 1
        owners[name] = owner
        taken.add((name, annotator))
        apart.append(replace(document, id=name))
    return apart


def _join(
    group: Sequence[Document], on_conflict: OnConflict, conflicts: list[Conflict], dropped: Counter[str]
) -> Document:
    """Make one document of several with equal text: offsets are those of the first, the weight is the largest."""
    first = group[0]
    if len(group) == 1:
        return first
    voters = _name_voters(group)
    looked_for = {
        voter: {label for version in versions for label in version.extra[ANNOTATED_TYPES]}
        for voter, versions in voters.items()
    }
    votes: dict[tuple[Offsets, str], list[str]] = defaultdict(list)
    spans: dict[tuple[Offsets, str], Span] = {}
    for voter, version in ((voter, version) for voter, versions in voters.items() for version in versions):
        places = _Places(version, first)
        for span in version.spans:
            moved = places.move(span)
            for label in span.labels:
                key = (moved.start, moved.end), label
                if voter not in votes[key]:
                    votes[key].append(voter)
                known = spans.setdefault(key, moved)
                if known.extra != moved.extra or known.fragments != moved.fragments:
                    dropped["keys or fragments of a mention that another source has too"] += 1
    kept: dict[Offsets, list[str]] = defaultdict(list)
    for (place, label), found_by in sorted(votes.items()):
        electorate = [voter for voter in voters if label in looked_for[voter]]
        keep = _decide(found_by, electorate, on_conflict)
        if len(found_by) < len(electorate):
            if on_conflict == "refuse":
                others = ", ".join(voter for voter in electorate if voter not in found_by)
                raise DataError(
                    f"document {first.id}: {', '.join(found_by)} has {label} at {place[0]}-{place[1]}, {others} has not. "
                    "Settle it in the files, or choose --on-conflict majority, priority or union."
                )
            table = {voter: [label] if voter in found_by else [] for voter in electorate}
            conflicts.append(Conflict(document=first.id, start=place[0], end=place[1], votes=table, kept=keep))
        if keep:
            kept[place].append(label)
    merged = [replace(spans[place, labels[0]], labels=tuple(labels)) for place, labels in sorted(kept.items())]
    dropped.update(_lost_keys(group, [[spans[place, label] for label in labels] for place, labels in kept.items()]))
    annotated = sorted(set().union(*looked_for.values()))
    source = "+".join(dict.fromkeys(str(document.extra["source"]) for document in group))
    extra: dict[str, Any] = {**first.extra, "source": source, ANNOTATED_TYPES: annotated}
    extra.pop("annotator", None)
    weights = [document_weight(document) for document in group]
    extra.pop("weight", None)
    if max(weights) != 1.0 or min(weights) != 1.0:
        extra["weight"] = max(weights)
    return replace(first, spans=tuple(merged), extra=extra)


def _lost_keys(group: Sequence[Document], mentions: Sequence[Sequence[Span]]) -> Counter[str]:
    """Count the keys that joining drops: of a mention's further labels, and of the documents after the first."""
    lost: Counter[str] = Counter()
    for spans in mentions:
        lost["keys of a further label of a mention"] += sum(bool(x.extra) and x.extra != spans[0].extra for x in spans)
    for document in group[1:]:
        for key, value in document.extra.items():
            if key not in _OF_MERGING and value != group[0].extra.get(key):
                lost[f"document key {key} of an equal text"] += 1
    return +lost


def _name_voters(group: Sequence[Document]) -> dict[str, list[Document]]:
    """Return documents by source, or by source and annotator; what one source has twice is one voter."""
    voters: dict[str, list[Document]] = defaultdict(list)
    for document in group:
        name = str(document.extra["source"])
        if "annotator" in document.extra:
            name = f"{name}/{document.extra['annotator']}"
        voters[name].append(document)
    return voters


def _decide(found_by: Sequence[str], electorate: Sequence[str], on_conflict: OnConflict) -> bool:
    """Say whether a label at a place stays: at least half of those who looked for it, the first of them, or anyone."""
    if on_conflict == "union":
        return True
    if on_conflict == "priority":
        return electorate[0] in found_by
    return 2 * len(found_by) >= len(electorate)


class _Places:
    """Carries offsets from one text to another that differs in white space only."""

    def __init__(self, source: Document, target: Document) -> None:
        self._id = source.id
        self._same = source.text == target.text
        if not self._same:
            self._rank = {place: rank for rank, place in enumerate(_solid(source.text))}
            self._target = _solid(target.text)

    def move(self, span: Span) -> Span:
        """Return the span with offsets of the target; mentions of white space alone have no place and raise `DataError`."""
        if self._same:
            return span
        fragments = tuple(self._move(place) for place in span.fragments)
        start, end = self._move((span.start, span.end))
        return replace(span, start=start, end=end, fragments=fragments)

    def _move(self, place: Offsets) -> Offsets:
        inside = [self._rank[position] for position in range(*place) if position in self._rank]
        if not inside:
            raise DataError(f"document {self._id}: a mention at {place[0]}-{place[1]} covers nothing but white space.")
        return self._target[inside[0]], self._target[inside[-1]] + 1


def _solid(text: str) -> list[int]:
    return [position for position, character in enumerate(text) if not character.isspace()]
