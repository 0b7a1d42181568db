"""What every recipe that trains a classifier does in the same way, from a model and its optimizer to the finished run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import ConfigError
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import LayerGroup, layer_groups
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import classifier_loss, task_outputs
from nlpbp.core.schedules import Schedule
from nlpbp.data.order import Ints, evaluation_batches, micro_seed, steps_per_epoch, training_plan
from nlpbp.text.batches import Encoded, batched_steps, collate, encode
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step, train_steps
from recipes.common import config as sections
from recipes.common.fit import Metrics, Progress, Stage, fit
from recipes.common.folder import CACHE, Run
from recipes.common.inputs import Inputs, Loaded, targets_of
from recipes.common.results import RunResult, decision_thresholds, finish

MAX_UNKNOWN = 0.1  # share of tokens; a language that the tokenizer was made for has hardly any


class ClassifierConfig(Protocol):
    """The fields of a Config that every training of a classifier needs."""

    @property
    def data(self) -> sections.Data: ...  # noqa: D102
    @property
    def batch(self) -> sections.Batch: ...  # noqa: D102
    @property
    def checkpoint(self) -> sections.Checkpoints: ...  # noqa: D102
    @property
    def eval_steps(self) -> int | None: ...  # noqa: D102
    @property
    def patience(self) -> int | None: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def push_to_hub(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True)
class Training:
    """One stage of a classifier's training: how long, what trains, and how it is optimised.

    `make_optimizer` is given the model's layer groups, frozen ones included; it sets each group's base rate. `train_last` counts
    layer groups from the head; None trains all. `momentum` gives values of Adam's first beta, `average_from` is as in `fit`.
    """

    epochs: int
    make_optimizer: Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]
    schedule: Schedule
    momentum: Schedule | None = None
    train_last: int | None = None
    average_from: float = 1.0
    name: str = "training"


def train_classifier(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    *,
    model: nn.Module,
    trainings: Sequence[Training],
    max_grad_norm: float | None,
    label_smoothing: float,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Mapping[str, Encoded],
    base_model: str,
    max_length: int,
    names: Mapping[str, str] | None = None,
    before: Progress | None = None,
    first_stage: int = 0,
) -> RunResult:
    """Train `model` on the training part, choose by the validation part, score the test part once, and save everything.

    `trainings` are run one after the other, each from the weights that the one before ended with; the best weights of all are
    kept. `encoded` is by part, as `encode_parts` makes it; `base_model` is for the model's card. `first_stage` is not
    0 where the run has made something else before, a language model for instance; `before` is how that ended, unless a later
    stage has left it behind, and `names` what checkpoints of all stages belong to.
    """
    accelerator, fields = run.accelerator, inputs.fields
    num_micro_batches, per_epoch = epoch_of(run, config, encoded["train"])
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None)
    lengths = encoded["train"].padded_lengths
    progress = before or Progress(num_micro_batches)
    trained, optimizer = model, None

    def outputs_of(part: str, model: nn.Module) -> np.ndarray[Any, Any]:
        plan = evaluation_batches(encoded[part].padded_lengths, max_tokens=config.batch.evaluation_tokens)
        make_batch = partial(collate, encoded[part], tokenizer=tokenizer)
        logits = predict(model, plan, make_batch, accelerator=accelerator).logits
        return task_outputs(torch.from_numpy(logits), task=fields.task).numpy()

    def evaluate() -> Metrics:
        outputs = outputs_of("validation", trained) * scale + shift
        thresholds = decision_thresholds(inputs, outputs)
        return task_metrics(fields.task, targets_of(inputs.validation), outputs, thresholds=thresholds)

    for index, training in enumerate(trainings):
        groups = layer_groups(accelerator.unwrap_model(trained))
        freeze(groups, train_last=training.train_last)
        trained, optimizer = prepare_again(accelerator, trained, training.make_optimizer(model, groups))
        later = sum(other.epochs for other in trainings[index + 1 :]) * per_epoch
        make_steps = partial(
            _steps,
            trained,
            optimizer,
            training,
            batches=partial(batched_steps, encoded=encoded["train"], tokenizer=tokenizer, labels=targets),
            plan=partial(training_plan, lengths, size=config.batch.size, min_size=num_micro_batches, epochs=training.epochs),
            accelerator=accelerator,
            loss_fn=classifier_loss(task=fields.task, label_smoothing=label_smoothing),
            total_steps=per_epoch * training.epochs,
            max_grad_norm=max_grad_norm,
            seed=stage_seed(config.seed, first_stage + index),
        )
        alone = len(trainings) == 1 and first_stage == 0
        ended = fit(
            run,
            make_steps,
            model=trained,
            optimizer=optimizer,
            groups=groups,
            evaluate=evaluate,
            metric=MAIN_METRIC[fields.task],
            total_steps=per_epoch * training.epochs,
            steps_per_epoch=per_epoch,
            identity=names or identity(inputs, tokenizer),
            checkpoints=config.checkpoint,
            references=inputs.train.examples.references,
            before=progress,
            stage=Stage()
            if alone
            else Stage(training.name, first_stage + index, later, new_metric=index == 0, keep_last=later > 0),
            allow_data_change=config.data.allow_change,
            eval_steps=config.eval_steps,
            patience=config.patience,
            average_from=training.average_from,
        )
        progress = ended or progress
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fold_affine_(output, scale=scale, shift=shift)
    final = as_saved(accelerator, trained)
    return finish(
        run,
        inputs,
        progress,
        model=trained,
        tokenizer=tokenizer,
        outputs={part: outputs_of(part, final) for part in inputs.scored},
        base_model=base_model,
        max_length=max_length,
        push_to_hub=config.push_to_hub,
    )


def _steps(
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
    total_steps: int,
    max_grad_norm: float | None,
    seed: int,
) -> Iterator[Step]:
    """Go through the rest of a stage from `first_step` on."""
    mine = plan(
        num_micro_batches=num_micro_batches,
        seed=seed,
        first_step=first_step,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    return train_steps(
        model,
        batches(mine),
        optimizer,
        accelerator=accelerator,
        loss_fn=loss_fn,
        schedule=training.schedule,
        momentum=training.momentum,
        total_steps=total_steps,
        first_step=first_step,
        max_grad_norm=max_grad_norm,
        seed=seed,
    )


def stage_seed(seed: int, stage: int) -> int:
    """Return the seed of a stage's order and dropout; the first stage's is the run's own.

    >>> stage_seed(7, 0), stage_seed(7, 1) != stage_seed(7, 2)
    (7, True)
    """
    return seed if stage == 0 else micro_seed(seed, stage, 0)


def freeze(groups: Sequence[LayerGroup], *, train_last: int | None) -> None:
    """Let the last `train_last` groups train; too many of them are the user's mistake."""
    try:
        freeze_to(groups, train_last=train_last)
    except ValueError as error:
        names = ", ".join(group.name for group in groups)
        raise ConfigError(str(error), column="stages", hint=f"the groups are {names}") from error


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


