"""What a run saves between two steps and goes on from: its progress, its checkpoints, and the disk that they need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer

from nlpbp.config import RunSettings
from nlpbp.core.averaging import WeightAverage
from nlpbp.core.errors import EXIT_PREEMPTED, CheckpointError, ConfigError, NlpbpError
from nlpbp.core.groups import LayerGroup
from nlpbp.runs.folder import Run
from nlpbp.train.checkpoint import Checkpoint, first_non_finite, needed_bytes, newest_checkpoint, write_checkpoint
from nlpbp.train.signals import Stopped
from nlpbp.train.tracking import truncate_jsonl
from nlpbp.train.weights import (
    full_optimizer_state,
    full_state,
    plain_shapes,
    set_full_optimizer_state,
    set_full_state,
    without_shared,
)

AVERAGE = "average.safetensors"  # of a checkpoint, once there is a mean of weights to go on with


@dataclass(frozen=True)
class Progress:
    """All that a run must remember between two steps, beside weights and optimizer; it is saved as plain JSON.

    Steps count on from stage to stage; what is counted beside them is of the stage alone.
    """

    num_micro_batches: int
    step: int = 0
    best_score: float | None = None  # None: of no evaluation yet, or undefined in all of them
    best_step: int = 0
    worse: int = 0  # evaluations in a row without a better score
    num_items: int = 0
    clipped: int = 0
    skipped: int = 0  # fp16 overflows
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # in optimizer steps alone
    lr: float = 0.0  # that a sweep found when the stage began
    scaler: dict[str, Any] = field(default_factory=dict)  # of fp16
    stage: int = 0
    first_step: int = 0  # of the stage: how many steps those before it took
    hashes: dict[str, str] = field(default_factory=dict)  # of the layer groups when the stage began
    stages: list[dict[str, Any]] = field(default_factory=list)  # what the finished stages did, for the result


@dataclass(frozen=True)
class Stage:
    """One of the trainings that a run does one after the other; the weights it ends with are the best or, if so told, its last.

    `total_steps` are its own, `later_steps` those planned after it. `new_metric` says that scores of the stage before are of
    something else. The only stage of a run is not named in its log. A step is cut into `parts` micro-batches at most, by default
    into single examples.
    """

    name: str = "training"
    index: int = 0
    total_steps: int = 0
    steps_per_epoch: int = 1
    later_steps: int = 0
    new_metric: bool = True
    keep_last: bool = False
    is_only: bool = False
    parts: int | None = None


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint must belong to: `identity` names data, labels, tokenizer and the like.

    `references` say where each training example comes from. With `allow_data_change` a run goes on although its data have changed.
    """

    identity: Mapping[str, str]
    references: Sequence[str]
    allow_data_change: bool = False

    def must_match(self, optimizer: Optimizer) -> dict[str, str]:
        """Return what a checkpoint to go on from must have been written with."""
        named = self.named(optimizer)
        return {name: value for name, value in named.items() if name != "data" or not self.allow_data_change}

    def named(self, optimizer: Optimizer) -> dict[str, str]:
        """Return what is written into a checkpoint: the identity, and the kind of optimizer."""
        return {**self.identity, "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__}


class Carried(Protocol):
    """What a stage carries from step to step beside weights and optimizer, as `nlpbp.text.lm_data.CarriedState` does."""

    def tensors(self) -> dict[str, torch.Tensor]: ...  # noqa: D102
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None: ...  # noqa: D102
    def commit(self) -> None: ...  # noqa: D102
    def discard(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Learner:
    """A model in training with what changes along with it: its optimizer, and what a stage carries from step to step.

    `groups` are all its layer groups, frozen ones included.
    """

    model: nn.Module
    optimizer: Optimizer
    groups: Sequence[LayerGroup]
    carried: Carried | None = None


def best_file(run: Run[Any]) -> Path:
    """Return where the best weights of the run are kept while it goes on."""
    return run.out / "best.safetensors"


def save_checkpoint(
    run: Run[RunSettings], progress: Progress, learner: Learner, *, average: WeightAverage, provenance: Provenance
) -> None:
    """Write a checkpoint from the main process; a disk that is full stops the run with the earlier checkpoints intact."""
    model, optimizer, carried = learner.model, learner.optimizer, learner.carried
    tensors = {"model.safetensors": without_shared(full_state(model)), "optim.safetensors": full_optimizer_state(model, optimizer)}
    if carried is not None:
        tensors["carried.safetensors"] = _over_processes(run, carried.tensors())
    if average.begun:
        with average.applied():
            tensors[AVERAGE] = {name: tensor.clone() for name, tensor in without_shared(full_state(model)).items()}
    answer: list[NlpbpError | None] = [None]
    if not run.out.is_dir():
        answer = [CheckpointError("the run folder is gone", file=str(run.out), hint="do not move a run while it trains")]
    elif run.accelerator.is_main_process:
        best = best_file(run)
        try:
            write_checkpoint(
                run.out / "checkpoints",
                step=progress.step,
                tensors=tensors,
                files={best.name: best} if progress.best_step else {},
                state=asdict(progress),
                identity=provenance.named(optimizer),
                keep=run.settings.checkpoint.save_total_limit,
            )
        except NlpbpError as error:
            answer = [error]
        except OSError as error:
            free = shutil.disk_usage(run.out).free >> 20 if run.out.exists() else 0
            needed = needed_bytes(_size(tensors), keep=0) >> 20
            message = (
                f"the checkpoint of step {progress.step} could not be written ({error}); {needed} MB are needed, {free} MB free"
            )
            answer = [Stopped(message, code=EXIT_PREEMPTED)]
    broadcast_object_list(answer)
    if answer[0] is not None:
        raise answer[0]


def _size(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
    return sum(tensor.nbytes for content in tensors.values() for tensor in content.values())


def check_disk(run: Run[RunSettings], model: nn.Module, *, num_copies: int, num_snapshots: int) -> None:
    """Refuse to start what cannot be saved: weights, moments, the best weights and their mean in each checkpoint, and snapshots."""
    weights = sum(p.nbytes for p in model.parameters())
    needed = needed_bytes(num_copies * weights, keep=run.settings.checkpoint.save_total_limit) + num_snapshots * weights
    free = shutil.disk_usage(run.out).free
    if free < needed:
        raise ConfigError(
            f"{run.out} has {free >> 20} MB free, and the checkpoints need {needed >> 20} MB",
            column="out",
            hint="name another disk",
        )


def _over_processes(run: Run[Any], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the sum over processes, each of which holds rows of its own."""
    if run.accelerator.num_processes == 1:
        return tensors
    return {name: run.accelerator.reduce(tensor.to(run.accelerator.device)).cpu() for name, tensor in tensors.items()}


def newest_of_run(run: Run[Any], *, identity: Mapping[str, str]) -> Checkpoint | None:
    """Find the newest checkpoint that verifies, the same for every process."""
    answer: list[Checkpoint | NlpbpError | None] = [None]
    if run.accelerator.is_main_process:
        try:
            answer = [newest_checkpoint(run.out / "checkpoints", identity=identity)]
        except NlpbpError as error:
            answer = [error]
    broadcast_object_list(answer)
    found = answer[0]
    if isinstance(found, NlpbpError):
        raise found
    return found


def resume_stage(
    run: Run[Any], newest: Checkpoint | None, learner: Learner, *, before: Progress, stage: Stage, average: WeightAverage
) -> Progress | None:
    """Go back to a checkpoint of this stage: weights, optimizer, log and best weights; None: the stage has none."""
    best, model = best_file(run), learner.model
    found = newest if newest is not None and progress_of(newest).stage == stage.index else None
    if run.accelerator.is_main_process:
        truncate_jsonl(run.out / "metrics.jsonl", last_step=found.step if found else before.step)
        if found or stage.new_metric:
            best.unlink(missing_ok=True)
        if found and (found.path / best.name).exists():
            shutil.copyfile(found.path / best.name, best)
    if found is None:
        return None
    progress = progress_of(found)
    if progress.step - progress.first_step > average.after:
        _load(found, AVERAGE, model)
        average.begin()
    _load(found, "model.safetensors", model)
    set_full_optimizer_state(model, learner.optimizer, found.tensors("optim.safetensors"))
    if learner.carried is not None:
        learner.carried.load(found.tensors("carried.safetensors"))
    if found.rejected:
        run.say(f"warning: set aside, because they do not verify: {'; '.join(found.rejected)}")
    if run.accelerator.scaler is not None and progress.scaler:
        run.accelerator.scaler.load_state_dict(progress.scaler)
    return progress


def progress_of(found: Checkpoint) -> Progress:
    """Turn a checkpoint's plain data back into a `Progress`, of exactly its fields and their kinds."""
    blank = asdict(Progress(1, best_score=0.0))
    state = found.state if isinstance(found.state, dict) else {}
    containers = {"scaler": dict, "hashes": dict, "stages": list}
    numbers = {name: value for name, value in state.items() if name not in (*containers, "best_score")}
    complete = {"lr": 0.0, **state}.keys() == blank.keys()  # the rate found is not in the first checkpoints that were written
    sound = complete and all(isinstance(state[name], kind) for name, kind in containers.items())
    if not sound or not all(isinstance(value, int | float) for value in numbers.values()):
        raise CheckpointError("its state is not that of a training run", file=str(found.path), hint="resume from an earlier one")
    return Progress(**state)


def _load(found: Checkpoint, file: str, model: nn.Module) -> None:
    """Give `model` the weights of one of a checkpoint's files, if they can be its own."""
    weights = found.tensors(file)
    _compare_shapes(found, weights, model)
    if name := first_non_finite(weights):
        raise CheckpointError(f"{name} is not finite in the checkpoint", file=str(found.path), hint="resume from an earlier one")
    set_full_state(model, weights)


def _compare_shapes(found: Checkpoint, weights: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """Refuse a checkpoint of another architecture, naming the first tensors that differ."""
    wanted = plain_shapes(model)
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [
        f"{name}: {saved.get(name)} saved, {wanted.get(name)} here"
        for name in {**wanted, **saved}
        if wanted.get(name) != saved.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{len(differing)} tensors differ from the model's: {'; '.join(differing[:5])}",
            file=str(found.path),
            hint="resume with the model of that run",
        )
