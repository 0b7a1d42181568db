"""Texts as the medium of a classifier."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import widened
from nlpbp.data.corpus import joined_texts
from nlpbp.data.exports import code_span
from nlpbp.data.fields import pack_fields
from nlpbp.data.modality import Answer, Array, Card, MakeBatches, Medium, usage
from nlpbp.data.order import Ints
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.windows import of_windows
from nlpbp.modalities.encoding import encode_part
from nlpbp.runs.agreement import Loaded
from nlpbp.runs.diagnosis import error_record
from nlpbp.runs.folder import Run
from nlpbp.runs.results import save_model
from nlpbp.text.augment import NEGATIONS, POLICIES, Augment, augmented_steps, label_words, read_synonyms
from nlpbp.text.batches import Encoded, batched_steps, collate, encode
from nlpbp.text.mixup import mixup_loss
from nlpbp.trainers.stages import TextConfig, Training

AS_THEY_ARE = sections.Augment()


def text_medium(
    run: Run,
    config: TextConfig,
    inputs: Inputs,
    *,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Mapping[str, Encoded],
    max_length: int,
    base_model: str,
    names: Mapping[str, str] | None = None,
    augment: sections.Augment = AS_THEY_ARE,
) -> Medium:
    """Return how texts are trained on, scored and saved; `encoded` is by part, as `encode_parts` makes it.

    `names` are what checkpoints belong to, where that is more than the data and the tokenizer; `base_model` is for the card.
    """
    worded, cut = augmentation(augment, inputs, tokenizer), config.data.cut
    if augment.mixup:
        refuse_mixup_of_recurrent(model)

    def stage(training: Training) -> tuple[Encoded, MakeBatches]:
        refuse_augmented_parts(training, augment, cut)
        of_stage, length = encoded["train"], training.max_length or max_length
        if training.max_length is not None:
            of_stage = encode_part(run, "train", inputs.train, tokenizer=tokenizer, max_length=length, cut=cut)
        batches = partial(_batches, inputs, of_stage, augment=worded, tokenizer=tokenizer, max_length=length, cut=cut)
        return of_stage, batches

    def mix(loss_fn: LossFn) -> LossFn:
        return mixup_loss(loss_fn, alpha=augment.mixup) if augment.mixup else loss_fn

    def save(plain: Any, state: dict[str, Tensor], folder: Path, card: str) -> None:
        remember_reading(plain, tokenizer, inputs, cut=cut, max_length=max_length)
        save_model(plain, tokenizer, state, folder=folder, card=card)

    def errors(outputs: Array, answer: Answer) -> dict[str, Any]:
        return error_record(
            inputs,
            outputs,
            encoded["validation"],
            tokenizer=tokenizer,
            max_length=max_length if cut == "head" else None,
            answer=lambda texts, pairs: answer(encode(texts, pairs, tokenizer=tokenizer, max_length=max_length, cut=cut)),
            by=config.data.slices,
            with_texts=config.report.texts != "none",
        )

    model_config: Any = model.config
    return Medium(
        kind="text",
        parts=encoded,
        collate=partial(collate, tokenizer=tokenizer),
        max_cost=config.batch.evaluation_tokens,
        stage=stage,
        mix=mix,
        identity=names or identity(inputs, tokenizer),
        save=save,
        errors=errors,
        linear_baseline=partial(tfidf, inputs),
        card=text_card(
            inputs,
            base_model,
            cut=cut,
            max_length=max_length,
            model_type=model_config.model_type,
            value_range=config.data.value_range,
        ),
    )


def _batches(
    inputs: Inputs,
    encoded: Encoded,
    plan: Iterator[list[Ints]],
    *,
    augment: Augment | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    cut: sections.Cut,
    labels: Array,
    first_step: int,
    seed: int,
) -> Iterator[list[Batch]]:
    """Turn a plan into batches: of the texts as they are, or of another wording of them in every step."""
    if augment is None:
        return batched_steps(plan, encoded, tokenizer=tokenizer, labels=of_windows(labels, encoded.owners))
    return augmented_steps(
        plan,
        inputs.train.examples.texts,
        inputs.train.examples.pairs,
        augment=augment,
        tokenizer=tokenizer,
        max_length=max_length,
        cut=cut,
        labels=labels,
        seed=seed,
        first_step=first_step,
    )


def augmentation(wanted: sections.Augment, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> Augment | None:
    """Return what may be done to the training texts; None where no policy is named. Words of the labels' names are protected."""
    if wanted.policy is None:
        if wanted.synonyms or wanted.protect:
            name = "synonyms" if wanted.synonyms else "protect"
            raise ConfigError("has no effect without a policy", column=f"augment.{name}", hint="add --augment.policy sentiment")
        return None
    return Augment(
        POLICIES[wanted.policy],
        share=wanted.share,
        protected=NEGATIONS | label_words(inputs.fields.labels) | {word.casefold() for word in wanted.protect},
        synonyms=read_synonyms(wanted.synonyms) if wanted.synonyms else {},
        mask=tokenizer.mask_token or tokenizer.unk_token or "",
    )


