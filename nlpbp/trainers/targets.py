"""What a classifier is trained towards: its targets, their range, and how much each class counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nlpbp.config import ClassifierSettings
from nlpbp.core.batch import LossFn
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.core.layers import output_layer, widened
from nlpbp.core.losses import balanced_class_weights
from nlpbp.data.order import Ints
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.windows import of_windows
from nlpbp.runs.folder import Run
from nlpbp.tasks import classifier_loss, get_task
from nlpbp.tasks.outputs import Penalty
from nlpbp.tasks.task import Array


@dataclass(frozen=True)
class Objective:
    """What the model is trained towards: its targets, its loss, and what turns its outputs into answers.

    The `output` layer answers `scale * y + shift` once it is folded, where it answers y in training. `value_range` is applied
    outside the model, where it does not keep to it by itself.
    """

    output: nn.Linear
    targets: np.ndarray[Any, Any]
    scale: float
    shift: float
    value_range: tuple[float, float] | None
    loss_fn: LossFn


def make_objective(
    run: Run[ClassifierSettings],
    inputs: Inputs,
    model: nn.Module,
    *,
    mix: Callable[[LossFn], LossFn],
    penalty: Penalty | None = None,
) -> Objective:
    """Make targets and loss from the training set and what the settings want of them.

    `mix` puts mixup around the loss; `penalty` is on what the model returns in training.
    """
    fields, optim, value_range = inputs.fields, run.settings.optim, run.settings.data.value_range
    output = output_layer(model, num_outputs=max(1, len(fields.labels)))
    outside = outside_range(model, value_range)
    targets, scale, shift = standardised(inputs, can_shift=output.bias is not None, value_range=value_range)
    begin_with_constant_(output, initial_bias(run.settings, inputs))
    loss_fn = classifier_loss(
        task=fields.task,
        label_smoothing=optim.label_smoothing,
        class_weights=weights_of_classes(inputs, optim.class_weights, device=run.accelerator.device),
        focal_gamma=optim.focal_gamma,
        asymmetric=optim.asymmetric,
        value_range=outside,
        penalty=penalty,
    )
    return Objective(output, targets, scale, shift, outside, mix(loss_fn))


def initial_bias(settings: ClassifierSettings, inputs: Inputs) -> Array | None:
    """Return the bias [k] with which a new output layer's answers begin at the best constant one; None where that is 0.

    Classes that are weighted or drawn alike are as frequent as each other to the loss, and so begin at 0. Label smoothing, which
    moves the best constant answer a little towards even, is left out of account.
    """
    optim, targets, value_range = settings.optim, targets_of(inputs.train), settings.data.value_range
    if value_range is not None:
        low, high = widened(*value_range)
        share = (float(targets.mean()) - low) / (high - low)
        return np.array([math.log(share / (1.0 - share))])
    find = get_task(inputs.fields.task).initial_bias
    if find is None or optim.class_weights is not None or settings.data.balanced_sampling:
        return None
    return find(targets, len(inputs.fields.labels))


@torch.no_grad()
def begin_with_constant_(output: nn.Linear, bias: Array | None) -> None:
    """Give a new output layer this bias [k]: the first steps then go into what tells examples apart, not into how frequent labels
    are (Lin et al. 2017, section 4.1).

    A layer without a bias stays as it is, and so does one whose bias is not 0 everywhere: it has been trained.

    >>> layer = nn.Linear(4, 2)
    >>> _ = nn.init.zeros_(layer.bias)
    >>> begin_with_constant_(layer, np.array([-2.0, 1.0]))
    >>> begin_with_constant_(layer, np.array([5.0, 5.0]))  # not new any more
    >>> layer.bias.tolist()
    [-2.0, 1.0]
    """
    if bias is not None and output.bias is not None and not output.bias.any():
        output.bias.copy_(torch.from_numpy(bias))


def refuse_settings(settings: ClassifierSettings, inputs: Inputs, *, num_stages: int) -> None:
    """Raise `ConfigError` for settings that this task or this many stages have no place for."""
    task, finder = get_task(inputs.fields.task), settings.finder
    for name in task.unsupported:
        if getattr(settings.optim, name):
            reason = (
                "a number to predict has no labels" if not task.has_probabilities else f"is not defined for the task {task.name}"
            )
            raise ConfigError(reason, column=f"optim.{name}", hint="leave it out")
    if finder.stop_after_stage is not None and finder.stop_after_stage > num_stages:
        raise ConfigError(
            f"there is no stage {finder.stop_after_stage}", column="finder.stop_after_stage", hint=f"the run has {num_stages}"
        )
    if settings.calibrate and not task.has_probabilities:
        raise ConfigError("a number to predict has no probability", column="calibrate", hint="leave it out")


def standardised(
    inputs: Inputs, *, can_shift: bool, value_range: tuple[float, float] | None
) -> tuple[np.ndarray[Any, Any], float, float]:
    """Return the training targets, with the scale and shift that turn outputs back: real values train at mean 0, deviation 1.

    Values of a known range stay as they are, for the model answers within it; one outside raises `DataError`.
    """
    targets = targets_of(inputs.train)
    if inputs.fields.target_type != "continuous":
        if value_range is not None:
            raise ConfigError(
                f"is for numbers, and the task is {inputs.fields.task}", column="data.value_range", hint="leave it out"
            )
        return targets, 1.0, 0.0
    if value_range is not None:
        _refuse_outside(inputs, value_range)
        return targets.astype(np.float32), 1.0, 0.0
    scale = float(targets.std()) or 1.0
    shift = float(targets.mean()) if can_shift else 0.0
    return ((targets - shift) / scale).astype(np.float32), scale, shift


def _refuse_outside(inputs: Inputs, value_range: tuple[float, float]) -> None:
    for part in (inputs.train, *inputs.scored.values()):
        outside = np.flatnonzero((targets_of(part) < value_range[0]) | (targets_of(part) > value_range[1]))
        if len(outside):
            raise DataError(
                f"{part.examples.references[outside[0]]}: {targets_of(part)[outside[0]]} is outside the range {value_range}",
                column=inputs.fields.label,
                hint="widen --data.value_range, or repair the value",
            )


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
    targets = torch.from_numpy(targets_of(inputs.train))
    return balanced_class_weights(targets, num_labels=len(inputs.fields.labels)).to(device)


def classes_to_balance(settings: ClassifierSettings, inputs: Inputs, owners: Ints | None) -> Ints | None:
    """Return the classes of the training examples, or of their windows, where each is to be drawn equally often."""
    if not settings.data.balanced_sampling:
        return None
    if inputs.fields.target_type != "multiclass":
        raise ConfigError(
            f"needs one label an example, and the task is {inputs.fields.task}",
            column="data.balanced_sampling",
            hint="leave it out",
        )
    classes: Ints = of_windows(targets_of(inputs.train), owners)
    return classes
