"""The states of a pretrained model that a classifier's head reads: frozen ones, before anything is fine-tuned, or to be trained."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlpbp.core.layers import output_layer
from nlpbp.core.pooling import Pooling, pool
from nlpbp.text.pooled import PooledForSequenceClassification, encoder_of, takes_mask


class NotPooledError(ValueError):
    """The last states of a model are not one for each token, so that there is nothing to pool."""


class HeadInputs(nn.Module):
    """A classifier that answers with the input of its output layer, and with poolings of its last states, side by side."""

    def __init__(self, model: PreTrainedModel, *, poolings: Sequence[Pooling] = ()) -> None:
        super().__init__()
        self.model: Any = model
        self.poolings = tuple(poolings)
        self.widths: list[int] = []

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        """Return `logits` [batch, sum of widths]: one state after the other, as `widths` says afterwards."""
        output = output_layer(self.model, num_outputs=self.model.config.num_labels)
        seen: dict[str, Tensor] = {}
        handles = [output.register_forward_pre_hook(lambda module, given: seen.update(own=given[0]))]
        if self.poolings:
            body = encoder_of(self.model.base_model)
            handles.append(body.register_forward_hook(lambda module, given, answer: seen.update(states=answer[0])))
        try:
            logits = self.model(**inputs).logits
        finally:
            for handle in handles:
                handle.remove()
        own, mask = seen["own"], inputs.get("attention_mask")  # images have no mask
        if mask is None:
            self.widths = [own.shape[1]]
            return SimpleNamespace(logits=own.float())
        if self.poolings and seen["states"].shape[1] != mask.shape[1]:
            raise NotPooledError("the model's last states are not one for each token, and cannot be pooled")
        made = [_behind(logits, own, mask, output=output)]
        made += [pool(seen["states"], mask, kind=kind) for kind in self.poolings]
        self.widths = [state.shape[1] for state in made]
        return SimpleNamespace(logits=torch.cat([state.float() for state in made], dim=1))


class TextEncoder(nn.Module):
    """The body of a pooled classifier, which it shares: texts become vectors, without the head and the dropout before it."""

    def __init__(self, model: PooledForSequenceClassification) -> None:
        super().__init__()
        self.body: Any = model.body
        self.pooling: Pooling = model.config.pooling

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the pooled states [batch, width] of texts [batch, length]; `attention_mask` is 0 at padding."""
        mask = inputs["attention_mask"]
        given = {name: value for name, value in inputs.items() if name != "attention_mask" or takes_mask(self.body)}
        return pool(self.body(**given, return_dict=True).last_hidden_state, mask, kind=self.pooling)


def _behind(logits: Tensor, given: Tensor, mask: Tensor, *, output: nn.Linear) -> Tensor:
    """Return the state [batch, width] behind each answer: some families apply their head to every token, and pool the logits."""
    if given.ndim == 2:
        return given
    kinds: tuple[Pooling, ...] = ("last", "mean", "first")
    pooled = {kind: pool(given, mask, kind=kind) for kind in kinds}
    return min(pooled.values(), key=lambda state: float((output(state) - logits).abs().max()))
