"""The numbers of an evaluation, and the decisions behind them.

Every metric here is a function of how often each example counts: once each for `task_metrics`, as drawn for the
resamples of `nlpbp.evaluation.intervals`. So a value and its interval cannot come from two definitions.

Shapes: n examples, k labels, r weightings.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nlpbp.core.errors import NumericError

Floats = NDArray[np.float64]

MAIN_METRIC: dict[str, str] = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "regression": "rmse",
    "language_model": "loss",
}

_HIGHER_IS_BETTER = {
    **dict.fromkeys(("accuracy", "macro_f1", "micro_f1", "spearman"), True),
    **dict.fromkeys(("log_loss", "ece", "mae", "rmse", "loss", "perplexity"), False),
}

NUM_BINS = 15  # of the calibration error: Guo et al. 2017, https://arxiv.org/abs/1706.04599


def task_metrics(
    task: str, targets: np.ndarray, outputs: np.ndarray, *, thresholds: np.ndarray | None = None
) -> dict[str, float | None]:
    """Measure a model's outputs with the metrics of its task; a metric that is undefined on this data is None.

    - `single_label`: targets int [n], probabilities [n, k] -> accuracy, macro_f1, log_loss (nats), ece
    - `multi_label`: targets {0, 1} [n, k], probabilities [n, k], thresholds [k] (one half) -> micro_f1, macro_f1
    - `regression`: targets [n], outputs [n] -> mae, rmse, spearman (None if targets or outputs are constant)

    A label that neither the targets nor the decisions contain has no F1: macro_f1 leaves it out, and with no such
    label at all both F1 are None. `ValueError` for shapes, labels or probabilities that cannot be, `NumericError` for
    outputs that are not finite.

    >>> task_metrics("regression", np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0]))["spearman"]
    1.0
    >>> task_metrics("regression", np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    {'mae': 1.0, 'rmse': 1.0, 'spearman': None}
    """
    once = np.ones((1, len(targets)))
    values = weighted_metrics(task, targets, outputs, once, thresholds=thresholds)
    return {name: _json_number(value[0]) for name, value in values.items()}


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
    targets = _checked_targets(task, targets, outputs)
    if task == "single_label":
        return _single_label_metrics(targets, np.asarray(outputs, dtype=np.float64), decisions, weights)
    if task == "multi_label":
        return _multi_label_metrics(targets, decisions, weights)
    return _regression_metrics(targets, decisions, weights)


def decide(task: str, outputs: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """Turn outputs into decisions: class ids [n], labels that hold (bool [n, k]: above the threshold), values [n].

    Of classes with the same probability the first is taken. Errors as in `task_metrics`.

    >>> decide("multi_label", np.array([[0.5, 0.6], [0.9, 0.3]]), thresholds=np.array([0.5, 0.2])).tolist()
    [[False, True], [True, True]]
    """
    outputs = _checked_outputs(task, outputs)
    if thresholds is not None and task != "multi_label":
        raise ValueError(f"thresholds belong to multi_label, not to {task}")
    if task == "single_label":
        return outputs.argmax(axis=1)
    if task == "multi_label":
        return outputs > _checked_thresholds(thresholds, num_labels=outputs.shape[1])
    return outputs


def expected_calibration_error(targets: np.ndarray, probabilities: np.ndarray, *, num_bins: int = NUM_BINS) -> float:
    """Tell how far the confidence in the chosen class is from how often it is right: 0 is calibrated, 1 the worst.

    The mean over examples of |accuracy - mean confidence| of their bin, with equal-width bins (low, high] of the top
    probability (Guo et al. 2017). targets int [n], probabilities [n, k]; errors as in `task_metrics`.

    >>> expected_calibration_error(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]]))
    0.25
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}, at least 1 is needed")
    targets = _checked_targets("single_label", targets, probabilities)
    outputs = _checked_outputs("single_label", probabilities)
    correct = outputs.argmax(axis=1) == targets
    return float(_calibration_error(correct, outputs.max(axis=1), np.ones((1, len(targets))), num_bins)[0])


