"""Two halves of a corpus that annotate different types, merged: unknown types against plain O.

python benchmarks/partial_annotation.py --seeds 13 --output /tmp/partial

The first 4,000 rows of MedMentions-ZS train are cut in two halves; each keeps only the mentions of half of the types (every
second one by frequency). Both sides train on the same merged file with medtuner's defaults and are tested on the last 1,500
rows with all types. One side takes unannotated types for unknown, the other for O; a third trains on all labels: a ceiling.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from medtuner.corpora import load_corpus
from medtuner.documents import Document, write_documents

TRAIN, TEST = 4_000, 1_500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[13])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    documents = load_corpus("medmentions-zs:train").documents
    train = documents[:TRAIN]
    counts = Counter(label for document in train for span in document.spans for label in span.labels)
    ranked = [label for label, _ in counts.most_common()]
    halves = [sorted(ranked[0::2]), sorted(ranked[1::2])]
    merged = [keep(document, halves[index >= TRAIN // 2]) for index, document in enumerate(train)]
    for name, rows in (("merged", merged), ("all", train), ("test", documents[-TEST:])):
        with (arguments.output / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            write_documents(stream, rows)
    print("types:", *map(",".join, halves), sep="\n  ")
    rows = []
    for seed in arguments.seeds:
        for side, file, unannotated in (
            ("plain O", "merged", "outside"),
            ("unknown", "merged", "unknown"),
            ("all labels", "all", "outside"),
        ):
            scores = train_and_test(arguments.output, f"{side.replace(' ', '-')}-{seed}", file, unannotated, seed)
            micro, macro = scores["strict"]["micro"], scores["strict"]["macro"]
            rows.append((side, seed, micro["precision"], micro["recall"], micro["f1"], macro["f1"]))
            print(f"{side:12} {seed}  " + "  ".join(f"{100 * value:.2f}" for value in rows[-1][2:]), flush=True)


def keep(document: Document, types: list[str]) -> Document:
    spans = tuple(span for span in document.spans if span.labels[0] in types)
    return replace(document, spans=spans, extra={**document.extra, "annotated_types": types})


def train_and_test(
    output: Path, name: str, file: str, unannotated: str, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    settings = {
        "run.name": name,
        "run.output": str(output),
        "run.seed": seed,
        "data.train": str(output / f"{file}.jsonl"),
        "data.test": str(output / "test.jsonl"),
        "data.split": "given",
        "train.unannotated": unannotated,
    }
    command = [sys.executable, "-m", "medtuner", "train", str(Path(__file__).parents[1] / "configs" / "stage1.toml")]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((output / name / "scores.json").read_text()))


if __name__ == "__main__":
    main()
