"""What a classifier gets wrong, and among which examples it does so more often than elsewhere (practice D4).

Look at the errors of the validation set: whoever changes something after a look at those of the test set has used it up.

Shapes: n examples, k labels; targets, outputs and thresholds are those of `nlpbp.tasks.task_metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nlpbp.core.task import target_type
from nlpbp.evaluation.metrics import Floats

MIN_COUNT = 5  # examples of a slice: of fewer no rate can be told
SIGNIFICANT = 0.05  # of the adjusted p-value: the slices below it come first


@dataclass(frozen=True)
class Slice:
    """The examples whose `name` is `value`: how many there are, how many are wrong, and what that says.

    `interval` is Wilson's of the error rate, 95 %. `lift` is the rate over that of all examples. `p_adjusted` is how likely so many
    errors were by chance, corrected for the number of slices that were looked at.
    """

    name: str
    value: str
    count: int
    errors: int
    rate: float
    interval: tuple[float, float]
    lift: float
    p_adjusted: float


def example_losses(task: str, targets: np.ndarray, outputs: np.ndarray) -> Floats:
    """Return the cross-entropy of each example in nats, [n]: of several labels the mean over them.

    As exact as the probabilities: one that was rounded to 0 counts as the smallest number there is. `ValueError` for regression.

    >>> example_losses("single_label", np.array([0, 1]), np.array([[1.0, 0.0], [0.5, 0.5]])).round(4).tolist()
    [0.0, 0.6931]
    """
    surprise: Floats = -np.log(np.maximum(_probability_of_truth(task, targets, outputs), np.finfo(np.float64).tiny))
    return np.abs(surprise if surprise.ndim == 1 else surprise.mean(axis=1))  # not the -0.0 of a certain answer


def wrong_examples(targets: np.ndarray, decisions: np.ndarray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Tell which examples are wrong, bool [n]; of several labels one wrong one is enough.

    >>> wrong_examples(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 0]])).tolist()
    [False, True]
    """
    wrong = np.asarray(decisions) != np.asarray(targets)
    return wrong if wrong.ndim == 1 else wrong.any(axis=1)


def most_confident_errors(
    targets: np.ndarray, outputs: np.ndarray, decisions: np.ndarray, *, num: int = 10
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Floats]:
    """Find the errors that the model is surest of: their positions and the probabilities it gives them, at most `num`.

    Of several labels it is the wrong one that is surest. Those at one probability keep their order.

    >>> outputs = np.array([[0.4, 0.6], [0.1, 0.9], [0, 1]])
    >>> ids, probabilities = most_confident_errors(np.array([0, 0, 1]), outputs, np.array([1, 1, 1]))
    >>> ids.tolist(), probabilities.tolist()
    ([1, 0], [0.9, 0.6])
    """
    outputs, wrong = np.asarray(outputs, dtype=np.float64), wrong_examples(targets, decisions)
    if decisions.ndim == 1:
        confidence = np.where(wrong, outputs[np.arange(len(outputs)), decisions], -1.0)
    else:
        confidence = np.where(decisions != targets, np.where(decisions, outputs, 1.0 - outputs), -1.0).max(axis=1)
    ids = np.argsort(-confidence, kind="stable")[: min(num, int(wrong.sum()))]
    return ids, confidence[ids]


def confused_pairs(targets: np.ndarray, decisions: np.ndarray, *, num: int = 10) -> list[tuple[int, int, int]]:
    """Count which class is taken for which: (class, answer, count) of the `num` most frequent, for one label an example.

    >>> confused_pairs(np.array([0, 0, 0, 1, 2]), np.array([1, 1, 0, 0, 2]))
    [(0, 1, 2), (1, 0, 1)]
    """
    counts = Counter((int(a), int(b)) for a, b in zip(targets, decisions, strict=True) if a != b)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(label, answer, count) for (label, answer), count in ranked[:num]]


def error_slices(wrong: np.ndarray, columns: Mapping[str, Sequence[str]], *, min_count: int = MIN_COUNT) -> list[Slice]:
    """Compare the examples of each value of each column with all: where are more of them wrong than chance would have it?

    `wrong` is bool [n], each column a text an example, such as those of `quartiles`. Slices of fewer than `min_count` examples, and
    those that hold all examples, are left out. The chance is that of a draw without replacement (Fisher's exact test, one-sided),
    adjusted over all slices that are returned (Benjamini and Hochberg 1995). Those adjusted to 0.05 or less come first; within
    both sorts the greatest lift is first.

    >>> wrong = np.array([True] * 8 + [False] * 32)
    >>> [first, second] = error_slices(wrong, {"truncated": ["yes"] * 10 + ["no"] * 30})
    >>> first.value, first.rate, first.lift, first.p_adjusted < 0.001, second.errors
    ('yes', 0.8, 4.0, True, 0)
    """
    wrong = np.asarray(wrong, dtype=bool)
    num_examples, num_errors = len(wrong), int(wrong.sum())
    found = [
        (name, value, count, errors)
        for name, column in columns.items()
        for value, count, errors in _counted(column, wrong)
        if min_count <= count < num_examples
    ]
    if not found:
        return []
    counts, errors = np.array([(count, num) for _, _, count, num in found]).T
    chances = stats.hypergeom.sf(errors - 1, num_examples, num_errors, counts)
    adjusted = stats.false_discovery_control(np.clip(chances, 0.0, 1.0), method="bh")
    slices = [_slice(*one, overall=num_errors / num_examples, p_adjusted=float(p)) for one, p in zip(found, adjusted, strict=True)]
    return sorted(slices, key=lambda one: (one.p_adjusted > SIGNIFICANT, -one.lift))


def quartiles(values: Sequence[float] | np.ndarray) -> list[str]:
    """Name the quarter of the sorted values that each value is in by its smallest and greatest; equal values stay together.

    >>> quartiles([1, 2, 3, 4, 5, 6, 7, 80])
    ['1 to 2', '1 to 2', '3 to 4', '3 to 4', '5 to 6', '5 to 6', '7 to 80', '7 to 80']
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return []
    groups = np.searchsorted(np.quantile(numbers, [0.25, 0.5, 0.75]), numbers, side="left")
    members = {group: numbers[groups == group] for group in np.unique(groups)}
    names = {group: f"{inside.min():g} to {inside.max():g}" for group, inside in members.items()}
    return [names[group] for group in groups]


def _counted(column: Sequence[str], wrong: np.ndarray) -> list[tuple[str, int, int]]:
    values, groups = np.unique(np.asarray(column, dtype=object).astype(str), return_inverse=True)
    counts, errors = np.bincount(groups), np.bincount(groups, weights=wrong).astype(int)
    return list(zip(values.tolist(), counts.tolist(), errors.tolist(), strict=True))


def _slice(name: str, value: str, count: int, errors: int, *, overall: float, p_adjusted: float) -> Slice:
    interval = stats.binomtest(errors, count).proportion_ci(method="wilson")
    rate = errors / count
    lift = rate / overall if overall else 1.0  # nothing is wrong anywhere
    return Slice(name, value, count, errors, rate, (float(interval.low), float(interval.high)), lift, p_adjusted)


def _probability_of_truth(task: str, targets: np.ndarray, outputs: np.ndarray) -> Floats:
    targets, outputs = np.asarray(targets), np.asarray(outputs, dtype=np.float64)
    if target_type(task) == "multiclass":
        return outputs[np.arange(len(targets)), targets]
    if target_type(task) == "multilabel-indicator":
        return np.where(targets > 0, outputs, 1.0 - outputs)
    raise ValueError(f"only probabilities have a cross-entropy, and the task is {task}")
