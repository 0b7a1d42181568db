"""What the metrics of tasks are made of: F1, calibration error, rank correlation, and checks of targets and outputs.

Every metric is a function of how often each example counts: once each for a score, as drawn for the resamples of
`nlpbp.evaluation.intervals`. So a value and its interval cannot come from two definitions.

Shapes: n examples, k labels, r weightings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nlpbp.core.errors import NumericError
from nlpbp.core.task import target_type

Floats = NDArray[np.float64]

NUM_BINS = 15  # of the calibration error: Guo et al. 2017, https://arxiv.org/abs/1706.04599


def expected_calibration_error(targets: np.ndarray, probabilities: np.ndarray, *, num_bins: int = NUM_BINS) -> float:
    """Tell how far the confidence in the chosen class is from how often it is right: 0 is calibrated, 1 the worst.

    The mean over examples of |accuracy - mean confidence| of their bin, with equal-width bins (low, high] of the top
    probability (Guo et al. 2017). targets int [n], probabilities [n, k]; errors as in `nlpbp.tasks.task_metrics`.

    >>> expected_calibration_error(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]]))
    0.25
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}, at least 1 is needed")
    targets = checked_targets("single_label", targets, probabilities)
    outputs = checked_outputs("single_label", probabilities)
    correct = outputs.argmax(axis=1) == targets
    return float(calibration_error(correct, outputs.max(axis=1), np.ones((1, len(targets))), num_bins)[0])


def f1(hits: Floats, sizes: Floats) -> Floats:
    """Return F1 = 2 true positives / (targets + decisions), NaN where there is neither."""
    return np.divide(2 * hits, sizes, out=np.full(sizes.shape, np.nan), where=sizes > 0)


def macro_f1(hits: Floats, sizes: Floats) -> Floats:
    """Return the mean F1 over the labels [r, k] that occur, [r]."""
    occurring = (sizes > 0).sum(axis=1)
    summed = np.nansum(f1(hits, sizes), axis=1)
    return np.divide(summed, occurring, out=np.full(len(sizes), np.nan), where=occurring > 0)


def calibration_error(correct: np.ndarray, confidence: np.ndarray, weights: Floats, num_bins: int = NUM_BINS) -> Floats:
    """Return the expected calibration error [r] of decisions with a confidence [n] each, which are correct or not [n]."""
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    # |accuracy - confidence| of a bin times its share of the examples is this sum over the number of examples.
    gaps = sums_by_group(weights, bins, num_bins, correct - confidence)
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=1)


def spearman(targets: np.ndarray, outputs: np.ndarray, weights: Floats) -> Floats:
    """Return Spearman's rank correlation [r] of two numbers for each example [n]; NaN where one of them is constant."""
    x, y = _centred_ranks(targets, weights), _centred_ranks(outputs, weights)
    covariance, x_spread, y_spread = (np.einsum("rn,rn,rn->r", weights, a, b) for a, b in ((x, y), (x, x), (y, y)))
    spread = np.sqrt(x_spread * y_spread)
    return np.divide(covariance, spread, out=np.full(len(weights), np.nan), where=spread > 0)


def _centred_ranks(values: np.ndarray, weights: Floats) -> Floats:
    """The mean rank of each example's equals minus that of all, [r, n]: exact halves, so a constant gives zeros."""
    distinct, groups = np.unique(values, return_inverse=True)
    counts = sums_by_group(weights, groups, len(distinct))
    below = np.cumsum(counts, axis=1) - counts
    ranks = below + counts / 2 - weights.sum(axis=1, keepdims=True) / 2
    return ranks[:, groups]


def sums_by_group(weights: Floats, groups: np.ndarray, num_groups: int, values: np.ndarray | float = 1.0) -> Floats:
    """Return weighted sums of values [n] by group [n], [r, num_groups]."""
    num_examples = len(groups)
    data = np.broadcast_to(np.asarray(values, dtype=np.float64), num_examples)
    table = sparse.csr_array((data, groups, np.arange(num_examples + 1)), shape=(num_examples, num_groups))
    return np.asarray(weights @ table)


def checked_outputs(task: str, outputs: np.ndarray) -> Floats:
    """Return a task's outputs as float64; `ValueError` for shapes and probabilities that cannot be, `NumericError` for NaN."""
    kind = target_type(task)
    outputs = np.asarray(outputs, dtype=np.float64)
    shape, num_dimensions = ("[n]", 1) if kind == "continuous" else ("[n, k]", 2)
    if outputs.ndim != num_dimensions or outputs.size == 0:
        raise ValueError(f"outputs of {task} are {shape} with at least one example, these are {list(outputs.shape)}")
    wrong = np.argwhere(~np.isfinite(outputs))
    if len(wrong):
        raise NumericError(f"{len(wrong)} outputs are not finite, the first for example {wrong[0][0]} (from 0)")
    if kind != "continuous" and (outputs.min() < -1e-6 or outputs.max() > 1 + 1e-6):  # rounding of a softmax
        raise ValueError(f"outputs of {task} are probabilities, these go from {outputs.min():g} to {outputs.max():g}")
    return outputs


def checked_targets(task: str, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return a task's targets as class ids, zeros and ones, or float64; `ValueError` for those that cannot belong to `outputs`."""
    kind, targets, outputs = target_type(task), np.asarray(targets), np.asarray(outputs)
    expected = outputs.shape[:1] if kind == "multiclass" else outputs.shape
    if targets.shape != expected:
        raise ValueError(f"targets of {task} are {list(targets.shape)}, the outputs need {list(expected)}")
    if kind == "continuous":
        return _checked_values(targets)
    highest = outputs.shape[1] - 1 if kind == "multiclass" else 1
    with np.errstate(invalid="ignore"):  # a NaN is found below
        whole = targets.astype(np.int64)
    wrong = np.argwhere((whole != targets) | (whole < 0) | (whole > highest))
    if len(wrong):
        found = targets[tuple(wrong[0])]
        raise ValueError(f"targets of {task} are 0 to {highest}, example {wrong[0][0]} (from 0) has {found}")
    return whole


def _checked_values(targets: np.ndarray) -> Floats:
    targets = targets.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(targets))
    if len(wrong):
        raise ValueError(f"{len(wrong)} targets are not finite, the first for example {wrong[0]} (from 0)")
    return targets


def checked_thresholds(thresholds: np.ndarray | None, *, num_labels: int) -> Floats:
    """Return thresholds [k], one half where none are given."""
    if thresholds is None:
        return np.full(num_labels, 0.5)
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape != (num_labels,):
        raise ValueError(f"thresholds are {list(thresholds.shape)}, the outputs have {num_labels} labels")
    return thresholds
