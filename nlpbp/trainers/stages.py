"""One stage of a classifier's training: what it is made of, and the loop that goes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer

from nlpbp import config as sections
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import ConfigError
from nlpbp.core.freezing import freeze_to, train_mode
from nlpbp.core.groups import LayerGroup
from nlpbp.core.schedules import Schedule
from nlpbp.data.modality import MakeBatches, Medium, Prepared
from nlpbp.data.order import Ints, micro_seed, steps_per_epoch
from nlpbp.data.parts import Inputs
from nlpbp.runs.folder import Run
from nlpbp.runs.lr_finder import SWEEP
from nlpbp.text.frozen_cache import FrozenCache, frozen_cache
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.lr_finder import MakeSweep
from nlpbp.trainers.targets import classes_to_balance


class ClassifierOptim(Protocol):
    """The fields of a Config's optim that do not depend on the model."""

    @property
    def max_grad_norm(self) -> float | None: ...  # noqa: D102
    @property
    def label_smoothing(self) -> float: ...  # noqa: D102
    @property
    def focal(self) -> float: ...  # noqa: D102
    @property
    def class_weights(self) -> str | None: ...  # noqa: D102


class ClassifierConfig(Protocol):
    """The fields of a Config that every training of a classifier needs."""

    @property
    def data(self) -> sections.Data | sections.Images: ...  # noqa: D102
    @property
    def batch(self) -> sections.Batch | sections.ImageBatch: ...  # noqa: D102
    @property
    def optim(self) -> ClassifierOptim: ...  # noqa: D102
    @property
    def finder(self) -> sections.Finder: ...  # noqa: D102
    @property
    def checkpoint(self) -> sections.Checkpoints: ...  # noqa: D102
    @property
    def report(self) -> sections.Report: ...  # noqa: D102
    @property
    def calibrate(self) -> bool: ...  # noqa: D102
    @property
    def eval_steps(self) -> int | None: ...  # noqa: D102
    @property
    def patience(self) -> int | None: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def push_to_hub(self) -> str | None: ...  # noqa: D102


class TextConfig(Protocol):
    """The fields of a Config that texts need."""

    @property
    def data(self) -> sections.Data: ...  # noqa: D102
    @property
    def batch(self) -> sections.Batch: ...  # noqa: D102
    @property
    def report(self) -> sections.Report: ...  # noqa: D102


@dataclass(frozen=True)
class Training:
    """One stage of a classifier's training: how long, what trains, on what, and how it is optimised.

    `make_optimizer` is given the model's layer groups, frozen ones included; it sets each group's base rate, which a sweep scales
    where `sweep` is set. `train_last` counts layer groups from the head; None trains all. `momentum` gives values of Adam's first
    beta, `average_from` and `ema` are as in `fit`. `max_length` (of texts), `image_size` and `batch_size` are the config's own
    where they are None. `snapshots` tells, from the number of steps, after which of them the model is kept. `set_mode` puts the
    model into training mode.
    """

    epochs: int
    make_optimizer: Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]
    schedule: Schedule
    momentum: Schedule | None = None
    sweep: bool = False
    train_last: int | None = None
    max_length: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    cache_frozen: bool = False
    average_from: float = 1.0
    ema: float | None = None
    snapshots: Callable[[int], Sequence[int]] = lambda total_steps: ()
    set_mode: Callable[[nn.Module], None] = train_mode
    name: str = "training"


@dataclass(frozen=True)
class Work:
    """The training examples of a stage, what makes batches of them, and how many steps they make."""

    examples: Prepared
    batches: MakeBatches
    size: int
    per_epoch: int
    total_steps: int


def prepare_work(run: Run, config: ClassifierConfig, inputs: Inputs, training: Training, medium: Medium) -> Work:
    """Prepare the training examples of a stage: as they are, or in a length or size of its own."""
    examples, batches = medium.stage(training)
    size = training.batch_size or config.batch.size
    _, per_epoch = epoch_of(run, config, inputs, examples, size=size, min_examples=medium.min_examples)
    return Work(examples, batches, size, per_epoch, per_epoch * training.epochs)


