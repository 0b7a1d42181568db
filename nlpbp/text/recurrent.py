"""AWD-LSTM models by size, made anew or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import widened
from nlpbp.core.task import problem_type
from nlpbp.data.order import stage_seed
from nlpbp.text.awd_lstm import (
    CLASSIFIER_DROPOUTS,
    LANGUAGE_MODEL_DROPOUTS,
    AWDLSTMConfig,
    AWDLSTMForCausalLM,
    AWDLSTMForSequenceClassification,
)
from nlpbp.text.fastai_weights import load_fastai
from nlpbp.text.tokenizer import frame_documents_
from nlpbp.text.transformer import load_tokenizer

SIZES = {"tiny": (16, 24, 2), "small": (200, 512, 2), "paper": (400, 1152, 3)}  # embedding, hidden units, layers


def model_options(wanted: sections.Recurrent, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what `AWDLSTMConfig` is to be told: sizes, cell and special tokens."""
    embedding_size, hidden_size, num_layers = SIZES[wanted.size]
    return {
        "vocab_size": len(tokenizer),
        "embedding_size": embedding_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "cell": wanted.cell,
        "nonlinearity": wanted.nonlinearity,
        "recurrent_init": wanted.recurrent_init,
        "pooling": wanted.pooling,
        "backwards": wanted.backwards,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def new_language_model(options: dict[str, Any], *, dropout: float, seed: int) -> AWDLSTMForCausalLM:
    """Make an AWD-LSTM language model with weights that follow from the seed."""
    torch.manual_seed(stage_seed(seed, 0))
    return AWDLSTMForCausalLM(AWDLSTMConfig(**options | LANGUAGE_MODEL_DROPOUTS.scaled(dropout).as_config()))


def load_language_model(name: str, *, dropout: float) -> tuple[AWDLSTMForCausalLM, PreTrainedTokenizerBase]:
    """Load an AWD-LSTM language model and its tokenizer from a run folder, a model folder, or a `.pth` file of fastai's.

    Raises `ConfigError` for a folder that holds none, or one that lacks weights, or a tokenizer of another vocabulary.
    """
    if name.endswith(".pth"):
        return _with_dropouts(*load_fastai(Path(name)), dropout=dropout)
    folder = Path(name) / "model" if (Path(name) / "model" / "config.json").is_file() else Path(name)
    tokenizer = load_tokenizer(str(folder))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="float32", use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or ["?"])[0]
        raise ConfigError(f"{name} cannot be loaded: {first}", column="lm.init", hint="give a run of lm_awd_lstm") from error
    model, report = loaded
    if not isinstance(model, AWDLSTMForCausalLM):
        kind = model.config.model_type
        raise ConfigError(f"{name} is a {kind}, not an AWD-LSTM", column="lm.init", hint="give a run of lm_awd_lstm")
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise ConfigError(f"the weights in {name} lack {lacking}", column="lm.init", hint="give a whole run of lm_awd_lstm")
    num_tokens = 1 + max(tokenizer.get_vocab().values())
    if num_tokens != model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer in {name} has {num_tokens:,} tokens, and the embedding is of {model.config.vocab_size:,}",
            column="lm.init",
            hint="give the folder the tokenizer that the model was trained with",
        )
    frame_documents_(tokenizer)
    return _with_dropouts(model, tokenizer, dropout=dropout)


def _with_dropouts(
    model: AWDLSTMForCausalLM, tokenizer: PreTrainedTokenizerBase, *, dropout: float
) -> tuple[AWDLSTMForCausalLM, PreTrainedTokenizerBase]:
    for part, value in LANGUAGE_MODEL_DROPOUTS.scaled(dropout).as_config().items():
        setattr(model.config, part, value)
    return model, tokenizer


def new_classifier(
    options: dict[str, Any],
    *,
    task: str,
    labels: Sequence[str],
    dropout: float,
    seed: int,
    value_range: tuple[float, float] | None = None,
) -> AWDLSTMForSequenceClassification:
    """Make an AWD-LSTM classifier with weights that follow from the seed."""
    torch.manual_seed(stage_seed(seed, 1))
    names = list(labels) or ["value"]
    of_task = {
        "id2label": dict(enumerate(names)),
        "label2id": {label: index for index, label in enumerate(names)},
        "problem_type": problem_type(task),
        "value_range": None if value_range is None else list(widened(*value_range)),
    }
    dropouts = CLASSIFIER_DROPOUTS.scaled(dropout).as_config()
    return AWDLSTMForSequenceClassification(AWDLSTMConfig(**options | dropouts | of_task))
