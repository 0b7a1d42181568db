"""Rules for models; `check_model` applies them all, with those for a sample batch and for the optimizer.

A rule returns a list of findings, which is empty if it cannot be sure.
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

MAX_FROM_ORTHOGONAL = 0.5  # about 0.7 for a random square matrix, 0 for the identity and orthogonal ones
MIN_PILED, MIN_PILED_SHARE = 3, 0.02  # targets at one end of a range; without bounds, the extreme value occurs once


def check_model(
    model: nn.Module,
    *,
    optimizer: Optimizer | None = None,
    max_grad_norm: float | None = None,
    pretrained: bool = False,
    forward: Forward | None = None,
    targets: Any = None,
) -> list[Finding]:
    """Apply every rule to `model` and its training setup, as far as it is given.

    `optimizer` and `max_grad_norm` (None: never clipped) are those of the planned training; without an optimizer, both are unknown.
    `pretrained` says that the body is pretrained. `forward` runs the model on a sample batch and returns its output. `targets` are
    those of the training data: [n, labels] of 0 and 1 for multi-label, [n] for regression.

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
    """Find linear and convolution layers whose bias is cancelled by the batch normalisation directly after them (N8).

    With `forward` the data flow is traced. Without it, pairs are adjacent layers in an `nn.Sequential`, and those that a module
    registers one after the other with names like conv1 and bn1.

    >>> [finding.module for finding in bias_before_norm(nn.Sequential(nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2)))]
    ['0']
    """
    pairs = _neighbours(model) if forward is None else layers_into_norms(model, forward)
    return [
        Finding(
            "N8",
            "note",
            name,
            f"its bias has no effect: {norm_name} subtracts the batch's mean directly after it",
            "create the layer with bias=False if it is trained from scratch; pretrained weights can stay as they are",
        )
        for name, norm_name in pairs
    ]


def softmax_before_loss(model: nn.Module) -> list[Finding]:
    """Find a softmax or sigmoid layer at the end of a model, which a loss on logits would apply again (A1).

    The end is the last layer of `model` or of an `nn.Sequential` there, after a linear layer. A sigmoid over one output may bound a
    regression, and applying log-softmax twice changes nothing: both are notes. There are no findings for a regression.

    >>> [finding.level for finding in softmax_before_loss(nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()))]
    ['note']
    """
    name, layer, num_outputs = _ending(model)
    if layer is None or _problem_type(model) == "regression":
        return []
    if isinstance(layer, nn.LogSoftmax):
        message = "a log-softmax at its end, which the cross-entropy on logits applies again"
        return [Finding("A1", "note", name, message, RETURN_LOGITS)]
    if isinstance(layer, nn.Softmax) and num_outputs > 1:
        message = "a softmax before the cross-entropy: the loss stays far above 0, and gradients become small"
        return [Finding("A1", "warning", name, message, RETURN_LOGITS)]
    if isinstance(layer, nn.Sigmoid):
        message = "a sigmoid before the loss: losses on logits apply it themselves, in a numerically stable form"
        return [Finding("A1", "warning" if num_outputs > 1 else "note", name, message, RETURN_LOGITS)]
    return []


def softmax_for_multi_label(model_or_config: Any, targets: Any = None) -> list[Finding]:
    """Find a softmax, or a single-label loss, on multi-label data (A2).

    Either the config's problem type is single-label while rows of `targets` [n, labels] have several labels, or it is multi-label
    while the model ends in a softmax layer.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(problem_type="single_label_classification")
    >>> softmax_for_multi_label(config, [[1, 0, 1], [0, 1, 0]])[0].message
    '1 of 2 rows of targets have several labels, and problem_type is single_label_classification'
    """
    problem_type = _problem_type(model_or_config)
    if problem_type == "multi_label_classification" and isinstance(model_or_config, nn.Module):
        name, layer, _ = _ending(model_or_config)
        if isinstance(layer, nn.Softmax | nn.LogSoftmax):
            message = f"a softmax at its end makes labels exclusive, but problem_type is {problem_type}"
            return [
                Finding("A2", "warning", name, message, "remove it: the loss and the predictions apply a sigmoid to the logits")
            ]
    rows = np.zeros(0) if targets is None else np.asarray(targets)
    if problem_type != "single_label_classification" or rows.ndim != 2:
        return []
    several = int(((rows > 0.5).sum(axis=1) > 1).sum())
    message = f"{several:,} of {len(rows):,} rows of targets have several labels, and problem_type is {problem_type}"
    fix = "set problem_type to multi_label_classification: a sigmoid for each label, and thresholds from the validation set"
    return [Finding("A2", "warning", "model", message, fix)] if several else []


