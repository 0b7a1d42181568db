"""Batches of texts with padding on either side: tokens moved to the left, and packed so that padding changes no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@dataclass(frozen=True)
class Packing:
    """How a batch with padding anywhere is packed for torch's recurrent layers, and unpacked to its own layout."""

    order: Tensor  # positions, those of tokens first
    lengths: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """Pack by an attention mask [batch, length]."""
        mask = mask.bool()
        return cls(left_aligned(mask), mask.sum(dim=1).cpu().clamp(min=1), mask)

    def pack(self, values: Tensor) -> Any:
        """Pack values [batch, length, width]."""
        moved = values.gather(1, self.order.unsqueeze(-1).expand_as(values))
        return pack_padded_sequence(moved, self.lengths, batch_first=True, enforce_sorted=False)

    def unpack(self, packed: Any) -> Tensor:
        """Return packed outputs as [batch, length, width], each where its token is, 0 at padding."""
        values, _ = pad_packed_sequence(packed, batch_first=True, total_length=self.mask.shape[1])
        places = torch.arange(self.order.shape[1], device=self.order.device)
        back = torch.empty_like(self.order).scatter_(1, self.order, places.expand_as(self.order))
        return values.gather(1, back.unsqueeze(-1).expand_as(values)) * self.mask.unsqueeze(-1)


def left_aligned(mask: Tensor, *, backwards: bool = False) -> Tensor:
    """Return each row's positions with those of tokens before those of padding; `backwards` puts the last token first."""
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    keys = torch.where(mask, -positions if backwards else positions, positions + mask.shape[1])
    return keys.argsort(dim=1)


def last_tokens(mask: Tensor, num: int) -> Tensor:
    """Keep only the last `num` tokens of each left-aligned row in the mask."""
    lengths = mask.sum(dim=1, keepdim=True)
    return mask & (torch.arange(mask.shape[1], device=mask.device) >= lengths - num)
