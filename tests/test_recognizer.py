"""The trained model as its users meet it: plain transformers, Python, the command line."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import medtuner
from medtuner.corpora import load_corpus
from medtuner.documents import Document, read_documents
from medtuner.errors import ModelError

HELD_OUT = 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real starter encoder, trained on 700 real sentences."""
    from medtuner.config import build_config
    from medtuner.console import Console
    from medtuner.experiment import run_experiment
    from medtuner.signals import StopRequest

    table = {
        "run": {"name": "trained", "output": str(tmp_path_factory.mktemp("runs"))},
        "data": {"train_limit": 700, "dev_limit": 50, "test_limit": 50},
        "train": {"epochs": 3},
        "evaluate": {"bootstrap": 100},
    }
    with StopRequest() as stop:
        outcome = run_experiment(build_config(table, where="test"), console=Console(is_main=False), stop=stop)
    assert outcome.scores is not None
    assert outcome.scores["strict"]["micro"]["f1"] > 0.05
    return outcome.folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in load_corpus("medmentions-zs").documents[-HELD_OUT:]]


def test_plain_transformers_finds_the_same_entities(trained: Path, texts: list[str]) -> None:
    from transformers import pipeline

    recognizer = medtuner.Recognizer.load(trained, precision="fp32")
    plain = pipeline("token-classification", model=str(trained / "model"), aggregation_strategy="none")
    simple = pipeline("token-classification", model=str(trained / "model"), aggregation_strategy="simple")
    compared = entities = 0
    for text in texts:
        tokens = plain(text, ignore_labels=[])
        if not is_legal(tokens, text):
            continue  # there ours repairs what the plain pipeline leaves
        ours = recognizer.annotate(text)
        theirs = [(entity["start"], entity["end"], entity["entity_group"]) for entity in simple(text)]
        assert [(span.start, span.end, span.labels[0]) for span in ours.spans] == theirs
        compared += 1
        entities += len(theirs)
    assert compared > len(texts) / 4
    assert entities > 50


def is_legal(tokens: list[dict[str, object]], text: str) -> bool:
    """Say whether argmax alone gives legal BIO in which the subwords of a word agree."""
    before, end = "O", -1
    for token in tokens:
        tag, start = str(token["entity"]), token["start"]
        inside_word = start == end and str(token["word"]).startswith("##")
        if tag.startswith("I-") and before[1:] != tag[1:]:
            return False
        if inside_word and (tag == "O") != (before == "O"):
            return False
        if inside_word and tag.startswith("B-"):
            return False
        before, end = tag, token["end"]
    return True


def test_python_annotates_text(trained: Path) -> None:
    recognizer = medtuner.Recognizer.load(trained / "model")
    text = "Treatment with metformin lowered glucose in diabetic mice."
    document = recognizer.annotate(text)
    assert document.text == text
    assert document.spans
    for span in document.spans:
        assert span.labels[0] in recognizer.space.types
        assert span.score is not None
        assert 0 < span.score <= 1
    assert recognizer.annotate("").spans == ()


def test_a_model_finds_the_words_its_training_had(trained: Path, texts: list[str], tmp_path: Path) -> None:
    import spacy

    model = tmp_path / "model"
    shutil.copytree(trained / "model", model)
    settings = json.loads((model / "medtuner.json").read_text())
    (model / "medtuner.json").write_text(json.dumps(settings | {"language": "en"}))
    found = medtuner.Recognizer.load(model).annotate_documents([Document(id="1", text=" ".join(texts[:40]))])[0]
    assert found.tokens is None
    assert found.extra == {}
    tokens = spacy.blank("en")(found.text)
    starts, ends = {token.idx for token in tokens}, {token.idx + len(token) for token in tokens}
    assert len(found.spans) > 10
    assert all(span.start in starts and span.end in ends for span in found.spans)


