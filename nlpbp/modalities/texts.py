"""Texts as the modality of a classifier."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nlpbp import config as sections
from nlpbp.core.batch import Batch, LossFn
from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import widened
from nlpbp.core.regularize import regularisation_of_texts
from nlpbp.data.columns import Examples
from nlpbp.data.corpus import joined_texts
from nlpbp.data.exports import code_span
from nlpbp.data.fields import pack_fields
from nlpbp.data.modality import Answer, Array, Card, MakeBatches, Modality, Reader, StageData
from nlpbp.data.order import Ints, evaluation_tokens
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.readers import Table
from nlpbp.data.sources import read_source
from nlpbp.data.windows import of_windows
from nlpbp.modalities.encoding import EncodedTexts, encode_part, reading_of
from nlpbp.runs.diagnosis import error_record
from nlpbp.runs.folder import Run
from nlpbp.runs.inputs import Loaded
from nlpbp.runs.model_folder import save_model
from nlpbp.tasks.outputs import Penalty
from nlpbp.tasks.task import get_task
from nlpbp.text.augment import NEGATIONS, POLICIES, Augment, augmented_steps, label_words, read_synonyms
from nlpbp.text.batches import Cut, Encoded, batched_steps, collate, encode
from nlpbp.text.mixup import mixup_loss
from nlpbp.text.transformer import length_limit, load_tokenizer, load_trained
from nlpbp.train.norms import batch_norms

RECURRENT_TOKENS = 8192  # a batch of new texts; rows are what makes a recurrent net fast
VIEWS: dict[str, Cut] = {"windows": "windows", "head_tail": "head_tail"}  # what is read of new texts, by the name of the view


def text_modality(
    run: Run[sections.TextClassifierSettings],
    inputs: Inputs,
    texts: EncodedTexts,
    *,
    model: nn.Module,
    base_model: str,
    names: Mapping[str, str] | None = None,
    probe: Mapping[str, Array] = MappingProxyType({}),
) -> Modality:
    """Return how texts are trained on, scored and saved.

    `names` are what checkpoints belong to, where that is more than the data and the tokenizer; `base_model` is for the card.
    `probe` holds the outputs of a linear probe, by part: one more baseline.
    """
    settings, tokenizer, config = run.settings, texts.tokenizer, cast(PreTrainedConfig, model.config)
    if settings.augment.mixup:
        refuse_mixup_of_recurrent(model)
    augment = augmentation(settings.augment, inputs, tokenizer)
    return Modality(
        kind="text",
        parts=texts.parts,
        collate=partial(collate, tokenizer=tokenizer),
        max_cost=evaluation_tokens(settings.batch.evaluation_tokens, run.accelerator.device.type),
        stage=partial(_stage_examples, run, inputs, texts, augment),
        mix=partial(_mixed, alpha=settings.augment.mixup),
        identity=names or identity(inputs, tokenizer),
        save=partial(_save, inputs, texts),
        errors=partial(_errors, run, inputs, texts),
        baselines=lambda: {"tfidf": tfidf(inputs)} | ({"probe": dict(probe)} if probe else {}),
        min_examples=2 if batch_norms(model) else 1,  # batch normalisation needs two values
        penalty=_regularisation(settings.optim),
        card=text_card(inputs, texts, base_model=base_model, model=model, value_range=settings.data.value_range),
        reading=partial(reading_of, inputs, texts, limit=length_limit(config, tokenizer)),
    )


def _regularisation(optim: object) -> Penalty | None:
    """Return AR and TAR (practice N4) of a recurrent classifier's activations, where they are wanted."""
    if not isinstance(optim, sections.RecurrentOptim) or not (optim.ar_alpha or optim.tar_beta):
        return None

    def penalty(outputs: Any) -> Tensor:
        if outputs.activations is None:  # of vectors that were pooled before
            return outputs.logits.new_zeros(())
        return regularisation_of_texts(*outputs.activations, alpha=optim.ar_alpha, beta=optim.tar_beta)

    return penalty


