"""Freezing of layer groups, and the only place that switches a model to training mode.

`model.train()` would enable dropout and batch statistics inside frozen layers as well; `train_mode` does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nlpbp.core.groups import LayerGroup

KEEPS_STATISTICS = "keeps_statistics"  # an attribute of modules, which wrappers for several processes leave in place


def freeze_to(groups: Sequence[LayerGroup], *, train_last: int | None) -> int:
    """Unfreeze the last `train_last` of `groups` (None: all) and freeze the others; return the number of trainable parameters.

    Gradual unfreezing (Howard and Ruder 2018) is this with 1, 2, 3 ... Build the optimizer over all groups: one that was built
    without the frozen groups would never train them. Raises `ValueError` unless the model has that many groups.

    >>> from nlpbp.core.groups import layer_groups
    >>> groups = layer_groups(nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 1)])))
    >>> freeze_to(groups, train_last=1), freeze_to(groups, train_last=None)
    (3, 9)
    """
    if train_last is not None and not 1 <= train_last <= len(groups):
        raise ValueError(f"{train_last} layer groups cannot train: the model has {len(groups)}")
    first = 0 if train_last is None else len(groups) - train_last
    for index, group in enumerate(groups):
        for _, parameter in group.parameters:
            parameter.requires_grad_(index >= first)
    return sum(parameter.numel() for group in groups[first:] for _, parameter in group.parameters)


def keep_norm_statistics_(model: nn.Module, *, keep: bool = True) -> None:
    """Let `train_mode` leave the statistics of all batch normalisation as they are, while its scale and shift go on training.

    For data like those of pretraining, above all in small batches (fast.ai's bn_freeze).

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> keep_norm_statistics_(model); train_mode(model); [module.training for module in model]
    [True, False]
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            setattr(module, KEEPS_STATISTICS, keep)


def train_mode(model: nn.Module) -> None:
    """Put `model` into training mode, but keep every module whose parameters are all frozen in evaluation mode.

    So frozen layers drop nothing, and their normalisation keeps its statistics, as does that of `keep_norm_statistics_`.

    >>> model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Dropout(), nn.Linear(2, 2))
    >>> train_mode(model); [module.training for module in model]
    [False, True, True]
    """
    model.train()
    keeps = any(getattr(module, KEEPS_STATISTICS, False) for module in model.modules())
    if not keeps and all(parameter.requires_grad for parameter in model.parameters()):
        return  # before every step: 80 modules need a millisecond to be looked at one by one
    for module in model.modules():
        parameters = list(module.parameters())
        is_frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
        if is_frozen or getattr(module, KEEPS_STATISTICS, False):
            module.eval()
