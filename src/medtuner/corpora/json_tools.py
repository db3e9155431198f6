"""Exports of annotation tools in JSON: Label Studio, doccano and Prodigy.

Each reader yields documents one by one from JSON Lines; Label Studio's export is one array and is read whole. Where a text
was annotated by several people, each annotator's version is a document with the same id and its own `annotator`.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from medtuner.corpora.intake import Intake, Mention, shaped, squeeze
from medtuner.corpora.unwritten import count_unwritten
from medtuner.documents import Document, load_json, read_json_lines
from medtuner.errors import DataError

_OF_DOCCANO = frozenset({"id", "text", "data", "label", "labels", "entities", "annotations", "relations"})
_OF_PRODIGY = frozenset({"id", "text", "spans", "tokens", "relations", "answer", "meta"})


def read_doccano(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield documents of a doccano export: `labels` or `label` as [start, end, name], or `annotations` by user.

    Labels given as ids are named by `label_config.json` beside the file, doccano's own export of its labels; without it
    the id itself is the label.
    """
    names = _label_names(path.with_name("label_config.json"))
    for where, record in read_json_lines(path):
        with shaped(where, "doccano"):
            documents = list(_read_doccano(record, names, where, intake))
        yield from documents


def _read_doccano(
    record: Mapping[str, Any], names: Mapping[str, str], where: str, intake: Intake
) -> Iterator[Document]:
    text, identifier = _text_and_id(record, where)
    intake.left_out.update(f"key {key}" for key in record if key not in _OF_DOCCANO)
    if not isinstance(record.get("annotations"), list):
        rows = record.get("labels", record.get("label", record.get("entities")))
        intake.left_out["relation"] += len(record.get("relations") or [])
        yield intake.document(identifier, text, list(_triples(rows, where)), where=where)
        return
    users: dict[str, list[Mention]] = {}
    for row in record["annotations"]:
        label = names.get(str(row.get("label")), str(row.get("label")))
        mention = _mention(row.get("start_offset"), row.get("end_offset"), label, where)
        users.setdefault(str(row.get("user", "")), []).append(mention)
    for user, mentions in sorted(users.items()) or [("", [])]:
        extra = {"annotator": user} if len(users) > 1 else {}
        yield intake.document(identifier, text, mentions, where=where, extra=extra)


def _label_names(path: Path) -> Mapping[str, str]:
    if not path.exists():
        return {}
    rows = load_json(path)
    return {str(row["id"]): str(row["text"]) for row in rows if isinstance(row, dict) and {"id", "text"} <= row.keys()}


def _text_and_id(record: Mapping[str, Any], where: str) -> tuple[str, str]:
    text = record.get("text", record.get("data"))
    if not isinstance(text, str):
        raise DataError(f"{where}: no string under 'text'; found the keys {', '.join(record)}.")
    return text, str(record.get("id", where.rpartition(":")[2]))


def _triples(rows: Any, where: str) -> Iterator[Mention]:
    if not isinstance(rows, list):
        raise DataError(f"{where}: no list of [start, end, label] under 'labels', 'label' or 'entities'.")
    for row in rows:
        if isinstance(row, dict):
            yield _mention(row.get("start_offset"), row.get("end_offset"), row.get("label"), where)
        elif isinstance(row, list) and len(row) == 3:
            yield _mention(row[0], row[1], row[2], where)
        else:
            yield Mention(fragments=(), labels=("?",), where=where)


def _mention(start: Any, end: Any, label: Any, where: str, *, text: Any = None) -> Mention:
    places = ((start, end),) if type(start) is int and type(end) is int else ()
    labels = tuple(map(str, label)) if isinstance(label, list) else (str(label or ""),)
    return Mention(fragments=places, labels=labels, text=text if isinstance(text, str) else None, where=where)


