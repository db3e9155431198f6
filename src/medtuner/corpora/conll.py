"""CoNLL columns: one word a line, its tag in the last column, a blank line after each sentence.

    metformin	NN	B-T103
    helps	VBZ	O

Columns are divided by tabs or blanks, two to five of them; BIO (IOB2), IOB1, BIOES and BILOU are read. With further
columns of tags (nested mentions in layers, as in GENIA) every column of the last ones that holds nothing but tags is a
layer. `-DOCSTART-` lines and comments (``# id = ...``) begin a document; without them each sentence is one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from medtuner.corpora.intake import Intake, Mention
from medtuner.corpora.tagged import TagReport, detect_scheme, rows_from_document, spans_from_tags
from medtuner.corpora.unwritten import one_line
from medtuner.documents import Document, Offsets, open_text
from medtuner.errors import DataError

_TAG = re.compile(r"O|[BIESLU]-\S+")
_ID = re.compile(r"#\s*(?:id|doc_id|newdoc id|sent_id)\s*=\s*(\S+)")
_COMMENT = re.compile(r"#\s*[\w. ]+=")
_MAX_COLUMNS = 12

Rows = list[tuple[int, list[str]]]


def read_conll(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield one document for each sentence of a CoNLL file."""
    layers, chunks = _count_layers(path)
    intake.left_out["column of tags before the last, taken for chunks"] += chunks
    for index, (identifier, rows) in enumerate(_sentences(path)):
        yield _read_sentence(path, identifier or f"{path.name}/{index}", rows, layers, intake)


def _sentences(path: Path) -> Iterator[tuple[str, Rows]]:
    rows: Rows = []
    identifier = ""
    with open_text(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.rstrip("\r\n")
            if found := _ID.match(line):
                identifier = found[1]
            comment = line.startswith("#") and bool(_COMMENT.match(line) or not _TAG.fullmatch(line.split()[-1]))
            if not line.strip() or line.startswith("-DOCSTART-") or comment:
                if rows and not comment:
                    yield identifier, rows
                    rows, identifier = [], ""
                continue
            columns = line.split("\t") if "\t" in line else line.split(" ")
            if len(columns) > 1 and not columns[-1]:
                columns.pop()
            rows.append((number, columns))
    if rows:
        yield identifier, rows


def _count_layers(path: Path) -> tuple[int, int]:
    """Return how many of the last columns are layers of tags, and how many other columns of tags stand before them.

    Layers are all columns after the word, or else the last one alone: with other columns between (parts of speech), one of
    tags is the chunks of CoNLL-2000 and 2003, and no mentions.
    """
    layers, widest = _MAX_COLUMNS, 0
    for _, rows in _sentences(path):
        for number, columns in rows:
            width = 0
            while width < len(columns) - 1 and _TAG.fullmatch(columns[-1 - width]):
                width += 1
            if width == 0:
                raise DataError(
                    f"{path}:{number}: the last column holds no tag such as O, B-T047 or I-T047; a line is a word, perhaps "
                    "more columns, and its tag."
                )
            layers, widest = min(layers, width), max(widest, len(columns) - 1)
    return (layers, 0) if layers == widest else (1, layers - 1)


def _read_sentence(path: Path, identifier: str, rows: Rows, layers: int, intake: Intake) -> Document:
    tokens: list[Offsets] = []
    position = 0
    for number, columns in rows:
        if not columns[0].strip():
            raise DataError(f"{path}:{number}: an empty word.")
        tokens.append((position, position + len(columns[0])))
        position += len(columns[0]) + 1
    mentions: list[Mention] = []
    for layer in range(layers, 0, -1):
        tags = [columns[-layer] for _, columns in rows]
        report = TagReport(scheme=detect_scheme([tags]))
        for first, last, label in spans_from_tags(tags, report=report, where=f"{path}:{rows[0][0]}"):
            place = tokens[first][0], tokens[last][1]
            mentions.append(Mention(fragments=(place,), labels=(label,), where=f"{path}:{rows[first][0]}"))
        intake.mended.update(report.mended)
    text = " ".join(columns[0] for _, columns in rows)
    return intake.document(identifier, text, mentions, where=f"{path}:{rows[0][0]}", tokens=tuple(tokens))


def write_conll(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write word and BIO tag a line; return what flat BIO over words could not keep, by reason."""
    left_out: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for document in documents:
            for name, words, tags in rows_from_document(document, left_out):
                if wrong := next((tag for tag in tags if not _TAG.fullmatch(tag)), None):
                    raise DataError(
                        f"document {document.id}: label {wrong[2:]!r} cannot be written as CoNLL: no white space."
                    )
                stream.write(f"# id = {one_line(name, left_out, blank='_')}\n")
                stream.writelines(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
                stream.write("\n")
    return +left_out
