"""Config sections: what every run is told, beside a recipe's own choices. The docstring under each field is its help."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nlpbp.config.augment import Augment, ImageAugment
from nlpbp.config.data import Data, Images, Texts
from nlpbp.config.optim import Cycles, Dropout, Finder, ImageOptim, ImageStage, Optim, RecurrentOptim

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report.html` and the files beside it show."""

    texts: Literal["held_out", "all", "none"] = "held_out"
    """Whose texts: of the validation set's errors (held_out); also of training examples that the audit names (all); or no text in
    any file of the run (none). Places in the data are named in any case."""
    audit: bool = True
    """Look for copies, leaks, doubtful labels and the like in the data before training, and show what was found (practice D3)."""


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

    save_steps: int | None = None
    """Save every so many steps. Left out: by time alone."""
    save_seconds: float = 300.0
    """Save when the last one is so many seconds ago."""
    save_total_limit: int = 2
    """How many to keep, the newest ones; never fewer than two that verify."""


@dataclasses.dataclass(frozen=True)
class BasicSettings:
    """What every recipe is told beside its own choices."""

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
    report: Report = dataclasses.field(default_factory=Report)


@dataclasses.dataclass(frozen=True)
class RunSettings(BasicSettings):
    """The same for a recipe whose runs can be resumed."""

    eval_steps: int | None = None
    """Evaluate every so many steps. Left out: at the end of each epoch."""
    patience: int | None = None
    """Stop a stage after so many evaluations in a row without a better validation score. Left out: never."""
    push_to_hub: str | None = None
    """Send the finished model to this repository of the hub."""
    data: Data | Images | Texts = dataclasses.field(default_factory=Data)
    batch: Batch | ImageBatch | MicroBatches = dataclasses.field(default_factory=MicroBatches)
    cycles: Cycles = dataclasses.field(default_factory=Cycles)
    finder: Finder = dataclasses.field(default_factory=Finder)
    checkpoint: Checkpoints = dataclasses.field(default_factory=Checkpoints)


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(RunSettings):
    """The same for a recipe that makes a classifier."""

    data: Data | Images = dataclasses.field(default_factory=Data)
    batch: Batch | ImageBatch = dataclasses.field(default_factory=Batch)
    optim: Optim | RecurrentOptim | ImageOptim = dataclasses.field(default_factory=Optim)
    calibrate: bool = False
    """Divide the logits by a temperature that is fitted on the validation set, where that lowers the log loss of examples it was
    not fitted on: probabilities then say how often the model is right, and the most probable class stays the same.
    calibration.json has the numbers."""


@dataclasses.dataclass(frozen=True)
class TextClassifierSettings(ClassifierSettings):
    """The same for a recipe that makes a classifier of texts."""

    data: Data = dataclasses.field(default_factory=Data)
    batch: Batch = dataclasses.field(default_factory=Batch)
    dropout: Dropout = dataclasses.field(default_factory=Dropout)
    augment: Augment = dataclasses.field(default_factory=Augment)


@dataclasses.dataclass(frozen=True)
class ImageClassifierSettings(ClassifierSettings):
    """The same for a recipe that makes a classifier of images."""

    data: Images = dataclasses.field(default_factory=Images)
    batch: ImageBatch = dataclasses.field(default_factory=ImageBatch)
    optim: ImageOptim = dataclasses.field(default_factory=ImageOptim)
    augment: ImageAugment = dataclasses.field(default_factory=ImageAugment)
    epochs: int = 20
    """Passes over the training data, where a stage does not say."""
    stages: tuple[ImageStage, ...] = (ImageStage(),)
    """The training, part by part: what trains, for how long, how fast, on images of what size (progressive resizing, practice T2).
    A config file may list several."""
