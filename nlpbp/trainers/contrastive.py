"""A sentence encoder learns from pairs of few labelled texts which of them belong together, and a linear head is fitted on top.

The idea is SetFit's (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts"): n texts make n² pairs, and the
head is as simple as it can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from nlpbp.config import Optim, TextClassifierSettings
from nlpbp.core.batch import Batch
from nlpbp.core.errors import ConfigError
from nlpbp.core.groups import layer_groups
from nlpbp.core.losses import cosine_similarity_loss
from nlpbp.core.schedules import Schedule
from nlpbp.data.order import Ints, micro_batches
from nlpbp.data.pairs import Classes, draw_pairs, group_by_class
from nlpbp.data.parts import Inputs, examples_per_label, targets_of
from nlpbp.data.windows import of_windows
from nlpbp.modalities.encoding import EncodedTexts
from nlpbp.modalities.texts import identity
from nlpbp.runs.advice import FEW, FEW_PER_CLASS
from nlpbp.runs.fit import Averaging, Validation, fit
from nlpbp.runs.folder import Run
from nlpbp.runs.progress import Learner, Progress, Provenance, Stage
from nlpbp.tasks import get_task
from nlpbp.text.batches import collate
from nlpbp.text.pooled import PooledForSequenceClassification
from nlpbp.text.states import TextEncoder
from nlpbp.train.loop import Step, train_steps
from nlpbp.trainers.head import validate_head
from nlpbp.trainers.optimizers import schedule_of, transformer_optimizer
from nlpbp.trainers.stages import check_micro_batches, epochs_between_evaluations, prepare_again

PAIRS_PER_TEXT = 40  # of SetFit: 20 times a pair of one class and one of two
MAX_STEPS = 300


@dataclass(frozen=True)
class PairLoop:
    """The training loop on pairs: `total_steps` of `size` pairs each, that are cut into micro-batches."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    texts: EncodedTexts
    classes: Classes
    schedule: Schedule
    total_steps: int
    size: int
    max_grad_norm: float | None
    seed: int

    def steps(self, first_step: int, num_micro_batches: int) -> Iterator[Step]:
        """Go through the rest of the training from `first_step` on."""
        return train_steps(
            self.model,
            (self.batches(step, num_micro_batches) for step in range(first_step, self.total_steps)),
            self.optimizer,
            accelerator=self.accelerator,
            loss_fn=pair_loss,
            schedule=self.schedule,
            total_steps=self.total_steps,
            first_step=first_step,
            max_grad_norm=self.max_grad_norm,
            seed=self.seed,
        )

    def batches(self, step: int, num_micro_batches: int) -> list[Batch]:
        """Return this process's micro-batches of a step: the first texts of its pairs, then their second ones."""
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        pairs = draw_pairs(self.classes, size=self.size, seed=self.seed, step=step)
        parts = micro_batches(np.arange(self.size), num=min(num_micro_batches, self.size // world_size * world_size))
        mine = parts[rank::world_size]
        return [self._batch(pairs.first[part], pairs.second[part], pairs.similarity[part]) for part in mine]

    def _batch(self, first: Ints, second: Ints, similarity: np.ndarray[Any, Any]) -> Batch:
        made = collate(self.texts.parts["train"], np.concatenate([first, second]), tokenizer=self.texts.tokenizer)
        return Batch(made.inputs, torch.from_numpy(similarity), made.ids)


def pair_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the mean loss of a batch's pairs, whose texts an encoder makes vectors of [2 * pairs, width]."""
    assert batch.labels is not None, "pairs come with their similarity"
    first, second = model(**batch.inputs).chunk(2)
    return cosine_similarity_loss(first, second, batch.labels)


def default_steps(num_texts: int, *, size: int) -> int:
    """Return the steps of `size` pairs in which each text is in about 2 * 40 pairs, as SetFit trains, but 300 at most.

    >>> [default_steps(num, size=16) for num in (16, 64, 5000)]
    [40, 160, 300]
    """
    return min(MAX_STEPS, math.ceil(PAIRS_PER_TEXT * num_texts / size))


def few_labels(inputs: Inputs) -> tuple[bool, float]:
    """Tell whether the training texts have few labels, and how many a class has on average; of several labels, each counts.

    A number to predict has no classes, and never few.
    """
    per_class = examples_per_label(inputs)
    if per_class is None:
        return False, math.inf
    return per_class < FEW_PER_CLASS or len(inputs.train) < FEW, per_class


def suggest_fewshot(run: Run[TextClassifierSettings], inputs: Inputs) -> None:
    """Say that there is a recipe for few labels, where there are few."""
    are_few, per_class = few_labels(inputs)
    if are_few:
        run.say(f"few labels ({per_class:.0f} a class): the recipe fewshot is made for so few, see nlpbp finetune fewshot --help")


def check_pairs(run: Run[TextClassifierSettings], inputs: Inputs) -> None:
    """Raise `ConfigError` where labels make no pairs; say where there are so many that they need none."""
    if inputs.fields.target_type == "continuous":
        raise ConfigError(
            "a number to predict has no classes to make pairs of", column="data.task", hint="use the recipe transformer_sentiment"
        )
    group_by_class(targets_of(inputs.train))
    are_few, per_class = few_labels(inputs)
    if not are_few:
        run.say(
            f"{per_class:,.0f} labels a class are many: fewshot is for {FEW_PER_CLASS} or fewer, transformer_sentiment for more"
        )


def train_on_pairs(
    run: Run[TextClassifierSettings],
    inputs: Inputs,
    texts: EncodedTexts,
    optim: Optim,
    *,
    model: PooledForSequenceClassification,
    lr: float,
    steps: int | None,
    l2: float,
) -> Progress:
    """Train the body of `model` on pairs of the training texts, as the only stage of a run; return its end.

    A step has `batch.size` texts, half as many pairs. Weights are chosen as everywhere, by the validation score, of a head that is
    fitted on the states for each evaluation with the penalty `l2`. The head of `model` is not that of its body afterwards.
    """
    accelerator, settings, encoded = run.accelerator, run.settings, texts.parts["train"]
    size = max(1, settings.batch.size // 2)
    num = check_micro_batches(run, num_examples=size, size=size)
    total = steps or default_steps(len(encoded), size=size)
    encoder = TextEncoder(model)
    groups = layer_groups(encoder, body=encoder.body)
    trained, optimizer = prepare_again(accelerator, encoder, transformer_optimizer(optim, lr=lr)(encoder, groups))
    loop = PairLoop(
        accelerator,
        trained,
        optimizer,
        texts,
        group_by_class(of_windows(targets_of(inputs.train), encoded.owners)),
        schedule_of(optim.schedule, settings.cycles, warmup=optim.warmup_ratio),
        total_steps=total,
        size=size,
        max_grad_norm=optim.max_grad_norm,
        seed=settings.seed,
    )
    run.say(f"contrastive learning: {total:,} steps of {size} pairs, of {len(encoded):,} texts, at a learning rate of {lr:.1e}")
    ended = fit(
        run,
        loop.steps,
        Learner(trained, optimizer, groups),
        Stage("contrastive", 0, total, min(total, math.ceil(len(encoded) / (2 * size))), is_only=True),
        validation=Validation(
            partial(validate_head, run, inputs, texts, model, l2=l2),
            get_task(inputs.fields.task).main,
            eval_steps=settings.eval_steps,
            epochs=epochs_between_evaluations(inputs),
            patience=settings.patience,
        ),
        provenance=Provenance(
            identity(inputs, texts.tokenizer),
            of_windows(inputs.train.examples.references, encoded.owners),
            allow_data_change=settings.data.allow_change,
        ),
        before=Progress(num),
        averaging=Averaging(optim.swa_start, optim.ema_decay),
    )
    assert ended is not None, "no stage comes after it"
    return ended
