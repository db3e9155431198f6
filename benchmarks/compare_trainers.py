"""Compare medtuner's defaults with the recipe of Hugging Face's run_ner.py on transformers.Trainer.

    python benchmarks/compare_trainers.py --seeds 13 14 15 --output runs/compare_trainers

Same machine, same encoder, same sentences, in one run: the first 4,000 rows of embedded MedMentions-ZS train both sides,
its last 1,500 rows are held out. Each side runs in a process of its own, one after the other, seed by seed.

The recipe: fp32, random batches of 8, AdamW at 5e-5 with linear decay, 3 epochs, label on the first subword, argmax. Its
predictions are scored as seqeval's strict mode reads them (a mention begins with B-); `f1_repaired` reads an orphan I- as a
beginning, which is kinder to it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_TRAIN, NUM_TEST = 4000, 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[13])
    parser.add_argument("--output", type=Path, default=Path("runs/compare_trainers"))
    parser.add_argument("--train", type=Path, help="tokens/ner_tags file to train on instead of MedMentions-ZS")
    parser.add_argument("--test", type=Path, help="tokens/ner_tags file to test on instead of MedMentions-ZS")
    parser.add_argument("--sides", nargs="+", choices=["recipe", "medtuner"], default=["recipe", "medtuner"])
    parser.add_argument("--side", choices=["recipe", "medtuner"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side = run_recipe if arguments.side == "recipe" else run_medtuner
        print(json.dumps(side(arguments.train, arguments.test, arguments.seeds[0], arguments.output)))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    train, test = arguments.train, arguments.test
    if not train or not test:
        train, test = write_medmentions(arguments.output)
    rows = [run_side(side, train, test, seed, arguments.output) for seed in arguments.seeds for side in arguments.sides]
    (arguments.output / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)


def write_medmentions(folder: Path) -> tuple[Path, Path]:
    """Write the two parts of the embedded training split as tokens/ner_tags JSON Lines."""
    from importlib import resources

    from medtuner.corpora.tables import read_rows

    source = resources.files("medtuner") / "data" / "medmentions_zs" / "train.parquet"
    with resources.as_file(source) as path:
        rows = list(read_rows(path))
    paths = folder / "train.jsonl", folder / "test.jsonl"
    for path, part in zip(paths, (rows[:NUM_TRAIN], rows[-NUM_TEST:]), strict=True):
        lines = [json.dumps({"tokens": list(row.words), "ner_tags": list(row.tags)}) for row in part]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def run_side(side: str, train: Path, test: Path, seed: int, output: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--seeds", str(seed), "--output", str(output)]
    command += ["--train", str(train), "--test", str(test)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = {"side": side, "seed": seed, **json.loads(done.stdout.splitlines()[-1])}
    print(json.dumps(row), flush=True)
    return row


def run_medtuner(train: Path, test: Path, seed: int, output: Path) -> dict[str, Any]:
    from medtuner.config import build_config
    from medtuner.console import Console
    from medtuner.documents import read_json_lines
    from medtuner.experiment import run_experiment
    from medtuner.signals import StopRequest

    table = {
        "run": {"name": f"medtuner-{seed}", "output": str(output), "seed": seed},
        "data": {"train": str(train), "test": str(test), "split": "given"},
    }
    with StopRequest() as stop:
        outcome = run_experiment(build_config(table, where="benchmark"), console=Console(is_main=False), stop=stop)
    logged = [row for _, row in read_json_lines(outcome.folder / "metrics.jsonl") if "seconds" in row]
    assert outcome.scores is not None
    return summarise(outcome.scores, tokens=logged[-1]["tokens"], seconds=logged[-1]["seconds"])


def run_recipe(train: Path, test: Path, seed: int, output: Path) -> dict[str, Any]:
    import numpy as np
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from medtuner.corpora.tables import read_rows
    from medtuner.models import find_encoder

    set_seed(seed)
    location = find_encoder("starter")
    tokenizer = AutoTokenizer.from_pretrained(location)
    train_rows, test_rows = list(read_rows(train)), list(read_rows(test))
    names = sorted({tag for row in train_rows for tag in row.tags})
    model = AutoModelForTokenClassification.from_pretrained(
        location, num_labels=len(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    train_set, test_set = (encode_first_subwords(tokenizer, rows, names) for rows in (train_rows, test_rows))
    arguments = TrainingArguments(
        output_dir=str(output / f"recipe-{seed}"),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=5e-5,
        num_train_epochs=3,
        seed=seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=10_000,
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=train_set, data_collator=collator)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    prediction = trainer.predict(test_set)
    chosen = np.argmax(prediction.predictions, axis=-1)
    tags = [
        [names[tag] for tag, label in zip(row, labels, strict=True) if label != -100]
        for row, labels in zip(chosen, prediction.label_ids, strict=True)
    ]
    tokens = 3 * sum(len(item["input_ids"]) for item in train_set)
    strict, repaired = (score_tags(test_rows, tags, orphans) for orphans in ("drop", "begin"))
    row = summarise(strict, tokens=tokens, seconds=seconds)
    return row | {"f1_repaired": repaired["strict"]["micro"]["f1"]}


def encode_first_subwords(tokenizer: Any, rows: Sequence[Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Encode as run_ner.py does: the label stands on the first subword of a word, -100 elsewhere."""
    position = {name: index for index, name in enumerate(names)}
    batch = tokenizer([list(row.words) for row in rows], is_split_into_words=True, truncation=True)
    items: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        words = batch.word_ids(index)
        first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
        labels = [
            position.get(row.tags[word], position["O"]) if is_first else -100
            for word, is_first in zip(words, first, strict=True)
        ]
        items.append(
            {"input_ids": batch["input_ids"][index], "attention_mask": batch["attention_mask"][index], "labels": labels}
        )
    return items


