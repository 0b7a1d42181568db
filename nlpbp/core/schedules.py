"""Learning-rate schedules as stateless functions of progress, so that resuming needs only the step number.

A `Schedule` maps progress in [0, 1] to a multiplier of the base rate. In any other training loop: `LambdaLR(optimizer, lambda step:
schedule(step / total_steps))`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class WithMomentum:
    """A schedule of the learning rate with one of Adam's first beta (values, no multipliers), for `train_steps`.

    >>> WithMomentum(one_cycle(), one_cycle_momentum())(0.25)
    1.0
    """

    rate: Schedule
    momentum: Schedule

    def __call__(self, progress: float) -> float:
        """Return the multiplier of the learning rate."""
        return self.rate(progress)


def constant() -> Schedule:
    """Keep the base rate.

    >>> constant()(0.3)
    1.0
    """
    return lambda progress: 1.0


def linear(*, end: float = 0.0) -> Schedule:
    """Decay linearly from 1 to `end`.

    >>> linear()(0.25)
    0.75
    """
    return lambda progress: 1.0 + (end - 1.0) * progress


def cosine(*, end: float = 0.0) -> Schedule:
    """Cosine decay from 1 to `end` (Loshchilov and Hutter 2016, without restarts).

    >>> [round(cosine()(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return lambda progress: end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def warm_up(schedule: Schedule, *, share: float) -> Schedule:
    """Warm up linearly from 0 during the first `share` of training, then run the whole of `schedule`.

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
    """Slanted triangular: rise linearly from 1 / `ratio` to 1 in the first `peak` of training, then decay linearly back.

    ULMFiT's schedule (Howard and Ruder 2018), with its default values. It ends at 1 / `ratio`, not at 0.

    >>> [slanted_triangular(peak=0.5, ratio=4.0)(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [0.25, 0.625, 1.0, 0.625, 0.25]
    """

    def slanted(progress: float) -> float:
        height = progress / peak if progress < peak else (1.0 - progress) / (1.0 - peak)
        return (1.0 + height * (ratio - 1.0)) / ratio

    return slanted


def one_cycle(*, peak: float = 0.25, start: float = 1 / 25, end: float = 1e-5) -> Schedule:
    """1cycle: rise along a cosine from `start` to 1 in the first `peak` of training, then decay along another one to `end`.

    Smith's 1cycle with fastai's defaults (pct_start 0.25, div 25, div_final 1e5). The inverse cycle of the momentum is
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
    """The momentum for 1cycle: from `high` to `low` along a cosine while the rate rises, and back while it decays; values, not
    multipliers.

    0.8 - 0.7 - 0.8 is what fastai uses as the first Adam beta of a text learner.

    >>> [round(one_cycle_momentum(peak=0.5)(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.8, 0.75, 0.7, 0.8]
    """

    def momentum(progress: float) -> float:
        turn = progress / peak if progress < peak else (1.0 - progress) / (1.0 - peak)
        return high + (low - high) * 0.5 * (1.0 - math.cos(math.pi * turn))

    return momentum


def flat_cosine(*, flat: float = 0.72) -> Schedule:
    """Keep the base rate for the first `flat` of training, then decay to 0 along a cosine (fastai's fit_flat_cos).

    >>> [round(flat_cosine(flat=0.5)(p), 3) for p in (0.0, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    return joined((constant(), flat), (cosine(), 1.0 - flat))


def joined(*parts: tuple[Schedule, float]) -> Schedule:
    """Run schedules one after the other; each is given with its share of training, and gets its own progress from 0 to 1.

    Raises `ValueError` for shares that are not positive or do not sum to 1.

    >>> [round(joined((constant(), 0.5), (linear(), 0.5))(p), 2) for p in (0.25, 0.5, 0.75, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    shares = [share for _, share in parts]
    if not all(share > 0.0 for share in shares) or not math.isclose(sum(shares), 1.0):
        raise ValueError(f"the shares of joined schedules must be positive and sum to 1, not {shares}")
    starts = [0.0, *itertools.accumulate(shares)][:-1]

    def run(progress: float) -> float:
        index = bisect.bisect_right(starts, progress) - 1
        schedule, share = parts[index]
        return schedule(min(1.0, (progress - starts[index]) / share))

    return run


def cycle_ends(*, cycles: int, mult: float = 1.0) -> tuple[float, ...]:
    """Return the progress at which each of `cycles` ends, each `mult` times as long as the one before it.

    >>> [round(7 * end, 6) for end in cycle_ends(cycles=3, mult=2)]
    [1.0, 3.0, 7.0]
    """
    if cycles < 1 or not mult > 0.0:
        raise ValueError(f"cycles and mult must be positive, not {cycles} and {mult}")
    lengths = [mult**index for index in range(cycles)]
    return tuple(end / sum(lengths) for end in itertools.accumulate(lengths))


def warm_restarts(*, cycles: int, mult: float = 1.0, decay: float = 1.0) -> Schedule:
    """Cosine decay to 0 in each of `cycles`, with a warm restart at the peak of the next one.

    SGDR (Loshchilov and Hutter 2016). Each cycle is `mult` times as long as the one before it, and its peak `decay` times as high.
    fast.ai's two setups are 3 cycles with mult 2 in 7 epochs, and 3 cycles with mult 1 in 6 epochs.

    >>> restarts = warm_restarts(cycles=3, mult=2, decay=0.5)
    >>> [round(restarts(epoch / 7), 3) for epoch in (0, 0.5, 1, 2, 3, 5, 7)]
    [1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.0]
    """
    ends = cycle_ends(cycles=cycles, mult=mult)
    starts = (0.0, *ends[:-1])

    def restart(progress: float) -> float:
        index = min(bisect.bisect_right(ends, progress), cycles - 1)
        within = (progress - starts[index]) / (ends[index] - starts[index])
        return decay**index * cosine()(min(1.0, within))

    return restart
