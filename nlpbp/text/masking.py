"""Masked language modelling (Devlin et al. 2018), to adapt a model to a domain with unlabelled texts."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from nlpbp.core.batch import Batch, CountedLoss
from nlpbp.core.losses import IGNORED

SHARE = 0.15  # as in BERT, like the next two
REPLACED_BY_MASK, REPLACED_BY_RANDOM = 0.8, 0.1  # the rest is left unchanged, and predicted all the same


def num_masked(candidates: Tensor, *, share: float = SHARE) -> int:
    """Return how many of a batch's candidate tokens are masked: at least one, if there is one.

    >>> num_masked(torch.ones(4, 10, dtype=torch.bool))
    6
    """
    total = int(candidates.sum())
    return min(total, max(1, round(share * total)))


def mask_tokens(
    input_ids: Tensor, candidates: Tensor, *, mask_token_id: int, vocab_size: int, share: float = SHARE
) -> tuple[Tensor, Tensor]:
    """Mask some of the `candidates` (bool [batch, length]); return the new ids, and labels that are -100 where nothing is masked.

    Their number is `num_masked`, so the loss is a mean over a known number of items; torch's default generator draws which ones.

    >>> ids = torch.arange(20).reshape(2, 10)
    >>> masked, labels = mask_tokens(ids, ids > 9, mask_token_id=99, vocab_size=100)
    >>> int((labels != -100).sum()), bool((labels[0] == -100).all())
    (2, True)
    """
    count = num_masked(candidates, share=share)
    order = torch.rand(input_ids.shape, device=input_ids.device).masked_fill(~candidates, -1.0).flatten().argsort(descending=True)
    chosen = torch.zeros_like(candidates).flatten()
    chosen[order[:count]] = True
    chosen = chosen.view_as(candidates)
    labels = input_ids.masked_fill(~chosen, IGNORED)
    fate = torch.rand(input_ids.shape, device=input_ids.device)
    masked = input_ids.masked_fill(chosen & (fate < REPLACED_BY_MASK), mask_token_id)
    random = chosen & (fate >= REPLACED_BY_MASK) & (fate < REPLACED_BY_MASK + REPLACED_BY_RANDOM)
    others = torch.randint(vocab_size, input_ids.shape, device=input_ids.device)
    return torch.where(random, others, masked), labels


def masked_loss(*, mask_token_id: int, vocab_size: int, special_ids: Collection[int]) -> CountedLoss:
    """Make the loss of any `AutoModelForMaskedLM` on batches of texts: the mean over the hidden tokens."""
    special = torch.tensor(sorted(special_ids))

    def candidates(batch: Batch) -> Tensor:
        ids = batch.inputs["input_ids"]
        return batch.inputs["attention_mask"].bool() & ~torch.isin(ids, special.to(ids.device))

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        ids, labels = mask_tokens(batch.inputs["input_ids"], candidates(batch), mask_token_id=mask_token_id, vocab_size=vocab_size)
        logits = model(**{**batch.inputs, "input_ids": ids}).logits
        wanted = labels != IGNORED
        total = nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="sum")
        return total / wanted.sum().clamp(min=1)

    return CountedLoss(loss_fn, lambda batch: num_masked(candidates(batch)))