def score_tags(rows: Sequence[Any], tags: Sequence[Sequence[str]], orphans: Any) -> dict[str, Any]:
    """Score predicted tags with medtuner's own scorer; words cut off by truncation are predicted O."""
    from medtuner.corpora.tagged import TagReport, document_from_tags
    from medtuner.evaluation import ScoreOptions, evaluate

    def documents(tag_rows: Sequence[Sequence[str]], rule: Any) -> list[Any]:
        return [
            document_from_tags(
                str(index),
                row.words,
                [*found, *["O"] * (len(row.words) - len(found))],
                report=TagReport(),
                orphans=rule,
                where="prediction",
            )
            for index, (row, found) in enumerate(zip(rows, tag_rows, strict=True))
        ]

    gold = documents([row.tags for row in rows], "begin")
    return evaluate(gold, documents(tags, orphans), options=ScoreOptions(bootstrap=1000))


def summarise(scores: Any, *, tokens: int, seconds: float) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_per_s": round(tokens / seconds, 1),
        "micro_f1": scores["strict"]["micro"]["f1"],
        "micro_ci95": scores["strict"]["micro"]["ci95"],
        "macro_f1": scores["strict"]["macro"]["f1"],
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print each run, the means and their ratios."""
    print(f"\n{'side':<10}{'seed':>5}{'tokens/s':>10}{'seconds':>9}{'micro F1':>10}{'macro F1':>10}")
    for row in rows:
        print(
            f"{row['side']:<10}{row['seed']:>5}{row['tokens_per_s']:>10,.0f}{row['seconds']:>9,.0f}"
            f"{100 * row['micro_f1']:>10.2f}{100 * row['macro_f1']:>10.2f}"
        )
    if len({row["side"] for row in rows}) < 2:
        return
    mean: dict[str, dict[str, float]] = {}
    for side in ("recipe", "medtuner"):
        mine = [row for row in rows if row["side"] == side]
        keys = ("tokens_per_s", "seconds", "micro_f1", "macro_f1")
        mean[side] = {key: sum(row[key] for row in mine) / len(mine) for key in keys}
    ours, theirs = mean["medtuner"], mean["recipe"]
    print(
        f"\nmeans over seeds: {ours['tokens_per_s'] / theirs['tokens_per_s']:.2f}x tokens/s, "
        f"{theirs['seconds'] / ours['seconds']:.2f}x less time, "
        f"{100 * (ours['micro_f1'] - theirs['micro_f1']):+.2f} points strict micro F1, "
        f"{100 * (ours['macro_f1'] - theirs['macro_f1']):+.2f} points strict macro F1"
    )


if __name__ == "__main__":
    main()