def refuse_mixup_of_recurrent(model: nn.Module) -> None:
    """Raise `ConfigError` for a recurrent model, which drops words of its embedding without calling the layer."""
    config: Any = model.config
    if config.model_type == "awd_lstm":
        raise ConfigError("is for transformers", column="augment.mixup", hint="leave it out")


def refuse_augmented_parts(training: Training, augment: sections.Augment, cut: sections.Cut) -> None:
    """Raise `ConfigError` for texts that are to change in every epoch and are read in a way that cannot follow."""
    if augment.policy is None:
        return
    if training.cache_frozen:
        raise ConfigError(
            "keeps what texts that change gave", column="stages.cache_frozen", hint="leave it or --augment.policy out"
        )
    if cut == "windows":
        raise ConfigError("cannot word windows anew", column="data.cut", hint="leave it or --augment.policy out")


def remember_reading(model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Inputs, *, cut: sections.Cut, max_length: int) -> None:
    """Let the saved model say how it reads rows and long texts; of the two ends `pipeline` reads the right one by itself."""
    model.config.text_cut = None if cut == "head" else cut
    model.config.composed_fields = pack_fields(inputs.fields.kinds, inputs.fields.statistics) or None
    tokenizer.truncation_side = "left" if cut == "tail" else "right"
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side  # what is saved
    tokenizer.model_max_length = max_length


def identity(loaded: Loaded, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Name what a checkpoint of this run belongs to, beside its settings."""
    return {
        "data": loaded.fingerprint,
        "labels": json.dumps(loaded.labels),
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16],
    }


def tfidf(inputs: Inputs) -> tuple[str, dict[str, Array]]:
    """Return the outputs of TF-IDF with a linear model, by part."""
    from nlpbp.evaluation.baselines import tfidf_baseline

    texts = [joined_texts(part.examples) for part in inputs.scored.values()]
    train = joined_texts(inputs.train.examples)
    outputs = tfidf_baseline(inputs.fields.task, train, targets_of(inputs.train), texts, num_labels=len(inputs.fields.labels))
    return "tfidf", dict(zip(inputs.scored, outputs, strict=True))


def text_card(
    inputs: Inputs, base_model: str, *, cut: sections.Cut, max_length: int, model_type: str, value_range: tuple[float, float] | None
) -> Card:
    """Return what the card of a text classifier says; our own kind of model needs an import first, and keeps to a range itself."""
    registered = model_type == "awd_lstm"
    outside = None if registered or value_range is None else widened(*value_range)
    composed = ", ".join(map(code_span, inputs.fields.kinds))
    lines = [
        *(["import nlpbp.text  # makes transformers know awd_lstm"] if registered else []),
        "from transformers import pipeline",
        'classify = pipeline("text-classification", model="PATH/TO/THIS/FOLDER")',
        *usage('"Some text."', ", truncation=True", task=inputs.fields.task, value_range=outside),
    ]
    columns = f"It reads the columns {composed} as one text, which `scripts/predict.py` makes of them." if composed else ""
    return Card(base_model, lines, columns, what_it_reads(cut, max_length))


def what_it_reads(cut: sections.Cut, max_length: int) -> str:
    """Say for the model's card what the model reads of a long text."""
    if cut in ("head", "tail"):
        return f"It reads the {'first' if cut == 'head' else 'last'} {max_length} tokens of a text."
    whole, ends = "in windows whose answers are averaged", "a quarter from its beginning and the rest from its end"
    form = ends if cut == "head_tail" else whole
    return f"It reads a long text by {max_length} tokens, {form}: `scripts/predict.py` does; `pipeline` reads the beginning alone."
