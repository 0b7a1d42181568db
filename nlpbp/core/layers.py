"""Small operations on layers, and output layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def output_layer(model: nn.Module, *, num_outputs: int) -> nn.Linear:
    """Find the last linear layer of `model` with `num_outputs` outputs: the one that returns the logits.

    Raises `ValueError` if there is none.

    >>> output_layer(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), num_outputs=2).in_features
    3
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == num_outputs]
    if not layers:
        raise ValueError(f"the model has no linear layer with {num_outputs} outputs")
    return layers[-1]


@torch.no_grad()
def fold_affine_(layer: nn.Linear, *, scale: float, shift: float) -> None:
    """Change `layer` in place so that its output y becomes `scale * y + shift`; a shift needs a bias.

    >>> layer = nn.Linear(1, 1)
    >>> before = layer(torch.ones(1, 1)).item()
    >>> fold_affine_(layer, scale=2.0, shift=5.0)
    >>> abs(layer(torch.ones(1, 1)).item() - (2 * before + 5)) < 1e-6
    True
    """
    layer.weight.mul_(scale)
    if layer.bias is not None:
        layer.bias.mul_(scale).add_(shift)
    elif shift:
        raise ValueError("a layer without a bias cannot take up a shift")


def widened(low: float, high: float, *, margin: float = 0.05) -> tuple[float, float]:
    """Return a range extended on both sides by `margin` times its length: the range of `scaled_sigmoid`.

    >>> widened(1.0, 5.0, margin=0.25)
    (0.0, 6.0)
    """
    return low - margin * (high - low), high + margin * (high - low)


def scaled_sigmoid(values: Tensor, *, low: float, high: float, margin: float = 0.05) -> Tensor:
    """Bound outputs to a known range, such as 1 to 5 stars, so that the model need not learn it; in fp32.

    The range is extended on both sides by `margin` times its length: without a margin, `low` and `high` are reached only at
    infinity, where the gradient vanishes. This is fast.ai's `y_range`. Raises `ValueError` for an empty range.

    >>> scaled_sigmoid(torch.tensor([-torch.inf, 0.0, torch.inf]), low=1.0, high=5.0, margin=0.25).tolist()
    [0.0, 3.0, 6.0]
    """
    if not low < high or margin < 0.0:
        raise ValueError(f"low must be below high and margin not negative, not {low}, {high} and {margin}")
    span = high - low
    return low - margin * span + (1 + 2 * margin) * span * values.float().sigmoid()


class AdaptiveConcatPool2d(nn.Module):
    """Concatenate max and average pooling of each channel, [batch, channels, height, width] of any size to [batch, 2 * channels].

    >>> AdaptiveConcatPool2d()(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).tolist()
    [[6.0, 3.0]]
    """

    def forward(self, images: Tensor) -> Tensor:
        """Pool each channel."""
        return torch.cat([images.amax(dim=(2, 3)), images.mean(dim=(2, 3))], dim=1)
