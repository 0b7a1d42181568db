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
    """Contents of `report.html` and of the files beside it."""

    texts: Literal["held_out", "all", "none"] = "held_out"
    """Which texts appear: those of errors on the validation set (held_out), also training examples that the audit names (all), or
    none in any file of the run (none). Row references are always kept."""
    audit: bool = True
    """Audit the data before training: duplicates, leaks, doubtful labels and the like (practice D3)."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Batch size."""

    size: int = 32
    """Texts per optimizer step, on average: steps of short texts have more of them, steps of long texts fewer."""
    micro_batches: int | None = None
    """Micro-batches per optimizer step, over all processes, to save memory (gradient accumulation): a multiple of the number of
    processes. Default: one per process."""
    evaluation_tokens: int | None = None
    """Maximum tokens of an evaluation batch, padding included. Default: 2,048 on a CPU, where larger ones fall out of its caches,
    and 8,192 on an accelerator."""


@dataclasses.dataclass(frozen=True)
class ImageBatch:
    """Batch size of images."""

    size: int = 32
    """Images per optimizer step."""
    micro_batches: int | None = None
    """Micro-batches per optimizer step, over all processes, to save memory (gradient accumulation): a multiple of the number of
    processes. Default: one per process. Batch norm sees one micro-batch at a time."""
    evaluation_size: int = 128
    """Images of an evaluation batch."""


@dataclasses.dataclass(frozen=True)
class MicroBatches:
    """Gradient accumulation."""

    micro_batches: int | None = None
    """Micro-batches per optimizer step, over all processes, to save memory (gradient accumulation): a multiple of the number of
    processes. Default: one per process."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are saved, beside the end of each epoch that took 20 seconds or more. It changes no result."""

    save_steps: int | None = None
    """Save every this many steps. Default: by time only."""
    save_seconds: float = 300.0
    """Save when the last checkpoint is this many seconds old."""
    save_total_limit: int = 2
    """Number of checkpoints to keep, the newest ones; never fewer than two that verify."""


@dataclasses.dataclass(frozen=True)
class BasicSettings:
    """What every recipe is told beside its own choices."""

    out: str | None = None
    """Run folder (output directory). Default: runs/RECIPE-1, -2, ..."""
    seed: int = 0
    """Random seed of new weights, shuffling, dropout and augmentation. The split of the data does not depend on it."""
    threads: int | None = None
    """CPU threads per process. Default: all physical cores, shared among the processes of this machine."""
    precision: Precision = "auto"
    """Mixed precision. auto: what accelerate is configured for, else bf16 where it is measured faster."""
    track: str | None = None
    """Also log to this tracker (tensorboard, wandb, mlflow, ...: those of accelerate)."""
    resume: str = "auto"
    """auto: resume an unfinished run of the same settings and data in --out; never; or the run folder to resume."""
    report: Report = dataclasses.field(default_factory=Report)


@dataclasses.dataclass(frozen=True)
class RunSettings(BasicSettings):
    """The same for a recipe whose runs can be resumed."""

    eval_steps: int | None = None
    """Evaluate every this many steps. Default: at the end of each epoch; every few epochs where the validation set is larger than
    the training set; once at the end where it is too small to choose weights by (fewer than 100 examples)."""
    patience: int | None = None
    """Early stopping: end a stage after this many evaluations in a row without a better validation score. Default: never."""
    push_to_hub: str | None = None
    """Upload the finished model to this repository of the hub."""
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
    """Temperature scaling: divide the logits by a temperature fitted on the validation set, if that lowers the cross-fitted log
    loss. The most probable class stays the same. calibration.json has the numbers."""


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
    """Epochs of stages that do not set their own."""
    stages: tuple[ImageStage, ...] = (ImageStage(),)
    """Stages of the training: what trains, for how long, how fast, on images of what size (progressive resizing, practice T2). A
    config file may list several."""
