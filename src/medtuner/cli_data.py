"""The verbs that speak of annotations: convert, merge and check.

app.command()(convert)      # done by `cli`
"""

from pathlib import Path
from typing import Annotated

import typer

OnError = Annotated[str, typer.Option(help="What to do with faulty annotations: refuse, skip or repair.")]


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file or folder of annotations.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The file (or folder, for brat and cas) to write.")],
    from_format: Annotated[str, typer.Option("--from", help="Its format; guessed from content and suffix.")] = "",
    to_format: Annotated[
        str, typer.Option("--to", help="The format to write; from OUT's suffix where that tells.")
    ] = "",
    on_error: OnError = "refuse",
) -> None:
    """Convert annotations; OUT.ledger.json accounts for every mention."""
    from medtuner.conversion import convert_annotations
    from medtuner.corpora.intake import check_policy

    policy = check_policy(on_error)
    for line in convert_annotations(source, target, from_format=from_format, to_format=to_format, policy=policy):
        typer.echo(line)


def merge(
    sources: Annotated[
        list[str], typer.Argument(metavar="TEAM...", help="PATH or NAME=PATH of each team, and medmentions.")
    ],
    output: Annotated[Path, typer.Option(help="Document JSON Lines to write.")] = Path("merged.jsonl"),
    labels: Annotated[
        Path | None, typer.Option(help="TOML file that maps labels and declares annotated types.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Evaluation data (NAME=PATH) that training must not show.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Hold out this share of each source, to test on.")
    ] = 0.0,
    on_conflict: Annotated[str, typer.Option(help="majority, priority, union or refuse.")] = "majority",
    on_error: OnError = "refuse",
    language: Annotated[str, typer.Option(help="For spaCy: en, fr, ... or an installed pipeline.")] = "en",
    leaks: Annotated[
        str, typer.Option(help="Training documents that show evaluation data: refuse or drop.")
    ] = "refuse",
) -> None:
    """Merge teams' annotations into one training file, beside it as tokens and ner_tags, with conflicts and an account."""
    from medtuner.merged_files import MergeOptions, merge_files

    options = MergeOptions(
        labels=labels,
        against=against or [],
        holdout=holdout,
        on_conflict=on_conflict,
        on_error=on_error,
        language=language,
        leaks=leaks,
    )
    for line in merge_files(sources, output, options):
        typer.echo(line)


def check(
    targets: Annotated[
        list[str], typer.Argument(metavar="CONFIG|DATA...", help="A configuration, or NAME=PATH of annotated data.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of CONFIG.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for check.json and the disagreements of DATA.")] = Path("check"),
    on_error: OnError = "skip",
    language: Annotated[str, typer.Option(help="For spaCy: en, fr, ... or an installed pipeline.")] = "en",
) -> None:
    """Read everything a run needs, as `submit` does; or say how good annotated data are and how far annotators agree."""
    if len(targets) == 1 and targets[0].endswith(".toml"):
        from medtuner.config import load_config
        from medtuner.preflight import check_run

        for line in check_run(load_config(Path(targets[0]), overrides=overrides or [])):
            typer.echo(line)
        return
    from medtuner.data_check import check_data

    for line in check_data(targets, output=output, on_error=on_error, language=language):
        typer.echo(line)
