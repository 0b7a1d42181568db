"""Ordered classes, such as 1 to 5 stars: a wrong answer nearby is better than one far off.

The logits [n, k] stand for class probabilities by a softmax, as everywhere, so any transformers classifier and `pipeline` can be
used as they are. What is trained are the k - 1 cumulative logits, log P(y > j) - log P(y <= j), each a binary question about the
truth (Niu et al. 2016, "Ordinal Regression with Multiple Output CNN for Age Estimation"). As sums of the same probabilities the
k - 1 answers never contradict each other, which Cao et al. 2020 ("Rank consistent ordinal regression for neural networks") reach
by sharing weights. The decision is the median class, which counts the questions that are answered with yes, as both papers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nlpbp.core.errors import ConfigError
from nlpbp.core.losses import LossOptions, mean_over_labels
from nlpbp.data.labels import as_number
from nlpbp.evaluation.metrics import Floats
from nlpbp.tasks.single_label import class_frequencies, log_frequencies
from nlpbp.tasks.task import Array, Metric, Predict, Task


def cumulative_logits(logits: Tensor) -> Tensor:
    """Return log P(y > j) - log P(y <= j) for each class j but the last, [n, k - 1], from logits [n, k], in fp32.

    >>> cumulative_logits(torch.zeros(1, 3)).exp().round(decimals=4).tolist()  # odds of 2 to 1 and 1 to 2
    [[2.0, 0.5]]
    """
    log_shares = logits.float().log_softmax(dim=-1)
    at_most = log_shares.logcumsumexp(dim=-1)[..., :-1]
    above = log_shares.flip(-1).logcumsumexp(dim=-1).flip(-1)[..., 1:]
    return above - at_most


def _loss(logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Sum the binary cross-entropies of the k - 1 questions, and average over the batch; -100 is no label."""
    if options.focal_gamma:
        raise ValueError("a focal loss is not defined for ordered classes")
    if options.asymmetric is not None:
        raise ValueError("an asymmetric loss is for several labels an example")
    truth = (labels.unsqueeze(-1) > torch.arange(logits.shape[-1] - 1, device=labels.device)).float()
    smoothed = truth * (1.0 - options.label_smoothing) + 0.5 * options.label_smoothing
    loss = F.binary_cross_entropy_with_logits(cumulative_logits(logits), smoothed, reduction="none").sum(dim=-1)
    return mean_over_labels(loss * (labels >= 0), labels, options.class_weights)


def _outputs(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1)


def _decide(outputs: Floats, thresholds: Array | None) -> Array:
    """Return the median class: the first one at which half of the probability is reached."""
    total = outputs.sum(axis=1, keepdims=True)  # 1, but for rounding
    classes: Array = (np.cumsum(outputs, axis=1) < 0.5 * total).sum(axis=1)
    return classes


def _measure(targets: Array, outputs: Floats, decisions: Array, weights: Floats) -> dict[str, Floats]:
    total = weights.sum(axis=1)
    steps = (targets - decisions).astype(np.float64)
    return {
        "mae": weights @ np.abs(steps) / total,
        "qwk": quadratic_weighted_kappa(targets, decisions, weights),
        "accuracy": weights @ (steps == 0) / total,
    }


def quadratic_weighted_kappa(targets: Array, decisions: Array, weights: Floats) -> Floats:
    """Return Cohen's kappa with quadratic weights [r] of class ids [n]; NaN where both are one and the same class.

    1 - E[(t - d)^2] / E[(t' - d')^2], with t' and d' drawn independently: 1 is perfect, 0 as good as chance.

    >>> quadratic_weighted_kappa(np.array([0, 1, 2]), np.array([0, 1, 1]), np.ones((1, 3))).round(4).tolist()
    [0.6667]
    """
    t, d, total = targets.astype(np.float64), decisions.astype(np.float64), weights.sum(axis=1)
    observed = weights @ (t - d) ** 2 / total
    by_chance = (weights @ t**2 + weights @ d**2) / total - 2 * (weights @ t / total) * (weights @ d / total)
    defined = by_chance > 1e-12
    kappa = 1.0 - np.divide(observed, by_chance, out=np.full(len(weights), np.nan), where=defined)
    return np.where(np.abs(kappa) < 1e-12, 0.0, kappa)  # a constant answer is as good as chance, but for rounding


def _fit_linear(features: Any, targets: Array, num_labels: int, seed: int) -> Predict:
    """Fit a logistic regression for each question "above class j?" (Frank and Hall 2001); class probabilities are differences."""
    from nlpbp.evaluation.linear import fit_logistic  # scikit-learn: a second that `--help` need not wait

    questions = [fit_logistic(features, (targets > label).astype(np.int64), 2, seed) for label in range(num_labels - 1)]

    def predict(other: Any) -> Array:
        above = np.column_stack([fitted(other)[:, 1] for fitted in questions])
        above = np.minimum.accumulate(above, axis=1)  # separate fits may contradict each other
        ends = np.ones((len(above), 1)), np.zeros((len(above), 1))
        return -np.diff(np.hstack([ends[0], above, ends[1]]), axis=1)

    return predict


def _chance_loss(targets: Array) -> float:
    above = torch.from_numpy(1.0 - np.cumsum(np.bincount(targets) / len(targets))[:-1]).clamp(min=0.0)
    return float((torch.special.entr(above) + torch.special.entr(1.0 - above)).sum())


def _check_labels(labels: Sequence[str], are_ordered: bool) -> None:
    """Refuse labels that say nothing of their order: it is that of their numbers, or has to be given."""
    if not are_ordered and any(as_number(label) is None for label in labels):
        shown = ", ".join(f"'{label}'" for label in labels[:5]) + (" ..." if len(labels) > 5 else "")
        hint = f"name all {len(labels)}, from the lowest to the highest (quote spaces): --data.label_order LOWEST ... HIGHEST"
        raise ConfigError(f"the order of the labels {shown} is not known", column="data.label_order", hint=hint)


def _usage(call: str, options: str) -> list[str]:
    return [
        "from itertools import accumulate",
        "config = classify.model.config",
        f'scores = {{one["label"]: one["score"] for one in classify({call}{options}, top_k=None)}}',
        "labels = [config.id2label[index] for index in range(config.num_labels)]",
        "at_most = list(accumulate(scores[label] for label in labels))",
        "answer = labels[sum(share < at_most[-1] / 2 for share in at_most)]  # the median class",
    ]


TASK = Task(
    name="ordinal",
    metrics=(
        Metric("mae", False, "mean absolute error"),
        Metric("qwk", True, "quadratic weighted kappa"),
        Metric("accuracy", True, "accuracy", is_share=True),
    ),
    main_metric="mae",
    loss=_loss,
    outputs=_outputs,
    decide=_decide,
    measure=_measure,
    constant=class_frequencies,
    fit_linear=_fit_linear,
    chance_loss=_chance_loss,
    usage=_usage,
    initial_bias=log_frequencies,
    constant_name="median",
    constant_words="the median class",
    unsupported=("focal_gamma", "asymmetric"),
    check_labels=_check_labels,
    is_ordered=True,
)
