"""What runs are doing: one line a run from its folder and one query of the queue, its logs, and cancelling.

    for status in read_statuses([Path("runs/stage1")]): print(status.state, status.step, status.num_steps)

The truth about the end of a run is its manifest. The queue adds what only Slurm knows; when Slurm does not answer, the
rest is still told and the state of unfinished runs is marked as not known.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtuner import slurm
from medtuner.attempts import AttemptLog, goodput
from medtuner.errors import MedtunerError, RunError
from medtuner.groups import expand_groups, is_group
from medtuner.notifications import deliver
from medtuner.runs import read_json, read_metrics
from medtuner.submission import read_job

_FOLLOW_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One run at a glance; numbers are None where the run has not got that far."""

    run: str
    state: str
    reason: str
    job: str
    attempt: int | None
    step: int | None
    num_steps: int | None
    loss: float | None
    dev_f1: float | None
    tokens_per_s: float | None
    seconds_left: float | None
    goodput: float | None


ENDED = ("finished", "failed", "interrupted", "vanished", "new")  # new: nothing is under way for it


def find_runs(output: Path) -> list[Path]:
    """Return the folders of runs and of groups below a folder, by name."""
    return sorted({path.parent for name in ("config.toml", "group.json") for path in output.glob(f"*/{name}")})


def read_statuses(folders: Sequence[Path]) -> tuple[list[Status], str]:
    """Return the status of each run, and why the queue is not known ("" when it is); a group stands for its runs."""
    folders = expand_groups(folders)
    troubles = {trouble for trouble in map(_send_waiting, folders) if trouble}
    jobs = {folder: read_job(folder) for folder in folders}
    queue: Mapping[str, slurm.QueuedJob] | None = {}
    trouble = ""
    if any(jobs.values()):
        try:
            queue = slurm.queue_states()
        except slurm.SlurmError as error:
            queue, trouble = None, str(error)
    if trouble:
        troubles.add(trouble)
    return [_read_status(folder, jobs[folder], queue) for folder in folders], "; ".join(sorted(troubles))


def _send_waiting(folder: Path) -> str:
    """Let the messages leave that a node without internet has spooled."""
    try:
        deliver(folder)
    except (MedtunerError, OSError) as error:
        return str(error)
    return ""


def _read_status(folder: Path, job: str, queue: Mapping[str, slurm.QueuedJob] | None) -> Status:
    if not (folder / "config.toml").exists() and not is_group(folder.parent):
        raise RunError(
            f"{folder}: no run here (no config.toml). Runs stand in the folder run.output names, as runs/stage1."
        )
    metrics = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    logged = _last(metrics, "loss")
    state, reason = _judge(folder, job, queue)
    rows = AttemptLog(folder).rows()
    speed = logged.get("seconds", 0) / logged["step"] if logged.get("step") else None
    step, num_steps = logged.get("step"), logged.get("num_steps")
    left = speed * (num_steps - step) if speed and num_steps and step and state == "running" else None
    return Status(
        run=str(folder),
        state=state,
        reason=reason,
        job=job,
        attempt=rows[-1].attempt if rows else None,
        step=step,
        num_steps=num_steps,
        loss=logged.get("loss"),
        dev_f1=_last(metrics, "dev_f1").get("dev_f1"),
        tokens_per_s=logged.get("tokens_per_s"),
        seconds_left=left,
        goodput=goodput(rows) if rows else None,
    )


def _last(metrics: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    return next((row for row in reversed(metrics) if key in row), {})


def _judge(folder: Path, job: str, queue: Mapping[str, slurm.QueuedJob] | None) -> tuple[str, str]:
    """Return a run's state and, where there is one, the reason."""
    manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    if manifest.get("state") == "finished":
        return "finished", ""
    if job and queue is None:
        return "unknown", "Slurm does not answer"
    if job and queue and job in queue:
        queued = queue[job]
        return queued.state.lower(), "" if queued.reason == "None" else queued.reason
    if manifest:
        return str(manifest["state"]), str(manifest["reason"])
    rows = AttemptLog(folder).rows()
    if job:
        return "vanished", f"job {job} left the queue without a word; see medtuner logs {folder}, then submit it again"
    return ("running", f"on {rows[-1].host}") if rows and rows[-1].reason == "running" else ("new", "")


def find_logs(folder: Path, *, attempt: int | None, rank: int) -> list[Path]:
    """Return the log files of an attempt (the last one by default): the batch script's, then the rank's."""
    _refuse_group(folder)
    logs = folder / "logs"
    numbers = sorted(int(path.stem.split("-")[1]) for path in logs.glob("attempt-*.out") if path.stem.count("-") == 1)
    if not numbers:
        job = read_job(folder)
        array_logs = folder.parent / "logs" if is_group(folder.parent) else logs
        if early := sorted([*logs.glob("slurm-*.out"), *array_logs.glob(f"slurm-{job}.out")]):
            return early
        hint = f"Its job {job} has not started: medtuner status {folder}" if job else "It was never submitted."
        raise RunError(f"{folder}: no logs yet. {hint}")
    chosen = numbers[-1] if attempt is None else attempt
    if chosen not in numbers:
        raise RunError(f"{folder}: no attempt {attempt}. Attempts: {', '.join(map(str, numbers))}.")
    files = [logs / f"attempt-{chosen}.out", logs / f"attempt-{chosen}-rank-{rank}.out"]
    if not files[1].exists():
        others = sorted(path.stem.rpartition("-")[2] for path in logs.glob(f"attempt-{chosen}-rank-*.out"))
        if others and str(rank) not in others:
            raise RunError(f"{folder}: attempt {chosen} has no rank {rank}. Ranks: {', '.join(others)}.")
        return files[:1]
    return files


def follow(folder: Path, *, rank: int) -> Iterator[str]:
    """Yield what is written to the newest attempt's logs until the run's job is out of the queue."""
    _refuse_group(folder)
    read: dict[Path, int] = {}
    while True:
        alive = read_statuses([folder])[0][0].state in ("pending", "running", "completing", "unknown", "configuring")
        try:
            files = find_logs(folder, attempt=None, rank=rank)
        except RunError:
            files = []
        for path in files:
            with path.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(read.get(path, 0))
                yield stream.read()
                read[path] = stream.tell()
        if not alive:
            return
        time.sleep(_FOLLOW_EVERY_S)


def _refuse_group(folder: Path) -> None:
    if is_group(folder):
        names = ", ".join(run.name for run in expand_groups([folder]))
        raise RunError(f"{folder} is a group; name one of its runs: {names}.")


def cancel_runs(folder: Path) -> list[str]:
    """Cancel the job of a run, or of every run of a group that is in the queue; return their ids."""
    jobs = [read_job(run) for run in expand_groups([folder])]
    queue = slurm.queue_states()
    queued = [job for job in jobs if job in queue]
    if not queued:
        known = f"its job {jobs[0]} is not in the queue" if any(jobs) else "no job was submitted for it"
        raise RunError(f"{folder}: {'none of its runs is in the queue' if is_group(folder) else known}.")
    slurm.cancel(queued)
    return queued
