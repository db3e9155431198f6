"""Whole runs through the real command line: finish, resume after kills, two ranks, errors."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import small_config, write_rows
from safetensors.numpy import load_file

from medtuner.attempts import AttemptLog, Job
from medtuner.corpora import load_corpus
from medtuner.documents import read_documents
from medtuner.runs import sha256_file

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config(tmp_path: Path, small_encoder: str) -> Path:
    """A run of a few seconds: 200 MedMentions sentences, a small encoder, checkpoints every 5 steps."""
    path = tmp_path / "small.toml"
    path.write_text(small_config(small_encoder))
    return path


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medtuner", "train", config.name, *arguments]
    with (config.parent / "output.txt").open("w") as output:  # a file, so that no full pipe can stop the run
        return subprocess.Popen(command, cwd=config.parent, stdout=output, stderr=subprocess.STDOUT, text=True)


def weights(run: Path) -> str:
    return sha256_file(run / "model" / "model.safetensors")


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_run_leaves_everything_behind_and_is_finished_at_once(config: Path, run_medtuner: Run) -> None:
    done = run_medtuner("train", config.name)
    assert done.returncode == 0, done.stderr
    run = config.parent / "runs" / "small"
    for name in ("config.toml", "environment.json", "ledger.json", "metrics.jsonl", "predictions/test.jsonl"):
        assert (run / name).is_file(), name
    for name in ("scores.json", "report.html", "manifest.json", "figures/learning_curve.png", "figures/per_type.png"):
        assert (run / name).is_file(), name
    assert not list(run.rglob(".*")), "no temporary file stays"
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    for name, digest in manifest["sha256"].items():
        assert sha256_file(run / name) == digest
    for account in json.loads((run / "ledger.json").read_text()).values():
        assert account["mentions"] == account["kept"] + sum(account["lost"].values())
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores) == {"strict", "untyped", "partial", "protocol"}
    assert set(scores["strict"]["micro"]) >= {"precision", "recall", "f1", "tp", "fp", "fn", "ci95"}
    assert len(list(read_documents(run / "predictions" / "test.jsonl"))) == scores["protocol"]["documents"] == 40

    again = run_medtuner("train", config.name)
    assert again.returncode == 0
    assert "is finished; nothing to do" in again.stdout
    assert json.loads((run / "manifest.json").read_text()) == manifest

    other = run_medtuner("train", config.name, "--set", "train.lr=1e-4")
    assert other.returncode == 2
    assert "train.lr (there 0.0005, here 0.0001)" in other.stderr
    assert "Traceback" not in other.stderr


def test_kills_at_any_moment_change_nothing(config: Path, tmp_path: Path) -> None:
    undisturbed = start(config, "--set", "run.name=undisturbed")
    assert undisturbed.wait(timeout=300) == 0
    chance = random.Random(11)
    killed = 0
    for _ in range(6):
        metrics = tmp_path / "runs" / "small" / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = start(config)
        # Until this process works, then a random moment: steps, saves, evaluation, testing, drawing.
        while process.poll() is None and (metrics.stat().st_mtime_ns if metrics.exists() else 0) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.8))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    last = start(config)
    assert last.wait(timeout=300) == 0, (tmp_path / "output.txt").read_text()
    assert killed >= 3
    runs = tmp_path / "runs"
    assert weights(runs / "small") == weights(runs / "undisturbed")
    assert losses(runs / "small") == losses(runs / "undisturbed")
    for name in ("scores.json", "predictions/test.jsonl"):
        assert (runs / "small" / name).read_bytes() == (runs / "undisturbed" / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_saves_at_the_step_and_says_how_to_go_on(config: Path, tmp_path: Path, number: int) -> None:
    process = start(config, "--set", "train.epochs=40", "--set", "train.checkpoint_every=100000")
    run = tmp_path / "runs" / "small"
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.send_signal(number)
    assert process.wait(timeout=60) == 3
    message = (tmp_path / "output.txt").read_text()
    assert "To go on: medtuner train small.toml --set train.epochs=40" in message
    assert "Traceback" not in message
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["state"] == "interrupted"
    step = max(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))
    assert f"stopped at step {step} of" in message
    assert len(losses(run)) == step, "no step was lost"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(config: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port"]
    command += [str(free_port()), "-m", "medtuner", "train", config.name, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=config.parent, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    "settings",
    [["train.tokens_per_rank=128"], pytest.param(["model.dropout=0.0"], marks=pytest.mark.slow)],
    ids=["dropout", "no-dropout"],
)
def test_two_ranks_train_like_one(config: Path, tmp_path: Path, settings: Sequence[str]) -> None:
    options = [word for setting in [*settings, "train.precision=fp32"] for word in ("--set", setting)]
    for ranks in (1, 2):
        done = torchrun(config, ranks, "--set", f"run.name=ranks{ranks}", *options)
        assert done.returncode == 0, done.stderr
    one, two = tmp_path / "runs" / "ranks1", tmp_path / "runs" / "ranks2"
    assert losses(one) == pytest.approx(losses(two), rel=1e-4)
    mine, theirs = load_file(one / "model" / "model.safetensors"), load_file(two / "model" / "model.safetensors")
    for name, weight in mine.items():
        assert weight == pytest.approx(theirs[name], abs=2e-3), name


def test_stage_two_starts_from_stage_one(config: Path, tmp_path: Path, run_medtuner: Run) -> None:
    assert run_medtuner("train", config.name).returncode == 0
    rows = [(["mild", "renal", "disease"], ["O", "B-T047", "I-T047"]), (["aspirin", "dose"], ["B-T103", "O"])] * 4
    write_rows(tmp_path / "team.jsonl", rows)
    options = ["run.name=stage2", "data.train=team.jsonl", "data.test=team.jsonl", "data.split=given"]
    options += [
        "data.train_limit=0",
        "model.init_from=runs/small",
        "train.epochs=1",
        "train.lr=1e-9",
        "train.head_lr=1e-9",
    ]
    done = run_medtuner("train", config.name, *[word for option in options for word in ("--set", option)])
    assert done.returncode == 0, done.stderr
    assert "output rows kept for 3 of 5 tags" in done.stdout  # O, B-T103 and I-T103; T047 is new
    before = load_file(tmp_path / "runs" / "small" / "model" / "model.safetensors")
    after = load_file(tmp_path / "runs" / "stage2" / "model" / "model.safetensors")
    tags = [
        json.loads((tmp_path / "runs" / name / "model" / "config.json").read_text())["label2id"]
        for name in ("small", "stage2")
    ]
    for tag in ("O", "B-T103", "I-T103"):
        old, new = before["classifier.weight"][tags[0][tag]], after["classifier.weight"][tags[1][tag]]
        assert new == pytest.approx(old, abs=1e-6)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert after[name] == pytest.approx(before[name], abs=1e-6)


def test_unseen_test_types_are_named_and_counted_as_missed(config: Path, run_medtuner: Run) -> None:
    done = run_medtuner("train", config.name, "--set", "data.split=given", "--set", "data.test_limit=200")
    assert done.returncode == 0, done.stderr
    warning = " ".join(done.stdout.split())
    assert "test: 275 of 275 mentions have types that training never shows" in warning
    scores = json.loads((config.parent / "runs" / "small" / "scores.json").read_text())
    missed = scores["strict"]["per_type"]["T097"]
    assert (missed["trained"], missed["tp"], missed["f1"]) == (False, 0, 0.0)
    gold = load_corpus("medmentions-zs:test").documents[:200]
    assert scores["strict"]["micro"]["fn"] == sum(len(document.spans) for document in gold)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.train=absent.jsonl"], "absent.jsonl: no such file"),
        (["data.train=empty.jsonl"], "empty.jsonl: empty file"),
        (["model.encoder=nobody/nothing"], "hf download nobody/nothing"),
        (["train.epochz=2"], "Did you mean 'epochs'?"),
        (["train.epochs=two"], "train.epochs = 'two'"),
        (["labels.space=['T047', 'T999']"], "'T999' is no UMLS semantic type"),
        (["labels.space=st21"], "Did you mean 'st21pv'?"),
        (
            ["data.train=team.jsonl", "data.split=given", "labels.space=full"],
            "document t1: span 0-1: 'Gene' is no UMLS",
        ),
        (["data.train=unlabelled.jsonl", "data.split=given"], "no annotated mention to learn from"),
        (["model.init_from=runs/absent"], "runs/absent: no model of medtuner in it"),
        (["data.train=cut.jsonl", "data.split=given"], "data.train: 1 of 1 mentions would be lost"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(
    config: Path, tmp_path: Path, run_medtuner: Run, settings: Sequence[str], message: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    team = {"id": "t1", "text": "p53 binds", "spans": [{"start": 0, "end": 1, "labels": ["Gene"]}]}
    (tmp_path / "team.jsonl").write_text(json.dumps(team) + "\n")
    (tmp_path / "cut.jsonl").write_text(json.dumps(team) + "\n")
    (tmp_path / "unlabelled.jsonl").write_text('{"id": "1", "text": "p53 binds", "spans": []}\n')
    done = run_medtuner("train", config.name, *[word for setting in settings for word in ("--set", setting)])
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_attempt_that_lost_the_run_writes_no_manifest(config: Path, tmp_path: Path) -> None:
    # No checkpoint falls between the reading and the writing of the story below.
    rare = ["train.epochs=400", "train.checkpoint_every=100000", "train.evaluate_every=100000"]
    process = start(config, *[word for setting in rare for word in ("--set", setting)])
    story = tmp_path / "runs" / "small" / "attempts.jsonl"
    while not (story.parent / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    AttemptLog(story.parent).begin(job=Job(id="elsewhere"), step=0, started=time.time())
    assert process.wait(timeout=60) == 2
    assert "has taken over" in (tmp_path / "output.txt").read_text()
    assert not (story.parent / "manifest.json").exists()
    assert AttemptLog(story.parent).rows()[-1].reason == "running"


def test_a_run_goes_on_in_the_precision_it_began_in(config: Path, run_medtuner: Run, tmp_path: Path) -> None:
    assert run_medtuner("train", str(config)).returncode == 0
    (environment,) = tmp_path.rglob("environment.json")
    table = json.loads(environment.read_text())
    other = {"bf16": "fp32", "fp32": "bf16"}[table["precision"]]
    environment.write_text(json.dumps(table | {"precision": other}))
    (environment.parent / "manifest.json").unlink()
    again = run_medtuner("train", str(config))
    assert again.returncode == 0
    assert f", {other} " in again.stdout
