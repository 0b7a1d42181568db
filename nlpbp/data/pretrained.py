"""Load pretrained models, tokenizers and processors by folder or hub id, with clear errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import output_layer
from nlpbp.data.hub import go_offline_if_out_of_reach


def from_pretrained(auto: Any, name: str, **options: Any) -> Any:
    """Load from a folder or the hub; a failure raises `ConfigError` with the reason in one line."""
    looks_local = exists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not exists(f"{name}/config.json"):
        hint = "give a folder saved by save_pretrained, or a hub id"
        if exists(f"{name}/model/config.json"):
            hint = f"it is a run's folder: give {Path(name, 'model')}"
        raise ConfigError(f"{name} is not a model folder: it has no config.json", hint=hint)
    if not looks_local:
        go_offline_if_out_of_reach()
    try:
        # Never run code that comes with a model, nor unpickle its weights; transformers would ask on the terminal.
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError, RecursionError) as error:
        if looks_local:
            raise ConfigError(f"{name} cannot be loaded: {_first_line(error)}", hint="check that the folder is complete") from error
        offline = huggingface_hub.constants.HF_HUB_OFFLINE or "connect" in str(error).lower()
        reason = "no network" if offline else _first_line(error)
        raise ConfigError(f"{name} cannot be loaded from the hub: {reason}", hint="give a local folder, or check the id") from error
    except RuntimeError as error:
        if "can't start new thread" not in str(error) or "HF_DEACTIVATE_ASYNC_LOAD" in os.environ:
            raise
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # load in this thread instead
        return from_pretrained(auto, name, **options)


def renew_head(model: PreTrainedModel, name: str, *, labels: Sequence[str]) -> PreTrainedModel:
    """Newly initialise the last layer of `model`, unless the checkpoint was trained for these labels in this order, or names none.

    Otherwise a head for the same number of other labels would be loaded, and training would start with the wrong classes. The bias
    of a new head is 0, as transformers leaves that of most: so `nlpbp.trainers.targets` knows it for new.
    """
    if not fits_labels(from_pretrained(AutoConfig, name), labels):
        head = output_layer(model, num_outputs=len(labels))
        head.reset_parameters()
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)
    return model


def fits_labels(config: PreTrainedConfig, labels: Sequence[str]) -> bool:
    """Tell whether a saved config names these labels in this order, or none but transformers' own LABEL_0, LABEL_1 ...

    >>> fits_labels(PreTrainedConfig(id2label={0: "neg", 1: "pos"}), ["pos", "neg"])
    False
    """
    names: dict[Any, str] = dict(config.id2label or {})
    known = [names[index] for index in sorted(names)]  # in whatever order the file lists them
    return known == list(labels) or all(label == f"LABEL_{index}" for index, label in enumerate(known))


def exists(name: str) -> bool:
    """Tell whether a path exists; False also for names that no file system allows.

    >>> exists("a" * 5000)
    False
    """
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
