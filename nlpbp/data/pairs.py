"""Pairs of examples for contrastive learning, as a pure function of (seed, step): half of one class, half of different classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nlpbp.core.errors import ConfigError
from nlpbp.data.order import Ints

TRIES = 16  # second examples that are tried for a pair without a common label
SETS = 1_000  # of labels, that are searched for two without a common one
DRAWS, SAME, DIFFERENT = 3, 4, 5  # what a seed is for


class Pairs(NamedTuple):
    """Pairs of examples: `first` and `second` are ids [pairs], `similarity` float32 [pairs] is 1 where they share a class, or 0."""

    first: Ints
    second: Ints
    similarity: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Classes:
    """The examples by class: those of class c are `members[starts[c] : starts[c] + counts[c]]`. An example of several labels is in
    several classes, and one without a label in none. `targets` are [n] or [n, labels]."""

    targets: np.ndarray[Any, Any]
    members: Ints
    starts: Ints
    counts: Ints

    def draw(self, classes: Ints, rng: np.random.Generator) -> Ints:
        """Return a member of each of the `classes`, at random."""
        return self.members[self.starts[classes] + rng.integers(self.counts[classes])]

    def share(self, first: Ints, second: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell which pairs have a class in common."""
        if self.targets.ndim == 1:
            return np.asarray(self.targets[first] == self.targets[second])
        return np.asarray((self.targets[first] * self.targets[second]).any(axis=-1))


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


def draw_pairs(classes: Classes, *, size: int, seed: int, step: int) -> Pairs:
    """Draw the `size` pairs of a step: over the steps, half of them share a class, and each class has its turn equally often.

    A pair of one class is two of its examples, or where it has but one that example twice, which differ by dropout alone (Gao et
    al. 2021, SimCSE). The second of a pair of different classes is drawn from another class, all equally likely. Of several labels,
    a pair with one in common is similar; one without is looked for `TRIES` times, and where that fails the pair counts as what it
    is. A step costs as much as its pairs and classes, whatever the number of examples, and needs none before it.

    >>> classes = group_by_class(np.array([0, 0, 0, 1]))
    >>> pairs = draw_pairs(classes, size=4, seed=0, step=7)
    >>> pairs.similarity.tolist(), sorted(classes.targets[pairs.first[:2]].tolist())
    ([1.0, 1.0, 0.0, 0.0], [0, 1])
    """
    rng, num = np.random.default_rng([seed, step, DRAWS]), len(classes.counts)
    before, after = step * size // 2, (step + 1) * size // 2  # pairs of one class until then
    alike = _turns(before, after, num=num, seed=seed, kind=SAME)
    counts = classes.counts[alike]
    one = rng.integers(counts)
    other = (one + rng.integers(1, np.maximum(counts, 2))) % counts
    starts = classes.starts[alike]

    apart = _turns(step * size - before, (step + 1) * size - after, num=num, seed=seed, kind=DIFFERENT)
    first = classes.draw(apart, rng)
    others = (apart[:, None] + rng.integers(1, num, size=(len(apart), TRIES))) % num
    tried = classes.draw(others, rng)
    common = classes.share(first[:, None], tried)
    rows, chosen = np.arange(len(apart)), common.argmin(axis=1)
    return Pairs(
        np.concatenate([classes.members[starts + one], first]),
        np.concatenate([classes.members[starts + other], tried[rows, chosen]]),
        np.concatenate([np.ones(len(alike)), common[rows, chosen]]).astype(np.float32),
    )


def _turns(first: int, last: int, *, num: int, seed: int, kind: int) -> Ints:
    """Return whose turn it is at the positions from `first` to before `last`: all `num` classes in random order, over and over."""
    rounds, places = np.divmod(np.arange(first, last), num)
    orders = {one: np.random.default_rng([seed, one, kind]).permutation(num) for one in np.unique(rounds).tolist()}
    return np.array([orders[one][place] for one, place in zip(rounds.tolist(), places.tolist(), strict=True)], dtype=np.int64)
