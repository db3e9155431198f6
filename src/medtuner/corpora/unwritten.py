"""What documents hold and a format cannot: counted by every writer in the same words.

left_out: Counter[str] = Counter()
count_unwritten(document, left_out, span_keys=("concept",), fragments=True)
"""

from collections import Counter
from collections.abc import Collection

from medtuner.documents import Document


def count_unwritten(
    document: Document,
    left_out: Counter[str],
    *,
    span_keys: Collection[str] | None = (),
    fragments: bool = False,
    tokens: bool = False,
    scores: bool = False,
) -> None:
    """Count what a writer leaves out of a document: all but what it names; `span_keys` None are all keys of spans."""
    left_out.update(f"document key {key}" for key in document.extra)
    if document.tokens is not None and not tokens:
        left_out["tokens of a document"] += 1
    for span in document.spans:
        if span_keys is not None:
            left_out.update(f"span key {key}" for key in span.extra if key not in span_keys)
        if span.fragments and not fragments:
            left_out["fragments of a discontinuous mention"] += 1
        if span.score is not None and not scores:
            left_out["score of a mention"] += 1
