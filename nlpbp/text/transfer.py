"""Transfer of a language model's embeddings to another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Remapped:
    """How many of the `total` tokens of a new vocabulary are in the old one."""

    known: int
    total: int

    def __str__(self) -> str:
        return f"{self.known:,} of {self.total:,} tokens are known to the language model"


def remap_rows(rows: Tensor, old: Mapping[str, int], new: Mapping[str, int]) -> Tensor:
    """Return a row for each token of `new`: its row of `rows` [old vocabulary, ...] if `old` has the token, else the mean of all
    rows.

    Both map tokens to ids. As in ULMFiT (Howard and Ruder 2018).

    >>> remap_rows(torch.tensor([[1.0], [3.0]]), {"a": 0, "b": 1}, {"b": 0, "c": 1}).tolist()
    [[3.0], [2.0]]
    """
    sources = torch.full((max(new.values()) + 1,), -1, dtype=torch.long)
    for token, index in new.items():
        sources[index] = old.get(token, -1)
    known = (sources >= 0).reshape(-1, *[1] * (rows.dim() - 1))
    return torch.where(known, rows[sources.clamp(min=0)], rows.mean(dim=0, keepdim=True)).contiguous()


@torch.no_grad()
def use_vocabulary_(model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> Remapped:
    """Convert the embedding of `model`, and its decoder if it has one, from the vocabulary of `old` to that of `new`, in place."""
    before, after = old.get_vocab(), new.get_vocab()
    for role in ("unk_token", "pad_token", "bos_token", "eos_token"):  # the same token under another name
        mine, theirs = getattr(new, role), getattr(old, role)
        if mine is not None and theirs is not None:
            before.setdefault(mine, before[theirs])
    known = sum(token in before for token in after)
    rows = remap_rows(_weight(model.get_input_embeddings()).detach().clone(), before, after)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    bias = None if bias is None else remap_rows(bias.detach().clone(), before, after)
    model.resize_token_embeddings(len(rows), mean_resizing=False)
    _weight(model.get_input_embeddings()).copy_(rows)
    if bias is not None:
        model.get_output_embeddings().get_parameter("bias").copy_(bias)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.config, name, getattr(new, name))
    return Remapped(known, len(after))


def _weight(module: nn.Module) -> nn.Parameter:
    return module.get_parameter("weight")
