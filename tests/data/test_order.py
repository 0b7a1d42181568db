from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nlpbp.data.order import (
    balanced_ids,
    epoch_order,
    evaluation_batches,
    grouped_steps,
    micro_batches,
    micro_seed,
    rank_share,
    steps_per_epoch,
    training_plan,
)

LENGTHS = np.random.default_rng(0).lognormal(3.2, 0.5, size=5003).astype(np.int64) + 3


@pytest.mark.parametrize(("num_examples", "size"), [(1, 32), (31, 32), (33, 32), (1000, 7), (5003, 32), (64, 64)])
@pytest.mark.parametrize("min_size", [1, 2])
def test_an_epoch_holds_each_example_once_in_the_announced_number_of_steps(num_examples: int, size: int, min_size: int) -> None:
    steps = grouped_steps(LENGTHS[:num_examples], size=size, seed=3, epoch=1, min_size=min_size)
    assert len(steps) == steps_per_epoch(LENGTHS[:num_examples], size=size, min_size=min_size)
    assert abs(len(steps) - num_examples / size) <= 1 + 0.05 * num_examples / size
    assert sorted(np.concatenate(steps).tolist()) == list(range(num_examples))
    assert min(map(len, steps)) >= min(min_size, num_examples)


def test_order_is_a_function_of_seed_and_epoch_alone() -> None:
    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(grouped_steps(LENGTHS, size=32, seed=seed, epoch=epoch)).tolist()

    assert flat(0, 1) == flat(0, 1)
    assert flat(0, 1) != flat(0, 2)
    assert flat(0, 1) != flat(1, 1)
    assert epoch_order(50, seed=0, epoch=0).tolist() != list(range(50))


def test_steps_of_similar_length_need_little_padding_and_cost_about_the_same() -> None:
    steps = grouped_steps(LENGTHS, size=32, seed=0, epoch=0)
    padded = sum(len(step) * LENGTHS[step].max() for step in steps)
    assert padded / LENGTHS.sum() < 1.02
    shuffled = np.array_split(epoch_order(len(LENGTHS), seed=0, epoch=0), len(steps))
    assert sum(len(step) * LENGTHS[step].max() for step in shuffled) / LENGTHS.sum() > 1.5
    costs = np.array([LENGTHS[step].sum() for step in steps])
    assert costs.max() < 1.3 * costs.mean()
    shapes = {
        (len(step), LENGTHS[step].max()) for epoch in range(3) for step in grouped_steps(LENGTHS, size=32, seed=0, epoch=epoch)
    }
    assert len(shapes) < 0.7 * len(steps)


def test_the_order_of_steps_does_not_follow_their_length() -> None:
    lengths = [LENGTHS[step].mean() for step in grouped_steps(LENGTHS, size=32, seed=0, epoch=0)]
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.3


