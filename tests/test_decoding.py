import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtuner.alignment import Encoded
from medtuner.decoding import decode_document, merge_subwords, viterbi
from medtuner.documents import Document
from medtuner.labels import LabelSpace

SPACE = LabelSpace(kind="train", types=("T047", "T103"))
SEEDS = st.integers(0, 2**32 - 1)


def log_probs(seed: int, rows: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(rows, len(SPACE.tags)), scale=3)
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def is_legal(tags: tuple[int, ...]) -> bool:
    """I-X (even, above 0) follows only B-X or I-X."""
    return all(
        tag % 2 == 1 or tag == 0 or before in (tag, tag - 1) for before, tag in zip((0, *tags), tags, strict=False)
    )


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, length=st.integers(1, 5))
def test_viterbi_finds_the_best_legal_sequence(seed: int, length: int) -> None:
    emissions = log_probs(seed, length)
    found = tuple(int(tag) for tag in viterbi(emissions))
    every = itertools.product(range(len(SPACE.tags)), repeat=length)
    best = max(
        (tags for tags in every if is_legal(tags)), key=lambda tags: emissions[np.arange(length), list(tags)].sum()
    )
    assert is_legal(found)
    scores = [emissions[np.arange(length), list(tags)].sum() for tags in (found, best)]
    assert np.isclose(*scores)


def encoded(unit_of: list[int], num_units: int) -> Encoded:
    text = "ab " * num_units
    return Encoded(
        document=Document(id="1", text=text),
        subwords=np.arange(len(unit_of)),
        unit_of=np.array(unit_of, dtype=np.int64),
        units=tuple((3 * unit, 3 * unit + 2) for unit in range(num_units)),
    )


def spread(tags: list[int], confidence: float = 0.9) -> np.ndarray:
    rows = np.full((len(tags), len(SPACE.tags)), (1 - confidence) / (len(SPACE.tags) - 1))
    rows[np.arange(len(tags)), tags] = confidence
    return np.log(rows).astype(np.float32)


def test_a_unit_is_decided_by_all_its_subwords() -> None:
    # Unit 0 is O; unit 1 has three subwords B-T047 I-T047 I-T047; unit 2 continues; unit 3 begins anew.
    document = decode_document(encoded([0, 1, 1, 1, 2, 3], 4), spread([0, 1, 2, 2, 2, 1]), SPACE, continuation=1.0)
    assert [(s.start, s.end, s.labels, s.score) for s in document.spans] == [
        (3, 8, ("T047",), 0.9),
        (9, 11, ("T047",), 0.9),
    ]


def test_subwords_outvote_a_single_one() -> None:
    # Two subwords say T103 (B then I), one says T047: the unit is T103.
    emissions, sizes = merge_subwords(np.array([0, 0, 0]), spread([3, 2, 4]), 1, continuation=1.0)
    assert SPACE.tags[int(viterbi(emissions)[0])] == "B-T103"
    assert sizes.tolist() == [3]
    # With a small weight the first subword has its way against both others.
    emissions, sizes = merge_subwords(np.array([0, 0, 0]), spread([3, 2, 2]), 1, continuation=0.1)
    assert SPACE.tags[int(viterbi(emissions)[0])] == "B-T103"
    assert sizes.tolist() == pytest.approx([1.2])


def test_a_unit_without_subwords_follows_its_neighbours() -> None:
    document = decode_document(encoded([0, 2], 3), spread([1, 2]), SPACE, continuation=0.1)
    assert [(s.start, s.end) for s in document.spans] == [(0, 8)]


def test_nothing_in_nothing_out() -> None:
    assert (
        decode_document(encoded([], 0), np.zeros((0, len(SPACE.tags)), dtype=np.float32), SPACE, continuation=0.1).spans
        == ()
    )
