"""How good annotated data are: agreement against hand-counted values, odd strings, files to adjudicate."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from medtuner.agreement import find_disagreements, label_words, measure_agreement, measure_alpha
from medtuner.corpora.formats import read_format
from medtuner.corpora.intake import Intake
from medtuner.documents import Document, Span, write_documents
from medtuner.quality import describe
from medtuner.tokenising import SpacyTokenizer

Run = Callable[..., subprocess.CompletedProcess[str]]
TEXT = "a b c d e f g h i j"


def version(annotator: str, *labels: tuple[int, str], text: str = TEXT) -> Document:
    """Annotate single letters of the text by their index."""
    spans = tuple(Span(start=2 * index, end=2 * index + 1, labels=(label,)) for index, label in labels)
    return Document(id="1", text=text, spans=spans, extra={"annotator": annotator})


def test_agreement_is_what_the_formulas_say() -> None:
    first = version("x", (0, "T047"), (1, "T047"), (2, "T121"))
    second = version("y", (0, "T047"), (1, "T121"), (3, "T121"))
    (row,) = measure_agreement([first, second])
    assert row["annotators"] == ["x", "y"]
    assert row["strict"]["micro"]["f1"] == pytest.approx(2 * 1 / 6)
    assert row["strict"]["per_type"]["T047"]["f1"] == pytest.approx(2 / 3)
    # Words: 7 of 10 agree; by chance .7*.7 + .2*.1 + .1*.2 = .53.
    assert row["kappa"] == pytest.approx((0.7 - 0.53) / (1 - 0.53))
    # Nominal alpha: 1 - Do/De, with Do = 6/20 and De = 1 - (14*13 + 3*2 + 3*2) / (20*19).
    assert row["alpha"] == pytest.approx(1 - 0.3 / (1 - (14 * 13 + 3 * 2 + 3 * 2) / (20 * 19)))


def test_alpha_of_three_annotators_counts_the_texts_that_each_has() -> None:
    pair = [version("x", (0, "A")), version("y", (1, "A"))]
    assert measure_alpha(pair) is None, "two annotators are a pair"
    other = [version(name, (0, "A"), text="k l m n") for name in "yz"]
    row = measure_alpha([*pair, *other])
    assert row is not None
    assert (row["annotators"], row["documents"]) == (["x", "y", "z"], 2)
    # Of 14 words with two labels each, 2 differ: Do = 4/28; 4 labels of 28 are A, 24 are O.
    assert row["alpha"] == pytest.approx(1 - (4 / 28) / (1 - (4 * 3 + 24 * 23) / (28 * 27)))


def test_agreement_of_nothing_with_nothing_is_not_a_number_from_nowhere() -> None:
    (row,) = measure_agreement([version("x"), version("y")])
    assert (row["kappa"], row["alpha"]) == (None, None)
    assert measure_agreement([version("x"), version("y", text="another text")]) == []


def test_two_sources_of_one_name_are_refused(run_medtuner: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / "ann.jsonl").open("w") as stream:
            write_documents(stream, [version("x", (0, "A"))])
    done = run_medtuner("check", "a/ann.jsonl", "b/ann.jsonl")
    assert done.returncode == 2
    assert "two sources are named 'ann'" in done.stderr


def test_words_carry_every_type_that_covers_them() -> None:
    spans = (Span(start=0, end=3, labels=("T121",)), Span(start=2, end=3, labels=("T047",)))
    assert label_words(Document(id="1", text="a b c", spans=spans)) == ["T121", "T047+T121", "O"]


def test_disagreements_say_who_has_what() -> None:
    (document,) = find_disagreements([version("x", (0, "A"), (1, "B")), version("y", (0, "A"), (2, "C"))])
    assert [(span.start, span.labels) for span in document.spans] == [(2, ("x: B",)), (4, ("y: C",))]
    assert find_disagreements([version("x", (0, "A")), version("y", (0, "A"))]) == []


def test_ambiguous_forgotten_and_doubled_are_found() -> None:
    def note(name: str, *labels: str) -> Document:
        spans = [Span(start=0, end=6, labels=(label,)) for label in labels]
        return Document(id=name, text="Sodium was low.", spans=tuple(spans))

    documents = [note(str(number), "T196") for number in range(8)] + [note("odd", "T121"), note("bare")]
    nested = (Span(start=0, end=10, labels=("A",)), Span(start=4, end=8, labels=("B",)))
    documents.append(Document(id="n", text="One of two others.", spans=nested))
    report = describe(documents, sentences=SpacyTokenizer("en").sentences)
    assert report["ambiguous"] == [{"string": "sodium", "types": {"T196": 8, "T121": 1}}]
    (forgotten,) = report["forgotten"]
    assert forgotten["places"] == [{"document": "bare", "start": 0, "end": 6}]
    assert (report["documents"], report["duplicates"], report["overlapping"], report["without_mentions"]) == (
        11,
        9,
        1,
        1,
    )
    assert report["mentions_per_type"] == {"T196": 8, "T121": 1, "A": 1, "B": 1}


def test_the_command_prints_and_writes(run_medtuner: Run, tmp_path: Path) -> None:
    with (tmp_path / "two.jsonl").open("w") as stream:
        write_documents(stream, [version("x", (0, "A"), (1, "B")), version("y", (0, "A"), (2, "C"))])
    done = run_medtuner("check", "two.jsonl")
    assert done.returncode == 0, done.stderr
    assert "two/x and two/y: 1 texts, strict F1 50.0" in done.stdout
    assert "2 mentions to adjudicate in 1 texts" in done.stdout
    assert json.loads((tmp_path / "check" / "check.json").read_text())["agreement"][0]["documents"] == 1
    for name in ("disagreements.json", "disagreements_brat"):
        (document,) = read_format(tmp_path / "check" / name, Intake("refuse"))
        assert len(document.spans) == 2
    missing = run_medtuner("check", "absent.jsonl")
    assert missing.returncode == 2
    assert "absent.jsonl: no such file" in missing.stderr


def test_two_real_annotators(shared_data: Path, run_medtuner: Run) -> None:
    done = run_medtuner("check", str(shared_data / "formats" / "doccano" / "labeling.jsonl"))
    assert (
        "labeling/1 and labeling/2: 1 texts, strict F1 100.0, overlap F1 100.0, kappa 1.00, alpha 1.00" in done.stdout
    )
