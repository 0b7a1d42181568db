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

    size: Literal["tiny", "mini", "small", "paper"] = "small"
    """tiny: embedding 16, 2 layers of 24, for tests; mini: 100, 2 of 200, which trains four times as fast as small: 200, 2 of 512;
    paper: 400, 3 of 1152, as AWD-LSTM and ULMFiT have."""
    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    """Recurrent cell; a plain rnn needs low learning rates."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """Nonlinearity of a plain rnn."""
    recurrent_init: Literal["orthogonal", "identity", "default"] | None = None
    """Initialisation of the recurrent layers: their hidden-to-hidden matrices, or all as torch has it (default). Left out: default
    for gru and lstm, which learns sooner so; for a plain rnn orthogonal, with a ReLU identity."""
    pooling: Literal["concat", "last", "mean", "max"] = "concat"
    """How hidden states are pooled for the classifier's head; concat: last, max and mean (practice N10)."""
    norm: Literal["batch", "layer"] = "batch"
    """Normalisation in the head. batch: over a micro-batch of texts, as ULMFiT has it; layer: of each text by itself, with which a
    net from scratch learns later or not at all."""
    backwards: bool = False
    """Read texts from end to beginning; a forward and a backward model make an ensemble."""


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Training of the language model: AdamW with AWD-LSTM's regularisation and clipping."""

    init: str | None = None
    """Start from this language model: a run of `lm_awd_lstm`, a model folder, or a `.pth` file of fastai's with its vocabulary
    beside it (vocab.json). Its sizes and cell are kept."""
    embeddings: str | None = None
    """Begin with the token embeddings of this transformers model, and take its tokenizer: a folder, a hub id, or `demo:minilm`. The
    net's embedding is as wide as they are."""
    steps: int | None = None
    """Number of steps. Default: `epochs` epochs."""
    epochs: int = 1
    """Epochs, if `steps` is not given."""
    lr: float | Literal["auto"] = 5e-3
    """Peak learning rate; auto: from the learning-rate finder (practice L1)."""
    layer_decay: float = 1.0
    """Layer-wise learning-rate decay: each layer trains at this fraction of the layer above it."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd with Nesterov momentum."""
    batch_size: int = 64
    """Rows that the token stream is cut into, read side by side."""
    bptt: int = 70
    """Tokens of each row per step (truncated backpropagation through time); the hidden state is carried on."""
    random_bptt: bool = False
    """Vary the length of each window as AWD-LSTM does: one in twenty is about half as long."""
    dropout: float = 1.0
    """Multiplies AWD-LSTM's five dropouts (practice N2; fastai's drop_mult)."""
    schedule: ScheduleName = "one_cycle"
    """Learning-rate schedule (practices L3, L4)."""
    momentum: tuple[float, float] = RECURRENT_MOMENTUM
    """Adam's first beta where the learning rate is low and where it is high, under one_cycle; else the first one (practice N1)."""
    weight_decay: float = RECURRENT_WEIGHT_DECAY
    """Decoupled weight decay (practice T4); never applied to biases, norms and embeddings."""
    max_grad_norm: float | None = RECURRENT_MAX_GRAD_NORM
    """Clip the gradient to this L2 norm; None for no clipping (practice N3)."""
    sampled_softmax: int | None = None
    """Sampled softmax: estimate the training loss from the tokens of a step and this many others, which is faster. Default: the
    full softmax."""
    ar_alpha: float = ACTIVATION_FACTOR
    """Alpha of activation regularisation (AR, practice N4)."""
    tar_beta: float = TEMPORAL_FACTOR
    """Beta of temporal activation regularisation (TAR, practice N4)."""
    swa_start: float = 1.0
    """Average the weights from this fraction of the steps on (SWA), and keep the average. 1 for no averaging."""
    ema_decay: float | None = None
    """Average with an exponential moving average of this decay per step, from the first step on unless swa_start says otherwise.
    Default: all averaged steps count the same."""


@dataclasses.dataclass(frozen=True)
class ResidualNet:
    """Architecture of the small residual net."""

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
    """Zero-initialise the last norm of each block, so that blocks begin as the identity."""
    init: Literal["he", "lsuv"] = "he"
    """Weight initialisation (practice T3): He's for ReLU, or LSUV on a batch of training images."""
    head_dropout: float = 0.0
    """Dropout before the last layer."""


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Masked language modelling on your texts before the classifier is trained (domain adaptation, practice N6).

    AdamW with warm-up and cosine; betas, eps, weight decay, warm-up and clipping are those of optim, with one learning rate.
    """

    steps: int | None = None
    """Number of steps. Default: none."""
    lr: float = 1e-4
    """Peak learning rate."""
    unlabelled: str | None = None
    """More in-domain texts, without labels."""


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) instead of all weights; needs the package peft."""

    rank: int | None = None
    """Rank of the adapters of all linear layers. Default: no adapters, all weights train."""
    alpha: float = 16.0
    """Their outputs are multiplied by alpha / rank."""
