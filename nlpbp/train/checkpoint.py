"""Whole state dicts in safetensors, from and to a model however accelerate wrapped it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict


def save_weights(model: nn.Module, path: Path, *, is_main_process: bool = True) -> None:
    """Write the whole model's weights to `path`, atomically, from the main process; call it in every process.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "best.safetensors"
    >>> model = nn.Linear(1, 1); save_weights(model, path)
    >>> other = nn.Linear(1, 1); load_weights(other, path); bool(other.weight == model.weight)
    True
    """
    state = full_state(model)
    if is_main_process:
        temporary = path.with_name(f"{path.name}.tmp")
        save_file(_without_shared(state), temporary)
        os.replace(temporary, path)


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the whole state dict on the CPU, under the names of the plain model; call it in every process."""
    state: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return state


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote; call it in every process."""
    state = load_file(path)
    tied = {name: state[first] for name, first in _shared_names(model).items() if first in state}
    set_model_state_dict(model, {**tied, **state}, options=StateDictOptions(full_state_dict=True))


def _without_shared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep one name of each tied weight: safetensors stores no memory twice."""
    seen: set[tuple[int, torch.Size]] = set()
    kept = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() == 0 or key not in seen:
            kept[name] = tensor.contiguous()
        seen.add(key)
    return kept


def _shared_names(model: nn.Module) -> dict[str, str]:
    """Map each further name of a tied parameter to its first one."""
    first: dict[int, str] = {}
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        plain = name.removeprefix("module.")
        if id(parameter) in first:
            shared[plain] = first[id(parameter)]
        first.setdefault(id(parameter), plain)
    return shared