def stage_steps(
    model: nn.Module,
    optimizer: Optimizer,
    training: Training,
    first_step: int,
    num_micro_batches: int,
    *,
    batches: Callable[..., Iterator[list[Batch]]],
    plan: Callable[..., Iterator[list[Ints]]],
    accelerator: Accelerator,
    loss_fn: LossFn,
    epochs: int,
    total_steps: int,
    max_grad_norm: float | None,
    seed: int,
) -> Iterator[Step]:
    """Go through the rest of a stage from `first_step` on."""
    mine = plan(
        epochs=epochs,
        num_micro_batches=num_micro_batches,
        seed=seed,
        first_step=first_step,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    return train_steps(
        model,
        batches(mine, first_step=first_step, seed=seed),
        optimizer,
        accelerator=accelerator,
        loss_fn=loss_fn,
        schedule=training.schedule,
        momentum=training.momentum,
        total_steps=total_steps,
        first_step=first_step,
        max_grad_norm=max_grad_norm,
        set_mode=training.set_mode,
        seed=seed,
    )


def sweeps(make_steps: Callable[..., Iterator[Step]], training: Training, *, num_micro_batches: int, seed: int) -> MakeSweep:
    """Make the loops of a sweep from those of a stage: another schedule, and orders of the data that the training will not see."""

    def make_sweep(schedule: Schedule, total_steps: int, order: int) -> Iterator[Step]:
        swept = replace(training, schedule=schedule, momentum=None)
        steps = make_steps(
            swept, 0, num_micro_batches, epochs=total_steps, total_steps=total_steps, seed=micro_seed(seed, order, SWEEP)
        )
        return islice(steps, total_steps)

    return make_sweep


def freeze(groups: Sequence[LayerGroup], *, train_last: int | None) -> None:
    """Let the last `train_last` groups train; too many of them are the user's mistake."""
    try:
        freeze_to(groups, train_last=train_last)
    except ValueError as error:
        names = ", ".join(group.name for group in groups)
        raise ConfigError(str(error), column="stages", hint=f"the groups are {names}") from error


def cache_of(model: nn.Module, training: Training) -> FrozenCache | None:
    """Make the cache of what a stage leaves frozen, where one is asked for; a stage that has no such part is the user's mistake."""
    if not training.cache_frozen:
        return None
    try:
        return frozen_cache(model, train_last=training.train_last)
    except ValueError as error:
        raise ConfigError(str(error), column="stages.cache_frozen", hint="leave it out") from error


def prepare_again(accelerator: Accelerator, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    """Give model and optimizer to accelerate for a stage; what a stage before made of the model is taken off first.

    Data parallelism decides when it wraps a model which gradients it shares: what is unfrozen later must be wrapped again.
    """
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    plain = model if sharded else accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if not sharded:
        # What bears this mark is given back as it is: the stage would train without autocast, on one process alone.
        plain.__dict__.pop("_is_accelerate_prepared", None)
    accelerator.free_memory()
    prepared: tuple[nn.Module, Any] = accelerator.prepare(plain, optimizer)
    return prepared


def epoch_of(
    run: Run, config: ClassifierConfig, inputs: Inputs, examples: Prepared, *, size: int | None = None, min_examples: int = 1
) -> tuple[int, int]:
    """Return the number of micro-batches a step, and of steps an epoch.

    A step has so many times `min_examples` at least, whatever it is split into later: were the steps to change, so would the
    result.
    """
    size = size or config.batch.size
    num = check_micro_batches(run, config.batch.micro_batches, num_examples=len(examples), size=size)
    balanced = classes_to_balance(inputs, config.data, examples.owners)
    return num, steps_per_epoch(examples.padded_lengths, size=size, min_size=num * min_examples, targets=balanced)


def check_micro_batches(run: Run, wanted: int | None, *, num_examples: int, size: int) -> int:
    """Return the number of micro-batches a step of `size` examples, which every process must get the same share of.

    Left out, it is the number of processes that the run was begun with: one that goes on with another number keeps its steps.
    """
    num_processes = run.accelerator.num_processes
    num = wanted or run.first_num_processes
    if num % num_processes:
        going_on = wanted is None
        raise ConfigError(
            f"{num} micro-batches cannot be shared among {num_processes} processes",
            column="batch.micro_batches",
            hint=f"go on with {num} processes, or begin another run" if going_on else f"give a multiple of {num_processes}",
        )
    if num > min(size, num_examples):
        raise ConfigError(
            f"a step of {min(size, num_examples)} examples cannot fill {num} micro-batches",
            column="batch.micro_batches",
            hint="give fewer, or a larger --batch.size",
        )
    return num
