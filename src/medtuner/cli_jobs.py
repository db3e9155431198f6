"""The verbs that speak of jobs: submit, status, logs, cancel, watch, and `settle`, which batch scripts call themselves.

app.add_typer(submit_app, name="submit")      # done by `cli`
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtuner.errors import MedtunerError

if TYPE_CHECKING:
    from medtuner.config import Config, SlurmSection
    from medtuner.submission import Submitted

submit_app = typer.Typer(help="Submit a job to Slurm.", no_args_is_help=True)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key; may be repeated.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the batch script and submit nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the run has ended; exit with its state.")]
_POLL_S = 3.0


@submit_app.command("train")
def submit_train(
    config: Annotated[Path, typer.Argument(help="A TOML file such as configs/stage1.toml.")],
    overrides: Overrides = None,
    seeds: Annotated[str, typer.Option(help="One run for each seed, as 1-5 or 1,3,7-9.")] = "",
    sweeps: Annotated[
        list[str] | None, typer.Option("--sweep", metavar="KEY=V1,V2", help="One run for each value; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
    wait: Wait = False,
) -> None:
    """Submit the run that CONFIG describes; it is requeued and resumes until it is finished.

    With --seeds or --sweep the runs are a group, submitted as one job array; the same command submits what is missing.
    """
    from medtuner.config import load_config
    from medtuner.runs import run_folder

    settings = load_config(config, overrides=overrides or [])
    folder = run_folder(settings)
    if seeds or sweeps:
        _submit_group(settings, config, overrides or [], seeds=seeds, sweeps=sweeps or [], dry_run=dry_run)
    else:
        _submit_run(settings, dry_run=dry_run)
    if wait and not dry_run:
        raise typer.Exit(_wait_for(folder))


def _submit_run(settings: "Config", *, dry_run: bool) -> None:
    from medtuner.batch_script import render
    from medtuner.preflight import check_run
    from medtuner.runs import run_folder
    from medtuner.submission import submit_training, training_script

    if dry_run:
        typer.echo(render(training_script(settings)), nl=False)
        return
    for line in check_run(settings):
        typer.echo(line)
    folder = run_folder(settings)
    submitted = submit_training(settings)
    typer.echo(f"submitted job {submitted.job_id}: {folder}\nmedtuner status {folder}\nmedtuner logs {folder} --follow")


def _submit_group(
    settings: "Config", path: Path, overrides: list[str], *, seeds: str, sweeps: list[str], dry_run: bool
) -> None:
    from medtuner.batch_script import render
    from medtuner.config import load_config
    from medtuner.groups import expand, parse_seeds, parse_sweeps
    from medtuner.preflight import check_run
    from medtuner.runs import run_folder
    from medtuner.submission import submit_group, training_script

    runs = expand(
        settings,
        seeds=parse_seeds(seeds) if seeds else [],
        sweeps=parse_sweeps(sweeps),
        build=lambda more: load_config(path, overrides=[*overrides, *more]),
    )
    if dry_run:
        typer.echo(render(training_script(settings, members=[member.name for member, _ in runs])), nl=False)
        return
    checked: set[str] = set()
    for _, own in runs:
        needs = own.model_dump_json(include={"data", "labels", "model"})
        if needs not in checked:
            checked.add(needs)
            for line in check_run(own):
                typer.echo(line)
    folder = run_folder(settings)
    outcome = submit_group(settings, runs)
    for job_id, names in outcome.jobs.items():
        typer.echo(f"submitted job array {job_id}: {len(names)} of {len(runs)} runs below {folder}")
    for what, names in (("finished", outcome.finished), ("in the queue already", outcome.queued)):
        if names:
            typer.echo(f"{what}: {len(names)}")
    if outcome.left:
        typer.echo(
            f"left out: {len(outcome.left)} ({', '.join(outcome.left)}): {outcome.why_left}. Give the same command again "
            "when some have ended."
        )
    typer.echo(f"medtuner status {folder}\nmedtuner report {folder}")


def _wait_for(folder: Path) -> int:
    """Wait until a run, or every run of a group, has left the queue and return the exit code of the worst state."""
    from medtuner.monitoring import ENDED, read_statuses

    while True:
        statuses, _ = read_statuses([folder])
        if all(status.state in ENDED for status in statuses):  # "unknown" while Slurm does not answer
            break
        time.sleep(_POLL_S)
    for status in statuses:
        typer.echo(f"{status.run}: {status.state} {status.reason}".rstrip())
    states = {status.state for status in statuses}
    return 0 if states == {"finished"} else 3 if states <= {"finished", "interrupted"} else 2


@submit_app.command("evaluate")
def submit_evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder; its [slurm] keys are used.")],
    data: Annotated[str, typer.Argument(help="Gold data: a file, or a source such as medmentions-zs:test.")],
    output: Annotated[Path, typer.Option(help="Folder that receives scores.json.")] = Path("evaluation"),
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Submit `medtuner evaluate MODEL DATA`."""
    command = ["evaluate", str(model), data, "--output", str(output)]
    _submit_command(command, model=model, folder=output, overrides=overrides, dry_run=dry_run)


