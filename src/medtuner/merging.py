"""Several teams' annotations and MedMentions into one training file: labels mapped, duplicates joined, conflicts listed.

    sources = [read_source("team_a=notes.pubtator", mapping, policy="refuse"), read_source("medmentions", mapping)]
    merged = merge(sources, on_conflict="majority")
    merged.documents, merged.conflicts

The mapping is a TOML file; each of its tables and keys may be absent::

    [labels.team_a]                  # names, abbreviations or TUIs to TUIs; "" leaves a label out, counted
    Disease = "T047"
    [annotated]                      # the types a source looked for; else those that occur in it
    team_a = ["T047", "T121"]
    [weights]                        # how much a source counts in the loss; 1 by default
    team_a = 2.0

Every merged document keeps its `source`, and `annotated_types`, by which training knows what the absence of a mention
means.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medtuner import semantic_network
from medtuner.corpora import EMBEDDED, is_dataset, load_corpus
from medtuner.corpora.formats import read_format
from medtuner.corpora.intake import Intake, Policy
from medtuner.documents import Document, Offsets, Span
from medtuner.duplicates import TextIndex, normalise
from medtuner.errors import ConfigError, DataError, nearest
from medtuner.labels import ANNOTATED_TYPES

OnConflict = Literal["majority", "priority", "union", "refuse"]
ON_CONFLICT: tuple[OnConflict, ...] = ("majority", "priority", "union", "refuse")
_SECTIONS = ("labels", "annotated", "weights")
_SHAPES = {
    "labels": 'must be a table of labels and TUIs, as [labels.team_a] Disease = "T047"',
    "annotated": 'must be a list of types, as team_a = ["T047"]',
    "weights": "must be a number from 0 on, as team_a = 2.0",
}
_FITS: Mapping[str, Callable[[Any], bool]] = {
    "labels": lambda value: isinstance(value, dict) and all(isinstance(tui, str) for tui in value.values()),
    "annotated": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "weights": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value >= 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapping:
    """What the mapping file says: labels by source, annotated types by source, weights by source."""

    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    annotated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The documents of one team, their labels mapped, and the account of reading them."""

    name: str
    documents: Sequence[Document]
    annotated: tuple[str, ...]
    intake: Intake
    left_out: Counter[str]


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
    dropped: Mapping[str, int]


def read_mapping(path: Path) -> LabelMapping:
    """Read a mapping file, refusing sections that mean nothing."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such mapping file (looked from {Path.cwd()}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}.") from None
    for section in table:
        if section not in _SECTIONS:
            hint = nearest(section, _SECTIONS)
            raise ConfigError(f"{path}: unknown section [{section}].{hint} Valid: {', '.join(_SECTIONS)}.")
    for section, rows in table.items():
        for source, value in rows.items() if isinstance(rows, dict) else [("", rows)]:
            if not _FITS[section](value):
                raise ConfigError(f"{path}: {section}.{source} = {value!r}: {_SHAPES[section]}.")
    return LabelMapping(**table)


def check_names(mapping: LabelMapping, names: Sequence[str], path: Path | None) -> None:
    """Refuse a mapping that speaks of a source there is none of: a misspelt name would map nothing, silently."""
    for section, rows in (("labels", mapping.labels), ("annotated", mapping.annotated), ("weights", mapping.weights)):
        for name in rows:
            if name not in names:
                hint = nearest(name, names)
                raise ConfigError(
                    f"{path}: {section}.{name}: no source of this name.{hint} Sources: {', '.join(names)}."
                )


def read_source(spec: str, mapping: LabelMapping, *, policy: Policy = "refuse") -> Source:
    """Read ``NAME=PATH``, a path (named by its file) or ``medmentions``, and map its labels."""
    name = source_name(spec)
    path = spec.partition("=")[2] or spec
    path = EMBEDDED if path == "medmentions" else path
    intake = Intake(policy)
    if is_dataset(path):
        documents = [intake.take(document, path) for document in load_corpus(path).documents]
    else:
        documents = list(read_format(Path(path), intake))
    if not documents:
        raise DataError(f"{path}: no documents in it.")
    left_out: Counter[str] = Counter()
    if (table := mapping.labels.get(name)) is not None:
        documents = [_map_labels(document, table, name, left_out) for document in documents]
    seen = {label for document in documents for span in document.spans for label in span.labels}
    annotated = tuple(sorted(mapping.annotated.get(name, seen)))
    if missing := sorted(seen - set(annotated)):
        raise DataError(f"source {name}: it has mentions of {', '.join(missing)}, which [annotated] does not list.")
    weight = mapping.weights.get(name, 1.0)
    documents = [mark(document, name, annotated, weight) for document in documents]
    return Source(name=name, documents=documents, annotated=annotated, intake=intake, left_out=left_out)


def hold_out(source: Source, share: float) -> tuple[Source, Sequence[Document]]:
    """Return a source without its last documents, and these: in their order, so that neighbours stay on one side.

    Versions of one document by several annotators are not parted. Raises `DataError` when one side would be empty.
    """
    cut = round(len(source.documents) * (1 - share))
    while 0 < cut < len(source.documents) and source.documents[cut].id == source.documents[cut - 1].id:
        cut -= 1
    if not 0 < cut < len(source.documents):
        raise DataError(
            f"source {source.name}: {len(source.documents)} documents are too few to hold out {share:g} of."
        )
    return replace(source, documents=source.documents[:cut]), source.documents[cut:]


def source_name(spec: str) -> str:
    """Return the name of a source: NAME of ``NAME=PATH``, else its file's name without suffixes, or ``medmentions``."""
    name, equals, _ = spec.partition("=")
    if equals:
        return name
    return "medmentions" if is_dataset(spec) or spec == "medmentions" else _stem(spec)


