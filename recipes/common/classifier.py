"""What every recipe that trains a classifier does in the same way, from a model and its optimizer to the finished run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from nlpbp.analysis.metrics import MAIN_METRIC, task_metrics
from nlpbp.core import schedules
from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import classifier_loss, task_outputs
from nlpbp.data.order import evaluation_batches, steps_per_epoch, training_plan
from nlpbp.text.batches import Encoded, batched_steps, collate, encode
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step, train_steps
from recipes.common import config as sections
from recipes.common.fit import Metrics, fit
from recipes.common.folder import CACHE, Run
from recipes.common.inputs import Inputs, targets_of
from recipes.common.results import RunResult, decision_thresholds, finish


class ClassifierConfig(Protocol):
    """The fields of a Config that say how a classifier is trained."""

    @property
    def data(self) -> sections.Data: ...  # noqa: D102
    @property
    def optim(self) -> sections.Optim: ...  # noqa: D102
    @property
    def batch(self) -> sections.Batch: ...  # noqa: D102
    @property
    def checkpoint(self) -> sections.Checkpoints: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def eval_steps(self) -> int | None: ...  # noqa: D102
    @property
    def patience(self) -> int | None: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def push_to_hub(self) -> str | None: ...  # noqa: D102


def train_classifier(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Mapping[str, Encoded],
    base_model: str,
    max_length: int,
) -> RunResult:
    """Train `model` on the training part, choose by the validation part, score the test part once, and save everything.

    `optimizer` holds base rates; `encoded` is by part, as `encode_parts` makes it; `base_model` is for the model's card.
    """
    accelerator, optim, fields = run.accelerator, config.optim, inputs.fields
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    model, optimizer = accelerator.prepare(model, optimizer)
    schedule = {"cosine": schedules.cosine, "linear": schedules.linear, "constant": schedules.constant}[optim.schedule]()

    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None)
    lengths = encoded["train"].padded_lengths
    num_micro_batches = check_micro_batches(config.batch, num_processes=accelerator.num_processes, num_examples=len(lengths))
    min_size = num_micro_batches  # fixed: were it to follow a later split, the steps themselves would change
    per_epoch = steps_per_epoch(lengths, size=config.batch.size, min_size=min_size)

    def make_steps(first_step: int, num_micro_batches: int) -> Iterator[Step]:
        plan = training_plan(
            lengths,
            size=config.batch.size,
            num_micro_batches=num_micro_batches,
            min_size=min_size,
            epochs=config.epochs,
            seed=config.seed,
            first_step=first_step,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        return train_steps(
            model,
            batched_steps(plan, encoded["train"], tokenizer=tokenizer, labels=targets),
            optimizer,
            accelerator=accelerator,
            loss_fn=classifier_loss(task=fields.task, label_smoothing=optim.label_smoothing),
            schedule=schedules.warm_up(schedule, share=optim.warmup),
            total_steps=per_epoch * config.epochs,
            first_step=first_step,
            max_grad_norm=optim.max_grad_norm,
            seed=config.seed,
        )

    def outputs_of(part: str, model: nn.Module = model) -> np.ndarray[Any, Any]:
        plan = evaluation_batches(encoded[part].padded_lengths, max_tokens=config.batch.evaluation_tokens)
        make_batch = partial(collate, encoded[part], tokenizer=tokenizer)
        logits = predict(model, plan, make_batch, accelerator=accelerator).logits
        return task_outputs(torch.from_numpy(logits), task=fields.task).numpy()

    def evaluate() -> Metrics:
        outputs = outputs_of("validation") * scale + shift
        thresholds = decision_thresholds(inputs, outputs)
        return task_metrics(fields.task, targets_of(inputs.validation), outputs, thresholds=thresholds)

    progress = fit(
        run,
        make_steps,
        model=model,
        optimizer=optimizer,
        evaluate=evaluate,
        metric=MAIN_METRIC[fields.task],
        total_steps=per_epoch * config.epochs,
        steps_per_epoch=per_epoch,
        num_micro_batches=num_micro_batches,
        identity=identity(inputs, tokenizer, optimizer),
        checkpoints=config.checkpoint,
        references=inputs.train.examples.references,
        allow_data_change=config.data.allow_change,
        eval_steps=config.eval_steps,
        patience=config.patience,
    )
    fold_affine_(output, scale=scale, shift=shift)
    final = as_saved(accelerator, model)
    return finish(
        run,
        inputs,
        progress,
        model=model,
        tokenizer=tokenizer,
        outputs={part: outputs_of(part, final) for part in inputs.scored},
        base_model=base_model,
        max_length=max_length,
        push_to_hub=config.push_to_hub,
    )


def check_micro_batches(batch: sections.Batch, *, num_processes: int, num_examples: int) -> int:
    """Return the number of micro-batches a step, which every process must get the same share of."""
    num = batch.micro_batches or num_processes
    if num % num_processes:
        raise ConfigError(
            f"{num} micro-batches cannot be shared among {num_processes} processes",
            column="batch.micro_batches",
            hint=f"give a multiple of {num_processes}",
        )
    if num > min(batch.size, num_examples):
        raise ConfigError(
            f"a step of {min(batch.size, num_examples)} examples cannot fill {num} micro-batches",
            column="batch.micro_batches",
            hint="give fewer, or a larger --batch.size",
        )
    return num


def encode_parts(run: Run, inputs: Inputs, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Encoded]:
    """Tokenize every part (the main process first, the others from its cache), and say what was cut off."""
    encoded = {}
    for name, part in {"train": inputs.train, **inputs.scored}.items():
        with run.accelerator.main_process_first():
            encoded[name] = encode(
                part.examples.texts,
                part.examples.pairs,
                tokenizer=tokenizer,
                max_length=max_length,
                cache=CACHE / "tokens",
                show_progress=run.accelerator.is_main_process,
            )
        if cut := len(encoded[name].truncated):
            run.say(
                f"{name}: {cut:,} of {len(part):,} texts ({cut / len(part):.1%}) are cut to {max_length} tokens (--data.max_length)"
            )
        for index in encoded[name].clipped[:3]:
            run.say(f"{part.examples.references[index]}: very long; only its beginning was tokenized")
    return encoded


def identity(inputs: Inputs, tokenizer: PreTrainedTokenizerBase, optimizer: Any) -> dict[str, str]:
    """Name what a checkpoint of this run belongs to, beside its settings."""
    return {
        "data": inputs.fingerprint,
        "labels": json.dumps(inputs.fields.labels),
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16],
        "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__,
    }


def standardised(inputs: Inputs, *, can_shift: bool) -> tuple[np.ndarray[Any, Any], float, float]:
    """Return the training targets, with the scale and shift that turn outputs back: real values train at mean 0, deviation 1."""
    targets = targets_of(inputs.train)
    if inputs.fields.task != "regression":
        return targets, 1.0, 0.0
    scale = float(targets.std()) or 1.0
    shift = float(targets.mean()) if can_shift else 0.0
    return ((targets - shift) / scale).astype(np.float32), scale, shift


def as_saved(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Return the model as whoever loads it will run it, in fp32; a sharded model can only run as it is."""
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return model
    return accelerator.unwrap_model(model, keep_fp32_wrapper=False)
