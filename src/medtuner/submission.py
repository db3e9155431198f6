"""From a configuration to a job in the queue: checks, a frozen copy of code and configuration, the script, sbatch.

    submitted = submit_training(config)
    submitted.job_id, submitted.script

What a job runs is what stood here when it was submitted: the package is copied into ``RUN/submitted/code``, the resolved
configuration into ``RUN/submitted/config.toml``; editing either while the job waits changes nothing.
"""

import importlib.metadata
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from medtuner import slurm
from medtuner.attempts import Attempt, AttemptLog, count_stalled
from medtuner.batch_script import JobScript, Wheels, render
from medtuner.caches import cache_variables
from medtuner.config import Config, Event, SlurmSection, config_to_toml
from medtuner.errors import RunError
from medtuner.groups import Member, is_group, write_members
from medtuner.notifications import announce
from medtuner.runs import (
    claim,
    is_finished,
    read_json,
    run_folder,
    timestamp,
    write_folder,
    write_json,
    write_manifest,
    write_text,
)
from medtuner.wheels import wheel_folder

T = TypeVar("T")

INTERRUPTED = 3  # the exit code of `train` after an orderly stop
REQUEUE = 75  # the exit code of `settle` that asks the script for a requeue (EX_TEMPFAIL of sysexits.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job's id and the script it was made from."""

    job_id: str
    script: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedGroup:
    """What became of each run of a group: submitted (by job), finished or queued already, or left out, and why."""

    jobs: Mapping[str, Sequence[str]]
    finished: Sequence[str]
    queued: Sequence[str]
    left: Sequence[str]
    why_left: str


def _job_script(command: Sequence[str], *, name: str, options: SlurmSection, folder: Path, kept: Path) -> JobScript:
    return JobScript(
        name=name,
        options=options,
        workdir=Path.cwd(),
        folder=folder.resolve(),
        python=sys.executable,
        command=command,
        code=kept.resolve() / "code",
        exports=cache_variables(),
        wheels=_job_wheels() if options.environment == "venv" else None,
        binds=_unique([Path.cwd(), folder.resolve(), kept.resolve(), *map(Path, cache_variables().values())]),
    )


def _job_wheels() -> Wheels:
    return Wheels(folder=wheel_folder().absolute(), python=str(getattr(sys, "_base_executable", sys.executable)))


