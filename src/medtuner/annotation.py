"""Annotate a file with a trained model: text, Document JSON Lines, or the `tokens` formats, into Document JSON Lines.

    annotate_file("runs/quickstart", Path("abstracts.txt"), Path("annotated.jsonl"))

In a text file every line that is not blank is one document, named by its line number.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from medtuner.corpora import iterate_documents
from medtuner.documents import Document, open_text, write_documents
from medtuner.errors import DataError
from medtuner.recognizer import Recognizer

_CHUNK = 2048


def annotate_file(
    recognizer: Recognizer,
    source: Path,
    target: Path,
    *,
    track: Callable[[Iterator[Document]], Iterator[Document]] = iter,
) -> int:
    """Write every document of `source` with predicted spans to `target` and return how many.

    The target appears whole or not at all. Raises `DataError` when the source has no documents or is the target.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target}: input and output are the same file. Name another output.")
    if target.is_dir():
        raise DataError(f"{target}: is a folder. Name a file to write, such as {target / 'annotated.jsonl'}.")
    aside = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("w", encoding="utf-8") as stream:
            count = write_documents(stream, _annotate(recognizer, track(read_input(source))))
            stream.flush()
            os.fsync(stream.fileno())
        if count == 0:
            raise DataError(f"{source}: no documents in it (only blank lines).")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return count


def read_input(source: Path) -> Iterator[Document]:
    """Yield the documents of a file; anything that ends in .txt or .txt.gz is plain text."""
    if source.suffixes[-1:] == [".txt"] or source.suffixes[-2:] == [".txt", ".gz"]:
        yield from _read_text(source)
    else:
        yield from iterate_documents(str(source))


def _read_text(source: Path) -> Iterator[Document]:
    with open_text(source) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield Document(id=f"{source.name}:{number}", text=line.rstrip("\r\n"))


def _annotate(recognizer: Recognizer, documents: Iterable[Document]) -> Iterator[Document]:
    iterator = iter(documents)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield from recognizer.annotate_documents(chunk)
