"""Pooling of a sequence of vectors to one, blind to padding."""

from __future__ import annotations

import torch
from torch import Tensor


def concat_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Join the last, the greatest and the mean vector under the mask, [batch, length, width] to [batch, 3 * width].

    `mask` [batch, length] is true for tokens; they need not stand on the left. A row without any gives zeros. The mean is summed in
    fp32. Concat pooling of ULMFiT (Howard and Ruder 2018).

    >>> hidden = torch.tensor([[[-1.0], [-3.0], [9.0]]])
    >>> concat_pool(hidden, torch.tensor([[True, True, False]])).tolist()
    [[-3.0, -1.0, -2.0]]
    """
    mask = mask.bool()
    counts = mask.sum(dim=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = hidden[torch.arange(len(hidden), device=hidden.device), torch.where(mask, positions, 0).amax(dim=1)]
    greatest = hidden.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    mean = torch.where(mask.unsqueeze(-1), hidden, 0.0).sum(dim=1, dtype=torch.float32) / counts.clamp(min=1).unsqueeze(-1)
    pooled = torch.cat([last, greatest, mean.to(hidden.dtype)], dim=-1)
    return torch.where((counts > 0).unsqueeze(-1), pooled, 0.0)
