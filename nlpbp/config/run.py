"""The sections that recipes' configs are made of. The docstring under each field is its help on the command line."""

from __future__ import annotations

import dataclasses
from typing import Literal


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
class Report:
    """What `report.html` and the files beside it show."""

    texts: Literal["held_out", "all", "none"] = "held_out"
    """Whose texts: of the validation part's errors (held_out); also of training examples that the audit names (all); or no text in
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

    every_steps: int | None = None
    """Save every so many steps. Left out: by time alone."""
    every_seconds: float = 300.0
    """Save when the last one is so many seconds ago."""
    keep: int = 2
    """How many to keep, the newest ones; never fewer than two that verify."""


Precision = Literal["auto", "fp32", "bf16", "fp16"]
