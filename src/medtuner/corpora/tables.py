"""Files with the columns `tokens` and `ner_tags`: parquet, JSON (an array) and JSON Lines.

    for row in read_rows(Path("train.parquet")):
        row.words, row.tags

Tags are strings, or integers whose names the file itself declares (a `ClassLabel` in parquet written by `datasets`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from medtuner.corpora.tagged import Orphans, TagReport, detect_scheme, document_from_tags
from medtuner.documents import Document, load_json, open_text, read_json_lines
from medtuner.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sentence: its words, their tags, and where it stands in its source."""

    words: Sequence[str]
    tags: Sequence[str]
    where: str
    id: str = ""


def read_rows(path: Path, *, annotated: bool = True) -> Iterator[Row]:
    """Yield the rows of a parquet, JSON or JSON Lines file, in order; unless `annotated`, tags may be absent."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    for where, record in _read_records(path):
        tags = record.get("ner_tags")
        if tags is None and not annotated and isinstance(record.get("tokens"), list):
            tags = ["O"] * len(record["tokens"])
        columns = {"tokens": record.get("tokens"), "ner_tags": tags}
        missing = [key for key, column in columns.items() if not isinstance(column, list)]
        if missing:
            raise DataError(f"{where}: needs lists under 'tokens' and 'ner_tags'; {' and '.join(missing)} missing.")
        yield Row(
            words=_check_strings(record["tokens"], "tokens", where),
            tags=_check_strings(tags, "ner_tags", where),
            where=where,
            id=str(record.get("id") or ""),
        )


def documents_from_rows(source: str, rows: Iterable[Row], orphans: Orphans) -> Iterator[tuple[Document, Counter[str]]]:
    """Yield a document for each row, with what had to be mended in it; the scheme is read off all rows together."""
    kept = list(rows)
    scheme = detect_scheme(row.tags for row in kept)
    for index, row in enumerate(kept):
        report = TagReport(scheme=scheme)
        name = row.id or f"{source}/{index}"
        document = document_from_tags(name, row.words, row.tags, report=report, orphans=orphans, where=row.where)
        yield document, report.mended


def _is_json_array(path: Path) -> bool:
    """Say whether a JSON file is one array rather than one object a line."""
    with open_text(path) as stream:
        return next((line.lstrip()[:1] == "[" for line in stream if line.strip()), False)


def _read_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not _is_json_array(path):
        yield from read_json_lines(path)
        return
    for index, record in enumerate(load_json(path)):
        if not isinstance(record, dict):
            raise DataError(f"{path}: item {index} is no JSON object.")
        yield f"{path}: item {index}", cast(dict[str, Any], record)


def _check_strings(values: Any, name: str, where: str) -> Sequence[str]:
    if not all(isinstance(value, str) for value in values):
        hint = " Integers need their names: use parquet with ClassLabel, or strings." if name == "ner_tags" else ""
        raise DataError(f"{where}: every item of '{name}' must be a string.{hint}")
    return cast(Sequence[str], values)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as arrow
    from pyarrow import parquet

    if not path.is_file():
        raise DataError(f"{path}: no such file (looked from {Path.cwd()}).")
    try:
        table = parquet.read_table(path)  # pyright: ignore[reportUnknownMemberType]
    except (arrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]}).") from None
    columns = cast(list[str], table.column_names)
    if "tokens" not in columns or "ner_tags" not in columns:
        raise DataError(f"{path}: needs the columns 'tokens' and 'ner_tags'; it has {', '.join(columns)}.")
    names = _class_names(path, table.schema)
    ids = table.column("id").to_pylist() if "id" in columns else [""] * table.num_rows
    words, tags = table.column("tokens").to_pylist(), table.column("ner_tags").to_pylist()
    for index in range(table.num_rows):
        yield row_from_columns(words[index], tags[index], names, where=f"{path}: row {index}", identifier=ids[index])


def row_from_columns(words: Any, tags: Any, names: Sequence[str] | None, *, where: str, identifier: object = "") -> Row:
    """Build a row from dataset columns; integer tags become their `names`."""
    if not isinstance(words, list) or not isinstance(tags, list):
        raise DataError(f"{where}: 'tokens' and 'ner_tags' must be lists.")
    if names is not None:
        beyond = [tag for tag in tags if not isinstance(tag, int) or not 0 <= tag < len(names)]
        if beyond:
            raise DataError(f"{where}: tag {beyond[0]!r} is none of the {len(names)} class names.")
        tags = [names[tag] for tag in cast(list[int], tags)]
    return Row(
        words=_check_strings(words, "tokens", where),
        tags=_check_strings(tags, "ner_tags", where),
        where=where,
        id="" if identifier is None else str(identifier),
    )


def class_names(feature: Any) -> Sequence[str] | None:
    """Return the names of a `datasets` feature of integer tags; None when tags are strings."""
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _class_names(path: Path, schema: Any) -> Sequence[str] | None:
    import pyarrow as arrow

    values = getattr(schema.field("ner_tags").type, "value_type", None)  # None: no list; each row will say so
    if values is None or not arrow.types.is_integer(values):
        return None
    from datasets import Features

    names = class_names(Features.from_arrow_schema(schema)["ner_tags"])
    if names is None:
        raise DataError(f"{path}: 'ner_tags' are integers without names. Write them as strings, or with ClassLabel.")
    return names
