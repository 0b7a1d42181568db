"""The types of the training loop: a batch, its loss function, and the number of items that the loss is a mean over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """The inputs of one forward pass, with the ids of their examples.

    `inputs` are keyword arguments of the model; `labels` is None when there are none, as for predictions; `ids` is int64 [batch].
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    ids: Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`; the ids stay on the CPU, where they are read."""
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(inputs, labels, self.ids)


LossFn = Callable[[nn.Module, Batch], Tensor]  # the mean loss over the batch's items, as a scalar
Count = Callable[[Batch], int]  # how many items that mean was over


@dataclass(frozen=True)
class CountedLoss:
    """A loss function whose mean is not over the batch's examples: `count` says over how many items it is, tokens for instance."""

    loss_fn: LossFn
    count: Count

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean loss."""
        return self.loss_fn(model, batch)


def count_examples(batch: Batch) -> int:
    """Count the examples of a batch: the items of a classifier's loss."""
    return len(batch.ids)
