"""Groups of runs compared: mean and standard deviation over seeds, and a paired bootstrap test between systems.

    summary = compare([Path("runs/baseline"), Path("runs/wider")], bootstrap=10_000, seed=13)
    summary["systems"][0]["micro"]["mean"], summary["comparisons"][0]["p"]

A *system* is what differs only by its seed: a group of seeds, one combination of a sweep, or a single run. Each system is
compared with the first one. A draw takes test documents with replacement, the same for both systems, and within each
system takes seeds with replacement; its difference is that of the mean F1 over those seeds. The p-value is two-sided: how
often a draw lies further from the observed difference than that lies from zero (Berg-Kirkpatrick, Burkett & Klein 2012,
"An Empirical Investigation of Statistical Significance in NLP"), with one draw added on both sides of the fraction.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from medtuner.config import Config, load_config
from medtuner.corpora import load_splits
from medtuner.documents import Document, hash_documents, read_documents
from medtuner.errors import RunError
from medtuner.evaluation import collapse_gold
from medtuner.groups import is_group, read_members, run_label
from medtuner.labels import choose_label_space
from medtuner.ledger import Ledger
from medtuner.metrics import FloatArray, count_matches, draw_f1
from medtuner.runs import differences, is_finished, read_json

_AVERAGES = ("micro", "macro")
_FEW_SEEDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _System:
    """Finished runs that differ only by their seed."""

    name: str
    runs: Sequence[Path]


def compare(folders: Sequence[Path], *, bootstrap: int, seed: int) -> dict[str, Any]:
    """Return ``{"systems": [...], "comparisons": [...], "notes": [...]}`` for groups and runs; scores are fractions.

    Raises `RunError` when nothing is finished, or when two systems were not tested on the same documents.
    """
    notes: list[str] = []
    systems = [system for folder in folders for system in _find_systems(folder, notes)]
    if not systems:
        raise RunError(f"{', '.join(map(str, folders))}: no finished run with test scores. {' '.join(notes)}")
    rows = [_summarise(system) for system in systems]
    comparisons: list[dict[str, Any]] = []
    if len(systems) > 1:
        gold = _Gold()
        first, *others = [_draw(system, gold, bootstrap=bootstrap, seed=seed) for system in systems]
        comparisons = [
            _test(rows[0], first, row, draws, average, seed=seed)
            for row, draws in zip(rows[1:], others, strict=True)
            for average in _AVERAGES
        ]
        few = sorted({len(system.runs) for system in systems if len(system.runs) < _FEW_SEEDS})
        if few:
            notes.append(
                f"systems with {' and '.join(map(str, few))} seed{'s' * (few != [1])}: how much trainings differ is "
                f"{'not' if few[0] == 1 else 'roughly'} in the interval and p-value; {_FEW_SEEDS} seeds or more tell it."
            )
    protocol = {"bootstrap": bootstrap, "seed": seed, "units": "test documents, paired; seeds within each system"}
    return {"systems": rows, "comparisons": comparisons, "protocol": protocol, "notes": notes}


def _find_systems(folder: Path, notes: list[str]) -> Iterator[_System]:
    """Yield the systems of a group, or a single run as one; what is not finished is noted."""
    if not is_group(folder):
        if not (folder / "config.toml").exists():
            raise RunError(f"{folder}: neither a run nor a group of runs.")
        members = [("", folder)]
    else:
        members = [(member.variant, folder / member.name) for member in read_members(folder)]
    waiting = [run for _, run in members if not (is_finished(run) and (run / "scores.json").exists())]
    if waiting:
        names = ", ".join(run_label(run) for run in waiting)
        notes.append(f"{len(waiting)} of {len(members)} runs are not finished with test scores, so left out: {names}")
    # A group grows by later submissions, so equal settings need not stand together.
    for variant, runs in groupby(sorted(members), key=lambda member: member[0]):
        kept = [run for _, run in runs if run not in waiting]
        _refuse_mixture(kept)
        if kept:
            yield _System(name=f"{folder.name} {variant}".strip(), runs=kept)


def _refuse_mixture(runs: Sequence[Path]) -> None:
    """Raise `RunError` when runs of one system differ by more than their seed."""
    configs = [load_config(run / "config.toml") for run in runs]
    for run, config in zip(runs, configs, strict=True):
        differing = [
            difference for difference in differences(configs[0], config) if not difference.startswith("run.seed ")
        ]
        if differing:
            raise RunError(f"{run} and {runs[0]} differ by more than their seed: {'; '.join(differing)}.")


def _summarise(system: _System) -> dict[str, Any]:
    scores = [read_json(run / "scores.json") for run in system.runs]
    values = {
        "micro": [row["strict"]["micro"]["f1"] for row in scores],
        "macro": [row["strict"]["macro"]["f1"] for row in scores],
        "untyped": [row["untyped"]["f1"] for row in scores],
    }
    return {
        "name": system.name,
        "runs": [str(run) for run in system.runs],
        **{
            name: {"mean": statistics.fmean(each), "sd": statistics.stdev(each) if len(each) > 1 else None}
            for name, each in values.items()
        },
        "data_sha256": sorted({row["protocol"]["data_sha256"] for row in scores}),
    }


class _Gold:
    """The test documents of runs, read once for each data and label space, and known to be those that were scored."""

    def __init__(self) -> None:
        self._read: dict[str, list[Document]] = {}

    def of(self, run: Path) -> list[Document]:
        config = load_config(run / "config.toml")
        key = config.model_dump_json(include={"data", "labels"})
        if key not in self._read:
            self._read[key] = _read_gold(config)
        gold = self._read[key]
        if hash_documents(gold) != read_json(run / "scores.json")["protocol"]["data_sha256"]:
            raise RunError(
                f"{run}: the test data has changed since this run was scored; compare its scores.json alone."
            )
        return gold


def _read_gold(config: Config) -> list[Document]:
    splits = load_splits(config.data)
    space = choose_label_space(config.labels.space, splits.train.documents)
    return collapse_gold(splits.test.documents if splits.test else [], space, Ledger().account("test"))


def _draw(system: _System, gold: _Gold, *, bootstrap: int, seed: int) -> dict[str, FloatArray]:
    """Return F1 over resampled documents, [seeds, draws] for each average."""
    draws = [
        draw_f1(
            count_matches(gold.of(run), list(read_documents(run / "predictions" / "test.jsonl"))),
            bootstrap=bootstrap,
            seed=seed,
        )
        for run in system.runs
    ]
    return {average: np.stack([row[average] for row in draws]) for average in _AVERAGES}


def _test(
    baseline: Mapping[str, Any],
    baseline_draws: Mapping[str, FloatArray],
    system: Mapping[str, Any],
    draws: Mapping[str, FloatArray],
    average: str,
    *,
    seed: int,
) -> dict[str, Any]:
    if baseline["data_sha256"] != system["data_sha256"]:
        raise RunError(
            f"{system['name']} and {baseline['name']} were tested on different documents; a paired test needs the same."
        )
    generator = np.random.default_rng(seed)
    differences = _mean_over_seeds(draws[average], generator) - _mean_over_seeds(baseline_draws[average], generator)
    observed = system[average]["mean"] - baseline[average]["mean"]
    further = int((np.abs(differences - observed) >= abs(observed)).sum())
    low, high = np.percentile(differences, [2.5, 97.5])
    return {
        "baseline": baseline["name"],
        "system": system["name"],
        "average": average,
        "difference": observed,
        "ci95": [float(low), float(high)],
        "p": (1 + further) / (1 + len(differences)),
    }


def _mean_over_seeds(draws: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Return [draws]: in each draw the mean over seeds drawn with replacement, from [seeds, draws].

    Resampling S values gives (S-1)/S of the variance of their mean, so what the seeds add is widened by sqrt(S/(S-1)).
    """
    seeds, count = draws.shape
    every: FloatArray = draws.mean(axis=0)
    if seeds == 1:
        return every
    chosen = generator.integers(seeds, size=(seeds, count))
    mean: FloatArray = np.take_along_axis(draws, chosen, axis=0).mean(axis=0)
    widened: FloatArray = every + np.sqrt(seeds / (seeds - 1)) * (mean - every)
    return widened
