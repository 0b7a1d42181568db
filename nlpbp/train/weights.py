"""Whole state dicts of a model and its optimizer, from and to whatever accelerate made of them, in safetensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nlpbp.core.errors import CheckpointError


def _options(model: nn.Module) -> StateDictOptions:
    """Gather a sharded model on the main process's CPU; any other is whole in every process as it is."""
    return StateDictOptions(full_state_dict=True, cpu_offload=any(isinstance(p, DTensor) for p in model.parameters()))


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
        try:
            save_tensors(without_shared(state), temporary)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; a disk that fails is an `OSError`, as everywhere else."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the whole state dict, under the names of the plain model; call it in every process.

    Of a sharded model only the main process gets it, in its CPU memory; the others get nothing.
    """
    state: dict[str, Any] = get_model_state_dict(model, options=_options(model))
    return state


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights that `save_weights` wrote; call it in every process."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"not readable: {error}", file=str(path), hint="start again with another --out") from error
    set_full_state(model, state)


def set_full_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give `model` a state dict that `full_state` gathered, tied weights stored once; call it in every process."""
    tied = {name: state[first] for name, first in _shared_names(model).items() if first in state}
    set_model_state_dict(model, {**tied, **state}, options=StateDictOptions(full_state_dict=True))


def full_optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Gather what the optimizer remembers, as `exp_avg/<parameter>` and so on; in every process, as `full_state`."""
    plain = getattr(optimizer, "optimizer", optimizer)
    state: dict[str, Any] = get_optimizer_state_dict(model, plain, options=_options(model))
    entries = ((kind, name, value) for name, values in state.get("state", {}).items() for kind, value in values.items())
    return {f"{kind}/{name}": torch.as_tensor(value).contiguous() for kind, name, value in entries}


def set_full_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """Give the optimizer what `full_optimizer_state` gathered; its groups keep their own settings; call it in every process."""
    plain = getattr(optimizer, "optimizer", optimizer)
    own: dict[str, Any] = get_optimizer_state_dict(model, plain)  # for its groups, which stay as they are
    by_name: dict[str, Any] = {}
    for key, value in state.items():
        kind, _, name = key.partition("/")
        by_name.setdefault(name, {})[kind] = value
    set_optimizer_state_dict(model, plain, {**own, "state": by_name}, options=StateDictOptions(full_state_dict=True))


def plain_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each whole tensor under its plain name, tied weights once; nothing is gathered.

    >>> plain_shapes(nn.Linear(2, 1))
    {'weight': (1, 2), 'bias': (1,)}
    """
    shared = _shared_names(model)
    state: dict[str, Any] = get_model_state_dict(model)
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in shared}


def without_shared(state: dict[str, Tensor]) -> dict[str, Tensor]:
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
