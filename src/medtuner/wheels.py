"""A folder of wheels from which a job builds its own virtual environment, without a network.

    folder = download_wheels()         # on the login node, with `pip download`
    wheel_folder()                     # where it is for this very set of packages

The set is what is installed here: medtuner's requirements and theirs, each pinned to the version that runs now. medtuner
itself is not in it: a job runs the copy that its submission froze.
"""

import hashlib
import importlib.metadata
import subprocess
import sys
from collections import deque
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medtuner.caches import cache_folder
from medtuner.errors import RunError
from medtuner.runs import sha256_file, write_folder, write_text

_OWN = "medtuner"
_NOT_FOR_JOBS = ("dev",)


def pinned_requirements() -> list[str]:
    """Return ``name==version`` for every package that medtuner needs and that is installed, by name."""
    pins: dict[str, str] = {}
    extras = set(importlib.metadata.metadata(_OWN).get_all("Provides-Extra") or []) - set(_NOT_FOR_JOBS)
    waiting = deque([(_OWN, frozenset(extras))])
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras_here = waiting.popleft()
        if (name, extras_here) in seen:
            continue
        seen.add((name, extras_here))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that was not installed here
        if name != _OWN:
            pins[name] = distribution.version
        waiting.extend(_needed(distribution, extras_here))
    return sorted(f"{name}=={version}" for name, version in pins.items())


def _needed(distribution: importlib.metadata.Distribution, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    needed = [Requirement(text) for text in distribution.requires or []]
    return [
        (canonicalize_name(one.name), frozenset(one.extras))
        for one in needed
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def wheel_folder() -> Path:
    """Return the folder for this set of packages and this Python; it need not exist."""
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    digest = hashlib.sha256("\n".join(pinned_requirements()).encode()).hexdigest()[:12]
    return cache_folder() / "wheels" / f"{version}-{digest}"


def has_wheels(folder: Path) -> bool:
    """Say whether every file of a wheel folder is there with the content it was fetched with."""
    sums = folder / "SHA256SUMS"
    if not sums.exists():
        return False
    lines = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
    return all((folder / name).is_file() and sha256_file(folder / name) == digest for digest, name in lines)


def download_wheels() -> Path:
    """Download the wheels that are not there yet; pip verifies what an index gives a hash for.

    Raises `RunError` with pip's own words when it cannot.
    """
    folder = wheel_folder()
    if has_wheels(folder):
        return folder
    write_folder(folder, _download)
    return folder


def _download(folder: Path) -> None:
    """Fill an empty folder: what lay there before, perhaps damaged, is not trusted."""
    write_text(folder / "requirements.txt", "".join(f"{pin}\n" for pin in pinned_requirements()))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]  # builds what an index has as source only
    command += ["--wheel-dir", str(folder), "--requirement", str(folder / "requirements.txt"), "pip"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(
            f'pip cannot download the wheels for slurm.environment = "venv":\n{done.stderr.strip()}\n'
            "A package from an index of its own (torch for CUDA) needs it in pip's configuration: "
            "pip config set global.extra-index-url https://download.pytorch.org/whl/cu128"
        )
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    write_text(folder / "SHA256SUMS", "".join(f"{sha256_file(path)}  {path.name}\n" for path in files))