def range_without_scaled_sigmoid(targets: Any, config: Any) -> list[Finding]:
    """Find a regression on targets that accumulate at both ends of a range, with outputs that can be outside it (A3).

    `targets` [n]; `config` has a `problem_type`, and a `value_range` where the model has one.

    >>> from types import SimpleNamespace
    >>> stars = [1, 1, 1, 2, 3, 4, 4, 5, 5, 5]
    >>> range_without_scaled_sigmoid(stars, SimpleNamespace(problem_type="regression"))[0].message
    'many targets are exactly 1 or 5, and its outputs are not bounded to that range'
    """
    values = np.asarray(targets)
    if _problem_type(config) != "regression" or getattr(config, "value_range", None) is not None or values.size == 0:
        return []
    low, high = values.min(), values.max()
    enough = max(MIN_PILED, MIN_PILED_SHARE * values.size)
    if not low < high or (values == low).sum() < enough or (values == high).sum() < enough:
        return []
    message = f"many targets are exactly {low:g} or {high:g}, and its outputs are not bounded to that range"
    return [
        Finding("A3", "note", "model", message, "return low + (high - low) * sigmoid(x), with a margin of 5 to 10 % at both ends")
    ]


def plain_rnn_without_clipping(model: nn.Module, *, max_grad_norm: float | None) -> list[Finding]:
    """Find plain recurrent layers that train without gradient clipping: their gradients can explode through time (N3, N5).

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
            "clip the gradient norm (0.25 to 1), or use a gated cell: LSTM or GRU (N5)",
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.RNN | nn.RNNCell)
    ]


def relu_rnn_default_init(model: nn.Module) -> list[Finding]:
    """Find ReLU RNNs whose hidden-to-hidden matrices are far from a multiple of an orthogonal matrix (L5).

    The recommended identity is such a matrix, and training seldom moves far from it, so trained nets are seldom reported.

    >>> from nlpbp.core.init import init_recurrent_
    >>> rnn = nn.RNN(8, 8, nonlinearity="relu")
    >>> init_recurrent_(rnn, hidden="identity")
    >>> relu_rnn_default_init(rnn)
    []
    """
    message = "the hidden-to-hidden matrix of a ReLU is far from the identity and from orthogonal matrices: its memory vanishes"
    return [
        Finding("L5", "note", name or "model", message, 'nlpbp.core.init.init_recurrent_(rnn, hidden="identity") before training')
        for name, module in model.named_modules()
        if isinstance(module, nn.RNN | nn.RNNCell) and module.nonlinearity == "relu"
        if any(_distance_from_orthogonal(p) > MAX_FROM_ORTHOGONAL for key, p in module.named_parameters() if "weight_hh" in key)
    ]


def frozen_norm_in_training_mode(model: nn.Module) -> list[Finding]:
    """Find frozen modules that still change in training: updated batch statistics, or active dropout (T1).

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
        message = f"frozen, but in training mode, so its running statistics still change{_others(norms)}"
        findings.append(Finding("T1", "warning", norms[0], message, fix))
    if dropouts:
        message = f"dropout is active in a frozen module, so its outputs are random{_others(dropouts)}"
        findings.append(Finding("T1", "note", dropouts[0], message, fix))
    return findings


def _problem_type(model_or_config: Any) -> str | None:
    return getattr(getattr(model_or_config, "config", model_or_config), "problem_type", None)


def _dotted(name: str, child: str) -> str:
    return ".".join(part for part in (name, child) if part) or "model"


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


def _neighbours(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of layers with a bias and of the batch normalisation that must come directly after each."""
    for name, module in model.named_modules():
        in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        children = [(key, child) for key, child in module.named_children() if not isinstance(child, nn.Identity)]
        for (key, child), (norm_key, norm) in pairwise(children):
            if has_bias(child) and isinstance(norm, _BatchNorm) and (in_turn or _named_as_pair(key, norm_key)):
                yield _dotted(name, key), _dotted(name, norm_key)


def _named_as_pair(layer: str, norm: str) -> bool:
    """Distinguish conv1 and bn1, which belong together, from conv1 and bn2."""
    layer_match, norm_match = re.fullmatch(r"(?:conv|linear|lin|fc)(\d*)", layer), re.fullmatch(r"(?:bn|norm)(\d*)", norm)
    return layer_match is not None and norm_match is not None and layer_match[1] == norm_match[1]


def _ending(model: nn.Module) -> tuple[str, nn.Module | None, int]:
    """Return the last layer of `model` and the number of outputs of the linear layer before it; None if unknown."""
    path, module = "", model
    while children := list(module.named_children()):
        if module is not model and not isinstance(module, nn.Sequential):
            return path, None, 0
        path, module = _dotted(path, children[-1][0]), children[-1][1]
    leaves = [m for m in model.modules() if not any(m.children()) and not isinstance(m, nn.Identity | _DropoutNd)]
    before = leaves[leaves.index(module) - 1] if module in leaves[1:] else None
    return (path, module, before.out_features) if isinstance(before, nn.Linear) else (path, None, 0)


def _distance_from_orthogonal(matrix: Tensor) -> float:
    """Return the relative distance of `matrix` from multiples of orthogonal matrices: 0 for these, about 0.7 for random entries."""
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
