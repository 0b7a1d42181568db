"""Train a small recurrent classifier from scratch, a GRU with its own tokenizer: quick to train, small to ship.

python scripts/finetune.py gru_classifier --data.train reviews.csv
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nlpbp import config as sections
from nlpbp.config.limits import check_ranges
from nlpbp.data.corpus import joined_texts
from nlpbp.data.parts import load_inputs
from nlpbp.modalities.documents import BATCH, tokenizer_for
from nlpbp.modalities.encoding import encode_parts
from nlpbp.modalities.texts import text_medium
from nlpbp.runs.agreement import the_same_everywhere
from nlpbp.runs.audit import audit_inputs
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.result import RunResult
from nlpbp.text.recurrent import model_options, new_classifier
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.recurrent_stages import stage_trainings

NAME = "gru_classifier"


@dataclass(frozen=True)
class Config(sections.ClassifierSettings):
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
