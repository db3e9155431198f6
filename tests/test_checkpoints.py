import errno
from pathlib import Path

import pytest
import torch

from medtuner.checkpoints import CheckpointFolder
from medtuner.runs import write_folder


def save(folder: CheckpointFolder, step: int, best_step: int = 0) -> None:
    folder.save(
        step=step,
        weights={"w": torch.full((3,), float(step))},
        optimizer={"state": {0: {"exp_avg": torch.ones(3)}}},
        state={"best_step": best_step},
    )


def test_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    assert folder.latest() is None
    save(folder, 10)
    checkpoint = folder.latest()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state["best_step"]) == (10, 0)
    assert checkpoint.load_weights()["w"].tolist() == [10.0] * 3
    assert checkpoint.load_optimizer()["state"][0]["exp_avg"].tolist() == [1.0] * 3


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        save(folder, step, best_step=min(step, 2))
    assert folder.steps() == [2, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in (2, 4, 5)]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_damaged_checkpoints_are_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    save(folder, 1)
    save(folder, 2)
    victim = tmp_path / "step-00000002" / name
    content = victim.read_bytes()
    if damage == "removed":
        victim.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        victim.write_bytes(content[:middle] if damage == "cut" else flipped)
    reopened = CheckpointFolder(tmp_path, keep=2)
    latest = reopened.latest()
    assert latest is not None
    assert latest.step == 1
    assert [path.name for path in reopened.damaged] == ["step-00000002"]
    save(reopened, 2)  # the damaged one is replaced when its step comes again
    again = CheckpointFolder(tmp_path, keep=2).latest()
    assert again is not None
    assert again.step == 2


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    save(folder, 1)
    (tmp_path / ".step-00000002").mkdir()
    (tmp_path / ".step-00000002" / "weights.safetensors").write_bytes(b"half")
    save(folder, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_folder(target, lambda folder: (folder / "a").write_text("old"))

    def fail(folder: Path) -> None:
        (folder / "a").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_folder(target, fail)
    assert (target / "a").read_text() == "old"


def test_out_of_memory_names_the_key_to_lower() -> None:
    from medtuner.distributed import Ranks
    from medtuner.models import memory_hint

    ranks = Ranks(rank=0, size=1, device=torch.device("cpu"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    hint = memory_hint(caught.value, ranks)
    assert hint is not None
    assert "train.tokens_per_rank" in str(hint)
    assert memory_hint(RuntimeError("shapes differ"), ranks) is None
