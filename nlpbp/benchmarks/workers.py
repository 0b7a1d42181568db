"""Processes that work in turns, each on a line that says go, and answer in lines of JSON; the standard library only.

Whoever compares must import no more than this: the peak memory that the system reports for a process is never less than that of
the process which started it. And the other side of a comparison may run in an environment that has nothing of ours.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Nothing is fetched, and a GPU is left alone: this compares what CPU cores do.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}

Record = dict[str, Any]


@contextmanager
def worker(
    name: str, *arguments: str, python: str = sys.executable, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run the module of this name beside this one, by its path, as a worker; it is ended with the block."""
    process = subprocess.Popen(
        [python, str(HERE / f"{name}.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT | (environment or {}),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def go(process: subprocess.Popen[str], piece: str = "go") -> None:
    """Let a worker do its next piece, or the one that is named."""
    assert process.stdin is not None
    process.stdin.write(f"{piece}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> Record:
    """Wait for a worker's next answer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended too early, with code {process.wait()}; what it said stands above")
    return json.loads(line)


def answers() -> Callable[[Record], None]:
    """Return what a worker answers with; from now on whatever a library prints goes elsewhere, and not between the answers."""
    stdout, sys.stdout = sys.stdout, sys.stderr

    def answer(record: Record) -> None:
        print(json.dumps(record), file=stdout, flush=True)

    return answer


def serve(answer: Callable[[Record], None], pieces: Mapping[str, Callable[[], Record]]) -> None:
    """Do the pieces that the other side names, until it closes; each answer tells the peak memory so far, and the processor time.

    The latter is of this process alone. Much less of it than threads times seconds says that something else was at work as well.
    """
    for line in sys.stdin:
        before = time.process_time()
        told = pieces[line.strip()]()
        answer(told | {"cpu_seconds": time.process_time() - before, "peak_memory_mib": peak_memory_mib()})


class Laps:
    """Seconds by what they were spent on: each lap ends where the next begins, the first begins with the clock's start."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the clock anew."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap, or the start, as spent on `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def record(self) -> Record:
        """Return the sum and its parts."""
        return {"seconds": sum(self.seconds.values()), "parts": self.seconds}


def median(values: Sequence[float | None]) -> float | None:
    """Return the median, a missing value being the worst of all; None if it falls on a missing one, or there are no values.

    >>> median([2.0, None, 1.0]), median([2.0, None]), median([])
    (1.0, None, None)
    """
    if not values:
        return None
    middle = statistics.median(-math.inf if value is None else value for value in values)
    return middle if math.isfinite(middle) else None


def write_json(out: Path, record: Record) -> None:
    """Write a record; whoever reads `out` meanwhile finds the whole file of before."""
    temporary = out.with_name(f"{out.name}.tmp")
    temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(out)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def peak_memory_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def cpu_name() -> str:
    """Return the processor's name as the system knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
