"""The same practices inside `transformers.Trainer`: layer groups, schedule, freezing, and the rate from a sweep.

python scripts/finetune.py transformers_trainer --data.train reviews.csv

It shows that each practice is a function that any loop can call. Trainer's own checkpoints are turned off here: this recipe is a
demonstration, and does not go on when it is killed. For a run that does, take transformer_sentiment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nlpbp import config as sections
from nlpbp.config.limits import check_limits
from nlpbp.core.errors import ConfigError, DistributedError
from nlpbp.core.freezing import train_mode
from nlpbp.core.groups import LayerGroup, group_hashes, layer_groups
from nlpbp.core.layers import fold_affine_
from nlpbp.core.schedules import Schedule
from nlpbp.data.order import evaluation_batches, evaluation_tokens
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.modalities.encoding import EncodedTexts, encode_parts
from nlpbp.modalities.pretrained import check_length, default_lr, model_path
from nlpbp.modalities.texts import text_modality
from nlpbp.runs.diagnosis import calibration_record
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.inputs import read_inputs
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.runs.model_folder import send_to_hub
from nlpbp.runs.predictions import decision_thresholds
from nlpbp.runs.progress import Progress
from nlpbp.runs.result import RunResult
from nlpbp.runs.results import finish
from nlpbp.tasks import get_task, task_loss, task_metrics, task_outputs
from nlpbp.text.batches import Encoded, collate
from nlpbp.text.transformer import faster, length_limit, load_classifier, load_config, load_tokenizer
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step
from nlpbp.train.lr_finder import chosen, exponential, read_curves, restored, set_highest_rate, sweep
from nlpbp.train.setup import precision_of
from nlpbp.train.tracking import log
from nlpbp.trainers.optimizers import schedule_of, transformer_optimizer
from nlpbp.trainers.stages import as_saved, freeze
from nlpbp.trainers.targets import Objective, make_objective

NAME = "transformers_trainer"
NOT_SHOWN = (
    "data.balanced_sampling",
    "data.eval_sample",
    "optim.probe",
    "data.value_range",
    "data.truncation",
    "batch.micro_batches",
    "optim.swa_start",
    "optim.ema_decay",
    "optim.class_weights",
    "optim.focal_gamma",
    "optim.asymmetric",
    "cycles.cycle_len",
    "cycles.snapshots",
    "finder.num_sweeps",
    "finder.verify",
    "finder.stop_after_stage",
    "stages.max_length",
    "stages.batch_size",
    "stages.cache_frozen",
    "eval_steps",
    "patience",
    "calibrate",
    "checkpoint",
    "augment",
)
"""Settings that the other recipes have and this one does not."""


@dataclass(frozen=True)
class Model:
    """The pretrained model."""

    name: str = "demo:minilm"
    """A folder saved by `save_pretrained`, a hub id, or `demo:minilm` (packaged: 6 layers, 22.7 million parameters)."""


@dataclass(frozen=True)
class Config(sections.TextClassifierSettings):
    """Fine-tune a pretrained transformer with transformers.Trainer; a demonstration, which does not resume."""

    model: Model = field(default_factory=Model)
    optim: sections.Optim = field(default_factory=lambda: sections.Optim(lr="auto"))
    finder: sections.Finder = field(default_factory=lambda: sections.Finder(num_sweeps=1))
    stages: tuple[sections.Stage, ...] = (sections.Stage(epochs=1, train_last=1), sections.Stage(epochs=2))
    """The training, part by part: what trains, for how long, how fast."""
    resume: str = "never"
    """Trainer's checkpoints are turned off: a run that was stopped begins again, in another folder."""


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a BERT of a few thousand weights on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=32),
        model=Model(name="tiny:bert"),
        optim=sections.Optim(lr=1e-2, layer_decay=1.0),
        batch=sections.Batch(size=16),
        stages=(sections.Stage(epochs=1, train_last=1), sections.Stage(epochs=4)),
    )


