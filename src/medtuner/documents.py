"""The one record every part of medtuner reads and writes: a `Document` with its `Span`s.

Offsets are half-open, in Unicode code points of the original text. The file form is JSON Lines, one document a line::

    {"id": "25763772", "text": "DCTN4 in ...", "spans": [{"start": 0, "end": 5, "labels": ["T116", "T123"]}]}

Optional keys: `tokens` (word offsets) and `sentences` (their offsets) of a document; `fragments` (a discontinuous mention)
and `score` of a span. Any other key is kept as it came, so reading and writing loses nothing.

    >>> document = Document(id="1", text="Aspirin helps.", spans=(Span(start=0, end=7, labels=("T103",)),))
    >>> document_from_json(document_to_json(document), where="here") == document
    True
"""

import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from medtuner.errors import DataError

Offsets = tuple[int, int]
SENTENCES = "sentences"  # a document's key for the offsets of its sentences, where a tokeniser found them
SPAN_KEYS = frozenset({"start", "end", "labels", "score", "fragments"})
_SURROGATE = re.compile("[\ud800-\udfff]")
# Combining accents belong to the letter before them.
_WORD = re.compile(r"(?:\w[\u0300-\u036f]*)+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One annotation line: a half-open character range and the labels it carries."""

    start: int
    end: int
    labels: tuple[str, ...]
    score: float | None = None
    fragments: tuple[Offsets, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with its annotations; `tokens` are word offsets where the source gives them."""

    id: str
    text: str
    spans: tuple[Span, ...] = ()
    tokens: tuple[Offsets, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def find_words(document: Document) -> tuple[Offsets, ...]:
    """Return the document's `tokens`, else letter-and-digit runs and single other characters."""
    if document.tokens is not None:
        return document.tokens
    return tuple(match.span() for match in _WORD.finditer(document.text))


def document_weight(document: Document) -> float:
    """Return how much a document counts in the loss: its key `weight`, 1 without it."""
    weight = document.extra.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise DataError(f"document {document.id}: 'weight' = {weight!r} must be a number from 0 on.")
    return float(weight)


def read_documents(path: Path) -> Iterator[Document]:
    """Read Document JSON Lines (`.gz` too), one document at a time; errors name file and line."""
    for where, record in read_json_lines(path):
        yield document_from_json(record, where=where)


def write_documents(stream: IO[str], documents: Iterable[Document]) -> int:
    """Write documents as JSON Lines to an open text stream and return how many."""
    count = 0
    for document in documents:
        stream.write(json.dumps(document_to_json(document), ensure_ascii=False) + "\n")
        count += 1
    return count


def hash_documents(documents: Iterable[Document]) -> str:
    """Return the hex SHA-256 over the JSON lines of documents, in their order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document_to_json(document), ensure_ascii=False, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file:line", object)`` for each line that is not blank."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{where}: not JSON ({error.msg} at column {error.colno}). Each line must be one object."
                ) from None
            except (RecursionError, ValueError) as error:  # too deep, or a number too long
                raise DataError(f"{where}: not readable as JSON ({error}).") from None
            if not isinstance(record, dict):
                raise DataError(f"{where}: found {type(record).__name__}; each line must be one JSON object.")
            yield where, cast(dict[str, Any], record)


def load_json(path: Path) -> Any:
    """Read a JSON file whole; errors name file and line."""
    with open_text(path) as stream:
        content = "".join(stream)
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from None
    except (RecursionError, ValueError) as error:  # too deep, or a number too long
        raise DataError(f"{path}: not readable as JSON ({error}).") from None


class _Utf8Lines:
    """Lines of a UTF-8 text file whose encoding and compression faults name the file and the line."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream

    def __enter__(self) -> "_Utf8Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[str]:
        number = 0
        try:
            for number, line in enumerate(self._stream, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._path}:{number}: not UTF-8 (byte {error.start} of the line). Convert the file to UTF-8."
            ) from None
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{self._path}: after line {number}: {error}. The file is damaged or cut short.") from None


def open_text(path: Path) -> _Utf8Lines:
    """Open a UTF-8 text file, gzipped or plain, for reading line by line."""
    if not path.is_file():
        what = "is a folder, a file is needed" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what} (looked from {Path.cwd()}).")
    stream = cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 (closed by _Utf8Lines)
    return _Utf8Lines(path, stream)


