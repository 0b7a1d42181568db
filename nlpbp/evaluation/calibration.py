"""Whether a classifier is right as often as it says, and the one number that repairs most of it: a temperature.

Divided by a temperature, logits keep their order, so no decision changes. It is fitted on the validation set; what it brings is
measured on examples that it was not fitted on.

Shapes: n examples, k labels; m decisions, which are n of one label an example, and n * k of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import expit, log_softmax, softmax

from nlpbp.core.errors import NumericError
from nlpbp.core.task import target_type
from nlpbp.evaluation.metrics import NUM_BINS, Floats

MAX_TEMPERATURE = 20.0  # and 1 / 20 the lowest: beyond, the validation set is too small or too easy to tell
NUM_FOLDS = 5
COVERAGES = tuple(share / 20 for share in range(1, 21))
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Temperature:
    """What to divide logits by; where none could be fitted `value` is 1, which changes nothing, and `problem` says why."""

    value: float
    problem: str | None = None


def fit_temperature(logits: np.ndarray, targets: np.ndarray, *, task: str, max_iterations: int = 100) -> Temperature:
    """Fit the temperature with the lowest log loss on these examples (give it the validation set; Guo et al. 2017).

    logits [n, k]; targets int [n] for `single_label`, {0, 1} [n, k] for `multi_label`. The loss is convex in 1 / temperature: where
    its slope crosses zero between 1/20 and 20 is the only minimum. Examples that are all right have none, nor have logits
    that tell nothing. `NumericError` for logits that are not finite, `ValueError` for regression.

    >>> logits = np.array([[4.0, 0.0]] * 4)
    >>> round(fit_temperature(logits, np.array([0, 0, 0, 1]), task="single_label").value, 4)  # 4 / log(3): three of four are right
    3.641
    >>> fit_temperature(logits, np.array([0, 0, 0, 0]), task="single_label")
    Temperature(value=1.0, problem='the log loss has no minimum at a temperature between 0.05 and 20')
    """
    logits = _checked_logits(logits)
    slope = partial(_slope, logits=logits, truth=_one_hot(targets, logits.shape[1], task=task), task=task)
    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    if not slope(low) < 0.0 < slope(high):
        return Temperature(1.0, f"the log loss has no minimum at a temperature between {low:g} and {high:g}")
    root, report = optimize.brentq(slope, low, high, xtol=1e-9, maxiter=max_iterations, full_output=True, disp=False)
    if not report.converged:
        return Temperature(1.0, f"the search for a temperature did not converge in {max_iterations} steps")
    return Temperature(float(1 / root))


def probabilities(logits: np.ndarray, *, task: str, temperature: float = 1.0) -> Floats:
    """Turn logits [n, k] into probabilities [n, k] at a temperature.

    >>> probabilities(np.array([[2 * np.log(3), 0.0]]), task="single_label", temperature=2.0).tolist()
    [[0.75, 0.25]]
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return softmax(scaled, axis=1) if target_type(task) == "multiclass" else expit(scaled)


def cross_fitted(
    logits: np.ndarray, targets: np.ndarray, *, task: str, num_folds: int = NUM_FOLDS, seed: int = 0
) -> tuple[Floats, Floats]:
    """Return logits [n, k] each divided by a temperature that was fitted on other examples, and those temperatures, one a fold.

    So the same examples can fit a temperature and tell whether one helps. `ValueError` for fewer than 2 examples.

    >>> generator = np.random.default_rng(0)
    >>> truth = generator.normal(size=(400, 2)) * 2
    >>> targets = (truth + generator.gumbel(size=truth.shape)).argmax(axis=1)
    >>> _, temperatures = cross_fitted(truth * 3, targets, task="single_label")  # three times too sure
    >>> bool((2 < temperatures).all() and (temperatures < 4).all())
    True
    """
    logits, targets, num_folds = np.asarray(logits, dtype=np.float64), np.asarray(targets), min(num_folds, len(targets))
    if num_folds < 2:
        raise ValueError(f"{len(targets)} examples cannot be fitted on and measured by")
    folds = np.random.default_rng(seed).permutation(len(logits)) % num_folds
    fitted = [fit_temperature(logits[folds != fold], targets[folds != fold], task=task).value for fold in range(num_folds)]
    temperatures = np.array(fitted)
    return logits / temperatures[folds, None], temperatures


def log_loss(logits: np.ndarray, targets: np.ndarray, *, task: str) -> float:
    """Return the mean cross-entropy of logits in nats, over examples or over the labels of examples; no probability is rounded.

    >>> log_loss(np.array([[1e4, 0.0]]), np.array([1]), task="single_label")
    10000.0
    """
    logits = _checked_logits(logits)
    truth = _one_hot(targets, logits.shape[1], task=task)
    if target_type(task) == "multiclass":
        return float(-(log_softmax(logits, axis=1) * truth).sum(axis=1).mean())
    return float(np.logaddexp(0.0, np.where(truth > 0, -logits, logits)).mean())


