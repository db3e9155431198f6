"""Annotation files from one format into another, with a ledger of every mention beside the result.

for line in convert_annotations(Path("team_a"), Path("team_a.jsonl"), policy="repair"): print(line)
"""

from collections.abc import Iterator
from pathlib import Path

from medtuner.corpora.formats import find_format, guess_annotation_format, read_format, refuse_compressed, write_format
from medtuner.corpora.intake import Intake, Policy
from medtuner.errors import DataError
from medtuner.runs import write_json

_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".pubtator": "pubtator",
    ".conll": "conll",
    ".spacy": "docbin",
    ".parquet": "hf",
    ".xml": "bioc-xml",
}


def convert_annotations(
    source: Path, target: Path, *, from_format: str = "", to_format: str = "", policy: Policy = "refuse"
) -> Iterator[str]:
    """Convert a file or folder; yield what was read, what became of it and where it was written.

    Writes ``TARGET.ledger.json``. Raises `DataError` for what cannot be read or written; then nothing is left at `target`
    but what an earlier conversion wrote.
    """
    to_format = to_format or _BY_SUFFIX.get(target.suffix.lower(), "")
    if not to_format:
        raise DataError(
            f"{target}: its suffix does not tell the format. Name it with --to, such as --to brat or --to cas."
        )
    find_format(to_format)
    target = target.absolute()
    from_format = from_format or guess_annotation_format(source)
    _check_target(source, target)
    intake = Intake(policy)
    aside = target.with_name(f".new-{target.name}")
    _remove(aside)  # a killed conversion may have left it
    try:
        lost = write_format(aside, read_format(source, intake, name=from_format), name=to_format)
        if not intake.documents:
            raise DataError(f"{source}: no documents in it.")
        _put_in_place(aside, target)
    finally:
        _remove(aside)
    yield f"{source}: {from_format}"
    yield from intake.summary()
    yield from (f"{to_format} cannot hold, left out {count}: {what}" for what, count in (+lost).most_common())
    ledger = target.with_name(f"{target.name}.ledger.json")
    account = {"from": {"path": str(source), "format": from_format}, "to": {"path": str(target), "format": to_format}}
    write_json(ledger, account | intake.to_json() | {"not_written": dict(+lost)})
    yield f"written: {target} ({to_format}); account: {ledger}"


def _check_target(source: Path, target: Path) -> None:
    """Refuse a target whose writing would remove what is not an earlier result."""
    refuse_compressed(target)
    inside, outside = source.resolve(), target.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        raise DataError(f"{target}: OUT must lie neither in IN ({source}) nor around it.")
    if target.is_dir() and any(target.iterdir()) and not target.with_name(f"{target.name}.ledger.json").exists():
        raise DataError(f"{target}: a folder that holds files and is no earlier result. Name a new folder.")


def _put_in_place(aside: Path, target: Path) -> None:
    _remove(target)
    aside.rename(target)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
