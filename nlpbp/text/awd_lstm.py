"""AWD-LSTM (Merity, Keskar and Socher 2017) as transformers models: a language model, and a classifier that reads any length.

`import nlpbp.text` makes `AutoModel...from_pretrained` know them. The recurrent state goes in and out of `forward` as a flat
tuple of tensors [batch, width], one a layer (h), for LSTMs two (h, c); nothing is remembered inside a module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from nlpbp.core.init import Hidden, init_recurrent_
from nlpbp.core.layers import scaled_sigmoid
from nlpbp.core.losses import PLAIN, PROBLEM_LOSSES, chunked_cross_entropy, cross_entropy, sampled_cross_entropy
from nlpbp.core.pooling import Pooling, pool

State = tuple[Tensor, ...]
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
EMBEDDING_RANGE = 0.1  # AWD-LSTM's own


@dataclass(frozen=True)
class Dropouts:
    """The five dropouts of AWD-LSTM; what counts is their ratio, which `scaled` keeps.

    >>> LANGUAGE_MODEL_DROPOUTS.scaled(0.5).weight
    0.1
    """

    embed: float  # whole rows of the vocabulary, the same for the whole batch
    input: float  # of the embedded tokens, one mask for all time steps, as the next two
    hidden: float  # between the recurrent layers
    weight: float  # of the hidden-to-hidden matrices, one mask for the whole batch
    output: float  # before the decoder, or the classifier's first layer

    def scaled(self, multiplier: float) -> Dropouts:
        """Multiply all five."""
        return Dropouts(**{name: value * multiplier for name, value in vars(self).items()})

    def as_config(self) -> dict[str, float]:
        """Return them under the names of `AWDLSTMConfig`."""
        return {f"{name}_dropout": value for name, value in vars(self).items()}


# ULMFiT (Howard and Ruder 2018), as fastai's awd_lstm_lm_config and awd_lstm_clas_config have them.
LANGUAGE_MODEL_DROPOUTS = Dropouts(embed=0.02, input=0.25, hidden=0.15, weight=0.2, output=0.1)
CLASSIFIER_DROPOUTS = Dropouts(embed=0.05, input=0.4, hidden=0.3, weight=0.5, output=0.4)


class AWDLSTMConfig(PreTrainedConfig):
    """What an AWD-LSTM is made of; the defaults are ULMFiT's sizes and language model dropouts.

    `cell` is lstm, gru or rnn (with `nonlinearity` tanh or relu). The last layer is as wide as the embedding when they are tied.
    `recurrent_init` is of the hidden-to-hidden matrices: orthogonal, identity or default; None: identity for a ReLU, else
    orthogonal. A `backwards` model reads a text from its end. `chunk_length` tokens are read at a time by the classifier, with the
    state carried on and the gradient cut; the last `pooled_length` are pooled, by `pooling`, and trained on. `value_range` bounds
    what a regression answers.
    """

    model_type = "awd_lstm"
    attribute_map: ClassVar[dict[str, str]] = {"num_layers": "num_hidden_layers"}

    vocab_size: int = 30_000
    embedding_size: int = 400
    hidden_size: int = 1152
    num_hidden_layers: int = 3
    cell: str = "lstm"
    nonlinearity: str = "tanh"
    embed_dropout: float = LANGUAGE_MODEL_DROPOUTS.embed
    input_dropout: float = LANGUAGE_MODEL_DROPOUTS.input
    hidden_dropout: float = LANGUAGE_MODEL_DROPOUTS.hidden
    weight_dropout: float = LANGUAGE_MODEL_DROPOUTS.weight
    output_dropout: float = LANGUAGE_MODEL_DROPOUTS.output
    recurrent_init: str | None = None
    forget_bias: float = 1.0
    tie_word_embeddings: bool = True
    decoder_bias: bool = True
    backwards: bool = False
    head_size: int = 50
    head_dropout: float = 0.1
    pooling: str = "concat"
    chunk_length: int = 72
    pooled_length: int = 1440
    value_range: list[float] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    use_cache: bool = True

    def __post_init__(self, **options: Any) -> None:
        super().__post_init__(**options)
        if self.cell not in CELLS:
            raise ValueError(f"the cell is lstm, gru or rnn, not {self.cell!r}")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"the nonlinearity is tanh or relu, not {self.nonlinearity!r}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"the pooling is one of {', '.join(get_args(Pooling))}, not {self.pooling!r}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range goes from low to high, and is {self.value_range}")

    def layer_sizes(self) -> list[tuple[int, int]]:
        """Return the input and output width of each recurrent layer."""
        last = self.embedding_size if self.tie_word_embeddings else self.hidden_size
        widths = [self.embedding_size, *[self.hidden_size] * (self.num_hidden_layers - 1), last]
        return list(pairwise(widths))


@dataclass
class AWDLSTMOutput(ModelOutput):
    """`last_hidden_state` [batch, length, width]; `state` after the last token; `raw` is the last layer's before its dropout."""

    last_hidden_state: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    raw: Tensor | None = None


