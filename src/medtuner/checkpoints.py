"""Checkpoints that are whole or absent: written aside, flushed, hashed, renamed; verified before they are read.

    checkpoints = CheckpointFolder(folder / "checkpoints", keep=2)
    checkpoints.save(step=400, weights=model.state_dict(), optimizer=optimizer.state_dict(), state={"best_step": 200})
    latest = checkpoints.latest()          # the newest that verifies; None when there is none

A checkpoint is ``step-00000400/`` with `weights.safetensors` (fp32), `optimizer.pt`, `state.json` and, written last,
`manifest.json` with the SHA-256 of the others. A process killed at any moment leaves the previous checkpoint untouched and
at most one hidden folder, which the next save removes.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medtuner.errors import RunError
from medtuner.runs import flush_and_hash, read_json, sha256_file, sync_folder, write_json

_WEIGHTS, _OPTIMIZER, _STATE, _MANIFEST = "weights.safetensors", "optimizer.pt", "state.json", "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint: its step, its folder and the loop's state."""

    step: int
    folder: Path
    state: Mapping[str, Any]

    def load_weights(self) -> dict[str, torch.Tensor]:
        """Return the fp32 weights by name, on the CPU."""
        return load_file(self.folder / _WEIGHTS)

    def load_optimizer(self) -> dict[str, Any]:
        """Return the optimiser's state, on the CPU."""
        return cast(dict[str, Any], torch.load(self.folder / _OPTIMIZER, map_location="cpu", weights_only=True))


class CheckpointFolder:
    """The checkpoints of one run; `keep` is how many of the newest stay, beside the best one."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self.damaged: list[Path] = []

    def save(
        self, *, step: int, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any], state: Mapping[str, Any]
    ) -> None:
        """Write the checkpoint of a step, then prune; ``state["best_step"]`` names one that is kept.

        Raises `RunError` when it cannot be written (a full disk, a quota); what was there before stays.
        """
        try:
            self._write(step=step, weights=weights, optimizer=optimizer, state=state)
        except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: how torch.save says it
            self._remove_unfinished()
            kept = max(self.steps(), default=0)
            raise RunError(
                f"{self._folder}: the checkpoint of step {step} cannot be written: {str(error).splitlines()[0]}. "
                f"{f'That of step {kept} is whole' if kept else 'There is no earlier one'}. Make room (is the disk full, "
                "or your quota?) and start the run again."
            ) from None
        self._remove_unfinished()
        self._prune(best_step=int(state.get("best_step", 0)))

    def _write(
        self, *, step: int, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any], state: Mapping[str, Any]
    ) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for damaged in self.damaged:
            shutil.rmtree(damaged, ignore_errors=True)
        self.damaged.clear()
        self._remove_unfinished()
        aside = self._folder / f".step-{step:08d}"
        aside.mkdir()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, aside / _WEIGHTS)
        torch.save(dict(optimizer), aside / _OPTIMIZER)
        write_json(aside / _STATE, {"step": step, **state})
        hashes = {name: flush_and_hash(aside / name) for name in (_WEIGHTS, _OPTIMIZER, _STATE)}
        write_json(aside / _MANIFEST, {"step": step, "sha256": hashes})
        final = self._path(step)
        if final.exists():  # an older state of the same step, or a damaged one
            os.rename(final, self._folder / f".step-{step:08d}-replaced")
        os.rename(aside, final)
        sync_folder(self._folder)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that verifies; damaged ones are passed over and listed in `damaged`."""
        for step in sorted(self.steps(), reverse=True):
            checkpoint = self.read(step)
            if checkpoint is not None:
                return checkpoint
        return None

    def read(self, step: int) -> Checkpoint | None:
        """Return the checkpoint of a step, or None when it is absent or damaged."""
        folder = self._path(step)
        if not _verifies(folder):
            if folder.exists() and folder not in self.damaged:
                self.damaged.append(folder)
            return None
        return Checkpoint(step=step, folder=folder, state=cast(Mapping[str, Any], read_json(folder / _STATE)))

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints there are, verified or not."""
        return sorted(int(path.name.removeprefix("step-")) for path in self._folder.glob("step-*"))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _remove_unfinished(self) -> None:
        for path in self._folder.glob(".step-*"):
            shutil.rmtree(path)

    def _prune(self, *, best_step: int) -> None:
        for step in self.steps()[: -self._keep]:
            if step != best_step:
                # Renamed first, so that a kill in mid-removal leaves no half checkpoint under a valid name.
                doomed = self._folder / f".step-{step:08d}"
                os.rename(self._path(step), doomed)
                shutil.rmtree(doomed)


def _verifies(folder: Path) -> bool:
    manifest = folder / _MANIFEST
    try:
        hashes = cast(dict[str, str], read_json(manifest)["sha256"])
    except (FileNotFoundError, ValueError, KeyError):
        return False
    return all((folder / name).is_file() and sha256_file(folder / name) == digest for name, digest in hashes.items())
