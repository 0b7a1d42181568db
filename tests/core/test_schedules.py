from __future__ import annotations

import pytest
import torch

from nlpbp.core.schedules import (
    constant,
    cosine,
    cycle_ends,
    flat_cosine,
    joined,
    linear,
    one_cycle,
    one_cycle_momentum,
    slanted_triangular,
    warm_restarts,
    warm_up,
)


def test_closed_form_values() -> None:
    assert [constant()(p) for p in (0.0, 0.25, 0.5, 1.0)] == [1.0] * 4
    assert [linear()(p) for p in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.75, 0.5, 0.0]
    assert linear(end=0.5)(1.0) == 0.5
    assert [cosine()(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.8535533906, 0.5, 0.0])
    assert cosine(end=0.1)(1.0) == pytest.approx(0.1)


def test_warm_up_rises_to_one_and_then_runs_the_whole_schedule() -> None:
    schedule = warm_up(cosine(), share=0.1)
    assert [schedule(p) for p in (0.0, 0.05, 0.1, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.0])
    assert schedule(0.55) == pytest.approx(0.5)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_warm_up_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        warm_up(linear(), share=share)


def test_a_schedule_works_in_a_foreign_loop() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear()(step / 4))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0, 1.5, 1.0, 0.5]


def test_the_slanted_triangle_has_the_corners_of_the_paper() -> None:
    schedule = slanted_triangular()  # cut_frac 0.1, ratio 32
    assert [schedule(p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([1 / 32, 33 / 64, 1.0, 33 / 64, 1 / 32])
    steps, cut = 1000, 100
    for step in (0, 37, 100, 421, 1000):  # formula 3 of Howard and Ruder, of step t in T
        p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / 0.1 - 1))
        assert schedule(step / steps) == pytest.approx((1 + p * 31) / 32)


def test_one_cycle_has_fastais_numbers_and_momentum_goes_the_other_way() -> None:
    schedule, momentum = one_cycle(), one_cycle_momentum()
    assert [schedule(p) for p in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0.04, 0.52, 1.0, 0.500005, 1e-5])
    assert [momentum(p) for p in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0.8, 0.75, 0.7, 0.75, 0.8])
    progress = [i / 200 for i in range(201)]
    assert max(progress, key=schedule) == min(progress, key=momentum) == 0.25
    assert all(0.0 < schedule(p) <= 1.0 for p in progress)


def test_warm_restarts_have_the_two_setups_of_the_course() -> None:
    first, second = warm_restarts(cycles=3, mult=2), warm_restarts(cycles=3)  # 1 + 2 + 4 = 7 epochs, 2 + 2 + 2 = 6
    assert cycle_ends(cycles=3, mult=2) == pytest.approx((1 / 7, 3 / 7, 1.0))
    assert cycle_ends(cycles=3) == pytest.approx((1 / 3, 2 / 3, 1.0))
    assert [first(epoch / 7) for epoch in (0, 1, 3)] == pytest.approx([1.0, 1.0, 1.0])
    assert [first(epoch / 7) for epoch in (0.5, 2, 5)] == pytest.approx([0.5, 0.5, 0.5])
    assert [second(epoch / 6) for epoch in (0, 2, 4)] == pytest.approx([1.0, 1.0, 1.0])
    assert [second(epoch / 6 - 1e-9) for epoch in (2, 4, 6)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert second(1.0) == pytest.approx(0.0)


def test_each_peak_of_warm_restarts_falls_by_the_decay_and_one_cycle_is_the_cosine() -> None:
    schedule = warm_restarts(cycles=3, mult=1, decay=0.5)
    assert [schedule(p) for p in (0.0, 1 / 3 + 1e-12, 2 / 3 + 1e-12)] == pytest.approx([1.0, 0.5, 0.25])
    single = warm_restarts(cycles=1)
    assert [single(p) for p in (0.0, 0.3, 1.0)] == pytest.approx([cosine()(p) for p in (0.0, 0.3, 1.0)])


@pytest.mark.parametrize(("cycles", "mult"), [(0, 1.0), (2, 0.0), (2, -1.0)])
def test_cycles_that_are_none_are_refused(cycles: int, mult: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        warm_restarts(cycles=cycles, mult=mult)


def test_flat_cosine_stays_and_then_falls() -> None:
    schedule = flat_cosine(flat=0.72)
    assert [schedule(p) for p in (0.0, 0.5, 0.7199)] == [1.0, 1.0, 1.0]
    assert [schedule(p) for p in (0.86, 1.0)] == pytest.approx([0.5, 0.0])


def test_joined_schedules_each_see_their_own_progress() -> None:
    schedule = joined((linear(), 0.25), (constant(), 0.25), (cosine(), 0.5))
    assert [schedule(p) for p in (0.0, 0.125, 0.3, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 0.5, 1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.5, -0.5), (1.0, 0.0)])
def test_shares_that_do_not_make_a_whole_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        joined((linear(), shares[0]), (constant(), shares[1]))
