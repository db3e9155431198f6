"""Seeds and sweeps: which runs a group has, how they are divided into arrays, and what a comparison of them says."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from medtuner.comparison import compare
from medtuner.config import Config, build_config
from medtuner.corpora import load_corpus
from medtuner.documents import Document, write_documents
from medtuner.errors import ConfigError, RunError
from medtuner.evaluation import ScoreOptions, evaluate
from medtuner.groups import Member, expand, expand_groups, parse_seeds, parse_sweeps, read_members, write_members
from medtuner.monitoring import read_statuses
from medtuner.runs import write_json, write_manifest, write_text
from medtuner.submission import chunks


def build(overrides: Sequence[str]) -> Config:
    return build_config({"run": {"name": "wide"}}, overrides=overrides, where="test")


def test_every_combination_is_a_run_of_its_own() -> None:
    runs = expand(build([]), seeds=parse_seeds("1-2"), sweeps=parse_sweeps(["train.lr=1e-4,5e-4"]), build=build)
    assert [member.name for member, _ in runs] == [
        "train.lr-1e-4_seed-1",
        "train.lr-1e-4_seed-2",
        "train.lr-5e-4_seed-1",
        "train.lr-5e-4_seed-2",
    ]
    config = runs[3][1]
    assert (config.train.lr, config.run.seed, config.run.output) == (5e-4, 2, "runs/wide")
    assert runs[3][0].variant == "train.lr=5e-4"


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1-5", [1, 2, 3, 4, 5]), ("1, 7-8", [1, 7, 8])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "5-1", "1,1", "1-3,2", "-1"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    "text",
    ["train.lr", "train.lr=", "train.lr=1,,2", "train.lr=1,1", "run.seed =1,2", "run.name=a,b", "slurm.nodes=1,2"],
)
def test_sweeps_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--sweep"):
        parse_sweeps([text])


def test_unknown_swept_key_and_equal_folder_names() -> None:
    with pytest.raises(ConfigError, match="train.lrr"):
        expand(build([]), seeds=[], sweeps={"train.lrr": ["1"]}, build=build)
    with pytest.raises(ConfigError, match="same folder name"):
        expand(build([]), seeds=[], sweeps={"model.encoder": ["a/b", "a:b"]}, build=build)


def test_a_group_grows_and_never_takes_a_runs_folder(tmp_path: Path) -> None:
    one, two = Member(name="seed-1", seed=1, settings={}), Member(name="seed-2", seed=2, settings={})
    write_members(tmp_path, [one])
    write_members(tmp_path, [one, two])
    assert read_members(tmp_path) == [one, two]
    assert expand_groups([tmp_path, Path("single")]) == [tmp_path / "seed-1", tmp_path / "seed-2", Path("single")]
    write_text(tmp_path / "wide" / "config.toml", "")
    config = build_config({"run": {"name": "wide", "output": str(tmp_path)}}, where="test")
    with pytest.raises(RunError, match="is a single run"):
        expand(config, seeds=[1], sweeps={}, build=build)


@pytest.mark.parametrize(("count", "size", "sizes"), [(8, 1001, [8]), (8, 3, [3, 3, 2]), (6, 3, [3, 3]), (0, 3, [])])
def test_arrays_are_no_longer_than_slurm_takes(count: int, size: int, sizes: list[int]) -> None:
    assert [len(chunk) for chunk in chunks(range(count), size)] == sizes


Group = Callable[[str, Sequence[float]], Path]


@pytest.fixture
def make_group(tmp_path: Path) -> Group:
    """Make groups of finished runs whose predictions keep a given share of the gold mentions of real sentences."""
    gold = load_corpus("medmentions-zs:test").documents[:300]

    def forget(document: Document, share: float, generator: np.random.Generator) -> Document:
        kept = tuple(span for span in document.spans if generator.random() < share)
        return Document(id=document.id, text=document.text, spans=kept, extra=document.extra)

    def make(name: str, shares: Sequence[float]) -> Path:
        group = tmp_path / name
        for seed, share in enumerate(shares, start=1):
            run = group / f"seed-{seed}"
            write_text(
                run / "config.toml",
                '[data]\ntrain = "medmentions-zs:test"\nsplit = "given"\ntest = "medmentions-zs:test"\ntest_limit = 300\n',
            )
            generator = np.random.default_rng([seed, int(1000 * share)])
            predicted = [forget(document, share, generator) for document in gold]
            (run / "predictions").mkdir()
            with (run / "predictions" / "test.jsonl").open("w", encoding="utf-8") as stream:
                write_documents(stream, predicted)
            write_json(run / "scores.json", evaluate(gold, predicted, options=ScoreOptions(bootstrap=0)))
            write_manifest(run, state="finished")
        write_members(group, [Member(name=f"seed-{n}", seed=n, settings={}) for n in range(1, len(shares) + 1)])
        return group

    return make


def test_a_clear_difference_is_found_and_none_is_not(make_group: Group) -> None:
    low, lower, high = make_group("low", [0.5, 0.52]), make_group("lower", [0.51, 0.5]), make_group("high", [0.8, 0.82])
    summary = compare([low, high, lower], bootstrap=500, seed=1)
    assert [row["name"] for row in summary["systems"]] == ["low", "high", "lower"]
    values = [json.loads((run / "scores.json").read_text())["strict"]["micro"]["f1"] for run in expand_groups([low])]
    assert summary["systems"][0]["micro"]["mean"] == pytest.approx(np.mean(values))
    assert summary["systems"][0]["micro"]["sd"] == pytest.approx(np.std(values, ddof=1))
    clear, _, none, _ = summary["comparisons"]
    assert (clear["system"], clear["average"]) == ("high", "micro")
    assert clear["p"] == pytest.approx(1 / 501)
    assert clear["ci95"][0] < clear["difference"] < clear["ci95"][1]
    assert none["p"] > 0.1
    assert none["ci95"][0] < 0 < none["ci95"][1]
    assert compare([low, high, lower], bootstrap=500, seed=1) == summary, "the same seed draws the same"


def test_a_system_against_itself_has_no_difference(make_group: Group, tmp_path: Path) -> None:
    group = make_group("same", [0.6])
    (tmp_path / "copy").symlink_to(group)
    micro, _ = compare([group, tmp_path / "copy"], bootstrap=200, seed=1)["comparisons"]
    assert (micro["difference"], micro["ci95"], micro["p"]) == (0, [0, 0], 1)


def test_unfinished_runs_are_named(make_group: Group) -> None:
    group = make_group("half", [0.5, 0.6])
    write_manifest(group / "seed-2", state="interrupted")
    summary = compare([group], bootstrap=200, seed=1)
    assert summary["systems"][0]["runs"] == [str(group / "seed-1")]
    assert "half/seed-2" in summary["notes"][0]
    write_manifest(group / "seed-1", state="failed")
    with pytest.raises(RunError, match="no finished run"):
        compare([group], bootstrap=200, seed=1)


def test_runs_that_differ_by_more_than_their_seed_are_no_system(make_group: Group) -> None:
    group = make_group("mixed", [0.5, 0.6])
    with (group / "seed-2" / "config.toml").open("a") as stream:
        stream.write("[train]\nlr = 0.1\n")
    with pytest.raises(RunError, match=r"differ by more than their seed: train\.lr"):
        compare([group], bootstrap=200, seed=1)


def test_runs_of_a_group_that_were_never_submitted_are_shown_as_new(tmp_path: Path) -> None:
    write_members(tmp_path / "left", [Member(name="seed-1", seed=1, settings={})])
    statuses, trouble = read_statuses([tmp_path / "left"])
    assert [status.state for status in statuses] == ["new"]
    assert trouble == ""


def test_changed_test_data_is_refused(make_group: Group) -> None:
    one, two = make_group("one", [0.5]), make_group("two", [0.6])
    path = two / "seed-1" / "config.toml"
    path.write_text(path.read_text().replace("300", "200"))
    with pytest.raises(RunError, match="test data has changed"):
        compare([one, two], bootstrap=200, seed=1)
