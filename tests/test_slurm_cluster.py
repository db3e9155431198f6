"""Runs on a real Slurm cluster: four slurmd on this machine, brought up and taken down by `scripts/slurm_cluster.py`."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from medtuner.runs import sha256_file

pytestmark = pytest.mark.slurm
SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm_cluster.py"
WAIT_S = 240


class Cluster:
    """The test cluster, and medtuner and Slurm commands that speak to it from one folder."""

    def __init__(self, root: Path, folder: Path, encoder: str) -> None:
        self.root = root
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf"), "COLUMNS": "80"}
        self.config = folder / "small.toml"
        self.config.write_text(
            f"""
            [run]
            name = "small"
            [data]
            train_limit = 200
            dev_limit = 30
            test_limit = 40
            [model]
            encoder = "{encoder}"
            max_tokens = 64
            overlap = 8
            [train]
            epochs = 2
            tokens_per_batch = 512
            tokens_per_rank = 128
            checkpoint_every = 50
            log_every = 1
            precision = "fp32"
            [evaluate]
            bootstrap = 50
            [slurm]
            time = "00:05:00"
            signal_lead = 30
            tasks_per_node = 2
            """
        )

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def medtuner(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "medtuner", *arguments)

    def submit(self, name: str, *settings: str) -> Path:
        options = [word for setting in (f"run.name={name}", *settings) for word in ("--set", setting)]
        done = self.medtuner("submit", "train", self.config.name, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.folder / "runs" / name

    def job(self, run: Path) -> str:
        return str(json.loads((run / "submitted" / "job.json").read_text())["job"])

    def state(self, job: str) -> str:
        return self.call("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").stdout.strip()

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

    def logs_of(self, run: Path) -> str:
        return "\n".join(path.read_text() for path in sorted((run / "logs").glob("*.out")))

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.rglob("logs/*.out")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, small_encoder: str) -> Iterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="medtuner-slurm-"))
    root.chmod(0o755)  # munged runs as another user, who must reach its socket
    done = subprocess.run(
        [sys.executable, SCRIPT, "up", "--root", root], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        # Where these tests are meant to run, a cluster that does not come up is a failure.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"no Slurm cluster on this machine: {done.stderr.strip()}"
        )
    try:
        yield Cluster(root, tmp_path_factory.mktemp("work"), small_encoder)
    finally:
        subprocess.run([sys.executable, SCRIPT, "down", "--root", root], check=True, timeout=120)


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


def preempt(cluster: Cluster, run: Path) -> None:
    node = cluster.call("squeue", "-h", "-j", cluster.job(run), "-o", "%N").stdout.strip()
    done = cluster.call("sbatch", "-p", "urgent", "-w", node, "-n4", "-N1", "-o", "/dev/null", "--wrap", "sleep 2")
    assert done.returncode == 0, done.stderr


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


LONG: Sequence[str] = ("train.epochs=30", "train.evaluate_every=100000")


def test_preemption_and_a_lost_node_lose_no_bit(cluster: Cluster) -> None:
    run = cluster.submit("disturbed", *LONG)
    cluster.wait_for_attempt(run, 0)
    preempt(cluster, run)
    cluster.wait(lambda: attempts(run)[0]["reason"] == "preempted", "the first preemption")
    cluster.wait_for_attempt(run, 1)
    lose_node(cluster, run)
    cluster.wait_for_attempt(run, 2)
    cluster.finish(run)
    calm = cluster.submit("calm", *LONG)
    cluster.finish(calm)
    rows = attempts(run)
    assert [row["reason"] for row in rows] == ["preempted", "node_failure", "finished"]
    assert rows[0]["last_step"] == rows[1]["first_step"], "no step was lost to the announced stop"
    assert rows[1]["last_step"] == rows[2]["first_step"]
    assert sha256_file(run / "model" / "model.safetensors") == sha256_file(calm / "model" / "model.safetensors")
    assert losses(run) == losses(calm)
    assert (run / "scores.json").read_bytes() == (calm / "scores.json").read_bytes()
    assert len(list((run / "logs").glob("attempt-?.out"))) == 3, "one log an attempt"


def test_signals_from_the_first_moment_on_are_heard(cluster: Cluster) -> None:
    run = cluster.submit("early", *LONG, "slurm.requeue=false")
    job = cluster.job(run)
    cluster.wait(lambda: cluster.state(job) == "RUNNING", "the start")
    time.sleep(0.3)
    for number in ("USR1", "USR2", "TERM", "USR1"):
        cluster.call("scancel", "-s", number, job)
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
    found = subprocess.run(["pgrep", "-f", f"medtuner train {run}"], capture_output=True, text=True, check=False).stdout
    ranks = [
        int(pid)
        for pid in found.split()
        if b"SLURM_PROCID=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
        and "python" in Path(f"/proc/{pid}/comm").read_text()
    ]
    os.kill(ranks[0], signal.SIGUSR2)
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
    subprocess.run(["pkill", "-KILL", "-o", "-f", f"python -m medtuner train {run}"], check=True)
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
        (["model.encoder=nobody/nothing"], "hf download nobody/nothing"),
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


def test_status_lives_without_slurmctld(cluster: Cluster) -> None:
    run = cluster.folder / "runs" / "one-rank"
    broken = cluster.environment | {"SLURM_CONF": str(cluster.folder / "absent.conf")}
    done = subprocess.run(
        [sys.executable, "-m", "medtuner", "status", str(run)],
        env=broken, cwd=cluster.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "unknown" in done.stdout
    assert "squeue" in done.stderr
