"""One stage of a classifier's training: what it is made of, and the loop that goes through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer

from nlpbp.config import ClassifierSettings, RunSettings
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import ConfigError
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import LayerGroup
from nlpbp.core.schedules import Schedule
from nlpbp.data.modality import MakeBatches, Modality, Prepared, StageData
from nlpbp.data.order import Ints, micro_seed, steps_per_epoch, training_plan
from nlpbp.data.parts import Inputs
from nlpbp.runs.fit import NO_AVERAGING, Averaging
from nlpbp.runs.folder import Run
from nlpbp.runs.lr_finder import SWEEP
from nlpbp.text.frozen_cache import FrozenCache, frozen_cache
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.lr_finder import MakeSweep
from nlpbp.trainers.targets import classes_to_balance

AS_THE_RUN = StageData()
MAX_EPOCHS = 20  # that a stage of few examples gets: 64 labels, begun at the probe, were no better after 50
MIN_TO_CHOOSE = 100  # validation examples: with fewer, a point of accuracy is less than one example, and the best of many is luck


@dataclass(frozen=True)
class StagePlan:
    """One stage of a classifier's training: how long, what trains, on what, and how it is optimised.

    `make_optimizer` is given the model's layer groups, frozen ones included; it sets each group's base learning rate, which a sweep
    scales where `find_lr` is set. `train_last` counts layer groups from the head; None trains all. `batch_size` is the config's
    own where it is None. `snapshots` tells, from the number of steps, after which of them the model is kept.
    Where `epochs` are fewer than `min_steps` steps they are more, MAX_EPOCHS at most.
    """

    epochs: int
    make_optimizer: Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]
    schedule: Schedule
    find_lr: bool = False
    train_last: int | None = None
    data: StageData = AS_THE_RUN
    batch_size: int | None = None
    keep_norm_statistics: bool = False
    averaging: Averaging = NO_AVERAGING
    snapshots: Callable[[int], Sequence[int]] = lambda total_steps: ()
    name: str = "training"
    min_steps: int = 0

    def epochs_of(self, steps_per_epoch: int) -> int:
        """Return the epochs of the stage on examples that make so many steps.

        >>> plan = StagePlan(3, lambda model, groups: None, lambda progress: 1.0, min_steps=100)
        >>> [plan.epochs_of(steps) for steps in (2, 16, 200)]
        [20, 7, 3]
        """
        return max(self.epochs, min(MAX_EPOCHS, math.ceil(self.min_steps / steps_per_epoch)))


@dataclass(frozen=True)
class StageExamples:
    """The training examples of a stage, what makes batches of them, and how many epochs and steps they make."""

    examples: Prepared
    batches: MakeBatches
    size: int
    epochs: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """The number of steps of the stage."""
        return self.epochs * self.steps_per_epoch


def prepare_examples(run: Run[ClassifierSettings], inputs: Inputs, plan: StagePlan, modality: Modality) -> StageExamples:
    """Prepare the training examples of a stage: as they are, or in a length or size of its own."""
    examples, batches = modality.stage(plan.data)
    size = plan.batch_size or run.settings.batch.size
    per_epoch = epoch_length(run, inputs, examples, size=size, min_examples=modality.min_examples)
    return StageExamples(examples, batches, size, plan.epochs_of(per_epoch), per_epoch)


def epochs_between_evaluations(inputs: Inputs) -> int | None:
    """Return after how many epochs the validation set is scored; None: at the end alone, because it is too small to choose by.

    Scoring an example takes a third of training on it, so at most a quarter of the time goes into it.
    """
    if len(inputs.validation) < MIN_TO_CHOOSE:
        return None
    return math.ceil(len(inputs.validation) / max(1, len(inputs.train)))


def tell_how_weights_are_chosen(run: Run[ClassifierSettings], inputs: Inputs) -> None:
    """Say where the validation set is too small to choose weights by."""
    if epochs_between_evaluations(inputs) is None and run.settings.eval_steps is None:
        so = "the last ones are kept" + (", and patience has no effect" if run.settings.patience else "")
        run.say(f"{len(inputs.validation):,} validation examples are too few to choose weights by: {so}")


@dataclass(frozen=True)
class StageLoop:
    """The training loop of a stage; `orders` yields which examples are in which micro-batch, `batches` makes batches of them."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    orders: Callable[..., Iterator[list[Ints]]]
    batches: Callable[..., Iterator[list[Batch]]]
    loss_fn: LossFn
    schedule: Schedule
    epochs: int
    total_steps: int
    max_grad_norm: float | None
    seed: int

    def steps(self, first_step: int, num_micro_batches: int) -> Iterator[Step]:
        """Go through the rest of the stage from `first_step` on."""
        mine = self.orders(
            epochs=self.epochs,
            num_micro_batches=num_micro_batches,
            seed=self.seed,
            first_step=first_step,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        return train_steps(
            self.model,
            self.batches(mine, first_step=first_step, seed=self.seed),
            self.optimizer,
            accelerator=self.accelerator,
            loss_fn=self.loss_fn,
            schedule=self.schedule,
            total_steps=self.total_steps,
            first_step=first_step,
            max_grad_norm=self.max_grad_norm,
            seed=self.seed,
        )

    def sweeps(self, num_micro_batches: int) -> MakeSweep:
        """Make the loops of a sweep over learning rates: another schedule, and orders of the data that training will not see."""

        def make_sweep(schedule: Schedule, total_steps: int, order: int) -> Iterator[Step]:
            seed = micro_seed(self.seed, order, SWEEP)
            swept = replace(self, schedule=schedule, epochs=total_steps, total_steps=total_steps, seed=seed)
            return islice(swept.steps(0, num_micro_batches), total_steps)

        return make_sweep


def orders_of(
    settings: ClassifierSettings, inputs: Inputs, stage: StageExamples, *, min_size: int
) -> Callable[..., Iterator[list[Ints]]]:
    """Return what yields, step by step, which training examples are in which micro-batch."""
    return partial(
        training_plan,
        stage.examples.padded_lengths,
        size=stage.size,
        min_size=min_size,
        targets=classes_to_balance(settings, inputs, stage.examples.owners),
    )


def labelled(stage: StageExamples, targets: np.ndarray[Any, Any]) -> Callable[..., Iterator[list[Batch]]]:
    """Return what makes batches with labels of an order."""
    return partial(stage.batches, labels=targets)


def freeze(groups: Sequence[LayerGroup], *, train_last: int | None) -> None:
    """Let the last `train_last` groups train; too many of them are the user's mistake."""
    try:
        freeze_to(groups, train_last=train_last)
    except ValueError as error:
        names = ", ".join(group.name for group in groups)
        raise ConfigError(str(error), column="stages", hint=f"the groups are {names}") from error


def cache_of(model: nn.Module, plan: StagePlan) -> FrozenCache | None:
    """Make the cache of what a stage leaves frozen, where one is asked for; a stage that has no such part is the user's mistake."""
    if not plan.data.cache_frozen:
        return None
    try:
        return frozen_cache(model, train_last=plan.train_last)
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


def as_saved(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Return the model as whoever loads it will run it, in fp32; a sharded model can only run as it is."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return model
    return accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def epoch_length(
    run: Run[ClassifierSettings], inputs: Inputs, examples: Prepared, *, size: int | None = None, min_examples: int = 1
) -> int:
    """Return the number of steps an epoch.

    A step has so many times `min_examples` at least, whatever it is split into later: were the steps to change, so would the
    result.
    """
    size = size or run.settings.batch.size
    num = check_micro_batches(run, num_examples=len(examples), size=size)
    balanced = classes_to_balance(run.settings, inputs, examples.owners)
    return steps_per_epoch(examples.padded_lengths, size=size, min_size=num * min_examples, targets=balanced)


def check_micro_batches(run: Run[RunSettings], *, num_examples: int, size: int, unit: str = "examples") -> int:
    """Return the number of micro-batches a step of `size` examples, which every process must get the same share of.

    Left out, it is the number of processes that the run was begun with: one that goes on with another number keeps its steps.
    """
    wanted, num_processes = run.settings.batch.micro_batches, run.accelerator.num_processes
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
            f"a step of {min(size, num_examples)} {unit} cannot fill {num} micro-batches",
            column="batch.micro_batches",
            hint="give fewer, or a larger --batch.size",
        )
    return num