def tune_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Find for each label the threshold with the best F1 on these examples (give it the validation part, never test).

    targets {0, 1} [n, k], probabilities [n, k] -> [k]. Among equally good thresholds it takes the middle of the
    widest range; a label without a positive keeps one half. Errors as in `task_metrics`.

    >>> tune_thresholds(np.array([[0], [1], [1]]), np.array([[0.125], [0.25], [0.75]])).tolist()
    [0.1875]
    """
    targets = _checked_targets("multi_label", targets, probabilities)
    outputs = _checked_outputs("multi_label", probabilities)
    return np.array([_best_threshold(*label) for label in zip(targets.T, outputs.T, strict=True)])


def higher_is_better(metric: str) -> bool:
    """Tell in which direction a metric improves; `ValueError` for a name that is not one of ours.

    >>> higher_is_better("accuracy"), higher_is_better("rmse")
    (True, False)
    """
    if metric not in _HIGHER_IS_BETTER:
        raise ValueError(f"unknown metric {metric!r}: one of {', '.join(_HIGHER_IS_BETTER)}")
    return _HIGHER_IS_BETTER[metric]


def _single_label_metrics(targets: np.ndarray, outputs: Floats, decisions: np.ndarray, weights: Floats) -> dict[str, Floats]:
    num_labels, total = outputs.shape[1], weights.sum(axis=1)
    correct = decisions == targets
    # A probability of exactly 0 for what happened must not make the mean infinite: scikit-learn's clipping.
    surprise = -np.log(np.clip(outputs[np.arange(len(targets)), targets], np.finfo(np.float64).eps, 1.0))
    hits = _sums(weights, targets, num_labels, correct)
    sizes = _sums(weights, targets, num_labels) + _sums(weights, decisions, num_labels)
    return {
        "accuracy": weights @ correct / total,
        "macro_f1": _macro(hits, sizes),
        "log_loss": weights @ surprise / total,
        "ece": _calibration_error(correct, outputs.max(axis=1), weights, NUM_BINS),
    }


def _multi_label_metrics(targets: np.ndarray, decisions: np.ndarray, weights: Floats) -> dict[str, Floats]:
    hits = weights @ sparse.csr_array(targets * decisions)
    sizes = weights @ sparse.csr_array(targets + decisions)
    return {"micro_f1": _f1(hits.sum(axis=1), sizes.sum(axis=1)), "macro_f1": _macro(hits, sizes)}


def _regression_metrics(targets: np.ndarray, outputs: np.ndarray, weights: Floats) -> dict[str, Floats]:
    total = weights.sum(axis=1)
    errors = np.abs(targets - outputs)
    scale = max(float(errors.max()), 1.0)  # the square of 1e200 is not a number any more
    return {
        "mae": weights @ errors / total,
        "rmse": scale * np.sqrt(weights @ (errors / scale) ** 2 / total),
        "spearman": _spearman(targets, outputs, weights),
    }


def _f1(hits: Floats, sizes: Floats) -> Floats:
    """F1 = 2 true positives / (targets + decisions), NaN where there is neither."""
    return np.divide(2 * hits, sizes, out=np.full(sizes.shape, np.nan), where=sizes > 0)


def _macro(hits: Floats, sizes: Floats) -> Floats:
    """The mean F1 over the labels [r, k] that occur, [r]."""
    occurring = (sizes > 0).sum(axis=1)
    summed = np.nansum(_f1(hits, sizes), axis=1)
    return np.divide(summed, occurring, out=np.full(len(sizes), np.nan), where=occurring > 0)


def _calibration_error(correct: np.ndarray, confidence: np.ndarray, weights: Floats, num_bins: int) -> Floats:
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    # |accuracy - confidence| of a bin times its share of the examples is this sum over the number of examples.
    gaps = _sums(weights, bins, num_bins, correct - confidence)
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=1)


def _spearman(targets: np.ndarray, outputs: np.ndarray, weights: Floats) -> Floats:
    x, y = _centred_ranks(targets, weights), _centred_ranks(outputs, weights)
    covariance, x_spread, y_spread = (np.einsum("rn,rn,rn->r", weights, a, b) for a, b in ((x, y), (x, x), (y, y)))
    spread = np.sqrt(x_spread * y_spread)
    return np.divide(covariance, spread, out=np.full(len(weights), np.nan), where=spread > 0)


def _centred_ranks(values: np.ndarray, weights: Floats) -> Floats:
    """The mean rank of each example's equals minus that of all, [r, n]: exact halves, so a constant gives zeros."""
    distinct, groups = np.unique(values, return_inverse=True)
    counts = _sums(weights, groups, len(distinct))
    below = np.cumsum(counts, axis=1) - counts
    ranks = below + counts / 2 - weights.sum(axis=1, keepdims=True) / 2
    return ranks[:, groups]


