"""ULMFiT (Howard and Ruder 2018) in one command: a language model on your texts, then a classifier that is unfrozen step by step.

python scripts/finetune.py ulmfit --data.train reviews.csv
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nlpbp import config as sections
from nlpbp.config.limits import check_limits
from nlpbp.core.errors import ConfigError
from nlpbp.core.optim import GROUP_RATIO
from nlpbp.data.columns import Examples
from nlpbp.data.corpus import joined_texts, load_texts
from nlpbp.data.parts import Inputs, fingerprint
from nlpbp.inference.distillation import lesson_of
from nlpbp.modalities.documents import BATCH, encode_documents, starting_point
from nlpbp.modalities.encoding import encode_parts
from nlpbp.modalities.texts import identity, text_modality, tfidf
from nlpbp.runs.folder import Run, open_run
from nlpbp.runs.inputs import read_inputs
from nlpbp.runs.model_folder import save_language_model
from nlpbp.runs.progress import Progress, Stage
from nlpbp.runs.result import RunResult
from nlpbp.text.awd_lstm import AWDLSTMForCausalLM, AWDLSTMForSequenceClassification
from nlpbp.text.recurrent import new_classifier
from nlpbp.train.weights import full_state
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.language_model import LanguageModelData, Reading, StreamPlan, recurrent_plan, train_language_model
from nlpbp.trainers.plans import recurrent_plans
from nlpbp.trainers.stages import epoch_length

NAME = "ulmfit"
CARD = "A language model made by nlpbp on the way to a classifier. `import nlpbp.text` makes transformers know it.\n"
FINE_TUNING_DECAY = 1 / GROUP_RATIO  # of a language model that was trained before: its lower layers need less
GRADUAL_UNFREEZING = (
    sections.Stage(epochs=1, lr=1e-2, train_last=1),
    sections.Stage(epochs=2, lr=5e-3),
)
FROM_SCRATCH = (sections.Stage(lr=5e-3),)


@dataclass(frozen=True)
class Transfer(sections.LanguageModel):
    """How the language model is made, before there is a classifier."""

    sampled_softmax: int | None = 1024
    """Estimate the training loss from the tokens that occur in a step and so many others, twice as fast; None: from all. Scores
    are never estimates."""
    skip: bool = False
    """Leave it out: a classifier from scratch. To take --lm.init as it is, give --lm.steps 0."""
    pretrain_data: str | None = None
    """First train the language model on these texts: any source that has texts."""
    pretrain_steps: int | None = None
    """Windows to train on then. Default: one pass."""
    unlabelled: str | None = None
    """More texts of the target's kind, without labels, for the language model."""


@dataclass(frozen=True)
class Config(sections.TextClassifierSettings):
    """ULMFiT: a language model on your texts, then a classifier that is unfrozen step by step."""

    data: sections.Data = field(default_factory=lambda: sections.Data(train="demo:imdb", max_length=400))
    model: sections.Recurrent = field(default_factory=sections.Recurrent)
    tokenizer: sections.Tokenizer = field(default_factory=sections.Tokenizer)
    distil: str | None = None
    """Learn from the answers of this run, of a transformer for instance, and not from the labels: on the training texts and on
    --lm.unlabelled (Tang et al. 2019). A small net that answers nearly as well."""
    lm: Transfer = field(default_factory=lambda: Transfer(steps=1200))
    stages: tuple[sections.Stage, ...] = GRADUAL_UNFREEZING
    """The classifier's training: what trains in each stage, for how long and how fast (gradual unfreezing, practice N6). Left as
    it is beside --lm.skip: all layers at 5e-3 for 5 epochs, or for 250 steps in 20 epochs at most, since a body that knows nothing
    is not to be kept frozen."""
    optim: sections.RecurrentOptim = field(default_factory=sections.RecurrentOptim)
    dropout: sections.Dropout = field(default_factory=lambda: sections.Dropout(scale=0.1))
    batch: sections.Batch = field(default_factory=lambda: BATCH)


