"""Train a small recurrent classifier from scratch, a GRU with its own tokenizer: quick to train, small to ship.

python scripts/finetune.py gru_classifier --data.train reviews.csv
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nlpbp import config as sections
from nlpbp.config.limits import check_limits
from nlpbp.data.corpus import joined_texts
from nlpbp.modalities.documents import BATCH, tokenizer_for
from nlpbp.modalities.encoding import encode_parts
from nlpbp.modalities.texts import text_modality
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.inputs import read_inputs
from nlpbp.runs.result import RunResult
from nlpbp.text.recurrent import model_options, new_classifier
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.plans import recurrent_plans

NAME = "gru_classifier"


@dataclass(frozen=True)
class Config(sections.TextClassifierSettings):
    """Train a small recurrent classifier from scratch."""

    model: sections.Recurrent = field(default_factory=lambda: sections.Recurrent(cell="gru"))
    tokenizer: sections.Tokenizer = field(default_factory=lambda: sections.Tokenizer(vocab_size=8_000))
    stages: tuple[sections.Stage, ...] = (sections.Stage(lr=5e-3),)
    """The training: for how long and how fast. Without epochs: 5, or as many as make 250 steps, 20 at most."""
    optim: sections.RecurrentOptim = field(default_factory=sections.RecurrentOptim)
    dropout: sections.Dropout = field(default_factory=lambda: sections.Dropout(scale=0.5))
    batch: sections.Batch = field(default_factory=lambda: BATCH)


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a small net on sentences made by rule."""
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
    check_limits(config)
    with open_run(NAME, config) as run:
        return _train(run)


def _train(run: Run[Config]) -> RunResult:
    config = run.settings
    inputs = read_inputs(run, config.data)
    tokenizer = tokenizer_for(run, joined_texts(inputs.train.examples), config.tokenizer)
    model = new_classifier(
        model_options(config.model, tokenizer),
        task=inputs.fields.task,
        labels=inputs.fields.labels,
        dropout=config.dropout.scale,
        seed=config.seed,
        value_range=config.data.value_range,
    )
    texts = encode_parts(run, inputs, tokenizer, max_length=config.data.max_length)
    modality = text_modality(run, inputs, texts, model=model, base_model="nothing")
    plans = recurrent_plans(config.stages, config.optim, config.cycles, from_scratch=True)
    return train_classifier(run, inputs, model=model, plans=plans, modality=modality)
