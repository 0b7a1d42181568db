"""Children of a warm process: a fork costs 50 ms where a new Python with torch costs 5 seconds.

The parent imports and never computes, so that there is no thread pool for a fork to lose.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nlpbp.core.errors import NlpbpError

T = TypeVar("T")
UNTYPED = 70  # EX_SOFTWARE of sysexits.h: what a child leaves with after an error that is not one of nlpbp's own
POLL = 0.002  # seconds
LIMIT = 300.0  # seconds after which a child counts as hanging


@dataclass(frozen=True)
class End:
    """How a child ended: its exit code (negative for a signal), after how long, how much memory it held, what it printed."""

    code: int
    seconds: float
    peak_mib: float
    output: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def last_line(self) -> str:
        """The last line that it printed: of an error, what it says."""
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "")


def run_forked(
    work: Callable[[], Any], *, output: Path, kill_after: float | None = None, stdin: bytes = b"", limit: float = LIMIT
) -> End:
    """Do `work` in a forked child and wait for its end; SIGKILL it after `kill_after` seconds, or as hanging after `limit`.

    What it prints goes to the file `output`. Its exit code is 0, that of an `NlpbpError`, or `UNTYPED` for any other exception.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(work, output, stdin)
    until = started + (limit if kill_after is None else kill_after)
    while True:
        reaped, status, usage = os.wait4(child, os.WNOHANG)
        if reaped:
            break
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            until += LIMIT
        time.sleep(POLL)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    return End(os.waitstatus_to_exitcode(status), time.monotonic() - started, peak, text)


def _be_child(work: Callable[[], Any], output: Path, stdin: bytes) -> None:
    """Do the work with standard streams of its own, and leave without any of the parent's clean-up."""
    code = UNTYPED
    try:
        _die_with_parent()
        _give_streams(output, stdin)
        work()
        code = 0
    except NlpbpError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = error.code
    except BaseException:
        print(traceback.format_exc(), flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _give_streams(output: Path, stdin: bytes) -> None:
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(written, 1)
    os.dup2(written, 2)
    reading, writing = os.pipe()
    os.write(writing, stdin)
    os.close(writing)
    os.dup2(reading, 0)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, mode), encoding="utf-8", errors="replace", line_buffering=True)
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )


def _die_with_parent() -> None:
    """Let a child not outlive a parent that is killed (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        set_signal_at_parents_death = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_signal_at_parents_death, signal.SIGKILL)


def in_parallel(work: Callable[[T], Any], tasks: Sequence[T], *, jobs: int, scratch: Path, title: str) -> list[Any]:
    """Do `work` on each task in `jobs` forked processes and return what it returns, as JSON data, in the order of `tasks`."""
    jobs = max(1, min(jobs, len(tasks)))
    files = [scratch / f"results-{index}.json" for index in range(jobs)]
    sys.stdout.flush()
    children = []
    for index, file in enumerate(files):
        file.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _be_worker(work, tasks[index::jobs], file, title if index == 0 else "")
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    if not all(file.exists() for file in files):
        raise RuntimeError(f"{title}: a worker failed; its error is above")
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [results[index % jobs][index // jobs] for index in range(len(tasks))]


def _be_worker(work: Callable[[T], Any], tasks: Sequence[T], file: Path, title: str) -> None:
    code = 1
    try:
        _die_with_parent()
        done, told = [], time.monotonic()
        for number, task in enumerate(tasks, 1):
            done.append(work(task))
            if title and time.monotonic() - told > 10:
                print(f"  {title}: {number / len(tasks):.0%}", flush=True)
                told = time.monotonic()
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(done), encoding="utf-8")
        os.replace(temporary, file)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
