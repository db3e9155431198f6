"""BRAT standoff: a `.txt` file with the text and a `.ann` file beside it, one annotation a line.

    T1	Protein 33 40;41 42	protein1          a mention, here of two fragments
    N1	Reference T1 UMLS:C0004057	Aspirin   an identifier, kept as `concept`
    A1	Negation T1                           an attribute, kept under `attributes`
    #1	AnnotatorNotes T1	is this right?        a note, kept as `note`

Offsets count code points of the text file as it stands (brat.nlplab.org/standoff.html). Relations, events and
equivalences are counted as left out; mentions of one place that an ``Equiv`` line joins are one mention with several
labels, and are written so.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtuner.corpora.intake import Intake, Mention
from medtuner.corpora.unwritten import count_unwritten, one_line
from medtuner.documents import Document, Offsets, open_text
from medtuner.errors import DataError

_LEFT_OUT = {"R": "relation", "E": "event"}
_TYPE = re.compile(r"[^\s]+")


def read_brat(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the documents of a folder (with its subfolders), or the one of a `.ann` or `.txt` file."""
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path.with_suffix(".txt")]
    if path.is_dir():
        _refuse_lonely(path)
    for file in files:
        identifier = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else file.stem
        yield _read_document(file, identifier, intake)


def _refuse_lonely(folder: Path) -> None:
    """Raise `DataError` for annotations without their text: they would be lost without a word."""
    for annotations in folder.rglob("*.ann"):
        if not annotations.with_suffix(".txt").exists():
            raise DataError(f"{annotations}: no {annotations.stem}.txt beside it, so there is no text to annotate.")


def _read_document(file: Path, identifier: str, intake: Intake) -> Document:
    with open_text(file) as stream:
        text = "".join(stream)
    annotations = file.with_suffix(".ann")
    if not annotations.exists():
        raise DataError(f"{file}: no {annotations.name} beside it. A text without mentions has an empty .ann file.")
    mentions: dict[str, Mention] = {}
    extras: dict[str, dict[str, Any]] = {}
    equal: list[list[str]] = []
    with open_text(annotations) as stream:
        for number, raw in enumerate(stream, 1):
            line, where = raw.rstrip("\r\n"), f"{annotations}:{number}"
            if line.startswith("T"):
                name, mention = _read_mention(line, where, identifier, intake)
                if mention is not None and name in mentions:
                    intake.skip_mention(where, identifier, f"a second annotation of the name: {name}")
                elif mention is not None:
                    extras[name] = {}
                    mentions[name] = mention
            elif line.startswith("*\tEquiv "):
                equal.append(line.partition(" ")[2].split())
            elif line.strip() and not re.match(r"[A-Z#*]", line):
                intake.skip_mention(where, identifier, "no line of BRAT")
            elif line.strip():
                _read_addition(line, extras, intake)
    complete = {name: replace(mention, extra=extras[name]) for name, mention in mentions.items()}
    return intake.document(identifier, text, _join_equal(complete, equal, intake), where=str(annotations))


def _read_mention(line: str, where: str, identifier: str, intake: Intake) -> tuple[str, Mention | None]:
    name, _, rest = line.partition("\t")
    head, _, text = rest.partition("\t")
    label, _, places = head.partition(" ")
    fragments: list[Offsets] = []
    for place in places.split(";"):
        numbers = place.split()
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            intake.mentions += 1
            intake.skip(where, identifier, "no line of name, type with offsets, and text divided by tabs")
            return name, None
        fragments.append((int(numbers[0]), int(numbers[1])))
    return name, Mention(fragments=tuple(fragments), labels=(label,), text=text or None, where=where)


