"""Pooling of a sequence of vectors to one vector, ignoring padding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean", "max", "first", "concat"]


def pool(hidden: Tensor, mask: Tensor, *, kind: Pooling) -> Tensor:
    """Pool each sequence, [batch, length, width] to [batch, width]; concat is `concat_pool`, [batch, 3 * width].

    last and first take the last and the first vector under the mask, max and mean the maximum and the mean of each feature, the
    mean in fp32. `mask` [batch, length] is true for tokens, with padding on any side. A row without tokens gives zeros. Raises
    `ValueError` for another kind.

    >>> hidden, mask = torch.tensor([[[9.0], [-1.0], [-3.0], [9.0]]]), torch.tensor([[False, True, True, False]])
    >>> [pool(hidden, mask, kind=kind).item() for kind in ("last", "mean", "max", "first")]
    [-3.0, -2.0, -1.0, -1.0]
    """
    if kind == "concat":
        return concat_pool(hidden, mask)
    mask = mask.bool()
    rows = torch.arange(len(hidden), device=hidden.device)
    if kind == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        pooled = hidden[rows, torch.where(mask, positions, 0).amax(dim=1)]
    elif kind == "first":
        pooled = hidden[rows, mask.int().argmax(dim=1)]  # the first of equals
    elif kind == "max":
        pooled = hidden.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    elif kind == "mean":
        total = torch.where(mask.unsqueeze(-1), hidden, 0.0).sum(dim=1, dtype=torch.float32)
        pooled = (total / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(hidden.dtype)
    else:
        raise ValueError(f"pooling must be last, mean, max, first or concat, not {kind!r}")
    return torch.where(mask.any(dim=1, keepdim=True), pooled, 0.0)


def concat_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Concatenate the last vector, the maximum and the mean under the mask, [batch, length, width] to [batch, 3 * width].

    Concat pooling of ULMFiT (Howard and Ruder 2018): the maximum keeps what the last state may have forgotten. See `pool`.

    >>> hidden = torch.tensor([[[-1.0], [-3.0], [9.0]]])
    >>> concat_pool(hidden, torch.tensor([[True, True, False]])).tolist()
    [[-3.0, -1.0, -2.0]]
    """
    return torch.cat([pool(hidden, mask, kind="last"), pool(hidden, mask, kind="max"), pool(hidden, mask, kind="mean")], dim=-1)
