"""What trains and what is frozen, and the one place that switches a model to training mode.

`model.train()` would re-arm dropout and batch statistics inside frozen parts; `train_mode` does not.
"""

from __future__ import annotations

from torch import nn


def train_mode(model: nn.Module) -> None:
    """Put `model` into training mode, but keep every module whose parameters are all frozen in evaluation mode.

    >>> model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Dropout(), nn.Linear(2, 2))
    >>> train_mode(model); [module.training for module in model]
    [False, True, True]
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
