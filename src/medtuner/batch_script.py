"""The text of a batch script: a pure function from what a job needs to bash that a person can read.

    script = render(JobScript(name="stage1", options=config.slurm, workdir=Path.cwd(), folder=folder, ...))

What the rendering relies on, measured on Slurm 22.05: ranks started by `srun` get signals themselves, without a shell
around them; a batch script lives through TERM when it traps it and waits for a background `srun`; requeueing from inside
a rank kills the other ranks, so the script asks for it after `srun` has ended; a requeue truncates logs unless every
attempt has its own file.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medtuner.config import SlurmSection, num_gpus
from medtuner.errors import RunError

_HOLD = '"${hold[@]}"'
_CLEAN = 'clean() { "${on_each_node[@]}" bash "$code/medtuner/data/build_venv.sh" "$venv" < /dev/null; trap - EXIT; }'


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """A folder of wheels, and the interpreter of which a node makes a virtual environment to put them in."""

    folder: Path
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScript:
    """What a batch script is rendered from.

    Every rank runs ``python -m medtuner *command``. With `settle` (a verb that gets a run's folder into order and says by
    its exit code what became of the run) the job takes part in the life of a run: one log an attempt, requeue after an
    orderly stop; `command` and `settle` then get the run's frozen configuration and its folder as their last argument.
    `members` are runs below `folder`, each a task of a job array. `wheels` is what `slurm.environment = "venv"` installs;
    `binds` is what a container must see.
    """

    name: str
    options: SlurmSection
    workdir: Path
    folder: Path
    python: str
    command: Sequence[str]
    settle: str = ""
    code: Path
    num_tasks: int = 0
    members: Sequence[str] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    wheels: Wheels | None = None
    binds: Sequence[Path] = ()


def render(job: JobScript) -> str:
    """Return the batch script.

    Raises `RunError` when an option would break out of its line.
    """
    script = [*_head(job), *_attempt_log(), *_signals()]
    ranks = _ranks(job)
    if job.wheels is not None:
        # A node without its environment runs no ranks; what became of the run is still told.
        in_venv = ['python="$venv/bin/python"', *ranks]
        ranks = [*_build_venv(job.wheels), 'if [ "$status" = 0 ]; then', *(f"    {line}" for line in in_venv), "fi"]
    return "\n".join([*script, *ranks, *_end(job), ""])


def _head(job: JobScript) -> list[str]:
    lines = ["#!/bin/bash", *(f"#SBATCH {directive}" for directive in _directives(job)), ""]
    lines += [f"cd {_quote(job.workdir)} || exit 2", f"run={_quote(job.folder)}"]
    if job.members:
        lines += ["members=(", *(f"    {_quote(member)}" for member in job.members), ")"]
        lines += ['run="$run/${members[$SLURM_ARRAY_TASK_ID]}"']
    lines += ['logs="$run/logs"', f"code={_quote(job.code)}", f"python={_quote(job.python)}"]
    lines += ["export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1"]
    lines += [f"export {name}={_quote(value)}" for name, value in job.exports.items()]
    lines += [
        'export PYTHONPATH="$code${PYTHONPATH:+:$PYTHONPATH}"',
        f"export OMP_NUM_THREADS={job.options.cpus_per_task}",
        f"export SRUN_CPUS_PER_TASK={job.options.cpus_per_task}  # srun does not take it from sbatch since 22.05",
    ]
    return [*lines, *job.options.setup, ""]


def _attempt_log() -> list[str]:
    return [
        "# One log for every attempt: a requeue would write over it.",
        "attempt=0",
        'while [ -e "$logs/attempt-$attempt.out" ]; do attempt=$((attempt + 1)); done',
        'exec > "$logs/attempt-$attempt.out" 2>&1',
        'patterns="${logs//%/%%}"  # srun reads % in names',
        'echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date)"',
        "",
    ]


def _signals() -> list[str]:
    return [
        "# Signals wait until Python listens; where env cannot hold them back they are heard a moment later.",
        "hold=()",
        "env --block-signal=USR1,USR2,TERM true 2> /dev/null && hold=(env --block-signal=USR1,USR2,TERM)",
        "",
        "# Slurm signals the ranks itself. This script outlives the signal and waits until all of them have saved.",
        "trap : TERM USR1 USR2",
    ]


def _build_venv(wheels: Wheels) -> list[str]:
    """Build the job's virtual environment on every node's own disk; status is 0 when all of them stand."""
    words = f'"$code/medtuner/data/build_venv.sh" "$venv" {_quote(wheels.folder)} {_quote(wheels.python)}'
    return [
        "",
        "# Python for this job alone, on each node's own disk, from the wheels that `medtuner fetch` laid down.",
        'venv="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/$SLURM_JOB_ID/venv"',
        'on_each_node=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)',
        _CLEAN,
        "trap clean EXIT",
        '"${on_each_node[@]}" --output="$patterns/attempt-$attempt-venv-%t.out" \\',
        f"    {_HOLD} bash {words} < /dev/null &",
        *_wait("building"),
        'echo "environment built with $status, see $logs/attempt-$attempt-venv-0.out"',
    ]


def _ranks(job: JobScript) -> list[str]:
    words = f"{_HOLD} {_container(job)} -m medtuner {shlex.join(job.command)}{_last(job, '/submitted/config.toml')}"
    return [
        'srun --kill-on-bad-exit=1 --output="$patterns/attempt-$attempt-rank-%t.out" \\',
        f"    {words} < /dev/null &",
        *_wait("ranks"),
        'echo "srun ended with $status, $(date)"',
    ]


def _last(job: JobScript, name: str) -> str:
    return f' "$run{name}"' if job.settle else ""


def _wait(name: str) -> list[str]:
    return [
        f"{name}=$!",
        f'wait "${name}"; status=$?',
        f'while kill -0 "${name}" 2> /dev/null; do wait "${name}"; status=$?; done',
    ]


def _container(job: JobScript) -> str:
    """Return the words that start Python: the job's own, or the container's with what the run needs bound into it."""
    options = job.options
    if not options.container:
        return '"$python"'
    command = ["apptainer", "exec", *(["--nv"] if num_gpus(options.gpus_per_node) else [])]
    for path in job.binds:
        if set(str(path)) & set(":,"):
            raise RunError(f"{path}: Apptainer takes no path with ':' or ',' into a container. Rename the folder.")
        command += ["--bind", str(path)]
    return shlex.join([*command, options.container, "python3"])


def _end(job: JobScript) -> list[str]:
    if not job.settle:
        return ['exit "$status"']
    own_id = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    return [
        "",
        "# The run folder says what became of the run, not the exit code. 75: stopped after saving, to be requeued.",
        f'"$python" -m medtuner {job.settle} "$run" --code "$status" --log "$logs/attempt-$attempt-rank-0.out"; status=$?',
        *(["clean"] if job.wheels is not None else []),
        'if [ "$status" = 75 ]; then',
        f"    scontrol requeue {own_id} && exit 3",
        '    echo "Slurm refused the requeue (it may be requeueing already)."; exit 3',
        "fi",
        'exit "$status"',
    ]


def _directives(job: JobScript) -> list[str]:
    options = job.options
    gpus = num_gpus(options.gpus_per_node)
    values: Mapping[str, object] = {
        "job-name": job.name,
        "array": _array(job),
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "time": options.time,
        "nodes": 1 if job.num_tasks else options.nodes,
        "ntasks-per-node": job.num_tasks or options.tasks_per_node or max(1, gpus),
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
        "output": f"{_escape_pattern(job.folder)}/logs/slurm-{'%A_%a' if job.members else '%j'}.out",
        "open-mode": "append",
    }
    directives = [f"--{name}={_quote(value)}" for name, value in values.items() if value != ""]
    for directive in [*directives, *job.members]:
        if "\n" in directive:
            raise RunError(f"{directive!r}: sbatch takes no line break in an option. Rename the folder or the run.")
    return [*directives, "--requeue" if options.requeue and job.settle else "--no-requeue", *options.extra]


def _array(job: JobScript) -> str:
    if not job.members:
        return ""
    throttle = f"%{job.options.max_running}" if job.options.max_running else ""
    return f"0-{len(job.members) - 1}{throttle}"


def _quote(word: object) -> str:
    return shlex.quote(str(word))


def _escape_pattern(path: Path) -> str:
    return str(path).replace("%", "%%")
