"""The learning-rate range test (Smith 2015): raise the rate step by step, watch the loss, and take a rate where it falls.

The sweep runs through the same generator as training: it works for every model, at any stage of unfreezing, under accumulation and
on several processes, with each layer group at its fixed ratio to the others. Whatever it has changed is put back, bit for bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nlpbp.core.errors import NumericError
from nlpbp.core.schedules import Schedule
from nlpbp.train.loop import Step

Suggestion = Literal["steepest", "valley", "min_div_10", "edge_div_10", "edge_div_30"]
MakeSweep = Callable[[Schedule, int, int], Iterator[Step]]  # (schedule, number of steps, which data order) -> the training loop
Floats = np.ndarray[Any, np.dtype[np.float64]]

STOP_FACTOR = 4.0  # fastai's: a loss so many times the best one has diverged
BANDWIDTH = 0.3  # decades of the rate that a point of the smoothed curve is made from
EDGE_RISE = 0.1  # of the lowest loss: so far above it the loss has begun to diverge
MIN_FALL = 3.3  # standard errors of the smoothed curve: in a twentieth of curves that are nothing but noise a dip is deeper


@dataclass(frozen=True)
class Curve:
    """One sweep: the highest group's rate at each step, and the loss after the step before it was done with that rate.

    `diverged` tells that the sweep ended with its last rate because the loss had.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool = False


@dataclass(frozen=True)
class Finding:
    """What sweeps over several orders of the data say.

    `suggestions` are rates by name, of the mean curve, `intervals` the lowest and the highest of each order's own curve. Where
    there is no valley `refused` says why, and what is left is `edge_div_30`, far below the edge, if the loss diverges at all.
    `rates` and `smoothed` draw the mean curve.
    """

    curves: tuple[Curve, ...]
    rates: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestions: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    refused: str | None


def find_rate(
    make_steps: MakeSweep,
    *,
    model: nn.Module,
    optimizer: Optimizer | AcceleratedOptimizer,
    accelerator: Accelerator,
    start: float = 1e-6,
    end: float = 1.0,
    num_steps: int = 100,
    num_orders: int = 1,
    chance: float = math.inf,
    on_step: Callable[[], object] = lambda: None,
) -> Finding:
    """Sweep the highest group's rate from `start` to `end` in `num_steps`, once for each of `num_orders`, and suggest rates.

    `chance` is the loss of a model that answers the same for every example: a fall that ends above it is a new head that becomes
    less sure of its random answers, and no learning.

    `make_steps(schedule, total_steps, order)` starts the training loop; a sweep that diverges ends early. Model, optimizer, random
    numbers and modes are afterwards what they were; gradients are cleared. Call it in every process; `on_step` is for
    a progress bar. Raises `ValueError` for a range that is none.

    >>> from nlpbp.core.batch import Batch
    >>> from nlpbp.train.loop import train_steps
    >>> accelerator, model = Accelerator(cpu=True), nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> one = Batch({"input": torch.ones(4, 1)}, torch.full((4, 1), 3.0), torch.arange(4))
    >>> def squared_error(model, batch):
    ...     return (model(**batch.inputs) - batch.labels).square().mean()
    >>> def make_steps(schedule, total_steps, order):
    ...     return train_steps(model, [[one]] * total_steps, optimizer, accelerator=accelerator, loss_fn=squared_error,
    ...                        schedule=schedule, total_steps=total_steps, max_grad_norm=None)
    >>> before = model.weight.item()
    >>> found = find_rate(make_steps, model=model, optimizer=optimizer, accelerator=accelerator, start=1e-4, end=10.0)
    >>> 0.01 < found.suggestions["steepest"] < 0.5, model.weight.item() == before
    (True, True)
    """
    if not 0.0 < start < end:
        raise ValueError(f"rates go from low to high, not from {start} to {end}")
    curves = []
    for order in range(num_orders):
        with restored(model, optimizer, accelerator=accelerator):
            schedule = exponential(optimizer, start=start, end=end)
            curves.append(sweep(make_steps(schedule, num_steps, order), num_steps=num_steps, on_step=on_step))
    return read_curves(curves, chance=chance)


def chosen(found: Finding, wanted: Suggestion) -> Suggestion | None:
    """Return the name of the wanted suggestion, or else of one that the curve has; None where it has none.

    >>> chosen(Finding((), (), (), {"edge_div_30": 1e-3}, {}, "no valley"), "steepest")
    'edge_div_30'
    """
    names: tuple[Suggestion, ...] = (wanted, "edge_div_10", "edge_div_30", "steepest")
    return next((name for name in names if name in found.suggestions), None)


