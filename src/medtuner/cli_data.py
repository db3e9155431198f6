"""The verbs that speak of annotations: convert and merge.

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
    against: Annotated[list[str] | None, typer.Option(help="Evaluation data that training must not show.")] = None,
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
        labels=labels, against=against or [], on_conflict=on_conflict, on_error=on_error, language=language, leaks=leaks
    )
    for line in merge_files(sources, output, options):
        typer.echo(line)