@dataclass
class AWDLSTMCausalLMOutput(ModelOutput):
    """`loss` is the plain mean cross-entropy; `activations` are the last layer's after and before dropout, for AR and TAR."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    state: State | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    activations: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Masks:
    """What one forward pass multiplies with while it trains: the same for all its time steps and chunks; None drops nothing."""

    embed: Tensor | None  # [vocabulary]
    layers: list[Tensor | None]  # [batch, 1, width]: of the embedded tokens, and of each layer's outputs
    weights: list[Tensor | None]  # hidden-to-hidden matrices, dropped


class AWDLSTMPreTrainedModel(PreTrainedModel):
    """What the three models share: the config, and how parameters begin."""

    config_class = AWDLSTMConfig
    base_model_prefix = "model"
    _is_stateful = True
    supports_gradient_checkpointing = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.RNNBase):
            loaded = {name for name, p in module.named_parameters() if getattr(p, "_is_hf_initialized", False)}
            relu = self.config.cell == "rnn" and self.config.nonlinearity == "relu"
            hidden: Hidden = self.config.recurrent_init or ("identity" if relu else "orthogonal")
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
    """Embedding and recurrent layers with the five dropouts."""

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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        state: State | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> AWDLSTMOutput | tuple[Any, ...]:
        """Read tokens [batch, length] from `state` on; without a mask every token counts, with one padding changes no state.

        Outputs are 0 at padding. Other arguments that transformers passes to any model are accepted and have no effect.
        """
        embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        masks = self.draw_masks(embedded)
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask[:, -embedded.shape[1] :]  # while generating, the mask is of all tokens so far
            if bool(attention_mask.all()):
                attention_mask = None
        hidden, new_state = self.read(self.drop_words(embedded, input_ids, masks), state, masks=masks, mask=attention_mask)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        outputs = AWDLSTMOutput(
            last_hidden_state=_multiplied(hidden[-1], masks.layers[-1] if masks else None),
            state=new_state,
            hidden_states=tuple(hidden) if wanted else None,
            raw=hidden[-1],
        )
        with_names = self.config.return_dict if return_dict is None else return_dict
        return outputs if with_names else outputs.to_tuple()

    def draw_masks(self, embedded: Tensor) -> Masks | None:
        """Draw everything random of a training pass over `embedded` [batch, ...]; None in evaluation.

        What is in evaluation mode itself, as frozen layers are, drops nothing: not its words, its weights or its outputs.
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
        """Drop whole words, and then by the input mask; embeddings that came from outside have no words to drop."""
        if masks is None:
            return embedded
        if masks.embed is not None and input_ids is not None:
            embedded = embedded * masks.embed[input_ids].unsqueeze(-1)
        return _multiplied(embedded, masks.layers[0])

    def read(
        self, embedded: Tensor, state: State | None, *, masks: Masks | None, mask: Tensor | None = None
    ) -> tuple[list[Tensor], State]:
        """Run the layers; return the embedded tokens and each layer's outputs before their dropout, and the new state."""
        packing = None if mask is None else _Packing.of(mask)
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


