"""WebAnno TSV 3, the tab-separated export of WebAnno and INCEpTION.

    #FORMAT=WebAnno TSV 3.3
    #T_SP=de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity|identifier|value
    #Text=Aspirin helps .
    1-1	0-7	Aspirin	http://...	T121

Span layers other than the linguistic core's are read; relations and chains are counted as left out. A mention of
several words bears one number in all of them (``T121[3]``), several at one word are divided by ``|``, and ``_`` is
none. Offsets count UTF-16 units (the INCEpTION user guide, appendix "WebAnno TSV 3.3"); white space between words is
taken to be blanks.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medtuner.corpora.cas import is_mention_layer
from medtuner.corpora.intake import Intake, Mention
from medtuner.documents import Document, open_text
from medtuner.errors import DataError

_LABEL_FEATURES = ("value", "label", "entity")
_NUMBERED = re.compile(r"(.*?)(?:\[(\d+)\])?", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)")
_BETWEEN_VALUES = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the header: which columns are its features."""

    name: str
    features: tuple[str, ...]
    first_column: int
    is_span: bool


@dataclass(slots=True)
class _Annotation:
    """One annotation while its words are read."""

    start: int
    end: int
    where: str
    features: dict[str, str] = field(default_factory=dict)


def read_webanno(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the one document of a WebAnno TSV 3 file."""
    layers: list[_Layer] = []
    words: list[tuple[int, int, str]] = []
    found: dict[tuple[int, str], _Annotation] = {}
    with open_text(path) as stream:
        for number, raw in enumerate(stream, 1):
            line, where = raw.rstrip("\r\n"), f"{path}:{number}"
            if number == 1 and not line.startswith("#FORMAT=WebAnno TSV 3"):
                raise DataError(f"{where}: no '#FORMAT=WebAnno TSV 3' in the first line.")
            if line.startswith("#T_"):
                layers.append(_read_layer(line, layers))
            elif line.strip() and not line.startswith("#"):
                _read_word(line, where, layers, words, found)
    text, to_points = _join(words, path)
    for layer in layers:
        if not (layer.is_span and is_mention_layer(layer.name)):
            intake.left_out[f"layer {layer.name.rpartition('.')[2]}"] += sum(
                key[0] == layer.first_column for key in found
            )
    mentions = [
        _to_mention(annotation, layer, to_points)
        for layer in layers
        if layer.is_span and is_mention_layer(layer.name)
        for (column, _), annotation in found.items()
        if column == layer.first_column
    ]
    tokens = tuple((to_points[start], to_points[end]) for start, end, _ in words)
    mentions.sort(key=lambda mention: mention.fragments)
    yield intake.document(
        path.name.removesuffix(".gz").rpartition(".")[0], text, mentions, where=str(path), tokens=tokens
    )


def _read_layer(line: str, layers: list[_Layer]) -> _Layer:
    kind, _, rest = line.partition("=")
    name, *features = rest.split("|")
    first = 3 + sum(max(1, len(layer.features)) for layer in layers)
    return _Layer(name=name, features=tuple(features), first_column=first, is_span=kind == "#T_SP")


def _read_word(
    line: str,
    where: str,
    layers: list[_Layer],
    words: list[tuple[int, int, str]],
    found: dict[tuple[int, str], _Annotation],
) -> None:
    columns = line.split("\t")
    place = re.fullmatch(r"(\d+)-(\d+)", columns[1]) if len(columns) > 2 else None
    if place is None:
        raise DataError(f"{where}: no line of number, offsets and word divided by tabs.")
    start, end = int(place[1]), int(place[2])
    if "." not in columns[0]:  # 1-1.1 is a part of word 1-1, for mentions that end inside it
        words.append((start, end, _ESCAPE.sub(r"\1", columns[2])))
    for layer in layers:
        for offset, feature in enumerate(layer.features or ("",)):
            column = layer.first_column + offset
            cell = columns[column] if column < len(columns) else "_"
            if cell in ("_", ""):
                continue
            for index, value in enumerate(_BETWEEN_VALUES.split(cell)):
                numbered = _NUMBERED.fullmatch(value)
                assert numbered is not None
                key = layer.first_column, numbered[2] or f"{columns[0]}/{index}"
                annotation = found.setdefault(key, _Annotation(start, end, where))
                annotation.start, annotation.end = min(annotation.start, start), max(annotation.end, end)
                if numbered[1] not in ("*", "_"):
                    annotation.features[feature] = _ESCAPE.sub(r"\1", numbered[1])


def _join(words: list[tuple[int, int, str]], path: Path) -> tuple[str, dict[int, int]]:
    """Return the text, and where each UTF-16 offset of a word's border lies in it."""
    text, position = "", 0
    to_points: dict[int, int] = {}
    for start, end, word in words:
        if start < position or end - start != len(word.encode("utf-16-le")) // 2:
            raise DataError(f"{path}: the word at {start}-{end} does not fit its offsets.")
        text += " " * (start - position)
        to_points[start] = len(text)
        text += word
        to_points[end] = len(text)
        position = end
    return text, to_points


def _to_mention(annotation: _Annotation, layer: _Layer, to_points: dict[int, int]) -> Mention:
    features = {name: value for name, value in annotation.features.items() if name}
    label = next((features.pop(name) for name in _LABEL_FEATURES if name in features), layer.name.rpartition(".")[2])
    if "identifier" in features:
        features["concept"] = features.pop("identifier")
    places = [to_points.get(annotation.start, -1), to_points.get(annotation.end, -1)]
    return Mention(
        fragments=((places[0], places[1]),),
        labels=tuple(part.strip() for part in label.split(",")),
        where=annotation.where,
        extra=features,
    )
