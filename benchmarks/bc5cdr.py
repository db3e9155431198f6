"""Train and test on BC5CDR (Li et al. 2016), train and test split as published, beside the recipe of run_ner.py.

    python benchmarks/bc5cdr.py --source FOLDER --seeds 13 --output runs/bc5cdr

FOLDER holds train.pubtator.txt.gz and test.pubtator.txt.gz. Both sides read the same sentences: abstracts are cut after a
full stop, question or exclamation mark that is followed by white space and a capital, digit or bracket, never inside a
mention; words are medtuner's own. Mentions that begin or end inside a word, or overlap a longer one, cannot be written as
BIO; they are counted and printed.
"""

import argparse
import gzip
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from medtuner.alignment import find_words
from medtuner.documents import Document, Span

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z0-9(\[])")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", default=["13"])
    parser.add_argument("--sides", nargs="+", default=["recipe", "medtuner"])
    parser.add_argument("--output", type=Path, default=Path("runs/bc5cdr"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        convert(arguments.source / f"{split}.pubtator.txt.gz", arguments.output / f"{split}.jsonl")
    command = [sys.executable, str(Path(__file__).with_name("compare_trainers.py")), "--output", str(arguments.output)]
    command += ["--train", str(arguments.output / "train.jsonl"), "--test", str(arguments.output / "test.jsonl")]
    subprocess.run([*command, "--seeds", *arguments.seeds, "--sides", *arguments.sides], check=True)


def convert(source: Path, target: Path) -> None:
    mentions = kept = sentences = 0
    with target.open("w", encoding="utf-8") as stream:
        for document in read_pubtator(source):
            mentions += len(document.spans)
            for words, tags in cut_sentences(document):
                kept += sum(tag.startswith("B-") for tag in tags)
                sentences += 1
                stream.write(json.dumps({"tokens": words, "ner_tags": tags}) + "\n")
    print(f"{source.name}: {sentences} sentences, {mentions} mentions, {mentions - kept} cannot be written as BIO")


def read_pubtator(path: Path) -> Iterator[Document]:
    """Yield title and abstract, joined by a space, with their mentions."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        blocks = stream.read().strip().split("\n\n")
    for block in blocks:
        title, abstract, *lines = block.split("\n")
        identifier = title.partition("|")[0]
        fields = [line.split("\t") for line in lines]
        yield Document(
            id=identifier,
            text=f"{title.split('|', 2)[2]} {abstract.split('|', 2)[2]}",
            spans=tuple(Span(start=int(f[1]), end=int(f[2]), labels=(f[4],)) for f in fields if len(f) >= 5),
        )


def cut_sentences(document: Document) -> Iterator[tuple[list[str], list[str]]]:
    """Yield words and BIO tags of each sentence."""
    words = find_words(document)
    tags = ["O"] * len(words)
    starts, ends = ({word[side]: index for index, word in enumerate(words)} for side in (0, 1))
    for span in sorted(document.spans, key=lambda span: span.start - span.end):
        first, last = starts.get(span.start), ends.get(span.end)
        if first is None or last is None or set(tags[first : last + 1]) != {"O"}:
            continue
        tags[first : last + 1] = [f"B-{span.labels[0]}", *[f"I-{span.labels[0]}"] * (last - first)]
    cuts = [match.end() for match in _SENTENCE_END.finditer(document.text)]
    cuts = [cut for cut in cuts if not any(span.start < cut < span.end for span in document.spans)]
    bounds = [0, *cuts, len(document.text)]
    for start, end in itertools.pairwise(bounds):
        inside = [index for index, word in enumerate(words) if start <= word[0] < end]
        if inside:
            yield [document.text[slice(*words[i])] for i in inside], [tags[i] for i in inside]


if __name__ == "__main__":
    main()
