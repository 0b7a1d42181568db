"""What stands at a model's output: a range that can be reached (A3), and the pooling of images (N10)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlpbp.core.layers import AdaptiveConcatPool2d, scaled_sigmoid


def slope_where_it_answers(answer: float, *, margin: float) -> float:
    """Return the derivative of a sigmoid scaled to 1 ... 5 at the input for which it answers `answer`."""
    share = (answer - (1.0 - 4.0 * margin)) / (4.0 * (1.0 + 2.0 * margin))
    values = torch.tensor(share, dtype=torch.float32).logit().requires_grad_()
    made = scaled_sigmoid(values, low=1.0, high=5.0, margin=margin)
    assert made.item() == pytest.approx(answer, abs=1e-3)
    (slope,) = torch.autograd.grad(made, values)
    return slope.item()


def test_with_a_margin_the_bounds_are_reached_where_there_is_still_a_gradient() -> None:
    by_hand = 4.0 * 0.05 * 1.05 / 1.1
    assert slope_where_it_answers(5.0, margin=0.05) == pytest.approx(by_hand, rel=1e-4)
    assert slope_where_it_answers(1.0, margin=0.05) == pytest.approx(by_hand, rel=1e-4)
    assert slope_where_it_answers(4.9999, margin=0.0) < 2e-4
    assert slope_where_it_answers(1.0001, margin=0.0) < 2e-4


def test_answers_stay_inside_the_widened_range_in_fp32() -> None:
    values = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4], dtype=torch.bfloat16)
    made = scaled_sigmoid(values, low=1.0, high=5.0)
    assert made.dtype == torch.float32
    assert made[[0, 2, 4]].tolist() == [pytest.approx(x) for x in (0.8, 3.0, 5.2)]
    assert (made.diff() > 0).all()


def steps_to_learn(*, scaled: bool) -> int:
    """Count the steps until stars from 1 to 5, many of them 1 and 5, are known with a squared error below 0.2."""
    torch.manual_seed(0)
    inputs = torch.randn(500, 5)
    stars = (3.0 + 2.0 * inputs[:, :1]).round().clamp(1.0, 5.0)
    net = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(1000):
        answers = scaled_sigmoid(net(inputs), low=1.0, high=5.0) if scaled else net(inputs)
        loss = (answers - stars).square().mean()
        if loss < 0.2:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return 1000


def test_a_known_range_is_learned_in_fewer_steps() -> None:
    assert steps_to_learn(scaled=True) < 0.3 * steps_to_learn(scaled=False) < 300


def test_a_range_that_goes_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not 5\.0, 1\.0"):
        scaled_sigmoid(torch.zeros(1), low=5.0, high=1.0)
    with pytest.raises(ValueError, match=r"-0\.1"):
        scaled_sigmoid(torch.zeros(1), low=1.0, high=5.0, margin=-0.1)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (8, 8)])
def test_images_of_any_size_are_pooled_to_twice_their_channels_greatest_first(size: tuple[int, int]) -> None:
    images = torch.zeros(2, 3, *size)
    images[:, 1, 0, 0] = 12.0
    images[1] *= -1.0
    area = size[0] * size[1]
    made = AdaptiveConcatPool2d()(images)
    assert made[0].tolist() == [0.0, 12.0, 0.0, 0.0, pytest.approx(12.0 / area), 0.0]
    assert made[1].tolist() == [0.0, 0.0 if area > 1 else -12.0, 0.0, 0.0, pytest.approx(-12.0 / area), 0.0]
