from __future__ import annotations

import numpy as np
import pytest

from nlpbp.data.order import (
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


def test_micro_batches_are_nearly_equal_and_their_seeds_differ() -> None:
    assert [len(part) for part in micro_batches(np.arange(10), num=4)] == [3, 3, 2, 2]
    assert len({micro_seed(s, t, m) for s in range(5) for t in range(5) for m in range(5)}) == 125
