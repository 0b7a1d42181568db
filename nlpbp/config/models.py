"""Config sections: the models that nlpbp makes itself, and how language models are trained."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nlpbp.config.optim import OptimizerName, ScheduleName
from nlpbp.core.optim import (
    ACTIVATION_FACTOR,
    RECURRENT_MAX_GRAD_NORM,
    RECURRENT_MOMENTUM,
    RECURRENT_WEIGHT_DECAY,
    TEMPORAL_FACTOR,
)


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """The recurrent net: an AWD-LSTM, or the same around another cell (practices N5, A4, L5)."""

    size: Literal["tiny", "small", "paper"] = "small"
    """tiny: embedding 16, 2 layers of 24, for tests; small: 200, 2 of 512; paper: 400, 3 of 1152, as AWD-LSTM and ULMFiT have."""
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """The recurrent cell; a plain rnn forces low rates."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """Of a plain rnn."""
    recurrent_init: Literal["orthogonal", "identity", "default"] | None = None
    """Of the hidden-to-hidden matrices. Left out: identity for a ReLU, else orthogonal."""
    pooling: Literal["concat", "last", "mean", "max"] = "concat"
    """What a classifier's head sees of its states; concat: the last, the greatest and the mean (practice N10)."""
    backwards: bool = False
    """Read texts from their end; a forward and a backward model make an ensemble."""


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """How the language model is trained: AdamW, with AWD-LSTM's penalties and clipping."""

    init: str | None = None
    """Start from this language model: a run of `lm_awd_lstm`, a model folder, or a `.pth` file of fastai's with its vocabulary
    beside it (vocab.json). Its sizes and cell are kept."""
    steps: int | None = None
    """Windows to train on. Left out: `epochs` passes."""
    epochs: int = 1
    """Passes over the texts, where `steps` are not given."""
    lr: float | Literal["auto"] = 5e-3
    """Highest rate; auto: found by a sweep (practice L1)."""
    layer_decay: float = 1.0
    """Each layer below trains this much slower than the one above it."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum."""
    batch_size: int = 64
    """Parts of the stream that are read side by side: the batch."""
    bptt: int = 70
    """Tokens of each row in a step; the state goes on, the gradient is cut there."""
    random_bptt: bool = False
    """Draw the windows' lengths, as AWD-LSTM does: one in twenty about half as long."""
    dropout: float = 1.0
    """Multiplies the five dropouts in their own ratio (practice N2)."""
    schedule: ScheduleName = "one_cycle"
    """How the rate goes (practices L3, L4)."""
    momentum: tuple[float, float] = RECURRENT_MOMENTUM
    """Adam's first beta where the rate is low and where it is high, under one_cycle; else the first is kept (practice N1)."""
    weight_decay: float = RECURRENT_WEIGHT_DECAY
    """Decoupled decay (practice T4); never of biases, norms and embeddings."""
    max_grad_norm: float | None = RECURRENT_MAX_GRAD_NORM
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    sampled: int | None = None
    """Estimate the training loss from the tokens that occur in a step and so many others, which is faster. Left out: from all."""
    ar_alpha: float = ACTIVATION_FACTOR
    """Factor of the penalty on activations (practice N4)."""
    tar_beta: float = TEMPORAL_FACTOR
    """Factor of the penalty on their changes in time (practice N4)."""
    swa_start: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema_decay: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless swa_start
    says otherwise. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class ResidualNet:
    """The small residual net: its layout, choice by choice."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each group of blocks; each after the first halves the image."""
    num_blocks: int = 2
    """Residual blocks a group (practice X3)."""
    stem: Literal["5x5", "three_3x3", "3x3_stride2", "7x7_stride2"] = "5x5"
    """The first layers (practice X2): one rich layer or three small ones that keep the size, or one that halves it."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each convolution (practice N8). group gives the same result on any number of processes."""
    order: Literal["conv_norm_relu", "conv_relu_norm"] = "conv_norm_relu"
    """The norm before the ReLU, or after it (practice N9)."""
    downsample: Literal["stride", "max", "average"] = "stride"
    """What halves the image: a convolution of stride 2, or a pooling (practice N7)."""
    residual: bool = True
    """Add each block's input to its output; False for a plain net, to compare."""
    zero_init: bool = True
    """Let each block add nothing at the start."""
    init: Literal["he", "lsuv"] = "he"
    """How weights begin (practice T3): He's, for ReLU, or LSUV's, on a batch of training images."""
    head_dropout: float = 0.0
    """Before the last layer."""


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """A masked-language-model step on the target's texts before the classifier (practice N6).

    AdamW under a warm-up and a cosine, with the betas, eps, weight decay, warm-up and clipping of optim; one rate for all layers.
    """

    steps: int | None = None
    """Train so many steps. Left out: no such step."""
    lr: float = 1e-4
    """Highest rate."""
    unlabelled: str | None = None
    """More texts of the target's kind, without labels."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) instead of all weights; needs the package peft."""

    rank: int | None = None
    """Rank of the adapters of all linear layers. Left out: all weights train."""
    alpha: float = 16.0
    """Their outputs are multiplied by alpha / rank."""