def brier_score(targets: np.ndarray, outputs: np.ndarray, *, task: str) -> float:
    """Return the mean squared distance of probabilities [n, k] from what was true: 0 is perfect.

    Of one label it is summed over the labels, at most 2 (Brier 1950); of several it is their mean, at most 1.

    >>> brier_score(np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]]), task="single_label")
    0.25
    """
    squares = (np.asarray(outputs, dtype=np.float64) - _one_hot(targets, outputs.shape[1], task=task)) ** 2
    return float(squares.sum(axis=1).mean() if target_type(task) == "multiclass" else squares.mean())


def confidences(targets: np.ndarray, outputs: np.ndarray, *, task: str) -> tuple[Floats, Bools]:
    """Return how sure each decision is and whether it is right, [m] each: of several labels each is a decision, at one half.

    >>> confidence, right = confidences(np.array([[1, 1]]), np.array([[0.75, 0.25]]), task="multi_label")
    >>> confidence.tolist(), right.tolist()
    ([0.75, 0.75], [True, False])
    """
    targets, outputs = np.asarray(targets), np.asarray(outputs, dtype=np.float64)
    if target_type(task) == "multiclass":
        return outputs.max(axis=1), outputs.argmax(axis=1) == targets
    return np.maximum(outputs, 1.0 - outputs).ravel(), ((outputs > 0.5) == (targets > 0)).ravel()


def reliability_bins(confidence: Floats, right: Bools, *, num_bins: int = NUM_BINS) -> list[dict[str, float]]:
    """Draw a reliability diagram's points: mean confidence, accuracy and count of each bin (low, high] that is not empty.

    >>> reliability_bins(np.array([0.75, 0.75, 1.0]), np.array([True, False, True]), num_bins=4)
    [{'confidence': 0.75, 'accuracy': 0.5, 'count': 2}, {'confidence': 1.0, 'accuracy': 1.0, 'count': 1}]
    """
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    inside = [bins == number for number in np.unique(bins)]
    return [
        {"confidence": float(confidence[one].mean()), "accuracy": float(right[one].mean()), "count": int(one.sum())}
        for one in inside
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """Return the expected calibration error of `reliability_bins`: |accuracy - confidence|, weighted by their counts.

    >>> calibration_error([{"confidence": 0.75, "accuracy": 0.5, "count": 2}, {"confidence": 1.0, "accuracy": 1.0, "count": 2}])
    0.125
    """
    total = sum(one["count"] for one in bins)
    return float(sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / total)


def selective_curve(confidence: Floats, right: Bools, *, coverages: Sequence[float] = COVERAGES) -> list[dict[str, float]]:
    """Tell how accurate the surest decisions are, for each share of them that is answered (selective prediction).

    Those as sure as the last one answered are answered in part: they count with their mean, so their order does not matter.

    >>> selective_curve(np.array([0.9, 0.6, 0.6, 0.8]), np.array([True, True, False, True]), coverages=(0.5, 0.75))
    [{'coverage': 0.5, 'accuracy': 1.0}, {'coverage': 0.75, 'accuracy': 0.8333333333333334}]
    """
    _, ranks, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean_right = np.bincount(ranks, weights=right) / counts
    hits = np.cumsum(mean_right[np.sort(ranks)])
    answered = [max(1, round(share * len(confidence))) for share in coverages]
    return [{"coverage": share, "accuracy": float(hits[num - 1] / num)} for share, num in zip(coverages, answered, strict=True)]


def measured(logits: np.ndarray, targets: np.ndarray, *, task: str) -> dict[str, float]:
    """Measure calibration at these logits: ece, brier and log_loss.

    >>> measured(np.zeros((2, 2)), np.array([0, 1]), task="single_label")
    {'ece': 0.0, 'brier': 0.5, 'log_loss': 0.6931471805599453}
    """
    outputs = probabilities(logits, task=task)
    return {
        "ece": calibration_error(reliability_bins(*confidences(targets, outputs, task=task))),
        "brier": brier_score(targets, outputs, task=task),
        "log_loss": log_loss(logits, targets, task=task),
    }


def _slope(inverse: float, *, logits: Floats, truth: Floats, task: str) -> float:
    """Return the derivative of the log loss by 1 / temperature: the mean of (probability - truth) * logit."""
    return float(((probabilities(logits * inverse, task=task) - truth) * logits).sum(axis=1).mean())


def _one_hot(targets: np.ndarray, num_labels: int, *, task: str) -> Floats:
    if target_type(task) == "continuous":
        raise ValueError(f"only probabilities can be calibrated, and the task is {task}")
    targets = np.asarray(targets)
    return np.eye(num_labels)[targets] if target_type(task) == "multiclass" else targets.astype(np.float64)


def _checked_logits(logits: np.ndarray) -> Floats:
    logits = np.asarray(logits, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        raise NumericError(f"the logits of {len(wrong)} examples are not finite, the first of example {wrong[0]} (from 0)")
    return logits
