"""Longer stories on the test cluster: groups, environments on the node, stops at odd moments, limits of accounting."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import LONG, Cluster, attempts, losses, words

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
SWEEP = ("--sweep", "train.lr=1e-3,2e-3", "--seeds", "1-4")


def test_a_sweep_of_which_three_tasks_are_killed_completes_exactly_those(cluster: Cluster) -> None:
    keys = cluster.set_keys("sweep", "slurm.tasks_per_node=1", "slurm.max_running=2", "train.epochs=1")
    command = ("submit", "train", cluster.config.name, *keys, *SWEEP)
    first = cluster.medtuner(*command)
    assert first.returncode == 0, first.stderr
    group = cluster.folder / "runs" / "sweep"
    names = [member["name"] for member in json.loads((group / "group.json").read_text())["members"]]
    array = cluster.job(group / names[0]).partition("_")[0]
    assert [cluster.job(group / name) for name in names] == [f"{array}_{index}" for index in range(8)]
    again = cluster.medtuner(*command)
    assert "in the queue already: 8" in again.stdout
    for index in (2, 5, 7):
        cluster.call("scancel", f"{array}_{index}")

    def ended() -> bool:
        running = cluster.call("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").stdout.split()
        assert len(running) <= 2, "the array is throttled"
        return not cluster.call("squeue", "-h", "-j", array).stdout.strip()

    cluster.wait(ended, "the first array")
    finished = [name for name in names if cluster.manifest(group / name) == "finished"]
    assert finished == [name for index, name in enumerate(names) if index not in (2, 5, 7)]
    before = {name: (group / name / "manifest.json").read_bytes() for name in finished}

    rerun = cluster.medtuner(*command)
    assert "3 of 8 runs" in rerun.stdout, rerun.stdout + rerun.stderr
    assert "finished: 5" in rerun.stdout
    for name in names:
        cluster.finish(group / name)
    assert before == {name: (group / name / "manifest.json").read_bytes() for name in finished}
    done = cluster.medtuner(*command)
    assert "finished: 8" in done.stdout
    assert "submitted" not in done.stdout

    shown = cluster.medtuner("status", str(group))
    assert shown.stdout.count("finished") == 8
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    report = cluster.medtuner("report", str(group), "--bootstrap", "200")
    assert report.returncode == 0, report.stderr
    assert max(len(line) for line in report.stdout.splitlines()) <= 80
    summary = json.loads((group / "summary.json").read_text())
    assert [row["name"] for row in summary["systems"]] == ["sweep train.lr=1e-3", "sweep train.lr=2e-3"]
    assert [len(row["runs"]) for row in summary["systems"]] == [4, 4]
    assert {row["average"] for row in summary["comparisons"]} == {"micro", "macro"}


def test_a_group_and_a_run_never_share_a_folder(cluster: Cluster) -> None:
    held = cluster.set_keys("both", "slurm.extra=['--hold']")
    assert cluster.medtuner("submit", "train", cluster.config.name, *held, "--seeds", "1-2").returncode == 0
    single = cluster.medtuner("submit", "train", cluster.config.name, *held)
    assert "is a group of runs" in words(single)
    cancelled = cluster.medtuner("cancel", str(cluster.folder / "runs" / "both"))
    assert cancelled.stdout.count("cancelled job") == 2


def test_a_stop_while_testing_is_heard(cluster: Cluster) -> None:
    slow = ("data.test_limit=0", "evaluate.tokens_per_batch=8", "train.evaluate_every=100000", "data.dev_limit=1")
    run = cluster.submit("testing", *slow, "slurm.requeue=false", "slurm.time=00:20:00")
    cluster.wait(lambda: attempts(run) and _trained(run), "the last step")
    time.sleep(1)
    cluster.call("scancel", "-s", "USR2", cluster.job(run))
    cluster.wait(lambda: attempts(run)[0]["reason"] != "running", "the stop")
    assert attempts(run)[0]["reason"] == "signal", cluster.logs_of(run)
    assert "stopped while testing; training is done and saved" in cluster.logs_of(run)


def _trained(run: Path) -> bool:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return bool(rows) and rows[-1]["step"] == rows[-1]["num_steps"] and "dev_f1" in rows[-1]


def test_a_run_that_never_gains_a_step_is_given_up(cluster: Cluster) -> None:
    stop = "slurm.setup=['(sleep 1; scancel -s USR1 $SLURM_JOB_ID) &']"
    run = cluster.submit("stalled", "slurm.max_stalled=2", stop)
    cluster.wait(lambda: cluster.manifest(run) == "failed", "the verdict")
    assert "the last 2 attempts gained no step" in json.loads((run / "manifest.json").read_text())["reason"]
    assert len(attempts(run)) == 2
    cluster.wait(lambda: cluster.state(cluster.job(run)) in ("FAILED", ""), "the failed job")


def test_the_manifest_is_believed_and_not_the_exit_code(cluster: Cluster) -> None:
    """A batch script that ends in an echo makes any job COMPLETED."""
    lie = "slurm.setup=[\"trap 'echo all is well; exit 0' EXIT\"]"
    keys = cluster.set_keys("lie", *LONG, lie, "slurm.requeue=false")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "medtuner", "submit", "train", cluster.config.name, *keys, "--wait"],
        cwd=cluster.folder, env=cluster.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = cluster.folder / "runs" / "lie"
    cluster.wait_for_attempt(run, 0)
    os.kill(cluster.ranks(run)[1], signal.SIGKILL)
    said, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 2, said
    job = cluster.call("scontrol", "show", "job", cluster.job(run)).stdout
    assert "JobState=COMPLETED" in job
    assert "ExitCode=0:0" in job
    assert cluster.status(run)["state"] != "finished"


def test_a_job_that_cannot_save_before_its_limit_is_no_success(cluster: Cluster) -> None:
    """Slurm gives TIMEOUT the exit code 0:0; ranks that are frozen hear no signal."""
    run = cluster.submit("frozen", *LONG, "slurm.requeue=false")
    cluster.wait_for_attempt(run, 0)
    ranks = cluster.ranks(run)
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    cluster.call("scontrol", "update", f"jobid={cluster.job(run)}", "TimeLimit=1")
    cluster.wait(lambda: cluster.state(cluster.job(run)) in ("TIMEOUT", "FAILED"), "the end of the job")
    assert cluster.manifest(run) != "finished"
    assert cluster.status(run)["state"] in ("vanished", "failed", "interrupted")
    resumed = cluster.submit("frozen", *LONG)
    cluster.finish(resumed)
    assert losses(resumed)[-1] < losses(resumed)[0]


def test_training_and_status_live_through_an_outage_of_slurmctld(cluster: Cluster) -> None:
    run = cluster.submit("outage", *LONG)
    cluster.wait_for_attempt(run, 0)
    pid = int((cluster.root / "run" / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    steps = len(losses(run))
    status = cluster.medtuner("status", str(run))
    assert status.returncode == 0
    assert "unknown" in status.stdout
    cluster.wait(lambda: len(losses(run)) > steps + 5, "training goes on")
    environment = cluster.environment | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    subprocess.run(["slurmctld"], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cluster.finish(run)
    assert [row["reason"] for row in attempts(run)] == ["finished"]


def test_interactive_ranks_start_by_srun(cluster: Cluster) -> None:
    done = cluster.call(
        "salloc", "--nodes=2", "--ntasks-per-node=1", "--time=5", "srun", sys.executable, "-m", "medtuner", "train",
        cluster.config.name, "--set", "run.name=interactive",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 ranks" in done.stdout
    assert cluster.manifest(cluster.folder / "runs" / "interactive") == "finished"


def test_more_ranks_than_gpus_is_a_clear_error(cluster: Cluster) -> None:
    refused = cluster.medtuner(
        "submit",
        "train",
        cluster.config.name,
        *cluster.set_keys("gpus", "slurm.gpus_per_node=4", "slurm.tasks_per_node=2"),
    )
    assert "one rank works on one GPU" in words(refused)


def test_a_container_runs_the_ranks(cluster: Cluster, tmp_path: Path) -> None:
    """`apptainer` is a stand-in that notes its words and starts the command it was given."""
    tool = tmp_path / "bin" / "apptainer"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words-$SLURM_PROCID\n'
        'while [ "$1" != image.sif ]; do shift; done; shift; shift\n'
        f'exec {sys.executable} "$@"\n'
    )
    tool.chmod(0o755)
    (cluster.folder / "image.sif").write_text("")
    run = cluster.submit("container", "slurm.container=image.sif", f"slurm.setup=['PATH={tool.parent}:$PATH']")
    cluster.finish(run)
    for rank in range(2):
        said = (tmp_path / f"words-{rank}").read_text().splitlines()
        assert said[:2] == ["exec", "--bind"]
        assert str(cluster.folder) in said
        assert said.count("train") == 1
    missing = cluster.medtuner(
        "submit", "train", cluster.config.name, *cluster.set_keys("no", "slurm.container=no.sif")
    )
    assert "slurm.container = 'no.sif': no such file" in words(missing)


def test_a_job_builds_its_own_environment(cluster: Cluster, tmp_path: Path) -> None:
    keys = cluster.set_keys("venv", "slurm.environment=venv", f"slurm.setup=['export TMPDIR={tmp_path}']")
    cache = {"MEDTUNER_CACHE": str(tmp_path / "cache")}
    refused = cluster.medtuner("submit", "train", cluster.config.name, *keys, **cache)
    assert "medtuner fetch CONFIG" in words(refused)
    fetched = cluster.medtuner("fetch", cluster.config.name, *keys, **cache)
    assert fetched.returncode == 0, fetched.stderr
    assert "wheels: " in fetched.stdout
    submitted = cluster.medtuner("submit", "train", cluster.config.name, *keys, **cache)
    assert submitted.returncode == 0, submitted.stderr
    run = cluster.folder / "runs" / "venv"
    cluster.finish(run)
    job = cluster.job(run)
    assert f"{tmp_path}/{job}/venv: " in cluster.logs_of(run)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["command"][0].startswith(f"{run}/submitted/code/medtuner")
    cluster.wait(lambda: not (tmp_path / job / "venv").exists(), "the job's disk to be cleaned")


def test_limits_of_accounting_leave_runs_out_and_unknown_accounts_are_refused(accounting_cluster: Cluster) -> None:
    cluster = accounting_cluster
    for command in (
        ["add", "account", "lab"],
        ["add", "user", "root", "account=lab"],
        ["modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=3"],
    ):
        done = cluster.call("sacctmgr", "-i", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    refused = cluster.medtuner("submit", "train", cluster.config.name, *cluster.set_keys("x", "slurm.account=nobody"))
    assert refused.returncode == 2
    assert "Your accounts: lab, root. Set slurm.account" in words(refused)
    keys = cluster.set_keys("many", "slurm.account=lab", "slurm.tasks_per_node=1", "train.epochs=1")
    command = ("submit", "train", cluster.config.name, *keys, "--seeds", "1-5")
    first = cluster.medtuner(*command)
    assert first.returncode == 0, first.stderr
    assert "3 of 5 runs" in first.stdout
    assert "left out: 2" in first.stdout
    group = cluster.folder / "runs" / "many"
    for seed in (1, 2, 3):
        cluster.finish(group / f"seed-{seed}")
    cluster.wait(lambda: not cluster.call("squeue", "-h").stdout.strip(), "an empty queue")
    second = cluster.medtuner(*command)
    assert "2 of 5 runs" in second.stdout
    for seed in (4, 5):
        cluster.finish(group / f"seed-{seed}")
