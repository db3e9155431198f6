"""What must be right before a job waits hours in a queue: data, labels, encoder.

    for line in check_run(config): print(line)       # raises MedtunerError at the first thing to mend

Weights are not loaded; the encoder must lie on this machine's disk, since compute nodes often reach no hub.
"""

from pathlib import Path

from medtuner.config import Config
from medtuner.corpora import load_splits
from medtuner.duplicates import warn_of_shared
from medtuner.errors import ModelError, RunError
from medtuner.labels import check_labels, choose_label_space
from medtuner.models import find_encoder, load_tokenizer
from medtuner.recognizer import find_model
from medtuner.wheels import has_wheels, wheel_folder


def check_run(config: Config) -> list[str]:
    """Read the data, choose the label space and look for the encoder; return what was found, a line each."""
    splits = load_splits(config.data)
    space = choose_label_space(config.labels.space, splits.train.documents)
    lines: list[str] = []
    for name, corpus in splits.named().items():
        check_labels(space, corpus.documents)
        mentions = sum(len(document.spans) for document in corpus.documents)
        lines.append(f"{name}: {len(corpus.documents):,} documents, {mentions:,} mentions ({corpus.source})")
    lines += [f"warning: {warning}" for warning in warn_of_shared(splits)]
    lines.append(f"labels: {len(space.types)} types")
    if config.model.init_from:
        find_model(Path(config.model.init_from))
    location = find_encoder(config.model.encoder)
    lines.append(f"encoder: {_find_on_disk(location)}")
    load_tokenizer(location)
    if config.slurm.environment == "venv":
        lines.append(f"wheels: {_find_wheels()}")
    if config.slurm.container and not Path(config.slurm.container).exists():
        raise RunError(f"slurm.container = {config.slurm.container!r}: no such file (looked from {Path.cwd()}).")
    return lines


def _find_wheels() -> Path:
    folder = wheel_folder()
    if not has_wheels(folder):
        raise RunError(
            f'slurm.environment = "venv": {folder} holds no whole set of wheels for the packages installed here. Run, '
            "with the same MEDTUNER_CACHE: medtuner fetch CONFIG"
        )
    return folder


def _find_on_disk(location: str) -> str:
    """Return the folder of an encoder's files; a hub id must be in the local cache with its weights."""
    if Path(location).is_dir():
        return location
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        found = try_to_load_from_cache(location, name)
        if isinstance(found, str):
            return str(Path(found).parent)
    raise ModelError(
        f"model.encoder = {location!r}: its weights are not in this machine's Hugging Face cache, and the job runs with "
        f"hub access off. Where there is internet run, with the same HF_HOME: medtuner fetch CONFIG"
    )