def tiny() -> Config:
    """Return smoke-test settings, which run in seconds: a small net on sentences made by rule."""
    return Config(
        data=sections.Data(train="tiny:reviews", max_length=64),
        model=sections.Recurrent(size="tiny"),
        tokenizer=sections.Tokenizer(kind="word", vocab_size=400),
        lm=Transfer(epochs=1, batch_size=8, bptt=12, lr=2e-2, dropout=0.3),
        stages=(sections.Stage(epochs=1, lr=3e-2, train_last=1), sections.Stage(epochs=2, lr=3e-2)),
        dropout=sections.Dropout(scale=0.1),
        batch=sections.Batch(size=16),
    )


def run(config: Config) -> RunResult:
    """Train as `config` says; everything is written to the run folder, the language model into `language_model/`.

    Raises `NlpbpError` (with the place and the fix) for whatever a user can repair.
    """
    check_limits(config)
    unread = config.lm.unlabelled and not config.distil
    if config.lm.skip and (config.lm.init or config.lm.pretrain_data or unread):
        others = "--lm.init, --lm.pretrain_data or --lm.unlabelled"
        raise ConfigError(f"leaves out what {others} name", column="lm.skip", hint="one or the other")
    if config.lm.init and config.lm.pretrain_data:
        raise ConfigError("is trained already; there is --lm.pretrain_data too", column="lm.init", hint="one or the other")
    if config.lm.steps == 0 and not (config.lm.skip or config.lm.init or config.lm.pretrain_data):
        raise ConfigError("trains no language model, and none is given", column="lm.steps", hint="give --lm.init, or --lm.skip")
    if config.lm.steps is not None and config.lm.epochs != 1:
        beside = f"--lm.steps {config.lm.steps}"
        raise ConfigError(f"would have no effect beside {beside}", column="lm.epochs", hint="add --lm.steps None")
    with open_run(NAME, config) as run:
        return _train(run)


def _train(run: Run[Config]) -> RunResult:
    config = run.settings
    inputs = read_inputs(run, config.data)
    wording = read_language_model_texts(inputs, config.lm)
    seen = [text for part in ("pretraining", "train") for text in wording.get(part, [])]
    model, tokenizer, options = starting_point(run, config, seen)
    all_texts = fingerprint([Examples("", part, None, None, []) for part in wording.values()])
    names = identity(inputs, tokenizer) | {"data": f"{inputs.fingerprint}, all texts {all_texts}"}
    lesson = None if config.distil is None else lesson_of(run, inputs, config.distil, unlabelled=config.lm.unlabelled)
    taught, names = (inputs, names) if lesson is None else (lesson.inputs, names | {"teacher": lesson.fingerprint})
    texts = encode_parts(run, taught, tokenizer, max_length=config.data.max_length)
    stages = FROM_SCRATCH if config.lm.skip and config.stages == GRADUAL_UNFREEZING else config.stages
    plans = recurrent_plans(stages, config.optim, config.cycles, from_scratch=config.lm.skip)
    progress: Progress | None = None
    num_stages = 0 if config.lm.skip else (config.lm.pretrain_data is not None) + (config.lm.steps != 0)
    if num_stages:
        later = epoch_length(run, taught, texts.parts["train"]) * sum(plan.epochs for plan in plans)
        data = LanguageModelData(encode_documents(run, dict(wording), tokenizer=tokenizer), tokenizer, names)
        progress, model = make_language_model(run, data, model, later_steps=later)

    classifier = classifier_on(run, inputs, model, options)
    base = config.lm.embeddings or "nothing" if config.lm.skip else config.lm.init or "a language model of the same texts"
    modality = text_modality(run, taught, texts, model=classifier, base_model=base, names=names)
    if lesson is not None:
        baselines = {"tfidf": tfidf(inputs), "teacher": lesson.outputs}
        modality = replace(modality, baselines=lambda: baselines)
    return train_classifier(
        run,
        taught,
        model=classifier,
        plans=plans,
        modality=modality,
        before=progress,
        first_stage=num_stages,
        soft_targets=None if lesson is None else lesson.targets,
    )


