"""Losses on logits: the stable log-softmax and sigmoid forms, so that no probability is ever rounded to 0 before its logarithm."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nlpbp.core.batch import Batch, LossFn

IGNORED = -100  # the label that torch leaves out of a loss


def task_loss(logits: Tensor, labels: Tensor, *, task: str, label_smoothing: float = 0.0) -> Tensor:
    """Compute a task's mean loss from `logits` [batch, labels], always in fp32.

    single_label: log-softmax cross-entropy with int64 labels [batch], -100 for none; multi_label: sigmoid cross-entropy with labels
    in [0, 1] [batch, labels]; regression: squared error with labels [batch]. Smoothing moves that share of each
    target to the uniform distribution (Szegedy et al. 2015); regression has none to move.

    >>> import torch
    >>> task_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([0]), task="single_label").item()
    0.0
    """
    logits = logits.float()
    if task == "single_label":
        # The mean over no label at all would be 0 / 0.
        total = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)
    if task == "multi_label":
        smoothed = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
        return F.binary_cross_entropy_with_logits(logits, smoothed)
    if task == "regression":
        return F.mse_loss(logits.squeeze(-1), labels)
    raise ValueError(f"the task is single_label, multi_label or regression, not {task!r}")


def classifier_loss(*, task: str, label_smoothing: float = 0.0) -> LossFn:
    """Make the loss function of a model whose output has `logits`, for `train_steps` or any other loop."""

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be trained on")
        return task_loss(model(**batch.inputs).logits, batch.labels, task=task, label_smoothing=label_smoothing)

    return loss_fn


def task_outputs(logits: Tensor, *, task: str) -> Tensor:
    """Turn logits into what a reader wants: probabilities [batch, labels], or values [batch] for regression.

    >>> import torch
    >>> task_outputs(torch.zeros(1, 2), task="single_label")
    tensor([[0.5000, 0.5000]])
    """
    logits = logits.float()
    if task == "single_label":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if task == "multi_label" else logits.squeeze(-1)
