"""Whole documents, of any length, for recurrent models: their tokenizer and their tokens."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.runs.folder import CACHE, Run
from nlpbp.text.awd_lstm import (
    AWDLSTMForCausalLM,
)
from nlpbp.text.batches import Encoded, encode
from nlpbp.text.tokenizer import measure_coverage, train_tokenizer
from nlpbp.text.transfer import use_vocabulary_
from nlpbp.text.transformer import load_tokenizer

BATCH = sections.Batch(evaluation_tokens=16_384)  # an eighth faster than half of that, for the matrices are thin: one row a text
WHOLE = 10_000_000  # tokens: documents of a language model are not cut


def tokenizer_for(
    run: Run[Any], texts: Sequence[str], wanted: sections.Tokenizer, *, given: PreTrainedTokenizerBase | None = None
) -> PreTrainedTokenizerBase:
    """Return `given` unless another kind is wanted, else a tokenizer trained on `texts`: once, and then from the cache."""
    if given is not None and wanted.kind is None:
        return given
    kind = wanted.kind or "subword"
    digest = hashlib.sha256(f"1/{kind}/{wanted.vocab_size}".encode())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    folder = CACHE / "tokenizers" / digest.hexdigest()[:32]
    with run.accelerator.main_process_first():
        if not (folder / "tokenizer.json").exists():
            run.say(f"training a {kind} tokenizer on {len(texts):,} texts")
            _save_whole(train_tokenizer(texts, kind=kind, vocab_size=wanted.vocab_size), folder)
    return load_tokenizer(str(folder))


def _save_whole(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    tokenizer.save_pretrained(temporary)
    (temporary / "config.json").write_text('{"model_type": "awd_lstm"}', encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(temporary)


def encode_documents(run: Run[Any], parts: dict[str, Sequence[str]], *, tokenizer: PreTrainedTokenizerBase) -> dict[str, Encoded]:
    """Tokenize whole documents for a language model, and say how well the tokenizer fits them."""
    encoded = {}
    for name, texts in parts.items():
        with run.accelerator.main_process_first():
            encoded[name] = encode(
                texts,
                tokenizer=tokenizer,
                max_length=WHOLE,
                cache=CACHE / "tokens",
                show_progress=run.accelerator.is_main_process,
            )
        run.say(f"{name}: {len(encoded[name].tokens):,} tokens, {measure_coverage(texts, encoded[name], tokenizer)}")
    return encoded


def start_from(
    run: Run[Any], given: tuple[AWDLSTMForCausalLM, PreTrainedTokenizerBase], tokenizer: PreTrainedTokenizerBase
) -> AWDLSTMForCausalLM:
    """Return a loaded language model, its vocabulary changed to that of `tokenizer` if it is another one."""
    model, old = given
    if tokenizer is not old:
        run.say(str(use_vocabulary_(model, old, tokenizer)))
    return model