def test_a_plan_can_start_at_any_step() -> None:
    def plan(first: int) -> list[list[list[int]]]:
        steps = training_plan(LENGTHS[:100], size=16, num_micro_batches=2, epochs=3, seed=0, first_step=first)
        return [[part.tolist() for part in step] for step in steps]

    whole = plan(0)
    assert len(whole) == 3 * steps_per_epoch(LENGTHS[:100], size=16, min_size=2)
    for first in range(len(whole)):
        assert plan(first) == whole[first:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_what_one_process_does_alone(world_size: int) -> None:
    def plan(rank: int, world_size: int) -> list[list[np.ndarray]]:
        options = {"size": 16, "num_micro_batches": 4, "epochs": 2, "seed": 0}
        return list(training_plan(LENGTHS[:100], **options, rank=rank, world_size=world_size))

    alone = plan(0, 1)
    shared = [plan(rank, world_size) for rank in range(world_size)]
    for step, micro in enumerate(alone):
        for number, ids in enumerate(micro):
            assert shared[number % world_size][step][number // world_size].tolist() == ids.tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_covers_each_example_and_every_rank_has_the_same_number_of_batches(world_size: int) -> None:
    plan = evaluation_batches(LENGTHS[:107], max_tokens=256)
    assert sorted(np.concatenate(plan).tolist()) == list(range(107))
    assert all(len(batch) * LENGTHS[batch].max() <= 256 or len(batch) == 1 for batch in plan)
    shares = [rank_share(plan, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert {i for share in shares for batch in share for i in batch.tolist()} == set(range(107))


TARGETS = (np.random.default_rng(1).random(5003) < 0.04).astype(np.int64) + 2 * (
    np.arange(5003) % 50 == 0
)  # four classes, all but one rare


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_balanced_ids_hold_each_class_equally_often_and_use_its_examples_evenly(epoch: int) -> None:
    ids = balanced_ids(TARGETS, seed=0, epoch=epoch)
    assert len(ids) == 5003
    assert np.bincount(TARGETS[ids]).tolist() == [1251, 1251, 1251, 1250]
    assert np.bincount(TARGETS).min() < 10
    for value in range(4):
        uses = np.bincount(ids, minlength=5003)[np.equal(TARGETS, value)]
        assert uses.max() - uses.min() <= 1
    assert abs(np.corrcoef(TARGETS[ids] == 0, np.arange(5003))[0, 1]) < 0.05  # the classes are mixed


def test_balanced_ids_are_a_function_of_seed_and_epoch_and_all_examples_have_their_turn() -> None:
    draws = [balanced_ids(TARGETS, seed=0, epoch=epoch) for epoch in range(4)]
    assert np.array_equal(draws[1], balanced_ids(TARGETS, seed=0, epoch=1))
    assert not np.array_equal(draws[1], balanced_ids(TARGETS, seed=1, epoch=1))
    assert len(set(draws[0].tolist())) < 1800
    assert len(set(np.concatenate(draws).tolist())) == 5003  # 4713 common ones, 1251 an epoch
    assert np.bincount(balanced_ids(np.array([7, 7, 7, 9]), seed=0, epoch=0), minlength=4)[3] == 2


@pytest.mark.parametrize(("num_examples", "size"), [(5003, 32), (100, 7), (64, 64), (60, 3)])
def test_a_balanced_plan_has_its_classes_its_steps_and_its_lengths(num_examples: int, size: int) -> None:
    lengths, targets = LENGTHS[:num_examples], TARGETS[:num_examples]
    per_epoch = steps_per_epoch(lengths, size=size, min_size=2, targets=targets)
    shapes = set()
    for seed, epoch in [(0, 0), (0, 1), (0, 9), (5, 3)]:
        steps = grouped_steps(lengths, size=size, seed=seed, epoch=epoch, min_size=2, targets=targets)
        assert len(steps) == per_epoch
        assert min(map(len, steps)) >= 2
        counts = np.bincount(targets[np.concatenate(steps)])
        counts = counts[np.unique(targets)]
        assert counts.sum() == num_examples
        assert counts.max() - counts.min() <= 1
        shapes.add(tuple(sorted(map(len, steps))))
    assert len(shapes) == 1


def test_a_balanced_plan_needs_little_padding_too() -> None:
    for epoch in range(3):
        steps = grouped_steps(LENGTHS, size=32, seed=0, epoch=epoch, targets=TARGETS)
        assert sum(len(step) * LENGTHS[step].max() for step in steps) / sum(LENGTHS[step].sum() for step in steps) < 1.05


def test_a_balanced_plan_can_start_at_any_step_and_ranks_share_it() -> None:
    def plan(first: int, rank: int = 0, world_size: int = 1) -> list[list[list[int]]]:
        options = {"size": 16, "num_micro_batches": 4, "epochs": 3, "seed": 0, "targets": TARGETS[:100]}
        steps = training_plan(LENGTHS[:100], **options, first_step=first, rank=rank, world_size=world_size)
        return [[part.tolist() for part in step] for step in steps]

    whole = plan(0)
    assert len(whole) == 3 * steps_per_epoch(LENGTHS[:100], size=16, min_size=4, targets=TARGETS[:100])
    for first in range(len(whole)):
        assert plan(first) == whole[first:]
    shared = [plan(0, rank, 2) for rank in range(2)]
    assert [[pair for pairs in zip(*parts, strict=True) for pair in pairs] for parts in zip(*shared, strict=True)] == whole


def test_a_plan_without_targets_is_what_it_was() -> None:
    plan = training_plan(LENGTHS[:200], size=16, num_micro_batches=2, epochs=2, seed=3)
    digest = hashlib.sha256(repr([[part.tolist() for part in step] for step in plan]).encode()).hexdigest()
    assert digest[:16] == "91209790683a4268"


def test_balancing_several_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        steps_per_epoch(np.ones(4, dtype=int), size=2, targets=np.zeros((4, 2), dtype=int))


def test_micro_batches_are_nearly_equal_and_their_seeds_differ() -> None:
    assert [len(part) for part in micro_batches(np.arange(10), num=4)] == [3, 3, 2, 2]
    assert len({micro_seed(s, t, m) for s in range(5) for t in range(5) for m in range(5)}) == 125
