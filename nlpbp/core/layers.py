"""Small operations on layers."""

from __future__ import annotations

import torch
from torch import nn


def output_layer(model: nn.Module, *, num_outputs: int) -> nn.Linear:
    """Find the last linear layer of `model` with `num_outputs` outputs: the one that makes the logits.

    Raises `ValueError` when there is none.

    >>> output_layer(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), num_outputs=2).in_features
    3
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == num_outputs]
    if not layers:
        raise ValueError(f"the model has no linear layer with {num_outputs} outputs")
    return layers[-1]


@torch.no_grad()
def fold_affine_(layer: nn.Linear, *, scale: float, shift: float) -> None:
    """Change `layer` in place so that it answers `scale * y + shift` where it answered y; a shift needs a bias.

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
