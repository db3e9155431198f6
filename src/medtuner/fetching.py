"""Bring to this machine what a run will need where there is no internet: encoder, datasets, wheels; verified by hash.

    for line in fetch(config): print(line)          # on the login node

Everything goes into the caches that `medtuner.caches` describes. Files of the hub are compared with the hash that the hub
states for them (SHA-256 for large files, git's blob id for the rest), so a cut download is found here and not in a job.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from medtuner.config import Config, DataSection
from medtuner.corpora import load_splits
from medtuner.corpora.hub import hub_dataset
from medtuner.corpora.medmentions import MEDMENTIONS, fetch_medmentions
from medtuner.errors import RunError
from medtuner.models import find_encoder
from medtuner.runs import sha256_file
from medtuner.wheels import download_wheels

RepoType = Literal["model", "dataset"]
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_OLD_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")


def fetch(config: Config) -> Iterator[str]:
    """Fetch encoder, datasets and, for ``slurm.environment = "venv"``, wheels; yield a line about each."""
    yield f"encoder: {_fetch_encoder(config.model.encoder)}"
    for edition in sorted(_medmentions_editions(config.data)):
        yield f"MedMentions {edition}: {fetch_medmentions(edition)}"
    splits = load_splits(config.data)
    for name in sorted(_hub_datasets(config.data)):
        with _explained(f"hub:{name}"):
            verified = _verify(name, "dataset")
        yield f"dataset {name}: {verified}"
    for name, corpus in splits.named().items():
        yield f"{name}: {len(corpus.documents):,} documents ({corpus.source})"
    if config.slurm.environment == "venv":
        folder = download_wheels()
        yield f"wheels: {len(list(folder.glob('*.whl')))} in {folder}"


def _medmentions_editions(data: DataSection) -> set[str]:
    parts = [source.split(":") for source in (data.train, data.dev, data.test)]
    return {names[1] for names in parts if names[0] == MEDMENTIONS and len(names) > 1}


def _hub_datasets(data: DataSection) -> set[str]:
    names = {hub_dataset(source) for source in (data.train, data.dev, data.test)}
    return {name for name in names if name}


def _fetch_encoder(name: str) -> str:
    location = find_encoder(name)
    if Path(location).is_dir():
        return f"{location} (on this disk)"
    from huggingface_hub import HfApi, snapshot_download

    with _explained(f"model.encoder = {name!r}"):
        files = HfApi().list_repo_files(location)
        weights = _WEIGHTS if "model.safetensors" in files or _WEIGHTS[1] in files else _OLD_WEIGHTS
        snapshot_download(location, allow_patterns=[*_FILES, *weights])
        return f"{location}: {_verify(location, 'model')}"


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the hub's library raises, of which some comes from its HTTP library, into one message."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and library not in ("huggingface_hub", "httpx", "httpx2", "requests"):
            raise
        raise RunError(
            f"{what}: cannot be fetched: {(str(error).splitlines() or [library])[0]} Is the id right, and does "
            "this machine reach the hub (HF_ENDPOINT, HF_HUB_OFFLINE, proxy)? A gated model needs HF_TOKEN."
        ) from None


def _verify(name: str, repo_type: RepoType) -> str:
    """Compare every cached file of a repository with the hub's hash of it; return what was verified."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    describe = HfApi().model_info if repo_type == "model" else HfApi().dataset_info
    info = describe(name, files_metadata=True)
    count, size = 0, 0
    for file in info.siblings or []:
        found = try_to_load_from_cache(name, file.rfilename, repo_type=repo_type, revision=info.sha)
        if not isinstance(found, str):
            continue
        path = Path(found)
        wanted = file.lfs.sha256 if file.lfs else file.blob_id
        if wanted and wanted != (sha256_file(path) if file.lfs else _git_blob_id(path)):
            raise RunError(f"{path.resolve()}: its content is not what the hub has. Remove the file and fetch again.")
        count, size = count + 1, size + path.stat().st_size
    if not count:
        raise RunError(f"{name}: no file of revision {info.sha} came into the cache. Fetch again.")
    return f"{count} files, {size / 1e6:,.1f} MB, verified against revision {str(info.sha)[:12]}"


def _git_blob_id(path: Path) -> str:
    """Return git's object id of a file's content (git-scm.com, "Git Internals - Git Objects")."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
