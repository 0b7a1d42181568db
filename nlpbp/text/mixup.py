"""Mixup for texts: pairs of a batch's texts are mixed, word by word, after the embedding, and so are their losses.

Zhang et al. 2018, on embeddings as in Guo et al. 2019. Partners and shares are drawn from torch's generator, which `train_steps`
seeds for every micro-batch: a run that goes on, and one on several processes, mix as an uninterrupted one does.
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
    """Let `loss_fn` see mixed texts: a share of each, drawn from Beta(alpha, alpha) for the batch, and the rest of another one.

    The loss is the same mixture of the losses with either's labels, at the price of one forward pass. The model needs
    `get_input_embeddings`, and calls that layer; a text is as long as the longer of the two.
    """

    def mixed_loss(model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be trained on")
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order = torch.randperm(len(batch.ids)).to(batch.labels.device)
        mask = batch.inputs["attention_mask"]
        with _mixing(model, share, order):
            output = model(**{**batch.inputs, "attention_mask": torch.maximum(mask, mask[order])})
        answered: Any = partial(SimpleNamespace, logits=output.logits)  # in place of the model: it has been asked
        partners = replace(batch, labels=batch.labels[order])
        return share * loss_fn(answered, batch) + (1.0 - share) * loss_fn(answered, partners)

    return mixed_loss


@contextmanager
def _mixing(model: nn.Module, share: float, order: Tensor) -> Iterator[None]:
    """Let the embedding layer answer for each text a mixture with its partner, wherever in the forward pass it is called."""
    plain: Any = getattr(model, "module", model)  # inside data parallelism
    embedding: nn.Module = plain.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda layer, given, made: share * made + (1.0 - share) * made[order])
    try:
        yield
    finally:
        handle.remove()
