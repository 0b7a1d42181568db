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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).resolve().parent.parent / "benchmark.py"
# Nothing is fetched, and a GPU is left alone: this compares what CPU cores do.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}

Record = dict[str, Any]


@contextmanager
def worker(
    *arguments: str, python: str = sys.executable, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start the benchmark's script as a worker; it is ended with the block."""
    process = subprocess.Popen(
        [python, str(SCRIPT), *arguments],
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


def go(process: subprocess.Popen[str]) -> None:
    """Let a worker do its next piece."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> Record:
    """Wait for a worker's next answer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended too early, with code {process.wait()}; what it said stands above")
    return json.loads(line)


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
