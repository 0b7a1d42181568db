"""Mixup for texts: the token embeddings of pairs of texts in a batch are interpolated, and so are their losses.

Zhang et al. 2018, on embeddings as in Guo et al. 2019. Partners and coefficients are drawn with torch's generator, which
`train_steps` seeds for every micro-batch: a resumed run and a run on several processes mix the same texts as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nlpbp.core.batch import Batch, LossFn


def mixup_loss(loss_fn: LossFn, *, alpha: float) -> LossFn:
    """Wrap `loss_fn` with mixup: each text is mixed with another of the batch, with a coefficient from Beta(alpha, alpha) per
    batch.

    The losses with the labels of both texts are mixed in the same way, for one forward pass. The model must use the layer that
    `get_input_embeddings` returns; a mixed text is as long as the longer of the two.
    """

    def mixed_loss(model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be trained on")
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order = torch.randperm(len(batch.ids)).to(batch.labels.device)
        mask = batch.inputs["attention_mask"]
        with _mixing(model, share, order):
            output = model(**{**batch.inputs, "attention_mask": torch.maximum(mask, mask[order])})
        answered: Any = partial(SimpleNamespace, logits=output.logits)  # a stand-in that repeats no forward pass
        partners = replace(batch, labels=batch.labels[order])
        return share * loss_fn(answered, batch) + (1.0 - share) * loss_fn(answered, partners)

    return mixed_loss


@contextmanager
def _mixing(model: nn.Module, share: float, order: Tensor) -> Iterator[None]:
    """Make the embedding layer return each text mixed with its partner, wherever in the forward pass it is called."""
    plain: Any = getattr(model, "module", model)  # inside data parallelism
    embedding: nn.Module = plain.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda layer, given, made: share * made + (1.0 - share) * made[order])
    try:
        yield
    finally:
        handle.remove()
