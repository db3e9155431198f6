import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score as seqeval_precision
from seqeval.scheme import IOB2

from medtuner.corpora.tagged import TagReport, document_from_tags
from medtuner.documents import Document, Span
from medtuner.errors import DataError
from medtuner.evaluation import ScoreOptions, evaluate
from medtuner.metrics import count_matches, score

TAG_PAIRS = st.lists(
    st.lists(st.tuples(*[st.sampled_from(["O", "O", "B-X", "I-X", "B-Y", "I-Y", "B-Z"])] * 2), min_size=1, max_size=10),
    min_size=1,
    max_size=6,
)


def documents(tag_rows: list[list[str]]) -> list[Document]:
    return [
        document_from_tags(str(i), ["w"] * len(tags), tags, report=TagReport(), orphans="drop", where="test")
        for i, tags in enumerate(tag_rows)
    ]


@settings(max_examples=300, deadline=None)
@given(TAG_PAIRS)
@pytest.mark.filterwarnings("ignore")
def test_equal_to_seqeval_strict(pairs: list[list[tuple[str, str]]]) -> None:
    gold = [[pair[0] for pair in row] for row in pairs]
    predicted = [[pair[1] for pair in row] for row in pairs]
    ours = evaluate(documents(gold), documents(predicted), options=ScoreOptions(bootstrap=0))
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    micro = ours["strict"]["micro"]
    assert math.isclose(micro["f1"], seqeval_f1(gold, predicted, average="micro", **strict))
    assert math.isclose(micro["precision"], seqeval_precision(gold, predicted, average="micro", **strict))
    if not ours["protocol"]["types_predicted_only"] and ours["protocol"]["types"]:
        assert math.isclose(ours["strict"]["macro"]["f1"], seqeval_f1(gold, predicted, average="macro", **strict))
        assert math.isclose(ours["strict"]["weighted"]["f1"], seqeval_f1(gold, predicted, average="weighted", **strict))


@settings(max_examples=100, deadline=None)
@given(TAG_PAIRS)
def test_parts_add_up(pairs: list[list[tuple[str, str]]]) -> None:
    gold = documents([[pair[0] for pair in row] for row in pairs])
    predicted = documents([[pair[1] for pair in row] for row in pairs])
    scores = score(count_matches(gold, predicted), bootstrap=0, seed=1)
    rows = scores["strict"]["per_type"].values()
    for count in ("tp", "fp", "fn", "support"):
        assert sum(row[count] for row in rows) == scores["strict"]["micro"][count]
    assert scores["strict"]["micro"]["support"] == sum(len(document.spans) for document in gold)
    found = sum(len(document.spans) for document in predicted)
    for part in (scores["strict"]["micro"], scores["untyped"], scores["partial"]):
        assert part["tp"] + part["fp"] == found
    assert scores["strict"]["micro"]["tp"] <= scores["partial"]["tp"]
    assert scores["strict"]["micro"]["tp"] <= scores["untyped"]["tp"]


def test_seqeval_default_mode_counts_what_strict_refuses() -> None:
    gold, predicted = [["B-X", "I-X", "O"]], [["I-X", "I-X", "O"]]
    assert seqeval_f1(gold, predicted) == 1.0
    ours = evaluate(documents(gold), documents(predicted), options=ScoreOptions(bootstrap=0))
    assert ours["strict"]["micro"]["f1"] == 0.0


def test_seqeval_macro_counts_types_that_gold_does_not_have() -> None:
    gold, predicted = [["B-X", "O"]], [["B-X", "B-Y"]]
    assert seqeval_f1(gold, predicted, average="macro", mode="strict", scheme=IOB2, zero_division=0) == 0.5
    ours = evaluate(documents(gold), documents(predicted), options=ScoreOptions(bootstrap=0))
    assert ours["strict"]["macro"]["f1"] == 1.0
    assert ours["strict"]["macro"]["types"] == 1
    assert ours["protocol"]["types_predicted_only"] == ["Y"]
    assert ours["strict"]["micro"]["fp"] == 1  # and it still costs precision


def document(identifier: str, *spans: tuple[int, int, str]) -> Document:
    found = tuple(Span(start=start, end=end, labels=(label,)) for start, end, label in spans)
    return Document(id=identifier, text="x" * 20, spans=found)


