"""One label an example: softmax, cross-entropy, accuracy, macro F1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlpbp.core.losses import cross_entropy
from nlpbp.evaluation.metrics import Floats, calibration_error, macro_f1, sums_by_group
from nlpbp.tasks.task import Array, Metric, Predict, Task


def _outputs(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)


def _decide(outputs: Floats, thresholds: Array | None) -> Array:
    classes: Array = outputs.argmax(axis=1)
    return classes


def _measure(targets: Array, outputs: Floats, decisions: Array, weights: Floats) -> dict[str, Floats]:
    num_labels, total = outputs.shape[1], weights.sum(axis=1)
    correct = decisions == targets
    # A probability of exactly 0 for what happened must not make the mean infinite: scikit-learn's clipping.
    surprise = -np.log(np.clip(outputs[np.arange(len(targets)), targets], np.finfo(np.float64).eps, 1.0))
    hits = sums_by_group(weights, targets, num_labels, correct)
    sizes = sums_by_group(weights, targets, num_labels) + sums_by_group(weights, decisions, num_labels)
    return {
        "accuracy": weights @ correct / total,
        "macro_f1": macro_f1(hits, sizes),
        "log_loss": weights @ surprise / total,
        "ece": calibration_error(correct, outputs.max(axis=1), weights),
    }


def class_frequencies(targets: Array, num_labels: int) -> Array:
    """Return the share of each class among targets [m], [num_labels].

    >>> class_frequencies(np.array([0, 2, 2, 2]), 3).tolist()
    [0.25, 0.0, 0.75]
    """
    shares: Array = np.bincount(targets, minlength=num_labels) / len(targets)
    return shares


def log_frequencies(targets: Array, num_labels: int) -> Array:
    """Return the log of each class's share among targets [m], [num_labels]: the logits of the best constant answer.

    Each class counts half an example more than it has, so that one that never occurs has a logarithm too.

    >>> log_frequencies(np.array([0, 2, 2, 2]), 3).round(2).tolist()
    [-1.3, -2.4, -0.45]
    """
    counts = np.bincount(targets, minlength=num_labels) + 0.5
    logs: Array = np.log(counts / counts.sum())
    return logs


def _fit_linear(features: Any, targets: Array, num_labels: int, seed: int) -> Predict:
    from nlpbp.evaluation.linear import fit_logistic  # scikit-learn: a second that `--help` need not wait

    return fit_logistic(features, targets, num_labels, seed)


def _chance_loss(targets: Array) -> float:
    return float(torch.special.entr(torch.from_numpy(np.bincount(targets) / len(targets))).sum())


def _usage(call: str, options: str) -> list[str]:
    return [f"answer = classify({call}{options})"]


TASK = Task(
    name="single_label",
    metrics=(
        Metric("accuracy", True, "accuracy", is_share=True),
        Metric("macro_f1", True, "macro F1", is_share=True),
        Metric("log_loss", False, "log loss, nats"),
        Metric("ece", False, "calibration error", is_share=True),
    ),
    main_metric="accuracy",
    loss=cross_entropy,
    outputs=_outputs,
    decide=_decide,
    measure=_measure,
    constant=class_frequencies,
    fit_linear=_fit_linear,
    chance_loss=_chance_loss,
    usage=_usage,
    initial_bias=log_frequencies,
    unsupported=("asymmetric",),
)