def _sums(weights: Floats, groups: np.ndarray, num_groups: int, values: np.ndarray | float = 1.0) -> Floats:
    """Weighted sums of values [n] by group [n], [r, num_groups]."""
    num_examples = len(groups)
    data = np.broadcast_to(np.asarray(values, dtype=np.float64), num_examples)
    table = sparse.csr_array((data, groups, np.arange(num_examples + 1)), shape=(num_examples, num_groups))
    return np.asarray(weights @ table)


def _best_threshold(targets: np.ndarray, outputs: Floats) -> float:
    num_positive = targets.sum()
    if num_positive == 0:
        return 0.5
    # "Above t" changes only at an output, so F1 is constant from each edge up to (not including) the next one.
    values, groups = np.unique(outputs, return_inverse=True)
    edges = np.unique(np.concatenate([[0.0], values, [1.0]]))
    above = np.searchsorted(values, edges[:-1], side="right")
    hits = _from_right(np.bincount(groups, weights=targets))[above]
    chosen = _from_right(np.bincount(groups))[above]
    return _middle_of_widest(edges, 2 * hits / (chosen + num_positive))


def _from_right(counts: np.ndarray) -> np.ndarray:
    return np.append(np.cumsum(counts[::-1])[::-1], 0)


def _middle_of_widest(edges: np.ndarray, scores: np.ndarray) -> float:
    best = np.concatenate([[False], scores == scores.max(), [False]])
    changes = np.flatnonzero(best[1:] != best[:-1])
    low, high = edges[changes[::2]], edges[changes[1::2]]
    widest = int(np.argmax(high - low))
    middle = (low[widest] + high[widest]) / 2
    return float(middle if middle < high[widest] else low[widest])  # neighbouring floats have no middle


def _json_number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _checked_outputs(task: str, outputs: np.ndarray) -> Floats:
    if task not in ("single_label", "multi_label", "regression"):
        raise ValueError(f"unknown task {task!r}: one of single_label, multi_label, regression")
    outputs = np.asarray(outputs, dtype=np.float64)
    shape, num_dimensions = ("[n]", 1) if task == "regression" else ("[n, k]", 2)
    if outputs.ndim != num_dimensions or outputs.size == 0:
        raise ValueError(f"outputs of {task} are {shape} with at least one example, these are {list(outputs.shape)}")
    wrong = np.argwhere(~np.isfinite(outputs))
    if len(wrong):
        raise NumericError(f"{len(wrong)} outputs are not finite, the first for example {wrong[0][0]} (from 0)")
    if task != "regression" and (outputs.min() < -1e-6 or outputs.max() > 1 + 1e-6):  # rounding of a softmax
        raise ValueError(f"outputs of {task} are probabilities, these go from {outputs.min():g} to {outputs.max():g}")
    return outputs


def _checked_targets(task: str, targets: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    targets, outputs = np.asarray(targets), np.asarray(outputs)
    expected = outputs.shape[:1] if task == "single_label" else outputs.shape
    if targets.shape != expected:
        raise ValueError(f"targets of {task} are {list(targets.shape)}, the outputs need {list(expected)}")
    if task == "regression":
        return _checked_values(targets)
    highest = outputs.shape[1] - 1 if task == "single_label" else 1
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


def _checked_thresholds(thresholds: np.ndarray | None, *, num_labels: int) -> Floats:
    if thresholds is None:
        return np.full(num_labels, 0.5)
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.shape != (num_labels,):
        raise ValueError(f"thresholds are {list(thresholds.shape)}, the outputs have {num_labels} labels")
    return thresholds
