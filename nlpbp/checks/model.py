"""Rules that look at a model for what breaks a practice; `check_model` asks them all, and those on a batch and on its optimizer.

A rule returns its findings, most often none: one that cannot be sure says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from nlpbp.checks.batch import (
    RETURN_LOGITS,
    Forward,
    dead_relus,
    has_bias,
    layers_into_norms,
    measuring,
    normalised_outputs,
    weak_initialisation,
)
from nlpbp.checks.findings import Finding
from nlpbp.checks.optimizer import decay_on_norms, no_decay_at_all, one_rate_for_all_layers, optimizer_misses_parameters, tied_twice

MAX_FROM_ORTHOGONAL = 0.5  # a random square matrix is at about 0.7, the identity and orthogonal ones at 0
MIN_PILED, MIN_PILED_SHARE = 3, 0.02  # targets at one end of a range; the end of an open range is reached once


def check_model(
    model: nn.Module,
    *,
    optimizer: Optimizer | None = None,
    max_grad_norm: float | None = None,
    pretrained: bool = False,
    forward: Forward | None = None,
    targets: Any = None,
) -> list[Finding]:
    """Ask every rule about `model` and how it will be trained; what is not given is not asked about.

    `optimizer` and `max_grad_norm` (None: never clipped) are those of the training to come; without an optimizer nothing is known
    of it. `pretrained` says that the body comes from elsewhere. `forward` runs the model on a sample batch and returns its output.
    `targets` are those of the training data: [n, labels] of 0 and 1 for several labels, [n] for a number.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    >>> [(finding.practice, finding.module) for finding in check_model(model)]
    [('A1', '1')]
    """
    findings = [
        *bias_before_norm(model, forward=forward),
        *softmax_before_loss(model),
        *softmax_for_multi_label(model, targets),
        *relu_rnn_default_init(model),
        *frozen_norm_in_training_mode(model),
    ]
    if targets is not None:
        findings += range_without_scaled_sigmoid(targets, getattr(model, "config", None))
    if optimizer is not None:
        findings += [
            *plain_rnn_without_clipping(model, max_grad_norm=max_grad_norm),
            *decay_on_norms(optimizer, model),
            *no_decay_at_all(optimizer),
            *one_rate_for_all_layers(optimizer, model, pretrained=pretrained),
            *optimizer_misses_parameters(optimizer, model),
            *tied_twice(optimizer),
        ]
    if forward is not None:
        with measuring(model, measure=lambda output: None):
            outputs = forward()
        findings += [*normalised_outputs(outputs), *dead_relus(model, forward), *weak_initialisation(model, forward)]
    return findings


def bias_before_norm(model: nn.Module, *, forward: Forward | None = None) -> list[Finding]:
    """Find the linear and convolution layers whose bias the batch normalisation right behind them takes away again (N8).

    With `forward` it is seen what goes where. Without, neighbours in an `nn.Sequential` count, and those that a module registers
    one after the other under names like conv1 and bn1.

    >>> [finding.module for finding in bias_before_norm(nn.Sequential(nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2)))]
    ['0']
    """
    pairs = _neighbours(model) if forward is None else layers_into_norms(model, forward)
    return [
        Finding(
            "N8",
            "note",
            name,
            f"its bias does nothing: {norm_name} subtracts the batch's mean right after it",
            "make the layer with bias=False when it is to train from the start; pretrained weights can stay as they are",
        )
        for name, norm_name in pairs
    ]


def softmax_before_loss(model: nn.Module) -> list[Finding]:
    """Find a softmax or sigmoid layer at the end of a model, whose output a loss on logits would normalise once more (A1).

    The end is the last layer of `model` or of an `nn.Sequential` there, after a linear layer. A sigmoid over one output may be a
    bounded number, and a log-softmax twice is the same as once: both are notes. Nothing is said of a regression.

    >>> [finding.level for finding in softmax_before_loss(nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()))]
    ['note']
    """
    name, layer, num_outputs = _ending(model)
    if layer is None or _problem_type(model) == "regression":
        return []
    if isinstance(layer, nn.LogSoftmax):
        message = "a log-softmax at its end, which the cross-entropy on logits makes once more"
        return [Finding("A1", "note", name, message, RETURN_LOGITS)]
    if isinstance(layer, nn.Softmax) and num_outputs > 1:
        message = "a softmax before the cross-entropy: losses stay far above 0, and gradients become small"
        return [Finding("A1", "warning", name, message, RETURN_LOGITS)]
    if isinstance(layer, nn.Sigmoid):
        message = "a sigmoid before the loss: one that takes logits makes it once more, and stably"
        return [Finding("A1", "warning" if num_outputs > 1 else "note", name, message, RETURN_LOGITS)]
    return []


def softmax_for_multi_label(model_or_config: Any, targets: Any = None) -> list[Finding]:
    """Find that several labels can hold, and a softmax would let one of them win (A2).

    Either the config says one label a text while rows of `targets` [n, labels] hold several, or it says several while the model
    ends in a softmax layer.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(problem_type="single_label_classification")
    >>> softmax_for_multi_label(config, [[1, 0, 1], [0, 1, 0]])[0].message
    '1 of 2 rows of targets have several labels, and problem_type is single_label_classification'
    """
    problem_type = _problem_type(model_or_config)
    if problem_type == "multi_label_classification" and isinstance(model_or_config, nn.Module):
        name, layer, _ = _ending(model_or_config)
        if isinstance(layer, nn.Softmax | nn.LogSoftmax):
            message = f"a softmax at its end lets one label win, and problem_type is {problem_type}"
            return [Finding("A2", "warning", name, message, "remove it: the loss and the answers are sigmoids of the logits")]
    rows = np.zeros(0) if targets is None else np.asarray(targets)
    if problem_type != "single_label_classification" or rows.ndim != 2:
        return []
    several = int(((rows > 0.5).sum(axis=1) > 1).sum())
    message = f"{several:,} of {len(rows):,} rows of targets have several labels, and problem_type is {problem_type}"
    fix = "set problem_type to multi_label_classification: a sigmoid for each label, and thresholds from the validation part"
    return [Finding("A2", "warning", "model", message, fix)] if several else []


def range_without_scaled_sigmoid(targets: Any, config: Any) -> list[Finding]:
    """Find a regression on numbers that pile up at both ends of a range, with outputs that may leave it (A3).

    `targets` [n]; `config` has a `problem_type`, and a `value_range` where the model has one.

    >>> from types import SimpleNamespace
    >>> stars = [1, 1, 1, 2, 3, 4, 4, 5, 5, 5]
    >>> range_without_scaled_sigmoid(stars, SimpleNamespace(problem_type="regression"))[0].message
    'the targets pile up at 1 and 5, and its outputs are not held between them'
    """
    values = np.asarray(targets)
    if _problem_type(config) != "regression" or getattr(config, "value_range", None) is not None or values.size == 0:
        return []
    low, high = values.min(), values.max()
    enough = max(MIN_PILED, MIN_PILED_SHARE * values.size)
    if not low < high or (values == low).sum() < enough or (values == high).sum() < enough:
        return []
    message = f"the targets pile up at {low:g} and {high:g}, and its outputs are not held between them"
    return [
        Finding("A3", "note", "model", message, "answer low + (high - low) * sigmoid(x), with 5 to 10 % of margin at both ends")
    ]


def plain_rnn_without_clipping(model: nn.Module, *, max_grad_norm: float | None) -> list[Finding]:
    """Find plain recurrent layers that train without gradient clipping: their gradients can explode in time (N3, N5).

    >>> [finding.practice for finding in plain_rnn_without_clipping(nn.RNN(2, 2), max_grad_norm=None)]
    ['N3']
    """
    if max_grad_norm is not None and 0 < max_grad_norm < math.inf:
        return []
    return [
        Finding(
            "N3",
            "warning",
            name or "model",
            "a plain recurrent layer trains without gradient clipping, and its gradients can explode",
            "clip the gradient's norm (0.25 to 1), or take a gated cell: LSTM or GRU (N5)",
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.RNN | nn.RNNCell)
    ]


def relu_rnn_default_init(model: nn.Module) -> list[Finding]:
    """Find plain ReLU recurrent layers whose hidden-to-hidden matrices are far from a multiple of an orthogonal one (L5).

    The identity, which they want, is one; so a net that training has moved away from it is seldom taken for an untrained one.

    >>> from nlpbp.core.init import init_recurrent_
    >>> rnn = nn.RNN(8, 8, nonlinearity="relu")
    >>> init_recurrent_(rnn, hidden="identity")
    >>> relu_rnn_default_init(rnn)
    []
    """
    message = "the hidden-to-hidden matrix of a ReLU is far from the identity and from orthogonal ones: what it remembers dies out"
    return [
        Finding("L5", "note", name or "model", message, 'nlpbp.core.init.init_recurrent_(rnn, hidden="identity") before training')
        for name, module in model.named_modules()
        if isinstance(module, nn.RNN | nn.RNNCell) and module.nonlinearity == "relu"
        if any(_distance_from_orthogonal(p) > MAX_FROM_ORTHOGONAL for key, p in module.named_parameters() if "weight_hh" in key)
    ]


def frozen_norm_in_training_mode(model: nn.Module) -> list[Finding]:
    """Find frozen parts that would still change or waver: batch statistics that move on, dropout that drops (T1).

    >>> body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(False)
    >>> [(finding.module, finding.level) for finding in frozen_norm_in_training_mode(nn.Sequential(body, nn.Linear(2, 2)))]
    [('0.1', 'warning')]
    """
    fix = "switch modes with nlpbp.core.freezing.train_mode, or call eval() on frozen parts after each train()"
    norms, dropouts = [], []
    for block_name, block in _frozen_blocks(model, ""):
        active = [(_dotted(block_name, name), module) for name, module in block.named_modules() if module.training]
        norms += [name for name, module in active if isinstance(module, _BatchNorm) and module.track_running_stats]
        dropouts += [name for name, module in active if isinstance(module, _DropoutNd) and module.p > 0]
    findings = []
    if norms:
        message = f"frozen, and in training mode its running statistics move on{_others(norms)}"
        findings.append(Finding("T1", "warning", norms[0], message, fix))
    if dropouts:
        message = f"drops activations of a frozen part, so what it hands on wavers{_others(dropouts)}"
        findings.append(Finding("T1", "note", dropouts[0], message, fix))
    return findings


def _problem_type(model_or_config: Any) -> str | None:
    return getattr(getattr(model_or_config, "config", model_or_config), "problem_type", None)


def _dotted(name: str, child: str) -> str:
    return ".".join(part for part in (name, child) if part) or "model"


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


def _neighbours(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a layer with a bias and of the batch normalisation that must come right after it."""
    for name, module in model.named_modules():
        in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        children = [(key, child) for key, child in module.named_children() if not isinstance(child, nn.Identity)]
        for (key, child), (norm_key, norm) in pairwise(children):
            if has_bias(child) and isinstance(norm, _BatchNorm) and (in_turn or _named_as_pair(key, norm_key)):
                yield _dotted(name, key), _dotted(name, norm_key)


