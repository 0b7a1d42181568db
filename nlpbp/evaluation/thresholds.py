"""Where to cut the probabilities of several labels: one threshold for all of them, or one each where that is worth more than noise.

The best F1 of all decisions together (micro F1) takes one common cut where probabilities mean the same for every label. A threshold
for each label makes up for those that do not, but each is learned from the few examples that have the label. So both are tried on
examples that they were not tuned on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlpbp.evaluation.metrics import Floats, checked_outputs, checked_targets

NUM_FOLDS = 5
NOISE = 2.0  # a gain counts from this many standard errors on


@dataclass(frozen=True)
class Thresholds:
    """Thresholds [k], and by how much those by label were better than a common one on examples that neither was tuned on.

    `gain` is a difference of micro F1, with its standard error over examples; None where there was nothing to compare.
    """

    values: Floats
    by_label: bool = False
    gain: float | None = None
    standard_error: float | None = None

    def __str__(self) -> str:
        taken = "one for each label" if self.by_label else f"{self.values[0]:.3f} for all labels"
        if self.gain is None or self.standard_error is None:
            return taken
        compared = f"{self.gain:+.4f} (standard error {self.standard_error:.4f}) on examples not tuned on"
        return f"{taken}; micro F1 of thresholds by label beside one for all: {compared}"


def choose_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> Thresholds:
    """Choose thresholds on these examples (give it the validation set, never test): by label where that is worth more than noise.

    targets {0, 1} [n, k], probabilities [n, k]. In 5 folds, both kinds are tuned on four fifths of the examples and decide the
    other fifth; by label is taken if its micro F1 is higher by more than two standard errors. Where the probabilities are the same
    for every example there is nothing to tune, and all thresholds are one half. The same examples give the same thresholds. Errors
    as in `nlpbp.tasks.task_metrics`.

    >>> targets, probabilities = np.array([[0, 0], [1, 0], [0, 1]]), np.array([[0.125, 0.25], [0.5, 0.25], [0.125, 0.75]])
    >>> choose_thresholds(targets, probabilities).values.tolist()
    [0.375, 0.375]
    """
    targets = checked_targets("multi_label", targets, probabilities)
    outputs = np.clip(checked_outputs("multi_label", probabilities), 0.0, 1.0)
    num_labels = outputs.shape[1]
    if (outputs == outputs[0]).all():
        return Thresholds(np.full(num_labels, 0.5))
    common = np.full(num_labels, common_threshold(targets, outputs))
    if num_labels == 1:
        return Thresholds(common)
    gain, standard_error = _gain_of_labels(targets, outputs)
    by_label = gain > NOISE * standard_error
    return Thresholds(thresholds_by_label(targets, outputs) if by_label else common, by_label, gain, standard_error)


def common_threshold(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Find the one threshold with the best micro F1: {0, 1} [n, k] and probabilities [n, k] -> a number.

    Of equally good ones it is the middle of the widest gap between two probabilities; one half where no label holds.

    >>> common_threshold(np.array([[0], [1], [1]]), np.array([[0.125], [0.25], [0.75]]))
    0.1875
    """
    return _best_cut(np.sort(outputs, axis=None), np.sort(outputs[targets > 0]))


def thresholds_by_label(targets: np.ndarray, outputs: np.ndarray) -> Floats:
    """Find for each label the threshold with its best F1, as `common_threshold` does for all: [n, k] -> [k].

    >>> thresholds_by_label(np.array([[0, 0], [1, 0]]), np.array([[0.25, 0.5], [0.75, 0.5]])).tolist()
    [0.5, 0.5]
    """
    ordered = np.sort(np.ascontiguousarray(outputs.T), axis=1)
    rows, labels = np.nonzero(targets)
    held = outputs[rows, labels][np.lexsort((outputs[rows, labels], labels))]  # of each label in turn, ascending
    ends = np.cumsum(np.bincount(labels, minlength=len(ordered)))
    return np.array(
        [_best_cut(values, held[end - num : end]) for values, num, end in zip(ordered, np.diff(ends, prepend=0), ends, strict=True)]
    )


def _best_cut(values: Floats, held: Floats) -> float:
    """Return the cut between all `values` with the best F1, given those of them whose label holds; both ascending, in [0, 1].

    The best F1 is reached just below a value whose label holds: going on to the next one only adds errors.
    """
    num_positive, can_be_above = len(held), held[held > 0.0]
    if len(can_be_above) == 0:
        return 0.5
    below = np.searchsorted(values, can_be_above)
    hits = len(can_be_above) - np.searchsorted(can_be_above, can_be_above)
    scores = hits / (len(values) - below + num_positive)
    low = np.where(below > 0, values[below - 1], 0.0)
    best = np.flatnonzero(scores == scores.max())
    widest = best[np.argmax((can_be_above - low)[best])]
    middle = (low[widest] + can_be_above[widest]) / 2
    return float(middle if middle < can_be_above[widest] else low[widest])  # neighbouring floats have no middle


def _gain_of_labels(targets: np.ndarray, outputs: Floats) -> tuple[float, float]:
    """Return by how much thresholds by label beat a common one in micro F1, cross-fitted, and the standard error over examples."""
    folds = np.random.default_rng(0).permutation(len(targets)) % min(NUM_FOLDS, len(targets))
    decisions = {kind: np.zeros(targets.shape, dtype=bool) for kind in ("common", "by_label")}
    for fold in range(folds.max() + 1):
        here, others = folds == fold, folds != fold
        decisions["common"][here] = outputs[here] > common_threshold(targets[others], outputs[others])
        decisions["by_label"][here] = outputs[here] > thresholds_by_label(targets[others], outputs[others])
    (common, common_slope), (by_label, label_slope) = (_micro_f1(targets, made) for made in decisions.values())
    return by_label - common, float(np.sqrt(((label_slope - common_slope) ** 2).sum()))


def _micro_f1(targets: np.ndarray, decisions: np.ndarray) -> tuple[float, Floats]:
    """Return micro F1, 0 where there is nothing to find, and what each example adds to it [n] (the delta method)."""
    hits, sizes = (targets * decisions).sum(axis=1), (targets + decisions).sum(axis=1)
    total = max(1, sizes.sum())
    score = 2 * hits.sum() / total
    return float(score), (2 * hits - score * sizes) / total
