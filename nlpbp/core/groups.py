"""Layer groups: a model's parameters from the input to the head, derived from its structure and not from a list of names.

Freezing, unfreezing and layer-wise learning rates all use these groups. Every parameter is in exactly one group, tied weights once,
and optimizer groups are built for all of them up front, so that parameters that are frozen now are in the optimizer when they are
unfrozen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class LayerGroup:
    """Parameters that share a learning rate and are frozen together; `parameters` are (name, parameter) pairs."""

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]


def layer_groups(model: nn.Module, *, body: nn.Module | None = None) -> list[LayerGroup]:
    """Divide `model` into groups from input to output: the parameters before the blocks, each block, the head.

    `body` is the pretrained part (default: `model.base_model` of transformers, else the model); its blocks are the entries of its
    outermost module lists. Parameters of the body after the first block that are in no block (a final norm, a pooler) belong to the
    last block. Groups without parameters are left out.

    >>> body = nn.ModuleDict({"embed": nn.Embedding(5, 4), "layers": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})
    >>> model = nn.ModuleDict({"body": body, "classifier": nn.Linear(4, 2)})
    >>> [group.name for group in layer_groups(model, body=body)]
    ['embeddings', 'block.0', 'block.1', 'head']
    """
    body = body if body is not None else getattr(model, "base_model", model)
    blocks = list(blocks_of(body))
    owner = {id(p): index for index, block in enumerate(blocks) for p in block.parameters()}
    in_body = {id(p) for p in body.parameters()} if body is not model or blocks else set()
    members: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(len(blocks) + 2)]
    past_first_block = False
    for name, parameter in model.named_parameters():
        if id(parameter) in owner:
            past_first_block = True
            members[1 + owner[id(parameter)]].append((name, parameter))
        elif id(parameter) in in_body:
            members[len(blocks) if past_first_block else 0].append((name, parameter))
        else:
            members[-1].append((name, parameter))
    names = ["embeddings", *(f"block.{index}" for index in range(len(blocks))), "head"]
    return [LayerGroup(name, tuple(pairs)) for name, pairs in zip(names, members, strict=True) if pairs]


SIMILARITY_RATIO = {"high": 10.0, "low": 3.0}  # fast.ai's ratio of the learning rates of adjacent groups, of three


def coarse_groups(groups: Sequence[LayerGroup], *, num: int = 3) -> list[LayerGroup]:
    """Merge `groups` into `num`: the head by itself, and the body in equal parts, of which the lower ones take the remainder.

    fast.ai's rule for three groups: a ratio of 10 between adjacent learning rates if the data are similar to those of pretraining,
    so that the lower layers need to change little, and of 3 if they are not (`SIMILARITY_RATIO`).

    >>> model = nn.Sequential(nn.ModuleList([nn.Linear(1, 1) for _ in range(4)]))
    >>> [(group.name, len(group.parameters)) for group in coarse_groups([*layer_groups(model), LayerGroup("head", ())])]
    [('block.0 - block.1', 4), ('block.2 - block.3', 4), ('head', 0)]
    """
    body = [group for group in groups if group.name != "head"]
    size = math.ceil(len(body) / max(1, num - 1))
    parts = [body[start : start + size] for start in range(0, len(body), max(1, size))]
    merged = [
        LayerGroup(
            part[0].name if len(part) == 1 else f"{part[0].name} - {part[-1].name}",
            tuple(pair for group in part for pair in group.parameters),
        )
        for part in parts
    ]
    return [*merged, *(group for group in groups if group.name == "head")]


def group_hashes(model: nn.Module, groups: Sequence[LayerGroup]) -> dict[str, str]:
    """Hash the values of each group's parameters, found in `model` by name, to see which groups have changed.

    With a sharded model each process hashes its own shard.

    >>> model = nn.Linear(2, 2)
    >>> before = group_hashes(model, layer_groups(model))
    >>> nn.init.zeros_(model.bias).sum().item(), group_hashes(model, layer_groups(model)) == before
    (0.0, False)
    """
    parameters = dict(model.named_parameters())
    hashes = {}
    for group in groups:
        digest = hashlib.sha256()
        for name, _ in group.parameters:
            values = parameters[name].detach()
            local = values.to_local() if isinstance(values, DTensor) else values
            digest.update(local.cpu().contiguous().view(torch.uint8).numpy().data)
        hashes[group.name] = digest.hexdigest()[:16]
    return hashes


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the entries of the outermost module lists that hold parameters, in the order of definition."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if any(True for _ in block.parameters()))
        else:
            yield from blocks_of(child)


def no_decay_names(model: nn.Module) -> set[str]:
    """Return the names of parameters without weight decay: biases, norms (all vectors and scalars) and embeddings.

    >>> sorted(no_decay_names(nn.ModuleDict({"embed": nn.Embedding(5, 4), "linear": nn.Linear(4, 4)})))
    ['embed.weight', 'linear.bias']
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {name for name, p in model.named_parameters() if p.ndim < 2 or id(p) in embeddings}


def parameter_groups(
    groups: Sequence[LayerGroup],
    *,
    lr: float,
    layer_decay: float = 1.0,
    head_lr: float | None = None,
    similarity: Literal["high", "low"] | None = None,
    weight_decay: float = 0.0,
    no_decay: set[str] | frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """Make optimizer groups with layer-wise learning rates: the last body group has `lr`, each lower one `layer_decay` times the
    rate above.

    The head has `head_lr` (default: `lr`). `similarity` replaces `layer_decay` by three coarse groups, the head with `lr` and each
    lower one with a rate 10 times (high) or 3 times (low) smaller, as in fast.ai. Each layer group becomes one or two optimizer
    groups, with and without `weight_decay`. Frozen parameters are included, so that they can be unfrozen later. The groups have the
    additional keys `name` and `base_lr`. This is the layer-wise learning rate decay of ELECTRA and BEiT; fast.ai calls it
    discriminative learning rates. Raises `ValueError` for a `head_lr` if the model has no head.

    >>> linear = nn.Linear(2, 2)
    >>> head = LayerGroup("head", tuple(linear.named_parameters()))
    >>> made = parameter_groups([head], lr=0.1, weight_decay=0.01, no_decay={"bias"})
    >>> [(group["name"], group["lr"], group["weight_decay"], len(group["params"])) for group in made]
    [('head', 0.1, 0.01, 1), ('head, no decay', 0.1, 0.0, 1)]
    """
    has_head = any(group.name == "head" for group in groups)
    if head_lr is not None and not has_head:
        raise ValueError("the model has no separate head that could have another rate")
    if similarity is not None:
        ratio = SIMILARITY_RATIO[similarity]
        groups, layer_decay = coarse_groups(groups), 1.0 / ratio
        if has_head:
            head_lr, lr = head_lr or lr, lr / ratio
    body = [group.name for group in groups if group.name != "head"]
    rates = {name: lr * math.pow(layer_decay, len(body) - 1 - index) for index, name in enumerate(body)}
    rates["head"] = lr if head_lr is None else head_lr
    made = []
    for group in groups:
        for decays in (True, False):
            params = [p for name, p in group.parameters if (name not in no_decay) == decays]
            if params:
                rate = rates[group.name]
                name = group.name if decays else f"{group.name}, no decay"
                decay = weight_decay if decays else 0.0
                made.append({"name": name, "params": params, "lr": rate, "base_lr": rate, "weight_decay": decay})
    return made
