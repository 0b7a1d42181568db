"""The baselines learn what a linear model can, in the shapes of a model's outputs, and survive poor data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from nlpbp.tasks import decide, task_metrics
from nlpbp.tasks.baselines import constant_baseline, tfidf_baseline

GOOD, BAD = ["good", "fine", "lovely"], ["bad", "awful", "dull"]
FILLER = ["the", "film", "is", "a", "story", "of", "two"]


def reviews(num_texts, seed):
    generator = np.random.default_rng(seed)
    targets = generator.integers(2, size=num_texts)
    texts = [" ".join([*generator.choice(FILLER, 5), generator.choice(GOOD if target else BAD)]) for target in targets]
    return texts, targets


def test_majority_in_the_shape_of_each_task():
    single = constant_baseline("single_label", np.array([1, 1, 1, 2]), num_examples=2, num_labels=4)
    assert single.tolist() == [[0.0, 0.75, 0.25, 0.0]] * 2
    multi = constant_baseline("multi_label", np.array([[1, 0], [1, 1], [1, 0]]), num_examples=2)
    assert decide("multi_label", multi).tolist() == [[True, False]] * 2
    assert constant_baseline("regression", np.array([1, 2]), num_examples=3).tolist() == [1.5] * 3
    assert constant_baseline("single_label", np.array([0]), num_examples=0, num_labels=2).shape == (0, 2)


@pytest.mark.parametrize(
    ("task", "targets", "num_labels", "message"),
    [
        ("single_label", [0, 1], None, "needs num_labels"),
        ("single_label", [0, 2], 2, "0 to 1, one is 2"),
        ("single_label", [], 2, "at least one example"),
        ("single_label", [0, float("nan")], 2, "one is nan"),
        ("regression", [0, float("nan")], 1, "NaN"),
        ("multi_label", [0, 1], 2, "multi_label are"),
        ("multi_label", [[0, 3]], 2, "one is 3"),
        ("ranking", [0, 1], 2, "unknown task"),
    ],
)
def test_targets_that_cannot_be(task, targets, num_labels, message):
    with pytest.raises(ValueError, match=message):
        constant_baseline(task, np.array(targets), num_examples=1, num_labels=num_labels)


def test_it_learns_which_words_tell():
    texts, targets = reviews(200, seed=0)
    other, other_targets = reviews(50, seed=1)
    outputs, again = tfidf_baseline("single_label", texts, targets, [other, other[:3]], num_labels=2)
    assert task_metrics("single_label", other_targets, outputs)["accuracy"] == 1.0
    assert outputs.sum(axis=1) == pytest.approx(np.ones(50))
    assert np.array_equal(again, outputs[:3])


def test_word_order_within_pairs_counts():
    texts, targets = ["not good , bad", "not bad , good"] * 40, np.array([0, 1] * 40)
    outputs = tfidf_baseline("single_label", texts, targets, [texts[:2]], num_labels=2)[0]
    assert decide("single_label", outputs).tolist() == [0, 1]


def test_the_same_twice():
    texts, targets = reviews(60, seed=0)
    first, second = (tfidf_baseline("single_label", texts, targets, [texts], num_labels=2, seed=5)[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_an_absent_class_gets_probability_zero():
    texts, targets = reviews(60, seed=0)
    outputs = tfidf_baseline("single_label", texts, targets * 2, [texts], num_labels=4)[0]
    assert (outputs[:, [1, 3]] == 0).all()
    assert outputs.sum(axis=1) == pytest.approx(np.ones(60))
    surprised = task_metrics("single_label", np.full(60, 1), outputs)["log_loss"]
    assert surprised is not None
    assert 30 < surprised < 40


def test_labels_that_always_or_never_hold():
    texts, targets = reviews(60, seed=0)
    columns = np.column_stack([targets, np.zeros(60), np.ones(60), 1 - targets])
    outputs = tfidf_baseline("multi_label", texts, columns, [texts], num_labels=4)[0]
    assert np.array_equal(decide("multi_label", outputs), columns.astype(bool))


def test_regression_ranks_the_texts():
    texts, targets = reviews(200, seed=0)
    other, other_targets = reviews(50, seed=1)
    outputs = tfidf_baseline("regression", texts, targets * 4.0 + 1, [other], num_labels=1)[0]
    assert outputs.shape == (50,)
    assert spearmanr(outputs, other_targets).statistic > 0.8


def test_texts_without_spaces():
    generator = np.random.default_rng(0)
    targets = generator.integers(2, size=120)
    middle = ["".join(generator.choice(list("電影故事的人在是有"), 8)) for _ in targets]
    texts = [text[:4] + ("好看" if target else "難看") + text[4:] for text, target in zip(middle, targets, strict=True)]
    outputs = tfidf_baseline("single_label", texts[:80], targets[:80], [texts[80:]], num_labels=2)[0]
    assert task_metrics("single_label", targets[80:], outputs)["accuracy"] == 1.0


@pytest.mark.parametrize("num_texts", [3, 150])
@pytest.mark.parametrize("text", ["", "   ", "..."])
def test_texts_without_a_word_fall_back_to_the_majority_or_close(text, num_texts):
    targets = np.array([0, 1, 1] * (num_texts // 3))
    outputs = tfidf_baseline("single_label", [text] * num_texts, targets, [["", "new words"]], num_labels=2)[0]
    assert outputs == pytest.approx(np.array([[1 / 3, 2 / 3]] * 2), abs=0.05)


def test_an_empty_text_among_others():
    outputs = tfidf_baseline("single_label", ["good", "", "bad"], np.array([1, 0, 0]), [["", "good"]], num_labels=2)[0]
    assert np.isfinite(outputs).all()


def test_words_that_all_occur_once_are_kept():
    texts = [f"word{i}" for i in range(150)]
    outputs = tfidf_baseline("single_label", texts, np.arange(150) % 2, [texts], num_labels=2)[0]
    assert task_metrics("single_label", np.arange(150) % 2, outputs)["accuracy"] == 1.0


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_one_text_and_no_other_text(task):
    targets = np.array([[1, 0]]) if task == "multi_label" else np.array([1])
    one, none = tfidf_baseline(task, ["good"], targets, [["good"], []], num_labels=2)
    assert one.tolist() == ([1.0] if task == "regression" else [[1.0, 0.0]] if task == "multi_label" else [[0.0, 1.0]])
    assert none.shape == (0, *one.shape[1:])


def test_long_texts_are_cut_before_they_cost():
    texts, targets = ["good " + "x" * 100_000, "bad " + "y" * 100_000] * 3, np.array([1, 0] * 3)
    outputs = tfidf_baseline("single_label", texts, targets, [texts], num_labels=2)[0]
    assert decide("single_label", outputs).tolist() == targets.tolist()


def test_texts_and_targets_must_match():
    with pytest.raises(ValueError, match="2 training texts, 1 targets"):
        tfidf_baseline("single_label", ["a", "b"], np.array([0]), [], num_labels=2)


def test_training_texts_must_be_there():
    with pytest.raises(ValueError, match="at least one example"):
        tfidf_baseline("regression", [], np.array([]), [], num_labels=1)