def classifier_on(
    run: Run[Config], inputs: Inputs, model: AWDLSTMForCausalLM, options: dict[str, Any]
) -> AWDLSTMForSequenceClassification:
    """Return a classifier with the body of a language model, or with its embeddings alone, if those came from a transformer."""
    config, fields = run.settings, inputs.fields
    classifier = new_classifier(
        options,
        task=fields.task,
        labels=fields.labels,
        dropout=config.dropout.scale,
        seed=config.seed,
        value_range=config.data.value_range,
    )
    if not config.lm.skip:
        classifier.model.load_state_dict(model.model.state_dict())
    elif config.lm.embeddings:
        classifier.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    return classifier


def read_language_model_texts(inputs: Inputs, lm: Transfer) -> dict[str, list[str]]:
    """Return the texts to train on and to validate by; those of the test set are never among them."""
    train = joined_texts(inputs.train.examples)
    if lm.unlabelled is not None:
        train = [*train, *load_texts(lm.unlabelled).texts]
    pretraining = {} if lm.pretrain_data is None else {"pretraining": load_texts(lm.pretrain_data).texts}
    return {**pretraining, "train": train, "validation": joined_texts(inputs.validation.examples)}


def make_language_model(
    run: Run[Config], data: LanguageModelData, model: AWDLSTMForCausalLM, *, later_steps: int
) -> tuple[Progress | None, AWDLSTMForCausalLM]:
    """Pretrain where there is something to, fine-tune on the target's texts, and save the language model into the run folder.

    Its end is None when the run has gone on to the classifier before, which then comes from a checkpoint.
    """
    lm, accelerator = run.settings.lm, run.accelerator
    stages = language_model_stages(run.settings, data, backwards=bool(model.config.backwards))
    left = [*(plan.total_steps for _, _, plan in stages[1:]), later_steps]
    progress: Progress | None = None
    trained: Any = model
    for index, (name, texts, plan) in enumerate(stages):
        progress, trained = train_language_model(
            run,
            plan,
            texts,
            model=trained,
            reading=Reading(recurrent=True, activation=lm.ar_alpha, temporal=lm.tar_beta, num_sampled=lm.sampled_softmax),
            before=progress,
            stage=Stage(name, index, later_steps=sum(left[index:])),
        )
    if progress is not None:
        state = full_state(trained)
        if accelerator.is_main_process:
            plain = accelerator.unwrap_model(trained)
            save_language_model(plain, data.tokenizer, state, folder=run.out / "language_model", card=CARD)
    return progress, accelerator.unwrap_model(trained, keep_fp32_wrapper=False)


def language_model_stages(
    config: Config, data: LanguageModelData, *, backwards: bool
) -> list[tuple[str, LanguageModelData, StreamPlan]]:
    """Return the trainings of the language model in their order, each with its name and its texts."""
    lm, encoded, stages = config.lm, data.encoded, []
    target = replace(data, encoded={"train": encoded["train"], "validation": encoded["validation"]})
    settings = replace(lm, layer_decay=FINE_TUNING_DECAY) if lm.init and lm.layer_decay == 1.0 else lm
    if lm.steps != 0:
        stages.append(("language model", target, recurrent_plan(settings, target, cycles=config.cycles, backwards=backwards)))
    if "pretraining" in encoded:
        general = replace(data, encoded={**target.encoded, "train": encoded["pretraining"]})
        first = replace(lm, steps=lm.pretrain_steps, epochs=1)
        stages.insert(0, ("pretraining", general, recurrent_plan(first, general, cycles=config.cycles, backwards=backwards)))
    return stages
