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
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nlpbp import config as sections
from nlpbp.config.limits import check_ranges
from nlpbp.config.run import Precision
from nlpbp.core.errors import ConfigError, DistributedError
from nlpbp.core.freezing import train_mode
from nlpbp.core.groups import group_hashes, layer_groups
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import task_loss, task_outputs
from nlpbp.core.schedules import Schedule
from nlpbp.data.order import evaluation_batches
from nlpbp.data.parts import Inputs, load_inputs, targets_of
from nlpbp.evaluation.metrics import MAIN_METRIC, task_metrics
from nlpbp.modalities.encoding import encode_parts
from nlpbp.modalities.pretrained import check_length, default_rate, model_path
from nlpbp.modalities.texts import text_medium
from nlpbp.runs.audit import audit_inputs
from nlpbp.runs.diagnosis import calibration_record
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.runs.progress import Progress
from nlpbp.runs.result import RunResult
from nlpbp.runs.results import decision_thresholds, finish
from nlpbp.text.batches import Encoded, collate
from nlpbp.text.transformer import length_limit, load_classifier, load_config, load_tokenizer
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step
from nlpbp.train.lr_finder import chosen, exponential, read_curves, restored, set_highest_rate, sweep
from nlpbp.train.setup import precision_of
from nlpbp.train.tracking import log
from nlpbp.trainers.classifier import as_saved
from nlpbp.trainers.optimizers import schedule_of, transformer_optimizer
from nlpbp.trainers.stages import freeze
from nlpbp.trainers.targets import standardised

NAME = "transformers_trainer"
NOT_SHOWN = (
    "data.balance",
    "data.value_range",
    "data.cut",
    "batch.micro_batches",
    "optim.average_from",
    "optim.ema",
    "optim.class_weights",
    "optim.focal",
    "cycles.cycle_len",
    "cycles.snapshots",
    "finder.orders",
    "finder.verify",
    "finder.only",
    "stages.max_length",
    "stages.batch_size",
    "stages.cache_frozen",
)
"""Settings that the other recipes have and this one does not."""


@dataclass(frozen=True)
class Model:
    """The pretrained model."""

    name: str = "demo:minilm"
    """A folder saved by `save_pretrained`, a hub id, or `demo:minilm` (packaged: 6 layers, 22.7 million parameters)."""


@dataclass(frozen=True)
class Config:
    """Fine-tune a pretrained transformer with transformers.Trainer; a demonstration, which does not resume."""

    data: sections.Data = field(default_factory=sections.Data)
    model: Model = field(default_factory=Model)
    optim: sections.Optim = field(default_factory=lambda: sections.Optim(lr="auto"))
    dropout: sections.Dropout = field(default_factory=sections.Dropout)
    batch: sections.Batch = field(default_factory=sections.Batch)
    cycles: sections.Cycles = field(default_factory=sections.Cycles)
    finder: sections.Finder = field(default_factory=lambda: sections.Finder(orders=1))
    report: sections.Report = field(default_factory=sections.Report)
    stages: tuple[sections.Stage, ...] = (sections.Stage(epochs=1, train_last=1), sections.Stage(epochs=2))
    """The training, part by part: what trains, for how long, how fast."""
    out: str | None = None
    """The run folder. Left out: runs/transformers_trainer-1, -2, ..."""
    seed: int = 0
    """Of everything random: the head, the order, the dropout. The split of the data does not depend on it."""
    threads: int | None = None
    """CPU threads. Left out: all physical cores."""
    precision: Precision = "auto"
    """Number format of the forward pass. auto: what accelerate is configured for, else bf16 where it is measured faster."""
    track: str | None = None
    """Also log to this tracker of accelerate's (tensorboard, wandb, mlflow, ...)."""
    resume: str = "never"
    """Trainer's checkpoints are turned off: a run that was stopped begins again, in another folder."""


