"""spaCy's DocBin (`.spacy`): `ents` are the mentions; a document's id is kept in its user data.

Labels beyond the first of a mention do not fit spaCy's entities; span groups keep them: the group `medtuner` holds every
label of every mention, overlapping ones too, and is read first where it is there.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medtuner.corpora.bioc_format import first_line
from medtuner.corpora.intake import Intake, Mention
from medtuner.corpora.unwritten import count_unwritten
from medtuner.documents import Document, Offsets, find_words
from medtuner.errors import DataError

_GROUP = "medtuner"
_ID = "medtuner_id"


def read_docbin(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the documents of a `.spacy` file; it is read whole."""
    import spacy
    from spacy.tokens import DocBin

    if not path.is_file():
        raise DataError(f"{path}: no such file (looked from {Path.cwd()}).")
    try:
        docs = list(DocBin(store_user_data=True).from_disk(path).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # zlib, msgpack and spaCy each raise their own
        raise DataError(f"{path}: not readable as spaCy DocBin ({first_line(error)}).") from None
    for index, doc in enumerate(docs):
        where = f"{path}: document {index}"
        if _GROUP in doc.spans:
            mentions = _merge(
                (span.start_char, span.end_char, span.label_, span.kb_id_, span.id_) for span in doc.spans[_GROUP]
            )
        else:
            mentions = _merge(
                (ent.start_char, ent.end_char, ent.label_, ent.kb_id_, str(n)) for n, ent in enumerate(doc.ents)
            )
        intake.left_out.update({"span group": sum(name != _GROUP for name in doc.spans)})
        tokens = tuple((token.idx, token.idx + len(token)) for token in doc if not token.is_space)
        identifier = str(doc.user_data.get(_ID, index))
        yield intake.document(identifier, doc.text, mentions, where=where, tokens=tokens)


def _merge(rows: Iterable[tuple[int, int, str, str, str]]) -> list[Mention]:
    """Make one mention of the rows that bear the same mention's number."""
    found: dict[tuple[int, int, str], tuple[list[str], str]] = {}
    for start, end, label, concept, number in rows:
        labels, _ = found.setdefault((start, end, number), ([], concept))
        labels.append(label)
    return [
        Mention(fragments=((start, end),), labels=tuple(labels), extra={"concept": concept} if concept else {})
        for (start, end, _), (labels, concept) in found.items()
    ]


def write_docbin(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write a `.spacy` file for `spacy train`; mentions that end inside a word are counted as left out."""
    import spacy
    from spacy.tokens import DocBin

    vocab = spacy.blank("xx").vocab
    bin_ = DocBin(store_user_data=True)
    left_out: Counter[str] = Counter()
    for document in documents:
        bin_.add(_to_doc(document, vocab, left_out))
    bin_.to_disk(path)
    return +left_out


def _to_doc(document: Document, vocab: Any, left_out: Counter[str]) -> Any:
    from spacy.tokens import Doc, Span, SpanGroup
    from spacy.util import filter_spans

    words, spaces = _cut(document)
    doc = Doc(vocab, words=words, spaces=spaces)
    doc.user_data[_ID] = document.id
    group: list[Any] = []
    count_unwritten(document, left_out, span_keys=("concept",), holds=("tokens",))
    for number, span in enumerate(document.spans):
        char_span = doc.char_span(span.start, span.end)
        if char_span is None:
            left_out["mention that ends inside a word"] += 1
            continue
        concept = str(span.extra.get("concept", ""))
        for label in span.labels:
            group.append(Span(doc, char_span.start, char_span.end, label=label, kb_id=concept, span_id=str(number)))
    doc.spans[_GROUP] = SpanGroup(doc, name=_GROUP, spans=group)
    doc.ents = filter_spans(group)
    return doc


def _cut(document: Document) -> tuple[list[str], list[bool]]:
    """Return words and whether a blank follows each; further white space is a word of its own, as spaCy has it."""
    places: list[Offsets] = []
    position = 0
    for start, end in find_words(document):
        gap = document.text[position:start]
        extra = gap[1:] if gap.startswith(" ") and position else gap
        if extra:
            places.append((start - len(extra), start))
        places.append((start, end))
        position = end
    rest = document.text[position:]
    extra = rest[1:] if rest.startswith(" ") and position else rest
    if extra:
        places.append((len(document.text) - len(extra), len(document.text)))
    words = [document.text[start:end] for start, end in places]
    return words, [document.text[end : end + 1] == " " for _, end in places]
