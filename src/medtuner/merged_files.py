"""`medtuner merge`: sources read, merged, checked against evaluation data, tokenised and written with their account.

for line in merge_files(["team_a=notes.pubtator", "medmentions"], Path("merged.jsonl"), MergeOptions()): print(line)
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from medtuner.corpora import is_dataset, load_corpus
from medtuner.corpora.formats import refuse_compressed, write_format
from medtuner.corpora.intake import Intake, Policy, check_policy
from medtuner.documents import Document
from medtuner.duplicates import Leak, find_leaks
from medtuner.errors import ConfigError, DataError, nearest
from medtuner.merging import ON_CONFLICT, Merged, OnConflict, merge, name_apart
from medtuner.runs import write_json, write_text
from medtuner.semantic_network import semantic_types
from medtuner.sources import (
    LabelMapping,
    Source,
    check_names,
    hold_out,
    mark,
    read_mapping,
    read_source,
    source_name,
    source_path,
)
from medtuner.tokenising import SpacyTokenizer

T = TypeVar("T", bound=str)
_SHOWN = 5
_WRITTEN = ("tokens.jsonl", "heldout.jsonl", "conflicts.jsonl", "ledger.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """The options of `medtuner merge`."""

    labels: Path | None = None
    against: Sequence[str] = ()
    on_conflict: str = "majority"
    on_error: str = "refuse"
    language: str = "en"
    leaks: str = "refuse"
    holdout: float = 0.0


def merge_files(specs: Sequence[str], output: Path, options: MergeOptions) -> Iterator[str]:
    """Merge and write ``OUTPUT``, ``OUTPUT.tokens.jsonl``, ``.conflicts.jsonl`` and ``.ledger.json``; yield the account.

    Evaluation data goes to ``.heldout.jsonl`` with its labels mapped.

    Raises `DataError` when a source cannot be read as the policies say, or when training would show evaluation data.
    """
    on_conflict = _choose(options.on_conflict, ON_CONFLICT, "--on-conflict")
    on_leak = _choose(options.leaks, ("refuse", "drop"), "--leaks")
    policy = check_policy(options.on_error)
    _check_output(output, [*specs, *options.against])
    tokenizer = SpacyTokenizer(options.language)
    mapping = read_mapping(options.labels) if options.labels else LabelMapping()
    sources = [read_source(spec, mapping, policy=policy) for spec in specs]
    names = [source.name for source in sources] + [source_name(spec) for spec in options.against]
    check_names(mapping, names, options.labels)
    for source in sources:
        yield from _show_account(source.name, source)
        yield f"  annotated types: {', '.join(source.annotated)}"
        if own := [label for label in source.annotated if label not in semantic_types()]:
            yield f"  {', '.join(own)}: no TUIs, so types of their own beside MedMentions'; --labels maps them"
        yield from (f"  [labels.{source.name}] {label!r} is no label of this source" for label in source.unused)
    evaluation: list[Document] = []
    accounts = {source.name: source for source in sources}
    for spec in options.against:
        tested = _read_evaluation(spec, mapping, policy)
        name = f"{tested.name} (evaluation)"
        accounts[name] = tested
        yield from _show_account(name, tested)
        evaluation += _join_versions(tested, on_conflict)
    if options.holdout:
        parted = [hold_out(source, options.holdout) for source in sources]
        sources = [source for source, _ in parted]
        for source, last in parted:
            evaluation += _join_versions(replace(source, documents=last), on_conflict)
    evaluation = name_apart(evaluation)
    merged = merge(sources, on_conflict=on_conflict)
    leaks = find_leaks(merged.documents, evaluation, sentences=tokenizer.sentences) if evaluation else []
    serious = [leak for leak in leaks if not leak.tolerated]
    if serious and on_leak == "refuse":
        held_out = [f"the held-out {100 * options.holdout:g}%"] if options.holdout else []
        raise DataError(_explain_leaks(serious, [*options.against, *held_out]))
    leaking = {leak.train for leak in serious}
    documents = [document for document in merged.documents if document.id not in leaking]
    if not documents:
        raise DataError("every training document shows evaluation data, so none would be left.")
    yield from _write(output, documents, merged, accounts, leaks, tokenizer)
    heldout = output.with_name(f"{output.stem}.heldout.jsonl")
    heldout.unlink(missing_ok=True)  # an earlier merge's; its documents may be in training now
    if evaluation:
        write_format(heldout, evaluation, name="jsonl")
        by_source = Counter(str(document.extra["source"]) for document in evaluation)
        counts_by_source = ", ".join(f"{count:,} of {name}" for name, count in by_source.items())
        yield f"evaluation data with the same labels: {heldout} (data.test), {counts_by_source} documents"


def _show_account(name: str, source: Source) -> Iterator[str]:
    yield f"{name}: {'; '.join(source.intake.summary())}"
    yield from (f"  left out {count}: {what}" for what, count in source.left_out.most_common())


def _read_evaluation(spec: str, mapping: LabelMapping, policy: Policy) -> Source:
    """Read evaluation data, its labels mapped as those of a source of its name; a dataset's own labels stay."""
    if is_dataset(path := source_path(spec)):
        documents = load_corpus(path, split="test").documents
        types = sorted({label for document in documents for span in document.spans for label in span.labels})
        name, intake = source_name(spec), Intake(policy)
        marked = [intake.take(mark(document, name, types), path) for document in documents]
        return Source(name=name, documents=marked, annotated=tuple(types), intake=intake, left_out=Counter())
    return read_source(spec, mapping, policy=policy)


