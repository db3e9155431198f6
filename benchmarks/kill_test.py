"""Kill a training run at random moments and compare its final weights with those of an undisturbed run.

    python benchmarks/kill_test.py --kills 20 --seed 1 --output runs/kill_test

The run trains the starter encoder on 1,000 MedMentions-ZS sentences with a checkpoint every 5 steps, so that many
kills fall into a save. Prints where each kill fell and whether the weights, the losses and the scores are identical.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from medtuner.runs import sha256_file

SETTINGS = ["data.train_limit=1000", "data.dev_limit=100", "data.test_limit=100", "train.epochs=1"]
SETTINGS += ["train.checkpoint_every=5", "train.evaluate_every=20", "train.log_every=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/kill_test"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.output, ignore_errors=True)
    assert start(arguments.output / "undisturbed").wait() == 0
    chance = random.Random(arguments.seed)
    kills = runs = 0
    identical = True
    while kills < arguments.kills:
        runs += 1
        folder = arguments.output / f"killed-{runs}"
        kills = kill_until_finished(folder, kills, arguments.kills, chance)
        identical &= compare(folder, arguments.output / "undisturbed")
    print(f"{kills} kills in {runs} runs, all identical: {identical}")
    sys.exit(0 if identical else 1)


def kill_until_finished(folder: Path, kills: int, wanted: int, chance: random.Random) -> int:
    """Kill and restart one run until it is finished; returns the number of kills so far."""
    metrics = folder / "quickstart" / "metrics.jsonl"
    while True:
        before = modified(metrics)
        process = start(folder)
        while process.poll() is None and modified(metrics) == before:
            time.sleep(0.01)
        if kills < wanted:
            time.sleep(chance.uniform(0, 10))
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            return kills
        kills += 1
        hidden = [path.name for path in folder.rglob(".*")]
        print(f"kill {kills}: {last_step(folder)}{', left half-written: ' + hidden[0] if hidden else ''}", flush=True)


def modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def compare(folder: Path, undisturbed: Path) -> bool:
    same = {
        name: sha256_file(folder / "quickstart" / name) == sha256_file(undisturbed / "quickstart" / name)
        for name in ("model/model.safetensors", "scores.json", "predictions/test.jsonl")
    }
    same["losses"] = losses(folder) == losses(undisturbed)
    print(f"{folder.name} identical to undisturbed: {json.dumps(same)}")
    return all(same.values())


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medtuner", "quickstart", "--output", str(folder)]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def last_step(folder: Path) -> str:
    steps = sorted(path.name for path in (folder / "quickstart" / "checkpoints").glob("step-*"))
    return f"newest checkpoint {steps[-1]}" if steps else "no checkpoint yet"


def losses(folder: Path) -> list[float]:
    lines = (folder / "quickstart" / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


if __name__ == "__main__":
    main()
