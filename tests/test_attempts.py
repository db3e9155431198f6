import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medtuner.attempts import AttemptLog, Job, count_stalled, goodput
from medtuner.checkpoints import CheckpointFolder
from medtuner.config import Config, SlurmSection
from medtuner.errors import RunError
from medtuner.submission import settle


def test_a_story_is_told_with_steps_and_losses(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    first = log.begin(job=Job(id="7"), step=0, started=time.time() - 10)
    first = log.saved(first, step=20)
    log.close(first, reason="preempted")
    second = log.begin(job=Job(id="7", restarts=1), step=20, started=time.time() - 5)
    log.saved(second, step=30)
    log.begin(job=Job(id="7", restarts=2), step=30, started=time.time())  # the second one died without a word
    rows = log.rows()
    assert [(row.attempt, row.reason, row.first_step, row.last_step) for row in rows] == [
        (0, "preempted", 0, 20),
        (1, "node_failure", 20, 30),
        (2, "running", 30, 30),
    ]
    assert rows[0].seconds_lost == pytest.approx(10, abs=1)
    assert 0 <= goodput(rows) < 0.5
    assert set(json.loads((tmp_path / "attempts.jsonl").read_text().splitlines()[0])) >= {
        "attempt", "start", "stop", "reason", "first_step", "last_step", "seconds_lost",
    }  # fmt: skip


def test_a_process_that_was_killed_is_told_from_a_lost_node(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    log.begin(job=Job(id="7"), step=0, started=time.time())
    log.begin(job=Job(id="8"), step=0, started=time.time())
    assert log.rows()[0].reason == "error"


def test_an_attempt_that_was_thought_dead_may_not_write(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path)
    old = log.begin(job=Job(id="7"), step=0, started=time.time())
    log.begin(job=Job(id="7", restarts=1), step=0, started=time.time())
    with pytest.raises(RunError, match="attempt 1 has taken over"):
        log.saved(old, step=5)


def test_a_run_that_never_advances_is_not_requeued_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medtuner.slurm.job_state", lambda: "RUNNING")
    options = Config(slurm=SlurmSection(max_stalled=3))
    answers = []
    for restarts in range(3):
        monkeypatch.setenv("SLURM_JOB_ID", "9")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        answers.append(settle(tmp_path, options, code=3, log=tmp_path / "absent.out"))
    assert [code for code, _ in answers] == [75, 75, 1]
    assert "the last 3 attempts gained no step" in answers[-1][1]
    assert count_stalled(AttemptLog(tmp_path).rows()) == 3
    assert json.loads((tmp_path / "manifest.json").read_text())["state"] == "failed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("needs root and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_old_checkpoint(small_disk: Path) -> None:
    checkpoints = CheckpointFolder(small_disk / "checkpoints", keep=2)
    checkpoints.save(step=5, weights={"w": torch.ones(100)}, optimizer={}, state={})
    with pytest.raises(RunError, match=r"step 10 cannot be written.*That of step 5 is whole.*Make room"):
        checkpoints.save(step=10, weights={"w": torch.ones(10**6)}, optimizer={}, state={})
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 5
    assert not list((small_disk / "checkpoints").glob(".step-*"))
