"""From log-probabilities of subwords to mentions: legal BIO by Viterbi over units, windows merged.

    spans = decode_document(encoded, log_probs_SC, space, continuation=0.1).spans

Array legend: S subwords of a document, U units, C tags (O, then B and I of each type).

A unit's subwords are decided together: tag B-X of a unit means B-X on its first subword and I-X on the rest, so that the
saved model read by `transformers.pipeline` speaks the same tags. As in training, the first subword counts 1 and each later
one `continuation`. Windows were cut so that each subword has one owner;
merging them is concatenating what each owns, and a document is decoded whole.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from medtuner.alignment import Encoded, first_subwords
from medtuner.documents import Document, Span
from medtuner.labels import LabelSpace

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def decode_document(encoded: Encoded, log_probs_SC: FloatArray, space: LabelSpace, *, continuation: float) -> Document:
    """Return the document with the most probable legal mentions in place of its own."""
    emissions_UC, weights_U = merge_subwords(
        encoded.unit_of, log_probs_SC, len(encoded.units), continuation=continuation
    )
    tags = viterbi(emissions_UC)
    chosen = emissions_UC[np.arange(len(tags)), tags] if len(tags) else np.zeros(0, dtype=np.float32)
    spans: list[Span] = []
    first = 0
    while first < len(tags):
        if tags[first] == 0:
            first += 1
            continue
        last = first
        while last + 1 < len(tags) and tags[last + 1] == (tags[first] + 1):
            last += 1
        spans.append(
            Span(
                start=encoded.units[first][0],
                end=encoded.units[last][1],
                labels=(space.types[int(tags[first] - 1) // 2],),
                score=_confidence(chosen[first : last + 1], weights_U[first : last + 1]),
            )
        )
        first = last + 1
    return replace(encoded.document, spans=tuple(spans))


def merge_subwords(
    unit_of: IntArray, log_probs_SC: FloatArray, num_units: int, *, continuation: float
) -> tuple[FloatArray, FloatArray]:
    """Return the weighted log-probability of each unit's tag [U, C] and the sum of its weights [U].

    A unit without subwords follows its neighbours: it may continue a mention or stand outside, never begin one.
    """
    num_tags = log_probs_SC.shape[1]
    emissions_UC = np.zeros((num_units, num_tags), dtype=np.float32)
    kept = unit_of >= 0
    units, rows = unit_of[kept], log_probs_SC[kept].copy()
    is_first = first_subwords(units)
    rest = continuation * rows[~is_first]
    rest[:, 1::2] = rest[:, 2::2]  # inside a unit that carries B-X, later subwords are I-X
    rows[~is_first] = rest
    np.add.at(emissions_UC, units, rows)
    weights_U = np.bincount(units, weights=np.where(is_first, 1, continuation), minlength=num_units).astype(np.float32)
    emissions_UC[weights_U == 0, 1::2] = -np.inf
    return emissions_UC, weights_U


def viterbi(emissions_UC: FloatArray) -> IntArray:
    """Return the best tag sequence [U] in which I-X follows only B-X or I-X.

    Linear in the number of tags: the best way into O or any B is the best of all, and into I-X the better of B-X and I-X.
    """
    num_units, num_tags = emissions_UC.shape
    if num_units == 0:
        return np.zeros(0, dtype=np.int64)
    best = emissions_UC[0].astype(np.float64)
    best[2::2] = -np.inf
    came_from = np.zeros((num_units, num_tags), dtype=np.int64)
    begins, insides = np.arange(1, num_tags, 2), np.arange(2, num_tags, 2)
    for unit in range(1, num_units):
        top = int(best.argmax())
        previous = np.full(num_tags, top)
        previous[insides] = np.where(best[begins] >= best[insides], begins, insides)
        came_from[unit] = previous
        best = best[previous] + emissions_UC[unit]
    tags = np.zeros(num_units, dtype=np.int64)
    tags[-1] = int(best.argmax())
    for unit in range(num_units - 1, 0, -1):
        tags[unit - 1] = came_from[unit, tags[unit]]
    return tags


def _confidence(log_probs: FloatArray, weights: FloatArray) -> float:
    """Return the weighted geometric mean probability of the mention's subword tags, to four digits."""
    return round(float(np.exp(log_probs.sum() / weights.sum())), 4)
