"""A temperature repairs what it can, changes no decision, and says when it cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nlpbp.evaluation.calibration import (
    brier_score,
    calibration_error,
    confidences,
    cross_fitted,
    fit_temperature,
    log_loss,
    measured,
    probabilities,
    reliability_bins,
    selective_curve,
)
from nlpbp.evaluation.metrics import expected_calibration_error
from nlpbp.tasks import task_metrics


def overconfident(task="single_label", *, factor=3.0, num_examples=2000, num_labels=3):
    """Logits that are `factor` times those that the targets were drawn by."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(num_examples, num_labels)) * 1.5
    if task == "multi_label":
        return logits * factor, (logits + generator.logistic(size=logits.shape) > 0).astype(int)
    return logits * factor, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_the_factor_that_logits_are_too_large_by_is_found_and_divided_out(task, factor):
    logits, targets = overconfident(task, factor=factor)
    fitted = fit_temperature(logits, targets, task=task)
    assert fitted.problem is None
    assert fitted.value == pytest.approx(factor, rel=0.1)
    before, after = (measured(made, targets, task=task) for made in (logits, logits / fitted.value))
    assert after["log_loss"] <= before["log_loss"]
    if factor == 3.0:
        assert after["ece"] < before["ece"] / 5
        assert after["brier"] < before["brier"]
        assert after["log_loss"] < before["log_loss"] - 0.1


def test_it_is_the_minimum_of_torchs_cross_entropy():
    logits, targets = overconfident(num_examples=200)
    best = fit_temperature(logits, targets, task="single_label").value

    def loss(temperature):
        return torch.nn.functional.cross_entropy(torch.tensor(logits / temperature), torch.tensor(targets)).item()

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
    assert log_loss(logits, targets, task="single_label") == pytest.approx(loss(1.0), abs=1e-12)


def test_no_decision_changes():
    logits, targets = overconfident()
    fitted = fit_temperature(logits, targets, task="single_label").value
    before, after = (probabilities(logits, task="single_label", temperature=t) for t in (1.0, fitted))
    assert (before.argmax(1) == after.argmax(1)).all()
    assert np.abs(before - after).max() > 0.1


def test_what_it_brings_is_measured_on_examples_it_was_not_fitted_on():
    logits, targets = overconfident(factor=1.0, num_examples=30)
    fitted = fit_temperature(logits, targets, task="single_label").value
    crossed, temperatures = cross_fitted(logits, targets, task="single_label")
    assert len(temperatures) == 5
    assert log_loss(crossed, targets, task="single_label") > log_loss(logits / fitted, targets, task="single_label")
    with pytest.raises(ValueError, match="1 examples"):
        cross_fitted(logits[:1], targets[:1], task="single_label")


def test_the_calibration_error_is_that_of_the_metrics():
    logits, targets = overconfident()
    outputs = probabilities(logits, task="single_label")
    bins = reliability_bins(*confidences(targets, outputs, task="single_label"))
    assert sum(one["count"] for one in bins) == len(targets)
    assert calibration_error(bins) == pytest.approx(expected_calibration_error(targets, outputs), abs=1e-12)
    assert measured(logits, targets, task="single_label")["log_loss"] == pytest.approx(
        task_metrics("single_label", targets, outputs)["log_loss"], abs=1e-9
    )


def test_brier_by_hand():
    assert brier_score(np.array([1]), np.array([[1.0, 0.0]]), task="single_label") == 2.0
    assert brier_score(np.array([[1, 0]]), np.array([[0.5, 0.0]]), task="multi_label") == 0.125


def test_answering_only_the_surest_is_more_accurate_and_all_is_the_accuracy():
    logits, targets = overconfident()
    confidence, right = confidences(targets, probabilities(logits, task="single_label"), task="single_label")
    curve = selective_curve(confidence, right)
    assert curve[-1] == {"coverage": 1.0, "accuracy": pytest.approx(right.mean())}
    assert curve[0]["accuracy"] > right.mean() + 0.15
    order = np.random.default_rng(0).permutation(len(right))
    coarse = confidence.round(1)
    first, second = ([point["accuracy"] for point in selective_curve(coarse[rows], right[rows])] for rows in (order, slice(None)))
    assert first == pytest.approx(second)


def test_regression_has_no_confidence():
    with pytest.raises(ValueError, match="regression"):
        fit_temperature(np.zeros((2, 1)), np.zeros(2), task="regression")
