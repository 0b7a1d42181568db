"""Splits into train, validation and test sets without leaks, as a pure function of the texts and a seed; or by groups, or by time.

A text's hash and not its position in the file decides its part, so the split does not change when rows are shuffled; and texts that
are equal except for case and white space are in the same part, so that no part leaks into another.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Examples
from nlpbp.data.labels import is_missing

NUM_BINS = 10  # quantile bins of a real-valued target
MIN_BIN = 10  # examples; smaller bins are useless
OR_NONE = {"validation": "", "test": ", or do without (--data.test_share 0)"}

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class _Group:
    """The examples with the same text: they stay together."""

    rank: bytes
    members: list[int]
    stratum: int


def split_examples(examples: Examples, *, validation_share: float, test_share: float, seed: int) -> tuple[Ints, Ints, Ints]:
    """Return the indices of the train, validation and test sets: ascending, disjoint, and together all examples.

    The parts are stratified by class (label sets by their rarest label, numbers by quantile). Equal texts are in one part. Every
    class is in the train part; a class with a single example is only there. Raises `DataError` if a requested part would be empty,
    `ConfigError` for shares that leave nothing to train on.

    >>> texts = [f"text {i}" for i in range(20)]
    >>> examples = Examples("list", texts, None, np.arange(20) % 2, texts)
    >>> parts = split_examples(examples, validation_share=0.1, test_share=0.2, seed=0)
    >>> [len(part) for part in parts], [int(examples.targets[part].sum()) for part in parts]
    ([14, 2, 4], [7, 1, 2])
    """
    _check_shares(validation_share, test_share)
    waiting = defaultdict(list)
    for group in sorted(_groups(examples, seed), key=lambda group: group.rank):
        waiting[group.stratum].append(group)
    sizes = {stratum: sum(len(group.members) for group in groups) for stratum, groups in waiting.items()}
    test = _take(waiting, sizes, share=test_share, seed=seed)
    validation = _take(waiting, sizes, share=validation_share, seed=seed)
    for name, share, part in (("validation", validation_share, validation), ("test", test_share, test)):
        if share and not part:
            raise DataError(
                f"{len(examples)} examples are too few for a {name} set of {share:.0%} with every class left to train on",
                file=examples.source,
                hint=f"add examples, or give a {name} file{OR_NONE[name]}",
            )
    train = set(range(len(examples))) - set(test) - set(validation)
    return _ascending(train), _ascending(validation), _ascending(test)


def split_groups(
    examples: Examples, groups: Sequence[Hashable], *, validation_share: float, test_share: float, seed: int
) -> tuple[Ints, Ints, Ints]:
    """Return train, validation and test sets as `split_examples` does, but with each group in one part only (practice D2).

    `groups` [n] are authors, patients or documents, if the model will be used on new ones; an example without a group is a group of
    its own. Groups that share a text stay together. The parts are stratified as well as whole groups allow, and every class is in
    the train part. Raises `DataError` if there are too few groups, `ConfigError` for shares that leave nothing to train on.

    >>> texts = [f"text {i}" for i in range(20)]
    >>> examples = Examples("list", texts, None, np.arange(20) % 2, texts)
    >>> groups = [i // 4 for i in range(20)]
    >>> parts = split_groups(examples, groups, validation_share=0.2, test_share=0.2, seed=0)
    >>> [len(part) for part in parts], len({(groups[i], name) for name, part in enumerate(parts) for i in part})
    ([12, 4, 4], 5)
    """
    _check_shares(validation_share, test_share)
    keys = text_keys(examples)
    alone = [("row", index) if is_missing(group) else ("group", group) for index, group in enumerate(groups)]
    waiting = sorted(_connected(keys, alone), key=lambda members: _rank(min(keys[index] for index in members), seed))
    num_sets, strata = len(waiting), _strata(examples)
    parts = []
    for name, share in (("test", test_share), ("validation", validation_share)):
        parts.append(_take_sets(waiting, strata, num=share * len(examples)) if share else [])
        if share and not parts[-1]:
            raise DataError(
                f"{num_sets} groups are too few for a {name} set with every class left to train on",
                file=examples.source,
                hint=f"name a finer group, or give a {name} file{OR_NONE[name]}",
            )
    test, validation = parts
    return _ascending(index for members in waiting for index in members), _ascending(validation), _ascending(test)


def split_time(
    examples: Examples, times: Sequence[float], *, validation_share: float, test_share: float
) -> tuple[Ints, Ints, Ints]:
    """Split by time: the earliest examples for training, later ones for validation and the latest for testing (practice D2).

    For models that will be used on texts written after their training. Examples of the same time are in one part, so parts may be
    larger than their shares. `times` [n] are numbers, such as days. Raises `DataError` if nothing is left to train on.

    >>> texts = ["a", "b", "c", "d", "e"]
    >>> examples = Examples("list", texts, None, None, texts)
    >>> [part.tolist() for part in split_time(examples, [3, 1, 2, 5, 5], validation_share=0.2, test_share=0.2)]
    [[1, 2], [0], [3, 4]]
    """
    _check_shares(validation_share, test_share)
    moments = np.asarray(times, dtype=np.float64)
    left, parts = np.arange(len(moments), dtype=np.int64), []
    for share in (test_share, validation_share):
        num = max(1, round(share * len(moments))) if share else 0
        since = np.sort(moments[left])[-min(num, len(left))] if num and len(left) else np.inf
        parts.append(left[moments[left] >= since])
        left = left[moments[left] < since]
    if not len(left):
        raise DataError(
            f"{len(set(times))} distinct times are too few to split by time: nothing earlier is left to train on",
            file=examples.source,
            hint="name a column of finer times, give validation and test files, or set their shares to 0",
        )
    test, validation = parts
    return left, validation, test


def nested_sample(examples: Examples, indices: Ints, *, share: float, seed: int) -> Ints:
    """Return a stratified share of `indices`, ascending; a smaller share is a subset of a larger one.

    Each class has its share of examples, rounded, and at least one. For multi-label targets the class is the rarest label of each
    example, and every label has at least one example.

    >>> texts = [f"text {i}" for i in range(20)]
    >>> examples = Examples("list", texts, None, np.arange(20) % 2, texts)
    >>> small, large = (nested_sample(examples, np.arange(20), share=share, seed=0) for share in (0.1, 0.5))
    >>> len(small), len(large), set(small) <= set(large)
    (2, 10, True)
    """
    if not 0 < share <= 1:
        raise ConfigError("the share must be above 0 and at most 1", excerpt=share, hint="for example 0.1")
    chosen = examples.select(indices)
    if not len(chosen):
        return _ascending([])
    ranks = [_rank(key, seed) for key in text_keys(chosen)]
    order = sorted(range(len(chosen)), key=lambda index: (ranks[index], index))
    strata = _strata(chosen)
    # An example stands at (place + 1/2) / size of its class: all that stand below `share` are a rounded share of each
    # class, and the same ones stand there for every larger share.
    sizes, places = Counter(strata), Counter[int]()
    below: list[int] = []
    first: dict[int, int] = {}
    for index in order:
        stratum = strata[index]
        height = (places[stratum] + 0.5) / sizes[stratum]
        places[stratum] += 1
        below += [index] if height < share else []
        for name in _classes(chosen, index):
            first.setdefault(name, index)
    kept = set(below) | set(first.values()) or {order[0]}
    return _ascending(np.asarray(indices)[sorted(kept)])


def shared_texts(a: Examples, b: Examples) -> list[tuple[str, str]]:
    """For each example of `b` whose text is also in `a`, return the references of its first occurrence in `a` and of itself.

    >>> train = Examples("list", ["So good"], None, None, ["train.csv:2"])
    >>> shared_texts(train, Examples("list", ["bad", "so  good"], None, None, ["test.csv:2", "test.csv:3"]))
    [('train.csv:2', 'test.csv:3')]
    """
    first = dict(zip(reversed(text_keys(a)), reversed(a.references), strict=True))
    keys = zip(text_keys(b), b.references, strict=True)
    return [(first[key], reference) for key, reference in keys if key in first]


def text_keys(examples: Examples) -> list[bytes]:
    """Return for each example a hash of its text (and pair) that ignores case and white space.

    >>> keys = text_keys(Examples("list", ["So  good", "so good ", "bad"], None, None, ["1", "2", "3"]))
    >>> keys[0] == keys[1], keys[0] == keys[2]
    (True, False)
    """
    if examples.pairs is None:
        return [_hash(_normalise(text)) for text in examples.texts]
    # Normalised texts have no line breaks, so this joins the two without ambiguity.
    halves = zip(examples.texts, examples.pairs, strict=True)
    return [_hash(f"{_normalise(text)}\n{_normalise(pair)}") for text, pair in halves]


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split())


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.blake2b(key, digest_size=16, salt=seed.to_bytes(16, "little", signed=True)).digest()


def _ascending(indices: Iterable[int]) -> Ints:
    return np.array(sorted(indices), dtype=np.int64)


def _check_shares(validation_share: float, test_share: float) -> None:
    if min(validation_share, test_share) < 0 or not validation_share + test_share < 1:
        raise ConfigError(
            "shares must not be negative and must leave something to train on",
            excerpt=f"validation {validation_share}, test {test_share}",
            hint="for example 0.1 and 0.1",
        )


def _groups(examples: Examples, seed: int) -> list[_Group]:
    members = defaultdict(list)
    for index, key in enumerate(text_keys(examples)):
        members[key].append(index)
    strata = _strata(examples)
    sizes = Counter(strata)
    # A text with two labels counts as its rarer class, which has fewer training examples.
    return [
        _Group(_rank(key, seed), same, min((strata[index] for index in same), key=lambda stratum: (sizes[stratum], stratum)))
        for key, same in members.items()
    ]


def _connected(*columns: Sequence[Hashable]) -> list[list[int]]:
    """Return the connected components of positions that share a key, directly or through others."""
    parent = list(range(len(columns[0])))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    for column in columns:
        first: dict[Hashable, int] = {}
        for index, key in enumerate(column):
            parent[root(index)] = root(first.setdefault(key, index))
    sets = defaultdict(list)
    for index in range(len(parent)):
        sets[root(index)].append(index)
    return list(sets.values())


def _take_sets(waiting: list[list[int]], strata: list[int], *, num: float) -> list[int]:
    """Move about `num` examples out of `waiting`, as whole sets and at least one, and leave every class at least one example.

    A set is moved if that brings the part closer to its share of every class.
    """
    left = Counter(strata[index] for members in waiting for index in members)
    wanted = {stratum: num * count / left.total() for stratum, count in left.items()}
    taken: list[list[int]] = []

    def can_go(counts: Counter[int]) -> bool:
        return all(left[stratum] > count for stratum, count in counts.items())

    for members in waiting:
        counts = Counter(strata[index] for index in members)
        growth = sum(count * (count - 2 * wanted[stratum]) for stratum, count in counts.items())  # of the squared distance
        if growth <= 0 and can_go(counts):
            wanted |= {stratum: wanted[stratum] - count for stratum, count in counts.items()}
            taken.append(members)
            left.subtract(counts)
    if not taken:
        taken = sorted((m for m in waiting if can_go(Counter(strata[index] for index in m))), key=len)[:1]
    waiting[:] = [members for members in waiting if members not in taken]
    return [index for members in taken for index in members]


def _strata(examples: Examples) -> list[int]:
    """Return for each example the class for stratification."""
    targets = examples.targets
    if targets is None:
        return [0] * len(examples)
    if targets.ndim == 2:
        # The rarest label of each row; rows without labels are a class of their own.
        rarity = np.where(targets > 0, targets.sum(axis=0), np.inf)
        return [int(row.argmin()) if np.isfinite(row).any() else -1 for row in rarity]
    if targets.dtype.kind == "f":
        return _bins(targets)
    return [int(target) for target in targets]


def _bins(targets: np.ndarray[Any, Any]) -> list[int]:
    num_bins = max(1, min(NUM_BINS, len(targets) // MIN_BIN))
    edges = np.quantile(targets, np.arange(1, num_bins) / num_bins)
    return [int(place) for place in np.searchsorted(edges, targets, side="right")]


def _classes(examples: Examples, index: int) -> list[int]:
    """Return the classes of which a sample must have an example."""
    targets = examples.targets
    if targets is None or (targets.ndim == 1 and targets.dtype.kind == "f"):
        return []
    return np.flatnonzero(targets[index]).tolist() if targets.ndim == 2 else [int(targets[index])]


def _take(waiting: dict[int, list[_Group]], sizes: dict[int, int], *, share: float, seed: int) -> list[int]:
    """Move a share of each stratum out of `waiting`, as closely as whole groups allow, and leave at least one group."""
    taken: list[int] = []
    for stratum, quota in _quotas(waiting, sizes, share=share, seed=seed).items():
        kept: list[_Group] = []
        for position, group in enumerate(waiting[stratum]):
            is_last = not kept and position + 1 == len(waiting[stratum])
            # Moved if that is closer to the quota than leaving it.
            if len(group.members) <= 2 * quota and not is_last:
                quota -= len(group.members)
                taken += group.members
            else:
                kept.append(group)
        waiting[stratum] = kept
    return taken


def _quotas(waiting: dict[int, list[_Group]], sizes: dict[int, int], *, share: float, seed: int) -> dict[int, int]:
    """Allocate a share of all examples to the strata by size, with the largest remainder method."""
    exact = {stratum: share * size for stratum, size in sizes.items()}
    quotas = {stratum: math.floor(quota) for stratum, quota in exact.items()}
    able = [stratum for stratum, groups in waiting.items() if len(groups) - 1 > quotas[stratum]]
    able.sort(key=lambda stratum: (quotas[stratum] - exact[stratum], _rank(str(stratum).encode(), seed)))
    num = max(1, round(share * sum(sizes.values()))) if share else 0
    for stratum in able[: max(0, num - sum(quotas.values()))]:
        quotas[stratum] += 1
    return quotas
