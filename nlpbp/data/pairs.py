"""Groups of examples for contrastive learning, as a pure function of (seed, step): a few classes, and as many examples of each.

All pairs of a group are learned from. What two examples cost to encode is the same in one pair as in many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpbp.core.errors import ConfigError
from nlpbp.data.order import Ints

GROUP = 16  # examples, which make 120 pairs: in groups of 8, 64 review sentences gave .726 and not .735 (three draws)
MOST_CLASSES = 8  # of a group, so that it has two examples of each
SETS = 1_000  # of labels, that are searched for two without a common one
CLASS_TURNS, MEMBER_TURNS = 6, 7  # what a seed is for


@dataclass(frozen=True)
class Classes:
    """The examples by class: those of class c are `members[starts[c] : starts[c] + counts[c]]`. An example of several labels is in
    several classes, and one without a label in none. `targets` are [n] or [n, labels]."""

    targets: np.ndarray[Any, Any]
    members: Ints
    starts: Ints
    counts: Ints

    def alike(self, groups: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell which two examples of each group [num, size] share a class: [num, size, size]."""
        targets = self.targets[groups]
        if targets.ndim == 2:
            return np.asarray(targets[:, :, None] == targets[:, None, :])
        return np.asarray(targets @ targets.swapaxes(1, 2) > 0)


def group_by_class(targets: np.ndarray[Any, Any]) -> Classes:
    """Group examples by their classes [n], or by their labels [n, labels] of 0 and 1; classes without examples are left out.

    Raises `ConfigError` where no two examples are of different classes: then there is nothing to tell apart.

    >>> group_by_class(np.array([2, 0, 2])).counts.tolist()
    [1, 2]
    """
    if targets.ndim == 1:
        found = [np.flatnonzero(targets == value) for value in np.unique(targets)]
        differ = len(found) > 1
    else:
        found = [np.flatnonzero(column) for column in targets.T if column.any()]
        sets = np.unique(targets[targets.any(axis=1)], axis=0)[:SETS]
        differ = bool((sets @ sets.T == 0).any())
    if not differ:
        raise ConfigError(
            f"no two of the {len(targets)} training examples are of different classes, so there is nothing to tell apart",
            column="data.train",
            hint="give examples of two classes or more",
        )
    counts = np.array([len(ids) for ids in found])
    return Classes(targets, np.concatenate(found), np.cumsum(counts) - counts, counts)


def draw_groups(classes: Classes, *, num: int, seed: int, step: int) -> Ints:
    """Draw the `num` groups of a step, ids [num, 16]: two examples of each of eight classes, or more of each where there are fewer.

    Classes have their turns in random order, over and over, so a rare one is seen as often as any other, and so have the examples
    of a class. None is twice in a group unless its class has too few; an example and its repetition differ by dropout alone (Gao
    et al. 2021, SimCSE). A step needs none of those before it.

    >>> classes = group_by_class(np.array([0, 0, 0, 1]))
    >>> groups = draw_groups(classes, num=2, seed=0, step=7)
    >>> classes.targets[groups].sum(axis=1).tolist()
    [8, 8]
    """
    return np.stack([_draw_group(classes, number, seed) for number in range(step * num, (step + 1) * num)])


def _draw_group(classes: Classes, number: int, seed: int) -> Ints:
    """Draw a group by its number in the training."""
    num, size = len(classes.counts), min(MOST_CLASSES, len(classes.counts))
    turn, place = divmod(number, -(-num // size))  # a round of turns goes through all classes
    order = np.random.default_rng([seed, turn, CLASS_TURNS]).permutation(num)
    chosen = order[(place * size + np.arange(size)) % num].tolist()
    wanted = [len(range(place, GROUP, size)) for place in range(size)]
    return np.concatenate([_draw_members(classes, one, turn, each, seed) for one, each in zip(chosen, wanted, strict=True)])


def _draw_members(classes: Classes, one: int, turn: int, wanted: int, seed: int) -> Ints:
    """Draw the `wanted` examples of a class that have their turn: a random order of all is cut into as many turns as it makes."""
    count = int(classes.counts[one])
    which, place = divmod(turn, max(1, count // wanted))
    order = np.random.default_rng([seed, one, which, MEMBER_TURNS]).permutation(count)
    return classes.members[classes.starts[one] + np.resize(order[place * wanted :], wanted)]
