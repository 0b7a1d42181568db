"""The sections that recipes' configs are made of. The docstring under each field is its help on the command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nlpbp.core.optim import (
    ACTIVATION_FACTOR,
    IMAGE_MOMENTUM,
    RECURRENT_MAX_GRAD_NORM,
    RECURRENT_MOMENTUM,
    RECURRENT_WEIGHT_DECAY,
    TEMPORAL_FACTOR,
    TRANSFORMER_BETAS,
    TRANSFORMER_EPS,
)
from nlpbp.train.setup import Precision

Task = Literal["auto", "single_label", "multi_label", "regression"]
Rate = float | Literal["auto"] | None
Cut = Literal["head", "tail", "head_tail", "windows"]
ScheduleName = Literal["cosine", "linear", "constant", "one_cycle", "slanted_triangular", "flat_cosine", "warm_restarts"]
OptimizerName = Literal["adamw", "sgd"]


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What every recipe that can be resumed is told beside its own choices."""

    eval_steps: int | None = None
    """Evaluate every so many steps. Left out: at the end of each epoch."""
    patience: int | None = None
    """Stop a stage after so many evaluations in a row without a better validation score. Left out: never."""
    out: str | None = None
    """The run folder. Left out: runs/RECIPE-1, -2, ..."""
    seed: int = 0
    """Of everything random: new weights, the order, dropout, views. The split of the data does not depend on it."""
    threads: int | None = None
    """CPU threads a process. Left out: all physical cores, shared among the processes of this machine."""
    precision: Precision = "auto"
    """Number format of the forward pass. auto: what accelerate is configured for, else bf16 where it is measured faster."""
    track: str | None = None
    """Also log to this tracker of accelerate's (tensorboard, wandb, mlflow, ...)."""
    resume: str = "auto"
    """auto: go on with an unfinished run of the same settings and data in --out; never: do not; or the run folder to go on with."""
    push_to_hub: str | None = None
    """Send the finished model to this repository of the hub."""


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(RunSettings):
    """The same for a recipe that makes a classifier."""

    calibrate: bool = False
    """Divide the logits by a temperature that is fitted on the validation part, where that lowers the log loss of examples it was
    not fitted on: probabilities then say how often the model is right, and no class changes. calibration.json has the numbers."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the texts and labels come from."""

    train: str = "demo:rotten_tomatoes"
    """A .csv, .tsv, .json, .jsonl or .parquet file, a folder with a sub-folder of .txt files for each label, a hub id
    (`imdb`, or `glue:sst2` with its configuration), `demo:rotten_tomatoes` or `demo:imdb` (packaged). From Python also a
    pandas frame, a list of dicts or a dict of lists."""
    validation: str | None = None
    """Data to choose the best weights by. Left out: the hub's own split, else cut from the training data."""
    test: str | None = None
    """Data to score once, at the end. Left out: the hub's own split, else cut from the training data."""
    text: tuple[str, ...] = ()
    """The text column, or two for a pair. Left out: found by name and content, and printed."""
    fields: tuple[str, ...] = ()
    """Columns that make one text together, in place of a text column: texts, numbers and dates, told apart by content and printed.
    Dates are taken apart (practice X1), what is missing is marked, and missing numbers are the training median (practice D7)."""
    label: str | None = None
    """The column to predict. Left out: found by name and content, and printed."""
    task: Task = "auto"
    """What the label column holds; auto looks at its values and says what it found."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Share of the data to cut off for validation where none is given."""
    test_share: float = 0.1
    """Share of the data to cut off for the test where none is given; 0 for no test."""
    group: str | None = None
    """Cut the data by this column, an author or a patient for instance: no two parts have rows of one group (practice D2)."""
    time: str | None = None
    """Cut the data by this column of dates or numbers: the latest rows are the test, those before them the validation."""
    slices: tuple[str, ...] = ()
    """More columns to look for errors by, a source or a product for instance: errors.json and the report compare their values."""
    value_range: tuple[float, float] | None = None
    """Of a number to predict: the lowest and the highest that there is. The model then answers within it, a twentieth beyond either
    end (practice A3)."""
    balance: bool = False
    """Draw every class equally often, rare examples several times an epoch, in an epoch as long as before."""
    sample: float = 1.0
    """Train on this share of the training part, stratified; a smaller sample is part of every larger one (practice D1)."""
    max_length: int = 256
    """Tokens a text at most; what lies beyond is cut off, and counted."""
    cut: Cut = "head"
    """What is read of a text that is longer: its head; its tail; a quarter from the head and the rest from the tail; or all of
    it, in windows that share half of their tokens. Each is an example in training; a text's answer is the mean of its windows'."""
    allow_change: bool = False
    """Go on with an unfinished run although its data have changed; its result is then of neither data."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Where the images and labels come from."""

    train: str = "demo:digits"
    """A folder with a sub-folder of images for each label, a .csv, .tsv, .json, .jsonl or .parquet file with paths of images (from
    the file's own folder on), a hub id, or `demo:digits` (scikit-learn's, 1,797 of 8 x 8 pixels). From Python also a pandas
    frame, a `Dataset`, a list of dicts or a dict of lists or arrays, whose images are paths, bytes, Pillow images or arrays."""
    validation: str | None = None
    """Data to choose the best weights by. Left out: the hub's own split, else cut from the training data."""
    test: str | None = None
    """Data to score once, at the end. Left out: the hub's own split, else cut from the training data."""
    image: str | None = None
    """The column of the images. Left out: found by name and content, and printed."""
    label: str | None = None
    """The column to predict. Left out: found by name and content, and printed."""
    task: Literal["auto", "single_label", "multi_label"] = "auto"
    """What the label column holds; auto looks at its values and says what it found."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Share of the data to cut off for validation where none is given; images that are equal byte for byte stay together."""
    test_share: float = 0.1
    """Share of the data to cut off for the test where none is given; 0 for no test."""
    group: str | None = None
    """Cut the data by this column, a patient or a camera for instance: no two parts have rows of one group (practice D2)."""
    time: str | None = None
    """Cut the data by this column of dates or numbers: the latest rows are the test, those before them the validation."""
    slices: tuple[str, ...] = ()
    """More columns to look for errors by, a camera or a place for instance: errors.json and the report compare their values."""
    balance: bool = False
    """Draw every class equally often, rare examples several times an epoch, in an epoch as long as before."""
    sample: float = 1.0
    """Train on this share of the training part, stratified; a smaller sample is part of every larger one (practice D1)."""
    size: int | None = None
    """Height and width, in pixels, that images are brought to. Left out: a pretrained model's own; else the images' own, if all are
    squares of one size of at most 64 pixels, or 64."""
    max_pixels: int = 50_000_000
    """An image with more pixels is an error, found before it is decoded: a file of a few kB can claim terabytes."""
    allow_change: bool = False
    """Go on with an unfinished run although its data have changed; its result is then of neither data."""

    @property
    def text(self) -> tuple[str, ...]:
        """The column by which rows are told apart: of images the digest of their pixels."""
        return ("image",)

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that make one example together: images never do."""
        return ()

    @property
    def value_range(self) -> None:
        """The range of a number to predict: none, for images have labels."""


@dataclasses.dataclass(frozen=True)
class Cycles:
    """The warm restarts of the schedule of that name (practice L4)."""

    cycles: int = 3
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
    warmup: float = 0.1
    """Share of a stage's steps in which the rate rises from 0 first; not of one_cycle, slanted_triangular and warm_restarts."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient to this L2 norm; None for never (practice N3)."""
    label_smoothing: float = 0.0
    """Share of each target that moves to the uniform distribution."""
    focal: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["auto"] | None = None
    """auto: rare labels count more, in inverse proportion to how frequent they are."""
    average_from: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless average_from
    says otherwise. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Where the texts of a language model come from; labels, if there are any, are not looked at."""

    train: str = "demo:imdb"
    """A file or folder as for a classifier, a .txt file with a document a line, a folder of .txt files with a document each, a
    hub id, `demo:imdb` or `demo:rotten_tomatoes` (packaged). From Python also a pandas frame, a list of dicts, a dict of lists."""
    validation: str | None = None
    """Texts to choose the best weights by. Left out: the hub's own split, else cut from the training texts."""
    test: str | None = None
    """Texts to score once, at the end. Left out: the hub's own split, else cut from the training texts."""
    text: tuple[str, ...] = ()
    """The text column. Left out: found by name and content, and printed."""
    fields: tuple[str, ...] = ()
    """Columns that make one text together, in place of a text column, as for a classifier that is to start from this model."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.05
    """Share of the texts to cut off for validation where none are given."""
    test_share: float = 0.05
    """Share of the texts to cut off for the test where none are given; 0 for no test."""
    sample: float = 1.0
    """Train on this share of the training texts; a smaller sample is part of every larger one (practice D1)."""
    allow_change: bool = False
    """Go on with an unfinished run although its texts have changed; its result is then of neither."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer that is trained on the training texts; it is kept for the next run on them."""

    kind: Literal["subword", "word"] | None = None
    """subword: byte pairs, with case and without unknown words; word: whole words in lower case. Left out: the tokenizer of
    --lm.init where there is one, else subword."""
    vocab_size: int = 16_000
    """Tokens at most."""


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
    rows: int = 64
    """Parts of the stream that are read side by side: the batch."""
    window: int = 70
    """Tokens of each row in a step; the state goes on, the gradient is cut there."""
    random_windows: bool = False
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
    activation: float = ACTIVATION_FACTOR
    """Factor of the penalty on activations (practice N4)."""
    temporal: float = TEMPORAL_FACTOR
    """Factor of the penalty on their changes in time (practice N4)."""
    average_from: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless average_from
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
class ImageAugment:
    """Other views of the training images, drawn anew in every epoch, each example's from a seed of its own (practice D5)."""

    preset: Literal["none", "side_on", "top_down", "digits"] = "none"
    """What keeps the label. side_on: mirrored, turned a little, zoomed, lighter and darker, as photographs from the side; top_down:
    also upside down and by quarter turns, as from above; digits: neither mirrored nor turned over."""
    mix: Literal["mixup", "cutmix"] | None = None
    """Blend pairs of images and their labels, or paste a rectangle of one into the other."""
    alpha: float = 0.2
    """Of the Beta distribution that the shares of a pair are drawn from: the larger, the more mixed."""


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
    warmup: float = 0.1
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
    focal: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["auto"] | None = None
    """auto: rare labels count more, in inverse proportion to how frequent they are."""
    average_from: float = 1.0
    """Beyond this share of the steps keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. Statistics of norms are not averaged. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless average_from
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
    focal: float = 0.0
    """Examples that are right already count less: by (1 - p) to this power (Lin et al. 2017). 0 for the plain loss."""
    class_weights: Literal["auto"] | None = None
    """auto: rare labels count more, in inverse proportion to how frequent they are."""
    average_from: float = 1.0
    """Beyond this share of a stage keep the mean of the weights since then, and not the weights themselves: for a rate that stays
    high, as under constant. 1 for never."""
    ema: float | None = None
    """Let that mean forget: a moving average with this decay a step, 0.99 for instance, from the first step on unless average_from
    says otherwise. Left out: all its steps count the same."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report.html` and the files beside it show."""

    texts: Literal["held_out", "all", "none"] = "held_out"
    """Whose texts: of the validation part's errors (held_out); also of training examples that the audit names (all); or no text in
    any file of the run (none). Places in the data are named in any case."""
    audit: bool = True
    """Look for copies, leaks, doubtful labels and the like in the data before training, and show what was found (practice D3)."""


