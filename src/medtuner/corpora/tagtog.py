"""tagtog's anndoc: `*.ann.json` with the mentions, and the text in `*.plain.html` (or a plain `.txt`) of the same name.

The folder is an export as tagtog zips it (`ann.json/master/...`, `plain.html/...`, `annotations-legend.json`) or any other
that holds these files. Mentions stand in parts, the elements of the HTML that have an id; a document's text is its parts, a
line break after each. The legend names types (`e_1`) and labels of mentions (`f_1`). Offsets count UTF-16 units. The master
version of a document is read; where there is none, or in the folder `ann.json/members` alone, each member's version is a
document with its own `annotator`. Format: https://docs.tagtog.com/anndoc.html (version 2.0 and later).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from medtuner.corpora.intake import Intake, Mention, shaped
from medtuner.corpora.json_tools import points_from_utf16
from medtuner.documents import Document, load_json, open_text
from medtuner.errors import DataError

ANNOTATIONS = ".ann.json"
_TEXTS = (".plain.html", ".html", ".txt")
_LEGEND = "annotations-legend.json"
TAGTOG_FILES = (*(f"{end}{gz}" for end in (ANNOTATIONS, ".html", ".txt") for gz in ("", ".gz")), _LEGEND)
_VERBATIM = "s1v1"  # the one part of a text imported as it stands


def read_tagtog(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the documents of an export's folder, or of one `.ann.json`."""
    if not path.is_dir():
        yield _read_file(path, path.parent, intake)
        return
    files = find_annotations(path)
    if not files:
        raise DataError(f"{path}: no {ANNOTATIONS} file in it.")
    masters = {_base(file) for file in files if not _member(file)}
    beside = [file for file in files if _member(file) and _base(file) in masters]
    intake.left_out["a member's version beside the master"] += len(beside)
    files = [file for file in files if file not in beside]
    annotated = {_base(file) for file in files}
    for text in _find_texts(path):
        if _base(text) not in annotated:
            intake.left_out["text without annotations"] += 1
    for file in files:
        yield _read_file(file, path, intake)


def find_annotations(folder: Path) -> list[Path]:
    """Return the annotation files anywhere in a folder."""
    return sorted(file for end in ("", ".gz") for file in folder.rglob(f"*{ANNOTATIONS}{end}"))


