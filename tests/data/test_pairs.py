"""Groups for contrastive learning: all pairs of a few classes, every class equally often, any step's without those before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nlpbp.core.errors import ConfigError
from nlpbp.data.pairs import GROUP, draw_groups, group_by_class

CLASSES = np.repeat(np.arange(12), [50, 20, 5, 2, 3, 1, 4, 4, 4, 4, 4, 4])
LABELS = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]], dtype=np.float32)


def drawn(targets: np.ndarray[Any, Any], *, num: int, steps: int, seed: int = 0) -> np.ndarray[Any, Any]:
    classes = group_by_class(targets)
    return np.concatenate([draw_groups(classes, num=num, seed=seed, step=step) for step in range(steps)])


@pytest.mark.parametrize("num", [1, 2, 4])
def test_a_group_has_two_examples_of_eight_classes_and_each_class_its_turn_equally_often(num: int) -> None:
    groups = drawn(CLASSES, num=num, steps=48 // num)
    counts = np.stack([np.bincount(CLASSES[group], minlength=12) for group in groups])
    assert set(counts.flat) == {0, 2}
    rounds = counts.reshape(-1, 2, 12).sum(axis=1)
    assert (rounds >= 2).all(), "two groups go through twelve classes, four of which have another turn"
    turns = counts.sum(axis=0)
    assert turns.max() < 1.5 * turns.min(), "a class of 50 and one of a single example count the same"


@pytest.mark.parametrize(("num_classes", "wanted"), [(2, [8, 8]), (3, [5, 5, 6]), (5, [3, 3, 3, 3, 4]), (8, [2] * 8)])
def test_of_fewer_classes_a_group_has_more_examples(num_classes: int, wanted: list[int]) -> None:
    targets = np.arange(120) % num_classes
    for group in drawn(targets, num=4, steps=5):
        assert sorted(np.bincount(targets[group])) == wanted
        assert len(set(group)) == GROUP, "none twice, for each class has enough"


def test_an_example_is_repeated_only_where_its_class_has_too_few() -> None:
    groups = drawn(CLASSES, num=4, steps=120)
    repeated = {int(CLASSES[i]) for group in groups for i in group if (group == i).sum() > 1}
    assert repeated == {5}
    assert set(groups.flat) == set(range(len(CLASSES))), "every example takes part"


def test_a_step_needs_none_of_those_before_it_and_another_seed_gives_other_groups() -> None:
    whole, other = drawn(CLASSES, num=4, steps=20), drawn(CLASSES, num=4, steps=20, seed=1)
    alone = draw_groups(group_by_class(CLASSES), num=4, seed=0, step=13)
    assert (alone == whole[52:56]).all()
    assert (whole != other).any()
    assert (whole[:4] != whole[4:8]).any()


def test_of_several_labels_two_are_alike_where_they_share_one() -> None:
    classes = group_by_class(LABELS)
    groups = draw_groups(classes, num=50, seed=0, step=0)
    alike = classes.alike(groups)
    for group, mine in zip(groups, alike, strict=True):
        assert (mine == ((LABELS[group] @ LABELS[group].T) > 0)).all()
    assert 0.2 < alike.mean() < 0.9
    assert 4 not in groups, "a text without a label takes no part"


@pytest.mark.parametrize(
    "targets", [np.zeros(5, int), np.array([0]), np.array([[1, 0], [1, 1]]), np.zeros((3, 2)), np.ones((1, 2))]
)
def test_where_no_two_differ_there_is_nothing_to_learn(targets: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="nothing to tell apart") as error:
        group_by_class(targets)
    assert "two classes" in str(error.value)


def test_two_examples_are_enough_if_they_differ() -> None:
    classes = group_by_class(np.array([1, 0]))
    groups = draw_groups(classes, num=1, seed=0, step=0)
    assert np.bincount(groups[0]).tolist() == [8, 8]
    assert classes.alike(groups)[0].sum() == 128
