from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from nlpbp.core.batch import Batch
from nlpbp.core.errors import NumericError
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import layer_groups, parameter_groups
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import Schedule, constant
from nlpbp.tasks import classifier_loss
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.lr_finder import Curve, MakeSweep, exponential, find_rate, read_curves, restored, smooth, suggest, try_rates

ACCELERATOR = Accelerator(cpu=True)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


class Bowl(nn.Module):
    """A quadratic whose greatest curvature is 2: SGD diverges beyond a rate of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([3.0, 3.0]))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return (self.place.square() * torch.tensor([1.0, 0.2]) * scale.mean()).sum()


def bowl_steps(model: nn.Module, optimizer: torch.optim.Optimizer, *, noise: float = 0.0) -> MakeSweep:
    def make_steps(schedule: Schedule, total_steps: int, order: int) -> Iterator[Step]:
        numbers = np.random.default_rng(order)
        batches = [
            [Batch({"scale": torch.tensor([1.0 + noise * numbers.normal()])}, None, torch.tensor([0]))] for _ in range(total_steps)
        ]
        return train_steps(
            model,
            batches,
            optimizer,
            accelerator=ACCELERATOR,
            loss_fn=lambda model, batch: model(**batch.inputs),
            schedule=schedule,
            total_steps=total_steps,
            max_grad_norm=None,
        )

    return make_steps


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_on_a_bowl_the_suggestions_lie_below_the_rate_that_diverges_and_within_a_factor_of_ten(noise: float) -> None:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make_steps = bowl_steps(model, optimizer, noise=noise)
    found = find_rate(make_steps, model=model, optimizer=optimizer, accelerator=ACCELERATOR, start=1e-4, end=10.0, num_orders=3)
    assert found.refused is None
    assert set(found.suggestions) == {"steepest", "valley", "min_div_10", "edge_div_10", "edge_div_30"}
    for name, rate in found.suggestions.items():
        low, high = found.intervals[name]
        assert low * (1 - 1e-9) <= rate <= high * (1 + 1e-9)
        assert (0.01 if name == "min_div_10" else 0.02) < rate < 1.0
    assert len(found.curves[0].rates) < 100, "the sweep ends when the loss has diverged"


def test_a_running_average_would_suggest_a_rate_several_times_higher() -> None:
    rates = np.logspace(-6, 0, 100)
    losses = 1.0 - 0.5 / (1.0 + np.exp(-6.0 * (np.log10(rates) + 4.0))) + 20.0 * np.maximum(0.0, np.log10(rates) + 1.5) ** 2
    average, lagging = losses[0], []
    for index, loss in enumerate(losses):
        average = 0.98 * average + 0.02 * loss
        lagging.append(average if index else loss)
    steepest_of = np.gradient(np.array(lagging)[:80], np.log10(rates)[:80])
    steepest = suggest(Curve(tuple(rates), tuple(losses)))["steepest"]
    assert steepest == pytest.approx(1e-4, rel=0.2)  # where the curve is made to fall fastest
    assert rates[int(steepest_of.argmin())] > 2.0 * steepest


def test_a_loss_that_only_trembles_is_refused_and_one_that_falls_is_not() -> None:
    rates = tuple(np.logspace(-6, 0, 100))
    refused = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(scale=0.1, size=100)
        refused += read_curves([Curve(rates, tuple(0.7 + noise))]).refused is not None
        falling = 0.7 - 0.5 * (np.log10(rates) > -3.0)
        assert read_curves([Curve(rates, tuple(falling + noise))]).refused is None
    assert refused >= 19


def test_a_fall_above_chance_is_no_valley_and_the_edge_is_still_told() -> None:
    rates = np.logspace(-6, 0, 100)
    sure_at_first = 0.9 - 0.15 / (1.0 + np.exp(-6.0 * (np.log10(rates) + 4.5))) + 3.0 * (rates > 0.1)
    curve = Curve(tuple(rates), tuple(sure_at_first))
    assert read_curves([curve]).suggestions["steepest"] < 1e-4
    found = read_curves([curve], chance=math.log(2))
    assert found.refused is not None and "below that of chance" in found.refused
    assert set(found.suggestions) == {"edge_div_30"}
    assert 0.0007 < found.suggestions["edge_div_30"] < 0.004


def test_a_sweep_that_diverges_at_once_says_so() -> None:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    make_steps = bowl_steps(model, optimizer)
    found = find_rate(make_steps, model=model, optimizer=optimizer, accelerator=ACCELERATOR, start=100.0, end=1e4, num_steps=30)
    assert found.suggestions == {}
    assert found.refused is not None and "diverged" in found.refused


def test_straight_lines_come_out_of_the_smoothing_as_they_are_at_both_ends() -> None:
    places = np.linspace(-6.0, 0.0, 50)
    level, slope, error = smooth(places, 3.0 - 2.0 * places)
    assert np.allclose(level, 3.0 - 2.0 * places)
    assert np.allclose(slope, -2.0)
    assert np.allclose(error, 0.0)


def make_bert() -> tuple[BertForSequenceClassification, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SMALL, attn_implementation="eager"))
    return model, adamw(parameter_groups(layer_groups(model), lr=1e-3, layer_decay=0.5, head_lr=4e-3, weight_decay=0.01))


def bert_steps(model: nn.Module, optimizer: torch.optim.Optimizer, *, num_micro_batches: int = 1) -> MakeSweep:
    def make_batch(ids: list[int]) -> Batch:
        rows = torch.tensor([[1 + i % 2, 3 + i % 7, 4] for i in ids])
        return Batch(
            {"input_ids": rows, "attention_mask": torch.ones_like(rows)}, torch.tensor([i % 2 for i in ids]), torch.tensor(ids)
        )

    def make_steps(schedule: Schedule, total_steps: int, order: int) -> Iterator[Step]:
        numbers = np.random.default_rng(order)
        steps = [numbers.integers(0, 100, size=8).tolist() for _ in range(total_steps)]
        return train_steps(
            model,
            [[make_batch(ids[part::num_micro_batches]) for part in range(num_micro_batches)] for ids in steps],
            optimizer,
            accelerator=ACCELERATOR,
            loss_fn=classifier_loss(task="single_label"),
            schedule=schedule,
            total_steps=total_steps,
        )

    return make_steps


@pytest.mark.parametrize("train_last", [None, 1, 2])
def test_a_sweep_leaves_weights_optimizer_modes_and_random_numbers_bit_identical(train_last: int | None) -> None:
    model, optimizer = make_bert()
    freeze_to(layer_groups(model), train_last=train_last)
    make_steps = bert_steps(model, optimizer)
    list(make_steps(constant(), 3, 9))  # moments that are to be kept
    model.eval()
    model.classifier.train()
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    numbers = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    found = find_rate(make_steps, model=model, optimizer=optimizer, accelerator=ACCELERATOR, num_steps=40)
    assert len(found.curves[0].rates) > 10
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    now = optimizer.state_dict()
    assert now["param_groups"] == state["param_groups"]
    assert now["state"].keys() == state["state"].keys()
    assert all(
        torch.equal(value, state["state"][index][name]) for index, values in now["state"].items() for name, value in values.items()
    )
    assert not model.bert.training and model.classifier.training
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert np.array_equal(np.random.get_state()[1], numbers[2])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_putting_back_the_same_sweep_changes_the_weights() -> None:
    model, optimizer = make_bert()
    before = copy.deepcopy(model.state_dict())
    list(bert_steps(model, optimizer)(exponential(optimizer, start=1e-6, end=1.0), 40, 0))
    assert not torch.equal(model.state_dict()["classifier.weight"], before["classifier.weight"])


def test_groups_keep_their_ratios_and_the_highest_sweeps_from_start_to_end() -> None:
    model, optimizer = make_bert()
    ratios = []
    rates = []
    with restored(model, optimizer, accelerator=ACCELERATOR):
        for step in bert_steps(model, optimizer)(exponential(optimizer, start=1e-6, end=1e-2), 20, 0):
            now = [group["lr"] for group in optimizer.param_groups]
            ratios.append([rate / max(now) for rate in now])
            rates.append(step.lr)
    expected = [group["base_lr"] / 4e-3 for group in optimizer.param_groups]
    assert all(ratio == pytest.approx(expected) for ratio in ratios)
    steps = np.diff(np.log(rates))
    assert np.allclose(steps, steps[0])
    assert rates[0] == pytest.approx(1e-6 * 1e4 ** (0.5 / 20))


def test_accumulation_gives_the_curve_of_whole_batches() -> None:
    curves = []
    for num in (1, 2):
        model, optimizer = make_bert()
        model.config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        make_steps = bert_steps(model, optimizer, num_micro_batches=num)
        found = find_rate(make_steps, model=model, optimizer=optimizer, accelerator=ACCELERATOR, num_steps=30, end=1e-2)
        curves.append(found.curves[0])
    assert curves[0].losses == pytest.approx(curves[1].losses, abs=1e-4)
    assert curves[0].rates == curves[1].rates


def test_a_frozen_body_has_a_curve_of_its_own() -> None:
    found = {}
    for train_last in (None, 1):
        model, optimizer = make_bert()
        freeze_to(layer_groups(model), train_last=train_last)
        make_steps = bert_steps(model, optimizer)
        found[train_last] = find_rate(make_steps, model=model, optimizer=optimizer, accelerator=ACCELERATOR, num_steps=60)
    assert found[None].refused is None and found[1].refused is None
    assert found[None].curves[0].losses[:3] == pytest.approx(found[1].curves[0].losses[:3], abs=0.2)
    assert abs(found[None].suggestions["steepest"] / found[1].suggestions["steepest"] - 1.0) > 0.1


def test_short_trainings_tell_a_good_rate_from_one_that_is_too_low_or_too_high() -> None:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.place.detach().clone()
    make_steps = bowl_steps(model, optimizer)
    low, good, high = try_rates(
        make_steps, [1e-4, 0.3, 5.0], model=model, optimizer=optimizer, accelerator=ACCELERATOR, schedule=constant(), num_steps=30
    )
    assert good < 0.1 < low < high
    assert torch.equal(model.place, before)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_range_that_is_none_is_an_error_and_an_error_inside_puts_everything_back() -> None:
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="from low to high"):
        find_rate(bowl_steps(model, optimizer), model=model, optimizer=optimizer, accelerator=ACCELERATOR, start=1.0, end=0.1)
    with pytest.raises(NumericError), restored(model, optimizer, accelerator=ACCELERATOR):
        nn.init.zeros_(model.place)
        raise NumericError("a loss that is not finite")
    assert model.place.tolist() == [3.0, 3.0]
