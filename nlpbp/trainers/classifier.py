"""What every recipe that trains a classifier does in the same way, from a model and its optimizer to the finished run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from nlpbp.config import ClassifierSettings
from nlpbp.core.errors import EXIT_PREEMPTED
from nlpbp.core.freezing import keep_norm_statistics_
from nlpbp.core.groups import layer_groups
from nlpbp.core.layers import fold_affine_
from nlpbp.core.losses import looks_normalised
from nlpbp.data.modality import Modality, Prepared
from nlpbp.data.order import Ints, evaluation_batches, stage_seed
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.windows import chosen_windows, means_of_windows, of_windows
from nlpbp.runs.diagnosis import calibration_line, calibration_record
from nlpbp.runs.fit import Metrics, Snapshots, Validation, fit
from nlpbp.runs.folder import Run
from nlpbp.runs.lr_finder import found_lr
from nlpbp.runs.model_folder import send_to_hub
from nlpbp.runs.predictions import chosen_thresholds, decision_thresholds
from nlpbp.runs.progress import Learner, Progress, Provenance, Stage
from nlpbp.runs.result import RunResult
from nlpbp.runs.results import finish
from nlpbp.tasks import get_task, task_metrics, task_outputs
from nlpbp.train.evaluate import predict
from nlpbp.train.signals import Stopped
from nlpbp.train.weights import full_state
from nlpbp.trainers.stages import (
    StageExamples,
    StageLoop,
    StagePlan,
    as_saved,
    cache_of,
    check_micro_batches,
    epoch_length,
    epochs_between_evaluations,
    freeze,
    labelled,
    orders_of,
    prepare_again,
    prepare_examples,
    tell_how_weights_are_chosen,
)
from nlpbp.trainers.targets import Objective, make_objective, refuse_settings

SNAPSHOT_CARD = "A snapshot at the end of a cycle of warm restarts, made by nlpbp on the way to the model.\n"


@dataclass(frozen=True)
class Classification:
    """What all stages of a classifier's training share."""

    run: Run[ClassifierSettings]
    inputs: Inputs
    modality: Modality
    objective: Objective

    def logits(self, model: nn.Module, examples: Prepared, chosen: Ints | None = None) -> torch.Tensor:
        """Ask a model for its logits [examples, k], of all or of the `chosen`; a text that is read in windows gets their mean."""
        asked, owners = chosen_windows(len(examples), examples.owners, chosen)
        batches = evaluation_batches(examples.padded_lengths[asked], max_tokens=self.modality.max_cost)
        plan = [asked[batch] for batch in batches]
        made = predict(model, plan, partial(self.modality.collate, examples), accelerator=self.run.accelerator)
        return torch.from_numpy(means_of_windows(made.logits, owners))

    def outputs(self, logits: torch.Tensor) -> np.ndarray[Any, Any]:
        """Turn logits into probabilities [n, k] or values [n]; warn where they look like probabilities already."""
        fields = self.inputs.fields
        if fields.target_type == "multiclass" and looks_normalised(logits):
            self.run.say("warning: the model's outputs are probabilities already, and its loss takes them for logits (practice A1)")
        return task_outputs(logits, task=fields.task, value_range=self.objective.value_range).numpy()


def train_classifier(
    run: Run[ClassifierSettings],
    inputs: Inputs,
    *,
    model: nn.Module,
    plans: Sequence[StagePlan],
    modality: Modality,
    before: Progress | None = None,
    first_stage: int = 0,
    soft_targets: np.ndarray[Any, Any] | None = None,
) -> RunResult:
    """Train `model` on the training set, choose by the validation set, score the test set once, and save everything.

    `plans` are gone through one after the other, each from the weights that the one before ended with; the best weights of all are
    kept. Without plans the model is taken as it is. `modality` is what the examples are. `first_stage` is not 0 where the run has
    made something else before, a language model for instance; `before` is how that ended, unless a later stage has left it behind.
    `soft_targets` [n, labels] are probabilities to learn in place of the labels.
    """
    refuse_settings(run.settings, inputs, num_stages=first_stage + len(plans))
    if plans:
        tell_how_weights_are_chosen(run, inputs)
    train = modality.parts["train"]
    num_micro_batches = check_micro_batches(run, num_examples=len(train), size=run.settings.batch.size)
    epoch_length(run, inputs, train, min_examples=modality.min_examples)  # refuses what cannot be balanced
    examples = [prepare_examples(run, inputs, plan, modality) for plan in plans]
    objective = make_objective(run, inputs, model, mix=modality.mix, penalty=modality.penalty)
    if soft_targets is not None:
        objective = replace(objective, targets=soft_targets)
    shared = Classification(run, inputs, modality, objective)
    progress, trained = before or Progress(num_micro_batches), model
    for index, (plan, mine) in enumerate(zip(plans, examples, strict=True)):
        later = sum(other.total_steps for other in examples[index + 1 :])
        stage = Stage("training", 0, mine.total_steps, mine.steps_per_epoch, is_only=True)
        if len(plans) > 1 or first_stage > 0:
            stage = replace(stage, name=plan.name, index=first_stage + index, later_steps=later, is_only=False)
            stage = replace(stage, new_metric=index == 0, keep_last=later > 0)
        trained, progress = _train_stage(shared, plan, mine, stage, model=trained, progress=progress)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fold_affine_(objective.output, scale=objective.scale, shift=objective.shift)
    records, outputs = _examine(shared, as_saved(run.accelerator, trained))
    result = finish(run, inputs, progress, model=trained, modality=modality, outputs=outputs, records=records)
    send_to_hub(run)
    return result