def is_broken(text: str) -> bool:
    """Say whether a string holds half a surrogate pair, which no file can keep."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def refuse_broken(identifier: str, text: str, *, where: str) -> None:
    """Raise `DataError` for a document that no file can keep."""
    if is_broken(text) or is_broken(identifier):
        raise DataError(f"{where}: half a surrogate pair (a cut emoji, say) in the text or the id. Mend or remove it.")


def document_to_json(document: Document) -> dict[str, Any]:
    """Return the JSON object of a document; keys of `extra` stand beside the known ones."""
    record: dict[str, Any] = {"id": document.id, "text": document.text}
    record["spans"] = [_span_to_json(span) for span in document.spans]
    if document.tokens is not None:
        record["tokens"] = [list(token) for token in document.tokens]
    return record | dict(document.extra)


def _span_to_json(span: Span) -> dict[str, Any]:
    record: dict[str, Any] = {"start": span.start, "end": span.end, "labels": list(span.labels)}
    if span.score is not None:
        record["score"] = span.score
    if span.fragments:
        record["fragments"] = [list(fragment) for fragment in span.fragments]
    return record | dict(span.extra)


def document_from_json(record: Mapping[str, Any], *, where: str) -> Document:
    """Check one JSON object and build its `Document`; `where` (file:line) opens every error."""
    rest = dict(record)
    text = rest.pop("text", None)
    if not isinstance(text, str):
        raise DataError(f"{where}: key 'text' must be a string; found {type(text).__name__}.")
    identifier = rest.pop("id", None)
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise DataError(f"{where}: key 'id' must be a string; found {type(identifier).__name__}.")
    refuse_broken(str(identifier), text, where=where)
    where = f"{where}: document {identifier}"
    spans = rest.pop("spans", [])
    if not isinstance(spans, list):
        raise DataError(f"{where}: key 'spans' must be a list; found {type(spans).__name__}.")
    tokens = rest.pop("tokens", None)
    if SENTENCES in rest:
        _check_tokens(rest[SENTENCES], len(text), where=where, name=SENTENCES)
    return Document(
        id=str(identifier),
        text=text,
        spans=tuple(_span_from_json(span, len(text), where=where) for span in spans),
        tokens=None if tokens is None else _check_tokens(tokens, len(text), where=where),
        extra=rest,
    )


def _span_from_json(record: Any, text_length: int, *, where: str) -> Span:
    if not isinstance(record, dict):
        raise DataError(f"{where}: a span must be an object with start, end and labels.")
    rest = cast(dict[str, Any], dict(record))
    start, end = _check_offsets((rest.pop("start", None), rest.pop("end", None)), text_length, where=f"{where}: span")
    labels = rest.pop("labels", None)
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(x, str) and x and not is_broken(x) for x in labels)
    ):
        raise DataError(f"{where}: span {start}-{end}: 'labels' must be a list of at least one non-empty string.")
    score = rest.pop("score", None)
    if score is not None and (not isinstance(score, int | float) or isinstance(score, bool) or abs(score) > 1e9):
        raise DataError(f"{where}: span {start}-{end}: 'score' must be a number; found {str(score)[:20]!r}.")
    fragments = rest.pop("fragments", [])
    if not isinstance(fragments, list):
        raise DataError(f"{where}: span {start}-{end}: 'fragments' must be a list of [start, end] pairs.")
    return Span(
        start=start,
        end=end,
        labels=tuple(cast(list[str], labels)),
        score=None if score is None else float(score),
        fragments=tuple(_check_offsets(f, text_length, where=f"{where}: fragment") for f in fragments),
        extra=rest,
    )


def _check_offsets(pair: Any, text_length: int, *, where: str) -> Offsets:
    if not isinstance(pair, list | tuple) or len(cast(Sequence[Any], pair)) != 2:
        raise DataError(f"{where}: {pair!r} is not a [start, end] pair.")
    start, end = cast(Sequence[Any], pair)
    if type(start) is not int or type(end) is not int:
        raise DataError(f"{where}: start and end must be whole numbers; found {start!r} and {end!r}.")
    if not 0 <= start < end <= text_length:
        raise DataError(
            f"{where} {start}-{end}: offsets must satisfy 0 <= start < end <= {text_length}, the length of the text."
        )
    return start, end


def _check_tokens(tokens: Any, text_length: int, *, where: str, name: str = "tokens") -> tuple[Offsets, ...]:
    if not isinstance(tokens, list):
        raise DataError(f"{where}: {name!r} must be a list of [start, end] pairs.")
    one = name.removesuffix("s")
    checked = tuple(_check_offsets(t, text_length, where=f"{where}: {one}") for t in tokens)
    for before, after in itertools.pairwise(checked):
        if after[0] < before[1]:
            raise DataError(f"{where}: {one} {after[0]}-{after[1]} begins before {one} {before[0]}-{before[1]} ends.")
    return checked
