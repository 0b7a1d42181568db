"""Config sections: optimizers, schedules, the learning-rate finder, and the stages of a training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nlpbp.core.optim import (
    ACTIVATION_FACTOR,
    IMAGE_MOMENTUM,
    RECURRENT_CLASSIFIER_MOMENTUM,
    TEMPORAL_FACTOR,
    TRANSFORMER_BETAS,
    TRANSFORMER_EPS,
)

FEW_TEXTS = 128  # for training: below, a head begins at a linear probe, and a small model at a lower rate, which stays near it

Start = Literal["auto", "always", "never"]
Rate = float | Literal["auto"] | None


ScheduleName = Literal["cosine", "linear", "constant", "one_cycle", "slanted_triangular", "flat_cosine", "warm_restarts"]


OptimizerName = Literal["adamw", "sgd"]


@dataclasses.dataclass(frozen=True)
class Cycles:
    """Cosine annealing with warm restarts (SGDR, practice L4); used with `--optim.schedule warm_restarts`."""

    num_cycles: int = 3
    """Number of cycles; the learning rate falls to 0 at the end of each."""
    cycle_len: int | None = None
    """Epochs of the first cycle; a classifier's stage is then as long as its cycles, whatever --epochs says. Default: the cycles
    share the stage's epochs."""
    cycle_mult: int = 2
    """Each cycle is this many times as long as the one before it."""
    cycle_decay: float = 1.0
    """The peak learning rate of each cycle is that of the one before it times this factor."""
    snapshots: bool = False
    """Save the model at the end of each cycle in snapshots/; `predict.py RUN --snapshots` averages their predictions."""


@dataclasses.dataclass(frozen=True)
class Finder:
    """The learning-rate finder (LR range test), which runs where a learning rate is `auto` (practice L1)."""

    start: float = 1e-6
    """Lowest learning rate of the sweep."""
    end: float = 1.0
    """Highest learning rate of the sweep, which ends early once the loss diverges."""
    num_steps: int = 200
    """Steps of a sweep. More steps give the loss time to fall, and separate it from noise."""
    num_sweeps: int = 2
    """Number of sweeps, each over another shuffling of the data. The spread of their suggestions is reported as an interval."""
    suggestion: Literal["steepest", "valley", "min_div_10", "edge_div_10", "edge_div_30"] = "edge_div_10"
    """Which suggestion to use. edge_div_10 is a tenth of the learning rate at which the loss begins to diverge; it was nearest to
    the best of a grid (docs/benchmarks/finder.md). If the curve has no valley, edge_div_30, a thirtieth, is used."""
    verify: bool = False
    """Also train briefly at a third of the suggestion, at the suggestion and at three times it, and use the best of the three."""
    stop_after_stage: int | None = None
    """Stop after the sweep of this stage, counted from 1, without training further."""


@dataclasses.dataclass(frozen=True)
class ClassifierOptim:
    """What the optimizers of all classifiers have in common."""

    optimizer: OptimizerName = "adamw"
    """adamw, or sgd with Nesterov momentum (the first beta)."""
    weight_decay: float = 0.01
    """Decoupled weight decay (practice T4); never applied to biases, norms and embeddings."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for no clipping (practice N3)."""
    label_smoothing: float = 0.0
    """Label smoothing: the fraction of each target that is spread over all labels."""
    focal_gamma: float = 0.0
    """Gamma of the focal loss (Lin et al. 2017): examples that are already right count less. 0 for cross-entropy."""
    asymmetric: tuple[float, float, float] | None = None
    """The asymmetric loss of several labels (Ridnik et al. 2021): gamma of those that hold, gamma of those that do not, and the
    probability up to which the latter cost nothing; the paper's are 0 4 0.05. Default: cross-entropy."""
    class_weights: Literal["auto"] | None = None
    """auto: weight the loss of each label in inverse proportion to its frequency in the training set."""
    swa_start: float = 1.0
    """Average the weights from this fraction of a stage's steps on (SWA), and keep the average. For schedules that stay high, such
    as constant. 1 for no averaging. Batch norm statistics are not averaged."""
    ema_decay: float | None = None
    """Average with an exponential moving average of this decay per step, 0.99 for instance, from the first step on unless swa_start
    says otherwise. Default: all averaged steps count the same."""


@dataclasses.dataclass(frozen=True)
class Optim(ClassifierOptim):
    """Optimizer, learning rates and schedule."""

    lr: Rate = None
    """Learning rate of the top layer of the encoder (with `similarity`: of the head); auto: from the learning-rate finder (practice
    L1). Default: 2e-4 for models below 50 million parameters (1e-4 with fewer than 128 training texts, 5e-4 with 10 labels or more
    of which a text may have several), 3e-5 above."""
    head_lr: float | None = None
    """Learning rate of the new head. If lr is auto, give it relative to an lr of 1e-4. Default: lr, and ten times that where there
    are 10 labels or more."""
    layer_decay: float = 0.9
    """Layer-wise learning-rate decay: each layer trains at this fraction of the layer above it; 1 for one learning rate (practice
    L2)."""
    similarity: Literal["high", "low"] | None = None
    """Three layer groups instead of layer_decay. high: your texts are like those of pretraining, and each group trains 10 times
    slower than the one above it; low: 3 times."""
    betas: tuple[float, float] = TRANSFORMER_BETAS
    """AdamW betas; the default is RoBERTa's (practice N1)."""
    eps: float = TRANSFORMER_EPS
    """AdamW epsilon; the default is RoBERTa's."""
    schedule: ScheduleName = "cosine"
    """Learning-rate schedule of each stage (practices L3, L4)."""
    warmup_ratio: float = 0.1
    """Fraction of a stage's steps for linear warm-up; one_cycle, slanted_triangular and warm_restarts do not use it."""
    probe: Start = "auto"
    """Begin the head at the weights of a linear probe of the frozen model (LP-FT). auto: with fewer than 128 training texts; with
    more a head that begins at random ends as well or better."""