def _join_versions(source: Source, on_conflict: OnConflict) -> Sequence[Document]:
    """Return a source's documents, of each text that several annotators have one, as training has them."""
    several = any("annotator" in document.extra for document in source.documents)
    return merge([source], on_conflict=on_conflict).documents if several else source.documents


def _choose(value: str, valid: Sequence[T], option: str) -> T:
    for one in valid:
        if one == value:
            return one
    raise ConfigError(f"{option} {value}: valid are {', '.join(valid)}.{nearest(value, valid)}")


def _check_output(output: Path, specs: Sequence[str]) -> None:
    """Refuse to write over what is to be read."""
    refuse_compressed(output)
    names = [output, *(output.with_name(f"{output.stem}.{part}") for part in _WRITTEN)]
    for source in (Path(source_path(spec)).resolve() for spec in specs):
        if source.exists() and any(source in (name.resolve(), *name.resolve().parents) for name in names):
            raise DataError(f"{output}: would be written over the source {source}, or into it. Name another --output.")


def _explain_leaks(leaks: Sequence[Leak], against: Sequence[str]) -> str:
    kinds = Counter(leak.kind for leak in leaks)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    places = "; ".join(f"{leak.train} and {leak.evaluation} ({leak.kind})" for leak in leaks[:_SHOWN])
    return (
        f"training would show what {', '.join(against)} tests: {found}. First: {places}. Remove them from the training "
        "data, or choose --leaks drop, which leaves those training documents out and lists them."
    )


def _write(
    output: Path,
    documents: Sequence[Document],
    merged: Merged,
    sources: Mapping[str, Source],
    leaks: Sequence[Leak],
    tokenizer: SpacyTokenizer,
) -> Iterator[str]:
    """Write texts as they are, since training tokenises them itself, and beside them words and tags for other tools."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_format(output, documents, name="jsonl")
    tokens = output.with_name(f"{output.stem}.tokens.jsonl")
    counts: Counter[str] = Counter()
    lost = write_format(tokens, (tokenizer.tokenise(document, counts) for document in documents), name="hf")
    conflicts = output.with_name(f"{output.stem}.conflicts.jsonl")
    write_text(conflicts, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in merged.conflicts))
    dropped = sorted({leak.train for leak in leaks if not leak.tolerated})
    account: dict[str, Any] = {
        "sources": {
            name: source.intake.to_json()
            | {"annotated": list(source.annotated), "left_out_labels": dict(source.left_out)}
            for name, source in sources.items()
        },
        "documents": len(documents),
        "mentions": sum(len(document.spans) for document in documents),
        "joined_duplicates": merged.joined,
        "joined": [list(names) for names in merged.joined_ids],
        "dropped_in_joining": dict(merged.dropped),
        "near_duplicates": [list(pair) for pair in merged.near],
        "leaks": [asdict(leak) for leak in leaks],
        "dropped_for_leaks": dropped,
        "tokens": dict(+counts),
        "tokens_file_cannot_hold": dict(lost),
    }
    write_json(output.with_name(f"{output.stem}.ledger.json"), account)
    yield f"merged: {account['documents']:,} documents, {account['mentions']:,} mentions"
    yield f"joined {merged.joined} documents of equal text; {len(merged.near)} pairs of near-duplicates stay, listed"
    kept = sum(conflict.kept for conflict in merged.conflicts)
    yield f"{len(merged.conflicts)} conflicts, {kept} of them kept: {conflicts}"
    yield from (f"dropped in joining {count}: {what}" for what, count in merged.dropped.items())
    if leaks:
        tolerated = sum(leak.tolerated for leak in leaks)
        yield f"{len(dropped)} documents left out that show evaluation data; {tolerated} stock phrases tolerated"
    yield from (f"{what}: {count}" for what, count in (+counts).items())
    yield from (f"{tokens.name} cannot hold {count}: {what}" for what, count in lost.most_common())
    yield f"written: {output}, {tokens.name}, {output.stem}.ledger.json"
