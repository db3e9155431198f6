"""The story of a run's attempts, `attempts.jsonl`: one row for each start, with its end, its reason and what it gained.

    log = AttemptLog(folder)
    attempt = log.begin(job=current_job(), step=400, started=stop.started)   # closes a row that its process left open
    log.saved(attempt, step=600)                                             # at every checkpoint
    log.close(attempt, reason="deadline")
    goodput(log.rows())                                                      # productive seconds over wall seconds

A row has `attempt, start, stop, reason, first_step, last_step, seconds_lost`, and `job`, `host`. Reasons: finished,
preempted, deadline, signal, node_failure, error; an open row says running. Steps are those of checkpoints, so
``last_step - first_step`` is what the attempt gained. `seconds_lost` is its time before the first step and after the last
checkpoint; of a finished attempt only the time before the first step.
"""

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from medtuner.errors import RunError
from medtuner.runs import read_metrics, timestamp, write_text

Reason = Literal["running", "finished", "preempted", "deadline", "signal", "node_failure", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The Slurm job this process belongs to; empty outside Slurm. `restarts` counts how often Slurm requeued it."""

    id: str = ""
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One row; `began` and `kept_until` are seconds since the epoch."""

    attempt: int
    start: str
    stop: str | None
    reason: Reason
    first_step: int
    last_step: int
    seconds_lost: float
    job: str
    restarts: int
    host: str
    process: int
    began: float
    trained_from: float
    kept_until: float
    seconds: float


class AttemptLog:
    """The attempts of one run folder; only the first rank writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "attempts.jsonl"
        self._metrics = folder / "metrics.jsonl"

    def rows(self) -> list[Attempt]:
        """Return all attempts, oldest first."""
        return [Attempt(**row) for row in read_metrics(self._path)] if self._path.exists() else []

    def begin(self, *, job: Job, step: int, started: float) -> Attempt:
        """Open a row for a process that will train from `step`, closing the one that a dead process left open."""
        rows = self.rows()
        if rows and rows[-1].reason == "running":
            rows[-1] = self._close_dead(rows[-1], job)
        now = time.time()
        attempt = Attempt(
            attempt=rows[-1].attempt + 1 if rows else 0,
            start=timestamp(started),
            stop=None,
            reason="running",
            first_step=step,
            last_step=step,
            seconds_lost=0.0,
            job=job.id,
            restarts=job.restarts,
            host=socket.gethostname(),
            process=os.getpid(),
            began=started,
            trained_from=now,
            kept_until=now,
            seconds=0.0,
        )
        self._write([*rows, attempt])
        return attempt

    def owns(self, attempt: Attempt) -> bool:
        """Say whether no later attempt has begun."""
        rows = self.rows()
        return not rows or rows[-1].attempt == attempt.attempt

    def check_owner(self, attempt: Attempt) -> None:
        """Raise `RunError` when a later attempt has taken the run over: a node thought dead must not write again."""
        if not self.owns(attempt):
            raise RunError(
                f"attempt {self.rows()[-1].attempt} has taken over {self._path.parent}; this one stops without saving."
            )

    def saved(self, attempt: Attempt, *, step: int) -> Attempt:
        """Note that a checkpoint of `step` stands, and return the row as it is now."""
        self.check_owner(attempt)
        kept = replace(attempt, last_step=step, kept_until=time.time())
        self._write([*self.rows()[:-1], kept])
        return kept

    def close(self, attempt: Attempt, *, reason: Reason) -> Attempt:
        """Close a row with its reason and return it."""
        closed = _closed(attempt, reason, time.time())
        rows = self.rows()
        self._write([closed if row.attempt == attempt.attempt else row for row in rows])
        return closed

    def close_open(self, *, reason: Reason) -> None:
        """Close the last row, should its process have died without doing so."""
        rows = self.rows()
        if rows and rows[-1].reason == "running":
            self.close(rows[-1], reason=reason)

    def explain(self, reason: Reason) -> None:
        """Put a better known reason into the last row."""
        rows = self.rows()
        self._write([*rows[:-1], replace(rows[-1], reason=reason)])

    def _close_dead(self, row: Attempt, job: Job) -> Attempt:
        """Close the row of a process that died without a word, at its last sign of life.

        When Slurm restarted the same job without being asked by medtuner, its node was lost; else the process was killed.
        """
        lost_node = bool(job.id) and row.job == job.id and job.restarts > row.restarts
        alive = self._metrics.stat().st_mtime if self._metrics.exists() else row.kept_until
        return _closed(row, "node_failure" if lost_node else "error", max(alive, row.kept_until))

    def _write(self, rows: Sequence[Attempt]) -> None:
        write_text(self._path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def _closed(row: Attempt, reason: Reason, stop: float) -> Attempt:
    before = row.trained_from - row.began
    after = 0.0 if reason == "finished" else stop - row.kept_until
    return replace(
        row,
        stop=timestamp(stop),
        reason=reason,
        seconds=round(stop - row.began, 1),
        seconds_lost=round(before + max(0.0, after), 1),
    )


def count_stalled(rows: Sequence[Attempt]) -> int:
    """Return how many of the last attempts in a row ended without gaining a step."""
    stalled = 0
    for row in reversed([row for row in rows if row.reason not in ("running", "finished")]):
        if row.last_step > row.first_step:
            break
        stalled += 1
    return stalled


def goodput(rows: Sequence[Attempt]) -> float:
    """Return productive seconds over wall seconds of all closed attempts; 0 when there are none."""
    wall = sum(row.seconds for row in rows)
    return (wall - sum(row.seconds_lost for row in rows)) / wall if wall else 0.0
