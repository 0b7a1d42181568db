"""What every recipe that trains a classifier does in the same way, from a model and its optimizer to the finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn

from nlpbp.core.batch import LossFn
from nlpbp.core.errors import EXIT_PREEMPTED, ConfigError
from nlpbp.core.groups import layer_groups
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import classifier_loss, looks_normalised, task_outputs
from nlpbp.data.modality import Medium, Prepared
from nlpbp.data.order import evaluation_batches, stage_seed, training_plan
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.windows import means_of_windows, of_windows
from nlpbp.evaluation.metrics import MAIN_METRIC, task_metrics
from nlpbp.runs.diagnosis import calibration_line, calibration_record
from nlpbp.runs.fit import Metrics, fit
from nlpbp.runs.folder import Run
from nlpbp.runs.lr_finder import found_rate
from nlpbp.runs.progress import Progress, Stage
from nlpbp.runs.result import RunResult
from nlpbp.runs.results import decision_thresholds, finish
from nlpbp.train.evaluate import predict
from nlpbp.train.signals import Stopped
from nlpbp.train.weights import full_state
from nlpbp.trainers.stages import (
    ClassifierConfig,
    Training,
    Work,
    cache_of,
    epoch_of,
    freeze,
    prepare_again,
    prepare_work,
    stage_steps,
    sweeps,
)
from nlpbp.trainers.targets import (
    check_regression,
    classes_to_balance,
    loss_of_chance,
    outside_range,
    standardised,
    weights_of_classes,
)

SNAPSHOT_CARD = "A snapshot at the end of a cycle of warm restarts, made by nlpbp on the way to the model.\n"
Ask = Callable[[nn.Module, Prepared], torch.Tensor]  # a model, and n examples -> its logits [n, k]


@dataclass(frozen=True)
class Goal:
    """What the model is trained towards: its targets, its loss, and what turns its outputs into answers."""

    output: nn.Linear
    targets: np.ndarray[Any, Any]
    scale: float
    shift: float
    value_range: tuple[float, float] | None
    loss_fn: LossFn


def train_classifier(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    *,
    model: nn.Module,
    trainings: Sequence[Training],
    medium: Medium,
    before: Progress | None = None,
    first_stage: int = 0,
) -> RunResult:
    """Train `model` on the training part, choose by the validation part, score the test part once, and save everything.

    `trainings` are run one after the other, each from the weights that the one before ended with; the best weights of all are
    kept. `medium` is what the examples are. `first_stage` is not 0 where the run has made something else before, a language model
    for instance; `before` is how that ended, unless a later stage has left it behind.
    """
    refuse_settings(config, inputs, num_stages=first_stage + len(trainings))
    num_micro_batches, _ = epoch_of(run, config, inputs, medium.parts["train"], min_examples=medium.min_examples)
    works = [prepare_work(run, config, inputs, training, medium) for training in trainings]
    goal = set_goal(run, config, inputs, model, medium)
    ask = partial(_logits, accelerator=run.accelerator, medium=medium)
    save = partial(_save_snapshot, run, goal=goal, medium=medium)
    progress, trained = before or Progress(num_micro_batches), model
    for index, (training, work) in enumerate(zip(trainings, works, strict=True)):
        later = sum(other.total_steps for other in works[index + 1 :])
        is_alone = len(trainings) == 1 and first_stage == 0
        stage = Stage()
        if not is_alone:
            stage = Stage(training.name, first_stage + index, later, new_metric=index == 0, keep_last=later > 0)
        trained, progress = _train_stage(
            run,
            config,
            inputs,
            stage,
            model=trained,
            training=training,
            work=work,
            goal=goal,
            progress=progress,
            medium=medium,
            logits_of_validation=partial(ask, examples=medium.parts["validation"]),
            save_snapshot=save,
        )
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fold_affine_(goal.output, scale=goal.scale, shift=goal.shift)
    records, outputs = _examine(run, config, inputs, as_saved(run.accelerator, trained), goal=goal, ask=ask, medium=medium)
    return finish(
        run, inputs, progress, model=trained, medium=medium, outputs=outputs, records=records, push_to_hub=config.push_to_hub
    )


def refuse_settings(config: ClassifierConfig, inputs: Inputs, *, num_stages: int) -> None:
    """Raise `ConfigError` for settings that this task or this many stages have no place for."""
    check_regression(inputs.fields.task, config.optim)
    if config.finder.only is not None and config.finder.only > num_stages:
        raise ConfigError(f"there is no stage {config.finder.only}", column="finder.only", hint=f"the run has {num_stages}")
    if config.calibrate and inputs.fields.task == "regression":
        raise ConfigError("a number to predict has no probability", column="calibrate", hint="leave it out")


def set_goal(run: Run, config: ClassifierConfig, inputs: Inputs, model: nn.Module, medium: Medium) -> Goal:
    """Make targets and loss from the training part and what `config` wants of them."""
    fields, optim = inputs.fields, config.optim
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    value_range = outside_range(model, config.data.value_range)
    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None, value_range=config.data.value_range)
    loss_fn = classifier_loss(
        task=fields.task,
        label_smoothing=optim.label_smoothing,
        class_weights=weights_of_classes(inputs, optim.class_weights, device=run.accelerator.device),
        focal_gamma=optim.focal,
        value_range=value_range,
    )
    return Goal(output, targets, scale, shift, value_range, medium.mix(loss_fn))


def _train_stage(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    stage: Stage,
    *,
    model: nn.Module,
    training: Training,
    work: Work,
    goal: Goal,
    progress: Progress,
    medium: Medium,
    logits_of_validation: Callable[[nn.Module], torch.Tensor],
    save_snapshot: Callable[[nn.Module, int], None],
) -> tuple[nn.Module, Progress]:
    """Go through one stage, and return the model, as it was wrapped for it, and how it ended."""
    accelerator, task = run.accelerator, inputs.fields.task
    plain = accelerator.unwrap_model(model)
    groups = layer_groups(plain)
    freeze(groups, train_last=training.train_last)
    trained, optimizer = prepare_again(accelerator, model, training.make_optimizer(plain, groups))
    cached = cache_of(plain, training)

    def evaluate() -> Metrics:
        outputs = outputs_of(run, inputs, goal, logits_of_validation(trained)) * goal.scale + goal.shift
        return task_metrics(task, targets_of(inputs.validation), outputs, thresholds=decision_thresholds(inputs, outputs))

    make_steps = partial(
        stage_steps,
        trained,
        optimizer,
        batches=partial(work.batches, labels=goal.targets),
        plan=partial(
            training_plan,
            work.examples.padded_lengths,
            size=work.size,
            min_size=progress.num_micro_batches * medium.min_examples,
            targets=classes_to_balance(inputs, config.data, work.examples.owners),
        ),
        accelerator=accelerator,
        loss_fn=goal.loss_fn if cached is None else cached.loss_fn(goal.loss_fn),
        max_grad_norm=config.optim.max_grad_norm,
    )
    seed = stage_seed(config.seed, stage.index)
    ended = fit(
        run,
        partial(make_steps, training, epochs=training.epochs, total_steps=work.total_steps, seed=seed),
        model=trained,
        optimizer=optimizer,
        groups=groups,
        evaluate=evaluate,
        metric=MAIN_METRIC[task],
        total_steps=work.total_steps,
        steps_per_epoch=work.per_epoch,
        identity=medium.identity,
        checkpoints=config.checkpoint,
        references=of_windows(inputs.train.examples.references, work.examples.owners),
        before=progress,
        stage=stage,
        allow_data_change=config.data.allow_change,
        eval_steps=config.eval_steps,
        patience=config.patience,
        average_from=training.average_from,
        ema=training.ema,
        find_rate=partial(
            found_rate,
            run,
            config.finder,
            sweeps(make_steps, training, num_micro_batches=progress.num_micro_batches, seed=seed),
            model=trained,
            optimizer=optimizer,
            stage=stage,
            schedule=training.schedule,
            chance=loss_of_chance(inputs),
        )
        if training.sweep
        else None,
        snapshots=training.snapshots(work.total_steps),
        save_snapshot=partial(save_snapshot, trained),
    )
    return trained, ended or progress


def _logits(model: nn.Module, examples: Prepared, *, accelerator: Accelerator, medium: Medium) -> torch.Tensor:
    """Ask the model for its logits [examples, k]; a text that is read in windows gets their mean."""
    plan = evaluation_batches(examples.padded_lengths, max_tokens=medium.max_cost)
    made = predict(model, plan, partial(medium.collate, examples), accelerator=accelerator)
    return torch.from_numpy(means_of_windows(made.logits, examples.owners))


def outputs_of(run: Run, inputs: Inputs, goal: Goal, logits: torch.Tensor) -> np.ndarray[Any, Any]:
    """Turn logits into probabilities [n, k] or values [n]; warn where they look like probabilities already."""
    if inputs.fields.task == "single_label" and looks_normalised(logits):
        run.say("warning: the model's outputs are probabilities already, and its loss takes them for logits (practice A1)")
    return task_outputs(logits, task=inputs.fields.task, value_range=goal.value_range).numpy()


def _examine(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    model: nn.Module,
    *,
    goal: Goal,
    ask: Ask,
    medium: Medium,
) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Calibrate the finished model and look at its errors: return what the run folder's records hold, and the outputs by part."""
    records: dict[str, Any] = {}
    task = inputs.fields.task
    logits: dict[str, torch.Tensor] = {}
    if task != "regression":
        logits["validation"] = ask(model, medium.parts["validation"])
        calibration = calibration_record(inputs, logits["validation"].numpy(), wanted=config.calibrate)
        records["calibration.json"] = calibration
        if config.calibrate:
            run.say(calibration_line(calibration))
        if calibration["applied"]:
            fold_affine_(goal.output, scale=1 / calibration["temperature"], shift=0.0)
            logits.clear()
    logits |= {part: ask(model, medium.parts[part]) for part in inputs.scored if part not in logits}
    outputs = {part: outputs_of(run, inputs, goal, logits[part]) for part in inputs.scored}
    if task != "regression":
        records["errors.json"] = medium.errors(
            outputs["validation"], lambda examples: task_outputs(ask(model, examples), task=task).numpy()
        )
    return records, outputs


