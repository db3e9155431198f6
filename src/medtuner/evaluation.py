"""Gold and predicted documents to `scores.json`: the one scoring path, with its protocol stamped on.

    scores = evaluate(gold, predicted, options=ScoreOptions(trained_types=space.types))
    scores["strict"]["per_type"]["T103"]["f1"], scores["protocol"]["average"]

The same function scores the dev set during training, the test set after it and any two files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from medtuner.documents import Document, Span, hash_documents
from medtuner.errors import DataError
from medtuner.labels import ANNOTATED_TYPES, LabelSpace
from medtuner.ledger import OUTSIDE_SPACE, Account
from medtuner.metrics import count_matches, document_key, score


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """Draws of the bootstrap and its seed; the types the model was trained on, where that is known."""

    bootstrap: int = 1000
    seed: int = 13
    trained_types: tuple[str, ...] | None = None


def evaluate(gold: Sequence[Document], predicted: Sequence[Document], *, options: ScoreOptions) -> dict[str, Any]:
    """Return scores as fractions with counts, 95% intervals and the protocol; see `medtuner.metrics`."""
    if not gold:
        raise DataError("no gold documents to score against.")
    predicted, not_judged = _leave_unjudged(gold, predicted)
    counts = count_matches(gold, predicted)
    scores = score(counts, bootstrap=options.bootstrap, seed=options.seed)
    per_type = scores["strict"]["per_type"]
    if options.trained_types is not None:
        for name, row in per_type.items():
            row["trained"] = name in options.trained_types
    if by_source := _score_sources(gold, predicted):
        scores["per_source"] = by_source
    scores["protocol"] = {
        "medtuner": version("medtuner"),
        "scheme": "spans as character offsets, from legal BIO (IOB2)",
        "boundary": "strict and untyped: exact; partial: at least one shared character",
        "average": "micro over all types; macro and weighted over types present in gold",
        "types": sorted(name for name, row in per_type.items() if row["support"]),
        "types_predicted_only": sorted(name for name, row in per_type.items() if not row["support"]),
        "documents": len(gold),
        "mentions": sum(len(document.spans) for document in gold),
        "bootstrap": {"unit": "document", "draws": options.bootstrap, "seed": options.seed, "interval": "percentile"},
        "data_sha256": hash_documents(gold),
    }
    if not_judged:
        scores["protocol"]["predictions_not_judged"] = not_judged
    return scores


def _leave_unjudged(gold: Sequence[Document], predicted: Sequence[Document]) -> tuple[list[Document], int]:
    """Take out predictions of types that a gold document's annotators did not look for: they are neither right nor wrong.

    Returns the rest and how many labels were taken out; see `annotated_types` in `medtuner.labels`.
    """
    judged = {document_key(document): document.extra.get(ANNOTATED_TYPES) for document in gold}
    kept: list[Document] = []
    count = 0
    for document in predicted:
        types = judged.get(document_key(document))
        if types is None:
            kept.append(document)
            continue
        spans = [replace(span, labels=tuple(x for x in span.labels if x in types)) for span in document.spans]
        count += sum(len(span.labels) for span in document.spans) - sum(len(span.labels) for span in spans)
        kept.append(replace(document, spans=tuple(span for span in spans if span.labels)))
    return kept, count


def _score_sources(gold: Sequence[Document], predicted: Sequence[Document]) -> dict[str, Any]:
    """Return strict scores of each source where gold documents name several, as merged files do."""
    sources = [str(document.extra.get("source", "")) for document in gold]
    if len(set(sources)) < 2:
        return {}
    rows: dict[str, Any] = {}
    for name in sorted(set(sources)):
        own = [document for document, source in zip(gold, sources, strict=True) if source == name]
        keys = {document_key(document) for document in own}
        scored = score(
            count_matches(own, [row for row in predicted if document_key(row) in keys]), bootstrap=0, seed=0
        )["strict"]
        rows[name] = {"documents": len(own), "micro": scored["micro"], "macro": scored["macro"]}
    return rows


def collapse_gold(documents: Sequence[Document], space: LabelSpace, account: Account) -> list[Document]:
    """Bring gold labels into an explicit label space; what lies outside it is entered in `account` and left out.

    In the space `train` gold stays as it is: a type that was never trained counts as missed.
    """
    account.documents += len(documents)
    account.mentions += sum(len(document.spans) for document in documents)
    collapsed = [_collapse_document(document, space, account) for document in documents]
    account.kept += sum(len(document.spans) for document in collapsed)
    return collapsed


def _collapse_document(document: Document, space: LabelSpace, account: Account) -> Document:
    if space.kind == "train":
        return document
    spans: list[Span] = []
    for span in document.spans:
        labels = space.collapse(span.labels)
        if not labels:
            account.lose(document, span, OUTSIDE_SPACE)
            continue
        if labels != span.labels:
            account.collapsed[f"{'+'.join(span.labels)} -> {'+'.join(labels)}"] += 1
        spans.append(replace(span, labels=labels))
    extra = dict(document.extra)
    if isinstance(extra.get(ANNOTATED_TYPES), list):
        # A type of the space is looked for if a type was that becomes it, or that stands in this document's gold.
        seen = {label for span in spans for label in span.labels}
        extra[ANNOTATED_TYPES] = sorted(seen | set(space.collapse(extra[ANNOTATED_TYPES])))
    return replace(document, spans=tuple(spans), extra=extra)
