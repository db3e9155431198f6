import contextlib
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cluster import Cluster

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora that may not be copied into the package; tests that need them say so when they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the corpora under {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def starter_tokenizer():
    from medtuner.models import find_encoder, load_tokenizer

    return load_tokenizer(find_encoder("starter"))


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory, starter_tokenizer) -> str:
    """A BERT of two thin layers with random weights and the starter's real tokeniser: training takes a second."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("small_encoder")
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(starter_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)
    starter_tokenizer.save_pretrained(folder)
    return str(folder)


def small_config(encoder: str) -> str:
    """Return a run of a few seconds that ends in its [train] section: 200 MedMentions sentences, a small encoder."""
    return f"""
[run]
name = "small"
[data]
train_limit = 200
dev_limit = 30
test_limit = 40
[model]
encoder = "{encoder}"
max_tokens = 64
overlap = 8
[evaluate]
bootstrap = 50
[train]
epochs = 2
tokens_per_batch = 512
checkpoint_every = 5
log_every = 1
"""


@contextlib.contextmanager
def bring_up(factory: pytest.TempPathFactory, encoder: str, *options: str) -> Iterator["Cluster"]:
    """Bring a Slurm cluster up; where its tests are meant to run (CI), one that does not come up is a failure."""
    from cluster import SCRIPT, Cluster

    root = Path(tempfile.mkdtemp(prefix="medtuner-slurm-"))
    root.chmod(0o755)  # munged runs as another user, who must reach its socket
    command = [sys.executable, SCRIPT, "up", "--root", root, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"no Slurm cluster on this machine: {done.stderr.strip()}")
    try:
        yield Cluster(root, factory.mktemp("work"), encoder)
    finally:
        subprocess.run([sys.executable, SCRIPT, "down", "--root", root], check=True, timeout=120)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, small_encoder: str) -> Iterator["Cluster"]:
    with bring_up(tmp_path_factory, small_encoder) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def accounting_cluster(tmp_path_factory: pytest.TempPathFactory, small_encoder: str) -> Iterator["Cluster"]:
    with bring_up(tmp_path_factory, small_encoder, "--accounting") as cluster:
        yield cluster


@pytest.fixture
def run_medtuner(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a folder of its own."""

    def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medtuner", *arguments],
            cwd=tmp_path,
            env=os.environ | {"COLUMNS": "80"} | (environment or {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def write_rows(path: Path, rows: Sequence[tuple[list[str], list[str]]]) -> Path:
    lines = [json.dumps({"tokens": tokens, "ner_tags": tags}) for tokens, tags in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Run code in fresh processes with a Hugging Face cache of its own; returns what the last one printed."""

    def run(code: str, *, prepare: str) -> str:
        environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
        output = ""
        for source in (prepare, code):
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(source)],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            output = done.stdout
        return output

    return run
