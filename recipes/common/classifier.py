"""What every recipe that trains a classifier does in the same way, from a model and its optimizer to the finished run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from nlpbp.analysis.metrics import MAIN_METRIC, task_metrics
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import EXIT_PREEMPTED, ConfigError
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import LayerGroup, layer_groups
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import classifier_loss, looks_normalised, task_outputs
from nlpbp.core.schedules import Schedule
from nlpbp.data.order import Ints, evaluation_batches, micro_seed, steps_per_epoch, training_plan
from nlpbp.text.augment import NEGATIONS, POLICIES, Augment, augmented_steps, label_words, read_synonyms
from nlpbp.text.batches import Encoded, batched_steps, collate, encode
from nlpbp.text.frozen_cache import FrozenCache, frozen_cache
from nlpbp.text.mixup import mixup_loss
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Step, train_steps
from nlpbp.train.lr_finder import MakeSweep
from nlpbp.train.signals import Stopped
from nlpbp.train.weights import full_state
from recipes.common import config as sections
from recipes.common.diagnosis import calibration_line, calibration_record, error_record
from recipes.common.finder import SWEEP, found_rate
from recipes.common.fit import Metrics, Progress, Stage, fit
from recipes.common.folder import CACHE, Run
from recipes.common.inputs import Inputs, Loaded, Part, targets_of
from recipes.common.results import RunResult, decision_thresholds, finish, save_model
from recipes.common.targets import check_regression, classes_to_balance, outside_range, standardised, weights_of_classes

SNAPSHOT_CARD = "A snapshot at the end of a cycle of warm restarts, made by nlpbp on the way to the model.\n"
MAX_UNKNOWN = 0.1  # share of tokens; a language that the tokenizer was made for has hardly any


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
    def data(self) -> sections.Data: ...  # noqa: D102
    @property
    def batch(self) -> sections.Batch: ...  # noqa: D102
    @property
    def optim(self) -> ClassifierOptim: ...  # noqa: D102
    @property
    def augment(self) -> sections.Augment: ...  # noqa: D102
    @property
    def finder(self) -> sections.Finder: ...  # noqa: D102
    @property
    def checkpoint(self) -> sections.Checkpoints: ...  # noqa: D102
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


@dataclass(frozen=True)
class Training:
    """One stage of a classifier's training: how long, what trains, on what, and how it is optimised.

    `make_optimizer` is given the model's layer groups, frozen ones included; it sets each group's base rate, which a sweep scales
    where `sweep` is set. `train_last` counts layer groups from the head; None trains all. `momentum` gives values of Adam's first
    beta, `average_from` and `ema` are as in `fit`. `max_length` and `batch_size` are the config's own where they are None.
    `snapshots` tells, from the number of steps, after which of them the model is kept.
    """

    epochs: int
    make_optimizer: Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]
    schedule: Schedule
    momentum: Schedule | None = None
    sweep: bool = False
    train_last: int | None = None
    max_length: int | None = None
    batch_size: int | None = None
    cache_frozen: bool = False
    average_from: float = 1.0
    ema: float | None = None
    snapshots: Callable[[int], Sequence[int]] = lambda total_steps: ()
    name: str = "training"


@dataclass(frozen=True)
class _Work:
    """The texts of a stage, and how many steps they make."""

    encoded: Encoded
    max_length: int
    size: int
    per_epoch: int
    total_steps: int


def train_classifier(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    *,
    model: nn.Module,
    trainings: Sequence[Training],
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
    accelerator, fields, optim = run.accelerator, inputs.fields, config.optim
    check_regression(fields.task, optim)
    num_stages = first_stage + len(trainings)
    if config.finder.only is not None and config.finder.only > num_stages:
        raise ConfigError(f"there is no stage {config.finder.only}", column="finder.only", hint=f"the run has {num_stages}")
    if config.calibrate and fields.task == "regression":
        raise ConfigError("a number to predict has no probability", column="calibrate", hint="leave it out")
    num_micro_batches, _ = epoch_of(run, config, inputs, encoded["train"])
    works = [_work(run, config, inputs, training, encoded["train"], tokenizer, max_length) for training in trainings]
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    value_range = outside_range(model, config.data.value_range)
    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None, value_range=config.data.value_range)
    augment = augmentation(config.augment, inputs, tokenizer)
    progress = before or Progress(num_micro_batches)
    trained, optimizer = model, None
    loss_fn = classifier_loss(
        task=fields.task,
        label_smoothing=optim.label_smoothing,
        class_weights=weights_of_classes(inputs, optim.class_weights, device=accelerator.device),
        focal_gamma=optim.focal,
        value_range=value_range,
    )
    if config.augment.mixup:
        refuse_mixup_of_recurrent(model)
        loss_fn = mixup_loss(loss_fn, alpha=config.augment.mixup)

    def logits_of(texts: Encoded, model: nn.Module) -> torch.Tensor:
        plan = evaluation_batches(texts.padded_lengths, max_tokens=config.batch.evaluation_tokens)
        made = predict(model, plan, partial(collate, texts, tokenizer=tokenizer), accelerator=accelerator)
        return torch.from_numpy(made.logits)

    def outputs_of(texts: Encoded, model: nn.Module) -> np.ndarray[Any, Any]:
        logits = logits_of(texts, model)
        if fields.task == "single_label" and looks_normalised(logits):
            run.say("warning: the model's outputs are probabilities already, and its loss takes them for logits (practice A1)")
        return task_outputs(logits, task=fields.task, value_range=value_range).numpy()

    def answer(texts: list[str], pairs: list[str] | None) -> np.ndarray[Any, Any]:
        logits = logits_of(encode(texts, pairs, tokenizer=tokenizer, max_length=max_length), as_saved(accelerator, trained))
        return task_outputs(logits, task=fields.task).numpy()

    def evaluate() -> Metrics:
        outputs = outputs_of(encoded["validation"], trained) * scale + shift
        thresholds = decision_thresholds(inputs, outputs)
        return task_metrics(fields.task, targets_of(inputs.validation), outputs, thresholds=thresholds)

    def batches(plan: Iterator[list[Ints]], *, work: _Work, first_step: int, seed: int) -> Iterator[list[Batch]]:
        if augment is None:
            return batched_steps(plan, work.encoded, tokenizer=tokenizer, labels=targets)
        return augmented_steps(
            plan,
            inputs.train.examples.texts,
            inputs.train.examples.pairs,
            augment=augment,
            tokenizer=tokenizer,
            max_length=work.max_length,
            labels=targets,
            seed=seed,
            first_step=first_step,
        )

    def save_snapshot(number: int) -> None:
        state = folded(trained, full_state(trained), output, scale=scale, shift=shift)
        failure: list[str | None] = [None]
        if accelerator.is_main_process:
            folder = run.out / "snapshots"
            try:
                if number == 1:  # what an earlier stage has left are not of this one's cycles
                    shutil.rmtree(folder, ignore_errors=True)
                plain = accelerator.unwrap_model(trained)
                save_model(plain, tokenizer, state, folder=folder / str(number), card=SNAPSHOT_CARD, max_length=max_length)
            except OSError as error:
                failure = [str(error)]
        broadcast_object_list(failure)
        if failure[0]:
            raise Stopped(f"a snapshot could not be written ({failure[0]})", code=EXIT_PREEMPTED)

    for index, (training, work) in enumerate(zip(trainings, works, strict=True)):
        groups = layer_groups(accelerator.unwrap_model(trained))
        freeze(groups, train_last=training.train_last)
        trained, optimizer = prepare_again(accelerator, trained, training.make_optimizer(model, groups))
        plan = partial(
            training_plan,
            work.encoded.padded_lengths,
            size=work.size,
            min_size=num_micro_batches,
            targets=classes_to_balance(inputs, config.data),
        )
        cached = cache_of(model, training)
        make_steps = partial(
            _steps,
            trained,
            optimizer,
            batches=partial(batches, work=work),
            plan=plan,
            accelerator=accelerator,
            loss_fn=loss_fn if cached is None else cached.loss_fn(loss_fn),
            max_grad_norm=optim.max_grad_norm,
        )
        later = sum(other.total_steps for other in works[index + 1 :])
        is_alone = len(trainings) == 1 and first_stage == 0
        stage = Stage()
        if not is_alone:
            stage = Stage(training.name, first_stage + index, later, new_metric=index == 0, keep_last=later > 0)
        seed = stage_seed(config.seed, stage.index)
        ended = fit(
            run,
            partial(make_steps, training, epochs=training.epochs, total_steps=work.total_steps, seed=seed),
            model=trained,
            optimizer=optimizer,
            groups=groups,
            evaluate=evaluate,
            metric=MAIN_METRIC[fields.task],
            total_steps=work.total_steps,
            steps_per_epoch=work.per_epoch,
            identity=names or identity(inputs, tokenizer),
            checkpoints=config.checkpoint,
            references=inputs.train.examples.references,
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
            )
            if training.sweep
            else None,
            snapshots=training.snapshots(work.total_steps),
            save_snapshot=save_snapshot,
        )
        progress = ended or progress
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    fold_affine_(output, scale=scale, shift=shift)
    final = as_saved(accelerator, trained)
    records = {}
    if fields.task != "regression":
        records["calibration.json"] = calibration_record(
            inputs, logits_of(encoded["validation"], final).numpy(), wanted=config.calibrate
        )
        if config.calibrate:
            run.say(calibration_line(records["calibration.json"]))
        if records["calibration.json"]["applied"]:
            fold_affine_(output, scale=1 / records["calibration.json"]["temperature"], shift=0.0)
    outputs = {part: outputs_of(encoded[part], final) for part in inputs.scored}
    if fields.task != "regression":
        records["errors.json"] = error_record(
            inputs,
            outputs["validation"],
            encoded["validation"],
            tokenizer=tokenizer,
            max_length=max_length,
            answer=answer,
        )
    return finish(
        run,
        inputs,
        progress,
        model=trained,
        tokenizer=tokenizer,
        outputs=outputs,
        base_model=base_model,
        max_length=max_length,
        records=records,
        push_to_hub=config.push_to_hub,
    )


def _work(
    run: Run,
    config: ClassifierConfig,
    inputs: Inputs,
    training: Training,
    encoded: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> _Work:
    """Prepare the training texts of a stage: as they are, or cut to a length of its own."""
    if training.cache_frozen and config.augment.policy is not None:
        raise ConfigError(
            "keeps what texts that change gave", column="stages.cache_frozen", hint="leave it or --augment.policy out"
        )
    if training.max_length is not None:
        max_length = training.max_length
        encoded = encode_part(run, "train", inputs.train, tokenizer=tokenizer, max_length=max_length)
    size = training.batch_size or config.batch.size
    _, per_epoch = epoch_of(run, config, inputs, encoded, size=size)
    return _Work(encoded, max_length, size, per_epoch, per_epoch * training.epochs)


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


def stage_seed(seed: int, stage: int) -> int:
    """Return the seed of a stage's order and dropout; the first stage's is the run's own.

    >>> stage_seed(7, 0), stage_seed(7, 1) != stage_seed(7, 2)
    (7, True)
    """
    return seed if stage == 0 else micro_seed(seed, stage, 0)


def augmentation(wanted: sections.Augment, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> Augment | None:
    """Return what may be done to the training texts; None where no policy is named. Words of the labels' names are protected."""
    if wanted.policy is None:
        if wanted.synonyms or wanted.protect:
            name = "synonyms" if wanted.synonyms else "protect"
            raise ConfigError("has no effect without a policy", column=f"augment.{name}", hint="add --augment.policy sentiment")
        return None
    return Augment(
        POLICIES[wanted.policy],
        share=wanted.share,
        protected=NEGATIONS | label_words(inputs.fields.labels) | {word.casefold() for word in wanted.protect},
        synonyms=read_synonyms(wanted.synonyms) if wanted.synonyms else {},
        mask=tokenizer.mask_token or tokenizer.unk_token or "",
    )


