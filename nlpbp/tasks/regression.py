"""A number an example: squared error on standardised targets, RMSE, MAE, rank correlation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from nlpbp.core.losses import squared_error
from nlpbp.evaluation.metrics import Floats, spearman
from nlpbp.tasks.task import Array, Metric, Predict, Task


def _outputs(logits: Tensor) -> Tensor:
    return logits.squeeze(-1)


def _decide(outputs: Floats, thresholds: Array | None) -> Array:
    return outputs


def _measure(targets: Array, outputs: Floats, decisions: Array, weights: Floats) -> dict[str, Floats]:
    total = weights.sum(axis=1)
    errors = np.abs(targets - outputs)
    scale = max(float(errors.max()), 1.0)  # the square of 1e200 is not a number any more
    return {
        "mae": weights @ errors / total,
        "rmse": scale * np.sqrt(weights @ (errors / scale) ** 2 / total),
        "spearman": spearman(targets, outputs, weights),
    }


def _constant(targets: Array, num_labels: int) -> Array:
    return np.asarray(targets.mean(axis=0), dtype=np.float64)


def _fit_linear(features: Any, targets: Array, num_labels: int, seed: int) -> Predict:
    from nlpbp.evaluation.linear import fit_ridge  # scikit-learn: a second that `--help` need not wait

    return fit_ridge(features, targets, seed)


def _chance_loss(targets: Array) -> float:
    return math.inf


def _usage(call: str, options: str) -> list[str]:
    return [f"answer = classify({call}{options})"]


TASK = Task(
    name="regression",
    metrics=(
        Metric("mae", False, "mean absolute error"),
        Metric("rmse", False, "root mean squared error"),
        Metric("spearman", True, "Spearman's correlation"),
    ),
    main_metric="rmse",
    loss=squared_error,
    outputs=_outputs,
    decide=_decide,
    measure=_measure,
    constant=_constant,
    fit_linear=_fit_linear,
    chance_loss=_chance_loss,
    usage=_usage,
    constant_words="the mean of the training values",
    unsupported=("label_smoothing", "focal_gamma", "asymmetric", "class_weights"),
)