def read_prodigy(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield the accepted documents of a Prodigy export; rejected and ignored ones are counted as left out."""
    for where, record in read_json_lines(path):
        answer = record.get("answer", "accept")
        if answer != "accept":
            intake.left_out[f"document with answer {answer}"] += 1
            continue
        with shaped(where, "Prodigy"):
            document = _read_prodigy(record, where, intake)
        yield document


def _read_prodigy(record: Mapping[str, Any], where: str, intake: Intake) -> Document:
    text, line = _text_and_id(record, where)
    meta = record.get("meta")
    intake.left_out.update(f"key {key}" for key in record if key not in _OF_PRODIGY and not key.startswith("_"))
    identifier = record.get("id") or (meta.get("id") if isinstance(meta, dict) else "") or line
    mentions = [
        _mention(row.get("start"), row.get("end"), row.get("label"), where, text=row.get("text"))
        for row in record.get("spans") or []
    ]
    intake.left_out["relation"] += len(record.get("relations") or [])
    tokens = tuple((token["start"], token["end"]) for token in record.get("tokens") or [])
    if not all(type(place) is int for token in tokens for place in token):
        raise ValueError("a token without whole offsets")
    annotator = record.get("_annotator_id")
    extra = {"annotator": str(annotator)} if annotator else {}
    return intake.document(str(identifier), text, mentions, where=where, tokens=tokens or None, extra=extra)


def read_label_studio(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield documents of a Label Studio export: JSON, JSON-MIN or the older form with `completions`.

    Browsers count UTF-16 units; where a text has characters beyond the basic plane, offsets are converted.
    """
    yield from _read_tasks(path, intake, ("annotations", "completions"))


def read_predictions(path: Path, intake: Intake) -> Iterator[Document]:
    """Yield documents of Label Studio tasks with what was suggested in them, not what people annotated."""
    yield from _read_tasks(path, intake, ("predictions",))


def _read_tasks(path: Path, intake: Intake, keys: Sequence[str]) -> Iterator[Document]:
    tasks = load_json(path)
    for index, task in enumerate(tasks if isinstance(tasks, list) else [tasks]):
        where = f"{path}: task {index}"
        if not isinstance(task, dict):
            raise DataError(f"{where}: no JSON object.")
        with shaped(where, "Label Studio"):
            documents = list(_read_task(cast(dict[str, Any], task), keys, where, intake))
        yield from documents


def _read_task(task: Mapping[str, Any], keys: Sequence[str], where: str, intake: Intake) -> Iterator[Document]:
    data = task.get("data", task)
    text, name = _task_text(data, where)
    identifier = str(data.get("id", task.get("id", where.rpartition(" ")[2])))
    answers = next((task[key] for key in keys if task.get(key) is not None), None)
    if answers is None and "predictions" in task:
        answers = []
    if answers is None:  # JSON-MIN: lists of places under the names of the controls
        rows = [(key, row) for key, value in task.items() if key != name and isinstance(value, list) for row in value]
        labelled = [row for _, row in rows if isinstance(row, dict) and "start" in row]
        intake.left_out.update(
            f"item of {key!r} that is no place" for key, row in rows if not isinstance(row, dict) or "start" not in row
        )
        mentions = [_place(row, where) for row in labelled]
        extra = {"annotator": str(task["annotator"])} if "annotator" in task else {}
        yield intake.document(identifier, text, points_from_utf16(mentions, text), where=where, extra=extra)
        return
    intake.left_out.update(f"key {key} of data" for key in data if key not in (name, "id"))
    given = [answer for answer in answers if not answer.get("was_cancelled")]
    intake.left_out.update({"cancelled annotation": len(answers) - len(given)})
    if not given:
        intake.left_out["task without an annotation"] += 1
    for number, answer in enumerate(given):
        placed = points_from_utf16(
            [_result(row, where) for row in answer.get("result", []) if _is_span(row, intake)], text
        )
        author = answer.get("completed_by", answer.get("id"))
        author = author.get("email", author.get("id")) if isinstance(author, dict) else author
        extra = {"annotator": str(number if author is None else author)} if len(given) > 1 else {}
        yield intake.document(identifier, text, placed, where=where, extra=extra)


def _task_text(data: Any, where: str) -> tuple[str, str]:
    """Return the text of a task and the key it stands under: `text`, or the only string there is."""
    strings = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, dict) else {}
    if "text" in strings:
        return strings["text"], "text"
    long = [key for key in strings if key not in ("id", "meta_info", "created_at", "updated_at")]
    if len(long) != 1:
        raise DataError(f"{where}: which of {', '.join(strings) or 'no strings'} is the text? Name it 'text'.")
    return strings[long[0]], long[0]


