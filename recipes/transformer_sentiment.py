"""Fine-tune a pretrained transformer on labelled texts: sentiment, topics, several labels at once, or a number.

python scripts/finetune.py transformer_sentiment --data.train reviews.csv
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.config.limits import check_ranges
from nlpbp.core.errors import ConfigError
from nlpbp.core.groups import LayerGroup
from nlpbp.data.columns import Examples
from nlpbp.data.corpus import joined_texts, load_texts
from nlpbp.data.parts import Inputs, fingerprint, load_inputs
from nlpbp.modalities.encoding import encode_parts
from nlpbp.modalities.pretrained import check_length, default_rate, model_path
from nlpbp.modalities.texts import identity, text_medium
from nlpbp.runs.agreement import the_same_everywhere
from nlpbp.runs.audit import audit_inputs
from nlpbp.runs.folder import CACHE, Run, open_run
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.runs.progress import Progress
from nlpbp.runs.result import RunResult
from nlpbp.text.batches import Encoded, encode
from nlpbp.text.transformer import length_limit, load_classifier, load_config, load_masked_lm, load_tokenizer
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.masked_lm import adapt, copy_body_
from nlpbp.trainers.optimizers import epochs_of, schedule_of, snapshot_steps, transformer_optimizer
from nlpbp.trainers.recurrent_stages import stage_name
from nlpbp.trainers.stages import Training, epoch_of

NAME = "transformer_sentiment"


@dataclass(frozen=True)
class Model:
    """The pretrained model."""

    name: str = "demo:minilm"
    """A folder saved by `save_pretrained`, a hub id, or `demo:minilm` (packaged: 6 layers, 22.7 million parameters)."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    compile: bool = False
    """Compile the model with `torch.compile`: pays on a GPU, seldom on a CPU."""


@dataclass(frozen=True)
class Config(sections.ClassifierSettings):
    """Fine-tune a pretrained transformer on labelled texts."""

    data: sections.Data = field(default_factory=sections.Data)
    model: Model = field(default_factory=Model)
    optim: sections.Optim = field(default_factory=sections.Optim)
    mlm: sections.MaskedLM = field(default_factory=sections.MaskedLM)
    dropout: sections.Dropout = field(default_factory=sections.Dropout)
    augment: sections.Augment = field(default_factory=sections.Augment)
    batch: sections.Batch = field(default_factory=sections.Batch)
    cycles: sections.Cycles = field(default_factory=sections.Cycles)
    finder: sections.Finder = field(default_factory=sections.Finder)
    checkpoint: sections.Checkpoints = field(default_factory=sections.Checkpoints)
    report: sections.Report = field(default_factory=sections.Report)
    epochs: int = 3
    """Passes over the training data, where a stage does not say."""
    stages: tuple[sections.Stage, ...] = (sections.Stage(),)
    """The training, part by part: what trains, for how long, how fast, on texts of what length (gradual unfreezing, practice N6).
    A config file may list several."""


def tiny() -> Config:
    """Return the seconds-long form: a BERT of a few thousand weights on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=32),
        model=Model(name="tiny:bert"),
        optim=sections.Optim(lr=1e-2, layer_decay=1.0),
        batch=sections.Batch(size=16),
        epochs=4,
    )


def run(config: Config) -> RunResult:
    """Fine-tune as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_ranges(config)
    if config.mlm.steps is not None and config.finder.only == 1:
        message = "stage 1 is the masked language model, whose rate is mlm.lr"
        raise ConfigError(message, column="finder.only", hint="name a later one")
    with open_run(NAME, config) as run:
        return _fine_tune(run, config)


