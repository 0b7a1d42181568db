"""Metrics, intervals and decisions of any task by its name. Shapes: n examples, k labels, r weightings."""

from __future__ import annotations

import math

import numpy as np

from nlpbp.evaluation import intervals
from nlpbp.evaluation.metrics import Floats, checked_outputs, checked_targets
from nlpbp.tasks.task import get_task


def task_metrics(
    task: str, targets: np.ndarray, outputs: np.ndarray, *, thresholds: np.ndarray | None = None
) -> dict[str, float | None]:
    """Measure a model's outputs with the metrics of its task; a metric that is undefined on this data is None.

    - `single_label`: targets int [n], probabilities [n, k] -> accuracy, macro_f1, log_loss (nats), ece
    - `multi_label`: targets {0, 1} [n, k], probabilities [n, k], thresholds [k] (one half) -> micro_f1, macro_f1; from 50 labels on
      also lrap (label ranking average precision), precision_at_1 and precision_at_5
    - `regression`: targets [n], outputs [n] -> mae, rmse, spearman (None if targets or outputs are constant)
    - `ordinal`: targets int [n], probabilities [n, k] -> mae (in classes), qwk (quadratic weighted kappa), accuracy

    A label that neither the targets nor the decisions contain has no F1: macro_f1 leaves it out, and with no such
    label at all both F1 are None. `ValueError` for shapes, labels or probabilities that cannot be, `NumericError` for
    outputs that are not finite.

    >>> task_metrics("regression", np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0]))["spearman"]
    1.0
    >>> task_metrics("regression", np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    {'mae': 1.0, 'rmse': 1.0, 'spearman': None}
    """
    values = weighted_metrics(task, targets, outputs, np.ones((1, len(targets))), thresholds=thresholds)
    return {name: float(value[0]) if math.isfinite(value[0]) else None for name, value in values.items()}


def weighted_metrics(
    task: str, targets: np.ndarray, outputs: np.ndarray, weights: Floats, *, thresholds: np.ndarray | None = None
) -> dict[str, Floats]:
    """Measure as `task_metrics` does, with example j counted `weights[i, j]` times, for each row i of weights [r, n].

    Each metric is [r], NaN where undefined; the errors are those of `task_metrics`.

    >>> outputs = np.array([[0.9, 0.1], [0.8, 0.2]])
    >>> weighted_metrics("single_label", np.array([0, 1]), outputs, np.array([[1.0, 1.0], [2.0, 0.0]]))["accuracy"]
    array([0.5, 1. ])
    """
    decisions = decide(task, outputs, thresholds)
    targets = checked_targets(task, targets, outputs)
    return get_task(task).measure(targets, np.asarray(outputs, dtype=np.float64), decisions, weights)


def bootstrap_intervals(
    task: str,
    targets: np.ndarray,
    outputs: np.ndarray,
    *,
    thresholds: np.ndarray | None = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Give each number of `task_metrics` its interval; shapes and errors are those of `task_metrics`.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> bootstrap_intervals("single_label", np.array([0, 0, 1, 1]), probabilities)["accuracy"]
    [0.25, 1.0]
    """

    def measure(weights: Floats) -> dict[str, Floats]:
        return weighted_metrics(task, targets, outputs, weights, thresholds=thresholds)

    return intervals.bootstrap_intervals(measure, len(targets), num_resamples=num_resamples, confidence=confidence, seed=seed)


def decide(task: str, outputs: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """Turn outputs into decisions: class ids [n], labels that hold (bool [n, k]: above the threshold), values [n].

    Of classes with the same probability the first is taken. Errors as in `task_metrics`.

    >>> decide("multi_label", np.array([[0.5, 0.6], [0.9, 0.3]]), thresholds=np.array([0.5, 0.2])).tolist()
    [[False, True], [True, True]]
    """
    outputs, found = checked_outputs(task, outputs), get_task(task)
    if thresholds is not None and found.choose_thresholds is None:
        raise ValueError(f"thresholds belong to multi_label, not to {task}")
    return found.decide(outputs, thresholds)
