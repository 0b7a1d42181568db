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