def begins_at_probe(wanted: Start, *, num_texts: int) -> bool:
    """Tell whether a head begins at a linear probe, where it can: as is wanted, or with few texts."""
    return wanted == "always" or (wanted == "auto" and num_texts < FEW_TEXTS)


@dataclasses.dataclass(frozen=True)
class ImageOptim(ClassifierOptim):
    """Optimizer, learning rates and schedule of an image classifier."""

    lr: Rate = None
    """Learning rate of the top layers of the body; auto: from the learning-rate finder (practice L1). Default: the recipe's own."""
    head_lr: float | None = None
    """Learning rate of the head. If lr is auto, give it relative to an lr of 1e-4. Default: lr."""
    layer_decay: float = 1.0
    """Each layer group trains at this fraction of the learning rate of the group above it; 1 for one rate (practice L2)."""
    similarity: Literal["high", "low"] | None = None
    """Three layer groups instead of layer_decay. high: your images are like those of pretraining, and each group trains 10 times
    slower than the one above it; low: 3 times."""
    schedule: ScheduleName = "one_cycle"
    """Learning-rate schedule of each stage (practices L3, L4)."""
    warmup_ratio: float = 0.1
    """Fraction of a stage's steps for linear warm-up; one_cycle, slanted_triangular and warm_restarts do not use it."""
    momentum: tuple[float, float] = IMAGE_MOMENTUM
    """Adam's first beta where the learning rate is low and where it is high, under one_cycle; else the first one (practice N1)."""
    norms: Literal["trained", "frozen"] = "trained"
    """frozen: batch norm layers keep the statistics of pretraining even in layers that train, for similar images and above all for
    small batches (practice T1). Frozen layers keep them in any case."""


@dataclasses.dataclass(frozen=True)
class RecurrentOptim(ClassifierOptim):
    """Optimizer, learning rates and schedule of a recurrent classifier."""

    lr: Rate = None
    """Peak learning rate of every stage, instead of the stages' own; auto: from the learning-rate finder (practice L1)."""
    similarity: Literal["high", "low"] | None = None
    """Three layer groups instead of group_ratio. high: your texts are like those of pretraining, and each group trains 10 times
    slower than the one above it; low: 3 times."""
    group_ratio: float = 1.0
    """Each layer group trains this many times slower than the one above it (practice L2). ULMFiT's 2.6 is for a language model that
    has read far more than your texts; with one trained in minutes it cost 8 points of accuracy."""
    schedule: ScheduleName = "one_cycle"
    """Learning-rate schedule of each stage (practices L3, L4)."""
    momentum: tuple[float, float] = RECURRENT_CLASSIFIER_MOMENTUM
    """Adam's first beta where the learning rate is low and where it is high, under one_cycle; else the first one (practice N1)."""
    ar_alpha: float = ACTIVATION_FACTOR
    """Alpha of activation regularisation (AR, practice N4); AR and TAR were worth a point of accuracy from scratch."""
    tar_beta: float = TEMPORAL_FACTOR
    """Beta of temporal activation regularisation (TAR, practice N4)."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a classifier's training. What it leaves out is as elsewhere in the config."""

    epochs: int | None = None
    """Epochs. Default: `epochs` of the config, or 1."""
    lr: Rate = None
    """Peak learning rate; auto: from the learning-rate finder (practice L1). Default: optim.lr, or the recipe's own. In recurrent
    classifiers optim.lr, if given, overrides it."""
    train_last: int | None = None
    """Train only this many layer groups, counted from the head; the others are frozen, without dropout and with fixed norm
    statistics (practice T1). Default: all layers train."""
    max_length: int | None = None
    """Maximum tokens of a training text; short texts first save time (practice T2). Default: data.max_length."""
    batch_size: int | None = None
    """Texts per optimizer step. Default: batch.size."""
    cache_frozen: bool = False
    """Compute the outputs of the frozen layers once, and keep them in memory for the stage's later epochs."""


@dataclasses.dataclass(frozen=True)
class ImageStage:
    """One stage of an image classifier's training. What it leaves out is as elsewhere in the config."""

    epochs: int | None = None
    """Epochs. Default: `epochs` of the config."""
    lr: Rate = None
    """Peak learning rate; auto: from the learning-rate finder (practice L1). Default: optim.lr, or the recipe's own."""
    train_last: int | None = None
    """Train only this many layer groups, counted from the head; the others are frozen, without dropout and with fixed norm
    statistics (practice T1). Default: all layers train."""
    size: int | None = None
    """Height and width of a training image in pixels; small images first and large ones later save time (practice T2). Scores are
    always of images of data.size. Default: data.size."""
    batch_size: int | None = None
    """Images per optimizer step. Default: batch.size."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """All dropouts of the model together."""

    scale: float = 1.0
    """Multiplies the model's hidden, attention and head dropouts (practice N2)."""