def exponential(optimizer: Optimizer | AcceleratedOptimizer, *, start: float, end: float) -> Schedule:
    """Make the schedule under which the highest rate of any group rises from `start` to `end` by the same factor every step."""
    highest = max(group.get("base_lr", group["lr"]) for group in optimizer.param_groups)
    return lambda progress: start * math.pow(end / start, progress) / highest


def sweep(steps: Iterator[Step], *, num_steps: int, on_step: Callable[[], object] = lambda: None) -> Curve:
    """Record rate and loss, step by step, until the loss has diverged."""
    rates: list[float] = []
    losses: list[float] = []
    best, diverged = math.inf, False
    try:
        for step in steps:
            rates.append(step.lr)
            losses.append(step.loss)
            on_step()
            recent = float(np.mean(losses[-5:]))
            best = min(best, recent)
            if len(losses) > num_steps // 10 and recent > STOP_FACTOR * max(best, 1e-8):
                diverged = True
                break
    except NumericError:  # the rate was too high, which is what the sweep is to find out
        diverged = True
    return Curve(tuple(rates[:-1]), tuple(losses[1:]), diverged)  # what a rate does to the loss shows one step later


def read_curves(curves: Sequence[Curve], *, chance: float = math.inf) -> Finding:
    """Read from the curves' mean whether there is a valley and which rates it suggests, and from each alone how sure that is.

    What lies above `chance` is not read.
    """
    length = min(len(curve.rates) for curve in curves)
    if length < 10:
        return Finding(
            tuple(curves), (), (), {}, {}, f"only {length} steps were done before the loss diverged: begin at a lower rate"
        )
    rates = curves[0].rates[:length]
    mean = np.mean([curve.losses[:length] for curve in curves], axis=0)
    level, _, errors = smooth(np.log10(rates), mean)
    learned = np.minimum(level, chance)
    drawn = {"curves": tuple(curves), "rates": rates, "smoothed": tuple(level.tolist())}
    tops = [int(learned[: index + 1].argmax()) for index in range(length)]  # where each point's fall begins
    refused = None
    if not np.any(learned[tops] - learned > MIN_FALL * np.hypot(errors[tops], errors)):
        refused = "the loss falls nowhere by more than its noise" + (" below that of chance" if level.max() > chance else "")
    suggestions = suggest(Curve(rates, tuple(mean.tolist()), any(curve.diverged for curve in curves)), chance=chance)
    if refused is not None:
        suggestions = {name: rate for name, rate in suggestions.items() if name == "edge_div_30"}
    each = [suggestions, *(suggest(curve, chance=chance) for curve in curves)]
    found = {name: [one[name] for one in each if name in one] for name in suggestions}
    intervals = {name: (min(values), max(values)) for name, values in found.items()}
    return Finding(**drawn, suggestions=suggestions, intervals=intervals, refused=refused)


def suggest(curve: Curve, *, chance: float = math.inf) -> dict[str, float]:
    """Read rates from a curve: three from its valley, two from where it diverges.

    Of the longest fall below `chance`: steepest, where it is fastest against the logarithm of the rate; valley, two thirds of the
    way down; min_div_10: a tenth of the rate of the lowest loss. edge_div_10: a tenth of the rate at which the loss has risen by a
    tenth above its lowest, or else of the one that made it diverge, if one did; edge_div_30: a thirtieth. A running average would
    lag behind the curve and move all of them to rates several times higher, so the curve is smoothed by straight lines through
    its neighbourhoods.
    """
    places = np.log10(curve.rates)
    level, slope, errors = smooth(places, np.array(curve.losses))
    lowest = int(level.argmin())
    first, last = _longest_fall(np.minimum(level, chance))
    risen = level - level[lowest] > np.maximum(EDGE_RISE * abs(level[lowest]), MIN_FALL * errors)
    edges = [*(lowest + np.flatnonzero(risen[lowest:])), *([len(places) - 1] if curve.diverged else [])]
    return {
        "steepest": float(10 ** places[first + int(slope[first : last + 1].argmin())]),
        "valley": float(10 ** (places[first] + (places[last] - places[first]) * 2 / 3)),
        "min_div_10": float(10 ** places[lowest] / 10),
    } | ({f"edge_div_{parts}": float(10 ** places[edges[0]] / parts) for parts in (10, 30)} if edges else {})


