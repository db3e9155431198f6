"""The run folder: who owns it, atomic writes, provenance and the manifest that says how the run ended.

    folder = Path("runs/stage1")
    state = claim(folder, config, data_sha256="...")     # "new", "resumable" or "finished"; refuses another run's folder
    write_json(folder / "scores.json", scores)           # temporary name, fsync, rename

`manifest.json` is written last: its state is the truth about the run, never an exit code.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from medtuner.config import Config, config_to_toml, flatten, load_config
from medtuner.errors import RunError

State = Literal["new", "resumable", "finished"]

_IDENTITY_SECTIONS = ("data", "labels", "model", "train")
_PREPARED = ("logs", "submitted", "outbox")  # what `submit` makes in a run folder before the run begins
_CHANGES_NOTHING = ("data.max_lost", "train.log_every", "train.keep_checkpoints")  # free to change in mid-run
_PACKAGES = ("medtuner", "torch", "transformers", "tokenizers", "datasets", "numpy", "pyarrow", "safetensors")


def run_folder(config: Config) -> Path:
    """Return ``output/name`` of a configuration."""
    return Path(config.run.output) / config.run.name


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already when it took the file's place
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write text atomically as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that medtuner wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush_and_hash(path: Path) -> str:
    """Flush a file to the disk and return the hex SHA-256 of its content."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return sha256_file(path)


def write_folder(final: Path, fill: Callable[[Path], object]) -> None:
    """Fill a folder aside and put it in place by renaming, replacing an older one."""
    aside = final.with_name(f".{final.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    fill(aside)
    for path in aside.rglob("*"):
        if path.is_file():
            flush_and_hash(path)
    if final.exists():
        shutil.rmtree(final)
    os.rename(aside, final)
    sync_folder(final.parent)


def claim(folder: Path, config: Config, *, data_sha256: str | None, encoder: str = "", precision: str = "") -> State:
    """Open a run folder for this configuration and say what is in it.

    A run is identified by `[data] [labels] [model] [train]`, its seed and the hash of its data (None: not looked at).
    Raises `RunError` when the folder belongs to another run, naming what differs.
    """
    saved_config, saved_environment = folder / "config.toml", folder / "environment.json"
    if not saved_config.exists():
        # Names with a leading dot are temporary files that a killed process may have left.
        if folder.is_dir() and any(
            not path.name.startswith(".") for path in folder.iterdir() if path.name not in _PREPARED
        ):
            raise RunError(f"{folder} holds files but no config.toml of a run. Choose another run.name or run.output.")
        write_text(saved_config, config_to_toml(config))
    found = differences(load_config(saved_config), config)
    if not found and not saved_environment.exists():
        if data_sha256 is not None:
            write_json(saved_environment, environment(data_sha256, encoder) | {"precision": precision})
        return "new"
    if data_sha256 and saved_environment.exists() and read_json(saved_environment).get("data_sha256") != data_sha256:
        found.append("the content of the data files")
    if found:
        raise RunError(
            f"{folder} holds another run. It differs in: {'; '.join(found)}. Choose another run.name, or remove "
            "the folder to begin anew."
        )
    return "finished" if is_finished(folder) else "resumable"


def stored_precision(folder: Path) -> str:
    """Return the precision a run has begun in, "" when it has not begun."""
    path = folder / "environment.json"
    return str(read_json(path).get("precision", "")) if path.exists() else ""


def differences(old: Config, new: Config) -> list[str]:
    """Return the keys in which two configurations describe different runs, each with both values."""
    before, now = flatten(old), flatten(new)
    names = [name for name in now if name.partition(".")[0] in _IDENTITY_SECTIONS or name == "run.seed"]
    names = [name for name in names if name not in _CHANGES_NOTHING]
    return [f"{name} (there {before[name]!r}, here {now[name]!r})" for name in names if before[name] != now[name]]


def is_finished(folder: Path) -> bool:
    """Say whether the manifest of a run folder declares it finished."""
    manifest = folder / "manifest.json"
    return manifest.exists() and cast(dict[str, object], read_json(manifest))["state"] == "finished"


def write_manifest(folder: Path, *, state: Literal["finished", "failed", "interrupted"], reason: str = "") -> None:
    """Write `manifest.json`, the last file of a run: its state and the hash of every result file."""
    skipped = ("checkpoints", *_PREPARED)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in skipped
        and path.name not in ("manifest.json", "attempts.jsonl")
    )
    hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files} if state == "finished" else {}
    write_json(folder / "manifest.json", {"state": state, "reason": reason, "time": timestamp(), "sha256": hashes})


def environment(data_sha256: str | None, encoder: str) -> dict[str, object]:
    """Return the provenance of a run: versions, machine, command line, Slurm ids, what pins data and encoder."""
    return {
        "time": timestamp(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "slurm": {name: value for name, value in os.environ.items() if name.startswith("SLURM_JOB")},
        "data_sha256": data_sha256,
        "encoder": encoder,
    }


def timestamp(seconds: float | None = None) -> str:
    """Return a time (seconds since the epoch; default now) in ISO 8601, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the current folder's repository, marked when files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
