"""Rules that look at a model for what breaks a practice; `check_model` asks them all, and those on its optimizer.

A rule returns its findings, most often none: one that cannot be sure says nothing. Those that must see numbers take `forward`, a
function without arguments that runs the model on a sample batch and returns its output. It is called in evaluation mode and
without gradients, and leaves the model as it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from nlpbp.analysis.findings import Finding
from nlpbp.analysis.optimizer_check import (
    decay_on_norms,
    no_decay_at_all,
    one_rate_for_all_layers,
    optimizer_misses_parameters,
    tied_twice,
)

T = TypeVar("T")
Forward = Callable[[], Any]

MAX_DEAD = 0.9  # a deep net whose activations have collapsed has half of its units at zero by chance alone, trained ones have more
MAX_SCALE_CHANGE = 1e3  # torch's own initialisation loses a factor of 2.4 a ReLU layer, He's none
MIN_LAYERS = 4
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
    of it. `pretrained` says that the body comes from elsewhere. `targets` are those of the training data: [n, labels] of 0 and 1 for
    several labels, [n] for a number.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    >>> [(finding.practice, finding.module) for finding in check_model(model)]
    [('A1', '1')]
    """
    findings = [
        *bias_before_norm(model, forward=forward),
        *softmax_before_loss(model),
        *softmax_for_multi_label(model, targets=targets),
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
        with _measuring(model, kinds=(), measure=lambda output: None):
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
    pairs = _neighbours(model) if forward is None else _seen_pairs(model, forward)
    return [
        Finding(
            "N8",
            "note",
            name,
            f"its bias does nothing: {norm_name} subtracts the batch's mean right after it",
            "make the layer with bias=False, and train it from the start; pretrained weights can stay as they are",
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
    if _problem_type(model) == "regression":
        return []
    name, layer, num_outputs = _ending(model)
    if isinstance(layer, nn.LogSoftmax):
        return [_normalised(name, "note", "a log-softmax at its end, which the cross-entropy on logits does once more")]
    if isinstance(layer, nn.Softmax) and num_outputs > 1:
        return [
            _normalised(name, "warning", "a softmax before the cross-entropy: losses stay far above 0 and gradients become small")
        ]
    if isinstance(layer, nn.Sigmoid):
        level = "warning" if num_outputs > 1 else "note"
        return [_normalised(name, level, "a sigmoid before the loss: one that takes logits does it once more, and stably")]
    return []


def normalised_outputs(outputs: Any) -> list[Finding]:
    """Tell from a model's outputs for a sample batch, [n, labels], that they are not logits but probabilities, or their logarithms (A1).

    `outputs` is a tensor, an array, or an output of transformers with `logits`. Sigmoids cannot be told from small logits.

    >>> normalised_outputs(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))[0].message
    'its outputs are probabilities: each row sums to 1'
    >>> normalised_outputs(torch.tensor([[0.25, 0.75], [0.5, -0.5]]))
    []
    """
    logits = _logits(outputs)
    if logits is None or logits.ndim != 2 or not len(logits) or logits.shape[1] < 2 or not logits.is_floating_point():
        return []
    rows, tolerance = logits.detach().double(), max(1e-4, torch.finfo(logits.dtype).eps)
    if (rows >= 0).all() and ((rows.sum(dim=1) - 1).abs() < tolerance).all():
        return [_normalised("model", "warning", "its outputs are probabilities: each row sums to 1")]
    if (rows <= 0).all() and (rows.logsumexp(dim=1).abs() < tolerance).all():
        return [_normalised("model", "note", "its outputs are log-probabilities, which the cross-entropy on logits makes once more")]
    return []


def softmax_for_multi_label(model_or_config: Any, targets: Any = None) -> list[Finding]:
    """Find that several labels can hold, and a softmax would let one of them win (A2).

    Either the config says one label a text while rows of `targets` [n, labels] hold several, or it says several while the model
    ends in a softmax layer.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(problem_type="single_label_classification")
    >>> softmax_for_multi_label(config, targets=[[1, 0, 1], [0, 1, 0]])[0].message
    '1 of 2 rows of targets have several labels, and problem_type is single_label_classification'
    """
    fix = "set problem_type to multi_label_classification: a sigmoid for each label, and thresholds from the validation part"
    problem_type = _problem_type(model_or_config)
    if problem_type == "multi_label_classification" and isinstance(model_or_config, nn.Module):
        name, layer, _ = _ending(model_or_config)
        if isinstance(layer, nn.Softmax | nn.LogSoftmax):
            message = "a softmax at its end lets one label win, and problem_type is multi_label_classification"
            return [Finding("A2", "warning", name, message, "remove it: the loss and the answers are sigmoids of the logits")]
    rows = np.zeros((0, 1)) if targets is None else np.asarray(targets)
    if problem_type != "single_label_classification" or rows.ndim != 2:
        return []
    several = int(((rows > 0.5).sum(axis=1) > 1).sum())
    message = f"{several:,} of {len(rows):,} rows of targets have several labels, and problem_type is {problem_type}"
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
    return [Finding("A3", "note", "model", message, "answer low + (high - low) * sigmoid(x), with 5 to 10 % of margin at both ends")]


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
            name,
            "a plain recurrent layer trains without gradient clipping, and its gradients can explode",
            "clip the gradient's norm (0.25 to 1), or take a gated cell: LSTM or GRU (N5)",
        )
        for name, module in _named_modules(model)
        if isinstance(module, nn.RNN | nn.RNNCell)
    ]


def relu_rnn_default_init(model: nn.Module) -> list[Finding]:
    """Find plain ReLU recurrent layers whose hidden-to-hidden matrices are neither near the identity nor orthogonal, at any scale (L5).

    >>> from nlpbp.core.init import init_recurrent_
    >>> rnn = nn.RNN(8, 8, nonlinearity="relu")
    >>> init_recurrent_(rnn, hidden="identity")
    >>> relu_rnn_default_init(rnn)
    []
    """
    findings = []
    for name, module in _named_modules(model):
        if isinstance(module, nn.RNN | nn.RNNCell) and module.nonlinearity == "relu":
            matrices = [p for key, p in module.named_parameters() if key.startswith("weight_hh")]
            if any(_distance_from_orthogonal(matrix) > MAX_FROM_ORTHOGONAL for matrix in matrices):
                message = "the hidden-to-hidden matrix of a ReLU is neither the identity nor orthogonal: what it remembers dies out"
                fix = 'nlpbp.core.init.init_recurrent_(rnn, hidden="identity") before training'
                findings.append(Finding("L5", "note", name, message, fix))
    return findings


def frozen_norm_in_training_mode(model: nn.Module) -> list[Finding]:
    """Find frozen parts that would still change or waver: batch statistics that move on, dropout that drops (T1).

    >>> body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(False)
    >>> [(finding.module, finding.level) for finding in frozen_norm_in_training_mode(nn.Sequential(body, nn.Linear(2, 2)))]
    [('0.1', 'warning')]
    """
    fix = "switch modes with nlpbp.core.freezing.train_mode, or call eval() on frozen parts after each train()"
    findings = []
    for block_name, block in _frozen_blocks(model, ""):
        active = [(_dotted(block_name, name), module) for name, module in block.named_modules() if module.training]
        norms = [name for name, module in active if isinstance(module, _BatchNorm) and module.track_running_stats]
        dropouts = [name for name, module in active if isinstance(module, _DropoutNd) and module.p > 0]
        if norms:
            message = f"frozen, and in training mode its running statistics move on{_others(norms)}"
            findings.append(Finding("T1", "warning", norms[0], message, fix))
        if dropouts:
            message = f"drops activations of a frozen part, so what it hands on wavers{_others(dropouts)}"
            findings.append(Finding("T1", "note", dropouts[0], message, fix))
    return findings


def dead_relus(model: nn.Module, forward: Forward, *, max_share: float = MAX_DEAD) -> list[Finding]:
    """Find the ReLU layers of which more than `max_share` of the units are zero on the whole sample batch (T3).

    A unit is a channel of [n, channels, height, width], else an entry of the last dimension. ReLUs that are called as functions
    are not seen. A batch that is small, or whose examples are all alike, says little.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    >>> _ = nn.init.constant_(model[0].bias, -100.0)
    >>> [finding.module for finding in dead_relus(model, lambda: model(torch.rand(8, 2)))]
    ['1']
    """
    with _measuring(model, kinds=(nn.ReLU,), measure=_dead_units) as seen:
        forward()
    alive: dict[str, Tensor] = {}
    for name, is_dead in seen:  # a layer may be called several times
        alive[name] = ~is_dead | alive[name] if name in alive and len(alive[name]) == len(is_dead) else ~is_dead
    shares = {name: 1.0 - units.float().mean().item() for name, units in alive.items()}
    return [
        Finding(
            "T3",
            "warning",
            name,
            f"{share:.0%} of its units are zero for the whole batch, and get no gradient",
            "initialise the layer before it with kaiming_normal_, lower the rate, or clip",
        )
        for name, share in shares.items()
        if share > max_share
    ]


def weak_initialisation(model: nn.Module, forward: Forward) -> list[Finding]:
    """Find that what tells examples apart shrinks or grows by more than a thousand times from the first layer to the last hidden one (T3).

    Measured is the standard deviation over the sample batch of each linear and convolution layer's outputs, in the order of calls.
    Models with normalisation layers are left alone: these hold the scale, whatever the weights.

    >>> model = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(32, 32), nn.ReLU())])
    >>> len(weak_initialisation(model, lambda: model(torch.randn(64, 32))))
    1
    """
    if any("norm" in type(module).__name__.lower() for module in model.modules()):
        return []
    with _measuring(model, kinds=(nn.Linear, _ConvNd), measure=_spread) as seen:
        forward()
    hidden = [(name, spread) for name, spread in seen if spread is not None][:-1]  # an output layer may begin at 0
    if len(hidden) < MIN_LAYERS or hidden[0][1] == 0:
        return []
    (first, before), (last, after) = hidden[0], hidden[-1]
    ratio = after / before
    if 1 / MAX_SCALE_CHANGE <= ratio <= MAX_SCALE_CHANGE:
        return []
    message = f"the spread of its outputs over the batch is {ratio:.0e} times that of {first}"
    fix = "initialise ReLU layers with kaiming_normal_ (He et al. 2015; torch's default is a sixth of its variance), or add norms"
    return [Finding("T3", "warning", last, message, fix)]


def _normalised(name: str, level: Any, message: str) -> Finding:
    return Finding("A1", level, name, message, "return logits: the losses of torch, transformers and nlpbp take these")


def _problem_type(model_or_config: Any) -> str | None:
    return getattr(getattr(model_or_config, "config", model_or_config), "problem_type", None)


def _logits(outputs: Any) -> Tensor | None:
    outputs = getattr(outputs, "logits", outputs)
    outputs = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    outputs = torch.from_numpy(outputs) if isinstance(outputs, np.ndarray) else outputs
    return outputs if isinstance(outputs, Tensor) else None


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        yield name or "model", module


def _dotted(name: str, child: str) -> str:
    return ".".join(part for part in (name, child) if part) or "model"


def _others(names: list[str]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


def _has_bias(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd) and module.bias is not None


def _neighbours(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a layer with a bias and of the batch normalisation that must come right after it."""
    for name, module in model.named_modules():
        in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        children = [(key, child) for key, child in module.named_children() if not isinstance(child, nn.Identity)]
        for (key, child), (norm_key, norm) in pairwise(children):
            if _has_bias(child) and isinstance(norm, _BatchNorm) and (in_turn or _named_as_pair(key, norm_key)):
                yield _dotted(name, key), _dotted(name, norm_key)


def _named_as_pair(layer: str, norm: str) -> bool:
    """Tell conv1 and bn1 from conv1 and bn2, which comes before another layer."""
    layer_match, norm_match = re.fullmatch(r"(?:conv|linear|lin|fc)(\d*)", layer), re.fullmatch(r"(?:bn|norm)(\d*)", norm)
    return layer_match is not None and norm_match is not None and layer_match[1] == norm_match[1]


def _seen_pairs(model: nn.Module, forward: Forward) -> list[tuple[str, str]]:
    """Return the same pairs as one batch shows them: the very tensor that the layer returned enters the normalisation."""
    made: dict[int, tuple[str, Tensor, int]] = {}  # keeps the tensors, so that no id is given twice
    pairs: dict[tuple[str, str], None] = {}

    def leaves(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = (name, output, _version(output))

    def enters(name: str, given: tuple[Any, ...]) -> None:
        before = made.get(id(given[0])) if given else None
        if before is not None and _version(before[1]) == before[2]:  # no ReLU has changed it in place
            pairs[before[0], name] = None

    handles = []
    for name, module in _named_modules(model):
        if _has_bias(module):
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: leaves(name, output)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(lambda _, given, name=name: enters(name, given)))
    try:
        with _evaluating(model):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return list(pairs)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _ending(model: nn.Module) -> tuple[str, nn.Module | None, int]:
    """Return the layer that `model` ends in, and how many outputs the linear layer before it has; 0 where this cannot be known."""
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
    scale = product.diagonal().mean()
    away = product - scale * torch.eye(len(product), dtype=product.dtype, device=product.device)
    return float(away.norm() / product.norm()) if product.norm() > 0 else 0.0


def _frozen_blocks(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules all of whose parameters are frozen."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        yield name, module
    elif parameters:
        for key, child in module.named_children():
            yield from _frozen_blocks(child, _dotted(name, key))


def _dead_units(output: Tensor) -> Tensor:
    units = 1 if output.ndim > 3 else output.ndim - 1
    return (output == 0).movedim(units, 0).flatten(1).all(dim=1)


def _spread(output: Tensor) -> float | None:
    """Return the standard deviation over examples, averaged over all else; None for a batch of one."""
    return float(output.detach().double().var(dim=0).mean().sqrt()) if len(output) > 1 else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode without gradients; every module then has its mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _measuring(
    model: nn.Module, *, kinds: tuple[type[nn.Module], ...], measure: Callable[[Tensor], T]
) -> Iterator[list[tuple[str, T]]]:
    """Evaluate in the body, and measure each output of modules of these kinds at once: what comes later may change it in place."""
    seen: list[tuple[str, T]] = []

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 1:
            seen.append((name, measure(output)))

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in _named_modules(model)
        if isinstance(module, kinds)
    ]
    try:
        with _evaluating(model):
            yield seen
    finally:
        for handle in handles:
            handle.remove()
