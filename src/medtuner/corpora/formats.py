"""The annotation formats by name: which reader and writer each has, and how a file's format is guessed.

intake = Intake(policy="repair")
for document in read_format(Path("team_a/"), intake): ...
write_format(Path("out.txt"), documents, name="pubtator")
"""

import functools
import itertools
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtuner.corpora.bioc_format import read_bioc_json, read_bioc_xml, write_bioc_json, write_bioc_xml
from medtuner.corpora.brat import read_brat, write_brat
from medtuner.corpora.cas import read_cas, write_cas
from medtuner.corpora.conll import read_conll, write_conll
from medtuner.corpora.docbin import read_docbin, write_docbin
from medtuner.corpora.intake import Intake
from medtuner.corpora.json_tools import (
    read_doccano,
    read_label_studio,
    read_predictions,
    read_prodigy,
    write_label_studio,
)
from medtuner.corpora.pubtator import read_pubtator, write_pubtator
from medtuner.corpora.tables import documents_from_rows, read_rows
from medtuner.corpora.tagged import rows_from_document
from medtuner.corpora.tagtog import ANNOTATIONS, TAGTOG_FILES, find_annotations, read_tagtog
from medtuner.corpora.texts import read_medline, read_text
from medtuner.corpora.webanno import read_webanno
from medtuner.documents import Document, document_from_json, open_text, read_json_lines, write_documents
from medtuner.errors import DataError, nearest