def _stage_examples(
    run: Run[sections.TextClassifierSettings], inputs: Inputs, texts: EncodedTexts, augment: Augment | None, wanted: StageData
) -> tuple[Encoded, MakeBatches]:
    """Return the training texts of a stage, and what makes batches of them."""
    refuse_augmented_parts(wanted, run.settings.augment, texts.cut)
    length, encoded = wanted.max_length or texts.max_length, texts.parts["train"]
    if wanted.max_length is not None:
        encoded = encode_part(run, "train", inputs.train, tokenizer=texts.tokenizer, max_length=length, cut=texts.cut)
    mine = replace(texts, parts={"train": encoded}, max_length=length)
    return encoded, partial(_batches, inputs, mine, augment)


def _batches(
    inputs: Inputs,
    texts: EncodedTexts,
    augment: Augment | None,
    plan: Iterator[list[Ints]],
    *,
    labels: Array,
    first_step: int,
    seed: int,
) -> Iterator[list[Batch]]:
    """Turn a plan into batches: of the texts as they are, or of another wording of them in every step."""
    if augment is None:
        encoded = texts.parts["train"]
        return batched_steps(plan, encoded, tokenizer=texts.tokenizer, labels=of_windows(labels, encoded.owners))
    return augmented_steps(
        plan,
        inputs.train.examples.texts,
        inputs.train.examples.pairs,
        augment=augment,
        tokenizer=texts.tokenizer,
        max_length=texts.max_length,
        cut=texts.cut,
        labels=labels,
        seed=seed,
        first_step=first_step,
    )


def _mixed(loss_fn: LossFn, *, alpha: float) -> LossFn:
    return mixup_loss(loss_fn, alpha=alpha) if alpha else loss_fn


def _save(inputs: Inputs, texts: EncodedTexts, plain: Any, state: dict[str, Tensor], folder: Path, card: str) -> None:
    remember_reading(plain, texts.tokenizer, inputs, cut=texts.cut, max_length=texts.max_length)
    save_model(plain, texts.tokenizer, state, folder=folder, card=card)


def _errors(
    run: Run[sections.TextClassifierSettings], inputs: Inputs, texts: EncodedTexts, outputs: Array, answer: Answer
) -> dict[str, Any]:
    """Make errors.json from the validation set's probabilities and what asks for more of them."""
    encode_more = partial(encode, tokenizer=texts.tokenizer, max_length=texts.max_length, cut=texts.cut)
    return error_record(
        inputs,
        outputs,
        texts.parts["validation"],
        tokenizer=texts.tokenizer,
        max_length=texts.max_length if texts.cut == "head" else None,
        answer=lambda more, pairs: answer(encode_more(more, pairs)),
        by=run.settings.data.slices,
        with_texts=run.settings.report.texts != "none",
    )


