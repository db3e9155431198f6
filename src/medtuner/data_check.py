"""`medtuner check DATA...`: what the data are like, on the terminal and in files, with disagreements to adjudicate.

for line in check_data(["a=team_a.jsonl", "b=team_b"], output=Path("check")): print(line)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtuner.agreement import find_disagreements
from medtuner.corpora.formats import write_format
from medtuner.corpora.intake import check_policy
from medtuner.documents import Document, Span
from medtuner.quality import describe
from medtuner.runs import write_json
from medtuner.sources import LabelMapping, Source, read_source, refuse_same_names
from medtuner.tokenising import SpacyTokenizer

_SHOWN = 10


def check_data(specs: Sequence[str], *, output: Path, on_error: str = "skip", language: str = "en") -> Iterator[str]:
    """Describe data; write `check.json` and, where annotators differ, `disagreements` as BRAT and for Label Studio."""
    policy = check_policy(on_error)
    sources = [read_source(spec, LabelMapping(), policy=policy) for spec in specs]
    refuse_same_names([source.name for source in sources])
    documents = [document for source in sources for document in source.documents]
    report = describe(documents, sentences=SpacyTokenizer(language).sentences)
    report["sources"] = {source.name: source.intake.to_json() for source in sources}
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "check.json", report)
    yield from _show(report, sources)
    yield from _write_disagreements(documents, output)
    yield f"written: {output / 'check.json'}"


def _show(report: dict[str, Any], sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        yield f"{source.name}: {'; '.join(source.intake.summary())}"
    yield f"{report['sentences']:,} sentences, {report['words']:,} words, {report['mentions']:,} mentions:"
    for label, count in report["mentions_per_type"].items():
        yield f"  {count:>8,} {label}"
    for title, key in (("characters of a document", "characters"), ("words of a mention", "mention_words")):
        yield f"{title}: median {report[key]['median']:g}, longest {report[key]['longest']:,}"
    for key in ("several_types", "discontinuous", "overlapping", "without_mentions", "duplicates"):
        if report[key]:
            yield f"{key.replace('_', ' ')}: {report[key]:,}"
    if report["near_duplicates"]:
        yield f"near-duplicates: {len(report['near_duplicates'])} pairs"
    yield from _show_rows("strings with different types", report["ambiguous"], _ambiguous)
    yield from _show_rows("annotated nearly always, but not everywhere", report["forgotten"], _forgotten)
    for pair in report["agreement"]:
        strict, overlap = pair["strict"]["micro"]["f1"], pair["overlap"]["f1"]
        chance = "" if pair["kappa"] is None else f", kappa {pair['kappa']:.2f}, alpha {pair['alpha']:.2f}"
        names = " and ".join(pair["annotators"])
        yield f"{names}: {pair['documents']} texts, strict F1 {100 * strict:.1f}, overlap F1 {100 * overlap:.1f}{chance}"
        for label, row in pair["strict"]["per_type"].items():
            yield f"  {100 * row['f1']:>6.1f} {label}"
    if every := report["agreement_of_all"]:
        yield f"all {len(every['annotators'])} annotators: {every['documents']} texts, alpha {every['alpha']:.2f}"


def _show_rows(title: str, rows: Sequence[dict[str, Any]], line: Any) -> Iterator[str]:
    if rows:
        yield f"{title}: {len(rows)}"
        yield from (f"  {line(row)}" for row in rows[:_SHOWN])


def _ambiguous(row: dict[str, Any]) -> str:
    return f"{row['string']!r}: " + ", ".join(f"{label} {count}" for label, count in row["types"].items())


def _forgotten(row: dict[str, Any]) -> str:
    first = row["places"][0]
    times = row["annotated"] + len(row["places"])
    place = f"{first['document']} {first['start']}-{first['end']}"
    return f"{row['string']!r}: {row['annotated']} of {times} times, not in {place}"


def _write_disagreements(documents: Sequence[Document], output: Path) -> Iterator[str]:
    found = find_disagreements(documents)
    if not found:
        return
    flat = [
        replace(document, id=f"{number:04d}", spans=tuple(map(_without_blanks, document.spans)))
        for number, document in enumerate(found)
    ]
    write_format(output / "disagreements.json", found, name="label-studio")
    write_format(output / "disagreements_brat", flat, name="brat")
    count = sum(len(document.spans) for document in found)
    places = f"{output / 'disagreements.json'} (Label Studio), {output / 'disagreements_brat'} (BRAT)"
    yield f"{count} mentions to adjudicate in {len(found)} texts: {places}"


def _without_blanks(span: Span) -> Span:
    """Return a span whose labels BRAT takes."""
    return replace(span, labels=tuple("_".join(label.replace(": ", ":").split()) for label in span.labels))