def run(config: Config) -> RunResult:
    """Fine-tune as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    refuse_settings(config)
    with open_run(NAME, config) as run:
        if run.accelerator.num_processes > 1:
            raise DistributedError("the demonstration runs on one process", hint="take transformer_sentiment")
        return _fine_tune(run)


def refuse_settings(config: Config) -> None:
    """Raise `ConfigError` for what the other recipes have and this one does not."""
    usual = Config()
    for column in NOT_SHOWN:
        section, _, name = column.rpartition(".")
        given = config.stages if section == "stages" else (getattr(config, section) if section else config,)
        plain = usual.stages[0] if section == "stages" else getattr(usual, section) if section else usual
        if any(getattr(one, name) != getattr(plain, name) for one in given):
            raise ConfigError("is not shown with Trainer", column=column, hint="take transformer_sentiment")
    if config.resume != "never":
        raise ConfigError("Trainer's checkpoints are turned off", column="resume", hint="take transformer_sentiment")
    if config.precision == "fp16":
        raise ConfigError("is not shown with Trainer", column="precision", hint="bf16 or fp32")


def _fine_tune(run: Run[Config]) -> RunResult:
    config = run.settings
    inputs = read_inputs(run, config.data)
    fields, name = inputs.fields, model_path(config.model.name)
    tokenizer = load_tokenizer(name)
    model_config = load_config(name, task=fields.task, labels=fields.labels, dropout_scale=config.dropout.scale)
    max_length = check_length(config.data.max_length, limit=length_limit(model_config, tokenizer))
    model = faster(load_classifier(name, config=model_config, tokenizer=tokenizer))
    texts = encode_parts(run, inputs, tokenizer, max_length=max_length)
    objective = make_objective(run, inputs, model, mix=lambda loss_fn: loss_fn)
    # Trainer calls model.train() before every step, which would let frozen layers drop out again (practice T1).
    model.register_forward_pre_hook(lambda module, _: train_mode(module) if module.training else None)
    shown = Shown(run, inputs, texts, model, objective)
    progress = Progress(1)
    for index, stage in enumerate(config.stages):
        progress = _train_stage(shown, stage, index, progress)
        _validate(shown, progress)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fold_affine_(objective.output, scale=objective.scale, shift=objective.shift)
    # Trainer has wrapped its forward pass in bf16, where that is asked for
    model = as_saved(run.accelerator, model)  # type: ignore[assignment]
    modality = text_modality(run, inputs, texts, model=model, base_model=config.model.name)
    outputs, records = {part: shown.outputs(texts.parts[part]) for part in inputs.scored}, {}
    if get_task(fields.task).has_probabilities:
        logits = shown.logits(texts.parts["validation"]).numpy()
        records = {
            "calibration.json": calibration_record(inputs, logits, wanted=False),
            "errors.json": modality.errors(outputs["validation"], shown.outputs),
        }
    result = finish(run, inputs, progress, model=model, modality=modality, outputs=outputs, records=records)
    send_to_hub(run)
    return result


@dataclass(frozen=True)
class Shown:
    """What all stages of the demonstration share."""

    run: Run[Config]
    inputs: Inputs
    texts: EncodedTexts
    model: PreTrainedModel
    objective: Objective

    def logits(self, texts: Encoded) -> torch.Tensor:
        """Ask the model for its logits."""
        most = evaluation_tokens(self.run.settings.batch.evaluation_tokens, self.run.accelerator.device.type)
        plan = evaluation_batches(texts.padded_lengths, max_tokens=most)
        make_batch = lambda ids: collate(texts, ids, tokenizer=self.texts.tokenizer)  # noqa: E731
        return torch.from_numpy(predict(self.model, plan, make_batch, accelerator=self.run.accelerator).logits)

    def outputs(self, texts: Any) -> np.ndarray[Any, Any]:
        """Return probabilities, or values in the scale of training."""
        return task_outputs(self.logits(texts), task=self.inputs.fields.task).numpy()

    def collate(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Make a batch of training texts as Trainer wants it."""
        batch = collate(self.texts.parts["train"], np.array(rows), tokenizer=self.texts.tokenizer, labels=self.objective.targets)
        assert batch.labels is not None, "training texts have labels"
        return {**batch.inputs, "labels": batch.labels}


OnLog = Callable[[Step], bool]  # sees a step and says whether to go on


