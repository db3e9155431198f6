"""Runs on a real Slurm cluster: four slurmd on this machine, brought up and taken down by `scripts/slurm_cluster.py`."""

import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster import LONG, SOURCE, Cluster, attempts, lose_node, losses, preempt, reach_time_limit, words

from medtuner.runs import sha256_file

pytestmark = pytest.mark.slurm


def test_two_nodes_train_like_torchrun_on_one(cluster: Cluster) -> None:
    run = cluster.submit("nodes", "slurm.nodes=2")
    refused = cluster.medtuner("submit", "train", cluster.config.name, "--set", "run.name=nodes")
    assert refused.returncode == 2
    assert "its job" in refused.stderr
    assert "already" in refused.stderr
    cluster.finish(run)
    port = str(20000 + os.getpid() % 10000)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "--master-port", port]
    command += ["-m", "medtuner", "train", cluster.config.name, "--set", "run.name=torchrun"]
    assert cluster.call(*command).returncode == 0
    assert losses(run) == pytest.approx(losses(cluster.folder / "runs" / "torchrun"), rel=1e-4)
    (attempt,) = attempts(run)
    assert (attempt["reason"], attempt["first_step"], attempt["last_step"]) == ("finished", 0, len(losses(run)))

    shown = cluster.medtuner("status", str(run))
    assert "finished" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    row = json.loads(cluster.medtuner("status", str(run), "--json").stdout)
    assert (row["state"], row["step"], row["num_steps"]) == ("finished", len(losses(run)), len(losses(run)))
    assert "4 ranks" in cluster.medtuner("logs", str(run)).stdout
    assert "has no rank 9" in cluster.medtuner("logs", str(run), "--rank", "9").stderr
    again = cluster.medtuner("submit", "train", cluster.config.name, "--set", "run.name=nodes")
    assert "is finished; there is nothing to submit" in again.stderr


@pytest.mark.parametrize(
    ("events", "epochs"),
    [
        (("preempted", "node_failure"), 30),
        pytest.param(("preempted", "preempted", "node_failure", "deadline"), 150, marks=pytest.mark.slow),
    ],
    ids=["two", "four"],
)
def test_what_interrupts_a_run_loses_no_bit(cluster: Cluster, events: Sequence[str], epochs: int) -> None:
    settings = (*LONG, f"train.epochs={epochs}")
    run = cluster.submit(f"disturbed-{len(events)}", *settings)
    for number, event in enumerate(events):
        cluster.wait_for_attempt(run, number)
        {"preempted": preempt, "node_failure": lose_node, "deadline": reach_time_limit}[event](cluster, run)
    cluster.finish(run)
    calm = cluster.submit(f"calm-{len(events)}", *settings)
    cluster.finish(calm)
    rows = attempts(run)
    assert [row["reason"] for row in rows] == [*events, "finished"]
    first_steps = [row["first_step"] for row in rows[1:]]
    assert first_steps == [row["last_step"] for row in rows[:-1]], "every attempt begins where the last one saved"
    for row, log in zip(rows, sorted((run / "logs").glob("attempt-?-rank-0.out")), strict=True):
        if row["reason"] in ("preempted", "deadline"):
            assert f"stopped at step {row['last_step']} of" in log.read_text(), "no step is lost to an announced stop"
    assert sha256_file(run / "model" / "model.safetensors") == sha256_file(calm / "model" / "model.safetensors")
    assert losses(run) == losses(calm)
    assert (run / "scores.json").read_bytes() == (calm / "scores.json").read_bytes()


def test_signals_from_the_first_moment_on_are_heard(cluster: Cluster) -> None:
    run = cluster.submit("early", *LONG, "slurm.requeue=false")
    job = cluster.job(run)
    cluster.wait(lambda: cluster.state(job) == "RUNNING", "the start")
    for number in itertools.islice(itertools.cycle(("USR1", "USR2", "TERM", "USR1")), 40):
        cluster.call("scancel", "-s", number, job)  # while ranks start, Python starts, torch loads
        time.sleep(0.1)
    cluster.wait(lambda: "srun ended with" in cluster.logs_of(run), "the end of the ranks")
    text = cluster.logs_of(run)
    assert "stopped" in text, text
    assert "Traceback" not in text
    cluster.wait(lambda: cluster.state(job) in ("FAILED", "COMPLETED", ""), "the end of the job")
    assert [row["reason"] for row in attempts(run)] == ["signal"]


def test_a_signal_to_one_rank_stops_all_at_one_step_and_cancel_does_not_requeue(cluster: Cluster) -> None:
    run = cluster.submit("one-rank", *LONG)
    job = cluster.job(run)
    cluster.wait_for_attempt(run, 0)
    os.kill(cluster.ranks(run)[1], signal.SIGUSR2)
    cluster.wait(lambda: attempts(run)[0]["reason"] != "running", "the stop of all ranks")
    row = attempts(run)[0]
    assert row["reason"] == "signal"
    assert row["last_step"] == len(losses(run)), "both ranks stopped at the step that was saved"
    cluster.wait_for_attempt(run, 1)
    assert "cancelled job" in cluster.medtuner("cancel", str(run)).stdout
    cluster.wait(lambda: cluster.state(job) in ("CANCELLED", ""), "the cancelled job")
    assert [row["reason"] for row in attempts(run)] == ["signal", "signal"]
    assert json.loads(cluster.medtuner("status", str(run), "--json").stdout)["state"] == "interrupted"


