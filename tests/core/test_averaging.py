"""The mean of weights is that worked out by hand, goes on from what was saved, and helps where a rate stays high."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlpbp.core.averaging import WeightAverage


def layer_of(weight: float) -> nn.Linear:
    layer = nn.Linear(1, 2)
    nn.init.constant_(layer.weight, weight)
    nn.init.zeros_(layer.bias)
    return layer


def test_it_is_the_mean_of_the_steps_beyond_the_given_one() -> None:
    layer = layer_of(0.0)
    average = WeightAverage(layer, after=2)
    for step, weight in enumerate([7.0, 8.0, 1.0, 2.0, 6.0], start=1):
        nn.init.constant_(layer.weight, weight)
        average.update(step)
        assert average.begun is (step > 2)
        mean = sum([1.0, 2.0, 6.0][: step - 2]) / (step - 2) if step > 2 else weight
        with average.applied():
            assert layer.weight.flatten().tolist() == pytest.approx([mean, mean], abs=1e-6)
        assert layer.weight.flatten().tolist() == [weight, weight]
    average.keep()
    assert layer.weight[0].item() == pytest.approx(3.0)


def test_an_error_within_leaves_the_weights_as_they_were() -> None:
    layer = layer_of(1.0)
    average = WeightAverage(layer, after=0)
    average.update(1)
    nn.init.constant_(layer.weight, 5.0)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert layer.weight[0].item() == 5.0


def test_what_is_frozen_is_not_touched_and_a_mean_without_its_beginning_is_noticed() -> None:
    layer = layer_of(1.0)
    layer.bias.requires_grad_(False)
    average = WeightAverage(layer, after=0)
    average.update(1)
    nn.init.ones_(layer.bias)
    average.update(2)
    with average.applied():
        assert layer.bias.tolist() == [1.0, 1.0]
    with pytest.raises(AssertionError, match="before 3 is missing"):
        WeightAverage(layer, after=0).update(3)


def test_going_on_from_a_saved_mean_is_bit_for_bit_going_on() -> None:
    torch.manual_seed(0)
    weights = torch.randn(9, 2, 1)

    def mean(*, saved_after: int | None) -> torch.Tensor:
        layer = layer_of(0.0)
        average = WeightAverage(layer, after=3)
        for step, weight in enumerate(weights, start=1):
            layer.weight.data.copy_(weight)
            average.update(step)
            if step == saved_after:
                with average.applied():
                    saved = layer.weight.detach().clone()
                average = WeightAverage(layer, after=3)
                layer.weight.data.copy_(saved)
                average.begin()
        average.keep()
        return layer.weight.detach()

    assert torch.equal(mean(saved_after=None), mean(saved_after=6))
    assert torch.allclose(mean(saved_after=None), weights[3:].mean(dim=0))


def test_the_mean_is_far_nearer_where_the_rate_stays_high_and_not_where_it_falls() -> None:
    """Least squares with noisy gradients: the weights circle around the solution at a distance that the rate sets."""

    def gain(*, falls: bool) -> float:
        torch.manual_seed(0)
        layer, solution = nn.Linear(20, 1, bias=False), torch.randn(1, 20)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        average = WeightAverage(layer, after=300)
        for step in range(1, 601):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - (step - 1) / 600) if falls else 0.1
            layer.weight.grad = layer.weight.detach() - solution + torch.randn(1, 20)
            optimizer.step()
            average.update(step)
        distance = (layer.weight - solution).square().sum().item()
        average.keep()
        return distance / (layer.weight - solution).square().sum().item()

    assert gain(falls=False) > 5.0
    assert gain(falls=True) < 2.0


def test_a_moving_average_forgets_and_is_that_worked_out_by_hand() -> None:
    layer = layer_of(0.0)
    average = WeightAverage(layer, after=0, decay=0.5)
    for step, (weight, mean) in enumerate([(8.0, 8.0), (4.0, 6.0), (0.0, 3.0)], start=1):
        nn.init.constant_(layer.weight, weight)
        average.update(step)
        with average.applied():
            assert layer.weight[0].item() == pytest.approx(mean)


def test_a_moving_average_goes_on_from_what_was_saved() -> None:
    layer = layer_of(6.0)
    average = WeightAverage(layer, after=0, decay=0.5)
    average.begin()  # the weights as the mean was saved
    nn.init.constant_(layer.weight, 0.0)
    average.update(3)
    average.keep()
    assert layer.weight[0].item() == pytest.approx(3.0)
