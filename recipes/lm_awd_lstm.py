"""Train a recurrent language model on any texts: what `ulmfit` starts from, and `pipeline("text-generation")` writes with.

python scripts/finetune.py lm_awd_lstm --data.train texts/
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nlpbp import config as sections
from nlpbp.config.limits import check_limits, refuse_classifier_settings
from nlpbp.core.errors import ConfigError
from nlpbp.modalities.documents import encode_documents, starting_point
from nlpbp.modalities.texts import identity
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.inputs import read_corpus
from nlpbp.runs.result import RunResult
from nlpbp.trainers.language_model import (
    LanguageModelData,
    Reading,
    TrainedModel,
    finish_language_model,
    recurrent_plan,
    score,
    train_language_model,
)
from nlpbp.trainers.stages import as_saved

NAME = "lm_awd_lstm"


@dataclass(frozen=True)
class Config(sections.RunSettings):
    """Train a recurrent language model on texts."""

    data: sections.Texts = field(default_factory=sections.Texts)
    model: sections.Recurrent = field(default_factory=sections.Recurrent)
    tokenizer: sections.Tokenizer = field(default_factory=sections.Tokenizer)
    lm: sections.LanguageModel = field(default_factory=sections.LanguageModel)
    batch: sections.MicroBatches = field(default_factory=sections.MicroBatches)


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a small net on sentences made by rule."""
    return Config(
        data=sections.Texts(train="tiny:reviews", validation_share=0.1, test_share=0.1),
        model=sections.Recurrent(size="tiny"),
        tokenizer=sections.Tokenizer(kind="word", vocab_size=400),
        lm=sections.LanguageModel(epochs=2, batch_size=8, bptt=12, lr=2e-2, dropout=0.3),
    )


def run(config: Config) -> RunResult:
    """Train as `config` says; everything is written to the run folder.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    refuse_classifier_settings(config)
    if config.lm.steps == 0:
        raise ConfigError("trains nothing", column="lm.steps", hint="give 1 or more")
    with open_run(NAME, config) as run:
        return _train(run)


def _train(run: Run[Config]) -> RunResult:
    config = run.settings
    corpus = read_corpus(run, config.data)
    model, tokenizer, _ = starting_point(run, config, corpus.train)
    encoded = encode_documents(run, dict(corpus.parts), tokenizer=tokenizer)
    data = LanguageModelData(encoded, tokenizer, identity(corpus, tokenizer))
    lm = config.lm
    plan = recurrent_plan(lm, data, cycles=config.cycles, backwards=bool(model.config.backwards))
    reading = Reading(recurrent=True, activation=lm.ar_alpha, temporal=lm.tar_beta, num_sampled=lm.sampled_softmax)
    before = None
    if lm.init is not None:
        model.to(run.accelerator.device)
        before = score(run, model, encoded["validation"], plan.shape, reading=reading)[0]
    progress, trained = train_language_model(run, plan, data, model=model, reading=reading, eval_steps=config.eval_steps)
    assert progress is not None, "no stage comes after it"
    return finish_language_model(
        run,
        corpus,
        data,
        progress,
        plan,
        trained=TrainedModel(trained, as_saved(run.accelerator, trained)),
        reading=reading,
        base_model=lm.init or lm.embeddings or "nothing",
        before=before,
    )