def _unique(paths: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def _own_files(config: Config) -> list[Path]:
    """Return the files and folders that a configuration names and that lie here, as absolute paths."""
    data, model = config.data, config.model
    named = [Path(name) for name in (data.train, data.dev, data.test, model.encoder, model.init_from) if name]
    return [path.resolve() for path in named if path.exists()]


def training_script(config: Config, *, members: Sequence[str] = (), kept: Path | None = None) -> JobScript:
    """Return what the batch script of a run, or of some members of a group, is rendered from; touches nothing."""
    folder = run_folder(config)
    script = _job_script(
        ["train"], name=config.run.name, options=config.slurm, folder=folder, kept=kept or folder / "submitted"
    )
    binds = _unique([*script.binds, *_own_files(config)])
    return replace(script, settle="settle", members=members, binds=binds)


def submit_training(config: Config) -> Submitted:
    """Check a run, freeze its code and configuration, and submit it.

    Raises `RunError` when the run is finished or has a job already, `SlurmError` when Slurm refuses it.
    """
    folder = run_folder(config)
    if is_group(folder):
        raise RunError(f"{folder} is a group of runs. Repeat its --seeds or --sweep, or choose another run.name.")
    if is_finished(folder):
        claim(folder, config, data_sha256=None)
        raise RunError(f"{folder} is finished; there is nothing to submit. Its page: {folder / 'report.html'}")
    job_id = read_job(folder)
    if job_id and (queued := slurm.queue_states().get(job_id)):
        raise RunError(
            f"{folder}: its job {job_id} is {queued.state.lower()} already. See `medtuner status {folder}`; to end it: "
            f"medtuner cancel {folder}"
        )
    script = render(training_script(config))
    slurm.test_submission(script, workdir=Path.cwd())
    _prepare_run(folder, config)
    submitted = _send(script, folder / "submitted")
    _note_job(folder, submitted.job_id)
    return submitted


def _prepare_run(folder: Path, config: Config) -> None:
    """Claim a run's folder and lay down what its job reads; without the log folder a job dies at once, saying nothing."""
    claim(folder, config, data_sha256=None)
    write_text(folder / "submitted" / "config.toml", config_to_toml(config))
    (folder / "logs").mkdir(exist_ok=True)


def submit_group(config: Config, runs: Sequence[tuple[Member, Config]]) -> SubmittedGroup:
    """Submit those runs of a group that are neither finished nor queued, as job arrays as long as Slurm takes them.

    Raises what `submit_training` raises. What a limit on submitted jobs leaves out is named, to be submitted later.
    """
    group = run_folder(config)
    for member, own in runs:
        if (group / member.name / "config.toml").exists():
            claim(group / member.name, own, data_sha256=None)
    queue = slurm.queue_states()
    finished = [member.name for member, _ in runs if is_finished(group / member.name)]
    queued = [member.name for member, _ in runs if read_job(group / member.name) in queue]
    missing = [(member, own) for member, own in runs if member.name not in {*finished, *queued}]
    room = slurm.room_in_queue(len(queue), account=config.slurm.account, qos=config.slurm.qos)
    accepted = missing if room is None else missing[:room]
    why_left = "the cluster lets you have no more jobs at once"
    jobs: dict[str, Sequence[str]] = {}
    for chunk in chunks(accepted, slurm.max_array_size()):
        kept = _next_submission(group)
        names = [member.name for member, _ in chunk]
        script = render(training_script(config, members=names, kept=kept))
        try:
            slurm.test_submission(script, workdir=Path.cwd())
            write_members(group, [member for member, _ in runs])
            for member, own in chunk:
                _prepare_run(group / member.name, own)
            (group / "logs").mkdir(exist_ok=True)
            job_id = _send(script, kept).job_id
        except slurm.SlurmError as error:
            if not jobs:
                raise
            why_left = str(error)
            break
        for index, name in enumerate(names):
            _note_job(group / name, f"{job_id}_{index}")
        jobs[job_id] = names
    write_members(group, [member for member, _ in runs])
    left = [member.name for member, _ in missing[sum(map(len, jobs.values())) :]]
    return SubmittedGroup(jobs=jobs, finished=finished, queued=queued, left=left, why_left=why_left if left else "")


def chunks(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """Divide rows into as few parts of at most `size` as there can be."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _next_submission(group: Path) -> Path:
    """Return a new folder for an array's script and code; earlier arrays may still run what they were given."""
    number = len(list((group / "submitted").glob("*"))) + 1
    return group / "submitted" / str(number)


def command_script(command: Sequence[str], *, name: str, options: SlurmSection, folder: Path) -> JobScript:
    """Return what the batch script of one medtuner command is rendered from; logs and script lie in `folder`."""
    script = _job_script(command, name=name, options=options, folder=folder, kept=folder / "submitted")
    return replace(script, num_tasks=1)


def submit_command(job: JobScript, *, folder: Path) -> Submitted:
    """Submit a job made by `command_script`."""
    script = render(job)
    slurm.test_submission(script, workdir=Path.cwd())
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    submitted = _send(script, folder / "submitted")
    _note_job(folder, submitted.job_id)
    return submitted


def _send(script: str, kept: Path) -> Submitted:
    """Freeze the code, keep the script and submit it; caches that a container binds must exist."""
    for cache in cache_variables().values():
        Path(cache).mkdir(parents=True, exist_ok=True)
    freeze(kept / "code")
    write_text(kept / "job.sh", script)
    return Submitted(job_id=slurm.submit(script, workdir=Path.cwd()), script=script)


def _note_job(folder: Path, job_id: str) -> None:
    write_json(folder / "submitted" / "job.json", {"job": job_id, "time": timestamp()})


def read_job(folder: Path) -> str:
    """Return the id of the job submitted last for a folder, "" when there was none."""
    path = folder / "submitted" / "job.json"
    return str(read_json(path)["job"]) if path.exists() else ""


def freeze(code: Path) -> None:
    """Copy the running package and its metadata into a folder."""

    def fill(aside: Path) -> None:
        shutil.copytree(Path(__file__).parent, aside / "medtuner", ignore=shutil.ignore_patterns("__pycache__"))
        distribution = importlib.metadata.distribution("medtuner")
        metadata = aside / f"medtuner-{distribution.version}.dist-info"
        metadata.mkdir()
        write_text(metadata / "METADATA", distribution.read_text("METADATA") or "")

    write_folder(code, fill)


def settle(folder: Path, config: Config, *, code: int, log: Path) -> tuple[int, str]:
    """Bring a run's story in order after its ranks have ended and tell of its end; return exit code and a sentence."""
    exit_code, sentence = _settle(folder, config.slurm, code=code, log=log)
    event: Event = "requeued" if exit_code == REQUEUE else "finished" if exit_code == 0 else "failed"
    trouble = "" if exit_code == INTERRUPTED else announce(folder, config.notify, event)
    return exit_code, f"{sentence}\n{trouble}".strip()


def _tell_failure(folder: Path, attempt: Attempt, reason: str) -> None:
    """Write a failed run's manifest, unless the attempt itself has done so and knows more."""
    path = folder / "manifest.json"
    told = read_json(path) if path.exists() else {"state": "", "time": ""}
    if told["state"] != "failed" or told["time"] < attempt.start:
        write_manifest(folder, state="failed", reason=reason)


def _settle(folder: Path, options: SlurmSection, *, code: int, log: Path) -> tuple[int, str]:
    """Bring a run's story in order after its ranks have ended; return the job's exit code and a sentence for the log.

    The manifest decides, not `code`. `REQUEUE` asks for another attempt: after an orderly stop, and after ranks that a
    signal killed though the attempt had gained steps; never beyond `slurm.max_restarts`, nor when the last
    `slurm.max_stalled` attempts gained nothing.
    """
    story = AttemptLog(folder)
    story.close_open(reason="finished" if is_finished(folder) else "error")
    if is_finished(folder):
        return 0, "finished"
    job = slurm.current_job()
    if not any((row.job, row.restarts) == (job.id, job.restarts) for row in story.rows()):
        # It ended before its first step; the row keeps count of attempts that gain nothing.
        step = story.rows()[-1].last_step if story.rows() else 0
        story.close(
            story.begin(job=job, step=step, started=time.time()), reason="signal" if code == INTERRUPTED else "error"
        )
    if story.rows()[-1].reason == "signal" and slurm.says_preempted(log):
        story.explain("preempted")
    rows = story.rows()
    orderly = rows[-1].reason in ("preempted", "deadline", "signal")
    killed = code > 128 and rows[-1].last_step > rows[-1].first_step
    if not (orderly or killed):
        _tell_failure(folder, rows[-1], f"ended with {code}; see {log}")
        return code or 1, f"ended with {code}; not requeued"
    if (state := slurm.job_state()) != "RUNNING":
        return INTERRUPTED, f"saved; the job is {state.lower()}, so Slurm itself decides whether it runs again"
    if not options.requeue:
        return INTERRUPTED, "stopped after saving; slurm.requeue = false, so submit it again to go on"
    refusal = ""
    if count_stalled(rows) >= options.max_stalled:
        refusal = f"the last {options.max_stalled} attempts gained no step (slurm.max_stalled); see {folder / 'logs'}"
    elif len(rows) > options.max_restarts:
        refusal = f"it was restarted slurm.max_restarts = {options.max_restarts} times"
    if refusal:
        write_manifest(folder, state="failed", reason=refusal)
        return 1, f"not requeued: {refusal}"
    return REQUEUE, f"stopped at step {rows[-1].last_step}, saved; asking Slurm for another attempt"