def _train_stage(
    shared: Classification, plan: StagePlan, examples: StageExamples, stage: Stage, *, model: nn.Module, progress: Progress
) -> tuple[nn.Module, Progress]:
    """Go through one stage, and return the model, as it was wrapped for it, and how it ended."""
    run, inputs, objective = shared.run, shared.inputs, shared.objective
    plain = run.accelerator.unwrap_model(model)
    groups = layer_groups(plain)
    freeze(groups, train_last=plan.train_last)
    keep_norm_statistics_(plain, keep=plan.keep_norm_statistics)
    trained, optimizer = prepare_again(run.accelerator, model, plan.make_optimizer(plain, groups))
    cached, num_micro_batches = cache_of(plain, plan), progress.num_micro_batches
    loop = StageLoop(
        run.accelerator,
        trained,
        optimizer,
        orders=orders_of(run.settings, inputs, examples, min_size=num_micro_batches * shared.modality.min_examples),
        batches=labelled(examples, objective.targets),
        loss_fn=objective.loss_fn if cached is None else cached.loss_fn(objective.loss_fn),
        schedule=plan.schedule,
        epochs=examples.epochs,
        total_steps=examples.total_steps,
        max_grad_norm=run.settings.optim.max_grad_norm,
        seed=stage_seed(run.settings.seed, stage.index),
    )
    learner = Learner(trained, optimizer, groups)
    task, sweeps = get_task(inputs.fields.task), loop.sweeps(num_micro_batches)
    chance = task.chance_loss(targets_of(inputs.train))
    ended = fit(
        run,
        loop.steps,
        learner,
        stage,
        validation=Validation(
            partial(_validate, shared, trained),
            task.main,
            eval_steps=run.settings.eval_steps,
            epochs=epochs_between_evaluations(inputs),
            patience=run.settings.patience,
        ),
        provenance=Provenance(
            shared.modality.identity,
            of_windows(inputs.train.examples.references, examples.examples.owners),
            allow_data_change=run.settings.data.allow_change,
        ),
        before=progress,
        averaging=plan.averaging,
        snapshots=Snapshots(plan.snapshots(examples.total_steps), partial(_save_snapshot, shared, trained)),
        find_lr=partial(found_lr, run, sweeps, learner, stage=stage, schedule=plan.schedule, chance=chance)
        if plan.find_lr
        else None,
    )
    return trained, ended or progress


def _validate(shared: Classification, model: nn.Module) -> Metrics:
    """Score the validation set, or the sample of it by which training decides, with the weights as they are."""
    inputs, objective = shared.inputs.while_training(), shared.objective
    logits = shared.logits(model, shared.modality.parts["validation"], shared.inputs.eval_ids)
    outputs = shared.outputs(logits) * objective.scale + objective.shift
    thresholds = decision_thresholds(inputs, outputs)
    return task_metrics(inputs.fields.task, targets_of(inputs.validation), outputs, thresholds=thresholds)


def _examine(shared: Classification, model: nn.Module) -> tuple[dict[str, Any], Mapping[str, np.ndarray[Any, Any]]]:
    """Calibrate the finished model and look at its errors: return what the run folder's records hold, and the outputs by part."""
    run, inputs, parts = shared.run, shared.inputs, shared.modality.parts
    records: dict[str, Any] = {}
    task = get_task(inputs.fields.task)
    logits: dict[str, torch.Tensor] = {}
    if task.has_probabilities:
        logits["validation"] = shared.logits(model, parts["validation"])
        calibration = calibration_record(inputs, logits["validation"].numpy(), wanted=run.settings.calibrate)
        records["calibration.json"] = calibration
        if run.settings.calibrate:
            run.say(calibration_line(calibration))
        if calibration["applied"]:
            fold_affine_(shared.objective.output, scale=1 / calibration["temperature"], shift=0.0)
            logits.clear()
    logits |= {part: shared.logits(model, parts[part]) for part in inputs.scored if part not in logits}
    outputs = {part: shared.outputs(logits[part]) for part in inputs.scored}
    thresholds = chosen_thresholds(inputs, outputs["validation"])
    if thresholds is not None:
        run.say(f"thresholds: {thresholds}")
        records["thresholds.json"] = {
            **asdict(thresholds),
            "values": dict(zip(inputs.labels, thresholds.values.tolist(), strict=True)),
        }
    if task.has_probabilities:
        records["errors.json"] = shared.modality.errors(
            outputs["validation"], lambda examples: task_outputs(shared.logits(model, examples), task=task.name).numpy()
        )
    return records, outputs


def _save_snapshot(shared: Classification, model: nn.Module, number: int) -> None:
    """Save the model as it is now, as snapshot `number`; raise `Stopped` in every process where the disk does not take it."""
    accelerator, objective = shared.run.accelerator, shared.objective
    state = folded(model, full_state(model), objective.output, scale=objective.scale, shift=objective.shift)
    failure: list[str | None] = [None]
    if accelerator.is_main_process:
        folder = shared.run.out / "snapshots"
        try:
            if number == 1:  # what an earlier stage has left are not of this one's cycles
                shutil.rmtree(folder, ignore_errors=True)
            plain = accelerator.unwrap_model(model)
            plain.config.nlpbp_task = shared.inputs.fields.task
            shared.modality.save(plain, state, folder / str(number), SNAPSHOT_CARD)
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