def _find_texts(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.plain.html*") if file.is_file())


def _member(file: Path) -> str:
    """Return the member whose version a file is, "" for the master's: ``ann.json/members/NAME/...``."""
    parts = file.parts
    places = [place for place in range(len(parts) - 3) if parts[place : place + 2] == ("ann.json", "members")]
    return parts[places[-1] + 2] if places else ""


def _base(file: Path) -> str:
    """Return what a document's files have in common."""
    name = file.name.removesuffix(".gz")
    return name.removesuffix(next((end for end in (ANNOTATIONS, *_TEXTS) if name.endswith(end)), ""))


def _read_file(file: Path, folder: Path, intake: Intake) -> Document:
    record = load_json(file)
    text_file = _find_beside(file, folder)
    names = _read_legend(file)
    parts = _read_parts(text_file)
    text, begins = _join(parts)
    with shaped(str(file), "tagtog"):
        placed: list[tuple[str, Mention]] = []
        for number, entity in enumerate(record["entities"]):
            where = f"{file}: entity {number}"
            if (entity.get("confidence") or {}).get("state") == "pre-removed":
                intake.left_out["suggestion that was turned down"] += 1
            elif entity["part"] not in parts:
                intake.skip_mention(where, _base(file), f"no such part: {entity['part']} in {text_file.name}")
            else:
                placed.append((entity["part"], _read_entity(entity, names, where, intake)))
        intake.left_out["relation"] += len(record.get("relations") or [])
        intake.left_out["label of a document"] += len(record.get("metas") or {})
        extra: dict[str, Any] = {"annotator": member} if (member := _member(file)) else {}
        if record.get("anncomplete") is False:
            extra["anncomplete"] = False
        # How offsets count is decided by part, as for any text.
        moved = {
            name: iter(points_from_utf16([m for own, m in placed if own == name], parts[name])) for name, _ in placed
        }
        mentions = [_shift(next(moved[name]), begins[name]) for name, _ in placed]
        return intake.document(_base(file), text, mentions, where=str(file), extra=extra)


def _read_entity(entity: Mapping[str, Any], names: Mapping[str, str], where: str, intake: Intake) -> Mention:
    """Read an entity with offsets in its part; one over divided words has several fragments."""
    offsets = [(row["start"], str(row["text"])) for row in entity["offsets"]]
    if not all(type(start) is int for start, _ in offsets):
        raise ValueError("an offset that is no whole number")
    extra: dict[str, Any] = {}
    if fields := entity.get("fields"):
        extra["attributes"] = {names.get(key, key): field["value"] for key, field in fields.items()}
    concepts = [row["source"]["id"] for row in (entity.get("normalizations") or {}).values()]
    if concepts:
        extra["concept"] = str(concepts[0])
        intake.left_out["further identifier of a mention"] += len(concepts) - 1
    return Mention(
        fragments=tuple((start, start + _utf16_length(text)) for start, text in offsets),
        labels=(names.get(entity["classId"], entity["classId"]),),
        text=" ".join(text for _, text in offsets),
        where=where,
        extra=extra,
    )


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def _shift(mention: Mention, begin: int) -> Mention:
    return replace(mention, fragments=tuple((start + begin, end + begin) for start, end in mention.fragments))


def _find_beside(file: Path, folder: Path) -> Path:
    """Return the text of an annotation file: the one file of its name beside it, in the folder, or in the export around."""
    base = _base(file)
    names = {f"{base}{end}{gz}" for end in _TEXTS for gz in ("", ".gz")} | ({base} if base.endswith(".txt") else set())
    export = next((above.parent for above in file.parents if above.name == "ann.json"), folder)
    for place in (file.parent, folder, export):
        walk = place.iterdir() if place == file.parent else place.rglob("*")
        found = sorted(other for other in walk if other.name in names)
        if len(found) > 1:
            raise DataError(f"{file}: which is its text: {', '.join(map(str, found))}? Keep one.")
        if found:
            return found[0]
    raise DataError(f"{file}: no {base}.plain.html (or .txt) beside it or in {export}.")


def _read_legend(file: Path) -> Mapping[str, str]:
    """Return the names of types and labels, from the nearest legend in the folders above a file."""
    legend = next((folder / _LEGEND for folder in file.parents if (folder / _LEGEND).is_file()), None)
    if legend is None:
        return {}
    names = load_json(legend)
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{legend}: not an object of ids and names.")
    return cast(dict[str, str], names)


def _read_parts(file: Path) -> Mapping[str, str]:
    """Return the text of every part, in the order of the document."""
    with open_text(file) as stream:
        content = "".join(stream)
    if file.name.removesuffix(".gz").endswith(".txt"):
        return {_VERBATIM: content}
    from lxml import html
    from lxml.etree import ParserError

    try:
        tree = html.document_fromstring(content.encode(), parser=html.HTMLParser(encoding="utf-8"))
    except ParserError as error:
        raise DataError(f"{file}: not readable as HTML ({error}).") from None
    elements = [element for body in tree.iter("body") for element in body.iterdescendants() if element.get("id")]
    inner = [element for element in elements if not any(child.get("id") for child in element.iterdescendants())]
    if not inner:
        raise DataError(f"{file}: no element with an id in its body, so no part that could be annotated.")
    return {element.get("id"): "".join(element.itertext()) for element in inner}


def _join(parts: Mapping[str, str]) -> tuple[str, Mapping[str, int]]:
    """Return the text of all parts and where each begins."""
    begins: dict[str, int] = {}
    position = 0
    for name, part in parts.items():
        begins[name] = position
        position += len(part) + 1
    return "\n".join(parts.values()), begins
