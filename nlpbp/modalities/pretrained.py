"""Pretrained models by name: a folder, a hub id, or one that comes packaged."""

from __future__ import annotations

from torch import nn

from nlpbp.config.optim import FEW_TEXTS
from nlpbp.core.errors import ConfigError
from nlpbp.data.packaged import packaged_model
from nlpbp.runs.folder import CACHE
from nlpbp.text.tiny import tiny_bert

LARGE_MODEL = 50_000_000  # parameters: above, fine-tuning wants a lower rate
MANY_LABELS = 10


def model_path(name: str) -> str:
    """Return the folder of a packaged model; any other name as it is."""
    if name == "demo:minilm":
        return str(packaged_model())
    return str(tiny_bert(CACHE / "tiny-bert")) if name == "tiny:bert" else name


def default_lr(model: nn.Module, *, num_texts: int, several_labels: bool = False) -> float:
    """Return the learning rate where the config says nothing of it: large models want a lower one, and so do few training texts.

    Where a text may have several of many labels, the loss is a mean over all of them, and most are learned from few texts each.
    """
    if sum(p.numel() for p in model.parameters()) > LARGE_MODEL:
        return 3e-5
    return 1e-4 if num_texts < FEW_TEXTS else 5e-4 if several_labels else 2e-4


def head_speed(num_outputs: int) -> float:
    """Return how many times as fast as the layer below it a new head learns, where the config says nothing of it.

    A head of many labels has a longer way to go: with 20 classes this gave .649 and not .642 of 500 texts, and .702 and not .691 of
    2,000; two classes were no better for it.
    """
    return 10.0 if num_outputs >= MANY_LABELS else 1.0


def check_length(max_length: int, *, limit: int, column: str = "data.max_length") -> int:
    """Raise `ConfigError` for texts longer than the model has positions."""
    if max_length > limit:
        raise ConfigError(
            f"{max_length} tokens are asked for, and the model reads {limit} tokens at most",
            column=column,
            hint=f"give {limit} or less",
        )
    return max_length