def _save_snapshot(run: Run, model: nn.Module, number: int, *, goal: Goal, medium: Medium) -> None:
    """Save the model as it is now, as snapshot `number`; raise `Stopped` in every process where the disk does not take it."""
    accelerator = run.accelerator
    state = folded(model, full_state(model), goal.output, scale=goal.scale, shift=goal.shift)
    failure: list[str | None] = [None]
    if accelerator.is_main_process:
        folder = run.out / "snapshots"
        try:
            if number == 1:  # what an earlier stage has left are not of this one's cycles
                shutil.rmtree(folder, ignore_errors=True)
            medium.save(accelerator.unwrap_model(model), state, folder / str(number), SNAPSHOT_CARD)
        except OSError as error:
            failure = [str(error)]
    broadcast_object_list(failure)
    if failure[0]:
        raise Stopped(f"a snapshot could not be written ({failure[0]})", code=EXIT_PREEMPTED)


def folded(
    model: nn.Module, state: dict[str, torch.Tensor], output: nn.Module, *, scale: float, shift: float
) -> dict[str, torch.Tensor]:
    """Return a state dict whose `output` layer answers `scale * y + shift` where the model's answers y."""
    if (scale, shift) == (1.0, 0.0) or not state:
        return state
    (name,) = (name.removeprefix("module.") for name, module in model.named_modules() if module is output)
    weight, bias = f"{name}.weight", f"{name}.bias"
    with_bias = {bias: state[bias] * scale + shift} if bias in state else {}
    return {**state, weight: state[weight] * scale, **with_bias}


def as_saved(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Return the model as whoever loads it will run it, in fp32; a sharded model can only run as it is."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return model
    return accelerator.unwrap_model(model, keep_fp32_wrapper=False)
