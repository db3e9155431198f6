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
    started = time.perf_counter()
    undisturbed = start(arguments.output / "undisturbed")
    assert undisturbed.wait() == 0
    duration = time.perf_counter() - started
    chance = random.Random(arguments.seed)
    folder = arguments.output / "killed"
    kills = 0
    while kills < arguments.kills:
        process = start(folder)
        # Each life is long enough to save something now and then, and short enough for all kills to fall before the end.
        time.sleep(7 + chance.uniform(0, 1.6 * duration / arguments.kills))
        if process.poll() is not None:
            print(f"finished before kill {kills + 1}")
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        hidden = [path.name for path in folder.rglob(".*")]
        print(f"kill {kills}: {last_step(folder)}{', in a save: ' + hidden[0] if hidden else ''}", flush=True)
    assert start(folder).wait() == 0
    same = {
        name: sha256_file(folder / "quickstart" / name)
        == sha256_file(arguments.output / "undisturbed/quickstart" / name)
        for name in ("model/model.safetensors", "scores.json", "predictions/test.jsonl")
    }
    same["losses"] = losses(folder) == losses(arguments.output / "undisturbed")
    print(f"{kills} kills, identical: {json.dumps(same)}")
    sys.exit(0 if all(same.values()) else 1)


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
