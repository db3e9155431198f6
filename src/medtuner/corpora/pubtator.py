"""PubTator: title and abstract lines, then one tab-separated line for each mention.

    25763772|t|DCTN4 as a modifier of chronic Pseudomonas aeruginosa infection in cystic fibrosis
    25763772|a|Pseudomonas aeruginosa (Pa) infection in ...
    25763772	0	5	DCTN4	T116,T123	UMLS:C4308010

Offsets count code points of title, one line break and abstract (Wei et al. 2013, "PubTator"; Mohan & Li 2019,
"MedMentions"). A further column is an identifier, kept as `concept`; more columns are kept as `columns`. Lines with
fewer than five columns are relations and are counted as left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from medtuner.corpora.intake import Intake, Mention
from medtuner.corpora.unwritten import count_unwritten, one_line
from medtuner.documents import Document, Span, open_text
from medtuner.errors import DataError

_TEXT_LINE = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_NO_IDENTIFIER = "-1"


def read_pubtator(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the documents of a PubTator file, one at a time."""
    block: list[tuple[int, str]] = []
    with open_text(path) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.rstrip("\r\n")
            if line.strip():
                begins = _TEXT_LINE.match(line)
                if begins and begins[2] == "t" and block:  # blocks may stand without a blank line between them
                    yield _read_block(path, block, intake)
                    block = []
                block.append((number, line))
            elif block:
                yield _read_block(path, block, intake)
                block = []
    if block:
        yield _read_block(path, block, intake)


def _read_block(path: Path, block: list[tuple[int, str]], intake: Intake) -> Document:
    first, line = block[0]
    where = f"{path}:{first}"
    title = _TEXT_LINE.fullmatch(line)
    if title is None or title[2] != "t":
        raise DataError(f"{where}: a document must begin with 'ID|t|title'; found {line[:20]!r}...")
    identifier, parts, rest = title[1], [title[3]], block[1:]
    if rest and (abstract := _TEXT_LINE.fullmatch(rest[0][1])) and abstract[2] == "a":
        if abstract[1] != identifier:
            raise DataError(f"{path}:{rest[0][0]}: abstract of {abstract[1]} below the title of {identifier}.")
        parts.append(abstract[3])
        rest = rest[1:]
    mentions = [mention for number, row in rest for mention in _read_row(f"{path}:{number}", row, identifier, intake)]
    return intake.document(identifier, "\n".join(parts), mentions, where=where)


def _read_row(where: str, line: str, identifier: str, intake: Intake) -> Iterator[Mention]:
    columns = line.split("\t")
    if columns[0] != identifier:
        raise DataError(f"{where}: a line of document {columns[0][:20]!r} below the text of {identifier}.")
    if 1 < len(columns) < 5 and not _NUMBER.fullmatch(columns[1].strip()):
        intake.left_out["relation"] += 1
        return
    if len(columns) < 5 or not all(_NUMBER.fullmatch(column.strip()) for column in columns[1:3]):
        intake.mentions += 1
        intake.skip(where, identifier, "no line of ID, start, end, text and type divided by tabs")
        return
    extra: dict[str, object] = {}
    if len(columns) > 5 and columns[5] and columns[5] != _NO_IDENTIFIER:
        extra["concept"] = columns[5]
    if len(columns) > 6:
        extra["columns"] = columns[6:]
    yield Mention(
        fragments=((int(columns[1]), int(columns[2])),),
        labels=tuple(label.strip() for label in columns[4].split(",")),
        text=columns[3],
        where=where,
        extra=extra,
    )


def write_pubtator(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write documents; the first line break of a text divides title and abstract, further ones become blanks.

    Returns what could not be kept.
    """
    left_out: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for document in documents:
            _check_writable(document)
            title, _, abstract = document.text.partition("\n")
            stream.write(f"{document.id}|t|{title}\n")
            if "\n" in document.text:
                stream.write(f"{document.id}|a|{abstract.replace(chr(10), ' ')}\n")
            left_out["line break that became a blank"] += abstract.count("\n")
            count_unwritten(document, left_out, span_keys=("concept", "columns"))
            for span in document.spans:
                stream.write("\t".join(_columns(document, span, left_out)) + "\n")
            stream.write("\n")
    return +left_out


def _check_writable(document: Document) -> None:
    if not document.id or any(character in document.id for character in "|\t\r\n"):
        raise DataError(f"document {document.id!r}: its id cannot be written as PubTator (no '|', tab or line break).")
    if "\r" in document.text:
        raise DataError(f"document {document.id}: its text holds a carriage return, which PubTator cannot keep.")
    for span in document.spans:
        if wrong := next(
            (label for label in span.labels if set(label) & set(",\t\r\n") or label != label.strip()), None
        ):
            raise DataError(f"document {document.id}: label {wrong!r} cannot be written as PubTator.")


def _columns(document: Document, span: Span, left_out: Counter[str]) -> list[str]:
    text = " ".join(document.text[span.start : span.end].split("\n")).replace("\t", " ")
    columns = span.extra.get("columns", [])
    if not isinstance(columns, list):
        left_out["span key columns"] += 1
        columns = []
    further = [one_line(column, left_out) for column in (span.extra.get("concept", _NO_IDENTIFIER), *columns)]
    return [document.id, str(span.start), str(span.end), text, ",".join(span.labels), *further]
