"""A pretrained transformer with a new head, and its tokenizer, by folder or hub id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlpbp.core.errors import ConfigError
from nlpbp.core.pooling import Pooling
from nlpbp.core.regularize import scale_dropouts, use_byte_dropout
from nlpbp.core.task import problem_type
from nlpbp.data.pretrained import fits_labels, from_pretrained, renew_head
from nlpbp.text.attention import register_attention
from nlpbp.text.pooled import PooledConfig, PooledForSequenceClassification, pooled_config

AUTO_MODELS = {  # by the suffix of the class name
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForImageClassification": AutoModelForImageClassification,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForCausalLM": AutoModelForCausalLM,
    "LMHeadModel": AutoModelForCausalLM,
}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that neither truncates nor pads by itself.

    A `tokenizer.json` may contain truncation and padding settings of its last use, which would affect every later one. Raises
    `ConfigError` if there is no tokenizer, or no fast one.
    """
    tokenizer = from_pretrained(AutoTokenizer, name)
    if not tokenizer.is_fast:
        raise ConfigError(f"the tokenizer of {name} has no fast (tokenizer.json) form", hint="convert it with transformers first")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one if there is none
        raise ConfigError(f"{name} comes without a tokenizer", hint="save the model's own tokenizer into its folder")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def length_limit(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest input, in tokens, that the model's positions and its tokenizer allow."""
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    # RoBERTa and similar models count positions from the padding id, so the first ones are never used.
    if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet", "longformer"):
        positions -= (config.pad_token_id or 0) + 1
    return int(min(positions, tokenizer.model_max_length))


def load_config(name: str, *, task: str, labels: Sequence[str], dropout_scale: float = 1.0) -> PreTrainedConfig:
    """Load a model's config for a task with these label names (none for regression), with its dropouts multiplied by
    `dropout_scale`."""
    names = list(labels) or ["value"]
    config = from_pretrained(
        AutoConfig,
        name,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={label: index for index, label in enumerate(names)},
        problem_type=problem_type(task),
    )
    try:
        for part in {id(one): one for one in (config, config.get_text_config())}.values():
            scale_dropouts(part, dropout_scale)
    except ValueError as error:
        raise ConfigError(str(error), hint="lower --dropout.scale") from error
    return config


def load_classifier(
    name: str,
    *,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    pooling: Pooling | None = None,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel:
    """Load a classifier in fp32 with the head that `config` asks for.

    Without a `pooling` it is `AutoModelForSequenceClassification`, whose head stays as it is if it was trained for these labels;
    with one, a new linear head on the pooled states of the body.
    """
    config.pad_token_id = tokenizer.pad_token_id
    options: dict[str, Any] = {"dtype": "float32", "use_safetensors": True}
    if pooling is None or isinstance(config, PooledConfig):
        auto = AutoModelForSequenceClassification
        model = from_pretrained(auto, name, config=config, ignore_mismatched_sizes=True, **options)
        renew_head(model, name, labels=[str(label) for label in (config.id2label or {}).values()])
    else:
        model = from_pretrained(AutoModel, name, config=config, **options)
    if pooling is not None:
        model = with_pooling(model, pooling)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ConfigError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, the model {model.get_input_embeddings().num_embeddings}",
            hint="give a model and the tokenizer it was trained with",
        )
    if gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def has_trained_head(config: PreTrainedConfig, labels: Sequence[str]) -> bool:
    """Tell whether a saved model, by its own config, is a classifier of these labels already, or of as many without names."""
    names = config.architectures or [""]
    return names[0].endswith("ForSequenceClassification") and config.num_labels == len(labels) and fits_labels(config, labels)


def faster(model: PreTrainedModel, *, compile: bool = False) -> PreTrainedModel:
    """Compile a model that is complete, or give it faster dropout on a CPU; return it."""
    if not compile:
        return _faster_on_cpu(model)
    model.compile(dynamic=True)
    return model


def with_pooling(model: PreTrainedModel, pooling: Pooling) -> PreTrainedModel:
    """Return a classifier with a new linear head on the pooled states of a model's body, which both then share."""
    body: Any = model.base_model
    pooled: Any = PooledForSequenceClassification(pooled_config(model.config, pooling=pooling), body)
    return cast(PreTrainedModel, pooled.to(model.device))


def load_masked_lm(name: str, *, tokenizer: PreTrainedTokenizerBase, dropout_scale: float = 1.0) -> PreTrainedModel:
    """Load `AutoModelForMaskedLM` in fp32, with a newly initialised head if the folder has none, and faster dropout on a CPU.

    Raises `ConfigError` for a tokenizer without a mask token.
    """
    if tokenizer.mask_token_id is None:
        raise ConfigError(f"the tokenizer of {name} has no mask token", column="mlm.steps", hint="leave --mlm.steps out")
    config = from_pretrained(AutoConfig, name)
    scale_dropouts(config, dropout_scale)
    model: PreTrainedModel = from_pretrained(AutoModelForMaskedLM, name, config=config, dtype="float32", use_safetensors=True)
    return _faster_on_cpu(model)


def load_causal_lm(name: str, *, dropout_scale: float = 1.0) -> PreTrainedModel:
    """Load `AutoModelForCausalLM` in fp32, and faster dropout on a CPU."""
    config = from_pretrained(AutoConfig, name)
    try:
        scale_dropouts(config, dropout_scale)
    except ValueError as error:
        raise ConfigError(str(error), hint="lower --dropout.scale") from error
    model: PreTrainedModel = from_pretrained(AutoModelForCausalLM, name, config=config, dtype="float32", use_safetensors=True)
    if not torch.accelerator.is_available():
        use_byte_dropout(model)
    return model


def _faster_on_cpu(model: PreTrainedModel) -> PreTrainedModel:
    if not torch.accelerator.is_available():
        use_byte_dropout(model)
        body: Any = model.base_model
        if body.config._attn_implementation == "sdpa":
            body.set_attn_implementation(register_attention())
    return model


def load_trained(name: str) -> PreTrainedModel:
    """Load a classifier with the head it was saved with, in fp32 and in evaluation mode."""
    model: PreTrainedModel = from_pretrained(AutoModelForSequenceClassification, name, dtype="float32", use_safetensors=True)
    return model.eval()


def load_saved(name: str) -> PreTrainedModel:
    """Load a classifier, a language model or a model without a head, by its config's `architectures`, in fp32 and evaluation
    mode."""
    names = from_pretrained(AutoConfig, name).architectures
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    auto = next((auto for ending, auto in AUTO_MODELS.items() if architecture.endswith(ending)), AutoModel)
    model: PreTrainedModel = from_pretrained(auto, name, dtype="float32", use_safetensors=True)
    return model.eval()
