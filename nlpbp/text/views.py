"""Other views of a long text than its beginning: windows all along it, or its beginning and its end (practice D6).

A text that is read whole anyway has one window and one form of it, so these views change nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from nlpbp.data.order import Ints
from nlpbp.text.batches import MAX_CHARACTERS_PER_TOKEN, Encoded, from_tokens, truncating

MAX_WINDOWS = 16  # of a text: what lies beyond is not read
HEAD_SHARE = 0.25  # Sun et al. 2019: 128 of 510 tokens from the beginning, the rest from the end, was the best of what they tried


def encode_windows(
    texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int | None = None
) -> tuple[Encoded, Ints]:
    """Tokenize each text as windows of `max_length` tokens, special ones included, that begin `stride` tokens after each other.

    Returns the windows of all texts and the text of each, int64 [windows], ascending. Left out, the stride is half of what a window
    holds. `ValueError` for a stride that leaves gaps.
    """
    held = max_length - tokenizer.num_special_tokens_to_add()
    stride = max(1, held // 2) if stride is None else stride
    if not 1 <= stride <= held:
        raise ValueError(f"windows that hold {held} tokens begin 1 to {held} tokens after each other, not {stride}")
    ids: list[list[int]] = []
    owners: list[int] = []
    limit = MAX_WINDOWS * max_length * MAX_CHARACTERS_PER_TOKEN
    with truncating(tokenizer, max_length=max_length, stride=held - stride) as backend:
        for index, text in enumerate(texts):
            encoding = backend.encode(text[:limit])
            windows = [encoding, *encoding.overflowing][:MAX_WINDOWS]
            ids += [window.ids for window in windows]
            owners += [index] * len(windows)
    return from_tokens(ids), np.array(owners, dtype=np.int64)


def encode_head_tail(
    texts: Sequence[str], *, tokenizer: PreTrainedTokenizerBase, max_length: int, head_share: float = HEAD_SHARE
) -> Encoded:
    """Tokenize each text with what is too long cut out of its middle: `head_share` of the tokens are its beginning."""
    limit, num_head = max_length * MAX_CHARACTERS_PER_TOKEN, round(max_length * head_share)
    with truncating(tokenizer, max_length=max_length) as backend:
        heads = [backend.encode(text[:limit]) for text in texts]
    long = {i for i, (text, head) in enumerate(zip(texts, heads, strict=True)) if head.overflowing or len(text) > limit}
    with truncating(tokenizer, max_length=max_length, direction="left") as backend:
        tails = {index: backend.encode(texts[index][-limit:]) for index in long}
    return from_tokens([_joined(head.ids, tails[i].ids if i in long else None, num_head) for i, head in enumerate(heads)])


def mean_by_text(outputs: np.ndarray[Any, Any], owners: Ints) -> np.ndarray[Any, Any]:
    """Return the mean of the outputs [windows, ...] of each text, [texts, ...]; owners [windows] ascend and leave none out.

    >>> mean_by_text(np.array([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]]), np.array([0, 0, 1])).tolist()
    [[0.5, 0.5], [0.25, 0.75]]
    """
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(starts, append=len(owners)).reshape(-1, *[1] * (outputs.ndim - 1))
    return (np.add.reduceat(outputs, starts, axis=0) / counts).astype(outputs.dtype)


def _joined(head: list[int], tail: list[int] | None, num_head: int) -> list[int]:
    """Both are as long as the model reads, each with its special tokens: take the beginning of one and the end of the other."""
    return head if tail is None else [*head[:num_head], *tail[num_head - len(head) :]]
