"""The smallest and the largest value of every number in a config, checked before any work is done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from nlpbp.config.data import Data, Images, Texts
from nlpbp.core.errors import ConfigError

LIMITS: dict[str, tuple[float, float, str]] = {
    "epochs": (1, math.inf, "1 or more"),
    "min_steps": (0, math.inf, "0 or more"),
    "patience": (1, math.inf, "1 or more"),
    "eval_steps": (1, math.inf, "1 or more"),
    "threads": (1, math.inf, "1 or more"),
    "seed": (0, 2**32 - 1, "between 0 and 4294967295"),
    "data.fraction": (1e-9, 1.0, "above 0 and at most 1"),
    "data.eval_sample": (1, math.inf, "1 or more"),
    "data.train_fraction": (1e-9, 1.0, "above 0 and at most 1"),
    "data.validation_share": (1e-9, 0.9, "above 0 and at most 0.9"),
    "data.test_share": (0.0, 0.9, "between 0 and 0.9"),
    "data.max_length": (4, math.inf, "4 or more"),
    "optim.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "optim.head_lr": (1e-12, 10.0, "above 0 and at most 10"),
    "optim.layer_decay": (1e-3, 1.0, "above 0 and at most 1"),
    "optim.betas": (0.0, 0.999999, "between 0 and 1"),
    "optim.eps": (1e-16, 1.0, "above 0 and at most 1"),
    "optim.weight_decay": (0.0, 1.0, "between 0 and 1"),
    "optim.warmup_ratio": (0.0, 0.99, "at least 0 and below 1"),
    "optim.max_grad_norm": (1e-12, math.inf, "above 0"),
    "optim.label_smoothing": (0.0, 0.99, "at least 0 and below 1"),
    "optim.swa_start": (0.0, 1.0, "between 0 and 1"),
    "optim.ema_decay": (0.0, 0.999999, "at least 0 and below 1"),
    "optim.focal_gamma": (0.0, 10.0, "between 0 and 10"),
    "optim.asymmetric": (0.0, 10.0, "between 0 and 10"),
    "lm.ema_decay": (0.0, 0.999999, "at least 0 and below 1"),
    "cycles.num_cycles": (1, 1000, "between 1 and 1000"),
    "cycles.cycle_len": (1, math.inf, "1 or more"),
    "cycles.cycle_mult": (1, 10, "between 1 and 10"),
    "cycles.cycle_decay": (1e-6, 1.0, "above 0 and at most 1"),
    "finder.start": (1e-12, 10.0, "above 0 and at most 10"),
    "finder.end": (1e-12, 100.0, "above 0 and at most 100"),
    "finder.num_steps": (20, math.inf, "20 or more"),
    "finder.num_sweeps": (1, 100, "between 1 and 100"),
    "finder.stop_after_stage": (1, math.inf, "1 or more"),
    "data.value_range": (-1e12, 1e12, "between -1e12 and 1e12"),
    "stages.max_length": (4, math.inf, "4 or more"),
    "stages.batch_size": (1, math.inf, "1 or more"),
    "optim.group_ratio": (1.0, 1000.0, "between 1 and 1000"),
    "optim.momentum": (0.0, 0.999999, "between 0 and 1"),
    "stages.epochs": (1, math.inf, "1 or more"),
    "stages.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "stages.train_last": (1, math.inf, "1 or more"),
    "augment.mixup": (0.0, 100.0, "between 0 and 100"),
    "augment.share": (0.0, 0.9, "between 0 and 0.9"),
    "mlm.steps": (1, math.inf, "1 or more"),
    "mlm.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "lora.rank": (1, math.inf, "1 or more"),
    "lora.alpha": (1e-6, math.inf, "above 0"),
    "steps": (1, math.inf, "1 or more"),
    "block_size": (2, math.inf, "2 or more"),
    "tokenizer.vocab_size": (300, math.inf, "300 or more"),
    "lm.steps": (0, math.inf, "0 or more"),
    "lm.epochs": (1, math.inf, "1 or more"),
    "lm.lr": (1e-12, 10.0, "above 0 and at most 10"),
    "lm.layer_decay": (1e-3, 1.0, "above 0 and at most 1"),
    "lm.batch_size": (1, math.inf, "1 or more"),
    "lm.bptt": (2, math.inf, "2 or more"),
    "lm.dropout": (0.0, 1.99, "between 0 and 2"),
    "lm.momentum": (0.0, 0.999999, "between 0 and 1"),
    "lm.weight_decay": (0.0, 1.0, "between 0 and 1"),
    "lm.max_grad_norm": (1e-12, math.inf, "above 0"),
    "lm.sampled_softmax": (1, math.inf, "1 or more"),
    "lm.ar_alpha": (0.0, 1000.0, "between 0 and 1000"),
    "optim.ar_alpha": (0.0, 1000.0, "between 0 and 1000"),
    "lm.swa_start": (0.0, 1.0, "between 0 and 1"),
    "lm.tar_beta": (0.0, 1000.0, "between 0 and 1000"),
    "optim.tar_beta": (0.0, 1000.0, "between 0 and 1000"),
    "dropout.scale": (0.0, 9.99, "between 0 and 10"),
    "batch.size": (1, math.inf, "1 or more"),
    "batch.micro_batches": (1, math.inf, "1 or more"),
    "checkpoint.save_steps": (1, math.inf, "1 or more"),
    "checkpoint.save_seconds": (0.0, math.inf, "0 or more"),
    "checkpoint.save_total_limit": (2, math.inf, "2 or more"),
    "batch.evaluation_tokens": (16, math.inf, "16 or more"),
    "batch.evaluation_size": (1, math.inf, "1 or more"),
    "data.size": (4, 4096, "between 4 and 4096"),
    "data.max_pixels": (1, math.inf, "1 or more"),
    "stages.size": (4, 4096, "between 4 and 4096"),
    "augment.alpha": (1e-3, 100.0, "between 0.001 and 100"),
    "model.widths": (1, 4096, "between 1 and 4096"),
    "model.num_blocks": (1, 100, "between 1 and 100"),
    "model.head_dropout": (0.0, 0.99, "at least 0 and below 1"),
}
"""The smallest and largest value of each number in a config, and how to say it; None (left out) is always allowed."""


def check_limits(config: Any) -> None:
    """Raise `ConfigError` for the first number outside its range, before any work is done."""
    for name, value in _numbers(config, prefix=""):
        low, high, wanted = LIMITS.get(name, (-math.inf, math.inf, ""))
        if not low <= value <= high:
            raise ConfigError(f"{value} is out of range", column=name, hint=f"give a number {wanted}")
    _check_pairs(config)
    data = getattr(config, "data", None)
    if isinstance(data, Data | Images | Texts) and data.validation_share + data.test_share >= 1.0:
        raise ConfigError(
            f"{data.validation_share} and --data.test_share {data.test_share} leave nothing to train on",
            column="data.validation_share",
            hint="let them sum to less than 1",
        )


def _check_pairs(config: Any) -> None:
    """Raise `ConfigError` for settings that contradict each other, or that have no effect without another one."""
    optim, lm, finder, cycles = (getattr(config, name, None) for name in ("optim", "lm", "finder", "cycles"))
    rates = [getattr(section, "lr", None) for section in (optim, lm, *getattr(config, "stages", ()))]
    schedules = [getattr(section, "schedule", None) for section in (optim, lm)]
    usual = type(config)()
    if finder is not None and finder != usual.finder and "auto" not in rates:
        raise ConfigError(
            "has no effect unless a learning rate is auto", column="finder", hint="add --optim.lr auto, or leave it out"
        )
    if finder is not None and not finder.start < finder.end:
        raise ConfigError(f"{finder.start} is not below --finder.end {finder.end}", column="finder.start", hint="lower it")
    if cycles is not None and cycles != usual.cycles and "warm_restarts" not in schedules:
        raise ConfigError("has no effect under other schedules", column="cycles", hint="add --optim.schedule warm_restarts")
    if getattr(optim, "focal_gamma", 0.0) and getattr(optim, "label_smoothing", 0.0):
        raise ConfigError(
            "cannot be combined with label smoothing", column="optim.focal_gamma", hint="leave --optim.label_smoothing out"
        )
    asymmetric = getattr(optim, "asymmetric", None)
    for name in ("label_smoothing", "focal_gamma"):
        if asymmetric is not None and getattr(optim, name):
            raise ConfigError("cannot be combined with --optim.asymmetric", column=f"optim.{name}", hint="leave one of them out")
    if asymmetric is not None and asymmetric[2] >= 1.0:
        raise ConfigError(f"{asymmetric[2]} is no margin", column="optim.asymmetric", hint="give a last number below 1")
    bounds = getattr(getattr(config, "data", None), "value_range", None)
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ConfigError(f"{bounds[0]} is not below {bounds[1]}", column="data.value_range", hint="give the lowest value first")


def refuse_classifier_settings(config: Any) -> None:
    """Raise `ConfigError` where a language model is told what only a classifier does."""
    usual = type(config)()
    for section, name in (
        ("optim", "label_smoothing"),
        ("optim", "focal_gamma"),
        ("optim", "asymmetric"),
        ("optim", "class_weights"),
        ("optim", "probe"),
        ("model", "pooling"),
        ("cycles", "cycle_len"),
        ("cycles", "snapshots"),
    ):
        given = getattr(getattr(config, section, None), name, None)
        if given != getattr(getattr(usual, section, None), name, None):
            raise ConfigError("is for classifiers", column=f"{section}.{name}", hint="leave it out")
    if config.finder.stop_after_stage is not None and config.finder.stop_after_stage > 1:
        raise ConfigError(
            f"there is no stage {config.finder.stop_after_stage}", column="finder.stop_after_stage", hint="the run has 1"
        )


NOT_OF_A_FITTED_HEAD = (
    "optim.head_lr",
    "optim.label_smoothing",
    "optim.focal_gamma",
    "optim.asymmetric",
    "optim.class_weights",
    "optim.probe",
    "cycles.cycle_len",
    "cycles.snapshots",
    "finder.stop_after_stage",
    "data.balanced_sampling",
    "data.value_range",
    "augment",
)


def refuse_settings_of_stages(config: Any) -> None:
    """Raise `ConfigError` where a recipe whose head is fitted, not trained, is told how a classifier is trained in stages."""
    usual = type(config)()
    for name in NOT_OF_A_FITTED_HEAD:
        given, default = config, usual
        for part in name.split("."):
            given, default = getattr(given, part, None), getattr(default, part, None)
        if given != default:
            raise ConfigError("has no effect here: pairs are balanced, and the head is fitted", column=name, hint="leave it out")


def _numbers(config: Any, *, prefix: str) -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, prefix=f"{name}.")
        elif isinstance(value, tuple):
            yield from (pair for item in value if dataclasses.is_dataclass(item) for pair in _numbers(item, prefix=f"{name}."))
            yield from ((name, item) for item in value if isinstance(item, int | float))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