def test_long_text_is_annotated_to_its_end(trained: Path, texts: list[str]) -> None:
    recognizer = medtuner.Recognizer.load(trained, precision="fp32")
    sentences = texts[:40]
    together = " ".join(sentences)
    assert len(together.split()) > 600
    found = recognizer.annotate(together)
    half = len(together) // 2
    assert sum(span.start > half for span in found.spans) > 0.5 * sum(span.start <= half for span in found.spans)
    # Much of what single sentences give, the long text gives too: only the context differs.
    offset, alone = 0, set()
    for sentence in sentences:
        alone |= {(s.start + offset, s.end + offset, s.labels) for s in recognizer.annotate(sentence).spans}
        offset += len(sentence) + 1
    both = alone & {(s.start, s.end, s.labels) for s in found.spans}
    assert len(both) > len(alone) / 3


def test_command_line_annotates_every_kind_of_input(
    trained: Path, tmp_path: Path, texts: list[str], run_medtuner
) -> None:
    (tmp_path / "plain.txt").write_text("\n\n".join(texts[:5]) + "\n", encoding="utf-8")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress("\n".join(texts[:5]).encode()))
    with (tmp_path / "documents.jsonl").open("w") as stream:
        for i, text in enumerate(texts[:5]):
            stream.write(json.dumps({"id": f"d{i}", "text": text, "source": "here"}) + "\n")
    with (tmp_path / "tokens.jsonl").open("w") as stream:
        for text in texts[:5]:
            stream.write(json.dumps({"tokens": text.split(), "ner_tags": ["O"] * len(text.split())}) + "\n")
    results: list[list[Document]] = []
    for name in ("plain.txt", "packed.txt.gz", "documents.jsonl", "tokens.jsonl"):
        done = run_medtuner("annotate", str(trained), name, f"{name}.out.jsonl")
        assert done.returncode == 0, done.stderr
        assert "5 documents written" in done.stdout
        results.append(list(read_documents(tmp_path / f"{name}.out.jsonl")))
    assert [document.text for document in results[0]] == texts[:5]
    assert [document.id for document in results[0]] == [f"plain.txt:{line}" for line in (1, 3, 5, 7, 9)]
    assert results[2][0].extra == {"source": "here"}
    for other in results[1:3]:
        assert [d.spans for d in other] == [d.spans for d in results[0]]


def test_model_and_files_are_scored_alike(trained: Path, tmp_path: Path, run_medtuner: Callable) -> None:
    done = run_medtuner(
        "evaluate", str(trained), "medmentions-zs:validation", "--output", "by_model", "--bootstrap", "50"
    )
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    done = run_medtuner(
        "evaluate",
        "--gold",
        "medmentions-zs:validation",
        "--predicted",
        "by_model/predictions.jsonl",
        "--output",
        "by_files",
    )
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("by_model", "by_files"))
    assert one["strict"]["per_type"]["T201"]["trained"] is False
    for key in ("tp", "fp", "fn"):
        assert one["strict"]["micro"][key] == other["strict"]["micro"][key]
    assert one["protocol"]["data_sha256"] == other["protocol"]["data_sha256"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "evaluate needs either MODEL and DATA, or both --gold and --predicted"),
        (["evaluate", "runs/x", "--gold", "a"], "evaluate needs either"),
        (["annotate", "nowhere", "a.txt", "b.jsonl"], "nowhere: no model of medtuner in it"),
        (["report", "nowhere"], "no run has begun here"),
        (["labels", "T999"], "'T999' is no UMLS semantic type"),
    ],
)
def test_mistakes_are_explained(run_medtuner: Callable, arguments: list[str], message: str) -> None:
    done = run_medtuner(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_empty_input_leaves_no_output(trained: Path, tmp_path: Path, run_medtuner: Callable) -> None:
    (tmp_path / "blank.txt").write_text("\n \n")
    done = run_medtuner("annotate", str(trained), "blank.txt", "out.jsonl")
    assert done.returncode == 2
    assert "no documents in it" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.txt"]


def test_an_unfinished_run_has_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ModelError, match="its training has not finished"):
        medtuner.Recognizer.load(tmp_path)
