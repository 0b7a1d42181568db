"""Attention for training on a CPU: torch's attention dropout is slow there, so it is computed from random bytes instead.

Everything else (evaluation, other devices, long texts, position biases) uses transformers' `sdpa`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from nlpbp.core.regularize import byte_dropout

NAME = "sdpa_byte_dropout"
LONGEST = 512  # tokens: beyond that, the matrix of attention weights takes too much memory


def register_attention() -> str:
    """Register this attention with transformers; return its name, for `attn_implementation=`."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention as `sdpa` does; query, key and value are [batch, heads, length, width]."""
    grouped = key.shape[1] != query.shape[1]
    special = any(options.get(name) is not None for name in ("position_bias", "softcap", "cache")) or options.get("is_causal")
    causal = attention_mask is None and getattr(module, "is_causal", False)
    short = key.shape[2] <= LONGEST
    if not dropout or query.device.type != "cpu" or grouped or special or causal or not short:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **options)
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        allowed = attention_mask.dtype == torch.bool
        scores = scores.masked_fill(~attention_mask, float("-inf")) if allowed else scores + attention_mask
    weights = byte_dropout(scores.softmax(dim=-1).to(value.dtype), dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None