def _train_stage(shown: Shown, stage: sections.Stage, index: int, progress: Progress) -> Progress:
    """Let a Trainer do one stage, and hold it to what was announced: frozen layer groups must not have changed."""
    run, model, config = shown.run, shown.model, shown.run.settings
    optim, size, num_texts = config.optim, config.batch.size, len(shown.texts.parts["train"])
    groups = layer_groups(model)
    freeze(groups, train_last=stage.train_last)
    wanted = stage.lr or optim.lr or default_lr(model, num_texts=num_texts)
    optimizer = transformer_optimizer(optim, lr=SWEPT if wanted == "auto" else wanted)(model, groups)
    if wanted == "auto":
        set_highest_rate(optimizer, _swept_lr(shown, optimizer, seed=config.seed + index))
    before, started = group_hashes(model, groups), time.monotonic()
    total_steps = (stage.epochs or 1) * -(-num_texts // size)
    steps: list[Step] = []

    def on_log(step: Step) -> bool:
        steps.append(step)
        record = {**asdict(step), "step": progress.step + step.step, "epoch": round(step.step * size / num_texts, 4)}
        log(run.accelerator, run.out / "metrics.jsonl", record)
        return True

    schedule = schedule_of(optim.schedule, config.cycles, warmup=optim.warmup_ratio)
    _trainer(shown, optimizer, schedule, total_steps=total_steps, seed=config.seed + index, on_log=on_log).train()
    record = {
        "name": f"stage {index + 1}",
        "steps": total_steps,
        "items": total_steps * size,
        "seconds": round(time.monotonic() - started, 3),
        "trained": sorted(_trained(groups, before, group_hashes(model, groups))),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "metric": get_task(shown.inputs.fields.task).main_metric,
        "clipped": sum(step.clipped for step in steps),
        "skipped": 0,
    }
    return replace(progress, step=progress.step + total_steps, stages=[*progress.stages, record])


def _trained(groups: Sequence[LayerGroup], before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return the names of the groups that train; no other may have changed."""
    trained = {group.name for group in groups if any(p.requires_grad for _, p in group.parameters)}
    assert {name for name in after if after[name] != before[name]} <= trained, "frozen layer groups have changed"
    return trained


def _trainer(shown: Shown, optimizer: Optimizer, schedule: Schedule, *, total_steps: int, seed: int, on_log: OnLog) -> Trainer:
    """Make a Trainer over our optimizer and schedule."""
    run, optim, size = shown.run, shown.run.settings.optim, shown.run.settings.batch.size
    arguments = TrainingArguments(
        output_dir=str(run.out),
        max_steps=total_steps,
        per_device_train_batch_size=size,
        max_grad_norm=optim.max_grad_norm or 0.0,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=run.accelerator.device.type == "cpu",
        bf16=precision_of(run.accelerator) == "bf16",
        seed=seed,
    )
    trainer = Trainer(
        model=shown.model,
        args=arguments,
        train_dataset=list(range(len(shown.texts.parts["train"]))),  # type: ignore[arg-type]
        data_collator=shown.collate,
        compute_loss_func=lambda outputs, labels, num_items_in_batch=None: task_loss(
            outputs.logits, labels, task=shown.inputs.fields.task, label_smoothing=optim.label_smoothing
        ),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: schedule(min(1.0, (step + 0.5) / total_steps)))),
        callbacks=[StepLog(on_log, max_grad_norm=optim.max_grad_norm, num_items=size)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _swept_lr(shown: Shown, optimizer: Optimizer, *, seed: int) -> float:
    """Sweep with a Trainer whose schedule rises, read its curve, and put everything back."""
    run, finder, steps = shown.run, shown.run.settings.finder, list[Step]()

    def on_log(step: Step) -> bool:
        steps.extend([step] if np.isfinite(step.loss) else [])
        return bool(np.isfinite(step.loss))

    with restored(shown.model, optimizer, accelerator=run.accelerator):
        schedule = exponential(optimizer, start=finder.start, end=finder.end)
        _trainer(shown, optimizer, schedule, total_steps=finder.num_steps, seed=seed + 1, on_log=on_log).train()
    found = read_curves([sweep(iter(steps), num_steps=finder.num_steps)])
    taken = chosen(found, finder.suggestion)
    if taken is None:
        raise ConfigError(f"the sweep found no learning rate: {found.refused}", column="optim.lr", hint="give one")
    run.say(f"rate: {found.suggestions[taken]:.1e} ({taken}, from a sweep inside Trainer)")
    return found.suggestions[taken]


def _validate(shown: Shown, progress: Progress) -> None:
    """Score the validation set after a stage, log it and say it."""
    run, inputs, objective = shown.run, shown.inputs, shown.objective
    outputs = shown.outputs(shown.texts.parts["validation"]) * objective.scale + objective.shift
    task, thresholds = get_task(inputs.fields.task), decision_thresholds(inputs, outputs)
    metrics = task_metrics(task.name, targets_of(inputs.validation), outputs, thresholds=thresholds)
    log(run.accelerator, run.out / "metrics.jsonl", {"step": progress.step, "split": "validation", **metrics})
    scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
    run.say(f"step {progress.step}: validation {scores}")


class StepLog(TrainerCallback):
    """Hands what Trainer logs on as a `Step`."""

    def __init__(self, on_log: Callable[[Step], bool], *, max_grad_norm: float | None, num_items: int) -> None:
        self._on_log, self._max_grad_norm, self._num_items = on_log, max_grad_norm, num_items
        self._lr = 0.0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Remember the highest rate: Trainer logs that of its first group, and after it has been changed for the next step."""
        self._lr = max(group["lr"] for group in options["optimizer"].param_groups)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **options: Any) -> None:
        """Take one step's record; Trainer's closing summary has no rate."""
        if logs is None or "learning_rate" not in logs:
            return
        norm = float(logs["grad_norm"])
        step = Step(
            step=state.global_step,
            loss=float(logs["loss"]),
            lr=self._lr,
            grad_norm=norm,
            clipped=self._max_grad_norm is not None and norm > self._max_grad_norm,
            skipped=False,
            num_items=self._num_items,
            num_micro_batches=1,
        )
        goes_on = self._on_log(step)
        control.should_training_stop = control.should_training_stop or not goes_on
