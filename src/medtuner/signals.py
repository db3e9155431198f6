"""Requests to stop: a signal or a deadline, and the training loop looks at it at every step boundary.

    with StopRequest() as stop:
        stop.deadline = job_end - lead          # seconds since the epoch; none by default
        ...
        if stop.requested: save and leave

Nothing happens inside the handler itself, so a second or third signal cannot break a save that is under way. A launcher may
start the process with these signals blocked: they wait until the handlers stand, and none is lost or kills an interpreter
that is still starting.
"""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from medtuner.errors import RunInterrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """A flag that SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGUSR2 set while the context is open."""

    def __init__(self) -> None:
        self.reason = ""
        self.deadline: float | None = None
        self.started = time.time()
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Say whether a signal has arrived or the deadline has passed."""
        if not self.reason and self.deadline is not None and time.time() >= self.deadline:
            self.reason = "deadline"
        return bool(self.reason)

    def __enter__(self) -> "StopRequest":
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A stopped process is leaving. One more signal must not turn an orderly stop into a death by signal, not even while
        # the interpreter ends: there it gives every signal that is not ignored its default action back.
        leaving = bool(self.reason) or isinstance(error, RunInterrupted)
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if leaving else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.reason = self.reason or signal.Signals(number).name