class AWDLSTMForCausalLM(AWDLSTMPreTrainedModel, GenerationMixin):
    """A language model with tied embeddings."""

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
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> AWDLSTMCausalLMOutput | tuple[Any, ...]:
        """Predict the next token at each position, from `state` on.

        `labels` [batch, length] are the inputs themselves, -100 for none. `shift_labels` are the next tokens, as a stream of
        windows has them: the loss is then computed in chunks, and no logits are held or returned.
        """
        read = self.model(
            input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            state=state,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        loss = logits = None
        if shift_labels is not None and type(self.lm_head) is not nn.Linear:  # an adapter, which its weights alone do not know of
            loss = cross_entropy(self.lm_head(read.last_hidden_state).flatten(0, 1), shift_labels.flatten())
        elif shift_labels is not None:
            decoder = (self.lm_head.weight, self.lm_head.bias)
            if num_sampled is not None and self.training:
                loss = sampled_cross_entropy(read.last_hidden_state, *decoder, shift_labels, num_sampled=num_sampled)
            else:
                loss = chunked_cross_entropy(read.last_hidden_state, *decoder, shift_labels)
        else:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
            chosen = read.last_hidden_state if isinstance(keep, int) else read.last_hidden_state[:, keep]
            logits = self.lm_head(chosen)
        if labels is not None and logits is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        outputs = AWDLSTMCausalLMOutput(
            loss=loss,
            logits=logits,
            state=read.state,
            hidden_states=read.hidden_states,
            activations=(read.last_hidden_state, read.raw) if shift_labels is not None else None,
        )
        with_names = self.config.return_dict if return_dict is None else return_dict
        return outputs if with_names else outputs.to_tuple()

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, state: State | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> dict[str, Any]:
        """Hand on the state, and of the tokens only those it has not seen."""
        first = options.get("inputs_embeds") if state is None else None
        inputs = {"input_ids": input_ids[:, -1:] if state is not None else input_ids, "inputs_embeds": None}
        if first is not None:
            inputs = {"input_ids": None, "inputs_embeds": first}
        return {**inputs, "state": state, "attention_mask": attention_mask if state is None else None}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the state is all there is to remember

    def _reorder_cache(self, state: State, beam_idx: Tensor) -> State:
        return tuple(part.index_select(0, beam_idx.to(part.device)) for part in state)


class AWDLSTMForSequenceClassification(AWDLSTMPreTrainedModel):
    """A classifier or regressor over all that an AWD-LSTM reads, however long, pooled to [last, max, mean] by default."""

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = AWDLSTMModel(config)
        self.classifier = PoolingHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pooled: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Answer for texts [batch, length], each from a state of zeros; `attention_mask` is true for tokens, on either side.

        The task of the loss is `config.problem_type`. Hidden states are those of the last layer alone, in the chunks that are
        pooled, with the embedded tokens before it. `pooled` [batch, the head's width], kept from before, spares the reading.
        """
        if pooled is not None:
            logits = self.classifier(pooled)
            return SequenceClassifierOutput(loss=None if labels is None else self._loss(logits, labels), logits=logits)
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("give input_ids or inputs_embeds")
        mask = torch.ones(given.shape[:2], device=given.device) if attention_mask is None else attention_mask
        order = _left_aligned(mask.bool(), backwards=self.config.backwards)
        mask = mask.bool().gather(1, order)
        embedded = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        embedded = embedded.gather(1, order.unsqueeze(-1).expand_as(embedded))
        masks = self.model.draw_masks(embedded)
        words = None if input_ids is None else input_ids.gather(1, order)
        embedded = self.model.drop_words(embedded, words, masks)
        hidden = torch.cat(list(self._read_in_chunks(embedded, mask, masks)), dim=1)
        logits = self.classifier(
            pool(hidden, _last(mask, self.config.pooled_length)[:, -hidden.shape[1] :], kind=self.config.pooling)
        )
        outputs = SequenceClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=(embedded, hidden) if output_hidden_states or self.config.output_hidden_states else None,
        )
        with_names = self.config.return_dict if return_dict is None else return_dict
        return outputs if with_names else outputs.to_tuple()

    def _read_in_chunks(self, embedded: Tensor, mask: Tensor, masks: Masks | None) -> Iterator[Tensor]:
        """Yield the last layer's outputs, chunk by chunk, from the first chunk on in which a text's pooled part begins."""
        step, state = self.config.chunk_length, None
        lengths = mask.sum(dim=1)
        first = int((lengths - self.config.pooled_length).clamp(min=0).min()) // step * step
        for start in range(0, embedded.shape[1], step):
            with torch.set_grad_enabled(torch.is_grad_enabled() and start >= first):
                hidden, state = self.model.read(embedded[:, start : start + step], state, masks=masks)
            state = tuple(part.detach() for part in state)
            if start >= first:
                yield hidden[-1]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type or ("regression" if self.num_labels == 1 else "single_label_classification")
        labels = labels.float() if kind != "single_label_classification" else labels
        return PROBLEM_LOSSES[kind](logits, labels, PLAIN)


class PoolingHead(nn.Module):
    """ULMFiT's head: two blocks of normalisation, dropout and a linear layer over pooled vectors, by default [batch, 3 * width].

    The normalisation is over a text's features and not over the batch as in the paper: so a text's answer and gradient never
    depend on its neighbours, and several processes train what one does.
    """

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__()
        width = config.layer_sizes()[-1][1] * (3 if config.pooling == "concat" else 1)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.output_dropout)
        self.dense = nn.Linear(width, config.head_size)
        self.out_norm = nn.LayerNorm(config.head_size)
        self.out_dropout = nn.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.head_size, int(config.num_labels or 0))
        self.value_range = config.value_range

    def forward(self, pooled: Tensor) -> Tensor:
        """Answer [batch, labels]."""
        hidden = F.relu(self.dense(self.dropout(self.norm(pooled))))
        logits: Tensor = self.out_proj(self.out_dropout(self.out_norm(hidden)))
        if self.value_range is None:
            return logits
        return scaled_sigmoid(logits, low=self.value_range[0], high=self.value_range[1], margin=0.0)


@dataclass(frozen=True)
class _Packing:
    """Rows with padding anywhere, packed so that padding changes no state."""

    order: Tensor  # positions, tokens first
    lengths: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> _Packing:
        mask = mask.bool()
        return cls(_left_aligned(mask), mask.sum(dim=1).cpu().clamp(min=1), mask)

    def pack(self, values: Tensor) -> Any:
        moved = values.gather(1, self.order.unsqueeze(-1).expand_as(values))
        return pack_padded_sequence(moved, self.lengths, batch_first=True, enforce_sorted=False)

    def unpack(self, packed: Any) -> Tensor:
        values, _ = pad_packed_sequence(packed, batch_first=True, total_length=self.mask.shape[1])
        places = torch.arange(self.order.shape[1], device=self.order.device)
        back = torch.empty_like(self.order).scatter_(1, self.order, places.expand_as(self.order))
        return values.gather(1, back.unsqueeze(-1).expand_as(values)) * self.mask.unsqueeze(-1)


def _left_aligned(mask: Tensor, *, backwards: bool = False) -> Tensor:
    """Return the positions of each row in the order tokens, then padding; `backwards`: the last token first."""
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    keys = torch.where(mask, -positions if backwards else positions, positions + mask.shape[1])
    return keys.argsort(dim=1)


def _last(mask: Tensor, num: int) -> Tensor:
    """Keep the last `num` tokens of each left-aligned row."""
    lengths = mask.sum(dim=1, keepdim=True)
    return mask & (torch.arange(mask.shape[1], device=mask.device) >= lengths - num)


def _multiplied(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask.to(values.dtype)


def _by_layer(state: State | None, num_layers: int) -> Sequence[Sequence[Tensor] | None]:
    if state is None:
        return [None] * num_layers
    size = len(state) // num_layers
    if size * num_layers != len(state) or size not in (1, 2):
        raise ValueError(f"a state of {len(state)} tensors is not that of a model of {num_layers} layers")
    return [state[size * index : size * (index + 1)] for index in range(num_layers)]


def _layer_state(parts: Sequence[Tensor] | None, inputs: Tensor) -> Any:
    """Give the parts the shape that torch's layers want, [1, batch, width]."""
    if parts is None:
        return None
    shaped = [part.unsqueeze(0).to(inputs.dtype) for part in parts]
    return shaped[0] if len(shaped) == 1 else tuple(shaped)
