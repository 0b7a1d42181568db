"""Rules for an optimizer and its model: weight decay, learning rates, and whether every parameter is in it exactly once.

They work with any torch optimizer, also after accelerate's `prepare`. With FSDP or DeepSpeed, use them before `prepare`, which
replaces the parameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nlpbp.checks.findings import Finding
from nlpbp.core.groups import layer_groups, no_decay_names

MIN_LAYER_GROUPS = 3  # trainable ones: with fewer, there are no lower layers that need a lower rate


def decay_on_norms(optimizer: Optimizer, model: nn.Module) -> list[Finding]:
    """Find weight decay on biases and norms, where it has no benefit, and on embeddings, where it shrinks rare words (T4).

    >>> from torch.optim import AdamW
    >>> model = nn.Sequential(nn.Embedding(4, 2), nn.LayerNorm(2))
    >>> [(finding.module, finding.level) for finding in decay_on_norms(AdamW(model.parameters()), model)]
    [('1.weight', 'warning'), ('0.weight', 'note')]
    """
    decayed = {id(p) for group in optimizer.param_groups if group.get("weight_decay", 0.0) > 0 for p in group["params"]}
    spared = no_decay_names(model)
    found = [(name, p) for name, p in model.named_parameters() if name in spared and id(p) in decayed]
    vectors, embeddings = ([name for name, p in found if (p.ndim < 2) == wanted] for wanted in (True, False))
    fix = "give them a group with weight_decay 0: nlpbp.core.groups.parameter_groups with no_decay_names(model)"
    findings = []
    if vectors:
        message = f"weight decay on {_count(vectors, 'bias or norm', 'biases and norms')} pulls them towards 0"
        findings.append(Finding("T4", "warning", vectors[0], message, fix))
    if embeddings:
        message = f"weight decay on {_count(embeddings, 'embedding', 'embeddings')} shrinks rare words, which seldom get a gradient"
        findings.append(Finding("T4", "note", embeddings[0], message, fix))
    return findings


def no_decay_at_all(optimizer: Optimizer) -> list[Finding]:
    """Find an AdamW whose weight decay is 0 everywhere, which makes it plain Adam (T4).

    >>> from torch.optim import AdamW
    >>> len(no_decay_at_all(AdamW(nn.Linear(1, 1).parameters(), weight_decay=0.0)))
    1
    """
    name = type(getattr(optimizer, "optimizer", optimizer)).__name__
    if not name.startswith("AdamW") or any(group.get("weight_decay", 0.0) != 0 for group in optimizer.param_groups):
        return []
    return [
        Finding("T4", "note", "optimizer", f"{name} with weight decay 0 is Adam", "set weight_decay to 0.01 to 0.1, or use Adam")
    ]


def one_rate_for_all_layers(optimizer: Optimizer, model: nn.Module, *, pretrained: bool) -> list[Finding]:
    """Find a `pretrained` model whose layers all have one learning rate, though lower layers need a lower one (L2).

    >>> from torch.optim import SGD
    >>> model = nn.Sequential(nn.Embedding(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    >>> len(one_rate_for_all_layers(SGD(model.parameters(), lr=0.1), model, pretrained=True))
    1
    """
    rates = {_base_rate(group) for group in optimizer.param_groups if any(p.requires_grad for p in group["params"])}
    training = [group for group in layer_groups(model) if any(p.requires_grad for _, p in group.parameters)]
    if not pretrained or len(rates) != 1 or len(training) < MIN_LAYER_GROUPS:
        return []
    message = f"all {len(training)} layer groups of a pretrained model train at {rates.pop():g}"
    fix = "try nlpbp.core.groups.parameter_groups with layer_decay 0.9 to 0.95, and measure"
    return [Finding("L2", "note", "optimizer", message, fix)]


def optimizer_misses_parameters(optimizer: Optimizer, model: nn.Module) -> list[Finding]:
    """Find parameters that are in no group of the optimizer: they never train, also when they are unfrozen later (N6).

    This happens if the optimizer was built while they were frozen, or by a trainer that leaves frozen parameters out.

    >>> from torch.optim import SGD
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> optimizer_misses_parameters(SGD(model[1].parameters(), lr=0.1), model)[0].module
    '0.weight'
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [(name, p.requires_grad) for name, p in model.named_parameters() if id(p) not in held]
    training, frozen = ([name for name, trains in missing if trains == wanted] for wanted in (True, False))
    fix = "build the optimizer over all parameters, frozen ones included, and freeze by requires_grad alone"
    findings = []
    if training:
        message = (
            f"{_count(training, 'trainable parameter', 'trainable parameters')} in no group of the optimizer, so never trained"
        )
        findings.append(Finding("N6", "warning", training[0], message, fix))
    if frozen:
        message = f"{_count(frozen, 'frozen parameter', 'frozen parameters')} in no group: unfreezing would not train them"
        findings.append(Finding("N6", "note", frozen[0], message, fix))
    return findings


def tied_twice(optimizer: Optimizer) -> list[Finding]:
    """Find weights that are in the optimizer twice, as two parameters that share memory: each step updates them twice (L2).

    torch itself refuses one parameter in two groups.

    >>> from torch.optim import SGD
    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> second.weight.data = first.weight.data
    >>> len(tied_twice(SGD([*first.parameters(), *second.parameters()], lr=0.1)))
    1
    """
    places: dict[Any, list[str]] = defaultdict(list)
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if p.numel() and p.device.type != "meta":
                places[p.device, p.data_ptr(), p.shape].append(group.get("name", f"group {index}"))
    fix = "tie them as one parameter (decoder.weight = embedding.weight), and group by parameter, not by module"
    return [
        Finding("L2", "warning", "optimizer", f"one tensor of shape {list(key[2])} is in it twice: {' and '.join(names)}", fix)
        for key, names in places.items()
        if len(names) > 1
    ]


def _base_rate(group: dict[str, Any]) -> float:
    """Return a group's base learning rate, under nlpbp's or torch's name for it."""
    return float(group.get("base_lr", group.get("initial_lr", group["lr"])))


def _count(names: Sequence[str], one: str, several: str) -> str:
    return f"{len(names)} {one if len(names) == 1 else several}"
