"""What documents hold and a format cannot: counted by every writer in the same words.

left_out: Counter[str] = Counter()
count_unwritten(document, left_out, span_keys=("concept",), holds=("fragments",))
"""

from collections import Counter
from collections.abc import Collection

from medtuner.documents import Document


def count_unwritten(
    document: Document,
    left_out: Counter[str],
    *,
    document_keys: Collection[str] = (),
    span_keys: Collection[str] | None = (),
    holds: Collection[str] = (),
) -> None:
    """Count what a writer leaves out of a document: all but what it names.

    `span_keys` None are all keys of spans; `holds` names fragments, tokens and scores.
    """
    left_out.update(f"document key {key}" for key in document.extra if key not in document_keys)
    if document.tokens is not None and "tokens" not in holds:
        left_out["tokens of a document"] += 1
    for span in document.spans:
        if span_keys is not None:
            left_out.update(f"span key {key}" for key in span.extra if key not in span_keys)
        if span.fragments and "fragments" not in holds:
            left_out["fragments of a discontinuous mention"] += 1
        if span.score is not None and "scores" not in holds:
            left_out["score of a mention"] += 1


def one_line(value: object, left_out: Counter[str], *, blank: str = " ") -> str:
    """Return a value as one line of text for a format of lines and tabs; what changes is counted."""
    text = str(value)
    line = blank.join(text.split())
    if line != text or not isinstance(value, str):
        left_out["white space or shape of an identifier or attribute"] += 1
    return line
