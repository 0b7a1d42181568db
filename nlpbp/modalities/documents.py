"""Whole documents, of any length, for recurrent models: their tokenizer and their tokens."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.modalities.pretrained import model_path
from nlpbp.runs.folder import CACHE, Run
from nlpbp.text.awd_lstm import (
    AWDLSTMForCausalLM,
)
from nlpbp.text.batches import Encoded, encode
from nlpbp.text.recurrent import load_embeddings, load_language_model, model_options, new_language_model
from nlpbp.text.tokenizer import measure_coverage, train_tokenizer
from nlpbp.text.transfer import use_vocabulary_
from nlpbp.text.transformer import load_tokenizer

BATCH = sections.Batch(evaluation_tokens=16_384)  # an eighth faster than half of that, for the matrices are thin: one row a text
KEPT = ("embedding_size", "hidden_size", "num_hidden_layers", "cell", "nonlinearity", "backwards", "decoder_bias")  # of --lm.init
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


class RecurrentSettings(Protocol):
    """What the settings of recipes with a recurrent language model have in common."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def model(self) -> sections.Recurrent: ...  # noqa: D102
    @property
    def tokenizer(self) -> sections.Tokenizer: ...  # noqa: D102
    @property
    def lm(self) -> sections.LanguageModel: ...  # noqa: D102


def starting_point(
    run: Run[Any], settings: RecurrentSettings, texts: Sequence[str]
) -> tuple[AWDLSTMForCausalLM, PreTrainedTokenizerBase, dict[str, Any]]:
    """Return the language model to begin with, its tokenizer, and what a classifier on top of it is to be told.

    It is that of --lm.init, with another vocabulary if the tokenizer is to be another, or a new one, whose tokenizer is trained on
    `texts` or comes with --lm.embeddings.
    """
    lm, wanted = settings.lm, settings.tokenizer
    _refuse_two_starts(lm, wanted)
    if lm.init is not None:
        model, known = load_language_model(lm.init, dropout=lm.dropout)
        tokenizer = tokenizer_for(run, texts, wanted, given=known)
        if tokenizer is not known:
            run.say(str(use_vocabulary_(model, known, tokenizer)))
        return model, tokenizer, model_options(settings.model, tokenizer) | {name: getattr(model.config, name) for name in KEPT}
    embeddings = None if lm.embeddings is None else load_embeddings(model_path(lm.embeddings))
    tokenizer = tokenizer_for(run, texts, wanted, given=None if embeddings is None else embeddings.tokenizer)
    options = model_options(settings.model, tokenizer, width=None if embeddings is None else embeddings.weight.shape[1])
    return new_language_model(options, dropout=lm.dropout, seed=settings.seed, embeddings=embeddings), tokenizer, options


def _refuse_two_starts(lm: sections.LanguageModel, tokenizer: sections.Tokenizer) -> None:
    """Raise `ConfigError` for token embeddings beside what else they would have to fit."""
    if lm.embeddings is None:
        return
    other = "lm.init, whose own are kept" if lm.init else "tokenizer.kind, another vocabulary" if tokenizer.kind else None
    if other is not None:
        hint = "leave --lm.init out" if lm.init else "add --tokenizer.kind None"
        raise ConfigError(f"cannot be combined with {other}", column="lm.embeddings", hint=hint)
