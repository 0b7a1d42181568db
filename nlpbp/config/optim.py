"""Config sections: optimizers, schedules, the learning-rate finder, and the stages of a training."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nlpbp.core.optim import (
    IMAGE_MOMENTUM,
    RECURRENT_MOMENTUM,
    TRANSFORMER_BETAS,
    TRANSFORMER_EPS,
)

Rate = float | Literal["auto"] | None


ScheduleName = Literal["cosine", "linear", "constant", "one_cycle", "slanted_triangular", "flat_cosine", "warm_restarts"]


OptimizerName = Literal["adamw", "sgd"]


@dataclasses.dataclass(frozen=True)
class Cycles:
    """The warm restarts of the schedule of that name (practice L4)."""

    num_cycles: int = 3
    """How often the rate falls to 0."""
    cycle_len: int | None = None
    """Epochs of the first cycle; a classifier's stage then takes as many epochs as its cycles do, whatever --epochs says. Left
    out: the cycles share the stage's epochs."""
    cycle_mult: int = 2
    """Each cycle is so many times as long as the one before it."""
    cycle_decay: float = 1.0
    """Each cycle's highest rate is so many times that of the one before it."""
    snapshots: bool = False
    """Keep the model at the end of each cycle, in snapshots/; `predict.py RUN --snapshots` answers with their mean."""


@dataclasses.dataclass(frozen=True)
class Finder:
    """The sweep over rates that a rate of `auto` makes (practice L1)."""

    start: float = 1e-6
    """The lowest rate of the sweep."""
    end: float = 1.0
    """The highest one; a sweep whose loss diverges ends before."""
    num_steps: int = 200
    """Steps of a sweep; with more of them the loss has the time to fall, and is told from noise."""
    orders: int = 2
    """Sweeps, each over another order of the data: how far their suggestions lie apart is their interval."""
    suggestion: Literal["steepest", "valley", "min_div_10", "edge_div_10", "edge_div_30"] = "edge_div_10"
    """Which suggestion to take. edge_div_10, a tenth of the rate at which the loss begins to diverge, was nearest to the best of
    a grid (docs/finder.md). Where there is no valley the sweep tells only what is too much: edge_div_30, a thirtieth, is taken."""
    verify: bool = False
    """Also train shortly at a third of it, at it and at three times it, and take the best of them."""
    only: int | None = None
    """Stop after the sweep of this stage, counted from 1."""


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer, its rates and their schedule."""

    lr: Rate = None
    """Base rate, of the body's last layer (beside a similarity, of the head); auto: found by a sweep (practice L1). Left out: 1e-4
    below 50 million parameters, 3e-5 above."""
    head_lr: float | None = None
    """Rate of the head, which starts from nothing; beside an lr of auto, a multiple of 1e-4. Left out: the base rate."""
    layer_decay: float = 0.9
    """Each layer below trains this much slower than the one above it; 1 for one rate (practice L2)."""
    similarity: Literal["high", "low"] | None = None
    """Three groups of layers in place of a decay a layer: each trains 10 times slower than the one above it where your texts are
    like those of pretraining (high), 3 times where they are not (low)."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum, the first of the betas."""
    betas: tuple[float, float] = TRANSFORMER_BETAS
    """AdamW's running averages: RoBERTa's (practice N1)."""
    eps: float = TRANSFORMER_EPS
    """AdamW's epsilon: RoBERTa's."""
    weight_decay: float = 0.01
    """Decoupled decay (practice T4); never of biases, norms and embeddings."""
    schedule: ScheduleName = "cosine"
    """How the rate goes within a stage (practices L3, L4)."""
    warmup_ratio: float = 0.1
    """Share of a stage's steps in which the rate rises from 0 first; not of one_cycle, slanted_triangular and warm_restarts."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    label_smoothing: float = 0.0
    """Share of each target that moves to the uniform distribution."""
    focal_gamma: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["auto"] | None = None
    """auto: rare labels count more, in inverse proportion to how frequent they are."""
    swa_start: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema_decay: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless swa_start
    says otherwise. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a classifier's training; what it leaves out is as elsewhere in the config."""

    epochs: int | None = None
    """Passes over the training data. Left out: `epochs` of the config, or 1."""
    lr: Rate = None
    """Highest rate; auto: found by a sweep (practice L1). Left out: optim.lr, or the recipe's own. For a recurrent classifier
    optim.lr, where given, is that of every stage."""
    train_last: int | None = None
    """Layer groups that train, counted from the head; the others are frozen, their dropout is off and their norms' statistics stay
    (practice T1). Left out: all train."""
    max_length: int | None = None
    """Tokens a training text at most; short texts first and long ones later save time (practice T2). Left out: data.max_length."""
    batch_size: int | None = None
    """Texts an optimizer step. Left out: batch.size."""
    cache_frozen: bool = False
    """Compute what the frozen layers answer once, and keep it in memory for the stage's later epochs."""


