"""The linear probe is the logistic or ridge regression that scikit-learn fits, with a penalty that cross-validation chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from nlpbp.tasks import probe
from nlpbp.tasks.probe import Probe, fit_probe, probe_outputs


def states(num: int, *, width: int = 6, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(loc=3.0, scale=2.0, size=(num, width))


def standardised(given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    centred = given - given.mean(axis=0)
    return centred / np.sqrt((centred**2).mean())


def classes_of(given: np.ndarray[Any, Any], *, num: int = 3, noise: float = 2.0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    scores = given[:, :num] + rng.normal(scale=noise, size=(len(given), num))
    return np.asarray(scores.argmax(axis=1))


def test_of_classes_it_is_scikit_learns_logistic_regression() -> None:
    x = states(300)
    y = classes_of(x)
    fitted = fit_probe("single_label", x, y, num_outputs=3)
    theirs = LogisticRegression(C=1 / (300 * fitted.l2), tol=1e-6, max_iter=1000).fit(standardised(x), y)
    (ours,) = probe_outputs("single_label", fitted, [x])
    np.testing.assert_allclose(ours, theirs.predict_proba(standardised(x)), atol=5e-3)


def test_of_numbers_it_is_scikit_learns_ridge_regression() -> None:
    x = states(200)
    y = (x[:, 0] - x[:, 1] + np.random.default_rng(2).normal(size=200)).astype(np.float32)
    y = (y - y.mean()) / y.std()
    fitted = fit_probe("regression", x, y, num_outputs=1)
    theirs = Ridge(alpha=200 * fitted.l2 / 2).fit(standardised(x), y).predict(standardised(x))
    (ours,) = probe_outputs("regression", fitted, [x])
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_of_several_labels_each_has_its_own_regression() -> None:
    x = states(300)
    y = (x[:, :4] + np.random.default_rng(3).normal(scale=2.0, size=(300, 4)) > 4.0).astype(np.float32)
    fitted = fit_probe("multi_label", x, y, num_outputs=4)
    (ours,) = probe_outputs("multi_label", fitted, [x])
    for label in range(4):
        # The mean is over labels, too, so that each has a quarter of the loss beside the whole penalty.
        theirs = LogisticRegression(C=1 / (4 * 300 * fitted.l2), tol=1e-6, max_iter=1000).fit(standardised(x), y[:, label])
        np.testing.assert_allclose(ours[:, label], theirs.predict_proba(standardised(x))[:, 1], atol=5e-3)


def test_ordered_classes_are_learned_too() -> None:
    x = states(400)
    y = np.digitize(x[:, 0], [1.0, 3.0, 5.0])
    fitted = fit_probe("ordinal", x, y, num_outputs=4)
    (ours,) = probe_outputs("ordinal", fitted, [x])
    assert np.abs(ours.argmax(axis=1) - y).mean() < 0.25


def test_the_penalty_is_strong_where_states_tell_nothing_and_weak_where_they_tell_all() -> None:
    x = states(400, width=40)
    unrelated = np.random.default_rng(4).integers(0, 2, size=400)
    assert fit_probe("single_label", x, unrelated, num_outputs=2).l2 == probe.L2[0]
    clear = (x[:, 0] > 3.0).astype(np.int64)
    found = fit_probe("single_label", x, clear, num_outputs=2)
    assert found.l2 == probe.L2[-1]
    assert found.loss < 0.3


def test_the_cross_validated_loss_is_honest() -> None:
    x, y = states(300, width=60), classes_of(states(300, width=60))
    fitted = fit_probe("single_label", x[:150], y[:150], num_outputs=3)
    (ours,) = probe_outputs("single_label", fitted, [x[150:]])
    held_out = -np.log(ours[np.arange(150), y[150:]]).mean()
    (trained,) = probe_outputs("single_label", fitted, [x[:150]])
    assert abs(fitted.loss - held_out) < 0.1
    assert -np.log(trained[np.arange(150), y[:150]]).mean() < held_out


def test_one_fold_is_enough_where_a_fit_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    x = states(300)
    y = classes_of(x)
    five = fit_probe("single_label", x, y, num_outputs=3)
    monkeypatch.setattr(probe, "LARGE", 0)
    one = fit_probe("single_label", x, y, num_outputs=3)
    assert abs(one.loss - five.loss) < 0.15
    assert one.loss != five.loss


@pytest.mark.parametrize("num", [1, 2, 7])
def test_one_class_alone_is_answered_and_an_absent_one_never(num: int) -> None:
    fitted = fit_probe("single_label", states(num), np.full(num, 2), num_outputs=4)
    assert fitted.weight.isfinite().all()
    assert fitted.bias.isfinite().all()
    (ours,) = probe_outputs("single_label", fitted, [states(5, seed=9)])
    assert (ours.argmax(axis=1) == 2).all()


def test_states_that_are_all_the_same_give_the_frequencies() -> None:
    fitted = fit_probe("single_label", np.ones((40, 3)), np.array([0] * 30 + [1] * 10), num_outputs=2)
    (ours,) = probe_outputs("single_label", fitted, [np.ones((1, 3))])
    np.testing.assert_allclose(ours, [[0.75, 0.25]], atol=0.01)


def test_the_same_states_give_the_same_probe() -> None:
    x = states(100)
    first, second = (fit_probe("single_label", x, classes_of(x), num_outputs=3) for _ in range(2))
    assert first.weight.equal(second.weight)
    other = fit_probe("single_label", x[:99], classes_of(x)[:99], num_outputs=3)
    assert not other.weight.equal(first.weight)


def test_without_examples_there_is_no_probe() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        fit_probe("single_label", np.zeros((0, 3)), np.zeros(0, dtype=np.int64), num_outputs=2)


def test_logits_are_those_of_a_linear_layer() -> None:
    import torch

    made = Probe(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]), 1.0, 0.0)
    assert made.logits(np.array([[3.0, 4.0]])).tolist() == [[11.5]]
