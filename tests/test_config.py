import tomllib
from pathlib import Path

import pytest

from medtuner.config import Config, build_config, config_to_toml, flatten, load_config
from medtuner.errors import ConfigError, RunError
from medtuner.runs import claim, is_finished, write_manifest, write_text

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert load_config(path).run.name == path.stem


def test_stage1_explains_every_key() -> None:
    text = (CONFIGS / "stage1.toml").read_text()
    written = {f"{section}.{key}" for section, keys in tomllib.loads(text).items() for key in keys}
    assert written == set(flatten(Config()))
    for line in text.splitlines():
        if "=" in line.partition("#")[0]:
            assert "#" in line, f"no comment: {line}"


def test_toml_round_trip(tmp_path: Path) -> None:
    table = {"labels": {"space": ["T047", "T103"]}, "run": {"name": 'a "b" \\ c'}}
    with pytest.raises(ConfigError, match="run.name"):
        build_config(table, where="test")
    table["run"]["name"] = 'a "b" c é'  # type: ignore[call-overload]
    config = build_config(table, overrides=["train.lr=1e-5", "data.train=notes.jsonl"], where="test")
    (tmp_path / "config.toml").write_text(config_to_toml(config))
    assert load_config(tmp_path / "config.toml") == config
    assert (config.train.lr, config.data.train) == (1e-5, "notes.jsonl")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"trian": {}}, r"unknown section \[trian\]. Did you mean 'train'\?"),
        ({"train": {"epoch": 3}}, r"unknown key train.epoch. Did you mean 'epochs'\? Valid in \[train\]: epochs"),
        ({"train": {"epochs": "3"}}, r"train.epochs = '3': it must be a valid integer \(default 6\)"),
        ({"train": {"lr": 0.0}}, r"train.lr = 0.0: it must be greater than 0"),
        ({"train": {"precision": "fp16"}}, r"train.precision = 'fp16': it must be 'auto', 'bf16' or 'fp32'"),
        ({"train": 3}, r"train is a section: write \[train\]"),
        ({"notify": {"on": ["begun"]}}, r"notify\.on = 'begun'"),
        ({"model": {"head": "open"}}, r"model.head = 'open' is not built yet"),
        ({"labels": {"unseen": "nearest"}}, r"labels.unseen = 'nearest' is not built yet"),
        ({"model": {"max_tokens": 64, "overlap": 32}}, r"model.overlap = 32 must be under half"),
        ({"data": {"split": "block", "test": "x.jsonl"}}, r'data.split = "block" cuts dev and test'),
        ({"run": {"name": "a/b"}}, r"run.name = 'a/b'"),
        ({"run": {"name": ".."}}, r"run.name = '..' is no folder name"),
        ({"labels": {"space": 3}}, r"labels.space = 3"),
    ],
)
def test_bad_configs_name_the_key_and_what_is_valid(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_config(table, where="my.toml")
    assert "my.toml" in str(error.value)


@pytest.mark.parametrize("override", ["train.epochs", "epochs=3", "=3", "train.epoch=3", "model.encoderr=x"])
def test_bad_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        build_config({}, overrides=[override], where="my.toml")


def test_unreadable_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("[train\n")
    with pytest.raises(ConfigError, match=r"broken.toml: not valid TOML"):
        load_config(tmp_path / "broken.toml")


def test_a_run_folder_belongs_to_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = build_config({}, where="test")
    assert claim(folder, config, data_sha256="a") == "new"
    assert claim(folder, config, data_sha256="a") == "resumable"
    # What does not change the result may change.
    renamed = build_config({"evaluate": {"bootstrap": 5}}, where="test")
    assert claim(folder, renamed, data_sha256="a") == "resumable"
    other = build_config({"train": {"lr": 1e-4}, "run": {"seed": 5}}, where="test")
    with pytest.raises(RunError, match=r"train.lr \(there 0.0005, here 0.0001\)"):
        claim(folder, other, data_sha256="a")
    with pytest.raises(RunError, match="run.seed"):
        claim(folder, other, data_sha256="a")
    with pytest.raises(RunError, match="the content of the data files"):
        claim(folder, config, data_sha256="b")
    write_manifest(folder, state="finished")
    assert is_finished(folder)
    assert claim(folder, config, data_sha256="a") == "finished"


def test_a_folder_of_other_files_is_not_taken(tmp_path: Path) -> None:
    write_text(tmp_path / "thesis.tex", "x")
    with pytest.raises(RunError, match="holds files but no config.toml"):
        claim(tmp_path, build_config({}, where="test"), data_sha256="a")


def test_a_claim_cut_short_is_taken_up(tmp_path: Path) -> None:
    config = build_config({}, where="test")
    (tmp_path / ".config.toml.x1").write_text("half")
    assert claim(tmp_path, config, data_sha256="a") == "new"
    (tmp_path / "environment.json").unlink()
    assert claim(tmp_path, config, data_sha256="a") == "new"