def augmentation(wanted: sections.Augment, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> Augment | None:
    """Return what may be done to the training texts; None where no policy is named. Words of the labels' names are protected."""
    if wanted.policy is None:
        given = [name for name in ("share", "synonyms", "protect") if getattr(wanted, name) != getattr(sections.Augment(), name)]
        if given:
            name = given[0]
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


def refuse_augmented_parts(wanted: StageData, augment: sections.Augment, cut: sections.Cut) -> None:
    """Raise `ConfigError` for texts that are to change in every epoch and are read in a way that cannot follow."""
    if augment.policy is None:
        return
    if wanted.cache_frozen:
        raise ConfigError(
            "cannot be combined with text augmentation", column="stages.cache_frozen", hint="leave it or --augment.policy out"
        )
    if cut == "windows":
        raise ConfigError(
            "windows cannot be combined with text augmentation", column="data.truncation", hint="leave it or --augment.policy out"
        )


def remember_reading(model: Any, tokenizer: PreTrainedTokenizerBase, inputs: Inputs, *, cut: sections.Cut, max_length: int) -> None:
    """Let the saved model say how it reads rows and long texts; of the two ends `pipeline` reads the right one by itself."""
    model.config.text_cut = None if cut == "head" else cut
    model.config.composed_fields = pack_fields(inputs.fields.kinds, inputs.fields.statistics) or None
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"  # as in training: some models read positions off it
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


def tfidf(inputs: Inputs) -> dict[str, Array]:
    """Return the outputs of TF-IDF with a linear model, by part."""
    from nlpbp.tasks.baselines import tfidf_baseline

    texts = [joined_texts(part.examples) for part in inputs.scored.values()]
    train = joined_texts(inputs.train.examples)
    outputs = tfidf_baseline(inputs.fields.task, train, targets_of(inputs.train), texts, num_labels=len(inputs.fields.labels))
    return dict(zip(inputs.scored, outputs, strict=True))


def text_card(
    inputs: Inputs, texts: EncodedTexts, *, base_model: str, model: nn.Module, value_range: tuple[float, float] | None
) -> Card:
    """Return what the card of a text classifier says; our own kinds need an import first, and a recurrent one keeps to a range."""
    config: Any = model.config
    recurrent = config.model_type == "awd_lstm"
    registered = recurrent or config.model_type == "nlpbp_pooled"
    call, options = '"Some text."', ", truncation=True"
    usage = get_task(inputs.fields.task).usage(call, options)
    if value_range is not None and not recurrent:
        usage = usage_within(call, options, widened(*value_range))
    composed = ", ".join(map(code_span, inputs.fields.kinds))
    lines = [
        *([f"import nlpbp.text  # makes transformers know {config.model_type}"] if registered else []),
        "from transformers import pipeline",
        'classify = pipeline("text-classification", model="PATH/TO/THIS/FOLDER")',
        *usage,
    ]
    columns = f"It reads the columns {composed} as one text, which `scripts/predict.py` makes of them." if composed else ""
    return Card(base_model, lines, columns, what_it_reads(texts.cut, texts.max_length))


def usage_within(call: str, options: str, value_range: tuple[float, float]) -> list[str]:
    """Return the lines of a card that ask for a number of known range."""
    low, high = value_range
    return [
        "import math",
        f'score = classify({call}{options})[0]["score"]',
        f"answer = {low:.6g} + {high - low:.6g} / (1 + math.exp(-score))  # the pipeline does not know the range",
    ]


def what_it_reads(cut: sections.Cut, max_length: int) -> str:
    """Say for the model's card what the model reads of a long text."""
    if cut in ("head", "tail"):
        return f"It reads the {'first' if cut == 'head' else 'last'} {max_length} tokens of a text."
    whole, ends = "in windows whose answers are averaged", "a quarter from its beginning and the rest from its end"
    form = ends if cut == "head_tail" else whole
    return f"It reads a long text by {max_length} tokens, {form}: `scripts/predict.py` does; `pipeline` reads the beginning alone."


def load_trained_model(folder: Path) -> tuple[PreTrainedModel, Reader]:
    """Load a saved text classifier, and how it reads new texts: as in training, or in windows, or by their two ends.

    Every folder is taken for one; raises `ConfigError` for one that has no such model or no tokenizer.
    """
    model = load_trained(str(folder))
    tokenizer = load_tokenizer(str(folder))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader = Reader(
        kind="text",
        read=_read_new,
        forms=partial(_forms, tokenizer, getattr(model.config, "text_cut", None) or "head"),
        collate=partial(collate, tokenizer=tokenizer),
        max_cost=RECURRENT_TOKENS if model.config.model_type == "awd_lstm" else evaluation_tokens(None, device),
    )
    return model, reader


def _read_new(source: Any, split: str, columns: Sequence[str]) -> tuple[Table, dict[str, Any]]:
    """Read a source as of training; which of its columns are the texts is found later, and cells are the texts themselves."""
    return source if isinstance(source, Table) else read_source(source, split=split), {}


def _forms(
    tokenizer: PreTrainedTokenizerBase, trained: Cut, examples: Examples, view: str | None, contents: Mapping[str, Any]
) -> list[Encoded]:
    """Tokenize new texts, cut as in training or as the view says; a pair of texts has no view."""
    if view is not None and examples.pairs is not None:
        raise ConfigError(f"a pair of texts has no {view}", column="views", hint="leave it out")
    cut, length = VIEWS[view] if view else trained, tokenizer.model_max_length
    return [encode(examples.texts, examples.pairs, tokenizer=tokenizer, max_length=length, cut=cut, show_progress=True)]
