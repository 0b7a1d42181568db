"""Losses and outputs of any task by its name: what a loop of your own takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.losses import LossOptions, within
from nlpbp.core.regularize import gradient_only
from nlpbp.tasks.task import get_task

Penalty = Callable[[Any], Tensor]  # on what a model returns, such as activation regularisation


def task_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    task: str,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    focal_gamma: float = 0.0,
    asymmetric: tuple[float, float, float] | None = None,
) -> Tensor:
    """Compute a task's mean loss from `logits` [batch, labels], always in fp32; options as in `LossOptions`.

    Raises `ValueError` for a task that does not exist, and for options that it has no meaning for.

    >>> import torch
    >>> task_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([0]), task="single_label").item()
    0.0
    """
    return get_task(task).loss(logits, labels, LossOptions(label_smoothing, class_weights, focal_gamma, asymmetric))


def classifier_loss(
    *,
    task: str,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    focal_gamma: float = 0.0,
    asymmetric: tuple[float, float, float] | None = None,
    value_range: tuple[float, float] | None = None,
    penalty: Penalty | None = None,
) -> LossFn:
    """Make the loss function of a model whose output has `logits`, for `train_steps` or any other loop; options as in `task_loss`.

    With a `value_range` a regression's logits are taken into it first, by `scaled_sigmoid` without a margin. A `penalty` on the
    model's outputs has a gradient and does not show in the loss.
    """
    loss, options = get_task(task).loss, LossOptions(label_smoothing, class_weights, focal_gamma, asymmetric)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be trained on")
        outputs = model(**batch.inputs)
        found = loss(within(outputs.logits, value_range), batch.labels, options)
        return found if penalty is None else found + gradient_only(penalty(outputs))

    return loss_fn


def task_outputs(logits: Tensor, *, task: str, value_range: tuple[float, float] | None = None) -> Tensor:
    """Turn logits into what a reader wants: probabilities [batch, labels], or values [batch] for regression.

    A `value_range` is that of `classifier_loss`.

    >>> import torch
    >>> task_outputs(torch.zeros(1, 2), task="single_label")
    tensor([[0.5000, 0.5000]])
    """
    return get_task(task).outputs(within(logits.float(), value_range))
