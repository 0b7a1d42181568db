"""Whether one set of answers is better than another by more than luck: both are scored on the same draws of the examples.

It tells the luck of the draw of the examples only, not that of the training seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nlpbp.evaluation.intervals import resample_weights
from nlpbp.evaluation.metrics import Floats, checked_targets
from nlpbp.evaluation.run_folder import Record, at, finite, section
from nlpbp.tasks.scores import decide
from nlpbp.tasks.task import Metric, get_task, is_known, metric_of

Array = np.ndarray[Any, Any]
Verdict = Literal["better", "unclear", "worse"]


@dataclass(frozen=True)
class Answers:
    """Outputs as `nlpbp.tasks.task_metrics` takes them, and the thresholds [k] that decide them, where a task has some.

    Where the thresholds are not known, `decisions` are those that were made: class ids [n], labels that hold [n, k].
    """

    outputs: Array
    thresholds: Array | None = None
    decisions: Array | None = None


@dataclass(frozen=True)
class Difference:
    """A metric of the first and of the second answers; `change` is second minus first, with its 95 % interval. None: undefined."""

    first: float | None
    second: float | None
    change: float | None
    interval: tuple[float, float] | None


def paired_differences(
    task: str, targets: Array, second: Answers, firsts: Mapping[str, Answers], *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Difference]]:
    """Compare answers with others, by their name, in each metric of the task: a bootstrap that draws the same examples for all.

    The same seed gives the same intervals; of a single example there is none. Errors are those of `task_metrics`.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> constant = Answers(np.full((4, 2), 0.5))
    >>> found = paired_differences("single_label", np.array([0, 0, 1, 1]), Answers(probabilities), {"constant": constant})
    >>> found["constant"]["accuracy"].change, found["constant"]["accuracy"].interval
    (0.25, (0.0, 0.75))
    """

    targets = checked_targets(task, targets, second.outputs)
    decided = _decided(task, second), {name: _decided(task, first) for name, first in firsts.items()}

    def measured(weights: Floats) -> tuple[dict[str, Floats], dict[str, dict[str, Floats]]]:
        measure, (mine, others) = get_task(task).measure, decided
        return measure(targets, *mine, weights), {name: measure(targets, *one, weights) for name, one in others.items()}

    ours, theirs = measured(np.ones((1, len(targets))))
    drawn: dict[str, dict[str, list[Floats]]] = {name: {metric: [] for metric in ours} for name in firsts}
    for weights in resample_weights(len(targets), num_resamples=num_resamples, seed=seed):
        mine, others = measured(weights)
        for name, changes in drawn.items():
            for metric, values in changes.items():
                values.append(mine[metric] - others[name][metric])
    return {
        name: {
            metric: _difference(theirs[name][metric][0], ours[metric][0], np.concatenate(values), num=len(targets))
            for metric, values in changes.items()
        }
        for name, changes in drawn.items()
    }


def _decided(task: str, answers: Answers) -> tuple[Floats, Array]:
    """Return outputs and decisions, both checked."""
    decisions = decide(task, answers.outputs, answers.thresholds) if answers.decisions is None else answers.decisions
    return np.asarray(answers.outputs, dtype=np.float64), decisions


def _difference(first: float, second: float, changes: Floats, *, num: int) -> Difference:
    defined = changes[np.isfinite(changes)]
    if not np.isfinite([first, second]).all() or not len(defined):
        return Difference(_defined(first), _defined(second), None, None)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Difference(float(first), float(second), float(second - first), (float(low), float(high)) if num > 1 else None)


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def verdict(metric: Metric, difference: Difference) -> Verdict:
    """Say how the second answers do beside the first: better or worse where the interval of the change leaves out 0.

    >>> verdict(metric_of("regression"), Difference(1.0, 0.8, -0.2, (-0.3, -0.1)))
    'better'
    """
    if difference.interval is None or difference.interval[0] <= 0.0 <= difference.interval[1]:
        return "unclear"
    return "better" if (difference.interval[0] > 0.0) == metric.higher_is_better else "worse"


def against_record(metric: Metric, difference: Difference) -> dict[str, Any]:
    """Return what `result.json` says of a model beside a baseline, whose answers are the first ones."""
    return {
        "metric": metric.name,
        "model": difference.second,
        "baseline": difference.first,
        "difference": difference.change,
        "interval": None if difference.interval is None else list(difference.interval),
        "verdict": verdict(metric, difference),
    }


def beside_baselines(result: Record) -> dict[str, dict[str, Any]]:
    """Return, by baseline, how the main score of the last part does beside it, from what `result.json` holds.

    Where the run did not keep a paired difference (language models, and runs of earlier versions), the interval is that of the
    model's own score.

    >>> scores = {"metrics": {"test": {"rmse": 1.0}}, "intervals": {"test": {"rmse": [0.9, 1.1]}}, "task": "regression"}
    >>> beside_baselines(scores | {"baselines": {"tfidf": {"test": {"rmse": 1.5}}}})["tfidf"]["verdict"]
    'better'
    """
    kept = result.get("against")
    if isinstance(kept, Mapping) and kept:
        return {str(kind): dict(one) for kind, one in kept.items() if isinstance(one, Mapping) and "verdict" in one}
    task, part = str(result.get("task")), "test" if "test" in section(result, "metrics") else "validation"
    metric = metric_of(task) if is_known(task) else None
    score = finite(at(result, "metrics", part, metric.name)) if metric else None
    if metric is None or score is None:
        return {}
    interval = at(result, "intervals", part, metric.name)
    bounds = [bound for bound in map(finite, interval) if bound is not None] if isinstance(interval, list) else []
    low, high = bounds if len(bounds) == 2 else (score, score)
    values = {kind: finite(at(result, "baselines", kind, part, metric.name)) for kind in section(result, "baselines")}
    return {
        str(kind): against_record(metric, Difference(value, score, score - value, (low - value, high - value)))
        for kind, value in values.items()
        if value is not None
    }
