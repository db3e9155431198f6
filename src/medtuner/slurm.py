"""The few commands that speak to a Slurm cluster: sbatch, squeue, scontrol, scancel, sinfo.

    job_id = submit(script, workdir=Path.cwd())
    queue_states()                                                          # {"1234": QueuedJob(state="RUNNING", ...)}

Every command has a time limit; a cluster that does not answer raises `SlurmError`, which says nothing about the jobs.
"""

import getpass
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtuner.attempts import Job
from medtuner.errors import MedtunerError

_TIMEOUT_S = 30
# Variables of the submitting job or shell that would reach into the new job (SLURM_CPU_BIND pins ranks).
_KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS")


class SlurmError(MedtunerError):
    """Slurm is missing, does not answer, or refuses what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """A job as `squeue` shows it; `end` is its time limit in seconds since the epoch, None while it waits."""

    id: str
    state: str
    reason: str
    end: float | None


def submit(script: str, *, workdir: Path) -> str:
    """Hand a script to `sbatch` in a scrubbed environment and return the job's id."""
    answer = _call(["sbatch", "--parsable"], workdir=workdir, text=script)
    return answer.strip().partition(";")[0]


def test_submission(script: str, *, workdir: Path) -> str:
    """Ask Slurm whether it would take the script, and return what it says of the start."""
    return _call(["sbatch", "--test-only"], workdir=workdir, text=script)


def _call(command: Sequence[str], *, workdir: Path, text: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "SRUN_")) or name in _KEPT_VARIABLES
    }
    done = _run(command, text=text, environment=environment, workdir=workdir)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).replace("sbatch: error: ", "")
        raise SlurmError(f"Slurm refused the job: {said}{_advice(said)}")
    return done.stdout or done.stderr


def _advice(said: str) -> str:
    if "account" in said:
        yours = _table(["sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=account"])
        names = ", ".join(sorted({row[0] for row in yours})) or "none that sacctmgr shows"
        return f"\nYour accounts: {names}. Set slurm.account, or slurm.partition to one that the account may use."
    if "partition" in said:
        return f"\nPartitions here: {', '.join(partitions()) or 'none that sinfo shows'}. Set slurm.partition."
    if "time limit" in said.lower():
        return "\nSet slurm.time to at most the partition's limit: sinfo -o '%P %l'."
    return ""


def partitions() -> list[str]:
    """Return the names of the cluster's partitions."""
    return sorted({name.rstrip("*") for name in _run(["sinfo", "-h", "-o", "%P"]).stdout.split()})


def _run(
    command: Sequence[str],
    *,
    text: str = "",
    environment: Mapping[str, str] | None = None,
    workdir: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise SlurmError(
            f"this machine has no Slurm ({command[0]} is not on the PATH). `medtuner train CONFIG` trains right here; to "
            "submit, log in to the cluster's login node (there, perhaps: module load slurm)."
        )
    try:
        return subprocess.run(
            command,
            input=text,
            env=environment,
            cwd=workdir,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer for {_TIMEOUT_S} s. Is slurmctld up? Try again later.") from None


def queue_states() -> dict[str, QueuedJob]:
    """Return this user's jobs in the queue by id (``12`` or ``12_3``), with one query.

    Raises `SlurmError` when Slurm does not answer, which says nothing about the jobs.
    """
    done = _run(["squeue", "-h", "-r", "--me", "-o", "%i|%T|%r|%e"])
    if done.returncode:
        raise SlurmError(f"squeue: {done.stderr.strip()}")
    return {job.id: job for job in map(_parse_queued, done.stdout.splitlines())}


def _parse_queued(line: str) -> QueuedJob:
    identifier, state, reason, end = line.split("|")
    return QueuedJob(id=identifier, state=state, reason=reason, end=_parse_time(end))


def _parse_time(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def cancel(job_ids: Sequence[str]) -> None:
    """Ask Slurm to end jobs; their ranks are told to save first. One that has ended meanwhile is no error."""
    done = _run(["scancel", *job_ids])
    if done.returncode and not set(job_ids).isdisjoint(queue_states()):
        raise SlurmError(f"scancel {' '.join(job_ids)}: {done.stderr.strip()}")


def current_job() -> Job:
    """Return the Slurm job this process runs in; an empty one outside Slurm.

    The task of an array is named ``12_3``: the last task has the array's own number for SLURM_JOB_ID.
    """
    identifier = os.environ.get("SLURM_JOB_ID", "")
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) and (task := os.environ.get("SLURM_ARRAY_TASK_ID")):
        identifier = f"{array}_{task}"
    return Job(id=identifier, restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")))


def job_end() -> float | None:
    """Return when the current job's time is up, in seconds since the epoch; None outside Slurm or when nobody knows.

    `SLURM_JOB_END_TIME` came with Slurm 23.02; `squeue` knows it everywhere.
    """
    if stated := os.environ.get("SLURM_JOB_END_TIME"):
        return float(stated)
    if not (job := current_job()).id:
        return None
    try:
        done = _run(["squeue", "-h", "-j", job.id, "-o", "%e"])
    except SlurmError:
        return None
    return _parse_time(done.stdout.strip())


def job_state() -> str:
    """Return the state of the current job as Slurm has it: RUNNING, COMPLETING, CANCELLED, ...; "" when it does not say."""
    return _show_job("JobState")


def is_preempted() -> bool:
    """Say whether the current job is in the grace time of a preemption; without grace only its log says so."""
    return _show_job("PreemptTime") not in ("", "None", "Unknown")


def says_preempted(log: Path) -> bool:
    """Say whether a step's log holds the line that slurmstepd writes when a job is preempted."""
    return log.exists() and "DUE TO PREEMPTION" in log.read_text(encoding="utf-8", errors="replace")


def _show_job(field: str) -> str:
    if not (job := current_job()).id:
        return ""
    try:
        shown = _run(["scontrol", "-o", "show", "job", job.id]).stdout
    except SlurmError:
        return ""
    found = re.search(rf"\b{field}=(\S+)", shown)
    return found[1] if found else ""


def max_array_size() -> int:
    """Return how many tasks one job array may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    return max(1, int(found[1])) if found else 1001


def room_in_queue(queued: int, *, account: str, qos: str) -> int | None:
    """Return how many more jobs this user may submit; None where accounting sets no limit or there is none.

    The limits are MaxSubmitJobs of the user's association and MaxSubmitJobsPerUser of its QOS; array tasks count one each.
    """
    if shutil.which("sacctmgr") is None:
        return None
    user = getpass.getuser()
    associations = _table(
        ["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,maxsubmit,defaultqos,qos"]
    )
    mine = [row for row in associations if not account or row[0] == account]
    names = {qos} if qos else {name for row in mine for name in (row[2] or row[3]).split(",")}
    qualities = _table(["sacctmgr", "-nP", "show", "qos", "format=name,maxsubmitjobsperuser"])
    limits = [row[1] for row in mine] + [row[1] for row in qualities if row[0] in names]
    rooms = [int(limit) - queued for limit in limits if limit.isdecimal()]
    return max(0, min(rooms)) if rooms else None


def _table(command: Sequence[str]) -> list[list[str]]:
    done = _run(command)
    return [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
