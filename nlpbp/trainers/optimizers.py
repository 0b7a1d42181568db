"""From a config's words to a schedule and an optimizer: the same ones in every recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import nn
from torch.optim import Optimizer

from nlpbp import config as sections
from nlpbp.core.groups import LayerGroup, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw, sgd
from nlpbp.core.schedules import (
    Schedule,
    WithMomentum,
    constant,
    cosine,
    cycle_ends,
    flat_cosine,
    linear,
    one_cycle,
    one_cycle_momentum,
    slanted_triangular,
    warm_restarts,
    warm_up,
)


def schedule_of(
    name: sections.ScheduleName,
    cycles: sections.Cycles,
    *,
    warmup: float = 0.0,
    momentum: tuple[float, float] | None = None,
) -> Schedule:
    """Return the schedule of that name; those that do not begin high by themselves rise in the first share `warmup`.

    Under 1cycle `momentum` gives Adam's first beta where the learning rate is low and where it is high; under others it stays.
    """
    if name == "one_cycle":
        return one_cycle() if momentum is None else WithMomentum(one_cycle(), one_cycle_momentum(high=momentum[0], low=momentum[1]))
    if name == "slanted_triangular":
        return slanted_triangular()
    if name == "warm_restarts":
        return warm_restarts(cycles=cycles.num_cycles, mult=cycles.cycle_mult, decay=cycles.cycle_decay)
    falling = {"cosine": cosine, "linear": linear, "constant": constant, "flat_cosine": flat_cosine}[name]()
    return warm_up(falling, share=warmup)


def epochs_of(epochs: int, schedule: sections.ScheduleName, cycles: sections.Cycles) -> int:
    """Return the epochs of a stage: those of its cycles, where the first one's are given.

    >>> epochs_of(1, "warm_restarts", sections.Cycles(num_cycles=3, cycle_len=1, cycle_mult=2))
    7
    """
    if schedule != "warm_restarts" or cycles.cycle_len is None:
        return epochs
    return sum(cycles.cycle_len * cycles.cycle_mult**index for index in range(cycles.num_cycles))


def snapshot_steps(total_steps: int, schedule: sections.ScheduleName, cycles: sections.Cycles) -> list[int]:
    """Return the steps after which the model is kept: the end of each cycle, if that is asked for.

    >>> snapshot_steps(70, "warm_restarts", sections.Cycles(snapshots=True))
    [10, 30, 70]
    """
    if schedule != "warm_restarts" or not cycles.snapshots:
        return []
    return sorted({max(1, round(end * total_steps)) for end in cycle_ends(cycles=cycles.num_cycles, mult=cycles.cycle_mult)})


def transformer_optimizer(optim: sections.Optim, *, lr: float) -> Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]:
    """Return what builds a transformer's optimizer, for a rate that is settled."""
    return partial(
        make_optimizer,
        name=optim.optimizer,
        lr=lr,
        head_lr=optim.head_lr,
        layer_decay=optim.layer_decay,
        similarity=optim.similarity,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
    )


def make_optimizer(
    model: nn.Module,
    layers: Sequence[LayerGroup],
    *,
    name: sections.OptimizerName,
    lr: float,
    head_lr: float | None = None,
    layer_decay: float = 1.0,
    similarity: Literal["high", "low"] | None = None,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> Optimizer:
    """Build the optimizer over all layer groups, frozen ones included; the first of `betas` is SGD's momentum."""
    groups = parameter_groups(
        layers,
        lr=lr,
        head_lr=head_lr,
        layer_decay=layer_decay,
        similarity=similarity,
        weight_decay=weight_decay,
        no_decay=no_decay_names(model),
    )
    return adamw(groups, betas=betas, eps=eps) if name == "adamw" else sgd(groups, momentum=betas[0])
