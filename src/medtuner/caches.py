"""Where what was fetched lies: under `MEDTUNER_CACHE`, since home folders on clusters are small.

    export MEDTUNER_CACHE=/scratch/me/medtuner      # then wheels go there, and models and datasets to .../huggingface

Without it, wheels lie under `XDG_CACHE_HOME` and models where the Hugging Face libraries put them; `HF_HOME` always wins.
"""

import os
from pathlib import Path

_VARIABLES = ("MEDTUNER_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")


def cache_folder() -> Path:
    """Return the folder that medtuner's own cache is in."""
    if own := os.environ.get("MEDTUNER_CACHE"):
        return _expand(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medtuner"


def place_hub_cache() -> None:
    """Let the Hugging Face libraries keep their files below `MEDTUNER_CACHE`; to be called before they are imported."""
    if "MEDTUNER_CACHE" in os.environ:
        os.environ.setdefault("HF_HOME", str(cache_folder() / "huggingface"))


def cache_variables() -> dict[str, str]:
    """Return the variables that say where the caches are, as absolute paths, for a job to find them again."""
    return {name: str(_expand(os.environ[name])) for name in _VARIABLES if os.environ.get(name)}


def _expand(path: str) -> Path:
    return Path(path).expanduser().absolute()
