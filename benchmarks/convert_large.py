"""A corpus of 100,000 documents converted: documents a second and peak memory, beside a plain pass over its lines.

python benchmarks/convert_large.py BC5CDR.pubtator.txt.gz --documents 100000

The documents of the given PubTator file are repeated with new ids until there are enough.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medtuner.documents import open_text

_CONVERT = """
import sys
from pathlib import Path
from medtuner.conversion import convert_annotations
for line in convert_annotations(Path(sys.argv[1]), Path(sys.argv[2])): print(line)
"""
_PASS = """
import sys
count = 0
with open(sys.argv[1], encoding="utf-8") as stream:
    for line in stream:
        count += 1
print(count, "lines")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count in (arguments.documents // 10, arguments.documents):
            corpus = Path(folder) / "corpus.pubtator"
            repeat(arguments.source, corpus, count)
            print(f"{count:,} documents, {corpus.stat().st_size / 1e6:,.0f} MB")
            measure("for line in file", _PASS, corpus, count)
            measure("convert to jsonl", _CONVERT, corpus, count)


def repeat(source: Path, target: Path, count: int) -> None:
    with open_text(source) as stream:
        blocks = [block.strip("\n") for block in "".join(stream).replace("\r\n", "\n").split("\n\n") if block.strip()]
    with target.open("w", encoding="utf-8") as stream:
        for number in range(count):
            block = blocks[number % len(blocks)]
            identifier = block.partition("|")[0]
            lines = [f"{number}{line.removeprefix(identifier)}" for line in block.split("\n")]
            stream.write("\n".join(lines) + "\n\n")


def measure(name: str, code: str, corpus: Path, count: int) -> None:
    """Run code in a process of its own, which says its peak memory at its end."""
    code += "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    command = [sys.executable, "-c", code, str(corpus), str(corpus.with_suffix(".jsonl"))]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    peak = int(done.stdout.split()[-1]) / 1024
    print(f"  {name}: {seconds:.1f} s, {count / seconds:,.0f} documents/s, peak memory {peak:,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
