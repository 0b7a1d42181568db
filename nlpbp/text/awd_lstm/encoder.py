"""The embedding and the recurrent layers of an AWD-LSTM, with its five dropouts; the base of all its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput, can_return_tuple

from nlpbp.core.init import Hidden, init_recurrent_
from nlpbp.text.awd_lstm.configuration import CELLS, AWDLSTMConfig
from nlpbp.text.awd_lstm.packing import Packing

State = tuple[Tensor, ...]
EMBEDDING_RANGE = 0.1  # of the uniform initialisation, as in the AWD-LSTM paper


@dataclass
class AWDLSTMOutput(ModelOutput):
    """`last_hidden_state` [batch, length, width]; `state` after the last token; `raw`: the last layer's output before dropout."""

    last_hidden_state: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    raw: Tensor | None = None


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one training pass over a window or a chunk, shared by its time steps; None where nothing is dropped."""

    embed: Tensor | None  # [vocabulary]
    layers: list[Tensor | None]  # [batch, 1, width]: of the embedded tokens, and of each layer's outputs
    weights: list[Tensor | None]  # the hidden-to-hidden matrices themselves, after dropout


class AWDLSTMPreTrainedModel(PreTrainedModel):
    """What the three models share: the configuration and the initialisation."""

    config_class = AWDLSTMConfig
    base_model_prefix = "model"
    _is_stateful = True
    supports_gradient_checkpointing = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.RNNBase):
            loaded = {name for name, p in module.named_parameters() if getattr(p, "_is_hf_initialized", False)}
            hidden: Hidden = self.config.recurrent_init or self.config.usual_init()
            init_recurrent_(module, hidden=hidden, forget_bias=self.config.forget_bias, skip=loaded)
        elif isinstance(module, nn.Embedding):
            if not getattr(module.weight, "_is_hf_initialized", False):
                nn.init.uniform_(module.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
                if module.padding_idx is not None:
                    with torch.no_grad():
                        module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.Linear):
            if not getattr(module.weight, "_is_hf_initialized", False):
                nn.init.kaiming_normal_(module.weight)
            if module.bias is not None and not getattr(module.bias, "_is_hf_initialized", False):
                nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class AWDLSTMModel(AWDLSTMPreTrainedModel):
    """The encoder: an embedding and recurrent layers, with the five dropouts."""

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__(config)
        options = {"nonlinearity": config.nonlinearity} if config.cell == "rnn" else {}
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            CELLS[config.cell](before, after, batch_first=True, **options) for before, after in config.layer_sizes()
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        assert isinstance(value, nn.Embedding)
        self.embed_tokens = value

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        state: State | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> AWDLSTMOutput:
        """Encode tokens [batch, length], continuing from `state`; without an attention mask every position is a token.

        Padding leaves the state unchanged, and the outputs there are 0. Further arguments, which transformers passes to any model,
        are ignored.
        """
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        masks = self.draw_masks(embedded)
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask[:, -embedded.shape[1] :]  # during generation the mask covers all tokens so far
            if bool(attention_mask.all()):
                attention_mask = None
        hidden, new_state = self.read(self.drop_words(embedded, input_ids, masks), state, masks=masks, mask=attention_mask)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return AWDLSTMOutput(
            last_hidden_state=_multiplied(hidden[-1], masks.layers[-1] if masks else None),
            state=new_state,
            hidden_states=tuple(hidden) if wanted else None,
            raw=hidden[-1],
        )

    def draw_masks(self, embedded: Tensor) -> Masks | None:
        """Draw all dropout masks of a training pass over `embedded` [batch, ...]; None in evaluation mode.

        Layers that are in evaluation mode themselves, as frozen layers are, have no dropout: neither of their words, nor of their
        weights or outputs.
        """
        if not self.training:
            return None
        config, parts = self.config, [self.embed_tokens, *self.layers]
        widths = [config.embedding_size, *(after for _, after in config.layer_sizes())]
        shares = [config.input_dropout, *[config.hidden_dropout] * (len(self.layers) - 1), config.output_dropout]
        drop_words = config.embed_dropout > 0.0 and self.embed_tokens.training
        return Masks(
            embed=F.dropout(embedded.new_ones(len(self.embed_tokens.weight)), config.embed_dropout) if drop_words else None,
            layers=[
                F.dropout(embedded.new_ones(len(embedded), 1, width), share) if share and part.training else None
                for part, share, width in zip(parts, shares, widths, strict=True)
            ],
            weights=[
                F.dropout(layer.get_parameter("weight_hh_l0"), config.weight_dropout)
                if config.weight_dropout and layer.training
                else None
                for layer in self.layers
            ],
        )

    def drop_words(self, embedded: Tensor, input_ids: Tensor | None, masks: Masks | None) -> Tensor:
        """Apply the embedding dropout and the input dropout; without `input_ids` only the latter, as words are then unknown."""
        if masks is None:
            return embedded
        if masks.embed is not None and input_ids is not None:
            embedded = embedded * masks.embed[input_ids].unsqueeze(-1)
        return _multiplied(embedded, masks.layers[0])

    def read(
        self, embedded: Tensor, state: State | None, *, masks: Masks | None, mask: Tensor | None = None
    ) -> tuple[list[Tensor], State]:
        """Run the recurrent layers; return the embedded tokens and each layer's outputs before dropout, and the new state."""
        packing = None if mask is None else Packing.of(mask)
        hidden, new_state, states = [embedded], [], _by_layer(state, len(self.layers))
        for index, layer in enumerate(self.layers):
            inputs = hidden[-1] if index == 0 or masks is None else _multiplied(hidden[-1], masks.layers[index])
            weight = None if masks is None else masks.weights[index]
            dropped = {} if weight is None else {"weight_hh_l0": weight}
            before = _layer_state(states[index], inputs)
            if packing is None:
                outputs, after = functional_call(layer, dropped, (inputs, before))
            else:
                packed, after = functional_call(layer, dropped, (packing.pack(inputs), before))
                outputs = packing.unpack(packed)
            hidden.append(outputs)
            new_state += [part.squeeze(0) for part in (after if isinstance(after, tuple) else (after,))]
        return hidden, tuple(new_state)


def _multiplied(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask.to(values.dtype)


def _by_layer(state: State | None, num_layers: int) -> Sequence[Sequence[Tensor] | None]:
    """Split a flat state into the tensors of each layer."""
    if state is None:
        return [None] * num_layers
    size = len(state) // num_layers
    if size * num_layers != len(state) or size not in (1, 2):
        raise ValueError(f"a state of {len(state)} tensors does not fit a model of {num_layers} layers")
    return [state[size * index : size * (index + 1)] for index in range(num_layers)]


def _layer_state(parts: Sequence[Tensor] | None, inputs: Tensor) -> Any:
    """Reshape a layer's state to [1, batch, width], as torch's recurrent layers expect it."""
    if parts is None:
        return None
    shaped = [part.unsqueeze(0).to(inputs.dtype) for part in parts]
    return shaped[0] if len(shaped) == 1 else tuple(shaped)
