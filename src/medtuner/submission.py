"""From a configuration to a job in the queue: checks, a frozen copy of code and configuration, the script, sbatch.

    submitted = submit_training(config)
    submitted.job_id, submitted.script

What a job runs is what stood here when it was submitted: the package is copied into ``RUN/submitted/code``, the resolved
configuration into ``RUN/submitted/config.toml``; editing either while the job waits changes nothing.
"""

import hashlib
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medtuner import slurm
from medtuner.attempts import AttemptLog, count_stalled
from medtuner.config import Config, SlurmSection, config_to_toml
from medtuner.errors import RunError
from medtuner.runs import claim, is_finished, read_json, run_folder, timestamp, write_json, write_manifest, write_text

INTERRUPTED = 3  # the exit code of `train` after an orderly stop
REQUEUE = 75  # the exit code of `settle` that asks the script for a requeue (EX_TEMPFAIL of sysexits.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job's id and the script it was made from."""

    job_id: str
    script: str


def training_script(config: Config) -> slurm.JobScript:
    """Return what the batch script of a run is rendered from; touches nothing."""
    folder = run_folder(config).resolve()
    kept = folder / "submitted"
    return slurm.JobScript(
        name=config.run.name,
        options=config.slurm,
        workdir=Path.cwd(),
        logs=folder / "logs",
        command=[sys.executable, "-m", "medtuner", "train", str(kept / "config.toml")],
        settle=[sys.executable, "-m", "medtuner", "settle", str(folder)],
        code=kept / "code",
    )


def submit_training(config: Config) -> Submitted:
    """Check a run, freeze its code and configuration, and submit it.

    Raises `RunError` when the run is finished or has a job already, `SlurmError` when Slurm refuses it.
    """
    folder = run_folder(config)
    if is_finished(folder):
        claim(folder, config, data_sha256=None)
        raise RunError(f"{folder} is finished; there is nothing to submit. Its page: {folder / 'report.html'}")
    job_id = read_job(folder)
    if job_id and (queued := slurm.queue_states().get(job_id)):
        raise RunError(
            f"{folder}: its job {job_id} is {queued.state.lower()} already. See `medtuner status {folder}`; to end it: "
            f"medtuner cancel {folder}"
        )
    script = slurm.render(training_script(config))
    slurm.test_submission(script, workdir=Path.cwd())
    claim(folder, config, data_sha256=None)
    write_text(folder / "submitted" / "config.toml", config_to_toml(config))
    return _send(script, folder)


def command_script(command: Sequence[str], *, name: str, options: SlurmSection, folder: Path) -> slurm.JobScript:
    """Return what the batch script of one medtuner command is rendered from; logs and script lie in `folder`."""
    folder = folder.resolve()
    return slurm.JobScript(
        name=name,
        options=options,
        workdir=Path.cwd(),
        logs=folder / "logs",
        command=[sys.executable, "-m", "medtuner", *command],
        code=folder / "submitted" / "code",
        num_tasks=1,
    )


def submit_command(job: slurm.JobScript, *, folder: Path) -> Submitted:
    """Submit a job made by `command_script`."""
    script = slurm.render(job)
    slurm.test_submission(script, workdir=Path.cwd())
    return _send(script, folder)


def _send(script: str, folder: Path) -> Submitted:
    """Make the log folder, without which a job dies at once and says nothing, freeze the code, submit."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    freeze(folder / "submitted")
    write_text(folder / "submitted" / "job.sh", script)
    job_id = slurm.submit(script, workdir=Path.cwd())
    write_json(folder / "submitted" / "job.json", {"job": job_id, "time": timestamp()})
    return Submitted(job_id=job_id, script=script)


def read_job(folder: Path) -> str:
    """Return the id of the job submitted last for a folder, "" when there was none."""
    path = folder / "submitted" / "job.json"
    return str(read_json(path)["job"]) if path.exists() else ""


def freeze(folder: Path) -> None:
    """Copy the running package and its metadata into ``folder/code``."""
    package = Path(__file__).parent
    code = folder / "code"
    # A requeued job may be importing from the old copy while a new one is made: it is put in place by renaming.
    aside = folder / f".code-{hashlib.sha256(timestamp().encode()).hexdigest()[:8]}"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(package, aside / "medtuner", ignore=shutil.ignore_patterns("__pycache__"))
    distribution = importlib.metadata.distribution("medtuner")
    metadata = aside / f"medtuner-{distribution.version}.dist-info"
    metadata.mkdir()
    write_text(metadata / "METADATA", distribution.read_text("METADATA") or "")
    shutil.rmtree(code, ignore_errors=True)
    aside.rename(code)


def settle(folder: Path, options: SlurmSection, *, code: int, log: Path) -> tuple[int, str]:
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
