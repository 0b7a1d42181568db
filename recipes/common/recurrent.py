"""What the recipes with recurrent nets share: their tokenizer, their sizes, the encoding of documents, a classifier's stages."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import widened
from nlpbp.core.optim import RECURRENT_BETAS, RECURRENT_EPS
from nlpbp.data.pretrained import PROBLEM_TYPES
from nlpbp.text.awd_lstm import (
    CLASSIFIER_DROPOUTS,
    LANGUAGE_MODEL_DROPOUTS,
    AWDLSTMConfig,
    AWDLSTMForCausalLM,
    AWDLSTMForSequenceClassification,
)
from nlpbp.text.batches import Encoded, encode
from nlpbp.text.fastai_weights import load_fastai
from nlpbp.text.tokenizer import frame_documents_, measure_coverage, train_tokenizer
from nlpbp.text.transfer import use_vocabulary_
from nlpbp.text.transformer import load_tokenizer
from recipes.common import config as sections
from recipes.common.finder import SWEPT
from recipes.common.folder import CACHE, Run
from recipes.common.optimize import epochs_of, make_optimizer, momentum_of, schedule_of, snapshot_steps
from recipes.common.training import Training, stage_seed

SIZES = {"tiny": (16, 24, 2), "small": (200, 512, 2), "paper": (400, 1152, 3)}  # embedding, hidden units, layers
HEAD_LR = 1e-2  # of a stage that says nothing of it
BATCH = sections.Batch(evaluation_tokens=16_384)  # an eighth faster than half of that, for the matrices are thin: one row a text
WHOLE = 10_000_000  # tokens: documents of a language model are not cut


def tokenizer_for(
    run: Run, texts: Sequence[str], wanted: sections.Tokenizer, *, given: PreTrainedTokenizerBase | None = None
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


def encode_documents(run: Run, parts: dict[str, Sequence[str]], *, tokenizer: PreTrainedTokenizerBase) -> dict[str, Encoded]:
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


def start_from(
    run: Run, given: tuple[AWDLSTMForCausalLM, PreTrainedTokenizerBase], tokenizer: PreTrainedTokenizerBase
) -> AWDLSTMForCausalLM:
    """Return a loaded language model, its vocabulary changed to that of `tokenizer` if it is another one."""
    model, old = given
    if tokenizer is not old:
        run.say(str(use_vocabulary_(model, old, tokenizer)))
    return model


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
        "problem_type": PROBLEM_TYPES[task],
        "value_range": None if value_range is None else list(widened(*value_range)),
    }
    dropouts = CLASSIFIER_DROPOUTS.scaled(dropout).as_config()
    return AWDLSTMForSequenceClassification(AWDLSTMConfig(**options | dropouts | of_task))


def stage_trainings(stages: Sequence[sections.Stage], optim: sections.RecurrentOptim, cycles: sections.Cycles) -> list[Training]:
    """Turn a config's stages into trainings: rates fall by `optim.group_ratio` from one layer group to the one below."""
    return [_stage_training(stage, optim, cycles) for stage in stages]


def _stage_training(stage: sections.Stage, optim: sections.RecurrentOptim, cycles: sections.Cycles) -> Training:
    wanted = optim.lr or stage.lr or HEAD_LR
    lr = SWEPT if isinstance(wanted, str) else wanted
    ratio = 1.0 if optim.similarity else optim.group_ratio
    return Training(
        epochs=epochs_of(stage.epochs or 1, optim.schedule, cycles),
        make_optimizer=partial(
            make_optimizer,
            name=optim.optimizer,
            lr=lr / ratio,
            head_lr=lr,
            layer_decay=1.0 / ratio,
            similarity=optim.similarity,
            weight_decay=optim.weight_decay,
            betas=(optim.momentum[0], RECURRENT_BETAS[1]),
            eps=RECURRENT_EPS,
        ),
        schedule=schedule_of(optim.schedule, cycles),
        momentum=momentum_of(optim.schedule, optim.momentum),
        sweep=wanted == "auto",
        train_last=stage.train_last,
        max_length=stage.max_length,
        batch_size=stage.batch_size,
        cache_frozen=stage.cache_frozen,
        average_from=optim.average_from,
        ema=optim.ema,
        snapshots=partial(snapshot_steps, schedule=optim.schedule, cycles=cycles),
        name=stage_name(stage.train_last),
    )


def stage_name(train_last: int | None) -> str:
    """Name a stage by what trains in it."""
    if train_last is None:
        return "all layers"
    return "head" if train_last == 1 else f"last {train_last} groups"