def tiny() -> Config:
    """Return the seconds-long form: a BERT of a few thousand weights on sentences made by rule."""
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
    check_ranges(config)
    usual = Config()
    for column in NOT_SHOWN:
        section, name = column.split(".")
        given = config.stages if section == "stages" else (getattr(config, section),)
        plain = usual.stages[0] if section == "stages" else getattr(usual, section)
        if any(getattr(one, name) != getattr(plain, name) for one in given):
            raise ConfigError("is not shown with Trainer", column=column, hint="take transformer_sentiment")
    if config.resume != "never":
        raise ConfigError("Trainer's checkpoints are turned off", column="resume", hint="take transformer_sentiment")
    if config.precision == "fp16":
        raise ConfigError("is not shown with Trainer", column="precision", hint="bf16 or fp32")
    with open_run(NAME, config) as run:
        if run.accelerator.num_processes > 1:
            raise DistributedError("the demonstration runs on one process", hint="take transformer_sentiment")
        return _fine_tune(run, config)


def _fine_tune(run: Run, config: Config) -> RunResult:
    inputs = load_inputs(config.data)
    for note in inputs.notes:
        run.say(note)
    audit_inputs(run, inputs, config.report, max_length=config.data.max_length)
    fields, name = inputs.fields, model_path(config.model.name)
    tokenizer = load_tokenizer(name)
    model_config = load_config(name, task=fields.task, labels=fields.labels, dropout_scale=config.dropout.scale)
    max_length = check_length(config.data.max_length, limit=length_limit(model_config, tokenizer))
    model = load_classifier(name, config=model_config, tokenizer=tokenizer)
    encoded = encode_parts(run, inputs, tokenizer=tokenizer, max_length=max_length)
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None, value_range=None)

    def logits_of(texts: Encoded) -> torch.Tensor:
        plan = evaluation_batches(texts.padded_lengths, max_tokens=config.batch.evaluation_tokens)
        made = predict(model, plan, lambda ids: collate(texts, ids, tokenizer=tokenizer), accelerator=run.accelerator)
        return torch.from_numpy(made.logits)

    def outputs_of(texts: Any) -> np.ndarray[Any, Any]:
        return task_outputs(logits_of(texts), task=fields.task).numpy()

    # Trainer calls model.train() before every step, which would let frozen layers drop out again (practice T1).
    model.register_forward_pre_hook(lambda module, _: train_mode(module) if module.training else None)
    progress = Progress(1)
    for index, stage in enumerate(config.stages):
        progress = _train_stage(run, config, stage, index, progress, model, encoded["train"], targets, inputs, tokenizer)
        outputs = outputs_of(encoded["validation"]) * scale + shift
        metrics = task_metrics(fields.task, targets_of(inputs.validation), outputs, thresholds=decision_thresholds(inputs, outputs))
        log(run.accelerator, run.out / "metrics.jsonl", {"step": progress.step, "split": "validation", **metrics})
        main = MAIN_METRIC[fields.task]
        run.say(f"step {progress.step}: validation {main} {metrics[main]:.4f}")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fold_affine_(output, scale=scale, shift=shift)
    model = as_saved(run.accelerator, model)  # type: ignore[assignment]  # Trainer has wrapped its forward pass in bf16, where that is asked for
    medium = text_medium(
        run,
        config,
        inputs,
        model=model,
        tokenizer=tokenizer,
        encoded=encoded,
        max_length=max_length,
        base_model=config.model.name,
    )
    by_part, records = {part: outputs_of(encoded[part]) for part in inputs.scored}, {}
    if fields.task != "regression":
        records = {
            "calibration.json": calibration_record(inputs, logits_of(encoded["validation"]).numpy(), wanted=False),
            "errors.json": medium.errors(by_part["validation"], outputs_of),
        }
    return finish(run, inputs, progress, model=model, medium=medium, outputs=by_part, records=records)


