"""Fine-tune a pretrained transformer on labelled texts: sentiment, topics, several labels at once, or a number.

python scripts/finetune.py transformer_sentiment --data.train reviews.csv
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedTokenizerBase

from nlpbp.analysis.metrics import MAIN_METRIC, task_metrics
from nlpbp.core import schedules
from nlpbp.core.errors import ConfigError
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import classifier_loss, task_outputs
from nlpbp.core.optim import adamw
from nlpbp.data.order import evaluation_batches, steps_per_epoch, training_plan
from nlpbp.data.packaged import packaged_model
from nlpbp.text.batches import Encoded, batched_steps, collate, encode
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import length_limit, load_classifier, load_config, load_tokenizer
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.setup import Precision
from recipes.common import config as sections
from recipes.common.fit import Metrics, fit
from recipes.common.folder import CACHE, Run, open_run
from recipes.common.inputs import Inputs, load_inputs, targets_of, the_same_everywhere
from recipes.common.results import RunResult, decision_thresholds, finish

NAME = "transformer_sentiment"
LARGE_MODEL = 50_000_000  # parameters: above, fine-tuning wants a lower rate
DEFAULT_LR = {"small": 1e-4, "large": 3e-5}


@dataclass(frozen=True)
class Model:
    """The pretrained model."""

    name: str = "demo:minilm"
    """A folder saved by `save_pretrained`, a hub id, or `demo:minilm` (packaged: 6 layers, 22.7 million parameters)."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    compile: bool = False
    """Compile the model with `torch.compile`: pays on a GPU, seldom on a CPU."""


@dataclass(frozen=True)
class Config:
    """Fine-tune a pretrained transformer on labelled texts."""

    data: sections.Data = field(default_factory=sections.Data)
    model: Model = field(default_factory=Model)
    optim: sections.Optim = field(default_factory=sections.Optim)
    dropout: sections.Dropout = field(default_factory=sections.Dropout)
    batch: sections.Batch = field(default_factory=sections.Batch)
    checkpoint: sections.Checkpoints = field(default_factory=sections.Checkpoints)
    epochs: int = 3
    """Passes over the training data."""
    eval_steps: int | None = None
    """Evaluate every so many steps. Left out: at the end of each epoch."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a better validation score. Left out: never."""
    out: str | None = None
    """The run folder. Left out: runs/transformer_sentiment-1, -2, ..."""
    seed: int = 0
    """Of everything random: the head, the order, the dropout. The split of the data does not depend on it."""
    threads: int | None = None
    """CPU threads a process. Left out: all physical cores, shared among the processes of this machine."""
    precision: Precision = "auto"
    """Number format of the forward pass. auto: what accelerate is configured for, else bf16 where the hardware runs it fast."""
    track: str | None = None
    """Also log to this tracker of accelerate's (tensorboard, wandb, mlflow, ...)."""
    resume: str = "auto"
    """auto: go on with an unfinished run of the same settings and data in --out; never: do not; or the run folder to go on with."""
    push_to_hub: str | None = None
    """Send the finished model to this repository of the hub."""


def tiny() -> Config:
    """Return the seconds-long form: a BERT of a few thousand weights on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=32),
        model=Model(name="tiny:bert"),
        optim=sections.Optim(lr=1e-2, layer_decay=1.0),
        batch=sections.Batch(size=16),
        epochs=4,
    )


def run(config: Config) -> RunResult:
    """Fine-tune as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    sections.check_ranges(config)
    with open_run(NAME, config) as run:
        return _fine_tune(run, config)


def _fine_tune(run: Run, config: Config) -> RunResult:
    accelerator, optim = run.accelerator, config.optim
    inputs = the_same_everywhere(run, lambda: load_inputs(config.data))
    for note in inputs.notes:
        run.say(note)
    fields = inputs.fields

    name = model_path(config.model.name)
    tokenizer = load_tokenizer(name)
    model_config = load_config(name, task=fields.task, labels=fields.labels, dropout_scale=config.dropout.scale)
    max_length = check_length(config.data.max_length, limit=length_limit(model_config, tokenizer))
    model = load_classifier(
        name,
        config=model_config,
        tokenizer=tokenizer,
        gradient_checkpointing=config.model.gradient_checkpointing,
        compile=config.model.compile,
    )
    encoded = encode_parts(run, inputs, tokenizer=tokenizer, max_length=max_length)

    lr = optim.lr or DEFAULT_LR["large" if sum(p.numel() for p in model.parameters()) > LARGE_MODEL else "small"]
    groups = parameter_groups(
        layer_groups(model),
        lr=lr,
        head_lr=optim.head_lr,
        layer_decay=optim.layer_decay,
        weight_decay=optim.weight_decay,
        no_decay=no_decay_names(model),
    )
    run.say(f"rates: {lr:.1e} for the last layer and {groups[0]['lr']:.1e} for the first of {len(layer_groups(model))} groups")
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    model, optimizer = accelerator.prepare(model, adamw(groups, betas=optim.betas, eps=optim.eps))
    schedule = {"cosine": schedules.cosine, "linear": schedules.linear, "constant": schedules.constant}[optim.schedule]()

    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None)
    lengths = encoded["train"].lengths
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
        plan = evaluation_batches(encoded[part].lengths, max_tokens=config.batch.evaluation_tokens)
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
        base_model=config.model.name,
        max_length=max_length,
        push_to_hub=config.push_to_hub,
    )


def model_path(name: str) -> str:
    """Return the folder of a packaged model; any other name as it is."""
    if name == "demo:minilm":
        return str(packaged_model())
    return str(tiny_bert(CACHE / "tiny-bert")) if name == "tiny:bert" else name


def check_length(max_length: int, *, limit: int) -> int:
    """Raise `ConfigError` for texts longer than the model has positions."""
    if max_length > limit:
        raise ConfigError(
            f"{max_length} tokens are asked for, and the model reads {limit} tokens at most",
            column="data.max_length",
            hint=f"give {limit} or less",
        )
    return max_length


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
