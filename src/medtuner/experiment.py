"""A whole run: data, labels, alignment, model, training, test scores, report, in one run folder.

    outcome = run_experiment(config, console=Console(), stop=stop)
    outcome.folder, outcome.scores

Calling it again on the same folder resumes an unfinished run and returns at once from a finished one.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medtuner import slurm
from medtuner.alignment import SubwordEncoder, tag_subwords, tag_units
from medtuner.batches import BatchItem, derive_seed, make_items
from medtuner.config import Config, LabelsSection
from medtuner.console import Console
from medtuner.corpora import Splits, load_splits
from medtuner.distributed import Ranks, join_ranks
from medtuner.documents import Document, document_weight, hash_documents, write_documents
from medtuner.duplicates import warn_of_shared
from medtuner.errors import DataError, MedtunerError, RunInterrupted
from medtuner.evaluation import ScoreOptions, collapse_gold, evaluate
from medtuner.flat_rules import FlatRules
from medtuner.labels import check_labels, choose_label_space, unknown_tags
from medtuner.ledger import Ledger
from medtuner.models import (
    ModelOptions,
    build_model,
    choose_precision,
    find_encoder,
    identify_encoder,
    initialise_from,
    load_tokenizer,
    memory_hint,
)
from medtuner.prediction import Predictor, predict_in_shares
from medtuner.recognizer import find_model, largest_window, save_model
from medtuner.report import write_report
from medtuner.runs import (
    claim,
    is_finished,
    read_json,
    read_metrics,
    run_folder,
    stored_precision,
    write_json,
    write_manifest,
    write_text,
)
from medtuner.signals import StopRequest
from medtuner.story import Story
from medtuner.training import Event, TrainingJob, TrainingLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where a run is and its test scores (None when it had no test set)."""

    folder: Path
    scores: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Data and model of a run, ready to train."""

    items: Sequence[BatchItem]
    dev: Sequence[Document]
    test: Sequence[Document]
    predictor: Predictor
    tokenizer: Any
    max_tokens: int
    trained_types: tuple[str, ...]
    encoder_identity: str


def run_experiment(config: Config, *, console: Console, stop: StopRequest) -> Outcome:
    """Train, or go on training, the run that `config` describes, then test and report it.

    Raises `RunInterrupted` after saving when `stop` was requested, and `MedtunerError` for what the user can mend.
    """
    folder = run_folder(config)
    with join_ranks() as ranks:
        if is_finished(folder):
            claim(folder, config, data_sha256=None)
            console.say(f"{folder} is finished; nothing to do.")
            return Outcome(folder=folder, scores=_stored_scores(folder))
        try:
            return _run(config, folder, ranks, console, stop)
        except RuntimeError as error:
            hint = memory_hint(error, ranks)
            if hint is None:
                raise
            raise hint from None


def _run(config: Config, folder: Path, ranks: Ranks, console: Console, stop: StopRequest) -> Outcome:
    if ranks.is_main and (end := slurm.job_end()) is not None:
        stop.deadline = end - config.slurm.signal_lead
    splits = load_splits(config.data)
    _leave_early(ranks, stop)
    ledger = Ledger()
    prepared = _prepare(config, splits, ledger, ranks, console)
    _leave_early(ranks, stop)
    _refuse_losses(config, folder, ledger, ranks)
    _claim(folder, config, splits, ranks, prepared)
    if ranks.is_main:
        write_json(folder / "ledger.json", ledger.to_json())
    story = Story(folder, config, ranks=ranks, stop=stop, warn=console.warn)
    job = TrainingJob(
        options=config.train,
        seed=config.run.seed,
        items=prepared.items,
        dev=prepared.dev,
        predictor=prepared.predictor,
        checkpoints=folder / "checkpoints",
        stop=stop,
        before_save=story.check_owner,
        after_save=story.saved,
    )
    try:
        _train(job, folder, ranks, console, story)
        outcome = _finish(config, folder, prepared, ranks, stop)
    except RunInterrupted as interruption:
        story.stopped(str(interruption))
        raise
    except (MedtunerError, RuntimeError) as error:
        story.failed(memory_hint(error, ranks) if isinstance(error, RuntimeError) else error)
        raise
    story.finished()
    return outcome


def _leave_early(ranks: Ranks, stop: StopRequest) -> None:
    if ranks.agree_any(stop.requested):
        raise RunInterrupted("stopped before the first step; what was saved earlier stays")


def _refuse_losses(config: Config, folder: Path, ledger: Ledger, ranks: Ranks) -> None:
    """Refuse the run, before it owns a folder, when too many mentions would be lost; list them beside the folder."""
    try:
        ledger.refuse_above(config.data.max_lost)
    except DataError as error:
        listing = folder.with_name(f"{folder.name}.refused.json")
        if ranks.is_main:
            write_json(listing, ledger.to_json())
        raise DataError(f"{error} All places: {listing}") from None


def _claim(folder: Path, config: Config, splits: Splits, ranks: Ranks, prepared: _Prepared) -> None:
    """Let the first rank open the folder; where it may not, every rank raises the same error."""
    refusal: MedtunerError | None = None
    if ranks.is_main:
        try:
            claim(
                folder,
                config,
                data_sha256=_hash_splits(splits),
                encoder=prepared.encoder_identity,
                precision="fp32" if prepared.predictor.precision == torch.float32 else "bf16",
            )
        except MedtunerError as error:
            refusal = error
    first_refusal = ranks.gather(refusal)[0]
    if first_refusal is not None:
        raise first_refusal


def _hash_splits(splits: Splits) -> str:
    return hash_documents(document for corpus in splits.named().values() for document in corpus.documents)


def _stored_scores(folder: Path) -> Mapping[str, Any] | None:
    return read_json(folder / "scores.json") if (folder / "scores.json").exists() else None


def _prepare(config: Config, splits: Splits, ledger: Ledger, ranks: Ranks, console: Console) -> _Prepared:
    """Choose the label space, build the model, align the training data and account for every mention."""
    space = choose_label_space(config.labels.space, splits.train.documents)
    for corpus in splits.named().values():
        check_labels(space, corpus.documents)
    location = find_encoder(config.model.encoder)
    tokenizer = load_tokenizer(location)
    torch.manual_seed(derive_seed(config.run.seed))
    model = build_model(location, space, ModelOptions(dropout=config.model.dropout, device=ranks.device))
    if config.model.init_from:
        shared = initialise_from(model, find_model(Path(config.model.init_from)), space, tokenizer)
        console.say(f"weights from {config.model.init_from}; output rows kept for {shared} of {len(space.tags)} tags")
    max_tokens = largest_window(model, tokenizer, config.model.max_tokens)
    if max_tokens < config.model.max_tokens:
        console.say(f"model.max_tokens: the encoder takes {max_tokens} at once; longer text goes through in windows")
    wanted: str = config.train.precision
    if wanted == "auto":  # a run goes on in the precision it began in, whatever the machine
        wanted = stored_precision(run_folder(config)) or "auto"
    precision, note = ranks.gather(choose_precision(wanted, ranks.device))[0]
    console.say(f"device {ranks.device}, {ranks.size} rank{'s' * (ranks.size > 1)}, {note}")
    if wanted == "auto" and precision == torch.float32:
        console.warn("training in " + note)
    predictor = Predictor(
        model=model,
        encoder=SubwordEncoder(tokenizer, max_tokens=max_tokens, overlap=config.model.overlap),
        space=space,
        device=ranks.device,
        precision=precision,
        continuation=config.model.continuation,
        tokens_per_batch=config.evaluate.tokens_per_batch,
    )
    items = _align(config, splits, predictor, ledger)
    dev = collapse_gold(splits.dev.documents, space, ledger.account("dev")) if splits.dev else []
    test = collapse_gold(splits.test.documents, space, ledger.account("test")) if splits.test else []
    trained_types = tuple(sorted(ledger.account("train").kept_types))
    _report_data(splits, ledger, console)
    for name, gold in (("dev", dev), ("test", test)):
        _warn_of_unseen(name, gold, set(trained_types), console)
    return _Prepared(
        items=items,
        dev=dev,
        test=test,
        predictor=predictor,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        trained_types=trained_types,
        encoder_identity=identify_encoder(location, model),
    )


def _align(config: Config, splits: Splits, predictor: Predictor, ledger: Ledger) -> list[BatchItem]:
    account = ledger.account("train")
    encoded = predictor.encoder.encode(splits.train.documents)
    rules = _flat_rules(config.labels, splits)
    tags = [tag_subwords(document, tag_units(document, predictor.space, account, rules)) for document in encoded]
    unknown = None
    if config.train.unannotated == "unknown":
        unknown = [unknown_tags(predictor.space, document) for document in splits.train.documents]
    items = make_items(encoded, predictor.encoder, tags, continuation=predictor.continuation, unknown=unknown)
    factors = [np.float32(document_weight(document)) for document in splits.train.documents]
    weighted = [
        item
        if factors[item.window.document] == 1
        else replace(item, weights=item.weights * factors[item.window.document])
        for item in items
    ]
    return [item for item in weighted if item.weight]


def _flat_rules(labels: LabelsSection, splits: Splits) -> FlatRules:
    counts = Counter(label for document in splits.train.documents for span in document.spans for label in span.labels)
    return FlatRules(
        overlap=labels.overlap,
        several=labels.several,
        discontinuous=labels.discontinuous,
        priority=labels.priority,
        counts=counts,
    )


def _report_data(splits: Splits, ledger: Ledger, console: Console) -> None:
    """Print the ledger, and what the scores will not show by themselves."""
    for name, corpus in splits.named().items():
        ledger.account(name).mended.update(corpus.count_mended())
    for line in ledger.summary():
        console.say(line)
    for warning in warn_of_shared(splits):
        console.warn(f"{warning}: their scores are memory.")
    if splits.dev is None:
        console.warn("no dev set: the last weights are kept, not the best ones. Set data.dev to choose by score.")
    if splits.test is None:
        console.warn("no test set: the run will have no scores. Set data.test, or run `medtuner evaluate` later.")


def _warn_of_unseen(name: str, gold: Sequence[Document], trained: set[str], console: Console) -> None:
    spans = [span for document in gold for span in document.spans]
    missed = [span for span in spans if not trained & set(span.labels)]
    if missed:
        types = sorted({label for span in missed for label in span.labels})
        console.warn(
            f"{name}: {len(missed)} of {len(spans)} mentions have types that training never shows "
            f"({', '.join(types)}); they stay in gold and count as missed."
        )


def _train(job: TrainingJob, folder: Path, ranks: Ranks, console: Console, story: Story) -> None:
    """Run the loop, from the last checkpoint if there is one, with metrics and progress."""
    metrics = folder / "metrics.jsonl"
    observers: list[Callable[[Event], None]] = []

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    loop = TrainingLoop(job, ranks=ranks, observer=observe)
    checkpoint = loop.resume()
    for damaged in loop.damaged_checkpoints:
        console.warn(f"{damaged}: damaged, passed over.")
    if checkpoint is not None:
        console.say(f"resuming from step {checkpoint.step} of {loop.num_steps}")
    story.begin(loop.step)
    if ranks.is_main:
        _trim_metrics(metrics, loop.step)
        observers.append(lambda _: story.check_owner())
        observers.append(lambda event: _append_metrics(metrics, event))
    with console.training(num_steps=loop.num_steps, start=loop.step) as show:
        observers.append(show)
        loop.run()
    for damaged in loop.damaged_checkpoints:
        console.warn(f"{damaged}: damaged since it was written; the newest whole checkpoint is used.")


def _trim_metrics(metrics: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run takes again, and a line that a kill cut short."""
    if metrics.exists():
        kept = [record for record in read_metrics(metrics) if record["step"] <= step]
        write_text(metrics, "".join(json.dumps(record) + "\n" for record in kept))


