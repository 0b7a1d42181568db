"""The mean of a model's weights over many steps (Polyak and Juditsky 1992; AWD-LSTM's averaged SGD).

While the rate stays high, weights circle around a better point than any they stand on, and their mean is near it. Under a rate that
falls to 0 there is little left to average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn


class WeightAverage:
    """The running mean of a model's trainable weights over all steps beyond the `after`-th; of none, it does nothing.

    All steps count the same (stochastic weight averaging), or with a `decay` each one's share shrinks by it a step (an exponential
    moving average).

    It holds one copy of them, on their device, and no counter: of how many steps it is the mean follows from the step. Buffers, as
    of batch normalisation, are not averaged.

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
        """Tell whether it is the mean of any step."""
        return bool(self._mean)

    def update(self, step: int) -> None:
        """Take in the model's weights as they are after `step`, counted from 1; no step may be left out."""
        if step <= self.after:
            return
        if step == self.after + 1:
            self.begin()
        assert self._mean, f"the mean of the steps before {step} is missing"
        self._average(self._mean, self._values(), step - self.after - 1)

    def begin(self) -> None:
        """Take the model's weights, as they are now, for the mean so far: how a run goes on that has saved it."""
        self._mean = [value.clone() for value in self._values()]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the mean for its weights within the block, bit for bit its own ones again afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self) -> None:
        """Let the model have the mean for its weights from now on."""
        self._exchange()
        self._mean = []

    def _values(self) -> list[Tensor]:
        """Return what this process holds of each weight."""
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
