"""Thresholds of several labels: the best cut, and one for each label only where that is worth more than noise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from nlpbp.evaluation.thresholds import choose_thresholds, common_threshold, thresholds_by_label
from nlpbp.tasks import decide, task_metrics


@pytest.mark.parametrize(
    ("targets", "outputs", "threshold"),
    [
        ([0, 0, 1, 1], [0.125, 0.25, 0.5, 0.75], 0.375),  # separable: the middle of 0.25 and 0.5
        ([0, 0, 0], [0.25, 0.5, 0.75], 0.5),  # no positive
        ([1, 1], [0.5, 0.75], 0.25),  # only positives: anything below 0.5
        ([1, 0, 1], [0.25, 0.5, 0.75], 0.125),  # all: 4/5, the last alone: 2/3
        ([1, 1, 0], [0.0, 0.0, 0.0], 0.5),  # nothing can be above 0 here: every threshold is as bad
        # Above 0.75: 1 of 2 found, none wrong: F1 2/3. All: both found, 2 wrong: 2/3. [0.75, 0.875) is narrower than [0, 0.25).
        ([1, 0, 0, 1], [0.25, 0.5, 0.75, 0.875], 0.125),
        ([0, 1], [1.0, 1.0], 0.5),  # a plateau up to the end
    ],
)
def test_thresholds_by_label_by_hand(targets, outputs, threshold):
    found = thresholds_by_label(np.array(targets)[:, np.newaxis], np.array(outputs)[:, np.newaxis])
    assert found.tolist() == [threshold]


def test_no_threshold_does_better_than_the_tuned_one():
    generator = np.random.default_rng(0)
    targets, outputs = (generator.random((60, 4)) < 0.3).astype(int), generator.random((60, 4)).round(2)
    tuned = thresholds_by_label(targets, outputs)
    for label, threshold in enumerate(tuned):
        scores = [f1_score(targets[:, label], outputs[:, label] > t) for t in np.linspace(0, 0.995, 200)]
        assert f1_score(targets[:, label], outputs[:, label] > threshold) == pytest.approx(max(scores), abs=1e-12)


def test_a_threshold_between_neighbouring_floats_still_separates():
    low = 0.3
    high = np.nextafter(low, 1)
    targets, outputs = np.array([[0], [1]]), np.array([[low], [high]])
    assert decide("multi_label", outputs, thresholds_by_label(targets, outputs)).tolist() == [[False], [True]]


def test_no_common_threshold_does_better_than_the_tuned_one():
    generator = np.random.default_rng(0)
    targets, outputs = (generator.random((60, 4)) < 0.3).astype(int), generator.random((60, 4)).round(2)
    scores = [f1_score(targets, outputs > t, average="micro", zero_division=0) for t in np.linspace(0, 0.995, 200)]
    tuned = common_threshold(targets, outputs)
    assert f1_score(targets, outputs > tuned, average="micro") == pytest.approx(max(scores), abs=1e-12)


def simulated(*, num_labels, num_validation, spread, seed):
    """Labels of 0.1 to 10 % of examples, and probabilities whose log-odds are off by a constant of its own for each label."""
    generator = np.random.default_rng(seed)
    num_examples = num_validation + 2000
    log_odds = generator.normal(-3.6, 1.0, num_labels) + 1.5 * generator.normal(size=(num_examples, num_labels))
    targets = (generator.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))).astype(int)
    outputs = 1 / (1 + np.exp(-log_odds - generator.normal(0.0, spread, num_labels)))
    return (targets[:num_validation], outputs[:num_validation]), (targets[num_validation:], outputs[num_validation:])


@pytest.mark.parametrize(
    ("num_validation", "spread", "by_label"),
    [
        (120, 0.0, False),  # calibrated labels, and few examples to tune 135 thresholds on
        (120, 0.5, False),
        (1200, 0.0, False),  # more examples do not make a gain where there is none
        (1200, 1.5, True),
        (120, 2.5, True),
    ],
)
def test_thresholds_by_label_are_taken_where_they_are_better_on_other_examples(num_validation, spread, by_label):
    for seed in range(3):
        (targets, outputs), (others, other_outputs) = simulated(
            num_labels=135, num_validation=num_validation, spread=spread, seed=seed
        )
        chosen = choose_thresholds(targets, outputs)
        common = np.full(135, common_threshold(targets, outputs))
        score, plain, each = (
            task_metrics("multi_label", others, other_outputs, thresholds=limits)["micro_f1"]
            for limits in (chosen.values, common, thresholds_by_label(targets, outputs))
        )
        assert chosen.by_label == by_label
        assert score >= max(plain, each) - 0.01
        assert (each > plain) == by_label or abs(each - plain) < 0.01
        assert ("one for each label" in str(chosen)) == by_label


def test_outputs_alike_for_every_example_are_cut_at_one_half():
    targets = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0]])
    assert choose_thresholds(targets, np.tile([0.7, 0.3, 0.4], (3, 1))).values.tolist() == [0.5, 0.5, 0.5]
    assert choose_thresholds(targets[:1], np.array([[0.7, 0.3, 0.4]])).values.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("holds", [0, 1])
def test_labels_that_never_or_always_hold_have_finite_thresholds(holds):
    outputs = np.random.default_rng(0).random((20, 3))
    for targets in (np.full((20, 3), holds), np.eye(20, 3, dtype=int) * holds):
        chosen = choose_thresholds(targets, outputs)
        assert np.isfinite(chosen.values).all()
        assert np.isfinite([chosen.gain, chosen.standard_error]).all()
    assert choose_thresholds(np.zeros((20, 3), dtype=int), outputs).values.tolist() == [0.5, 0.5, 0.5]


def test_the_same_examples_give_the_same_thresholds():
    (targets, outputs), _ = simulated(num_labels=20, num_validation=100, spread=1.0, seed=0)
    first, second = choose_thresholds(targets, outputs), choose_thresholds(targets, outputs)
    assert (first.values == second.values).all()
    assert (first.gain, first.standard_error) == (second.gain, second.standard_error)
