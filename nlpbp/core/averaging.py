"""The mean of a model's weights over many steps (Polyak and Juditsky 1992; AWD-LSTM's averaged SGD).

While the learning rate stays high, the weights move around a point that is better than any single iterate, and their mean is close
to it. With a rate that decays to 0 there is little left to average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn


class WeightAverage:
    """The running mean of a model's trainable weights over all steps after the first `after`; before that it does nothing.

    All steps have equal weight (stochastic weight averaging), or with `decay` the mean is an exponential moving average.

    It holds one copy of the weights, on their device, and no counter: the number of averaged steps follows from the step. Buffers,
    such as those of batch normalisation, are not averaged.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(layer, after=1)
    >>> for step, weight in enumerate([9.0, 1.0, 4.0], start=1):
    ...     _ = nn.init.constant_(layer.weight, weight)  # where a loop would train
    ...     average.update(step)
    >>> with average.applied():
    ...     layer.weight.item()
    2.5
    >>> layer.weight.item()
    4.0
    """

    def __init__(self, model: nn.Module, *, after: int, decay: float | None = None) -> None:
        self.after = after
        self._average = get_swa_multi_avg_fn() if decay is None else get_ema_multi_avg_fn(decay)
        self._model = model
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._mean: list[Tensor] = []

    @property
    def begun(self) -> bool:
        """Tell whether any step has been averaged."""
        return bool(self._mean)

    def update(self, step: int) -> None:
        """Add the model's weights after `step` (counted from 1) to the mean; no step may be skipped."""
        if step <= self.after:
            return
        if step == self.after + 1:
            self.begin()
        assert self._mean, f"the mean of the steps before {step} is missing"
        self._average(self._mean, self._values(), step - self.after - 1)

    def begin(self) -> None:
        """Set the mean to the model's current weights, to resume a run that has saved it."""
        self._mean = [value.clone() for value in self._values()]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the mean as the model's weights within the block; afterwards its own weights are restored bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self) -> None:
        """Replace the model's weights by the mean."""
        self._exchange()
        self._mean = []

    def _values(self) -> list[Tensor]:
        """Return this process's shard of each weight."""
        values = [parameter.detach() for parameter in self._weights]
        return [value.to_local() if isinstance(value, DTensor) else value for value in values]

    def _exchange(self) -> None:
        if not self._mean:
            return
        for value, mean in zip(self._values(), self._mean, strict=True):
            own = value.clone()
            value.copy_(mean)
            mean.copy_(own)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what it has gathered of the weights before is no longer so
