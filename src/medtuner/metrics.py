"""Integer counts of what was found, and the scores that follow from them; no torch here.

    counts = count_matches(gold_documents, predicted_documents)
    scores = score(counts, bootstrap=1000, seed=13)
    scores["strict"]["micro"]["f1"]

Three ways of counting, each a set of exact integers for every document:

- *strict*: (start, end, label) equal. The set is over labels too, so a mention with two types counts twice.
- *untyped*: (start, end) equal, labels ignored.
- *partial*: same label and at least one character shared; one prediction answers for one gold mention at the most, matched
  in the order of their ends.

Counts are summed over documents and ratios are taken once, at the end. Precision, recall and F1 of 0/0 are 0. Micro sums
over types; macro and weighted average over the types present in gold (weighted by their support). Intervals are the 2.5th
and 97.5th percentiles of F1 over documents drawn with replacement (Efron & Tibshirani 1993, chapter 13).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medtuner.documents import Document
from medtuner.errors import DataError, nearest

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
_CHUNK = 100  # bootstrap draws held in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """True positives, false positives and false negatives of each document.

    `strict` and `partial` are [D, K, 3] over the K `types`; `untyped` is [D, 3].
    """

    types: tuple[str, ...]
    strict: IntArray
    partial: IntArray
    untyped: IntArray


def count_matches(gold: Sequence[Document], predicted: Sequence[Document]) -> Counts:
    """Compare predictions with gold, joined by document id (and `annotator` where given).

    Raises `DataError` when ids repeat, differ between the sides, or one id has different texts.
    """
    pairs = _pair(gold, predicted)
    types = tuple(sorted({label for pair in pairs for side in pair for span in side.spans for label in span.labels}))
    position = {label: index for index, label in enumerate(types)}
    strict = np.zeros((len(pairs), len(types), 3), dtype=np.int64)
    partial = np.zeros_like(strict)
    untyped = np.zeros((len(pairs), 3), dtype=np.int64)
    for row, (wanted, found) in enumerate(pairs):
        wanted_spans, found_spans = _typed(wanted), _typed(found)
        for (_, _, label), column in _outcomes(wanted_spans, found_spans):
            strict[row, position[label], column] += 1
        bounds = {span[:2] for span in wanted_spans}, {span[:2] for span in found_spans}
        for _, column in _outcomes(*bounds):
            untyped[row, column] += 1
        for label in {span[2] for span in wanted_spans | found_spans}:
            partial[row, position[label]] = _count_overlaps(
                sorted(span[:2] for span in wanted_spans if span[2] == label),
                sorted(span[:2] for span in found_spans if span[2] == label),
            )
    return Counts(types=types, strict=strict, partial=partial, untyped=untyped)


def document_key(document: Document) -> tuple[str, str]:
    """Return what tells documents apart: id and annotator."""
    return document.id, str(document.extra.get("annotator", ""))


def _pair(gold: Sequence[Document], predicted: Sequence[Document]) -> list[tuple[Document, Document]]:
    found = {document_key(document): document for document in predicted}
    wanted = {document_key(document): document for document in gold}
    for name, documents, unique in (("gold", gold, wanted), ("predicted", predicted, found)):
        if len(unique) < len(documents):
            (twice, _), _ = Counter(document_key(document) for document in documents).most_common(1)[0]
            raise DataError(f"{name}: document id {twice!r} stands twice; scores need unique ids.")
    for name, missing in (("predicted", wanted.keys() - found.keys()), ("gold", found.keys() - wanted.keys())):
        if missing:
            identifier = min(missing)[0]
            hint = nearest(identifier, (key[0] for key in (found if name == "predicted" else wanted)))
            raise DataError(f"{len(missing)} documents are not among the {name} ones, first {identifier!r}.{hint}")
    for key, document in wanted.items():
        if found[key].text != document.text:
            raise DataError(f"document {key[0]!r}: gold and predicted texts differ, so offsets cannot be compared.")
    return [(document, found[key]) for key, document in wanted.items()]


def _typed(document: Document) -> set[tuple[int, int, str]]:
    return {(span.start, span.end, label) for span in document.spans for label in span.labels}


def _outcomes(wanted: set[Any], found: set[Any]) -> list[tuple[Any, int]]:
    """Return each span with its column: 0 found and wanted, 1 found only, 2 wanted only."""
    columns = ((wanted & found, 0), (found - wanted, 1), (wanted - found, 2))
    return [(span, column) for spans, column in columns for span in spans]


def _count_overlaps(wanted: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Match spans that share a character, each at most once, in the order of their ends."""
    free = list(wanted)
    matched = 0
    for start, end in sorted(found, key=lambda span: (span[1], span[0])):
        # Of the gold spans it touches, take the one that ends first: later predictions reach least of it.
        touching = [span for span in free if span[0] < end and start < span[1]]
        if touching:
            free.remove(min(touching, key=lambda span: (span[1], span[0])))
            matched += 1
    return matched, len(found) - matched, len(wanted) - matched