def _read_addition(line: str, extras: dict[str, dict[str, Any]], intake: Intake) -> None:
    """Enter a normalisation, attribute or note at its mention; count what has no place in a document."""
    name, _, rest = line.partition("\t")
    head, _, text = rest.partition("\t")
    kind, target, *values = [*head.split(), "", ""]
    extra = extras.get(target)
    if name.startswith("N") and extra is not None:
        if "concept" in extra:
            intake.left_out["further identifier of a mention"] += 1
        else:
            extra["concept"] = values[0]
    elif name.startswith(("A", "M")) and extra is not None:
        attributes = extra.setdefault("attributes", {})
        intake.left_out["further value of an attribute"] += kind in attributes
        attributes.setdefault(kind, values[0] or True)
    elif name.startswith("#") and extra is not None:
        intake.left_out["further note on a mention"] += "note" in extra
        extra.setdefault("note", text)
    else:
        intake.left_out[_LEFT_OUT.get(name[:1], "annotation of a relation or event")] += 1


def _join_equal(mentions: dict[str, Mention], equal: list[list[str]], intake: Intake) -> list[Mention]:
    """Make one mention of several that are declared equal and share their place."""
    for names in map(list, map(dict.fromkeys, equal)):
        group = [mentions[name] for name in names if name in mentions]
        if len(group) < len(names) or len({mention.fragments for mention in group}) > 1:
            intake.left_out["equivalence of different places"] += 1
            continue
        labels = tuple(dict.fromkeys(label for mention in group for label in mention.labels))
        first = group[0]
        intake.left_out["keys of a mention that is declared equal"] += sum(one.extra != first.extra for one in group)
        mentions[names[0]] = replace(first, labels=labels)
        for name in names[1:]:
            del mentions[name]
    return list(mentions.values())


def write_brat(path: Path, documents: Iterable[Document]) -> Counter[str]:
    """Write a folder of `.txt` and `.ann` files named by document id; return what could not be kept."""
    left_out: Counter[str] = Counter()
    written: set[Path] = set()
    for document in documents:
        count_unwritten(document, left_out, span_keys=("concept", "note", "attributes"), holds=("fragments",))
        file = path / f"{_file_name(document.id)}.txt"
        if file in written:
            raise DataError(f"document {document.id!r}: another document has this file name. BRAT needs unique ids.")
        written.add(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(document.text.encode("utf-8"))
        lines = _annotation_lines(document, left_out)
        file.with_suffix(".ann").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return left_out


def _file_name(identifier: str) -> str:
    if not identifier or identifier.startswith(("/", ".")) or "\0" in identifier or ".." in identifier.split("/"):
        raise DataError(f"document id {identifier!r} is no file name, which BRAT needs.")
    return identifier


def _annotation_lines(document: Document, left_out: Counter[str]) -> Iterator[str]:
    number = notes = 0
    for span in document.spans:
        places = ";".join(f"{start} {end}" for start, end in span.fragments or ((span.start, span.end),))
        text = " ".join(document.text[start:end] for start, end in span.fragments or ((span.start, span.end),))
        first = number + 1
        for label in span.labels:
            if not _TYPE.fullmatch(label):
                raise DataError(f"document {document.id}: BRAT takes no label with white space: {label!r}.")
            number += 1
            yield f"T{number}\t{label} {places}\t{' '.join(text.split())}"
        if len(span.labels) > 1:
            yield "*\tEquiv " + " ".join(f"T{name}" for name in range(first, number + 1))
        for key, value in span.extra.items():
            notes += 1
            if key == "concept" and str(value).split():
                concept = one_line(value, left_out, blank="_")
                yield f"N{notes}\tReference T{first} {concept}\t{' '.join(text.split())}"
            elif key == "note":
                yield f"#{notes}\tAnnotatorNotes T{first}\t{one_line(value, left_out)}"
            elif key == "attributes" and not isinstance(value, dict):
                left_out["span key attributes"] += 1
            elif key == "attributes":
                for kind, state in value.items():
                    notes += 1
                    name = one_line(kind, left_out, blank="_")
                    yield f"A{notes}\t{name} T{first}" + (
                        "" if state is True else f" {one_line(state, left_out, blank='_')}"
                    )
