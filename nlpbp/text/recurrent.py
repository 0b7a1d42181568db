"""AWD-LSTM models by size, made anew or loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import widened
from nlpbp.core.task import problem_type
from nlpbp.data.order import stage_seed
from nlpbp.data.pretrained import from_pretrained
from nlpbp.text.awd_lstm import (
    CLASSIFIER_DROPOUTS,
    LANGUAGE_MODEL_DROPOUTS,
    AWDLSTMConfig,
    AWDLSTMForCausalLM,
    AWDLSTMForSequenceClassification,
)
from nlpbp.text.awd_lstm.encoder import EMBEDDING_RANGE
from nlpbp.text.fastai_weights import load_fastai
from nlpbp.text.tokenizer import frame_documents_
from nlpbp.text.transformer import load_tokenizer

OTHER_MODEL = "name another model"
SIZES = {"tiny": (16, 24, 2), "mini": (100, 200, 2), "small": (200, 512, 2), "paper": (400, 1152, 3)}  # embedding, hidden, layers


@dataclass(frozen=True)
class PretrainedEmbeddings:
    """The token embeddings [vocabulary, width] of a pretrained model, scaled as those of a new AWD-LSTM are, and its tokenizer."""

    weight: Tensor
    tokenizer: PreTrainedTokenizerBase


def load_embeddings(name: str) -> PretrainedEmbeddings:
    """Load the token embeddings of any transformers model, and its tokenizer, which then encloses documents in its own tokens.

    What all tokens have in common is taken away, and the rest is brought to the standard deviation of a new AWD-LSTM's embeddings,
    whose range its recurrent layers expect. Raises `ConfigError` for a model without them, or with too few for its tokenizer.
    """
    tokenizer = load_tokenizer(name)
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token or tokenizer.eos_token
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.bos_token is None:
        raise ConfigError(
            f"the tokenizer of {name} has no token to begin a document with", column="lm.embeddings", hint=OTHER_MODEL
        )
    layer = from_pretrained(AutoModel, name, dtype=torch.float32).get_input_embeddings()
    if not isinstance(layer, nn.Embedding):
        raise ConfigError(f"{name} has no token embeddings", column="lm.embeddings", hint=OTHER_MODEL)
    weight, num_tokens = layer.weight.detach().clone(), vocabulary_size(tokenizer)
    if len(weight) < num_tokens:
        message = f"the tokenizer of {name} has {num_tokens:,} tokens, and the embedding is of {len(weight):,}"
        raise ConfigError(message, column="lm.embeddings", hint=OTHER_MODEL)
    weight = weight[:num_tokens] - weight[:num_tokens].mean(dim=0)
    weight *= EMBEDDING_RANGE / math.sqrt(3.0) / weight.std()
    if tokenizer.pad_token_id is not None:
        weight[tokenizer.pad_token_id] = 0.0
    frame_documents_(tokenizer)
    return PretrainedEmbeddings(weight, tokenizer)


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many rows an embedding needs for every id of a tokenizer, gaps among them included."""
    return 1 + max(tokenizer.get_vocab().values())


def model_options(wanted: sections.Recurrent, tokenizer: PreTrainedTokenizerBase, *, width: int | None = None) -> dict[str, Any]:
    """Return what `AWDLSTMConfig` is to be told: sizes, cell and special tokens; `width` is that of embeddings that are there."""
    embedding_size, hidden_size, num_layers = SIZES[wanted.size]
    return {
        "vocab_size": vocabulary_size(tokenizer),
        "embedding_size": width or embedding_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "cell": wanted.cell,
        "nonlinearity": wanted.nonlinearity,
        "recurrent_init": wanted.recurrent_init,
        "pooling": wanted.pooling,
        "head_norm": wanted.norm,
        "backwards": wanted.backwards,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def new_language_model(
    options: dict[str, Any], *, dropout: float, seed: int, embeddings: PretrainedEmbeddings | None = None
) -> AWDLSTMForCausalLM:
    """Make an AWD-LSTM language model with weights that follow from the seed, but for embeddings that are given."""
    torch.manual_seed(stage_seed(seed, 0))
    model = AWDLSTMForCausalLM(AWDLSTMConfig(**options | LANGUAGE_MODEL_DROPOUTS.scaled(dropout).as_config()))
    if embeddings is not None:
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(embeddings.weight)
    return model


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
    num_tokens = vocabulary_size(tokenizer)
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