def _append_metrics(metrics: Path, event: Event) -> None:
    record: dict[str, object] = {
        "step": event.step,
        "num_steps": event.num_steps,
        "epoch": round(event.epoch, 4),
        "tokens": event.tokens,
    }
    if event.dev is None:
        record |= {"loss": event.loss, "lr": event.lr, "tokens_per_s": event.tokens_per_s, "seconds": event.seconds}
    else:
        strict = event.dev["strict"]
        record |= {"dev_f1": strict["micro"]["f1"], "dev_macro_f1": strict["macro"]["f1"]}
    with metrics.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def _finish(config: Config, folder: Path, prepared: _Prepared, ranks: Ranks, stop: StopRequest) -> Outcome:
    """Save the model, test it, draw and report; the manifest comes last."""
    predictor = prepared.predictor
    predicted = predict_in_shares(predictor, prepared.test, ranks=ranks, should_stop=lambda: stop.requested)
    if predicted is None:
        raise RunInterrupted("stopped while testing; training is done and saved")
    if not ranks.is_main:
        return Outcome(folder=folder, scores=None)
    save_model(
        folder / "model",
        predictor,
        prepared.tokenizer,
        max_tokens=prepared.max_tokens,
        trained_types=prepared.trained_types,
        language=config.data.language,
    )
    scores = None
    if prepared.test:
        scores = evaluate(
            prepared.test,
            predicted,
            options=ScoreOptions(
                bootstrap=config.evaluate.bootstrap, seed=config.run.seed, trained_types=prepared.trained_types
            ),
        )
        predictions = folder / "predictions" / "test.jsonl"
        predictions.parent.mkdir(exist_ok=True)
        aside = predictions.with_name(".test.jsonl")
        with aside.open("w", encoding="utf-8") as stream:
            write_documents(stream, predicted)
        aside.replace(predictions)
        write_json(folder / "scores.json", scores)
    write_report(folder)
    write_manifest(folder, state="finished")
    for unfinished in (folder / "checkpoints").glob(".step-*"):
        shutil.rmtree(unfinished)
    return Outcome(folder=folder, scores=scores)