def smooth(places: Floats, values: Floats, *, bandwidth: float = BANDWIDTH) -> tuple[Floats, Floats, Floats]:
    """Fit a straight line around each place (Gaussian weights); return levels, slopes, and the levels' standard errors.

    >>> level, slope, _ = smooth(np.arange(9.0), 2 * np.arange(9.0), bandwidth=2.0)
    >>> np.allclose(level, 2 * np.arange(9.0)), np.allclose(slope, 2.0)
    (True, True)
    """
    distance = places[None, :] - places[:, None]
    weights = np.exp(-0.5 * (distance / bandwidth) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    centre = (weights * distance).sum(axis=1, keepdims=True)
    spread = (weights * (distance - centre) ** 2).sum(axis=1, keepdims=True)
    slope_weights = weights * (distance - centre) / np.maximum(spread, 1e-12)
    level_weights = weights - slope_weights * centre
    level, slope = level_weights @ values, slope_weights @ values
    steps = np.diff(values)  # from neighbour to neighbour; a median, for where the loss blows up they are large
    noise = np.median(np.abs(steps - np.median(steps))) * 1.4826 / math.sqrt(2.0)
    return level, slope, noise * np.sqrt((level_weights**2).sum(axis=1))


def _longest_fall(level: Floats) -> tuple[int, int]:
    """Return the first and last index of the stretch in which the curve falls furthest without a rise."""
    best, first = (0, 0), 0
    for index in range(1, len(level)):
        if level[index] >= level[index - 1]:
            first = index
        elif level[first] - level[index] > level[best[0]] - level[best[1]]:
            best = (first, index)
    return best


@contextmanager
def restored(model: nn.Module, optimizer: Optimizer | AcceleratedOptimizer, *, accelerator: Accelerator) -> Iterator[None]:
    """Put back, at the end of the block, weights, buffers, modes, optimizer, loss scale and random numbers as they were.

    >>> model = nn.Linear(1, 1)
    >>> before, accelerator = model.bias.item(), Accelerator(cpu=True)
    >>> with restored(model, torch.optim.SGD(model.parameters(), lr=0.1), accelerator=accelerator):
    ...     _ = nn.init.constant_(model.bias, 7.0)
    >>> model.bias.item() == before
    True
    """
    plain = getattr(optimizer, "optimizer", optimizer)
    tensors = [_local(tensor) for tensor in (*model.parameters(), *model.buffers())]
    values = [tensor.clone() for tensor in tensors]
    modes = [(module, module.training) for module in model.modules()]
    state = {parameter: _copied(of_parameter) for parameter, of_parameter in plain.state.items()}
    settings = [{name: value for name, value in group.items() if name != "params"} for group in plain.param_groups]
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    numbers = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    on_device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what it has gathered of the weights is no longer so
        optimizer.zero_grad()
        plain.state.clear()
        plain.state.update(state)
        for group, setting in zip(plain.param_groups, settings, strict=True):
            for name in group.keys() - setting.keys() - {"params"}:
                del group[name]
            group.update(setting)
        for module, training in modes:
            module.training = training
        if scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
            accelerator.scaler._per_optimizer_states.clear()  # a step that was left in the middle is none
        accelerator.gradient_state._set_sync_gradients(True)
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])
        torch.set_rng_state(numbers[2])
        if on_device is not None:
            torch.cuda.set_rng_state_all(on_device)


def _local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    value = tensor.detach()
    return value.to_local() if isinstance(value, DTensor) else value


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def set_highest_rate(optimizer: Optimizer | AcceleratedOptimizer, rate: float) -> None:
    """Scale every group's base rate so that the highest one is `rate`: the ratios of the groups stay.

    >>> layer = nn.Linear(1, 1)
    >>> groups = [{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.2}]
    >>> optimizer = torch.optim.SGD(groups, lr=0.0)
    >>> set_highest_rate(optimizer, 1.0); [group["lr"] for group in optimizer.param_groups]
    [0.5, 1.0]
    """
    highest = max(group.get("base_lr", group["lr"]) for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] = group.get("base_lr", group["lr"]) * rate / highest


def try_rates(
    make_steps: MakeSweep,
    rates: Sequence[float],
    *,
    model: nn.Module,
    optimizer: Optimizer | AcceleratedOptimizer,
    accelerator: Accelerator,
    schedule: Schedule,
    num_steps: int = 60,
    on_step: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train shortly at each of `rates` under `schedule` and return the mean loss of the last third; infinite where it diverged.

    A check of what a sweep suggests; everything is put back as `find_rate` does.
    """
    found = []
    for rate in rates:
        with restored(model, optimizer, accelerator=accelerator):
            set_highest_rate(optimizer, rate)
            losses = []
            try:
                for step in make_steps(schedule, num_steps, 0):
                    losses.append(step.loss)
                    on_step()
            except NumericError:
                losses = [math.inf]
            found.append(float(np.mean(losses[-max(1, num_steps // 3) :])))
    return found
