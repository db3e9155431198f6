"""Texts without annotations: plain text files, and abstracts of MEDLINE/PubMed XML.

A plain text file is one document, a folder of them many. PubMed XML (`.xml`, `.xml.gz`) is streamed: an article's title and
abstract, divided by a line break as in PubTator, with its PMID as id; labelled sections stand on lines of their own.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtuner.corpora.bioc_format import first_line, open_binary
from medtuner.corpora.intake import Intake
from medtuner.documents import Document, open_text
from medtuner.errors import DataError


def read_text(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the document of a text file, or those of the `.txt` files of a folder."""
    for file in sorted([*path.rglob("*.txt"), *path.rglob("*.txt.gz")]) if path.is_dir() else [path]:
        with open_text(file) as stream:
            text = "".join(stream)
        identifier = file.relative_to(path).as_posix() if path.is_dir() else file.name
        yield intake.document(identifier.removesuffix(".gz").removesuffix(".txt"), text, [], where=str(file))


def read_medline(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the articles of a PubMed or MEDLINE XML file that have a title or an abstract."""
    from lxml import etree

    with open_binary(path) as stream:
        try:
            tags = ("MedlineCitation", "PubmedBookArticle")
            for _, citation in etree.iterparse(stream, tag=tags, resolve_entities=False, no_network=True):
                if citation.tag == "PubmedBookArticle":
                    intake.left_out["book article"] += 1
                    continue
                document = _read_citation(citation, path, intake)
                citation.clear()
                while citation.getprevious() is not None:  # what was read is freed
                    del citation.getparent()[0]
                if document is None:
                    intake.left_out["article without title and abstract"] += 1
                else:
                    yield document
        except (etree.XMLSyntaxError, EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path}: not readable as PubMed XML ({first_line(error)}).") from None


def _read_citation(citation: Any, path: Path, intake: Intake) -> Document | None:
    pmid = citation.findtext("PMID")
    if not pmid:
        raise DataError(f"{path}:{citation.sourceline}: an article without a PMID.")
    titles = citation.findall("Article/ArticleTitle")
    sections = citation.findall("Article/Abstract/AbstractText")
    title = " ".join(_text_of(one) for one in titles)
    lines = [(f"{one.get('Label')}: " if one.get("Label") else "") + _text_of(one) for one in sections]
    if not title and not any(lines):
        return None
    return intake.document(pmid, "\n".join([title, *lines]), [], where=f"{path}:{citation.sourceline}")


def _text_of(element: Any) -> str:
    """Return an element's text with that of its children, such as <i> and <sup>."""
    return " ".join("".join(element.itertext()).split())
