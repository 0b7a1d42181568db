"""Train a small recurrent classifier from scratch, a GRU with its own tokenizer: quick to train, small to ship.

python scripts/finetune.py gru_classifier --data.train reviews.csv
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nlpbp.train.setup import Precision
from recipes.common import config as sections
from recipes.common.classifier import train_classifier
from recipes.common.data_audit import audit_inputs
from recipes.common.encoding import encode_parts
from recipes.common.folder import Run, open_run
from recipes.common.inputs import joined_texts, load_inputs, the_same_everywhere
from recipes.common.ranges import check_ranges
from recipes.common.recurrent import BATCH, model_options, new_classifier, stage_trainings, tokenizer_for
from recipes.common.results import RunResult
from recipes.common.texts import text_medium

NAME = "gru_classifier"


@dataclass(frozen=True)
class Config:
    """Train a small recurrent classifier from scratch."""

    data: sections.Data = field(default_factory=sections.Data)
    model: sections.Recurrent = field(default_factory=lambda: sections.Recurrent(cell="gru"))
    tokenizer: sections.Tokenizer = field(default_factory=lambda: sections.Tokenizer(vocab_size=8_000))
    stages: tuple[sections.Stage, ...] = (sections.Stage(epochs=4, lr=1e-3),)
    """The training: for how long and how fast."""
    optim: sections.RecurrentOptim = field(default_factory=sections.RecurrentOptim)
    dropout: sections.Dropout = field(default_factory=lambda: sections.Dropout(scale=0.5))
    augment: sections.Augment = field(default_factory=sections.Augment)
    batch: sections.Batch = field(default_factory=lambda: BATCH)
    cycles: sections.Cycles = field(default_factory=sections.Cycles)
    finder: sections.Finder = field(default_factory=sections.Finder)
    checkpoint: sections.Checkpoints = field(default_factory=sections.Checkpoints)
    report: sections.Report = field(default_factory=sections.Report)
    eval_steps: int | None = None
    """Evaluate every so many steps. Left out: at the end of each epoch."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a better validation score. Left out: never."""
    calibrate: bool = False
    """Divide the logits by a temperature that is fitted on the validation part, where that lowers the log loss of examples it was
    not fitted on: probabilities then say how often the model is right, and no class changes. calibration.json has the numbers."""
    out: str | None = None
    """The run folder. Left out: runs/gru_classifier-1, -2, ..."""
    seed: int = 0
    """Of everything random: the weights, the order, the dropout. The split of the data does not depend on it."""
    threads: int | None = None
    """CPU threads a process. Left out: all physical cores, shared among the processes of this machine."""
    precision: Precision = "auto"
    """Number format of the forward pass. auto: what accelerate is configured for, else bf16 where it is measured faster."""
    track: str | None = None
    """Also log to this tracker of accelerate's (tensorboard, wandb, mlflow, ...)."""
    resume: str = "auto"
    """auto: go on with an unfinished run of the same settings and data in --out; never: do not; or the run folder to go on with."""
    push_to_hub: str | None = None
    """Send the finished model to this repository of the hub."""


def tiny() -> Config:
    """Return the seconds-long form: a small net on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=64),
        model=sections.Recurrent(size="tiny", cell="gru"),
        tokenizer=sections.Tokenizer(kind="word", vocab_size=400),
        stages=(sections.Stage(epochs=3, lr=3e-2),),
        dropout=sections.Dropout(scale=0.5),
        batch=sections.Batch(size=16),
    )


def run(config: Config) -> RunResult:
    """Train as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_ranges(config)
    with open_run(NAME, config) as run:
        return _train(run, config)


def _train(run: Run, config: Config) -> RunResult:
    inputs = the_same_everywhere(run, lambda: load_inputs(config.data))
    for note in inputs.notes:
        run.say(note)
    audit_inputs(run, inputs, config.report, max_length=config.data.max_length)
    fields = inputs.fields
    tokenizer = tokenizer_for(run, joined_texts(inputs.train.examples), config.tokenizer)
    options = model_options(config.model, tokenizer)
    model = new_classifier(
        options,
        task=fields.task,
        labels=fields.labels,
        dropout=config.dropout.scale,
        seed=config.seed,
        value_range=config.data.value_range,
    )
    medium = text_medium(
        run,
        config,
        inputs,
        model=model,
        tokenizer=tokenizer,
        encoded=encode_parts(run, inputs, tokenizer=tokenizer, max_length=config.data.max_length, cut=config.data.cut),
        max_length=config.data.max_length,
        base_model="nothing",
        augment=config.augment,
    )
    return train_classifier(
        run,
        config,
        inputs,
        model=model,
        trainings=stage_trainings(config.stages, config.optim, config.cycles),
        medium=medium,
    )
