"""The configuration of an AWD-LSTM and its five dropouts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

from torch import nn
from transformers import PreTrainedConfig

from nlpbp.core.pooling import Pooling

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True)
class Dropouts:
    """The probabilities of the five dropouts of AWD-LSTM; `scaled` changes them together and keeps their ratios.

    >>> LANGUAGE_MODEL_DROPOUTS.scaled(0.5).weight
    0.1
    """

    embed: float  # drops whole words: rows of the embedding matrix, the same ones for the whole batch
    input: float  # of the embedded tokens; like the hidden and output dropout, one mask for all time steps
    hidden: float  # between the recurrent layers
    weight: float  # of the hidden-to-hidden matrices (DropConnect), one mask for the whole batch
    output: float  # before the decoder, or before the classifier's first layer

    def scaled(self, multiplier: float) -> Dropouts:
        """Multiply all five by the same number."""
        return Dropouts(**{name: value * multiplier for name, value in vars(self).items()})

    def as_config(self) -> dict[str, float]:
        """Return them under the names of `AWDLSTMConfig`."""
        return {f"{name}_dropout": value for name, value in vars(self).items()}


# ULMFiT's (Howard and Ruder 2018), from fastai's awd_lstm_lm_config and awd_lstm_clas_config.
LANGUAGE_MODEL_DROPOUTS = Dropouts(embed=0.02, input=0.25, hidden=0.15, weight=0.2, output=0.1)
CLASSIFIER_DROPOUTS = Dropouts(embed=0.05, input=0.4, hidden=0.3, weight=0.5, output=0.4)


class AWDLSTMConfig(PreTrainedConfig):
    """The configuration of an AWD-LSTM; the defaults are the sizes and the language model dropouts of ULMFiT.

    `cell` is lstm, gru or rnn (the last with `nonlinearity` tanh or relu). With tied embeddings the last layer has the width of
    the embedding. `recurrent_init` initialises the recurrent layers: orthogonal, identity or default (torch's own); None means
    identity for an RNN with ReLU, orthogonal for one with tanh, and default for cells with gates. A `backwards` model reads a text
    from its end. The classifier reads `chunk_length` tokens at a time, with truncated backpropagation between the chunks, and pools
    the outputs at the last `pooled_length` tokens with `pooling`; only through those does it backpropagate. `head_norm` is the
    normalisation in its head, batch or layer. `value_range` bounds the predictions of a regression.
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
    head_norm: str = "layer"
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
            raise ValueError(f"cell must be lstm, gru or rnn, not {self.cell!r}")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be tanh or relu, not {self.nonlinearity!r}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, not {self.pooling!r}")
        if self.head_norm not in ("batch", "layer"):
            raise ValueError(f"head_norm must be batch or layer, not {self.head_norm!r}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must go from a lower to a higher value, not {self.value_range}")

    def usual_init(self) -> Literal["orthogonal", "identity", "default"]:
        """Return the initialisation of the recurrent layers where none is named."""
        if self.cell != "rnn":
            return "default"
        return "identity" if self.nonlinearity == "relu" else "orthogonal"

    def layer_sizes(self) -> list[tuple[int, int]]:
        """Return the input and output width of each recurrent layer."""
        last = self.embedding_size if self.tie_word_embeddings else self.hidden_size
        widths = [self.embedding_size, *[self.hidden_size] * (self.num_hidden_layers - 1), last]
        return list(pairwise(widths))