def _is_span(row: Mapping[str, Any], intake: Intake) -> bool:
    value, kind = row.get("value"), str(row.get("type", "labels"))
    if isinstance(value, dict) and "start" in value and kind.endswith("labels"):
        return True
    intake.left_out["relation" if row.get("type") == "relation" else f"result of type {row.get('type')}"] += 1
    return False


def _result(row: Mapping[str, Any], where: str) -> Mention:
    value = dict(row["value"])
    kind = str(row.get("type", "labels"))
    meta = row.get("meta")
    kept = cast(dict[str, Any], meta) if isinstance(meta, dict) else {}
    score = row.get("score")
    number = float(score) if isinstance(score, int | float) and abs(score) <= 1 else None
    mention = _place(value | {"labels": value.get(kind, value.get("labels", []))}, where)
    return replace(mention, extra=kept, score=number)


def _place(value: Mapping[str, Any], where: str) -> Mention:
    start, end = (int(x) if isinstance(x, str) and x.isdecimal() else x for x in (value["start"], value.get("end")))
    wanted = value.get("text")
    return _mention(start, end, value.get("labels", []), where, text=wanted if isinstance(wanted, str) else None)


def points_from_utf16(mentions: Sequence[Mention], text: str) -> Sequence[Mention]:
    """Take the offsets of a text for UTF-16 units, unless more of the annotated strings stand there by code points."""
    if all(character <= "\uffff" for character in text):
        return mentions
    moved = [
        replace(mention, fragments=tuple((from_utf16(text, a), from_utf16(text, b)) for a, b in mention.fragments))
        for mention in mentions
    ]
    by_units, by_points = (sum(_stands(mention, text) for mention in one) for one in (moved, mentions))
    return moved if by_units >= by_points else mentions


def _stands(mention: Mention, text: str) -> bool:
    found = "".join(text[start:end] for start, end in mention.fragments)
    return mention.text is not None and squeeze(found) == squeeze(mention.text)


def from_utf16(text: str, units: int) -> int:
    """Return the number of code points that the first UTF-16 units of a text make; what lies outside stays outside."""
    if not 0 <= units <= to_utf16(text, len(text)):
        return units if units < 0 else len(text) + units
    return len(text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", errors="ignore"))


def to_utf16(text: str, position: int) -> int:
    """Return the number of UTF-16 units before a code point."""
    return len(text[:position].encode("utf-16-le")) // 2


def write_label_studio(path: Path, documents: Iterable[Document], *, predictions: bool = False) -> Counter[str]:
    """Write tasks for import into Label Studio: as annotations, or with `predictions` as suggestions to correct.

    Versions of one text by several annotators that follow each other are one task with several annotations.
    """
    left_out: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("[")
        tasks = itertools.groupby(documents, key=lambda document: (document.id, document.text))
        for index, ((identifier, text), group) in enumerate(tasks):
            versions = list(group)
            answers: list[dict[str, Any]] = []
            for document in versions:
                names_annotator = len(versions) > 1 and "annotator" in document.extra and not predictions
                kept = ("annotator",) if names_annotator else ()
                count_unwritten(document, left_out, document_keys=kept, span_keys=None, holds=("scores",))
                answer: dict[str, Any] = {"result": _results(document)}
                if names_annotator:
                    answer["completed_by"] = document.extra["annotator"]
                answers.append(answer | ({"model_version": "medtuner"} if predictions else {}))
            task = {"data": {"id": identifier, "text": text}, "predictions" if predictions else "annotations": answers}
            stream.write(("\n" if index == 0 else ",\n") + json.dumps(task, ensure_ascii=False))
        stream.write("\n]\n")
    return +left_out


def _results(document: Document) -> list[dict[str, Any]]:
    """Return a document's mentions as Label Studio's results."""
    return [
        {
            "id": f"s{number}",
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "meta": dict(span.extra),
            **({} if span.score is None else {"score": span.score}),
            "value": {
                "start": to_utf16(document.text, span.start),
                "end": to_utf16(document.text, span.end),
                "text": document.text[span.start : span.end],
                "labels": list(span.labels),
            },
        }
        for number, span in enumerate(document.spans)
    ]
