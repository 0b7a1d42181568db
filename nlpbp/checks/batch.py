"""Rules that run a model on a sample batch and check the outputs of its layers.

`forward` is a function without arguments that runs the model on a batch and returns its output. It is called in evaluation mode and
without gradients, and the model is left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from nlpbp.checks.findings import Finding

T = TypeVar("T")
Forward = Callable[[], Any]

MAX_DEAD = 0.9  # in a deep net with collapsed activations half of the units are zero by chance alone, and in trained nets more
MAX_SCALE_CHANGE = 1e3  # torch's default initialisation shrinks activations by a factor of 2.4 per ReLU layer, He's does not
MIN_LAYERS = 4
MIN_VALUES = 8  # of each unit
RETURN_LOGITS = "return logits: the losses of torch, transformers and nlpbp expect logits"


def normalised_outputs(outputs: Any) -> list[Finding]:
    """Find outputs [n, labels] for a sample batch that are probabilities or log-probabilities instead of logits (A1).

    `outputs` is a tensor, an array, or an output of transformers with `logits`. Outputs of sigmoids cannot be distinguished from
    small logits.

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
        return [Finding("A1", "warning", "model", "its outputs are probabilities: each row sums to 1", RETURN_LOGITS)]
    if (rows <= 0).all() and (rows.logsumexp(dim=1).abs() < tolerance).all():
        message = "its outputs are log-probabilities, and the cross-entropy on logits applies another log-softmax"
        return [Finding("A1", "note", "model", message, RETURN_LOGITS)]
    return []


def dead_relus(model: nn.Module, forward: Forward, *, max_share: float = MAX_DEAD) -> list[Finding]:
    """Find dead ReLUs: layers where more than `max_share` of the units are zero for the whole sample batch (T3).

    A unit is a channel of [n, channels, height, width], else an entry of the last dimension; with fewer than 8 values per unit
    there is no finding. Inputs of exactly zero come from zero-initialised branches, and are not dead. ReLUs that are called as
    functions are not found.

    >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    >>> _ = nn.init.constant_(model[0].bias, -100.0)
    >>> [finding.module for finding in dead_relus(model, lambda: model(torch.rand(8, 2)))]
    ['1']
    """
    with measuring(model, kinds=(nn.ReLU,), measure=_live_units, of_inputs=True) as seen:
        forward()
    live: dict[str, Tensor] = {}
    for name, units in seen:  # a layer may be called several times
        live[name] = live[name] | units if name in live and len(live[name]) == len(units) else units
    shares = {name: 1.0 - units.double().mean().item() for name, units in live.items()}
    return [
        Finding(
            "T3",
            "warning",
            name,
            f"{share:.0%} of its units are zero for the whole batch, so nothing trains them",
            "initialise the layer before it with kaiming_normal_, lower the learning rate, or clip gradients",
        )
        for name, share in shares.items()
        if share > max_share
    ]


def weak_initialisation(model: nn.Module, forward: Forward) -> list[Finding]:
    """Find vanishing or exploding activations: a spread that changes over a thousandfold from the first to the last hidden layer
    (T3).

    The spread is the standard deviation over the sample batch of each linear and convolution layer's outputs, in the order of
    calls. Models with normalisation layers are skipped, because these keep the scale, whatever the weights.

    >>> model = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(32, 32), nn.ReLU())])
    >>> len(weak_initialisation(model, lambda: model(torch.randn(64, 32))))
    1
    """
    if any("norm" in type(module).__name__.lower() for module in model.modules()):
        return []
    with measuring(model, kinds=(nn.Linear, _ConvNd), measure=_spread) as seen:
        forward()
    hidden = seen[:-1]  # an output layer may be initialised to 0
    if len(hidden) < MIN_LAYERS or hidden[0][1] == 0:
        return []
    (first, before), (last, after) = hidden[0], hidden[-1]
    ratio = after / before
    if 1 / MAX_SCALE_CHANGE <= ratio <= MAX_SCALE_CHANGE:
        return []
    message = f"the spread of its outputs over the batch is {ratio:.0e} times that of {first}"
    fix = "initialise ReLU layers with kaiming_normal_ (He et al. 2015; torch's default is a sixth of its variance), or add norms"
    return [Finding("T3", "warning", last, message, fix)]


