"""Examples that are read in several windows: values for each window, and the combined outputs of an example's windows.

`owners` [windows] is the example of each window, ascending; None if every example is one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nlpbp.data.order import Ints


def of_windows(values: Sequence[Any] | np.ndarray[Any, Any], owners: Ints | None) -> Any:
    """Repeat the value of each example for all its windows.

    >>> of_windows(np.array([5, 7]), np.array([0, 0, 1])).tolist(), of_windows(["a", "b"], None)
    ([5, 5, 7], ['a', 'b'])
    """
    if owners is None:
        return values
    return values[owners] if isinstance(values, np.ndarray) else [values[owner] for owner in owners]


def chosen_windows(num_windows: int, owners: Ints | None, chosen: Ints | None) -> tuple[Ints, Ints | None]:
    """Return which windows are those of the `chosen` examples, and the owners of these; None chooses all.

    >>> windows, owners = chosen_windows(4, np.array([0, 0, 1, 2]), np.array([0, 2]))
    >>> windows.tolist(), owners.tolist()
    ([0, 1, 3], [0, 0, 2])
    """
    windows = np.arange(num_windows)
    if chosen is None:
        return windows, owners
    if owners is None:
        return chosen, None
    windows = windows[np.isin(owners, chosen)]
    return windows, owners[windows]


def means_of_windows(outputs: np.ndarray[Any, Any], owners: Ints | None) -> np.ndarray[Any, Any]:
    """Average the outputs [windows, ...] over each example's windows, [examples, ...].

    >>> means_of_windows(np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]]), np.array([0, 0, 1])).tolist()
    [[0.5, 0.5], [0.25, 0.75]]
    """
    if owners is None:
        return outputs
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(starts, append=len(owners)).reshape(-1, *[1] * (outputs.ndim - 1))
    return (np.add.reduceat(outputs, starts, axis=0) / counts).astype(outputs.dtype)