def _named_as_pair(layer: str, norm: str) -> bool:
    """Tell conv1 and bn1, which belong together, from conv1 and bn2, which comes before another layer."""
    layer_match, norm_match = re.fullmatch(r"(?:conv|linear|lin|fc)(\d*)", layer), re.fullmatch(r"(?:bn|norm)(\d*)", norm)
    return layer_match is not None and norm_match is not None and layer_match[1] == norm_match[1]


def _ending(model: nn.Module) -> tuple[str, nn.Module | None, int]:
    """Return the layer that `model` ends in and how many outputs the linear layer before it has; None where that is not known."""
    path, module = "", model
    while children := list(module.named_children()):
        if module is not model and not isinstance(module, nn.Sequential):
            return path, None, 0
        path, module = _dotted(path, children[-1][0]), children[-1][1]
    leaves = [m for m in model.modules() if not any(m.children()) and not isinstance(m, nn.Identity | _DropoutNd)]
    before = leaves[leaves.index(module) - 1] if module in leaves[1:] else None
    return (path, module, before.out_features) if isinstance(before, nn.Linear) else (path, None, 0)


def _distance_from_orthogonal(matrix: Tensor) -> float:
    """Return how far `matrix` is from a multiple of an orthogonal one, as a share: 0 for those, about 0.7 for random entries."""
    product = matrix.detach().double() @ matrix.detach().double().T
    away = product - product.diagonal().mean() * torch.eye(len(product), dtype=product.dtype, device=product.device)
    return float(away.norm() / product.norm().clamp(min=1e-300))


def _frozen_blocks(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules all of whose parameters are frozen."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        yield name, module
    elif parameters:
        for key, child in module.named_children():
            yield from _frozen_blocks(child, _dotted(name, key))
