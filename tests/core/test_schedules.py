from __future__ import annotations

import pytest
import torch

from nlpbp.core.schedules import constant, cosine, linear, warm_up


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
