"""Initialisation that keeps activations and gradients from vanishing or exploding through layers or through time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Hidden = Literal["orthogonal", "identity", "default"]

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.SyncBatchNorm,
)


@torch.no_grad()
def init_weights_(
    module: nn.Module,
    *,
    nonlinearity: Literal["relu", "tanh", "selu", "sigmoid", "linear"] = "relu",
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    skip: Collection[str] = (),
) -> None:
    """Initialise new linear, convolution and norm layers in place with He initialisation, for a net with this `nonlinearity`.

    Weights are normal with a standard deviation of gain / sqrt(fan), which is sqrt(2 / fan_in) for a ReLU (He et al. 2015); torch's
    default has a sixth of that variance. Biases are 0; norms start with scale 1 and shift 0. Parameters named in `skip`, those that
    transformers has marked as loaded from a checkpoint, and other kinds of layers are left unchanged.

    >>> layer = nn.Linear(200, 300)
    >>> init_weights_(layer)
    >>> abs(layer.weight.std().item() - 0.1) < 0.003, layer.bias.abs().sum().item()
    (True, 0.0)
    """
    for path, layer in module.named_modules():
        for name, parameter in layer.named_parameters(prefix=path, recurse=False):
            if not isinstance(layer, LINEAR + NORMS) or _stays(name, parameter, skip):
                continue
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif isinstance(layer, NORMS):
                nn.init.ones_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode=mode, nonlinearity=nonlinearity)


@torch.no_grad()
def lsuv_(
    module: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    tolerance: float = 0.1,
    iterations: int = 10,
    skip: Collection[str] = (),
) -> None:
    """Initialise linear and convolution layers in place so that each one's output on this batch has a standard deviation of 1.

    Layer-sequential unit-variance initialisation (LSUV, Mishkin and Matas 2015): from the input on, each layer gets orthogonal
    weights and a bias of 0 and is scaled until it is within `tolerance`, for any nonlinearity and any architecture. `inputs` are a
    tensor, or keyword arguments of `module`. Layers whose weight is named in `skip`, or marked as loaded, are left unchanged.
    Raises `ValueError` if an output is constant.

    >>> net = nn.Sequential(nn.Linear(9, 9), nn.Sigmoid(), nn.Linear(9, 9))
    >>> batch = torch.randn(50, 9)
    >>> lsuv_(net, batch)
    >>> [0.9 < report.std < 1.1 for report in init_report(net, lambda: net(batch))]
    [True, True]
    """
    names = {
        layer: name
        for name, layer in module.named_modules()
        if isinstance(layer, LINEAR) and not _stays(f"{name}.weight".removeprefix("."), layer.weight, skip)
    }

    def scaled(layer: Any, args: Any, output: Tensor) -> Tensor:
        if layer not in names:  # a shared layer is scaled at its first call
            return output
        name = names.pop(layer)
        nn.init.orthogonal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        for _ in range(iterations):
            output = layer.forward(*args)
            std = output.float().std(correction=0)
            if abs(std - 1) <= tolerance:
                return output
            if not std > 0:
                break
            layer.weight.div_(std)
        raise ValueError(f"the output of {name or 'the layer'} has a standard deviation of {std:.3g} and not of 1")

    hooks = [layer.register_forward_hook(scaled) for layer in names]
    with _leaving_no_trace(module, hooks):
        module(**inputs) if isinstance(inputs, Mapping) else module(inputs)


@dataclass(frozen=True)
class LayerReport:
    """Statistics of one layer's output: the mean, the standard deviation and the fraction of exact zeros."""

    name: str
    kind: str
    mean: float
    std: float
    zeros: float


def init_report(module: nn.Module, forward: Callable[[], object]) -> list[LayerReport]:
    """Return activation statistics: a `LayerReport` of each linear, convolution, norm and ReLU layer, in the order of calls.

    `forward` calls the module once on a batch. Standard deviations should stay near 1: a net where they vanish or explode will not
    train. The module's mode is not changed; its buffers and torch's random state are restored.

    >>> net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    >>> _ = nn.init.ones_(net[0].weight), nn.init.zeros_(net[0].bias)
    >>> for report in init_report(net, lambda: net(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))):
    ...     print(report.name, report.kind, report.mean, report.zeros)
    0 Linear 1.0 0.0
    1 ReLU 1.5 0.5
    """
    reports: list[LayerReport] = []
    kinds = (*LINEAR, *NORMS, nn.ReLU)
    names: dict[nn.Module, str] = {layer: name for name, layer in module.named_modules() if isinstance(layer, kinds)}

    def note(layer: nn.Module, args: Any, output: Tensor) -> None:
        values = output.float()
        zeros = (values == 0).float().mean().item()
        report = LayerReport(names[layer], type(layer).__name__, values.mean().item(), values.std(correction=0).item(), zeros)
        reports.append(report)

    hooks = [layer.register_forward_hook(note) for layer in names]
    cuda = sorted({parameter.get_device() for parameter in module.parameters() if parameter.is_cuda})
    with torch.no_grad(), torch.random.fork_rng(devices=cuda), _leaving_no_trace(module, hooks):
        forward()
    return reports


@contextmanager
def _leaving_no_trace(module: nn.Module, hooks: Collection[Any]) -> Iterator[None]:
    """Remove `hooks` at the end and restore the buffers, so that running statistics do not include the trial."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for buffer, before in buffers:
            buffer.copy_(before)


def _stays(name: str, parameter: Tensor, skip: Collection[str]) -> bool:
    return name in skip or getattr(parameter, "_is_hf_initialized", False)


@torch.no_grad()
def init_recurrent_(
    rnn: nn.RNNBase, *, hidden: Hidden = "orthogonal", scale: float = 1.0, forget_bias: float = 1.0, skip: Collection[str] = ()
) -> None:
    """Initialise `nn.LSTM`, `nn.GRU` or `nn.RNN` in place, gate by gate; parameters named in `skip` are left unchanged.

    `hidden` is for the hidden-to-hidden matrices of each gate: orthogonal (Saxe et al. 2013) or the identity (Le, Jaitly and Hinton
    2015, for a ReLU), times `scale`. Then input matrices get Glorot's uniform initialisation for each gate, biases are 0, and the
    bias of an LSTM's forget gate is `forget_bias` (Jozefowicz et al. 2015). default: all parameters are as torch has them, uniform
    within 1 / sqrt(hidden size), times `scale`.

    >>> rnn = nn.RNN(3, 2, nonlinearity="relu")
    >>> init_recurrent_(rnn, hidden="identity")
    >>> rnn.weight_hh_l0.tolist(), rnn.bias_hh_l0.tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    """
    num_gates, bound = {"LSTM": 4, "GRU": 3}.get(rnn.mode, 1), scale / math.sqrt(rnn.hidden_size)
    for name, parameter in rnn.named_parameters():
        if name in skip:
            continue
        if hidden == "default":
            nn.init.uniform_(parameter, -bound, bound)
            continue
        for gate in parameter.chunk(num_gates):
            if name.startswith("bias"):
                gate.zero_()
            elif name.startswith("weight_hh"):
                (nn.init.eye_(gate).mul_(scale) if hidden == "identity" else nn.init.orthogonal_(gate, gain=scale))
            else:
                nn.init.xavier_uniform_(gate)
        if name.startswith("bias_ih") and rnn.mode == "LSTM":
            parameter.chunk(num_gates)[1].fill_(forget_bias)  # torch orders the gates input, forget, cell, output
