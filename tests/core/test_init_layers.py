"""What initialisation does to a deep net of layers: its signals, and whether it learns at all (practice T3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from nlpbp.core.init import init_report, init_weights_, lsuv_


def plain_net(*, depth: int, width: int, inputs: int, outputs: int) -> nn.Sequential:
    """Make `depth` linear layers with ReLUs after them and one without."""
    sizes = [inputs] + [width] * depth
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [(nn.Linear(300, 500), 300, 500), (nn.Conv2d(64, 128, 3), 576, 1152), (nn.Conv1d(100, 200, 5), 500, 1000)],
)
def test_weights_have_the_standard_deviation_of_he_and_biases_are_0(layer: nn.Module, fan_in: int, fan_out: int) -> None:
    torch.manual_seed(0)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(1 / 3 / fan_in), rel=0.03)  # torch's own: a sixth of the variance
    init_weights_(layer)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
    assert not layer.bias.any()
    init_weights_(layer, mode="fan_out", nonlinearity="tanh")
    assert layer.weight.std().item() == pytest.approx(5 / 3 / math.sqrt(fan_out), rel=0.03)


def test_norms_begin_as_the_identity_and_what_is_loaded_or_skipped_stays() -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "words": nn.Embedding(3, 4)})
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    net["b"].weight._is_hf_initialized = True
    init_weights_(net, skip=["a.weight", "norm.bias"])
    changed = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"a.bias", "b.bias", "norm.weight"}
    assert net["norm"].weight.tolist() == [1.0] * 4


def test_signals_live_through_20_relu_layers_and_die_with_the_default() -> None:
    torch.manual_seed(0)
    net, inputs = plain_net(depth=20, width=256, inputs=256, outputs=1), torch.randn(200, 256)
    for layer in net[::2]:
        nn.init.zeros_(layer.bias)  # torch's random ones are a floor of 0.02 that says nothing of the input

    def last_relu() -> float:
        return [report for report in init_report(net, lambda: net(inputs)) if report.kind == "ReLU"][-1].std

    assert last_relu() < 1e-3
    init_weights_(net)
    assert 0.5 < last_relu() < 2.0


def accuracy_on_digits(init: Callable[[nn.Module], object]) -> float:
    """Train a plain net of 20 ReLU layers for 6 epochs; return its accuracy on the same images."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    net = plain_net(depth=20, width=64, inputs=64, outputs=10)
    init(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(6):
        for ids in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[ids]), labels[ids]).backward()
            optimizer.step()
    return (net(images).argmax(1) == labels).float().mean().item()


def test_a_plain_net_of_20_layers_learns_digits_with_it_and_stays_at_chance_without() -> None:
    assert accuracy_on_digits(lambda net: None) < 0.15
    assert accuracy_on_digits(init_weights_) > 0.8


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(32, 50),
        nn.Sigmoid(),
        nn.Linear(50, 3),
    )


def test_lsuv_gives_each_layer_a_unit_output_whatever_the_nonlinearity() -> None:
    torch.manual_seed(0)
    net, images = conv_net(), 5.0 * torch.randn(64, 1, 6, 6)

    def stds() -> list[float]:
        return [report.std for report in init_report(net, lambda: net(images)) if report.kind in ("Conv2d", "Linear")]

    assert not all(0.9 <= std <= 1.1 for std in stds())
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    lsuv_(net, images)
    assert all(0.9 <= std <= 1.1 for std in stds())
    assert len(stds()) == 4
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert not net[0].bias.any()


def test_lsuv_keeps_what_is_skipped_and_refuses_an_output_that_does_not_vary() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    kept = net[1].weight.detach().clone()
    lsuv_(net, {"input": torch.randn(50, 4)}, skip=["1.weight"])
    assert torch.equal(net[1].weight, kept)
    with pytest.raises(ValueError, match="output of 0 has a standard deviation of 0"):
        lsuv_(net, torch.zeros(50, 4))
    assert not net[0]._forward_hooks


def test_a_report_tells_each_layer_in_order_of_use_and_changes_nothing() -> None:
    torch.manual_seed(0)
    net, images = nn.Sequential(*conv_net()[:4], nn.ReLU(), nn.Dropout(0.5)), torch.randn(8, 1, 6, 6)
    net[0].eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    reports = init_report(net, lambda: net(images))
    assert [(report.name, report.kind) for report in reports] == [
        ("0", "Conv2d"),
        ("2", "Conv2d"),
        ("3", "BatchNorm2d"),
        ("4", "ReLU"),
    ]
    assert reports[2].mean == pytest.approx(0.0, abs=1e-6)
    assert reports[2].std == pytest.approx(1.0, abs=1e-2)
    assert reports[3].zeros == pytest.approx(0.5, abs=0.1)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [layer.training for layer in net[:2]] == [False, True]
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    net(images)
    assert not torch.equal(net[3].running_mean, state["3.running_mean"])  # what the report put back
