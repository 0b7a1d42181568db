"""Fine-tune a pretrained transformer on labelled texts: sentiment, topics, several labels at once, or a number.

python scripts/finetune.py transformer_sentiment --data.train reviews.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from nlpbp import config as sections
from nlpbp.config.limits import check_limits
from nlpbp.core.errors import ConfigError
from nlpbp.data.parts import Inputs
from nlpbp.modalities.encoding import EncodedTexts, encode_parts
from nlpbp.modalities.pretrained import MANY_LABELS, check_length, default_lr, head_speed, model_path
from nlpbp.modalities.texts import identity, text_modality
from nlpbp.runs.advice import FEWSHOT
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.inputs import read_inputs
from nlpbp.runs.progress import Progress
from nlpbp.runs.result import RunResult
from nlpbp.text.transformer import faster, length_limit, load_classifier, load_config, load_masked_lm, load_tokenizer
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.contrastive import learns_from_pairs, suggest_fewshot, train_fewshot
from nlpbp.trainers.head import begin_head_, choose_head, settle_pooling
from nlpbp.trainers.masked_lm import adapt, copy_body_, with_unlabelled
from nlpbp.trainers.plans import transformer_plan
from nlpbp.trainers.stages import StagePlan, epoch_length

NAME = "transformer_sentiment"
OF_EACH_TEXT = ("optim", "cycles", "finder", "augment", "mlm", "epochs", "min_steps", "stages")  # settings of a training on them


@dataclass(frozen=True)
class Model:
    """The pretrained model."""

    name: str = "demo:minilm"
    """A folder saved by `save_pretrained`, a hub id, or `demo:minilm` (packaged: 6 layers, 22.7 million parameters)."""
    pooling: Literal["auto", "first", "mean", "max", "concat", "last", "model"] = "auto"
    """How the last states of the tokens become the input of the head; concat: last, max and mean; model: the head of the model's
    own family. auto: as a sentence encoder was trained; else the mean or the family's head, whichever a linear probe of the
    training set prefers. A head that was trained for the same labels is kept."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    compile: bool = False
    """Compile the model with `torch.compile`: pays on a GPU, seldom on a CPU."""


@dataclass(frozen=True)
class Config(sections.TextClassifierSettings):
    """Fine-tune a pretrained transformer on labelled texts."""

    model: Model = field(default_factory=Model)
    optim: sections.Optim = field(default_factory=sections.Optim)
    mlm: sections.MaskedLM = field(default_factory=sections.MaskedLM)
    contrastive: Literal["auto", "never"] = "auto"
    """Learn from pairs of texts, as the recipe fewshot does, and not from each text. auto: a sentence encoder does with fewer than
    128 training texts of several classes, unless a setting says how to train on each (--epochs, --stages, --optim and others)."""
    epochs: int = 3
    """Passes over the training data, where a stage does not say."""
    min_steps: int = 100
    """Fewest steps of such a stage: a small training set gets more epochs, up to 20; 0 for `epochs` alone."""
    stages: tuple[sections.Stage, ...] = (sections.Stage(),)
    """The training, part by part: what trains, for how long, how fast, on texts of what length (gradual unfreezing, practice N6).
    A config file may list several."""


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a BERT of a few thousand weights on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=32),
        model=Model(name="tiny:bert"),
        optim=sections.Optim(lr=1e-2, layer_decay=1.0),
        batch=sections.Batch(size=16),
        epochs=4,
        min_steps=0,
    )


def run(config: Config) -> RunResult:
    """Fine-tune as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    if config.mlm.steps is not None and config.finder.stop_after_stage == 1:
        message = "stage 1 is the masked language model, whose rate is mlm.lr"
        raise ConfigError(message, column="finder.stop_after_stage", hint="name a later one")
    with open_run(NAME, config) as run:
        return _fine_tune(run)


def _fine_tune(run: Run[Config]) -> RunResult:
    config = run.settings
    inputs = read_inputs(run, config.data)
    name, fields = model_path(config.model.name), inputs.fields
    tokenizer = load_tokenizer(name)
    model_config = load_config(name, task=fields.task, labels=fields.labels, dropout_scale=config.dropout.scale)
    limit = length_limit(model_config, tokenizer)
    max_length = check_length(config.data.max_length, limit=limit)
    settled = settle_pooling(run, config.model.pooling, name=name, labels=fields.labels or ("value",))
    is_encoder = config.model.pooling == "auto" and settled.pooling is not None
    model = load_classifier(
        name,
        config=model_config,
        tokenizer=tokenizer,
        pooling=settled.pooling,
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    texts = encode_parts(run, inputs, tokenizer, max_length=max_length)
    head = choose_head(run, inputs, texts, model, is_settled=settled.is_settled)
    if config.contrastive == "auto" and is_encoder and not _is_told_how(config) and learns_from_pairs(run, inputs, head):
        run.say(f"few texts: their pairs are learned from, as in the recipe {FEWSHOT} (--contrastive never: each text alone)")
        return train_fewshot(run, inputs, texts, head, config.optim, base_model=config.model.name)
    suggest_fewshot(run, inputs)
    begin_head_(run, inputs, head, wanted=config.optim.probe)
    model = faster(head.model, compile=config.model.compile)
    for stage in config.stages:
        check_length(stage.max_length or max_length, limit=limit, column="stages.max_length")
    several_labels = fields.target_type == "multilabel-indicator" and len(inputs.labels) >= MANY_LABELS
    lr = default_lr(model, num_texts=len(inputs.train), several_labels=several_labels)
    speed = 1.0 if settled.is_trained else head_speed(len(inputs.labels))
    plans = [
        transformer_plan(
            run, stage, config.optim, epochs=config.epochs, min_steps=config.min_steps, default_lr=lr, head_speed=speed
        )
        for stage in config.stages
    ]

    before, names = None, identity(inputs, tokenizer)
    if config.mlm.steps is not None:
        before, names = adapt_to_texts(run, inputs, texts, model=model, name=name, plans=plans)
    modality = text_modality(run, inputs, texts, model=model, base_model=config.model.name, names=names, probe=head.outputs)
    first_stage = 0 if config.mlm.steps is None else 1
    return train_classifier(run, inputs, model=model, plans=plans, modality=modality, before=before, first_stage=first_stage)


def _is_told_how(config: Config) -> bool:
    """Whether any setting says how to train on each text."""
    usual = Config()
    return any(getattr(config, name) != getattr(usual, name) for name in OF_EACH_TEXT)


def adapt_to_texts(
    run: Run[Config], inputs: Inputs, texts: EncodedTexts, *, model: nn.Module, name: str, plans: Sequence[StagePlan]
) -> tuple[Progress | None, dict[str, str]]:
    """Train the model's body on hidden words of the training texts, and of unlabelled ones; return the stage's end.

    With it goes what checkpoints of the run belong to.
    """
    config = run.settings
    more, names = with_unlabelled(run, inputs, texts, config.mlm)
    masked = load_masked_lm(name, tokenizer=texts.tokenizer, dropout_scale=config.dropout.scale)
    per_epoch = epoch_length(run, inputs, texts.parts["train"])
    later = sum(plan.epochs_of(per_epoch) * per_epoch for plan in plans)
    progress, adapted = adapt(run, more, config.mlm, config.optim, model=masked, names=names, later_steps=later)
    copy_body_(model, adapted)
    return progress, names