def refuse_mixup_of_recurrent(model: nn.Module) -> None:
    """Raise `ConfigError` for a recurrent model, which drops words of its embedding without calling the layer."""
    config: Any = model.config
    if config.model_type == "awd_lstm":
        raise ConfigError("is for transformers", column="augment.mixup", hint="leave it out")


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


def epoch_of(run: Run, config: ClassifierConfig, inputs: Inputs, encoded: Encoded, *, size: int | None = None) -> tuple[int, int]:
    """Return the number of micro-batches a step, and of steps an epoch.

    A step has so many examples at least, whatever it is split into later: were the steps to change, so would the result.
    """
    size = size or config.batch.size
    num = check_micro_batches(run, config.batch.micro_batches, num_examples=len(encoded), size=size)
    balanced = classes_to_balance(inputs, config.data)
    return num, steps_per_epoch(encoded.padded_lengths, size=size, min_size=num, targets=balanced)


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
    encoded = {
        name: encode_part(run, name, part, tokenizer=tokenizer, max_length=max_length)
        for name, part in {"train": inputs.train, **inputs.scored}.items()
    }
    share = _unknown_share(encoded["train"], tokenizer, pair=inputs.train.examples.pairs is not None)
    if share > MAX_UNKNOWN:
        run.say(
            f"warning: the tokenizer does not know {share:.0%} of the training tokens, so the model cannot tell them apart; "
            "choose a model or a tokenizer that was made for this language or these signs"
        )
    return encoded


def encode_part(run: Run, name: str, part: Part, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Tokenize one part, and say what was cut off."""
    with run.accelerator.main_process_first():
        encoded = encode(
            part.examples.texts,
            part.examples.pairs,
            tokenizer=tokenizer,
            max_length=max_length,
            cache=CACHE / "tokens",
            show_progress=run.accelerator.is_main_process,
        )
    if cut := len(encoded.truncated):
        share = f"{cut:,} of {len(part):,} texts ({cut / len(part):.1%})"
        run.say(f"{name}: {share} are cut to {max_length} tokens (--data.max_length)")
    for index in encoded.clipped[:3]:
        run.say(f"{part.examples.references[index]}: very long; only its beginning was tokenized")
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
