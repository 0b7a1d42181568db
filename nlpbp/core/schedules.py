"""Learning-rate schedules as functions of progress: stateless, so resuming one is knowing a number.

A `Schedule` maps progress in [0, 1] to a multiplier of the base rate. In a foreign loop:
`LambdaLR(optimizer, lambda step: schedule(step / total_steps))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant() -> Schedule:
    """Keep the base rate.

    >>> constant()(0.3)
    1.0
    """
    return lambda progress: 1.0


def linear(*, end: float = 0.0) -> Schedule:
    """Fall in a straight line from 1 to `end`.

    >>> linear()(0.25)
    0.75
    """
    return lambda progress: 1.0 + (end - 1.0) * progress


def cosine(*, end: float = 0.0) -> Schedule:
    """Fall along half a cosine from 1 to `end` (Loshchilov and Hutter 2016, without restarts).

    >>> [round(cosine()(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return lambda progress: end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warm_up(schedule: Schedule, *, share: float) -> Schedule:
    """Rise in a straight line from 0 during the first `share` of training, then run the whole of `schedule`.

    Raises `ValueError` unless 0 <= share < 1.

    >>> [round(warm_up(linear(), share=0.5)(p), 2) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the warm-up share must be at least 0 and below 1, not {share}")

    def warmed(progress: float) -> float:
        return progress / share if progress < share else schedule((progress - share) / (1.0 - share))

    return warmed


def slanted_triangular(*, peak: float = 0.1, ratio: float = 32.0) -> Schedule:
    """Rise in a straight line from 1 / `ratio` to 1 in the first `peak` of training, then fall back in a straight line.

    ULMFiT's schedule (Howard and Ruder 2018), with its numbers. It ends at 1 / `ratio`, not at 0.

    >>> [slanted_triangular(peak=0.5, ratio=4.0)(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.25, 0.625, 1.0, 0.625, 0.25]
    """

    def slanted(progress: float) -> float:
        height = progress / peak if progress < peak else (1.0 - progress) / (1.0 - peak)
        return (1.0 + height * (ratio - 1.0)) / ratio

    return slanted


def one_cycle(*, peak: float = 0.25, start: float = 1 / 25, end: float = 1e-5) -> Schedule:
    """Rise along half a cosine from `start` to 1 in the first `peak` of training, then fall along another one to `end`.

    Smith's 1cycle as fastai has it (pct_start 0.25, div 25, div_final 1e5). The momentum that goes the other way is
    `one_cycle_momentum`.

    >>> [round(one_cycle(peak=0.5, start=0.2)(p), 3) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.2, 0.6, 1.0, 0.5, 0.0]
    """

    def cycle(progress: float) -> float:
        if progress < peak:
            return start + (1.0 - start) * 0.5 * (1.0 - math.cos(math.pi * progress / peak))
        return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * (progress - peak) / (1.0 - peak)))

    return cycle


def one_cycle_momentum(*, peak: float = 0.25, high: float = 0.8, low: float = 0.7) -> Schedule:
    """Fall along half a cosine from `high` to `low` while 1cycle's rate rises, and go back while it falls; values, no multipliers.

    0.8 - 0.7 - 0.8 is what fastai gives a text learner's first Adam beta.

    >>> [round(one_cycle_momentum(peak=0.5)(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.8, 0.75, 0.7, 0.8]
    """

    def momentum(progress: float) -> float:
        turn = progress / peak if progress < peak else (1.0 - progress) / (1.0 - peak)
        return high + (low - high) * 0.5 * (1.0 - math.cos(math.pi * turn))

    return momentum
