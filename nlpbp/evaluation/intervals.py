"""How far an evaluation's numbers could have come out otherwise: the percentile bootstrap over its examples.

It tells the luck of the draw of the examples only, not that of the training seed (train again for that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nlpbp.evaluation.metrics import Floats

Measure = Callable[[Floats], dict[str, Floats]]  # how often each example counts [r, n] -> each metric [r]

MAX_WEIGHTS = 1_000_000  # at once: 8 MB each for the two or three arrays of that size


def bootstrap_intervals(
    measure: Measure, num_examples: int, *, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, list[float] | None]:
    """Give each metric of `measure` the interval [low, high] that holds it in `confidence` of all resamples.

    The same seed gives the same intervals. A resample on which a metric is undefined (NaN) is left out of its interval; None where
    none is left, and for a single example, which tells nothing about others. A metric at its end, like an accuracy of 1, gets
    the interval [1, 1] however few the examples: the bootstrap sees no error it could draw. That of a calibration error leans
    upwards, since a resample adds noise to every bin.

    >>> right = np.array([1.0, 1.0, 1.0, 0.0])
    >>> bootstrap_intervals(lambda weights: {"accuracy": weights @ right / weights.sum(axis=1)}, 4)["accuracy"]
    [0.25, 1.0]
    """
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"num_resamples {num_resamples} must be 1 or more, confidence {confidence} between 0 and 1")
    parts = [measure(weights) for weights in resample_weights(num_examples, num_resamples=num_resamples, seed=seed)]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: None if num_examples == 1 else _interval(value, confidence) for name, value in values.items()}


def mean_interval(
    values: Floats, counts: np.ndarray, *, num_resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, list[float]]:
    """Return the mean of `values` [n], each counted `counts` [n] times, and its interval when the n are drawn again.

    For a language model's loss: a value is the mean over a window, its count the window's tokens.

    >>> mean, (low, high) = mean_interval(np.array([1.0, 2.0, 4.0]), np.array([1, 1, 2]))
    >>> mean, low < mean < high
    (2.75, True)
    """
    totals = values * counts
    resamples = resample_weights(len(values), num_resamples=num_resamples, seed=seed)
    drawn = np.concatenate([(weights @ totals) / np.maximum(weights @ counts, 1) for weights in resamples])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(totals.sum() / max(1, counts.sum())), [float(low), float(high)]


def resample_weights(num_examples: int, *, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Draw resamples with replacement, as how often each of the n examples is in each: some [rows, n] at a time.

    >>> [weights.sum(axis=1).tolist() for weights in resample_weights(3, num_resamples=2, seed=0)]
    [[3.0, 3.0]]
    """
    generator = np.random.default_rng(seed)
    rows = max(1, MAX_WEIGHTS // max(1, num_examples))
    for start in range(0, num_resamples, rows):
        yield np.stack([_draw(generator, num_examples) for _ in range(min(rows, num_resamples - start))])


def _draw(generator: np.random.Generator, num_examples: int) -> Floats:
    drawn = generator.integers(num_examples, size=num_examples) if num_examples else np.zeros(0, dtype=np.int64)
    return np.bincount(drawn, minlength=num_examples).astype(np.float64)


def _interval(values: Floats, confidence: float) -> list[float] | None:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return [float(low), float(high)]