def _train_stage(
    run: Run,
    config: Config,
    stage: sections.Stage,
    index: int,
    progress: Progress,
    model: Any,
    encoded: Encoded,
    targets: np.ndarray[Any, Any],
    inputs: Inputs,
    tokenizer: PreTrainedTokenizerBase,
) -> Progress:
    """Let a Trainer do one stage, and hold it to what was announced: frozen layer groups must not have changed."""
    optim, task = config.optim, inputs.fields.task
    groups = layer_groups(model)
    freeze(groups, train_last=stage.train_last)
    wanted = stage.lr or optim.lr or default_rate(model)
    optimizer = transformer_optimizer(optim, lr=SWEPT if wanted == "auto" else wanted)(model, groups)

    def collate_rows(rows: Sequence[int]) -> dict[str, Tensor]:
        batch = collate(encoded, np.array(rows), tokenizer=tokenizer, labels=targets)
        assert batch.labels is not None, "training texts have labels"
        return {**batch.inputs, "labels": batch.labels}

    def trainer_for(schedule: Schedule, total_steps: int, seed: int, on_log: Callable[[Step], bool]) -> Trainer:
        """Make a Trainer over our optimizer and schedule; `on_log` sees each step and says whether to go on."""
        arguments = TrainingArguments(
            output_dir=str(run.out),
            max_steps=total_steps,
            per_device_train_batch_size=config.batch.size,
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
            model=model,
            args=arguments,
            train_dataset=list(range(len(encoded))),  # type: ignore[arg-type]
            data_collator=collate_rows,
            compute_loss_func=lambda outputs, labels, num_items_in_batch=None: task_loss(
                outputs.logits, labels, task=task, label_smoothing=optim.label_smoothing
            ),
            optimizers=(optimizer, LambdaLR(optimizer, lambda step: schedule(min(1.0, (step + 0.5) / total_steps)))),
            callbacks=[StepLog(on_log, max_grad_norm=optim.max_grad_norm, num_items=config.batch.size)],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    if wanted == "auto":
        set_highest_rate(optimizer, _swept_rate(run, config, model, optimizer, trainer_for, seed=config.seed + index))
    before, started = group_hashes(model, groups), time.monotonic()
    total_steps = (stage.epochs or 1) * -(-len(encoded) // config.batch.size)
    steps: list[Step] = []

    def on_log(step: Step) -> bool:
        steps.append(step)
        record = {
            **asdict(step),
            "step": progress.step + step.step,
            "epoch": round(step.step * config.batch.size / len(encoded), 4),
        }
        log(run.accelerator, run.out / "metrics.jsonl", record)
        return True

    schedule = schedule_of(optim.schedule, config.cycles, warmup=optim.warmup)
    trainer_for(schedule, total_steps, config.seed + index, on_log).train()
    after = group_hashes(model, groups)
    trained = {group.name for group in groups if any(p.requires_grad for _, p in group.parameters)}
    assert {name for name in after if after[name] != before[name]} <= trained, "frozen layer groups have changed"
    clipped = sum(step.clipped for step in steps)
    record = {
        "name": f"stage {index + 1}",
        "steps": total_steps,
        "items": total_steps * config.batch.size,
        "seconds": round(time.monotonic() - started, 3),
        "trained": sorted(trained),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "metric": MAIN_METRIC[task],
        "clipped": clipped,
        "skipped": 0,
    }
    return replace(progress, step=progress.step + total_steps, stages=[*progress.stages, record])


def _swept_rate(
    run: Run, config: Config, model: nn.Module, optimizer: Optimizer, trainer_for: Callable[..., Trainer], *, seed: int
) -> float:
    """Sweep with a Trainer whose schedule rises, read its curve, and put everything back."""
    finder, steps = config.finder, []

    def on_log(step: Step) -> bool:
        steps.extend([step] if np.isfinite(step.loss) else [])
        return bool(np.isfinite(step.loss))

    with restored(model, optimizer, accelerator=run.accelerator):
        schedule = exponential(optimizer, start=finder.start, end=finder.end)
        trainer_for(schedule, finder.num_steps, seed + 1, on_log).train()
    found = read_curves([sweep(iter(steps), num_steps=finder.num_steps)])
    taken = chosen(found, finder.suggestion)
    if taken is None:
        raise ConfigError(f"the sweep found no rate: {found.refused}", column="optim.lr", hint="give one")
    run.say(f"rate: {found.suggestions[taken]:.1e} ({taken}, from a sweep inside Trainer)")
    return found.suggestions[taken]


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
