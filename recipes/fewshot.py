"""Train a classifier on few labelled texts, 2 to 64 a class: pairs of them teach a sentence encoder, then a linear head is fitted.

python scripts/finetune.py fewshot --data.train reviews.csv
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

from transformers import AutoConfig

from nlpbp import config as sections
from nlpbp.config.limits import check_limits, refuse_settings_of_stages
from nlpbp.core.errors import ConfigError
from nlpbp.core.pooling import Pooling
from nlpbp.data.pretrained import from_pretrained
from nlpbp.modalities.encoding import encode_parts
from nlpbp.modalities.pretrained import check_length, model_path
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.inputs import read_inputs
from nlpbp.runs.result import RunResult
from nlpbp.text.pooled import PooledConfig, sentence_pooling
from nlpbp.text.transformer import length_limit, load_classifier, load_config, load_tokenizer
from nlpbp.trainers.contrastive import PAIRS_LR, check_pairs, train_fewshot
from nlpbp.trainers.head import choose_head

NAME = "fewshot"


@dataclass(frozen=True)
class Model:
    """The sentence encoder."""

    name: str = "demo:minilm"
    """A folder saved by `save_pretrained`, a hub id, or `demo:minilm` (packaged: 6 layers, 22.7 million parameters). A sentence
    encoder begins with vectors that are worth comparing; another model has to learn them."""
    pooling: Literal["auto", "first", "mean", "max", "concat", "last"] = "auto"
    """How the last states of the tokens become the vector of a text; concat: last, max and mean. auto: as a sentence encoder was
    trained, else the mean."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""


@dataclass(frozen=True)
class Config(sections.TextClassifierSettings):
    """Train a classifier on few labelled texts: contrastive learning on their pairs, then a linear head (as SetFit does)."""

    model: Model = field(default_factory=Model)
    optim: sections.Optim = field(default_factory=lambda: sections.Optim(lr=PAIRS_LR))
    steps: int | None = None
    """Number of steps, each of batch.size texts in groups of 16, all pairs of which are learned from. Default: so many that each
    text is seen 20 times on average, but at least 40 and at most 300."""


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a BERT of a few thousand weights on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=32),
        model=Model(name="tiny:bert"),
        optim=sections.Optim(lr=1e-2, layer_decay=1.0),
        batch=sections.Batch(size=128),
        steps=24,
        eval_steps=12,
    )


def run(config: Config) -> RunResult:
    """Train as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    if config.optim.lr == "auto":
        raise ConfigError(
            "the learning-rate finder is for classifiers", column="optim.lr", hint=f"give a number, such as {PAIRS_LR:g}"
        )
    refuse_settings_of_stages(config)
    with open_run(NAME, config) as run:
        return _train(run, lr=config.optim.lr or PAIRS_LR)


def _train(run: Run[Config], *, lr: float) -> RunResult:
    config = run.settings
    inputs = read_inputs(run, config.data)
    check_pairs(run, inputs)
    name, fields = model_path(config.model.name), inputs.fields
    tokenizer = load_tokenizer(name)
    model_config = load_config(name, task=fields.task, labels=fields.labels, dropout_scale=config.dropout.scale)
    max_length = check_length(config.data.max_length, limit=length_limit(model_config, tokenizer))
    loaded = load_classifier(
        name,
        config=model_config,
        tokenizer=tokenizer,
        pooling=_pooling(run, name),
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    texts = encode_parts(run, inputs, tokenizer, max_length=max_length)
    head = choose_head(run, inputs, texts, loaded, is_settled=True)
    if head.probe is None:
        raise ConfigError(
            "the head is fitted on one device, and the model is divided among several", hint="use the recipe transformer_sentiment"
        )
    return train_fewshot(run, inputs, texts, head, config.optim, base_model=config.model.name, lr=lr, steps=config.steps)


def _pooling(run: Run[Config], name: str) -> Pooling:
    """Return how the states of the model `name` are pooled, and say so where it was not asked for."""
    wanted = run.settings.model.pooling
    if wanted != "auto":
        return wanted
    saved = from_pretrained(AutoConfig, name)
    known = cast(Pooling, saved.pooling) if isinstance(saved, PooledConfig) else sentence_pooling(name)
    run.say(f"pooling: {known}, as this sentence encoder was trained with" if known else "pooling: mean")
    return known or "mean"
