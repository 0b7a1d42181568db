"""What a classifier is trained towards: its targets, their range, and how much each class counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.core.layers import widened
from nlpbp.core.losses import balanced_class_weights
from nlpbp.data.order import Ints
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.windows import of_windows


def standardised(
    inputs: Inputs, *, can_shift: bool, value_range: tuple[float, float] | None
) -> tuple[np.ndarray[Any, Any], float, float]:
    """Return the training targets, with the scale and shift that turn outputs back: real values train at mean 0, deviation 1.

    Values of a known range stay as they are, for the model answers within it; one outside raises `DataError`.
    """
    targets = targets_of(inputs.train)
    if inputs.fields.task != "regression":
        if value_range is not None:
            raise ConfigError(
                f"is for numbers, and the task is {inputs.fields.task}", column="data.value_range", hint="leave it out"
            )
        return targets, 1.0, 0.0
    if value_range is not None:
        for part in (inputs.train, *inputs.scored.values()):
            outside = np.flatnonzero((targets_of(part) < value_range[0]) | (targets_of(part) > value_range[1]))
            if len(outside):
                raise DataError(
                    f"{part.examples.references[outside[0]]}: {targets_of(part)[outside[0]]} is outside the range {value_range}",
                    column=inputs.fields.label,
                    hint="widen --data.value_range, or repair the value",
                )
        return targets.astype(np.float32), 1.0, 0.0
    scale = float(targets.std()) or 1.0
    shift = float(targets.mean()) if can_shift else 0.0
    return ((targets - shift) / scale).astype(np.float32), scale, shift


def check_regression(task: str, optim: Any) -> None:
    """Refuse what is for labels where a number is predicted."""
    for name in ("label_smoothing", "focal", "class_weights"):
        if task == "regression" and getattr(optim, name):
            raise ConfigError("a number to predict has no labels", column=f"optim.{name}", hint="leave it out")


def outside_range(model: nn.Module, value_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Tell the model the range of its answers, wider than the targets'; return it where the model does not keep to it by itself.

    A recurrent classifier's head does. A transformer's answers come out of `pipeline` without it: it stands in the model's config
    as `value_range`, for who applies the scaled sigmoid outside, as `predict.py` does.
    """
    config: Any = model.config
    if config.model_type == "awd_lstm":
        return None
    config.value_range = None if value_range is None else list(widened(*value_range))  # never that of a model it began with
    return None if value_range is None else widened(*value_range)


def weights_of_classes(inputs: Inputs, wanted: str | None, *, device: torch.device) -> torch.Tensor | None:
    """Return a weight for each label, from how frequent it is among the training examples; None: all count the same."""
    if wanted is None:
        return None
    task = inputs.fields.task
    targets = torch.from_numpy(targets_of(inputs.train))
    return balanced_class_weights(targets, num_labels=len(inputs.fields.labels), task=task).to(device)


def classes_to_balance(inputs: Inputs, data: sections.Data | sections.Images, owners: Ints | None) -> Ints | None:
    """Return the classes of the training examples, or of their windows, where each is to be drawn equally often."""
    if not data.balance:
        return None
    if inputs.fields.task != "single_label":
        raise ConfigError(
            f"needs one label an example, and the task is {inputs.fields.task}", column="data.balance", hint="leave it out"
        )
    classes: Ints = of_windows(targets_of(inputs.train), owners)
    return classes


def loss_of_chance(inputs: Inputs) -> float:
    """Return the cross-entropy of answering every training example with the shares of the labels; of numbers there is none."""
    targets = targets_of(inputs.train)
    if inputs.fields.task == "regression":
        return math.inf
    if inputs.fields.task == "single_label":
        return float(torch.special.entr(torch.from_numpy(np.bincount(targets) / len(targets))).sum())
    shares = torch.from_numpy(targets.mean(axis=0))
    return float((torch.special.entr(shares) + torch.special.entr(1.0 - shares)).mean())