@submit_app.command("annotate")
def submit_annotate(
    model: Annotated[Path, typer.Argument(help="A run folder; its [slurm] keys are used.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Text (a document a line), JSON Lines or parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Document JSON Lines to write.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Submit `medtuner annotate MODEL INPUT OUTPUT`."""
    if not source.exists():
        raise MedtunerError(f"{source}: no such file (looked from {Path.cwd()}).")
    folder = target.with_name(f"{target.name}.job")
    command = ["annotate", str(model), str(source), str(target)]
    _submit_command(command, model=model, folder=folder, overrides=overrides, dry_run=dry_run)


def _submit_command(
    command: list[str], *, model: Path, folder: Path, overrides: list[str] | None, dry_run: bool
) -> None:
    from medtuner.batch_script import render
    from medtuner.recognizer import find_model
    from medtuner.submission import command_script, submit_command

    find_model(model)
    job = command_script(command, name=folder.name, options=_slurm_keys(model, overrides), folder=folder)
    if dry_run:
        typer.echo(render(job), nl=False)
        return
    submitted: Submitted = submit_command(job, folder=folder)
    typer.echo(f"submitted job {submitted.job_id}; logs: {folder / 'logs'}")


def _slurm_keys(model: Path, overrides: list[str] | None) -> "SlurmSection":
    from medtuner.config import build_config, load_config

    for path in (model / "config.toml", model.parent / "config.toml"):
        if path.exists():
            return load_config(path, overrides=overrides or []).slurm
    return build_config({}, overrides=overrides or [], where="[slurm] defaults").slurm


def settle(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    code: Annotated[int, typer.Option(help="The exit code of srun.")],
    log: Annotated[Path, typer.Option(help="The log of rank 0.")],
) -> None:
    """Close an attempt after its ranks have ended; batch scripts call it."""
    from medtuner.config import load_config
    from medtuner.submission import settle as settle_run

    config = load_config(folder / "submitted" / "config.toml")
    exit_code, sentence = settle_run(folder, config, code=code, log=log)
    typer.echo(sentence)
    raise typer.Exit(exit_code)


def status(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders; all below runs/.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a run.")] = False,
) -> None:
    """Show what runs are doing: state, step, loss, F1, time left."""
    from dataclasses import asdict

    from medtuner.monitoring import find_runs, read_statuses
    from medtuner.tables import show_statuses

    statuses, trouble = read_statuses(runs or find_runs(Path("runs")))
    if as_json:
        for row in statuses:
            typer.echo(json.dumps(asdict(row)))
    elif statuses:
        show_statuses(statuses)
    else:
        typer.echo("no runs below runs/. Begin with: medtuner quickstart")
    if trouble:
        print(f"medtuner: {trouble}", file=sys.stderr)


def watch(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders; all below runs/.")] = None,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between two looks.")] = 10.0,
) -> None:
    """Show `status` again and again, until every run has ended or Ctrl-C."""
    from medtuner.monitoring import find_runs
    from medtuner.tables import watch_statuses

    try:
        watch_statuses(lambda: runs or find_runs(Path("runs")), every=every)
    except KeyboardInterrupt:
        raise typer.Exit() from None


def notify(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders; all below runs/.")] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Send one message now, to see whether the address works.")
    ] = False,
) -> None:
    """Send the messages that nodes without internet left behind, to the address in MEDTUNER_NOTIFY."""
    import os

    from medtuner.groups import expand_groups
    from medtuner.monitoring import find_runs
    from medtuner.notifications import deliver, send

    if test:
        url = os.environ.get("MEDTUNER_NOTIFY", "")
        if not url:
            raise MedtunerError(
                "no address for messages: export MEDTUNER_NOTIFY=https://discord.com/api/webhooks/... (or another address "
                "of https://github.com/caronc/apprise)."
            )
        if not send(url, title="medtuner", body="Messages of your runs arrive here."):
            raise MedtunerError("the message was not taken. Is the address right, and is there internet here?")
        typer.echo("sent")
        return
    counts = [deliver(run) for run in expand_groups(runs or find_runs(Path("runs")))]
    typer.echo(f"{sum(sent for sent, _ in counts)} sent, {sum(left for _, left in counts)} waiting")


def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; the last one by default.")] = None,
    rank: Annotated[int, typer.Option(min=0, help="Which rank.")] = 0,
) -> None:
    """Print the log of a run's attempt."""
    from medtuner.monitoring import find_logs
    from medtuner.monitoring import follow as follow_logs

    if follow:
        for text in follow_logs(run, rank=rank):
            typer.echo(text, nl=False)
        return
    for path in find_logs(run, attempt=attempt, rank=rank):
        typer.echo(path.read_text(encoding="utf-8", errors="replace"), nl=False)


def cancel(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a group.")]) -> None:
    """End the job of a run; it saves first, and a new submit goes on from there."""
    from medtuner.monitoring import cancel_runs

    for job in cancel_runs(run):
        typer.echo(f"cancelled job {job}; to go on later, submit it again")
