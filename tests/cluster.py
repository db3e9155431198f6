"""The test cluster and what tests do to it: submit, wait, preempt, cut the power."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from conftest import small_config

SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm_cluster.py"
SOURCE = Path(__file__).parents[1] / "src" / "medtuner"
WAIT_S = int(os.environ.get("MEDTUNER_TEST_WAIT", "240"))
SLURM = """
tokens_per_rank = 128
precision = "fp32"
[slurm]
time = "00:05:00"
signal_lead = 30
tasks_per_node = 2
"""
LONG: Sequence[str] = ("train.epochs=30", "train.evaluate_every=100000")


class Cluster:
    """The test cluster, and medtuner and Slurm commands that speak to it from one folder."""

    def __init__(self, root: Path, folder: Path, encoder: str) -> None:
        self.root = root
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf"), "COLUMNS": "80"}
        self.config = folder / "small.toml"
        self.config.write_text(small_config(encoder).replace("checkpoint_every = 5", "checkpoint_every = 50") + SLURM)

    def call(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def medtuner(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "medtuner", *arguments, **variables)

    def set_keys(self, name: str, *settings: str) -> list[str]:
        return [word for setting in (f"run.name={name}", *settings) for word in ("--set", setting)]

    def submit(self, name: str, *settings: str) -> Path:
        done = self.medtuner("submit", "train", self.config.name, *self.set_keys(name, *settings))
        assert done.returncode == 0, done.stdout + done.stderr
        return self.folder / "runs" / name

    def job(self, run: Path) -> str:
        return str(json.loads((run / "submitted" / "job.json").read_text())["job"])

    def state(self, job: str) -> str:
        return self.call("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").stdout.strip()

    def status(self, run: Path) -> dict[str, object]:
        return dict(json.loads(self.medtuner("status", str(run), "--json").stdout))

    def manifest(self, run: Path) -> str:
        path = run / "manifest.json"
        return str(json.loads(path.read_text())["state"]) if path.exists() else ""

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, f"waited for {what}:\n{self.call('squeue').stdout}\n{self.logs()}"
            time.sleep(0.2)

    def finish(self, run: Path) -> None:
        self.wait(lambda: self.manifest(run) in ("finished", "failed"), f"the end of {run.name}")
        assert self.manifest(run) == "finished", self.logs()

    def wait_for_attempt(self, run: Path, number: int, *, steps: int = 5) -> None:
        """Wait until an attempt is training and has logged some steps of its own."""

        def trains() -> bool:
            rows = attempts(run)
            return len(rows) > number and len(losses(run)) >= rows[number]["first_step"] + steps

        self.wait(trains, f"attempt {number} of {run.name}")

    def ranks(self, run: Path) -> list[int]:
        """Return the processes of a run's ranks, in the order of their numbers."""
        found = subprocess.run(["pgrep", "-f", f"medtuner train {run}"], capture_output=True, text=True, check=False)
        ranks: dict[int, int] = {}
        for pid in found.stdout.split():
            process = Path("/proc") / pid
            for entry in (process / "environ").read_bytes().split(b"\0"):
                if entry.startswith(b"SLURM_PROCID=") and "python" in (process / "comm").read_text():
                    ranks[int(entry.partition(b"=")[2])] = int(pid)
        return [ranks[number] for number in sorted(ranks)]

    def logs_of(self, run: Path) -> str:
        return "\n".join(path.read_text() for path in sorted((run / "logs").glob("*.out")))

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.rglob("logs/*.out")))


def attempts(run: Path) -> list[dict[str, object]]:
    path = run / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(run: Path) -> list[float]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # being written
    return [row["loss"] for row in rows if "loss" in row]


def words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def preempt(cluster: Cluster, run: Path) -> None:
    """Let a job of the urgent partition take the run's node, and wait until the run has saved."""
    node = cluster.call("squeue", "-h", "-j", cluster.job(run), "-o", "%N").stdout.strip()
    done = cluster.call("sbatch", "-p", "urgent", "-w", node, "-n4", "-N1", "-o", "/dev/null", "--wrap", "sleep 2")
    assert done.returncode == 0, done.stderr
    number = len(attempts(run)) - 1
    cluster.wait(lambda: attempts(run)[number]["reason"] == "preempted", "the preemption")


def reach_time_limit(cluster: Cluster, run: Path) -> None:
    """Cut the limit to one minute, so that Slurm signals soon: 30 s before it, up to 60 s early; then restore it."""
    job, number = cluster.job(run), len(attempts(run)) - 1
    cluster.call("scontrol", "update", f"jobid={job}", "TimeLimit=1")
    cluster.wait(lambda: attempts(run)[number]["reason"] != "running", "the time limit")
    cluster.wait(lambda: cluster.state(job) == "PENDING", "the requeued job")
    cluster.call("scontrol", "update", f"jobid={job}", "TimeLimit=5")


def lose_node(cluster: Cluster, run: Path) -> None:
    """Kill a node's slurmd, its step daemons and what they run, as a power cut does; start slurmd anew."""
    node = cluster.call("squeue", "-h", "-j", cluster.job(run), "-o", "%N").stdout.strip()
    victims = [int((cluster.root / "run" / f"slurmd-{node}.pid").read_text())]
    job = cluster.job(run)
    for pattern in (rf"slurmstepd: \[{job}\.", f"job{int(job):05d}/slurm_script", f"medtuner train {run}"):
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False).stdout
        victims += [int(pid) for pid in found.split()]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    cluster.wait(lambda: "DOWN" in cluster.call("sinfo", "-h", "-n", node, "-o", "%T").stdout.upper(), "the lost node")
    subprocess.run(["/usr/sbin/slurmd", "-N", node], env=cluster.environment, check=True, stdout=subprocess.DEVNULL)
