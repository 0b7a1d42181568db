"""AdamW with common betas for each family of models, and learning rates set from outside as multiples of a base rate."""

from __future__ import annotations

from typing import Any

from torch.optim import SGD, AdamW, Optimizer

# RoBERTa (fairseq examples/roberta): a second beta below Adam's 0.999 adapts faster to the gradient's magnitude.
TRANSFORMER_BETAS = (0.9, 0.98)
TRANSFORMER_EPS = 1e-6
# ULMFiT's language model and fastai's text learner: less momentum than 0.9, as recurrent gradients change direction quickly.
RECURRENT_BETAS = (0.8, 0.99)
RECURRENT_EPS = 1e-5
RECURRENT_MOMENTUM = (0.8, 0.7)  # fastai's text learner: high when 1cycle's learning rate is low, and vice versa
RECURRENT_CLASSIFIER_MOMENTUM = (0.95, 0.85)  # fastai's for learners in general: it averages out the noise of a net from scratch
RECURRENT_WEIGHT_DECAY = 0.1  # fastai's ULMFiT example, of the language model
RECURRENT_MAX_GRAD_NORM = 0.25  # AWD-LSTM
# fastai's vision learner: 1cycle's momentum, and a second beta that adapts faster.
IMAGE_BETAS = (0.95, 0.99)
IMAGE_EPS = 1e-5
IMAGE_MOMENTUM = (0.95, 0.85)
ACTIVATION_FACTOR, TEMPORAL_FACTOR = 2.0, 1.0  # AWD-LSTM's alpha and beta
GROUP_RATIO = 2.6  # ULMFiT: from one layer group to the next


def adamw(groups: list[dict[str, Any]], *, betas: tuple[float, float] = TRANSFORMER_BETAS, eps: float = TRANSFORMER_EPS) -> AdamW:
    """Build AdamW over optimizer groups, with torch's fused kernel (five times as fast as its loop on 2 CPU cores).

    Weight decay and learning rates come from the groups; with weight decay 0 it is plain Adam (Loshchilov and Hutter 2017).

    >>> import torch
    >>> adamw([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 0.1, "weight_decay": 0.01}]).defaults["betas"]
    (0.9, 0.98)
    """
    return AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


def sgd(groups: list[dict[str, Any]], *, momentum: float = 0.9) -> SGD:
    """Build SGD with Nesterov momentum over optimizer groups; weight decay is an L2 penalty here (not decoupled), as in torch.

    It needs learning rates about a hundred times those of AdamW.

    >>> import torch
    >>> sgd([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 0.1}]).defaults["nesterov"]
    True
    """
    return SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0.0)


def set_rates(optimizer: Optimizer, multiplier: float) -> None:
    """Set every group's learning rate to `multiplier` times its `base_lr` (which is taken from `lr` on the first call).

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> set_rates(optimizer, 0.1); optimizer.param_groups[0]["lr"]
    0.05
    """
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * multiplier


def set_momentum(optimizer: Optimizer, value: float) -> None:
    """Set Adam's first beta, or SGD's momentum, in every group.

    >>> import torch
    >>> optimizer = adamw([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}])
    >>> set_momentum(optimizer, 0.7); optimizer.param_groups[0]["betas"]
    (0.7, 0.98)
    """
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value
