"""A BERT of a few thousand weights with a tokenizer of its own, for the seconds-long form of recipes and for tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from nlpbp.data.tiny import tiny_reviews

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tiny_bert(folder: Path) -> Path:
    """Write the model and its tokenizer into `folder`, unless they are there, and return it.

    The weights are random, and always the same.

    >>> import tempfile
    >>> sorted(file.name for file in tiny_bert(Path(tempfile.mkdtemp()) / "bert").iterdir())[:2]
    ['config.json', 'model.safetensors']
    """
    if (folder / "config.json").exists():
        return folder
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(temporary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertForSequenceClassification(config).save_pretrained(temporary)
    try:
        temporary.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(temporary)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    words = sorted({word for text in tiny_reviews(num_examples=200).columns["text"] for word in text.split() if word.isalpha()})
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *words])}
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
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
