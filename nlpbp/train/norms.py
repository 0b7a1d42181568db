"""Statistics of batch normalisation over all micro-batches of a step, whichever process had them.

A batch norm normalises a micro-batch by its own mean and variance, and keeps a moving average of these for answering. Left alone,
each process would average those of its own micro-batches, and one with many would move faster than one with few. Here a step moves
the averages once, by the mean over its micro-batches, so that two processes keep what one with as many micro-batches keeps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalisation layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


class NormStatistics:
    """The running statistics of batch normalisation layers during one step; call `before` and `after` each micro-batch.

    >>> model = nn.BatchNorm1d(1).train()
    >>> statistics = NormStatistics(batch_norms(model))
    >>> for values in ([[0.0], [2.0]], [[4.0], [6.0]]):
    ...     statistics.before(); _ = model(torch.tensor(values)); statistics.after()
    >>> statistics.finish(Accelerator(cpu=True)); round(model.running_mean.item(), 4)  # a tenth of the way from 0 to 3
    0.3
    """

    def __init__(self, norms: Iterable[_BatchNorm]) -> None:
        buffers = [buffer for norm in norms if norm.training for buffer in norm.buffers()]
        self._first = [(buffer, buffer.clone()) for buffer in buffers]
        self._sums = [(buffer, torch.zeros_like(buffer)) for buffer in buffers if buffer.is_floating_point()]  # the others count
        self._num = 0

    @torch.no_grad()
    def before(self) -> None:
        """Go back to the statistics that the step began with."""
        for buffer, first in self._first:
            buffer.copy_(first)

    @torch.no_grad()
    def after(self) -> None:
        """Note what a micro-batch has made of them."""
        for buffer, total in self._sums:
            total += buffer
        self._num += 1

    @torch.no_grad()
    def finish(self, accelerator: Accelerator) -> None:
        """Keep the mean over all micro-batches of all processes, each of which has the same number."""
        divisor = self._num * accelerator.num_processes
        for buffer, total in self._sums:
            buffer.copy_((total if accelerator.num_processes == 1 else accelerator.reduce(total, reduction="sum")) / divisor)
