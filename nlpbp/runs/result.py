"""What a finished run found, and what it cost."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nlpbp.checks.findings import Finding
from nlpbp.runs.fit import Metrics
from nlpbp.runs.progress import Progress

Array = np.ndarray[Any, Any]


Intervals = Mapping[str, list[float] | None]


@dataclass(frozen=True)
class RunResult:
    """What a finished run found; `out` is its folder. `metrics`, `intervals` and `baselines` are as in `result.json`.

    `against` says by baseline how the main score of the last part does beside it, `advice` what to do next.
    """

    recipe: str
    out: Path
    task: str
    metrics: dict[str, Metrics]
    intervals: dict[str, Intervals]
    baselines: dict[str, dict[str, Metrics]]
    num_parameters: int
    train_seconds: float
    samples_per_second: float
    peak_rss_mib: float
    against: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    advice: Sequence[Finding] = ()


def samples_per_second(progress: Progress) -> float:
    """Return how many examples a second the last model trained on: those of its own stages, not of a language model's before it."""
    own = [stage for stage in progress.stages if stage["metric"] == progress.stages[-1]["metric"]]
    return float(sum(stage["items"] for stage in own) / max(1e-9, sum(stage["seconds"] for stage in own)))


def peak_rss_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