def test_copies_of_a_document_change_no_ratio() -> None:
    ours = []
    for copies in (1, 2, 5):
        wanted = [document(str(copy), (0, 5, "X"), (8, 9, "X")) for copy in range(copies)]
        found = [document(str(copy), (0, 4, "X")) for copy in range(copies)]
        ours.append(evaluate(wanted, found, options=ScoreOptions(bootstrap=0)))
    assert {scores["partial"]["f1"] for scores in ours} == {2 / 3}
    assert [scores["partial"]["tp"] for scores in ours] == [1, 2, 5]


def test_predictions_of_unlisted_types_are_not_dropped() -> None:
    from nervaluate import Evaluator

    gold, found = [{"label": "X", "start": 0, "end": 4}], [{"label": "Z", "start": 0, "end": 4}]
    theirs = Evaluator([gold], [found], tags=["X"], loader="dict").evaluate()["overall"]["strict"]
    assert (theirs.actual, theirs.spurious) == (0, 0)
    scores = evaluate([document("1", (0, 5, "X"))], [document("1", (0, 5, "Z"))], options=ScoreOptions(bootstrap=0))
    assert scores["strict"]["per_type"]["Z"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "tp": 0,
        "fp": 1,
        "fn": 0,
        "support": 0,
        "ci95": None,
    }
    assert scores["untyped"]["f1"] == 1.0


def test_partial_matches_each_span_once() -> None:
    counts = count_matches([document("1", (0, 5, "X"))], [document("1", (0, 2, "X"), (3, 5, "X"))])
    assert counts.partial.sum(axis=0).tolist() == [[1, 1, 0]]
    # One long prediction over two mentions answers for one of them.
    counts = count_matches([document("1", (0, 2, "X"), (3, 5, "X"))], [document("1", (0, 5, "X"))])
    assert counts.partial.sum(axis=0).tolist() == [[1, 0, 1]]


def test_mentions_with_several_types_count_once_a_type() -> None:
    gold = Document(id="1", text="abc", spans=(Span(start=0, end=3, labels=("T116", "T123")),))
    found = Document(id="1", text="abc", spans=(Span(start=0, end=3, labels=("T123",)),))
    micro = evaluate([gold], [found], options=ScoreOptions(bootstrap=0))["strict"]["micro"]
    assert (micro["tp"], micro["fp"], micro["fn"]) == (1, 0, 1)


def test_interval_covers_the_true_score_about_as_often_as_it_says() -> None:
    # 200 samples of 80 documents whose mentions are each found with probability 0.7 and nothing else: recall 0.7.
    generator = np.random.default_rng(3)
    true_f1 = 2 * 0.7 / (2 * 0.7 + 0.3)
    covered = 0
    for seed in range(200):
        hits = generator.random((80, 3)) < 0.7
        gold = [document(str(i), (0, 1, "X"), (2, 3, "X"), (4, 5, "X")) for i in range(80)]
        found = [document(str(i), *[(2 * j, 2 * j + 1, "X") for j in range(3) if row[j]]) for i, row in enumerate(hits)]
        low, high = score(count_matches(gold, found), bootstrap=200, seed=seed)["untyped"]["ci95"]
        covered += low <= true_f1 <= high
    assert 180 <= covered <= 199


def test_bootstrap_is_repeatable_and_brackets_the_score() -> None:
    gold = [document(str(i), (0, 1 + i % 3, "X")) for i in range(30)]
    found = [document(str(i), (0, 1, "X")) for i in range(30)]
    one, other = (score(count_matches(gold, found), bootstrap=150, seed=4) for _ in range(2))
    assert one == other
    low, high = one["strict"]["micro"]["ci95"]
    assert low < one["strict"]["micro"]["f1"] < high


@pytest.mark.parametrize(
    ("gold", "found", "message"),
    [
        (["1", "1"], ["1"], "gold: document id '1' stands twice"),
        (["1"], ["1", "1"], "predicted: document id '1' stands twice"),
        (["PMID1", "PMID2"], ["PMID1"], "1 documents are not among the predicted ones, first 'PMID2'"),
        (["1"], ["1", "7"], "not among the gold ones, first '7'"),
    ],
)
def test_documents_must_pair(gold: list[str], found: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        count_matches([document(name) for name in gold], [document(name) for name in found])


def test_texts_must_agree() -> None:
    with pytest.raises(DataError, match="texts differ"):
        count_matches([Document(id="1", text="a")], [Document(id="1", text="b")])
    with pytest.raises(DataError, match="no gold documents"):
        evaluate([], [], options=ScoreOptions())