def layers_into_norms(model: nn.Module, forward: Forward) -> list[tuple[str, str]]:
    """Return the names of each layer with a bias and of the batch normalisation that its output goes into directly.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> layers_into_norms(model, lambda: model(torch.rand(4, 2)))
    [('0', '1')]
    """
    made: dict[int, tuple[str, Tensor, int]] = {}  # keeps the tensors alive, so that no id is reused
    pairs: dict[tuple[str, str], None] = {}

    def leaves(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = (name, output, _version(output))

    def enters(name: str, given: tuple[Any, ...]) -> None:
        before = made.get(id(given[0])) if given else None
        if before is not None and _version(before[1]) == before[2]:  # no ReLU has changed it in place
            pairs[before[0], name] = None

    handles = []
    for name, module in model.named_modules():
        if has_bias(module):
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: leaves(name, output)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(lambda _, given, name=name: enters(name, given)))
    with _evaluating(model, handles):
        forward()
    return list(pairs)


def has_bias(module: nn.Module) -> bool:
    """Tell whether a module is a linear or convolution layer with a bias.

    >>> has_bias(nn.Linear(1, 1)), has_bias(nn.Linear(1, 1, bias=False))
    (True, False)
    """
    return isinstance(module, nn.Linear | _ConvNd) and module.bias is not None


@contextmanager
def measuring(
    model: nn.Module, *, kinds: tuple[type[nn.Module], ...] = (), measure: Callable[[Tensor], T | None], of_inputs: bool = False
) -> Iterator[list[tuple[str, T]]]:
    """Measure the outputs (or inputs) of modules of these kinds during evaluation in the body, in the order of calls.

    Tensors are measured at once, because they may be changed in place later. None is not recorded.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    >>> with measuring(model, kinds=(nn.Linear,), measure=lambda output: output.shape[1]) as seen:
    ...     _ = model(torch.ones(4, 2))
    >>> seen, model.training
    ([('0', 3)], True)
    """
    seen: list[tuple[str, T]] = []

    def note(name: str, values: Any) -> None:
        if isinstance(values, Tensor) and values.ndim > 1 and (measured := measure(values)) is not None:
            seen.append((name, measured))

    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    if of_inputs:
        handles = [m.register_forward_pre_hook(lambda _, given, name=name: note(name, given[0])) for name, m in modules]
    else:
        handles = [m.register_forward_hook(lambda _, __, output, name=name: note(name, output)) for name, m in modules]
    with _evaluating(model, handles):
        yield seen


@contextmanager
def _evaluating(model: nn.Module, handles: list[Any]) -> Iterator[None]:
    """Run the body in evaluation mode without gradients; then remove the hooks, and restore the mode of every module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode


def _logits(outputs: Any) -> Tensor | None:
    outputs = getattr(outputs, "logits", outputs)
    outputs = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    outputs = torch.from_numpy(outputs) if isinstance(outputs, np.ndarray) else outputs
    return outputs if isinstance(outputs, Tensor) else None


def _live_units(inputs: Tensor) -> Tensor | None:
    units = 1 if inputs.ndim > 3 else inputs.ndim - 1
    by_unit = inputs.movedim(units, 0).flatten(1)
    return (by_unit >= 0).any(dim=1) if by_unit.shape[1] >= MIN_VALUES else None


def _spread(output: Tensor) -> float | None:
    """Return the standard deviation over examples, averaged over all else; None for a batch of one."""
    return float(output.detach().double().var(dim=0).mean().sqrt()) if len(output) > 1 else None


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; under `torch.inference_mode` this is not counted."""
    return 0 if tensor.is_inference() else tensor._version
