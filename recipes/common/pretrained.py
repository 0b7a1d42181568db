"""Pretrained models by name: a folder, a hub id, or one that comes packaged."""

from __future__ import annotations

from nlpbp.core.errors import ConfigError
from nlpbp.data.packaged import packaged_model
from nlpbp.text.tiny import tiny_bert
from recipes.common.folder import CACHE


def model_path(name: str) -> str:
    """Return the folder of a packaged model; any other name as it is."""
    if name == "demo:minilm":
        return str(packaged_model())
    return str(tiny_bert(CACHE / "tiny-bert")) if name == "tiny:bert" else name


def check_length(max_length: int, *, limit: int) -> int:
    """Raise `ConfigError` for texts longer than the model has positions."""
    if max_length > limit:
        raise ConfigError(
            f"{max_length} tokens are asked for, and the model reads {limit} tokens at most",
            column="data.max_length",
            hint=f"give {limit} or less",
        )
    return max_length