def test_a_dead_rank_ends_the_step_and_the_gain_decides_about_the_requeue(cluster: Cluster) -> None:
    run = cluster.submit("dead-rank", *LONG, "train.checkpoint_every=100000")
    job = cluster.job(run)
    cluster.wait_for_attempt(run, 0)
    first, second = cluster.ranks(run)
    os.kill(second, signal.SIGSTOP)  # it cannot notice by itself that the other is gone
    os.kill(first, signal.SIGKILL)
    cluster.wait(lambda: "not requeued" in cluster.logs_of(run), "the verdict")
    cluster.wait(lambda: cluster.state(job) in ("FAILED", ""), "the failed job")
    assert attempts(run)[0]["reason"] == "error"


@pytest.mark.slow
def test_without_a_signal_the_deadline_is_known(cluster: Cluster) -> None:
    settings = ["train.epochs=2000", "slurm.time=00:02:00", "slurm.signal_lead=60", "slurm.requeue=false"]
    run = cluster.submit("deadline", *settings, "slurm.extra=['--signal=CONT@1']")
    cluster.wait(lambda: attempts(run) and attempts(run)[0]["reason"] != "running", "the deadline")
    assert attempts(run)[0]["reason"] == "deadline"
    assert cluster.manifest(run) == "interrupted"


def test_evaluate_and_annotate_go_the_same_way(cluster: Cluster) -> None:
    run = cluster.folder / "runs" / "nodes"
    (cluster.folder / "notes.txt").write_text("Metformin lowers glucose.\nAspirin helps.\n")
    evaluated = cluster.medtuner("submit", "evaluate", str(run), "medmentions-zs:test", "--output", "scored")
    assert evaluated.returncode == 0, evaluated.stderr
    annotated = cluster.medtuner("submit", "annotate", str(run), "notes.txt", "notes.jsonl")
    assert annotated.returncode == 0, annotated.stderr
    cluster.wait((cluster.folder / "scored" / "scores.json").exists, "scores.json")
    cluster.wait((cluster.folder / "notes.jsonl").exists, "notes.jsonl")
    assert len((cluster.folder / "notes.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["slurm.partition=nowhere"], "Partitions here: grace, main, urgent"),
        (["slurm.time=2-00:00:00"], "Slurm refused the job"),
        (["slurm.nodes=9"], "Slurm refused the job"),
        (
            ["model.encoder=nobody/nothing"],
            "with the same HF_HOME: medtuner fetch CONFIG",
        ),
        (["data.train=absent.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_mistakes_are_found_before_the_queue(cluster: Cluster, settings: Sequence[str], message: str) -> None:
    options = [word for setting in ("run.name=refused", *settings) for word in ("--set", setting)]
    done = cluster.medtuner("submit", "train", cluster.config.name, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in words(done)
    assert "Traceback" not in done.stderr
    assert not (cluster.folder / "runs" / "refused").exists(), "a refused submission leaves nothing behind"


def test_what_waits_is_what_was_submitted(cluster: Cluster, tmp_path: Path) -> None:
    """Source, configuration and shell may change while a job waits."""
    shutil.copytree(SOURCE, tmp_path / "medtuner")
    leaked = {"SLURM_CPU_BIND": "mask_cpu:0x1", "SLURM_JOB_ID": "7", "SBATCH_PARTITION": "urgent"}
    keys = cluster.set_keys("waiting", "slurm.extra=['--hold']", "slurm.setup=['env > $logs/env.txt']")
    submitted = cluster.medtuner("submit", "train", cluster.config.name, *keys, PYTHONPATH=str(tmp_path), **leaked)
    assert submitted.returncode == 0, submitted.stderr
    run = cluster.folder / "runs" / "waiting"
    assert (cluster.status(run)["state"], cluster.status(run)["reason"]) == ("pending", "JobHeldUser")
    for path in (tmp_path / "medtuner").rglob("*.py"):
        path.write_text("raise SystemExit('edited while the job waited')\n")
    kept = cluster.config.read_text()
    cluster.config.write_text("[train]\nepochs = 0\n")
    cluster.call("scontrol", "release", cluster.job(run))
    cluster.finish(run)
    cluster.config.write_text(kept)
    lines = (run / "logs" / "env.txt").read_text().splitlines()
    assert f"PYTHONPATH={run}/submitted/code" in [line.partition(":")[0] for line in lines]
    assert "SLURM_JOB_PARTITION=main" in lines
    assert f"SLURM_JOB_ID={cluster.job(run)}" in lines
    assert not any(line.startswith("SLURM_CPU_BIND=") for line in lines)

    cluster.call("scontrol", "requeue", cluster.job(run))
    cluster.wait((run / "logs" / "attempt-1.out").exists, "the requeued job")
    cluster.wait(lambda: "nothing to do" in cluster.logs_of(run), "the end of a finished run")
    assert len(attempts(run)) == 1, "a finished run that is started again exits at once"


def test_a_job_that_never_ran_has_vanished_and_is_submitted_again(cluster: Cluster) -> None:
    run = cluster.submit("vanished", "slurm.extra=['--hold']")
    first = cluster.job(run)
    cluster.call("scancel", first)
    cluster.wait(lambda: cluster.status(run)["state"] == "vanished", "the end of the job")
    assert "left the queue without a word" in str(cluster.status(run)["reason"])
    cluster.submit("vanished", "slurm.extra=['--hold']")
    assert cluster.job(run) != first
    assert "cancelled job" in cluster.medtuner("cancel", str(run)).stdout
