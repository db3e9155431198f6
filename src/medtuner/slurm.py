"""Slurm: the text of a batch script, and the few commands that speak to the cluster.

    script = render(JobScript(name="stage1", options=config.slurm, ...))    # a pure function to text a person can read
    job_id = submit(script, workdir=Path.cwd())
    queue_states()                                                          # {"1234": QueuedJob(state="RUNNING", ...)}

What the rendering relies on, measured on Slurm 22.05: ranks started by `srun` get signals themselves, without a shell
around them; a batch script lives through TERM when it traps it and waits for a background `srun`; requeueing from inside
a rank kills the other ranks, so the script asks for it after `srun` has ended; a requeue truncates logs unless every
attempt has its own file.
"""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtuner.attempts import Job
from medtuner.config import SlurmSection, num_gpus
from medtuner.errors import MedtunerError

_TIMEOUT_S = 30
# Variables of the submitting job or shell that would reach into the new job (SLURM_CPU_BIND pins ranks).
_KEPT_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS")


class SlurmError(MedtunerError):
    """Slurm is missing, does not answer, or refuses what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScript:
    """What a batch script is rendered from.

    `command` is run by every rank. With `settle` (a command that gets the run folder into order and says by its exit code
    what became of the run) the job takes part in the life of a run: one log an attempt, requeue after an orderly stop.
    """

    name: str
    options: SlurmSection
    workdir: Path
    logs: Path
    command: Sequence[str]
    settle: Sequence[str] = ()
    code: Path | None = None
    num_tasks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """A job as `squeue` shows it; `end` is its time limit in seconds since the epoch, None while it waits."""

    id: str
    state: str
    reason: str
    end: float | None


def render(job: JobScript) -> str:
    """Return the batch script."""
    lines = ["#!/bin/bash", *(f"#SBATCH {directive}" for directive in _directives(job)), ""]
    lines += [f"cd {_quote(job.workdir)} || exit 2", f"logs={_quote(job.logs)}"]
    lines += ["export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1"]
    if job.code is not None:
        lines.append(f'export PYTHONPATH={_quote(job.code)}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    lines.append(f"export OMP_NUM_THREADS={job.options.cpus_per_task}")
    lines += list(job.options.setup)
    lines += ["", "# One log for every attempt: a requeue would write over it.", "attempt=0"]
    lines += ['while [ -e "$logs/attempt-$attempt.out" ]; do attempt=$((attempt + 1)); done']
    lines += [
        'exec > "$logs/attempt-$attempt.out" 2>&1',
        'echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date)"',
        "",
    ]
    lines += ["# Signals wait until Python listens; where env cannot hold them back they are heard a moment later."]
    lines += [
        "hold=()",
        "env --block-signal=USR1,USR2,TERM true 2> /dev/null && hold=(env --block-signal=USR1,USR2,TERM)",
        "",
    ]
    lines += [
        "# Slurm signals the ranks itself. This script outlives the signal and waits until all of them have saved."
    ]
    lines += ["trap : TERM USR1 USR2"]
    lines += [
        'srun --kill-on-bad-exit=1 --output="$logs/attempt-$attempt-rank-%t.out" \\',
        f'    "${{hold[@]}}" {shlex.join(job.command)} < /dev/null &',
        "ranks=$!",
        'wait "$ranks"; code=$?',
        'while kill -0 "$ranks" 2> /dev/null; do wait "$ranks"; code=$?; done',
        'echo "srun ended with $code, $(date)"',
    ]
    if not job.settle:
        return "\n".join([*lines, 'exit "$code"', ""])
    requeue = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    lines += [
        "",
        "# The run folder says what became of the run, not the exit code. 75: stopped after saving, to be requeued.",
        f'{shlex.join(job.settle)} --code "$code" --log "$logs/attempt-$attempt-rank-0.out"; code=$?',
        'if [ "$code" = 75 ]; then',
        f"    scontrol requeue {requeue} && exit 3",
        '    echo "Slurm refused the requeue (it may be requeueing already)."; exit 3',
        "fi",
        'exit "$code"',
    ]
    return "\n".join([*lines, ""])


def _directives(job: JobScript) -> list[str]:
    options = job.options
    gpus = num_gpus(options.gpus_per_node)
    tasks = job.num_tasks or options.tasks_per_node or max(1, gpus)
    values: Mapping[str, object] = {
        "job-name": job.name,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "time": options.time,
        "nodes": options.nodes if not job.num_tasks else 1,
        "ntasks-per-node": tasks,
        "cpus-per-task": options.cpus_per_task,
        "gpus-per-node": options.gpus_per_node if gpus else "",
        "mem": options.mem,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "dependency": options.dependency,
        "mail-user": options.mail,
        "mail-type": "END,FAIL" if options.mail else "",
        "signal": f"USR1@{options.signal_lead}",
        # What goes wrong before the script has opened an attempt's log.
        "output": f"{_escape_pattern(job.logs)}/slurm-%j.out",
        "open-mode": "append",
    }
    directives = [f"--{name}={_quote(value)}" for name, value in values.items() if value != ""]
    for directive in directives:
        if "\n" in directive:
            raise SlurmError(f"{directive!r}: sbatch takes no line break in an option. Rename the folder or the run.")
    return [*directives, "--requeue" if options.requeue and job.settle else "--no-requeue", *options.extra]


def _quote(word: object) -> str:
    return shlex.quote(str(word))


def _escape_pattern(path: Path) -> str:
    return str(path).replace("%", "%%")


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
    if "partition" in said:
        return f"\nPartitions here: {', '.join(partitions()) or 'none that sinfo shows'}. Set slurm.partition."
    if "account" in said:
        return "\nSet slurm.account to an account of yours: sacctmgr show associations user=$USER format=account."
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


def cancel(job_id: str) -> None:
    """Ask Slurm to end a job; its ranks are told to save first."""
    done = _run(["scancel", job_id])
    if done.returncode:
        raise SlurmError(f"scancel {job_id}: {done.stderr.strip()}")


def current_job() -> Job:
    """Return the Slurm job this process runs in; an empty one outside Slurm."""
    return Job(id=os.environ.get("SLURM_JOB_ID", ""), restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")))


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
