"""The command line: one verb a command, heavy imports inside the verb.

Exit codes: 0 finished, 2 a mistake the user can mend, 3 stopped and resumable, 1 a bug of ours (with its traceback).
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtuner import cli_data, cli_jobs
from medtuner.caches import place_hub_cache
from medtuner.errors import MedtunerError, RunInterrupted

if TYPE_CHECKING:
    from medtuner.config import Config
    from medtuner.console import Console
    from medtuner.documents import Document
    from medtuner.evaluation import ScoreOptions

app = typer.Typer(
    help="Train entity recognisers for UMLS semantic types from MedMentions and your own annotations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(cli_data.convert)
app.command()(cli_data.merge)
app.command()(cli_data.check)
app.add_typer(cli_jobs.submit_app, name="submit")
app.command()(cli_jobs.status)
app.command()(cli_jobs.logs)
app.command()(cli_jobs.cancel)
app.command()(cli_jobs.watch)
app.command()(cli_jobs.notify)
app.command(hidden=True)(cli_jobs.settle)
Overrides = cli_jobs.Overrides


@app.command()
def quickstart(
    output: Annotated[str, typer.Option(help="Folder in which the run folder `quickstart` is made.")] = "runs",
    overrides: Overrides = None,
) -> None:
    """Train on embedded MedMentions with the starter encoder, test, report; no network."""
    from medtuner.quickstart import EXAMPLE, quickstart_config

    config = quickstart_config(output=output, overrides=overrides or [])
    folder = _train(config, again="medtuner quickstart" + _repeat(output, overrides))
    if folder is None:
        return
    from medtuner.console import Console
    from medtuner.recognizer import Recognizer

    console = Console()
    console.say("\nOne sentence that is not from the data, as this model reads it:")
    console.show_mentions(Recognizer.load(folder).annotate(EXAMPLE))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A TOML file such as configs/stage1.toml.")],
    overrides: Overrides = None,
) -> None:
    """Train, test and report the run that CONFIG describes; resumes by itself."""
    from medtuner.config import load_config

    _train(
        load_config(config, overrides=overrides or []), again=f"medtuner train {config}" + _repeat("runs", overrides)
    )


def _repeat(output: str, overrides: list[str] | None) -> str:
    import shlex

    options = [] if output == "runs" else ["--output", output]
    options += [word for override in overrides or [] for word in ("--set", override)]
    return "".join(f" {shlex.quote(word)}" for word in options)


def _train(config: "Config", *, again: str) -> Path | None:
    """Run an experiment and show its scores; returns its folder on the first rank."""
    from medtuner.signals import StopRequest

    with StopRequest() as stop:
        from medtuner.console import Console
        from medtuner.distributed import launched_rank
        from medtuner.experiment import run_experiment

        is_main = launched_rank() == 0
        console = Console(is_main=is_main)
        try:
            outcome = run_experiment(config, console=console, stop=stop)
        except RunInterrupted as interruption:
            raise RunInterrupted(f"{interruption} ({stop.reason or 'another rank'}). To go on: {again}") from None
    if outcome.scores is not None:
        documents = outcome.scores["protocol"]["documents"]
        console.show_scores(outcome.scores, title=f"Test scores, strict, in percent ({documents:,} documents)")
    console.say(f"\nrun folder: {outcome.folder}\nreport:     {outcome.folder / 'report.html'}")
    return outcome.folder if is_main else None


@app.command()
def evaluate(
    model: Annotated[str | None, typer.Argument(help="A run folder, or its model folder.")] = None,
    data: Annotated[
        str | None, typer.Argument(help="Gold data: a file, or a source such as medmentions-zs:test.")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="Gold data, instead of MODEL and DATA.")] = None,
    predicted: Annotated[str | None, typer.Option(help="Predicted data with the same document ids.")] = None,
    output: Annotated[Path, typer.Option(help="Folder that receives scores.json.")] = Path("evaluation"),
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws for the 95% intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of those draws.")] = 13,
) -> None:
    """Score a model on DATA, or two files (--gold, --predicted) without any model."""
    from medtuner.console import Console

    by_model, by_files = (model, data), (gold, predicted)
    if all(by_model) == all(by_files) or (any(by_model) and any(by_files)):
        raise MedtunerError("evaluate needs either MODEL and DATA, or both --gold and --predicted.")
    from medtuner.evaluation import ScoreOptions
    from medtuner.runs import write_json

    console = Console()
    if model and data:
        scores, predictions = _evaluate_model(Path(model), data, ScoreOptions(bootstrap=bootstrap, seed=seed), console)
        output.mkdir(parents=True, exist_ok=True)
        from medtuner.documents import write_documents

        with (output / "predictions.jsonl").open("w", encoding="utf-8") as stream:
            write_documents(stream, predictions)
    else:
        from medtuner.evaluation import evaluate as evaluate_documents

        assert gold and predicted
        scores = evaluate_documents(
            _load(gold, console),
            _load(predicted, console),
            options=ScoreOptions(bootstrap=bootstrap, seed=seed),
        )
    write_json(output / "scores.json", scores)
    console.show_scores(scores, title="Scores, strict, in percent")
    console.say(f"\nwritten: {output / 'scores.json'}")


def _load(source: str, console: "Console") -> "Sequence[Document]":
    """Read annotated data; of a dataset with splits of its own the test split, unless another is named."""
    from medtuner.corpora import load_corpus

    corpus = load_corpus(source, split="test")
    mended = "".join(f"; {count} {what}" for what, count in corpus.count_mended().items())
    console.say(f"{corpus.source}: {len(corpus.documents):,} documents{mended}")
    return corpus.documents


def _evaluate_model(
    model: Path, data: str, options: "ScoreOptions", console: "Console"
) -> "tuple[dict[str, Any], list[Document]]":
    from dataclasses import replace

    from medtuner.evaluation import collapse_gold
    from medtuner.evaluation import evaluate as evaluate_documents
    from medtuner.labels import check_labels
    from medtuner.ledger import Ledger
    from medtuner.recognizer import Recognizer

    recognizer = Recognizer.load(model)
    documents = _load(data, console)
    check_labels(recognizer.space, documents)
    ledger = Ledger()
    gold = collapse_gold(documents, recognizer.space, ledger.account("gold"))
    for line in ledger.summary():
        console.say(line)
    predictions = recognizer.annotate_documents(gold)
    options = replace(options, trained_types=recognizer.trained_types)
    return evaluate_documents(gold, predictions, options=options), predictions


@app.command()
def annotate(
    model: Annotated[Path, typer.Argument(help="A run folder, or its model folder.")],
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Text (a document a line), JSON Lines or parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Document JSON Lines to write.")],
) -> None:
    """Find the entities in every document of INPUT and write them to OUTPUT."""
    from medtuner.annotation import annotate_file
    from medtuner.console import Console
    from medtuner.recognizer import Recognizer

    console = Console()
    count = annotate_file(Recognizer.load(model), source, target, track=lambda d: console.track(d, total=None))
    console.say(f"{count} documents written to {target}")


@app.command()
def labels(
    name: Annotated[str | None, typer.Argument(metavar="TYPE", help="A TUI, a name or an abbreviation.")] = None,
) -> None:
    """List the UMLS semantic types, or explain one."""
    from medtuner import semantic_network as network

    types = network.semantic_types()
    if name is None:
        for tui in network.current_types():
            typer.echo(f"{tui}  {types[tui].abbreviation}  {types[tui].group:4}  {types[tui].name}")
        return
    row = types[network.find(name)]
    typer.echo(f"{row.tui}  {row.abbreviation}  {row.name} ({row.status})")
    typer.echo(f"tree number {row.tree_number}, group {row.group or '-'} {row.group_name}")
    for up in network.ancestors(row.tui):
        typer.echo(f"  is a {up} {types[up].name}")
    typer.echo(row.definition)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or groups to summarise and compare.")
    ],
    bootstrap: Annotated[int, typer.Option(min=100, help="Draws of the paired bootstrap between systems.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of those draws.")] = 13,
) -> None:
    """Draw the page of a run again; of groups give mean, standard deviation and tests against the first."""
    from medtuner.groups import is_group
    from medtuner.report import write_report

    groups = [folder for folder in runs if is_group(folder)]
    if not groups:
        for run in runs:
            typer.echo(write_report(run))
        return
    from medtuner.comparison import compare
    from medtuner.runs import write_json
    from medtuner.tables import show_comparison

    summary = compare(runs, bootstrap=bootstrap, seed=seed)
    show_comparison(summary)
    write_json(groups[0] / "summary.json", summary)
    typer.echo(f"\nwritten: {groups[0] / 'summary.json'}")


@app.command()
def fetch(
    config: Annotated[Path, typer.Argument(help="A TOML file such as configs/stage1.toml.")],
    overrides: Overrides = None,
) -> None:
    """Bring encoder, datasets and wheels here, so that the run needs no internet; run it on the login node."""
    from medtuner.config import load_config
    from medtuner.fetching import fetch as fetch_all

    for line in fetch_all(load_config(config, overrides=overrides or [])):
        typer.echo(line)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"medtuner {installed('medtuner')}")
        raise typer.Exit()


def main() -> None:
    """Run the command line with the exit codes named above."""
    place_hub_cache()
    sys.exit(run_guarded(app))


def _explain(error: MedtunerError | UnicodeEncodeError) -> str:
    """Return a message for the user; what no file can keep came in with some key of a document."""
    if isinstance(error, MedtunerError):
        return str(error)
    part = error.object[max(0, error.start - 20) : error.start]
    return f"half a surrogate pair (a cut emoji, say) after {part!r}. Mend or remove it."


def run_guarded(command: Callable[[], object]) -> int:
    """Call a command and turn what it raises into an exit code and one message on standard error."""
    try:
        command()
    except (MedtunerError, UnicodeEncodeError) as error:
        print(f"medtuner: {_explain(error)}", file=sys.stderr)
        return 2
    except RunInterrupted as interruption:
        print(f"medtuner: {interruption}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"medtuner: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0