def score(counts: Counts, *, bootstrap: int, seed: int) -> dict[str, Any]:
    """Return all scores as fractions, with counts and 95% intervals; see the module's text for the definitions."""
    weights = _draw_weights(len(counts.strict), bootstrap, seed)
    return {
        "strict": _score_typed(counts.types, counts.strict, weights),
        "untyped": _score_counts(counts.untyped, weights),
        "partial": _score_counts(counts.partial.sum(axis=1), weights),
    }


def draw_f1(counts: Counts, *, bootstrap: int, seed: int) -> dict[str, FloatArray]:
    """Return strict F1 over resampled documents, ``{"micro": [draws], "macro": [draws]}``.

    Draw i takes the same documents for every `counts` of as many documents with the same seed, so that differences of two
    systems are paired.
    """
    weights = _draw_weights(len(counts.strict), bootstrap, seed)
    return {
        "micro": _ratios(_resample(counts.strict.sum(axis=1), weights))["f1"],
        "macro": _macro_draws(_resample(counts.strict, weights)),
    }


def _macro_draws(draws: IntArray) -> FloatArray:
    """Return the macro F1 of each draw, [draws] from [draws, K, 3], over the types present in it."""
    present = draws[..., 0] + draws[..., 2] > 0
    rows = zip(_ratios(draws)["f1"], present, strict=True)
    return np.array([row[kept].mean() if kept.any() else 0.0 for row, kept in rows])


def _draw_weights(num_documents: int, bootstrap: int, seed: int) -> list[IntArray]:
    """Draw how often each document stands in each resample, in chunks of [draws, D]."""
    generator = np.random.default_rng(seed)
    uniform = np.full(num_documents, 1 / num_documents)
    sizes = [min(_CHUNK, bootstrap - done) for done in range(0, bootstrap, _CHUNK)]
    return [generator.multinomial(num_documents, uniform, size=size) for size in sizes]


def _score_typed(types: Sequence[str], counts: IntArray, weights: list[IntArray]) -> dict[str, Any]:
    totals = counts.sum(axis=0)
    support = totals[:, 0] + totals[:, 2]
    present = support > 0
    macro = {name: float(value) for name, value in _macro(totals, support).items()}
    draws = _resample(counts, weights)
    draw_f1 = _ratios(draws)["f1"]
    return {
        "micro": _score_counts(counts.sum(axis=1), weights),
        "macro": macro | {"types": int(present.sum()), "ci95": _interval(_macro_draws(draws))},
        "weighted": {
            name: float((values * support).sum() / support.sum()) if support.sum() else 0.0
            for name, values in _ratios(totals).items()
        },
        "per_type": {
            name: _report(totals[index]) | {"ci95": _interval(draw_f1[:, index])} for index, name in enumerate(types)
        },
    }


def _macro(totals: IntArray, support: IntArray) -> Mapping[str, float]:
    present = support > 0
    return {name: values[present].mean() if present.any() else 0.0 for name, values in _ratios(totals).items()}


def _score_counts(counts: IntArray, weights: list[IntArray]) -> dict[str, Any]:
    """Score [D, 3] counts as one class."""
    draws = _resample(counts, weights)
    return _report(counts.sum(axis=0)) | {"ci95": _interval(_ratios(draws)["f1"])}


def _resample(counts: IntArray, weights: list[IntArray]) -> IntArray:
    """Return the summed counts of each draw: [draws, ..., 3] from [D, ..., 3]."""
    flat = counts.reshape(len(counts), -1)
    parts = [chunk @ flat for chunk in weights]
    drawn = np.concatenate(parts) if parts else np.zeros((0, flat.shape[1]), dtype=np.int64)
    return drawn.reshape(len(drawn), *counts.shape[1:])


def _ratios(counts: IntArray) -> dict[str, FloatArray]:
    """Return precision, recall and F1 over the last axis (tp, fp, fn)."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]

    def divide(part: IntArray, whole: IntArray) -> FloatArray:
        return np.divide(part, whole, out=np.zeros(whole.shape, dtype=np.float64), where=whole > 0)

    return {
        "precision": divide(tp, tp + fp),
        "recall": divide(tp, tp + fn),
        "f1": divide(2 * tp, 2 * tp + fp + fn),
    }


def _report(counts: IntArray) -> dict[str, Any]:
    tp, fp, fn = (int(count) for count in counts)
    ratios = {name: float(value) for name, value in _ratios(counts).items()}
    return ratios | {"tp": tp, "fp": fp, "fn": fn, "support": tp + fn}


def _interval(draws: FloatArray) -> list[float] | None:
    """Return the 95% percentile interval; None when nothing was drawn."""
    if not len(draws):
        return None
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(low), float(high)]
