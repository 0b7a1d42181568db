"""Pairs for contrastive learning: half of one class, every class equally often, and any step's without the steps before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nlpbp.core.errors import ConfigError
from nlpbp.data.pairs import Pairs, draw_pairs, group_by_class

CLASSES = np.repeat([0, 1, 2, 3], [50, 20, 5, 2])
LABELS = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]], dtype=np.float32)


def steps(targets: np.ndarray[Any, Any], *, size: int, num: int, seed: int = 0) -> list[Pairs]:
    classes = group_by_class(targets)
    return [draw_pairs(classes, size=size, seed=seed, step=step) for step in range(num)]


def joined(parts: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate(values) for values in zip(*parts, strict=True)))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_half_of_the_pairs_are_of_one_class_and_each_class_has_its_turn_equally_often(size: int) -> None:
    pairs = joined(steps(CLASSES, size=size, num=160 // size))
    num = len(pairs.first)
    same = pairs.similarity == 1.0
    assert abs(same.sum() - num / 2) <= 0.5
    assert ((CLASSES[pairs.first] == CLASSES[pairs.second]) == same).all()
    for kind in (same, ~same):
        turns = np.bincount(CLASSES[pairs.first[kind]], minlength=4)
        assert turns.max() - turns.min() <= 1, "a class of 50 and one of 2 examples count the same"


def test_in_pairs_of_different_classes_all_other_classes_are_equally_likely() -> None:
    pairs = joined(steps(CLASSES, size=64, num=50))
    second = np.bincount(CLASSES[pairs.second[pairs.similarity == 0.0]], minlength=4)
    assert second.min() > 0.8 * second.max()


def test_two_of_a_class_are_two_examples_unless_it_has_one() -> None:
    targets = np.array([0, 0, 0, 1, 2, 2])
    pairs = joined(steps(targets, size=6, num=40))
    themselves = pairs.first == pairs.second
    assert set(pairs.first[themselves]) == {3}
    assert set(pairs.similarity[themselves]) == {1.0}
    assert set(pairs.first) == set(range(6)), "every example takes part"


def test_a_step_needs_none_of_those_before_it_and_another_seed_gives_other_pairs() -> None:
    whole, other = steps(CLASSES, size=8, num=20), steps(CLASSES, size=8, num=20, seed=1)
    alone = draw_pairs(group_by_class(CLASSES), size=8, seed=0, step=13)
    assert all((a == b).all() for a, b in zip(alone, whole[13], strict=True))
    assert any((a.first != b.first).any() for a, b in zip(whole, other, strict=True))
    assert any((a != b).any() for a, b in zip(whole[3], whole[4], strict=True))


def test_of_several_labels_a_pair_is_similar_where_it_shares_one() -> None:
    pairs = joined(steps(LABELS, size=8, num=50))
    share = (LABELS[pairs.first] * LABELS[pairs.second]).any(axis=1)
    assert (share == (pairs.similarity == 1.0)).all()
    assert 0.4 < pairs.similarity.mean() < 0.6
    assert 4 not in {*pairs.first, *pairs.second}, "a text without a label takes no part"


def test_a_label_that_nearly_all_have_leaves_pairs_as_they_are() -> None:
    """Nothing is apart from an example with all labels: its pairs are not passed off as different."""
    targets = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0]])
    pairs = joined(steps(targets, size=8, num=50))
    with_all = (pairs.first == 0) | (pairs.second == 0)
    assert with_all.any()
    assert set(pairs.similarity[with_all]) == {1.0}


@pytest.mark.parametrize(
    "targets", [np.zeros(5, int), np.array([0]), np.array([[1, 0], [1, 1]]), np.zeros((3, 2)), np.ones((1, 2))]
)
def test_where_no_two_differ_there_is_nothing_to_learn(targets: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="nothing to tell apart") as error:
        group_by_class(targets)
    assert "two classes" in str(error.value)


def test_two_examples_are_enough_if_they_differ() -> None:
    pairs = draw_pairs(group_by_class(np.array([1, 0])), size=4, seed=0, step=0)
    assert (pairs.first == pairs.second).tolist() == [True, True, False, False]
