"""The AWD-LSTM language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.utils.generic import ModelOutput, can_return_tuple

from nlpbp.core.losses import chunked_cross_entropy, cross_entropy, sampled_cross_entropy
from nlpbp.text.awd_lstm.configuration import AWDLSTMConfig
from nlpbp.text.awd_lstm.encoder import AWDLSTMModel, AWDLSTMPreTrainedModel, State


@dataclass
class AWDLSTMCausalLMOutput(ModelOutput):
    """`loss` is the mean cross-entropy without regularisation.

    `activations` are the outputs of the last layer after and before its dropout, for activation regularisation (AR) and temporal
    activation regularisation (TAR).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    activations: tuple[Tensor, Tensor] | None = None


class AWDLSTMForCausalLM(AWDLSTMPreTrainedModel, GenerationMixin):
    """A language model whose decoder shares its weights with the embedding."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__(config)
        self.model = AWDLSTMModel(config)
        self.lm_head = nn.Linear(config.layer_sizes()[-1][1], config.vocab_size, bias=config.decoder_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the decoder."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.lm_head = new_embeddings

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        num_sampled: int | None = None,
        state: State | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> AWDLSTMCausalLMOutput:
        """Predict the next token at each position, continuing from `state`.

        `labels` [batch, length] are the input ids themselves, -100 where there is no target. `shift_labels` are the next tokens, as
        windows of a token stream provide them: the loss is then computed in chunks, and no logits are kept or returned; with
        `num_sampled` it is a sampled softmax over that many tokens while training.
        """
        encoded = self.model(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            state=state,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        loss = logits = None
        if shift_labels is not None:
            loss = self._next_token_loss(encoded.last_hidden_state, shift_labels, num_sampled=num_sampled)
        else:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
            chosen = encoded.last_hidden_state if isinstance(keep, int) else encoded.last_hidden_state[:, keep]
            logits = self.lm_head(chosen)
            if labels is not None:
                loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return AWDLSTMCausalLMOutput(
            loss=loss,
            logits=logits,
            state=encoded.state,
            hidden_states=encoded.hidden_states,
            activations=(encoded.last_hidden_state, encoded.raw) if shift_labels is not None else None,
        )

    def _next_token_loss(self, hidden: Tensor, shift_labels: Tensor, *, num_sampled: int | None) -> Tensor:
        if type(self.lm_head) is not nn.Linear:  # wrapped by an adapter, which must run: its weights alone are not the decoder
            return cross_entropy(self.lm_head(hidden).flatten(0, 1), shift_labels.flatten())
        decoder = (self.lm_head.weight, self.lm_head.bias)
        if num_sampled is not None and self.training:
            return sampled_cross_entropy(hidden, *decoder, shift_labels, num_sampled=num_sampled)
        return chunked_cross_entropy(hidden, *decoder, shift_labels)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, state: State | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> dict[str, Any]:
        """Pass on the state, and only the tokens that it does not include yet."""
        first = options.get("inputs_embeds") if state is None else None
        inputs = {"input_ids": input_ids[:, -1:] if state is not None else input_ids, "inputs_embeds": None}
        if first is not None:
            inputs = {"input_ids": None, "inputs_embeds": first}
        return {**inputs, "state": state, "attention_mask": attention_mask if state is None else None}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the recurrent state takes the place of a cache of keys and values

    def _reorder_cache(self, state: State, beam_idx: Tensor) -> State:
        return tuple(part.index_select(0, beam_idx.to(part.device)) for part in state)
