"""Being asked to stop: the step under way is finished, a checkpoint saved, and the process leaves with a code that says so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nlpbp.core.errors import EXIT_PREEMPTED, NlpbpError

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT


class Stopped(NlpbpError):
    """A run that was asked to stop, saved itself, and can go on."""

    def __init__(self, message: str, *, code: int) -> None:
        self.code = code
        super().__init__(message)


class StopRequest:
    """Remembers the first signal that asked the run to stop; `code` is the exit code that belongs to it, 0 for none."""

    code = 0
    signal_name = ""

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: SIGINT twice ends at once, every other repetition is ignored."""
        if self.code and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        if not self.code:
            self.code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_PREEMPTED
            self.signal_name = signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch SIGTERM, SIGINT and SIGUSR1 (SLURM's early warning) while the block runs; outside the main thread, none.

    >>> with stop_requests() as request:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    >>> request.code
    75
    """
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    try:
        before = {number: signal.signal(number, request.note) for number in numbers}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal has gone; the run goes on
    except ValueError:  # not the main thread: whoever runs us there decides
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def requeue() -> bool:
    """Ask SLURM to start this job again, if it is one; return whether it was asked."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        return subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    except OSError:
        return False
