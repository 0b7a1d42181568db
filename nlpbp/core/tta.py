"""Test-time augmentation: predict for several views of an input and average the probabilities (practice D6).

It costs one prediction for each view. It seldom helps when the model reads the whole input anyway: measure it on labelled data.

Shapes: v views, n examples, k labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CLEAN_WEIGHT = 0.25  # of the original input, with any number of views: fastai's beta


def view_weights(num_views: int, *, clean_weight: float = CLEAN_WEIGHT) -> Tensor:
    """Return weights [1 + views] that sum to 1: `clean_weight` for the original input, which comes first, and equal ones for the
    views.

    >>> view_weights(3).tolist(), view_weights(0).tolist()
    ([0.25, 0.25, 0.25, 0.25], [1.0])
    """
    if not 0.0 <= clean_weight <= 1.0:
        raise ValueError(f"clean_weight must be between 0 and 1, not {clean_weight}")
    if num_views == 0:
        return torch.ones(1)
    return torch.tensor([clean_weight, *[(1.0 - clean_weight) / num_views] * num_views])


def average(views: Sequence[Tensor], *, weights: Tensor) -> Tensor:
    """Return the weighted mean of views' probabilities [n, k] each, or values [n]; of probabilities, never of logits.

    Raises `ValueError` unless there is one weight for each view, none is negative, and they sum to 1.

    >>> average([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])], weights=torch.tensor([0.25, 0.75])).tolist()
    [[0.25, 0.75]]
    """
    if len(weights) != len(views) or bool((weights < 0).any()) or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise ValueError(f"{len(views)} views need as many weights of 0 or more that sum to 1, not {weights.tolist()}")
    return sum((weight * view for weight, view in zip(weights, views, strict=True)), start=torch.zeros_like(views[0]))


def fit_view_weights(views: Sequence[Tensor], targets: Tensor, *, num_steps: int = 500) -> Tensor:
    """Find the weights [v] with the lowest log loss of the mean (give it the validation set, never the test set).

    views: probabilities [n, k] each; targets int64 [n], or 0 and 1 [n, k] for several labels. The loss is convex in the weights of
    a mixture, and expectation maximisation finds the optimum without a step size.

    >>> good, bad = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> fit_view_weights([bad, good], torch.tensor([0, 1])).round(decimals=3).tolist()
    [0.0, 1.0]
    """
    if targets.dim() == 1:
        truths = [view.double().gather(1, targets.unsqueeze(1)).squeeze(1) for view in views]
    else:
        truths = [torch.where(targets > 0, view.double(), 1.0 - view.double()).flatten() for view in views]
    likelihoods = torch.stack(truths).clamp(min=1e-12)
    weights = torch.full((len(views), 1), 1.0 / len(views), dtype=torch.float64)
    for _ in range(num_steps):
        shares = weights * likelihoods
        weights = (shares / shares.sum(dim=0)).mean(dim=1, keepdim=True)
    return weights.squeeze(1).float()


@contextmanager
def dropout_active(model: nn.Module) -> Iterator[None]:
    """Monte Carlo dropout: keep dropout active in every forward pass, in evaluation mode too, so that each pass is another view.

    Gal and Ghahramani 2016. Batch normalisation keeps its statistics. The model's mode is restored afterwards.

    >>> model = nn.Sequential(nn.Dropout(0.5)).eval()
    >>> with dropout_active(model):
    ...     dropped = model(torch.ones(100))
    >>> bool((dropped == 0).any()), bool((model(torch.ones(100)) == 0).any())
    (True, False)
    """

    def switch_on(module: nn.Module, _: object) -> None:
        for part in module.modules():
            part.training = not isinstance(part, _BatchNorm)

    modes = {part: part.training for part in model.modules()}
    hook = model.register_forward_pre_hook(switch_on)
    try:
        yield
    finally:
        hook.remove()
        for part, mode in modes.items():
            part.training = mode
