"""Several labels an example, or none: a sigmoid a label, thresholds, micro and macro F1, and of many labels how they are ranked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from nlpbp.core.losses import binary_cross_entropy
from nlpbp.evaluation.metrics import Floats, checked_thresholds, f1, macro_f1
from nlpbp.evaluation.ranking import average_precision, precision_at
from nlpbp.evaluation.thresholds import choose_thresholds
from nlpbp.tasks.task import Array, Metric, Predict, Task

LABELS_TO_RANK = 50  # from here on the ranking is scored too: of fewer labels the decisions say enough


def _outputs(logits: Tensor) -> Tensor:
    return logits.sigmoid()


def _decide(outputs: Floats, thresholds: Array | None) -> Array:
    return outputs > checked_thresholds(thresholds, num_labels=outputs.shape[1])


def _measure(targets: Array, outputs: Floats, decisions: Array, weights: Floats) -> dict[str, Floats]:
    hits = weights @ sparse.csr_array(targets * decisions)
    sizes = weights @ sparse.csr_array(targets + decisions)
    found = {"micro_f1": f1(hits.sum(axis=1), sizes.sum(axis=1)), "macro_f1": macro_f1(hits, sizes)}
    if outputs.shape[1] < LABELS_TO_RANK:
        return found
    by_example = {"lrap": average_precision(targets, outputs)}
    by_example |= {f"precision_at_{num}": precision_at(targets, outputs, num=num) for num in (1, 5)}
    return found | {name: weights @ values / weights.sum(axis=1) for name, values in by_example.items()}


def _constant(targets: Array, num_labels: int) -> Array:
    return np.asarray(targets.mean(axis=0), dtype=np.float64)


def _log_odds(targets: Array, num_labels: int) -> Array:
    """Return the log-odds of each label; half an example more on both sides keeps those of never and always finite."""
    true = targets.sum(axis=0)
    odds: Array = np.log((true + 0.5) / (len(targets) - true + 0.5))
    return odds


def _fit_linear(features: Any, targets: Array, num_labels: int, seed: int) -> Predict:
    """Fit a logistic regression for each label."""
    from nlpbp.evaluation.linear import fit_logistic  # scikit-learn: a second that `--help` need not wait

    labels = [fit_logistic(features, column, 2, seed) for column in targets.T]
    return lambda other: np.column_stack([predict(other)[:, 1] for predict in labels])


def _chance_loss(targets: Array) -> float:
    shares = torch.from_numpy(targets.mean(axis=0))
    return float((torch.special.entr(shares) + torch.special.entr(1.0 - shares)).mean())


def _usage(call: str, options: str) -> list[str]:
    return [
        f"answers = classify({call}{options}, top_k=None)",
        "config = classify.model.config",
        "limits = {label: config.decision_thresholds[index] for label, index in config.label2id.items()}",
        'answer = [one["label"] for one in answers if one["score"] > limits[one["label"]]]',
    ]


TASK = Task(
    name="multi_label",
    metrics=(
        Metric("micro_f1", True, "micro F1", is_share=True),
        Metric("macro_f1", True, "macro F1", is_share=True),
        Metric("lrap", True, "label ranking average precision", is_share=True),
        Metric("precision_at_1", True, "precision of the first label", is_share=True),
        Metric("precision_at_5", True, "precision of the first 5 labels", is_share=True),
    ),
    main_metric="micro_f1",
    loss=binary_cross_entropy,
    outputs=_outputs,
    decide=_decide,
    measure=_measure,
    constant=_constant,
    fit_linear=_fit_linear,
    chance_loss=_chance_loss,
    usage=_usage,
    initial_bias=_log_odds,
    choose_thresholds=choose_thresholds,
)
