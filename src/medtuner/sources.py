"""What the teams hand in: sources read, their labels mapped, their types declared, their ends held out.

    source = read_source("team_a=notes.pubtator", read_mapping(Path("labels.toml")), policy="refuse")
    source, held_out = hold_out(source, 0.1)

The mapping is a TOML file; each of its tables and keys may be absent::

    [labels.team_a]                  # names, abbreviations or TUIs to TUIs; "" leaves a label out, counted
    Disease = "T047"
    [annotated]                      # the types a source looked for; else those that occur in it
    team_a = ["T047", "T121"]
    [weights]                        # how much a source counts in the loss; 1 by default
    team_a = 2.0

Every document gets its `source`, and `annotated_types`, by which training knows what the absence of a mention means.
"""

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medtuner import semantic_network
from medtuner.corpora import EMBEDDED, is_dataset, load_corpus
from medtuner.corpora.formats import read_format
from medtuner.corpora.intake import Intake, Policy
from medtuner.documents import Document, Span
from medtuner.duplicates import normalise
from medtuner.errors import ConfigError, DataError, nearest
from medtuner.labels import ANNOTATED_TYPES

_SECTIONS = ("labels", "annotated", "weights")
_SHAPES = {
    "labels": 'must be a table of labels and TUIs, as [labels.team_a] Disease = "T047"',
    "annotated": 'must be a list of types, as team_a = ["T047"]',
    "weights": "must be a number from 0 on, as team_a = 2.0",
}
_FITS: Mapping[str, Callable[[Any], bool]] = {
    "labels": lambda value: isinstance(value, dict) and all(isinstance(tui, str) for tui in value.values()),
    "annotated": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "weights": lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapping:
    """What the mapping file says: labels by source, annotated types by source, weights by source."""

    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    annotated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The documents of one team, their labels mapped, and the account of reading them.

    `unused` are labels of the mapping that no mention bears.
    """

    name: str
    documents: Sequence[Document]
    annotated: tuple[str, ...]
    intake: Intake
    left_out: Counter[str]
    unused: tuple[str, ...] = ()


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
    name, path = source_name(spec), source_path(spec)
    intake = Intake(policy)
    if is_dataset(path):
        documents = [intake.take(document, path) for document in load_corpus(path).documents]
    else:
        documents = list(read_format(Path(path), intake))
    if not documents:
        raise DataError(f"{path}: no documents in it.")
    left_out: Counter[str] = Counter()
    given = {label for document in documents for span in document.spans for label in span.labels}
    if (table := mapping.labels.get(name)) is not None:
        documents = [_map_labels(document, table, name, left_out) for document in documents]
    seen = {label for document in documents for span in document.spans for label in span.labels}
    annotated = tuple(sorted(_find_types(name, mapping.annotated[name], seen) if name in mapping.annotated else seen))
    unused = tuple(label for label in mapping.labels.get(name, {}) if label not in given)
    if missing := sorted(seen - set(annotated)):
        raise DataError(f"source {name}: it has mentions of {', '.join(missing)}, which [annotated] does not list.")
    weight = mapping.weights.get(name, 1.0)
    settled = name in mapping.annotated or name in mapping.labels
    documents = [
        # A merged file's documents know their teams and what these looked for.
        document
        if not settled and weight == 1.0 and {"source", ANNOTATED_TYPES} <= document.extra.keys()
        else mark(document, name, annotated, weight)
        for document in documents
    ]
    return Source(name=name, documents=documents, annotated=annotated, intake=intake, left_out=left_out, unused=unused)


def _find_types(source: str, names: Sequence[str], seen: set[str]) -> set[str]:
    """Return the types that a source declares, by TUI, name or abbreviation; a label of its own stays."""
    found: set[str] = set()
    for name in names:
        try:
            found.add(name if name in seen else semantic_network.find(name))
        except DataError as error:
            raise ConfigError(f"[annotated] {source}: {error}") from None
    return found


def hold_out(source: Source, share: float) -> tuple[Source, Sequence[Document]]:
    """Return a source without its last documents, and these: in their order, so that neighbours stay on one side.

    Versions of one document by several annotators are not parted. Raises `DataError` when one side would be empty.
    """
    groups = _group_versions(source.documents)
    cut = round(len(groups) * (1 - share))
    if not 0 < cut < len(groups):
        raise DataError(
            f"source {source.name}: {len(source.documents)} documents are too few to hold out {share:g} of."
        )
    kept, held_out = ([document for group in part for document in group] for part in (groups[:cut], groups[cut:]))
    return replace(source, documents=kept), held_out


def _group_versions(documents: Sequence[Document]) -> list[list[Document]]:
    """Return documents in groups that share an id or a text, in the order of their first ones."""
    group_of: dict[str, list[Document]] = {}
    groups: list[list[Document]] = []
    for document in documents:
        names = (f"id {document.id}", f"text {normalise(document.text)}")
        group = next((group_of[name] for name in names if name in group_of), None)
        if group is None:
            group = []
            groups.append(group)
        group.append(document)
        for name in names:
            group_of.setdefault(name, group)
    return groups


def source_name(spec: str) -> str:
    """Return the name of a source: NAME of ``NAME=PATH``, else its file's name without suffixes, or ``medmentions``."""
    name, equals, _ = spec.partition("=")
    if equals and not Path(spec).exists():
        return name
    return "medmentions" if is_dataset(spec) or spec == "medmentions" else _stem(spec)


def source_path(spec: str) -> str:
    """Return what a source is read from; ``medmentions`` is the embedded MedMentions-ZS."""
    path = spec if Path(spec).exists() else spec.partition("=")[2] or spec
    return EMBEDDED if path == "medmentions" else path


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


def refuse_same_names(names: Sequence[str]) -> None:
    """Raise `DataError` for two sources of one name: they would pass for one."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two sources are named {twice!r}; name them, as TEAM=PATH.")
