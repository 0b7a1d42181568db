"""The metrics agree with scikit-learn and scipy, with numbers worked out by hand, and say None where undefined."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, log_loss, mean_absolute_error, root_mean_squared_error

from nlpbp.core.errors import NumericError
from nlpbp.core.task import TASKS
from nlpbp.evaluation.metrics import expected_calibration_error
from nlpbp.tasks import decide, task_metrics, weighted_metrics
from nlpbp.tasks.task import get_task, metric_of


def classes(num_examples=200, num_labels=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(num_labels, size=num_examples), generator.dirichlet(np.ones(num_labels), num_examples)


def labels(num_examples=200, num_labels=4, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.random((num_examples, num_labels)) < 0.3).astype(int), generator.random((num_examples, num_labels))


def test_single_label_agrees_with_scikit_learn():
    targets, outputs = classes()
    found = task_metrics("single_label", targets, outputs)
    predictions = outputs.argmax(axis=1)
    assert found["accuracy"] == pytest.approx((predictions == targets).mean(), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(targets, outputs), abs=1e-12)
    assert found["ece"] == pytest.approx(expected_calibration_error(targets, outputs), abs=1e-12)


@pytest.mark.parametrize("thresholds", [None, np.array([0.1, 0.4, 0.6, 0.9])])
def test_multi_label_agrees_with_scikit_learn(thresholds):
    targets, outputs = labels()
    found = task_metrics("multi_label", targets, outputs, thresholds=thresholds)
    decisions = outputs > (0.5 if thresholds is None else thresholds)
    assert found["micro_f1"] == pytest.approx(f1_score(targets, decisions, average="micro"), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(targets, decisions, average="macro"), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 8])  # 0: most values are ties
def test_regression_agrees_with_scikit_learn_and_scipy(decimals):
    generator = np.random.default_rng(0)
    targets = generator.normal(size=100).round(decimals)
    outputs = (targets + generator.normal(size=100)).round(decimals)
    found = task_metrics("regression", targets, outputs)
    assert found["mae"] == pytest.approx(mean_absolute_error(targets, outputs), abs=1e-12)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(targets, outputs), abs=1e-12)
    assert found["spearman"] == pytest.approx(spearmanr(targets, outputs).statistic, abs=1e-12)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_a_weight_is_a_repetition_of_the_example(task):
    generator = np.random.default_rng(1)
    targets, outputs = {"single_label": classes, "multi_label": labels}.get(task, generator.random((2, 200)).copy)()
    weights = generator.integers(3, size=200)
    repeated = task_metrics(task, np.repeat(targets, weights, axis=0), np.repeat(outputs, weights, axis=0))
    weighted = weighted_metrics(task, targets, outputs, weights[np.newaxis].astype(float))
    assert {name: value[0] for name, value in weighted.items()} == pytest.approx(repeated, abs=1e-12)


def test_labels_that_do_not_occur_are_left_out_of_macro_f1():
    outputs = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    assert task_metrics("single_label", np.array([0, 0]), outputs)["macro_f1"] == 1.0  # one class in the evaluation
    found = task_metrics("single_label", np.array([0, 1]), outputs)["macro_f1"]
    assert found == pytest.approx((2 / 3 + 0) / 2)  # class 1 occurs and is missed, class 2 does not occur


def test_multi_label_without_any_label_is_undefined():
    found = task_metrics("multi_label", np.zeros((3, 2)), np.full((3, 2), 0.1))
    assert found == {"micro_f1": None, "macro_f1": None}


@pytest.mark.parametrize("constant", ["targets", "outputs", "both"])
def test_spearman_of_a_constant_is_undefined(constant):
    fixed, moving = np.full(7, 0.1), np.arange(7.0)
    targets, outputs = {"targets": (fixed, moving), "outputs": (moving, fixed), "both": (fixed, fixed)}[constant]
    found = task_metrics("regression", targets, outputs)
    assert found["spearman"] is None
    assert found["mae"] is not None
    assert found["rmse"] is not None


@pytest.mark.parametrize(
    ("task", "targets", "outputs"),
    [
        ("single_label", np.array([1]), np.array([[0.25, 0.75]])),
        ("multi_label", np.array([[1, 0]]), np.array([[0.75, 0.25]])),
        ("regression", np.array([2.0]), np.array([3.0])),
    ],
)
def test_one_example_is_enough_and_the_numbers_are_json(task, targets, outputs):
    found = task_metrics(task, targets, outputs)
    json.dumps(found, allow_nan=False)
    assert all(value is None or type(value) is float for value in found.values())
    assert [name for name, value in found.items() if value is None] == (["spearman"] if task == "regression" else [])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_of_certain_and_wrong_is_finite(dtype):
    outputs = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    assert task_metrics("single_label", np.array([0, 1]), outputs)["log_loss"] == 0.0
    wrong = task_metrics("single_label", np.array([1, 0]), outputs)["log_loss"]
    assert wrong == pytest.approx(-math.log(np.finfo(np.float64).eps))


def test_huge_errors_stay_numbers():
    with np.errstate(all="raise"):
        found = task_metrics("regression", np.array([0.0, 0.0]), np.array([1e200, -1e200]))
    assert found["rmse"] == pytest.approx(1e200)


def test_calibration_error_by_hand():
    # Two bins of width one half. (0, 0.5]: confidence 0.5, wrong -> gap 0.5 on 1 of 4 examples.
    # (0.5, 1]: confidences 0.75, 0.75, 0.9 (mean 0.8), two of three right -> gap 0.8 - 2/3 on 3 of 4.
    outputs = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.9, 0.1]])
    found = expected_calibration_error(np.array([1, 0, 1, 1]), outputs, num_bins=2)
    assert found == pytest.approx(0.5 * 1 / 4 + (0.8 - 2 / 3) * 3 / 4)


def test_calibration_error_at_its_ends():
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(np.array([0, 1]), certain) == 0.0
    assert expected_calibration_error(np.array([1, 0]), certain) == 1.0
    with pytest.raises(ValueError, match="num_bins"):
        expected_calibration_error(np.array([0, 1]), certain, num_bins=0)


def test_decisions():
    assert decide("single_label", np.array([[0.5, 0.5], [0.1, 0.9]])).tolist() == [0, 1]
    assert decide("multi_label", np.array([[0.5, 0.51]])).tolist() == [[False, True]]
    assert decide("regression", np.array([1.5, -2.0])).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("task", "targets", "outputs", "message"),
    [
        ("ranking", [0], [[1.0]], "unknown task"),
        ("single_label", [0, 1], [[0.5, 0.5]], "targets of single_label are"),
        ("single_label", [2], [[0.5, 0.5]], "0 to 1, example 0"),
        ("single_label", [-100], [[0.5, 0.5]], "has -100"),
        ("single_label", [math.nan], [[0.5, 0.5]], "has nan"),
        ("single_label", [0.5], [[0.5, 0.5]], "has 0.5"),
        ("single_label", [0], [[-3.0, 4.0]], "are probabilities"),
        ("single_label", [], np.zeros((0, 2)), "at least one example"),
        ("multi_label", [[2, 0]], [[0.5, 0.5]], "0 to 1"),
        ("regression", [1.0], [[1.0]], r"\[n\]"),
        ("regression", [math.nan], [1.0], "targets are not finite"),
    ],
)
def test_what_cannot_be_is_an_error(task, targets, outputs, message):
    with pytest.raises(ValueError, match=message):
        task_metrics(task, np.array(targets), np.array(outputs))


def test_thresholds_must_fit():
    with pytest.raises(ValueError, match="3 labels"):
        decide("multi_label", np.full((3, 3), 0.5), np.array([0.5]))
    with pytest.raises(ValueError, match="belong to multi_label"):
        decide("regression", np.array([1.0]), np.array([0.5]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_no_decision(value):
    with pytest.raises(NumericError, match="1 outputs are not finite, the first for example 1"):
        task_metrics("single_label", np.array([0, 1]), np.array([[0.5, 0.5], [value, 0.5]]))


def test_every_metric_has_a_direction():
    better = {metric.name for task in TASKS for metric in get_task(task).metrics if metric.higher_is_better}
    assert better == {
        *("accuracy", "macro_f1", "micro_f1", "spearman", "qwk"),
        *("lrap", "precision_at_1", "precision_at_5"),
    }
    with pytest.raises(ValueError, match="unknown metric 'acuracy'"):
        metric_of("single_label", "acuracy")


def test_no_warning_escapes_even_when_all_are_shown():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task_metrics("multi_label", np.zeros((1, 2)), np.zeros((1, 2)))
        task_metrics("regression", np.zeros(3), np.zeros(3))
        task_metrics("single_label", np.zeros(3, dtype=int), np.ones((3, 1)))
    assert not caught