def epoch_of(run: Run, config: ClassifierConfig, encoded: Encoded) -> tuple[int, int]:
    """Return the number of micro-batches a step, and of steps an epoch.

    A step has so many examples at least, whatever it is split into later: were the steps to change, so would the result.
    """
    num = check_micro_batches(run, config.batch.micro_batches, num_examples=len(encoded), size=config.batch.size)
    return num, steps_per_epoch(encoded.padded_lengths, size=config.batch.size, min_size=num)


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
    share = _unknown_share(encoded["train"], tokenizer, pair=inputs.train.examples.pairs is not None)
    if share > MAX_UNKNOWN:
        run.say(
            f"warning: the tokenizer does not know {share:.0%} of the training tokens, so the model cannot tell them apart; "
            "choose a model or a tokenizer that was made for this language or these signs"
        )
    return encoded


def _unknown_share(encoded: Encoded, tokenizer: PreTrainedTokenizerBase, *, pair: bool) -> float:
    """Return the share of unknown tokens among those that stand for text: all but the special ones at the ends."""
    if tokenizer.unk_token_id is None:
        return 0.0
    num_special = tokenizer.num_special_tokens_to_add(pair=pair) * len(encoded)
    return float((encoded.tokens == tokenizer.unk_token_id).sum() / max(1, len(encoded.tokens) - num_special))


def identity(loaded: Loaded, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Name what a checkpoint of this run belongs to, beside its settings."""
    return {
        "data": loaded.fingerprint,
        "labels": json.dumps(loaded.labels),
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16],
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
