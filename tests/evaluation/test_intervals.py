"""The intervals are those of `task_metrics` on resampled examples, reproducible and fast."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from nlpbp.evaluation import intervals
from nlpbp.evaluation.intervals import resample_weights
from nlpbp.tasks import bootstrap_intervals, task_metrics


def example(task, num_examples, num_labels=3, seed=0):
    generator = np.random.default_rng(seed)
    if task == "single_label":
        return generator.integers(num_labels, size=num_examples), generator.dirichlet(np.ones(num_labels), num_examples)
    if task == "multi_label":
        return generator.random((num_examples, num_labels)) < 0.3, generator.random((num_examples, num_labels))
    targets = generator.normal(size=num_examples)
    return targets, (targets + generator.normal(size=num_examples)).round(1)


def recomputed(task, targets, outputs, *, num_resamples, seed, thresholds=None):
    """What `bootstrap_intervals` is defined to be: resample, measure, take the quantiles."""
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(len(targets), size=len(targets)) for _ in range(num_resamples)]
    measured = [task_metrics(task, targets[rows], outputs[rows], thresholds=thresholds) for rows in drawn]
    return {name: np.quantile([m[name] for m in measured], [0.025, 0.975]) for name in measured[0]}


@pytest.mark.parametrize("num_examples", [12, 300])  # 12: whole classes are missing from some resamples
@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_equal_to_measuring_each_resample(task, num_examples, monkeypatch):
    monkeypatch.setattr(intervals, "MAX_WEIGHTS", 5 * num_examples)  # several pieces, the last one ragged
    targets, outputs = example(task, num_examples)
    thresholds = np.array([0.2, 0.5, 0.8]) if task == "multi_label" else None
    found = bootstrap_intervals(task, targets, outputs, thresholds=thresholds, num_resamples=12, seed=3)
    expected = recomputed(task, targets, outputs, num_resamples=12, seed=3, thresholds=thresholds)
    assert found.keys() == expected.keys() == task_metrics(task, targets, outputs).keys()
    for name, interval in found.items():
        assert interval == pytest.approx(expected[name], abs=1e-9), name


def test_the_accuracy_interval_is_the_binomial_one():
    # 400 examples, 80 % right: a standard error of sqrt(0.8 * 0.2 / 400) = 0.02.
    outputs = np.tile([0.9, 0.1], (400, 1))
    low, high = bootstrap_intervals("single_label", np.repeat([0, 1], [320, 80]), outputs)["accuracy"]
    assert (low, high) == pytest.approx((0.8 - 1.96 * 0.02, 0.8 + 1.96 * 0.02), abs=0.005)


def test_the_same_seed_gives_the_same_intervals_and_the_pieces_do_not_matter(monkeypatch):
    targets, outputs = example("single_label", 50)
    first = bootstrap_intervals("single_label", targets, outputs, num_resamples=40)
    monkeypatch.setattr(intervals, "MAX_WEIGHTS", 1)
    second = bootstrap_intervals("single_label", targets, outputs, num_resamples=40)
    other = bootstrap_intervals("single_label", targets, outputs, num_resamples=40, seed=1)
    assert all(first[name] == pytest.approx(second[name], abs=1e-12) for name in first)
    assert first != other


def test_more_confidence_is_wider():
    targets, outputs = example("regression", 60)
    narrow, wide = (bootstrap_intervals("regression", targets, outputs, confidence=c)["mae"] for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_one_example_has_no_interval(task):
    found = bootstrap_intervals(task, *example(task, 1), num_resamples=5)
    assert set(found.values()) == {None}


def test_an_undefined_metric_has_no_interval_and_the_others_have():
    found = bootstrap_intervals("regression", np.ones(5), np.arange(5.0), num_resamples=50)
    assert found["spearman"] is None
    assert found["mae"] is not None
    nothing = bootstrap_intervals("multi_label", np.zeros((4, 2)), np.zeros((4, 2)), num_resamples=5)
    assert nothing == {"micro_f1": None, "macro_f1": None}


def test_resamples_without_a_value_are_left_out():
    # Two examples: every other resample is twice the same one and has no correlation.
    found = bootstrap_intervals("regression", np.array([1.0, 2.0]), np.array([1.0, 2.0]), num_resamples=50)
    assert found["spearman"] == [1.0, 1.0]


def test_one_class_and_certain_outputs_give_numbers():
    found = bootstrap_intervals("single_label", np.zeros(6, dtype=int), np.tile([0.0, 1.0], (6, 1)), num_resamples=20)
    json.dumps(found, allow_nan=False)
    assert found["accuracy"] == [0.0, 0.0]
    assert None not in found.values()


@pytest.mark.parametrize("setting", [{"num_resamples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_settings_that_mean_nothing(setting):
    with pytest.raises(ValueError, match="must be 1 or more"):
        bootstrap_intervals("regression", np.ones(2), np.ones(2), **setting)


def test_no_examples_is_an_error():
    with pytest.raises(ValueError, match="at least one example"):
        bootstrap_intervals("regression", np.ones(0), np.ones(0))


def test_resamples_are_as_large_as_the_data():
    weights = np.concatenate(list(resample_weights(7, num_resamples=9, seed=0)))
    assert weights.shape == (9, 7)
    assert (weights.sum(axis=1) == 7).all()


def test_two_thousand_examples_take_under_two_seconds():
    targets, outputs = example("single_label", 2000, num_labels=2)
    start = time.process_time()
    bootstrap_intervals("single_label", targets, outputs)
    assert time.process_time() - start < 2