@dataclasses.dataclass(frozen=True)
class ImageStage:
    """A part of an image classifier's training; what it leaves out is as elsewhere in the config."""

    epochs: int | None = None
    """Passes over the training data. Left out: `epochs` of the config."""
    lr: Rate = None
    """Highest rate; auto: found by a sweep (practice L1). Left out: optim.lr, or the recipe's own."""
    train_last: int | None = None
    """Layer groups that train, counted from the head; the others are frozen, their dropout is off and their norms' statistics stay
    (practice T1). Left out: all train."""
    size: int | None = None
    """Height and width of a training image in pixels; small images first and large ones later save time (practice T2). Left out:
    data.size. Scores are always of images of that size."""
    batch_size: int | None = None
    """Images an optimizer step. Left out: batch.size."""


@dataclasses.dataclass(frozen=True)
class ImageOptim:
    """The optimizer of an image classifier, its rates and their schedule."""

    lr: Rate = None
    """Rate of the body's last layers, in place of the recipe's own; auto: found by a sweep (practice L1)."""
    head_lr: float | None = None
    """Rate of the head; beside an lr of auto, a multiple of 1e-4. Left out: the base rate."""
    layer_decay: float = 1.0
    """Each layer group below trains this much slower than the one above it; 1 for one rate (practice L2)."""
    similarity: Literal["high", "low"] | None = None
    """Three groups of layers in place of a decay a group: each trains 10 times slower than the one above it where your images are
    like those of pretraining (high), 3 times where they are not (low)."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum."""
    schedule: ScheduleName = "one_cycle"
    """How the rate goes within a stage (practices L3, L4)."""
    warmup_ratio: float = 0.1
    """Share of a stage's steps in which the rate rises from 0 first; not of one_cycle, slanted_triangular and warm_restarts."""
    momentum: tuple[float, float] = IMAGE_MOMENTUM
    """Adam's first beta where the rate is low and where it is high, under one_cycle; else the first is kept (practice N1)."""
    weight_decay: float = 0.01
    """Decoupled decay (practice T4); never of biases and norms."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    norms: Literal["trained", "frozen"] = "trained"
    """Of batch normalisation: frozen keeps the statistics of pretraining in layers that train, for images like those, above all in
    small batches (practice T1); what does not train keeps them in any case."""
    label_smoothing: float = 0.0
    """Share of each target that moves to the uniform distribution."""
    focal_gamma: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["auto"] | None = None
    """auto: rare labels count more, in inverse proportion to how frequent they are."""
    swa_start: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. Statistics of norms are not averaged. 1 for never."""
    ema_decay: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless swa_start
    says otherwise. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class RecurrentOptim:
    """The optimizer of a recurrent classifier, and how its rates go."""

    lr: Rate = None
    """Highest rate of every stage, in place of their own; auto: each is found by a sweep (practice L1)."""
    similarity: Literal["high", "low"] | None = None
    """Three groups of layers in place of group_ratio: each trains 10 times slower than the one above it where your texts are
    like those of pretraining (high), 3 times where they are not (low)."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd: with Nesterov's momentum."""
    group_ratio: float = 1.0
    """Each layer group trains so many times slower than the one above it (practice L2). ULMFiT's 2.6 is for a language model that
    has read far more than your texts; on one made in minutes it cost 8 points of accuracy."""
    schedule: ScheduleName = "one_cycle"
    """How the rate goes within a stage (practices L3, L4)."""
    momentum: tuple[float, float] = RECURRENT_MOMENTUM
    """Adam's first beta where the rate is low and where it is high, under one_cycle; else the first is kept (practice N1)."""
    weight_decay: float = 0.01
    """Decoupled decay (practice T4); never of biases, norms and embeddings."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    label_smoothing: float = 0.0
    """Share of each target that moves to the uniform distribution."""
    focal_gamma: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["auto"] | None = None
    """auto: rare labels count more, in inverse proportion to how frequent they are."""
    swa_start: float = 1.0
    """Beyond this share of a stage keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema_decay: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless swa_start
    says otherwise. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """All dropouts of the model, together."""

    scale: float = 1.0
    """Multiplies the model's hidden, attention and head dropouts in their own ratio (practice N2)."""
