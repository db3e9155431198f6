"""BioC in XML and JSON (Comeau et al. 2013), read and written through the `bioc` library.

A document's text is its passages (or their sentences) at their offsets; what lies between two of them becomes a line break
and blanks. Offsets that begin above 0 are counted from the document's first passage. Annotations carry their label as infon
`type` (several divided by commas) and their identifier as infon `identifier`, as PubTator's exports do.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medtuner.corpora.intake import Intake, Mention, shaped
from medtuner.corpora.unwritten import count_unwritten
from medtuner.documents import Document, Span
from medtuner.errors import DataError

_LABEL, _CONCEPT = "type", "identifier"
_NOT_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")


def read_bioc_xml(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the documents of a BioC XML file, one at a time."""
    from bioc import biocxml
    from lxml.etree import XMLSyntaxError

    with open_binary(path) as stream:
        try:
            with biocxml.iterparse(stream) as reader:
                for index, document in enumerate(reader):
                    yield _read_document(document, f"{path}: document {index}", intake)
        except (XMLSyntaxError, EOFError, OSError, zlib.error, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not readable as BioC XML ({first_line(error)}).") from None


def read_bioc_json(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the documents of a BioC JSON collection; the file is read whole."""
    from bioc import biocjson

    with open_binary(path) as stream:
        try:
            collection = biocjson.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, KeyError, TypeError, EOFError, OSError, AttributeError) as error:
            raise DataError(f"{path}: not readable as BioC JSON ({first_line(error)}).") from None
    for index, document in enumerate(collection.documents):
        where = f"{path}: document {index}"
        with shaped(where, "BioC"):
            found = _read_document(document, where, intake)
        yield found


def open_binary(path: Path) -> Any:
    """Open a file, gzipped or plain, for reading bytes."""
    import gzip

    if not path.is_file():
        raise DataError(f"{path}: no such file (looked from {Path.cwd()}).")
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_document(document: Any, where: str, intake: Intake) -> Document:
    pieces = [piece for passage in document.passages for piece in _pieces(passage)]
    if any(not isinstance(offset, int) or offset < 0 for offset, _ in pieces):
        raise DataError(f"{where}: a passage without a whole offset.")
    base = min((offset for offset, _ in pieces), default=0)
    text = ""
    for offset, piece in sorted(pieces, key=lambda pair: pair[0]):
        gap = offset - base - len(text)
        if gap < 0:
            raise DataError(
                f"{where} ({document.id}): the passage at offset {offset} begins before the one before it ends. Offsets "
                "that count bytes do so; write the file with offsets in characters."
            )
        text += ("\n" + " " * (gap - 1) if gap else "") + piece
    sources = [document, *document.passages, *(s for passage in document.passages for s in passage.sentences)]
    mentions = [_read_annotation(row, base, where) for source in sources for row in source.annotations]
    intake.left_out.update({"relation": sum(len(source.relations) for source in sources)})
    return intake.document(str(document.id), text, sorted(mentions, key=lambda mention: mention.fragments), where=where)


def _pieces(passage: Any) -> Iterator[tuple[int, str]]:
    if passage.text or not passage.sentences:
        yield passage.offset, passage.text or ""
        return
    for sentence in passage.sentences:
        yield sentence.offset, sentence.text or ""


def _read_annotation(annotation: Any, base: int, where: str) -> Mention:
    infons = dict(annotation.infons)
    labels = tuple(label.strip() for label in str(infons.pop(_LABEL, "")).split(","))
    extra: dict[str, Any] = {}
    if concept := infons.pop(_CONCEPT, None):
        extra["concept"] = concept
    return Mention(
        fragments=tuple((place.offset - base, place.offset - base + place.length) for place in annotation.locations),
        labels=labels,
        text=annotation.text or None,
        where=f"{where}: annotation {annotation.id}",
        extra=extra | ({"infons": infons} if infons else {}),
    )


def write_bioc_xml(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write a BioC XML collection of one passage a document; return what could not be kept."""
    from bioc import biocxml

    left_out: Counter[str] = Counter()
    with biocxml.iterwrite(str(path)) as writer:
        writer.write_collection_info(_collection())
        for document in documents:
            writer.write_document(_to_bioc(document, left_out))
    return left_out


def write_bioc_json(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write a BioC JSON collection of one passage a document; return what could not be kept."""
    from bioc import biocjson

    left_out: Counter[str] = Counter()
    collection = _collection()
    collection.documents = [_to_bioc(document, left_out) for document in documents]
    path.write_text(biocjson.dumps(collection, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return left_out


def _collection() -> Any:
    from bioc import BioCCollection

    collection = BioCCollection()
    collection.source, collection.date, collection.key = "medtuner", "", ""
    return collection


def check_xml(document: Document) -> None:
    """Refuse a document with characters that XML 1.0 cannot keep (section 2.2), a carriage return among them."""
    words = [label for span in document.spans for label in (*span.labels, str(span.extra.get("concept", "")))]
    for what, strings in (("text", [document.text]), ("id", [document.id]), ("labels or identifiers", words)):
        if any(map(_NOT_XML.search, strings)):
            raise DataError(f"document {document.id!r}: control characters in its {what}, which XML cannot keep.")


def _to_bioc(document: Document, left_out: Counter[str]) -> Any:
    from bioc import BioCDocument, BioCPassage

    check_xml(document)
    result, passage = BioCDocument(), BioCPassage()
    result.id = document.id
    passage.offset, passage.text = 0, document.text
    count_unwritten(document, left_out, span_keys=("infons", "concept"), holds=("fragments",))
    for number, span in enumerate(document.spans):
        passage.add_annotation(_to_annotation(document, span, f"T{number + 1}"))
    result.add_passage(passage)
    return result


def _to_annotation(document: Document, span: Span, name: str) -> Any:
    from bioc import BioCAnnotation, BioCLocation

    annotation = BioCAnnotation()
    annotation.id = name
    places = span.fragments or ((span.start, span.end),)
    annotation.text = " ".join(document.text[start:end] for start, end in places)
    for start, end in places:
        annotation.add_location(BioCLocation(start, end - start))
    if wrong := next((label for label in span.labels if "," in label or label != label.strip()), None):
        raise DataError(f"document {document.id}: label {wrong!r} cannot be written as BioC.")
    infons = span.extra.get("infons", {})
    if not isinstance(infons, dict):
        raise DataError(f"document {document.id}: 'infons' of a span must be an object; found {infons!r}.")
    annotation.infons = {**infons, _LABEL: ",".join(span.labels)}
    if "concept" in span.extra:
        annotation.infons[_CONCEPT] = str(span.extra["concept"])
    return annotation