def _fine_tune(run: Run, config: Config) -> RunResult:
    inputs = the_same_everywhere(run, lambda: load_inputs(config.data))
    for note in inputs.notes:
        run.say(note)
    audit_inputs(run, inputs, config.report, max_length=config.data.max_length)
    fields = inputs.fields

    name = model_path(config.model.name)
    tokenizer = load_tokenizer(name)
    model_config = load_config(name, task=fields.task, labels=fields.labels, dropout_scale=config.dropout.scale)
    max_length = check_length(config.data.max_length, limit=length_limit(model_config, tokenizer))
    model = load_classifier(
        name,
        config=model_config,
        tokenizer=tokenizer,
        gradient_checkpointing=config.model.gradient_checkpointing,
        compile=config.model.compile,
    )
    encoded = encode_parts(run, inputs, tokenizer=tokenizer, max_length=max_length, cut=config.data.cut)

    for stage in config.stages:
        check_length(stage.max_length or max_length, limit=length_limit(model_config, tokenizer), column="stages.max_length")
    trainings = [stage_training(run, stage, config, default=default_rate(model)) for stage in config.stages]

    before, names = None, identity(inputs, tokenizer)
    if config.mlm.steps is not None:
        before, names = adapt_to_texts(
            run,
            config,
            inputs,
            model=model,
            name=name,
            tokenizer=tokenizer,
            encoded=encoded,
            epochs=sum(t.epochs for t in trainings),
        )
    medium = text_medium(
        run,
        config,
        inputs,
        model=model,
        tokenizer=tokenizer,
        encoded=encoded,
        max_length=max_length,
        base_model=config.model.name,
        names=names,
        augment=config.augment,
    )
    return train_classifier(
        run,
        config,
        inputs,
        model=model,
        trainings=trainings,
        medium=medium,
        before=before,
        first_stage=0 if config.mlm.steps is None else 1,
    )


def stage_training(run: Run, stage: sections.Stage, config: Config, *, default: float) -> Training:
    """Turn a stage of the config into a training, with what it leaves out from the rest of the config; `default` is a rate."""
    optim = config.optim
    if config.cycles.cycle_len is not None and stage.epochs is not None:
        raise ConfigError("sets the epochs, which the stage gives too", column="cycles.cycle_len", hint="leave one of them out")
    wanted = stage.lr or optim.lr or default
    lr = SWEPT if isinstance(wanted, str) else wanted
    build = transformer_optimizer(optim, lr=lr)

    def make_optimizer(model: nn.Module, layers: Sequence[LayerGroup]) -> Optimizer:
        optimizer = build(model, layers)
        if wanted != "auto":
            rates = [group["lr"] for group in optimizer.param_groups]
            run.say(f"rates: {max(rates):.1e} for the fastest of {len(layers)} layer groups, {min(rates):.1e} for the slowest")
        return optimizer

    return Training(
        epochs=epochs_of(stage.epochs or config.epochs, optim.schedule, config.cycles),
        make_optimizer=make_optimizer,
        schedule=schedule_of(optim.schedule, config.cycles, warmup=optim.warmup),
        sweep=wanted == "auto",
        train_last=stage.train_last,
        max_length=stage.max_length,
        batch_size=stage.batch_size,
        cache_frozen=stage.cache_frozen,
        average_from=optim.average_from,
        ema=optim.ema,
        snapshots=partial(snapshot_steps, schedule=optim.schedule, cycles=config.cycles),
        name=stage_name(stage.train_last),
    )


def adapt_to_texts(
    run: Run,
    config: Config,
    inputs: Inputs,
    *,
    model: nn.Module,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Mapping[str, Encoded],
    epochs: int,
) -> tuple[Progress | None, dict[str, str]]:
    """Train the model's body on hidden words of the training texts, and of unlabelled ones; return the stage's end.

    With it goes what checkpoints of the run belong to.
    """
    texts, train = joined_texts(inputs.train.examples), encoded["train"]
    if config.mlm.unlabelled is not None:
        texts = [*texts, *load_texts(config.mlm.unlabelled).texts]
        train = encode(texts, tokenizer=tokenizer, max_length=config.data.max_length, cache=CACHE / "tokens")
    names = identity(inputs, tokenizer)
    names["data"] += f", all texts {fingerprint([Examples('', texts, None, None, [])])}"
    masked = load_masked_lm(name, tokenizer=tokenizer, dropout_scale=config.dropout.scale)
    _, per_epoch = epoch_of(run, config, inputs, encoded["train"])
    progress, adapted = adapt(
        run,
        config.mlm,
        model=masked,
        encoded={"train": train, "validation": encoded["validation"]},
        tokenizer=tokenizer,
        batch=config.batch,
        optim=config.optim,
        checkpoint=config.checkpoint,
        identity=names,
        seed=config.seed,
        later_steps=per_epoch * epochs,
        allow_change=config.data.allow_change,
    )
    copy_body_(model, adapted)
    return progress, names