@dataclasses.dataclass(frozen=True)
class Augment:
    """Other wordings of the training texts, drawn anew in every epoch (practice D5); off unless named, however few labels."""

    policy: Literal["sentiment", "topic", "pairs"] | None = None
    """What keeps the label. sentiment: drop, swap and misspell words, other case, synonyms; topic: also the order of sentences and
    hidden spans; pairs: synonyms, spelling and case alone. Negations, numbers and words of labels are never touched."""
    share: float = 0.1
    """Share of a text's words that change."""
    synonyms: str | None = None
    """A file with a word a line, and behind tabs the words that may stand for it."""
    protect: tuple[str, ...] = ()
    """More words that are never touched."""
    mixup: float = 0.0
    """Of transformers, with or without a policy: mix the embeddings and the labels of pairs of texts, by shares from a Beta
    distribution with this as both its parameters (Zhang et al. 2018), 0.2 for instance. 0 for never."""


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


@dataclasses.dataclass(frozen=True)
class Dropout:
    """All dropouts of the model, together."""

    scale: float = 1.0
    """Multiplies the model's hidden, attention and head dropouts in their own ratio (practice N2)."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """How many texts go into a step, and how a step is cut up."""

    size: int = 32
    """Texts an optimizer step, on average: steps of short texts hold more of them, steps of long texts fewer."""
    micro_batches: int | None = None
    """Parts that a step is cut into, to save memory; a multiple of the number of processes. Left out: that number."""
    evaluation_tokens: int = 8192
    """Tokens a batch at most (padding included) when evaluating."""


@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """How many images go into a step, and how a step is cut up."""

    size: int = 32
    """Images an optimizer step."""
    micro_batches: int | None = None
    """Parts that a step is cut into, to save memory; a multiple of the number of processes. Left out: that number. Batch
    normalisation sees one part at a time."""
    evaluation_size: int = 128
    """Images a batch when evaluating."""


@dataclasses.dataclass(frozen=True)
class MicroBatches:
    """How a step is cut up."""

    micro_batches: int | None = None
    """Parts that a step is cut into, to save memory; a multiple of the number of processes. Left out: that number."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When the run saves itself; it changes no result. Each epoch's end is always saved."""

    every_steps: int | None = None
    """Save every so many steps. Left out: by time alone."""
    every_seconds: float = 300.0
    """Save when the last one is so many seconds ago."""
    keep: int = 2
    """How many to keep, the newest ones; never fewer than two that verify."""
