"""What a training process tells of itself: its row in `attempts.jsonl`, the manifest of an unfinished run, messages.

    story = Story(folder, config, ranks=ranks, stop=stop, warn=console.warn)
    story.begin(step=400)
    story.saved(step=600)              # after each checkpoint
    story.finished()                   # or story.stopped("..."), story.failed(error)

Every rank holds one; the first rank writes.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from medtuner import slurm
from medtuner.attempts import Attempt, AttemptLog, Reason
from medtuner.config import Config, Event
from medtuner.distributed import Ranks
from medtuner.notifications import announce
from medtuner.runs import write_manifest
from medtuner.signals import StopRequest


class Story:
    """The attempt of this process, from its first step to its end."""

    def __init__(
        self, folder: Path, config: Config, *, ranks: Ranks, stop: StopRequest, warn: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._config = config
        self._ranks = ranks
        self._stop = stop
        self._warn = warn
        self._log = AttemptLog(folder)
        self._attempt: Attempt | None = None

    def begin(self, step: int) -> None:
        """Open the row of an attempt that trains from `step`."""
        if self._ranks.is_main:
            self._attempt = self._log.begin(job=slurm.current_job(), step=step, started=self._stop.started)

    def check_owner(self) -> None:
        """Raise `RunError` when a later attempt has taken the run over."""
        if self._attempt is not None:
            self._log.check_owner(self._attempt)

    def saved(self, step: int) -> None:
        """Note that the checkpoint of `step` stands."""
        if self._attempt is not None:
            self._attempt = self._log.saved(self._attempt, step=step)

    def finished(self) -> None:
        """Close the row of a run whose manifest says finished."""
        if self._attempt is not None:
            self._log.close(self._attempt, reason="finished")
            self._announce("finished")

    def stopped(self, message: str) -> None:
        """Close with what stopped the run on any rank; every rank comes here."""
        reasons = [reason for reason in self._ranks.gather(self._stop.reason) if reason]
        if self._attempt is not None and self._log.owns(self._attempt):
            write_manifest(self._folder, state="interrupted", reason=message)
            reason = _explain_stop(reasons[0] if reasons else "", self._config.slurm.signal_lead)
            self._log.close(self._attempt, reason=reason)

    def failed(self, error: Exception | None) -> None:
        """Close with an error; when the run is another attempt's by now, nothing is written."""
        if self._attempt is not None and self._log.owns(self._attempt):
            with contextlib.suppress(OSError):  # the disk may be what failed
                self._log.close(self._attempt, reason="error")
                write_manifest(self._folder, state="failed", reason=str(error or "an error of medtuner's own"))
                self._announce("failed")

    def _announce(self, event: Event) -> None:
        if trouble := announce(self._folder, self._config.notify, event):
            self._warn(trouble)


def _explain_stop(reason: str, lead: float) -> Reason:
    """Say why Slurm or a user stopped a run; Slurm sends the signal before the end up to 60 s early."""
    if reason == "deadline":
        return "deadline"
    if slurm.is_preempted():
        return "preempted"
    end = slurm.job_end() if reason == "SIGUSR1" else None
    return "deadline" if end is not None and time.time() > end - lead - 90 else "signal"