Read = Callable[[Path, Intake], Iterator[Document]]
Write = Callable[[Path, Iterable[Document]], Counter[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: its reader, and its writer if there is one; some are read by whole folders."""

    read: Read
    write: Write | None = None
    files: tuple[str, ...] = ()  # how the files end of a format that is read by whole folders


def _read_jsonl(path: Path, intake: Intake) -> Iterator[Document]:
    for where, record in read_json_lines(path):
        if "spans" not in record:  # another tool's key would pass for no mentions
            raise DataError(
                f"{where}: no key 'spans' among {', '.join(record)}. A document without mentions says \"spans\": []."
            )
        if intake.policy != "refuse" and isinstance(record["spans"], list):
            record["spans"] = list(_sound_spans(record, intake, where))
        yield intake.take(document_from_json(record, where=where), where)


def _sound_spans(record: Mapping[str, Any], intake: Intake, where: str) -> Iterator[Any]:
    """Yield the spans of a record that can be kept; the others are skipped and listed."""
    for span in record["spans"]:
        try:
            document_from_json({"id": record.get("id"), "text": record.get("text"), "spans": [span]}, where="")
        except DataError as error:
            intake.skip_mention(where, str(record.get("id")), str(error).removeprefix(": ").rstrip("."))
        else:
            yield span


def _write_jsonl(path: Path, documents: Iterable[Document]) -> Counter[str]:
    with path.open("w", encoding="utf-8") as stream:
        write_documents(stream, documents)
    return Counter()


def _read_hf(path: Path, intake: Intake) -> Iterator[Document]:
    for document, mended in documents_from_rows(path.name, read_rows(path), "begin"):
        intake.mended.update(mended)
        yield intake.take(document, str(path))


def _write_hf(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write `id`, `tokens` and `ner_tags`, a row a sentence: JSON Lines, or parquet by the suffix."""
    left_out: Counter[str] = Counter()
    rows = (
        {"id": name, "tokens": words, "ner_tags": tags}
        for document in documents
        for name, words, tags in rows_from_document(document, left_out)
    )
    if path.suffix == ".parquet":
        import pyarrow as arrow
        from pyarrow import parquet

        columns = [
            ("id", arrow.string()),
            ("tokens", arrow.list_(arrow.string())),
            ("ner_tags", arrow.list_(arrow.string())),
        ]
        schema = arrow.schema(columns)
        with parquet.ParquetWriter(path, schema) as writer:
            for chunk in _chunks(rows, 1000):
                writer.write_table(arrow.Table.from_pylist(chunk, schema=schema))
        return +left_out
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return +left_out


def _chunks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


FORMATS: Mapping[str, Format] = {
    "jsonl": Format(read=_read_jsonl, write=_write_jsonl),
    "pubtator": Format(read=read_pubtator, write=write_pubtator),
    "brat": Format(read=read_brat, write=write_brat, files=(".ann", ".txt")),
    "bioc-xml": Format(read=read_bioc_xml, write=write_bioc_xml),
    "bioc-json": Format(read=read_bioc_json, write=write_bioc_json),
    "conll": Format(read=read_conll, write=write_conll),
    "webanno-tsv": Format(read=read_webanno),
    "cas": Format(read=read_cas, write=write_cas, files=(".xmi", ".json", ".xml")),
    "label-studio": Format(read=read_label_studio, write=write_label_studio),
    "label-studio-predictions": Format(
        read=read_predictions, write=functools.partial(write_label_studio, predictions=True)
    ),
    "doccano": Format(read=read_doccano),
    "prodigy": Format(read=read_prodigy),
    "tagtog": Format(read=read_tagtog, files=TAGTOG_FILES),
    "hf": Format(read=_read_hf, write=_write_hf),
    "docbin": Format(read=read_docbin, write=write_docbin),
    "text": Format(read=read_text, files=(".txt", ".txt.gz")),
    "medline": Format(read=read_medline),
}
_BY_KEYS: Sequence[tuple[str, Callable[[Mapping[str, Any]], bool]]] = (
    ("hf", lambda record: "ner_tags" in record),
    ("cas", lambda record: "%FEATURE_STRUCTURES" in record),
    ("bioc-json", lambda record: "documents" in record),
    ("label-studio", lambda record: isinstance(record.get("data"), dict)),
    ("prodigy", lambda record: bool(record.keys() & {"_input_hash", "_task_hash", "answer"})),
    ("jsonl", lambda record: {"text", "spans"} <= record.keys()),
    ("doccano", lambda record: bool(record.keys() & {"labels", "label", "annotations", "entities"})),
    ("jsonl", lambda record: "text" in record),
)
_BY_TEXT = (
    ("cas", r'"%(FEATURE_STRUCTURES|TYPES)"'),
    ("bioc-json", r'"passages"'),
    ("hf", r'"ner_tags"'),
    ("label-studio", r'"(completions|annotations|predictions|from_name|labels?)"'),
)
_HEAD_LINES = 2000
# What may lie in a folder of annotations without being annotations.
_BESIDE = re.compile(r"(?i)readme.*|label_config\.json|.*\.ledger\.json|.*\.conf|guidelines.*")
_TAG = re.compile(r"\S.*[\t ](O|[BIESLU]-\S+)\s*")


def find_format(name: str) -> Format:
    """Return a format by its name."""
    if name not in FORMATS:
        raise DataError(f"no format {name!r}.{nearest(name, FORMATS)} Formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def read_format(path: Path, intake: Intake, *, name: str = "") -> Iterator[Document]:
    """Yield the documents of a file or folder; without a name the format is guessed."""
    name = name or guess_annotation_format(path)
    found = find_format(name)
    if path.is_dir() and not found.files:
        for file in _files(path):
            yield from found.read(file, intake)
        return
    if path.is_dir():
        others = [file for file in _files(path) if not file.name.endswith(found.files)]
        intake.left_out.update(f"file of another kind ({file.suffix or file.name})" for file in others)
    yield from found.read(path, intake)


def write_format(path: Path, documents: Iterable[Document], *, name: str) -> Counter[str]:
    """Write documents in a format and return what it could not keep."""
    write = find_format(name).write
    if write is None:
        writable = ", ".join(key for key, one in FORMATS.items() if one.write)
        raise DataError(f"format {name!r} can be read but not written. Written can be: {writable}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, documents)


def refuse_compressed(path: Path) -> None:
    """Raise `DataError` for a file to write whose name promises compression: no writer compresses."""
    if path.suffix == ".gz":
        raise DataError(f"{path}: files are written without compression. Name {path.with_suffix('')}, then gzip it.")


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    files = [file for file in files if not _BESIDE.fullmatch(file.name)]
    if not files:
        raise DataError(f"{folder}: no files in it.")
    return files


def guess_annotation_format(path: Path) -> str:
    """Return a format's name from the content and the suffix of a file, or of every file in a folder.

    Raises `DataError` when a folder mixes formats or a file shows none.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file (looked from {Path.cwd()}). A source is a file, a folder, 'medmentions-zs', or "
            "'hub:owner/dataset'."
        )
    if not path.is_dir():
        return _guess_file(path)
    if find_annotations(path):
        return "tagtog"
    if any(path.rglob("*.ann")):
        return "brat"
    if any(path.rglob("*.xmi")):
        return "cas"
    guesses = {file: _guess_file(file) for file in _files(path)}
    names = sorted(set(guesses.values()))
    if len(names) > 1:
        examples = "; ".join(
            f"{next(file for file, guess in guesses.items() if guess == name)} is {name}" for name in names
        )
        raise DataError(
            f"{path}: mixed formats: {examples}. Put each into a folder of its own, or name one with --from."
        )
    return names[0]


def _guess_file(path: Path) -> str:
    if path.name.removesuffix(".gz").endswith(ANNOTATIONS):
        return "tagtog"
    if zipfile.is_zipfile(path):
        raise DataError(f"{path}: a zip archive. Unpack it, then name its folder.")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    by_suffix = {".spacy": "docbin", ".xmi": "cas", ".ann": "brat", ".parquet": "hf"}
    if suffix in by_suffix:
        return by_suffix[suffix]
    head = _read_head(path)
    if head.lstrip()[:1] in ("{", "["):
        guess = _guess_json(head, path)
    else:
        guess = _guess_xml(head) if "<" in head[:200] else _guess_lines(head)
    if not guess and suffix == ".txt":
        guess = "text"
    if not guess:
        raise DataError(
            f"{path}: its format is not known by its content{_keys(head)}. Name it (--from, or data.format): "
            f"{', '.join(FORMATS)}."
        )
    return guess


def _keys(head: str) -> str:
    """Say which keys the first JSON object of a file has."""
    try:
        record = json.loads(head.lstrip().partition("\n")[0])
    except (ValueError, RecursionError):
        return ""
    return f" (found the keys {', '.join(record)})" if isinstance(record, dict) else ""


def _read_head(path: Path) -> str:
    lines: list[str] = []
    with open_text(path) as stream:
        for line in stream:
            lines.append(line)
            if len(lines) == _HEAD_LINES:
                break
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: empty file.")
    return "".join(lines)


def _guess_xml(head: str) -> str:
    if re.search(r"<(PubmedArticleSet|MedlineCitationSet|PubmedArticle)\b", head):
        return "medline"
    return "bioc-xml" if re.search(r"<collection\b", head) else _guess_lines(head)


def _guess_json(head: str, path: Path) -> str:
    """Guess from the first record: the object of the first line, the whole one, or the first of an array."""
    head = head.lstrip()
    is_array = head.startswith("[")
    try:
        record, _ = json.JSONDecoder().raw_decode(head[1:].lstrip() if is_array else head)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):  # a record too long for the head: its keys are looked for in the text
        return next((name for name, pattern in _BY_TEXT if re.search(pattern, head)), "")
    if is_array and _is_json_min(record):
        return "label-studio"
    name = next((name for name, fits in _BY_KEYS if fits(record)), "")
    if is_array and name in ("jsonl", "doccano", "prodigy"):
        raise DataError(
            f"{path}: an array of {name} records, which are read as JSON Lines: write one object a line. jq does it: "
            f"jq -c '.[]' {path.name}"
        )
    return name


def _is_json_min(record: Mapping[str, Any]) -> bool:
    """Say whether a record is Label Studio's JSON-MIN: its own keys, or lists of places with labels."""
    rows = [row for value in record.values() if isinstance(value, list) for row in value]
    return "annotation_id" in record or any(isinstance(row, dict) and {"start", "labels"} <= row.keys() for row in rows)


def _guess_lines(head: str) -> str:
    lines = [line.rstrip("\r") for line in head.split("\n")[:50] if line.strip()]
    if lines[0].startswith("#FORMAT=WebAnno TSV 3"):
        return "webanno-tsv"
    if re.match(r"[^|\t]+\|t\|", lines[0]):
        return "pubtator"
    rows = [line for line in lines if not line.startswith(("#", "-DOCSTART-"))]
    return "conll" if rows and all(_TAG.fullmatch(row) for row in rows) else ""
