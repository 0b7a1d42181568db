"""A corpus as one stream of tokens, cut into rows that a language model reads side by side, window after window.

Documents are shuffled each epoch and joined; row r of R holds the r-th part of the stream, and the recurrent state of a row goes
from one window to the next. Every token but the stream's first is predicted once an epoch, whatever the number of rows, windows
and processes: rows belong to micro-batches, and micro-batches to processes, as `nlpbp.data.order` has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlpbp.core.batch import Batch
from nlpbp.core.losses import IGNORED
from nlpbp.data.order import Ints, epoch_order
from nlpbp.text.batches import Encoded

MIN_WINDOW = 5  # AWD-LSTM's own: windows of random length are never shorter


def corpus_stream(
    encoded: Encoded, *, seed: int | None = None, epoch: int = 0, backwards: bool = False
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Join the documents, in the order that belongs to (seed, epoch) or, without a seed, in their own; int32 [tokens].

    >>> documents = Encoded(np.array([1, 2, 3], np.int32), np.array([0, 2, 3]), None, np.array([]), np.array([]))
    >>> corpus_stream(documents).tolist(), corpus_stream(documents, backwards=True).tolist()
    ([1, 2, 3], [3, 2, 1])
    """
    stream = encoded.tokens
    if seed is not None:
        order = epoch_order(len(encoded), seed=seed, epoch=epoch)
        stream = np.concatenate([encoded.tokens[encoded.offsets[i] : encoded.offsets[i + 1]] for i in order])
    return stream[::-1] if backwards else stream


def append_token(encoded: Encoded, token: int) -> Encoded:
    """End each document with `token`, for tokenizers that mark no end.

    >>> documents = Encoded(np.array([1, 2, 3], np.int32), np.array([0, 2, 3]), None, np.array([]), np.array([]))
    >>> append_token(documents, 9).tokens.tolist()
    [1, 2, 9, 3, 9]
    """
    tokens = np.insert(encoded.tokens, encoded.offsets[1:], token)
    return replace(encoded, tokens=tokens, offsets=encoded.offsets + np.arange(len(encoded.offsets)), type_ids=None)


