"""A BERT and a GPT-2 of a few thousand weights, with a tokenizer, for the tiny form of each recipe, which takes seconds, and for
tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from nlpbp.data.tiny import tiny_reviews

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_bert(folder: Path) -> Path:
    """Write the model and its tokenizer into `folder`, unless it has them already, and return `folder`.

    The weights are random, and always the same.

    >>> import tempfile
    >>> sorted(file.name for file in tiny_bert(Path(tempfile.mkdtemp()) / "bert").iterdir())[:2]
    ['config.json', 'model.safetensors']
    """
    if (folder / "config.json").exists():
        return folder
    config = BertConfig(
        vocab_size=len(_words()) + len(SPECIAL_TOKENS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return _save_once(folder, BertForSequenceClassification, config)


def tiny_gpt(folder: Path) -> Path:
    """Write a GPT-2 of a few thousand weights and its tokenizer into `folder`, unless it has them already, and return `folder`.

    >>> import tempfile
    >>> sorted(file.name for file in tiny_gpt(Path(tempfile.mkdtemp()) / "gpt").iterdir())[:2]
    ['config.json', 'generation_config.json']
    """
    if (folder / "config.json").exists():
        return folder
    end = SPECIAL_TOKENS.index("[SEP]")
    config = GPT2Config(
        vocab_size=len(_words()) + len(SPECIAL_TOKENS),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
    )
    return _save_once(folder, GPT2LMHeadModel, config)


def _save_once(folder: Path, model: Any, config: PreTrainedConfig) -> Path:
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    _tokenizer().save_pretrained(temporary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(config).save_pretrained(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # another process has written it meanwhile
        shutil.rmtree(temporary)
    return folder


def _words() -> list[str]:
    return sorted({word for text in tiny_reviews(num_examples=200).columns["text"] for word in text.split() if word.isalpha()})


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *_words()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
