"""Continue the training of any causal language model on your texts: all weights, or low-rank adapters.

python scripts/finetune.py lm_transformer --model.name path/to/model --data.train texts/
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from nlpbp import config as sections
from nlpbp.config.limits import check_limits, refuse_classifier_settings
from nlpbp.core.errors import ConfigError
from nlpbp.core.groups import layer_groups
from nlpbp.data.corpus import Corpus
from nlpbp.modalities.documents import encode_documents
from nlpbp.modalities.texts import identity
from nlpbp.runs.fit import Averaging
from nlpbp.runs.folder import CACHE, Run, open_run
from nlpbp.runs.inputs import read_corpus
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.runs.result import RunResult
from nlpbp.text.lm_data import StreamShape, append_token
from nlpbp.text.tiny import tiny_gpt
from nlpbp.text.transformer import length_limit, load_causal_lm, load_tokenizer
from nlpbp.trainers.language_model import (
    LanguageModelData,
    Reading,
    StreamPlan,
    TrainedModel,
    check_rows,
    finish_language_model,
    score,
    train_language_model,
    windows_to_do,
)
from nlpbp.trainers.optimizers import schedule_of, transformer_optimizer
from nlpbp.trainers.stages import as_saved

NAME = "lm_transformer"
DEFAULT_LR = 5e-5


@dataclass(frozen=True)
class Model:
    """The pretrained language model."""

    name: str | None = None
    """A folder saved by `save_pretrained`, or a hub id; it has to be named."""


@dataclass(frozen=True)
class Config(sections.RunSettings):
    """Continue the training of a causal language model on texts."""

    data: sections.Texts = field(default_factory=sections.Texts)
    model: Model = field(default_factory=Model)
    lora: sections.Lora = field(default_factory=sections.Lora)
    optim: sections.Optim = field(default_factory=lambda: sections.Optim(lr=5e-5, layer_decay=1.0))
    dropout: sections.Dropout = field(default_factory=sections.Dropout)
    batch: sections.Batch = field(default_factory=lambda: sections.Batch(size=16))
    block_size: int = 128
    """Tokens a window: each stands alone, and documents are packed into them end to end."""
    epochs: int = 1
    """Passes over the texts, where `steps` are not given."""
    steps: int | None = None
    """Steps of `batch.size` windows. Default: `epochs` passes."""


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a GPT-2 of a few thousand weights on sentences made by rule."""
    return Config(
        data=sections.Texts(train="tiny:reviews", validation_share=0.1, test_share=0.1),
        model=Model(name="tiny:gpt"),
        optim=sections.Optim(lr=1e-2, layer_decay=1.0),
        batch=sections.Batch(size=8),
        block_size=16,
        epochs=2,
    )


def run(config: Config) -> RunResult:
    """Train as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    if config.model.name is None:
        hint = "a folder saved by save_pretrained, or a hub id"
        raise ConfigError("name the model to go on with", column="model.name", hint=hint)
    refuse_classifier_settings(config)
    with open_run(NAME, config) as run:
        return _train(run, config.model.name)


def _train(run: Run[Config], name: str) -> RunResult:
    config = run.settings
    corpus = read_corpus(run, config.data)
    name = str(tiny_gpt(CACHE / "tiny-gpt")) if name == "tiny:gpt" else name
    tokenizer = load_tokenizer(name)
    model: Any = load_causal_lm(name, dropout_scale=config.dropout.scale)
    refuse_settings(config, model, tokenizer)
    data = encode_corpus(run, corpus, tokenizer)
    if config.lora.rank is not None:
        model = with_adapters(model, config.lora, seed=config.seed)
    plan, reading = stream_plan(config, data), Reading(recurrent=False)
    model.to(run.accelerator.device)
    before, _ = score(run, model, data.encoded["validation"], plan.shape, reading=reading)
    progress, trained = train_language_model(run, plan, data, model=model, reading=reading, eval_steps=config.eval_steps)
    assert progress is not None, "no stage comes after it"
    saved: Any = as_saved(run.accelerator, trained)
    if config.lora.rank is not None:
        trained = saved = saved.merge_and_unload()
    return finish_language_model(
        run,
        corpus,
        data,
        progress,
        plan,
        trained=TrainedModel(trained, saved),
        reading=reading,
        base_model=str(config.model.name),
        before=before,
    )


def refuse_settings(config: Config, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ConfigError` for windows that the model cannot read, and for a learning rate of a head that it does not have."""
    limit = length_limit(model.config, tokenizer)
    if config.block_size > limit:
        raise ConfigError(f"the model reads {limit} tokens at most", column="block_size", hint=f"give {limit} or less")
    if config.optim.head_lr is not None and not any(group.name == "head" for group in layer_groups(model)):
        raise ConfigError("the model's head is its embedding", column="optim.head_lr", hint="leave it out")


def encode_corpus(run: Run[Config], corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> LanguageModelData:
    """Tokenize the texts, each with the model's end of text behind it."""
    encoded = encode_documents(run, dict(corpus.parts), tokenizer=tokenizer)
    end = tokenizer.eos_token_id
    if end is not None and encoded["train"].tokens[-1] != end:
        encoded = {part: append_token(documents, end) for part, documents in encoded.items()}
    check_rows(run.settings.batch.size, encoded)
    return LanguageModelData(encoded, tokenizer, identity(corpus, tokenizer))


def stream_plan(config: Config, data: LanguageModelData) -> StreamPlan:
    """Plan the training: AdamW with the practices of a transformer, windows that stand alone."""
    optim = config.optim
    shape = StreamShape(config.batch.size, config.block_size, data.tokenizer.pad_token_id)
    return StreamPlan(
        total_steps=windows_to_do(data.encoded["train"], shape, steps=config.steps, epochs=config.epochs),
        shape=shape,
        make_optimizer=transformer_optimizer(optim, lr=SWEPT if optim.lr == "auto" else optim.lr or DEFAULT_LR),
        schedule=schedule_of(optim.schedule, config.cycles, warmup=optim.warmup_ratio),
        max_grad_norm=optim.max_grad_norm,
        averaging=Averaging(optim.swa_start, optim.ema_decay),
        find_lr=optim.lr == "auto",
    )


def with_adapters(model: Any, lora: sections.Lora, *, seed: int) -> Any:
    """Freeze the model and give each linear layer a low-rank adapter.

    Raises `ConfigError` when the package peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("adapters need the package peft", column="lora.rank", hint="pip install 'nlpbp[lora]'") from error
    torch.manual_seed(seed)
    rank, alpha = lora.rank, cast(int, lora.alpha)  # peft divides by it: a float will do
    assert rank is not None, "adapters are asked for"
    options = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2 stores its matrices transposed
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks by transformers' old name
        return get_peft_model(model, options)