def _stem(path: str) -> str:
    return Path(path).name.removesuffix(".gz").split(".")[0] or path


def _map_labels(document: Document, table: Mapping[str, str], source: str, left_out: Counter[str]) -> Document:
    spans: list[Span] = []
    for span in document.spans:
        mapped = {old: _map_label(old, table, source, document) for old in span.labels}
        left_out.update(f"label {old} is mapped to nothing" for old, new in mapped.items() if not new)
        if labels := tuple(dict.fromkeys(new for new in mapped.values() if new)):
            spans.append(replace(span, labels=labels))
    return replace(document, spans=tuple(spans))


def _map_label(label: str, table: Mapping[str, str], source: str, document: Document) -> str:
    """Return the TUI of a label: by the table, else the label itself where the semantic network knows it."""
    if label in table:
        return semantic_network.find(table[label]) if table[label] else ""
    try:
        return semantic_network.find(label)
    except DataError:
        raise DataError(
            f"source {source}: document {document.id}: label {label!r} is not in [labels.{source}] and no TUI, name or "
            f'abbreviation of the semantic network.{nearest(label, table)} `medtuner labels` lists them; map it to "" to '
            "leave it out."
        ) from None


def mark(document: Document, source: str, annotated: Sequence[str], weight: float = 1.0) -> Document:
    """Write into a document where it comes from and what its annotators looked for."""
    extra = {**document.extra, "source": source, ANNOTATED_TYPES: list(annotated)}
    return replace(document, extra=extra | ({"weight": weight} if weight != 1.0 else {}))


def merge(sources: Sequence[Source], *, on_conflict: OnConflict = "majority") -> Merged:
    """Join documents of equal text (up to white space) into one; others stand side by side with ids of their own.

    Raises `DataError` for two sources of one name, and under ``refuse`` at the first conflict.
    """
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two sources are named {twice!r}; name them, as TEAM=PATH.")
    groups: dict[str, list[Document]] = defaultdict(list)
    for source in sources:
        for document in source.documents:
            groups[normalise(document.text)].append(document)
    conflicts: list[Conflict] = []
    dropped: Counter[str] = Counter()
    documents = name_apart([_join(group, on_conflict, conflicts, dropped) for group in groups.values()])
    joined = sum(len(group) - 1 for group in groups.values())
    return Merged(
        documents=documents, conflicts=conflicts, near=TextIndex(documents).near_pairs(), joined=joined, dropped=dropped
    )


def name_apart(documents: Sequence[Document]) -> list[Document]:
    """Give each document an id that no other has; versions of several annotators share theirs."""
    taken: set[tuple[str, str]] = set()
    apart: list[Document] = []
    for document in documents:
        annotator = str(document.extra.get("annotator", ""))
        name, number = document.id, 1
        while (name, annotator) in taken:
            name = f"{document.extra['source']}/{document.id}" + (f"#{number}" if number > 1 else "")
            number += 1
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
    annotated = sorted(set().union(*looked_for.values()))
    source = "+".join(dict.fromkeys(str(document.extra["source"]) for document in group))
    extra: dict[str, Any] = {**first.extra, "source": source, ANNOTATED_TYPES: annotated}
    extra.pop("annotator", None)
    weights = [float(document.extra.get("weight", 1.0)) for document in group]
    extra.pop("weight", None)
    if max(weights) != 1.0 or min(weights) != 1.0:
        extra["weight"] = max(weights)
    return replace(first, spans=tuple(merged), extra=extra)


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
            raise DataError(f"a mention at {place[0]}-{place[1]} covers nothing but white space.")
        return self._target[inside[0]], self._target[inside[-1]] + 1


def _solid(text: str) -> list[int]:
    return [position for position, character in enumerate(text) if not character.isspace()]