def row_length(num_tokens: int, *, num_rows: int) -> int:
    """Return how many tokens each row reads; the last row may have fewer.

    Raises `ValueError` when there is not a token for each row.

    >>> row_length(10, num_rows=2)
    5
    """
    if num_tokens <= num_rows:
        raise ValueError(f"a corpus of {num_tokens} tokens cannot fill {num_rows} rows")
    return -(-(num_tokens - 1) // num_rows)


def num_windows(num_tokens: int, *, num_rows: int, window: int) -> int:
    """Return how many windows an epoch has, each a step of training.

    >>> num_windows(10, num_rows=2, window=4)
    2
    """
    return -(-row_length(num_tokens, num_rows=num_rows) // window)


def window_bounds(length: int, *, window: int, seed: int | None = None, epoch: int = 0) -> Ints:
    """Cut rows of `length` tokens into windows; return where each begins, and the end, int64 [windows + 1].

    With a seed the lengths are drawn as AWD-LSTM draws them (about `window`, one in twenty about half of it) and stretched to
    fit, so that every epoch has the same number of windows; without, all but the last are of `window` tokens.

    >>> window_bounds(10, window=4).tolist()
    [0, 4, 8, 10]
    """
    count = -(-length // window)
    if seed is None or length < 2 * MIN_WINDOW * count:
        return np.minimum(np.arange(count + 1) * window, length)
    rng = np.random.default_rng([seed, epoch, 2])
    means = np.where(rng.random(count) < 0.95, window, window / 2)
    ends = np.cumsum(np.maximum(MIN_WINDOW, rng.normal(means, 5.0)))
    return np.concatenate([[0], np.round(ends * (length / ends[-1]))]).astype(np.int64)


def stream_rows(stream: np.ndarray[Any, Any], *, num_rows: int, pad: int) -> tuple[Ints, Ints]:
    """Cut a stream into inputs and, one token further, targets, int64 [rows, length] each; beyond the end targets are -100.

    >>> inputs, targets = stream_rows(np.array([1, 2, 3, 4]), num_rows=2, pad=0)
    >>> inputs.tolist(), targets.tolist()
    ([[1, 2], [3, 0]], [[2, 3], [4, -100]])
    """
    length = row_length(len(stream), num_rows=num_rows)
    inputs, targets = np.full(num_rows * length, pad), np.full(num_rows * length, IGNORED)
    inputs[: len(stream) - 1], targets[: len(stream) - 1] = stream[:-1], stream[1:]
    return inputs.reshape(num_rows, length), targets.reshape(num_rows, length)


def window_batch(inputs: Ints, targets: Ints, rows: Ints) -> Batch:
    """Make a batch of some rows' window: `input_ids` and `shift_labels`, the tokens that come next, int64 [rows, window]."""
    tensors = {"input_ids": inputs[rows], "shift_labels": targets[rows]}
    return Batch({name: torch.from_numpy(values) for name, values in tensors.items()}, None, torch.from_numpy(rows))


def count_targets(batch: Batch) -> int:
    """Count the tokens to predict: the items of a language model's loss."""
    return int((batch.inputs["shift_labels"] != IGNORED).sum())


class CarriedState:
    """The recurrent state of every row, from one window to the next; [rows, width] a tensor, on the CPU, in fp32.

    What a window leaves behind counts once its step is done (`commit`): a step that fails and is done again starts from the same
    state. Each process has the rows of its own micro-batches.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._tensors: list[Tensor] = []
        self._mine = torch.zeros(num_rows, dtype=torch.bool)
        self._next: list[tuple[Tensor, list[Tensor]]] = []

    def take(self, rows: Tensor, device: torch.device) -> tuple[Tensor, ...] | None:
        """Return the state of `rows` for a model on `device`; None where an epoch begins."""
        return tuple(tensor[rows].to(device) for tensor in self._tensors) or None

    def put(self, rows: Tensor, state: Sequence[Tensor]) -> None:
        """Note the state that a window left in `rows`."""
        self._next.append((rows, [tensor.detach().float().cpu() for tensor in state]))

    def commit(self) -> None:
        """Make what was put the state to go on from."""
        self._mine = torch.zeros(self.num_rows, dtype=torch.bool)
        for rows, state in self._next:
            self._mine[rows] = True
            if not self._tensors:
                self._tensors = [tensor.new_zeros(self.num_rows, tensor.shape[1]) for tensor in state]
            for mine, new in zip(self._tensors, state, strict=True):
                mine[rows] = new
        self._next = []

    def discard(self) -> None:
        """Forget what was put since the last commit."""
        self._next = []

    def reset(self) -> None:
        """Forget everything: an epoch begins."""
        self._tensors, self._next = [], []

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, 0 in the rows of other processes: the sum over processes is all of it."""
        return {f"state.{index}": tensor * self._mine.unsqueeze(1) for index, tensor in enumerate(self._tensors)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the sum of what `tensors` returned."""
        self.reset()
        self._tensors = [tensors[f"state.{index}"].clone() for index in range(len(tensors))]


@dataclass(frozen=True)
class StreamShape:
    """How a corpus is cut into a stream: `num_rows` rows read side by side, `window` tokens of each in a step.

    `pad` fills what is beyond the end. `random_windows` draws the windows' lengths, as AWD-LSTM does; `backwards` reads documents
    from their end.
    """

    num_rows: int
    window: int
    pad: int
    random_windows: bool = False
    backwards: bool = False


def stream_windows(
    encoded: Encoded,
    shape: StreamShape,
    *,
    num_micro_batches: int,
    total_steps: int,
    seed: int,
    carried: CarriedState | None = None,
    first_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Batch]]:
    """Yield, step by step, the micro-batches of `rank`, from `first_step` on; epochs follow one another until `total_steps`.

    A step is one window of all rows. `carried` is reset where an epoch begins.

    >>> corpus = Encoded(np.arange(9, dtype=np.int32), np.array([0, 9]), None, np.array([]), np.array([]))
    >>> shape = StreamShape(num_rows=2, window=3, pad=0)
    >>> steps = stream_windows(corpus, shape, num_micro_batches=1, total_steps=2, seed=0)
    >>> [batch.inputs["input_ids"].tolist() for step in steps for batch in step]
    [[[0, 1, 2], [4, 5, 6]], [[3], [7]]]
    """
    num_rows, window = shape.num_rows, shape.window
    per_epoch = num_windows(len(encoded.tokens), num_rows=num_rows, window=window)
    num = min(num_micro_batches, num_rows)  # a row alone cannot be cut
    shares: list[Ints] = [np.arange(num_rows)[index::num] for index in range(num)][rank::world_size]
    step = first_step
    while step < total_steps:
        epoch, position = divmod(step, per_epoch)
        stream = corpus_stream(encoded, seed=seed, epoch=epoch, backwards=shape.backwards)
        inputs, targets = stream_rows(stream, num_rows=num_rows, pad=shape.pad)
        bounds = window_bounds(inputs.shape[1], window=window, seed=seed if shape.random_windows else None, epoch=epoch)
        for start, end in pairwise(bounds[position:]):
            if step == total_steps:
                return
            if start == 0 and carried is not None:
                carried.reset()
            yield [window_batch(inputs[:, start:end], targets[:, start:end], rows) for rows in shares]
            step += 1


def evaluation_blocks(encoded: Encoded, shape: StreamShape, *, num_blocks: int) -> list[list[Batch]]:
    """Cut a corpus, in its own order, into blocks of rows; each block is its windows, to be read one after the other.

    >>> corpus = Encoded(np.arange(9, dtype=np.int32), np.array([0, 9]), None, np.array([]), np.array([]))
    >>> blocks = evaluation_blocks(corpus, StreamShape(num_rows=2, window=3, pad=0), num_blocks=2)
    >>> [[batch.inputs["input_ids"].tolist() for batch in block] for block in blocks]
    [[[[0, 1, 2]], [[3]]], [[[4, 5, 6]], [[7]]]]
    """
    num_rows = min(shape.num_rows, len(encoded.tokens) - 1)
    inputs, targets = stream_rows(corpus_stream(encoded, backwards=shape.backwards), num_rows=num_rows, pad=shape.pad)
    bounds = window_bounds(inputs.shape[1], window=shape.window)
    windows = [(inputs[:, start:end], targets[:, start:end]) for start, end in pairwise(bounds)]
    shares = (np.arange(num_rows)[index::num_blocks] for index in range(num_blocks))
    return [[window_batch(*window, rows) for window in windows] for rows in shares if len(rows)]
