"""The AWD-LSTM classifier, for texts of any length, and its head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from nlpbp.core.layers import scaled_sigmoid
from nlpbp.core.losses import PLAIN, PROBLEM_LOSSES
from nlpbp.core.pooling import pool
from nlpbp.text.awd_lstm.configuration import AWDLSTMConfig
from nlpbp.text.awd_lstm.encoder import AWDLSTMModel, AWDLSTMPreTrainedModel
from nlpbp.text.awd_lstm.packing import last_tokens, left_aligned


@dataclass
class AWDLSTMClassifierOutput(SequenceClassifierOutput):
    """What transformers' classifiers return, and in training mode `activations`, for AR and TAR: the last layer's outputs
    [batch, length, width], and which of them are pooled [batch, length]."""

    activations: tuple[Tensor, Tensor] | None = None


class AWDLSTMForSequenceClassification(AWDLSTMPreTrainedModel):
    """A classifier or regressor over the pooled outputs of the last layer, by default [last, max, mean] (concat pooling)."""

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = AWDLSTMModel(config)
        self.classifier = PoolingHead(config)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pooled: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> AWDLSTMClassifierOutput:
        """Classify texts [batch, length], each from a zero state; padding may be on either side.

        `config.problem_type` decides the loss. `hidden_states` are the embedded tokens and the outputs of the last layer in the
        chunks that are pooled. Precomputed `pooled` [batch, width of the head's input] skips the encoder.
        """
        if pooled is not None:
            logits = self.classifier(pooled)
            return AWDLSTMClassifierOutput(loss=None if labels is None else self._loss(logits, labels), logits=logits)
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("give input_ids or inputs_embeds")
        mask = torch.ones(given.shape[:2], device=given.device) if attention_mask is None else attention_mask
        order = left_aligned(mask.bool(), backwards=self.config.backwards)
        mask = mask.bool().gather(1, order)
        embedded = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        embedded = embedded.gather(1, order.unsqueeze(-1).expand_as(embedded))
        words = None if input_ids is None else input_ids.gather(1, order)
        hidden = torch.cat(list(self._read_in_chunks(embedded, words, mask)), dim=1)
        pooled_part = last_tokens(mask, self.config.pooled_length)[:, -hidden.shape[1] :]
        logits = self.classifier(pool(hidden, pooled_part, kind=self.config.pooling))
        return AWDLSTMClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=(embedded, hidden) if output_hidden_states or self.config.output_hidden_states else None,
            activations=(hidden, pooled_part) if self.training else None,
        )

    def _read_in_chunks(self, embedded: Tensor, words: Tensor | None, mask: Tensor) -> Iterator[Tensor]:
        """Yield the last layer's outputs chunk by chunk, from the first chunk that contains a pooled token of any text.

        Each chunk has dropout masks of its own, as each window of a language model has.
        """
        step, state = self.config.chunk_length, None
        lengths = mask.sum(dim=1)
        first = int((lengths - self.config.pooled_length).clamp(min=0).min()) // step * step
        for start in range(0, embedded.shape[1], step):
            chunk = embedded[:, start : start + step]
            masks = self.model.draw_masks(chunk)
            chunk = self.model.drop_words(chunk, None if words is None else words[:, start : start + step], masks)
            with torch.set_grad_enabled(torch.is_grad_enabled() and start >= first):
                hidden, state = self.model.read(chunk, state, masks=masks)
            state = tuple(part.detach() for part in state)
            if start >= first:
                yield hidden[-1]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")
        labels = labels.float() if kind != "single_label_classification" else labels
        return PROBLEM_LOSSES[kind](logits, labels, PLAIN)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that normalises a text alone, which has no variance, by the running statistics: as memory may want it."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise vectors [batch, width]."""
        if self.training and len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(input)


HEAD_NORMS = {"batch": BatchNorm, "layer": nn.LayerNorm}


class PoolingHead(nn.Module):
    """ULMFiT's head: two blocks of normalisation, dropout and a linear layer over pooled vectors, by default [batch, 3 * width].

    The paper's normalisation is batch norm. What the pooled vectors of all texts have in common is most of them, and a net from
    scratch learns once it is taken away. A layer norm leaves it there; with it a text's gradient does not depend on the others in
    its batch. Answers depend on the text alone with either.
    """

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__()
        width = config.layer_sizes()[-1][1] * (3 if config.pooling == "concat" else 1)
        norm = HEAD_NORMS[config.head_norm]
        self.norm = norm(width)
        self.dropout = nn.Dropout(config.output_dropout)
        self.dense = nn.Linear(width, config.head_size)
        self.out_norm = norm(config.head_size)
        self.out_dropout = nn.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.head_size, int(config.num_labels or 0))
        self.value_range = config.value_range

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits [batch, labels]."""
        hidden = F.relu(self.dense(self.dropout(self.norm(pooled))))
        logits: Tensor = self.out_proj(self.out_dropout(self.out_norm(hidden)))
        if self.value_range is None:
            return logits
        return scaled_sigmoid(logits, low=self.value_range[0], high=self.value_range[1], margin=0.0)
