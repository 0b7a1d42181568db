"""A sentence encoder learns from pairs of few labelled texts which of them belong together, and a linear head is fitted on top.

The idea is SetFit's (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts"): n texts make n² pairs, and the
head is as simple as it can be. Here all pairs of a group of texts are learned from, for the work of encoding it once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from nlpbp.config import Optim, TextClassifierSettings
from nlpbp.config.optim import FEW_TEXTS
from nlpbp.core.batch import Batch
from nlpbp.core.errors import ConfigError
from nlpbp.core.groups import layer_groups
from nlpbp.core.losses import cosine_similarity_loss
from nlpbp.core.schedules import Schedule
from nlpbp.data.order import Ints, micro_batches
from nlpbp.data.pairs import GROUP, Classes, draw_groups, group_by_class
from nlpbp.data.parts import Inputs, examples_per_label, targets_of
from nlpbp.data.windows import of_windows
from nlpbp.modalities.encoding import EncodedTexts
from nlpbp.modalities.texts import identity, text_modality
from nlpbp.runs.advice import CONTRASTIVE, FEW, FEW_PER_CLASS
from nlpbp.runs.fit import Averaging, Validation, fit
from nlpbp.runs.folder import Run
from nlpbp.runs.progress import Learner, Progress, Provenance, Stage
from nlpbp.runs.result import RunResult
from nlpbp.tasks import get_task
from nlpbp.text.batches import collate
from nlpbp.text.pooled import PooledForSequenceClassification
from nlpbp.text.states import TextEncoder
from nlpbp.text.transformer import faster
from nlpbp.train.loop import Step, train_steps
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.head import Head, fit_head_, validate_head
from nlpbp.trainers.optimizers import schedule_of, transformer_optimizer
from nlpbp.trainers.stages import check_micro_batches, epochs_between_evaluations, prepare_again, tell_how_weights_are_chosen

PAIRS_LR = 6e-5  # of the top layer
EPOCHS = 20  # as often is each text seen on average, unless that makes too few steps or too many
FEWEST_STEPS, MOST_STEPS = 40, 300
EVALUATIONS = 4  # in a training, where the validation set is large enough to choose weights by


@dataclass(frozen=True)
class ContrastiveLoop:
    """The training loop on groups of texts: `total_steps` of `num_groups` each, that are cut into micro-batches."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    texts: EncodedTexts
    classes: Classes
    schedule: Schedule
    total_steps: int
    num_groups: int
    max_grad_norm: float | None
    seed: int

    def steps(self, first_step: int, num_micro_batches: int) -> Iterator[Step]:
        """Go through the rest of the training from `first_step` on."""
        return train_steps(
            self.model,
            (self.batches(step, num_micro_batches) for step in range(first_step, self.total_steps)),
            self.optimizer,
            accelerator=self.accelerator,
            loss_fn=group_loss,
            schedule=self.schedule,
            total_steps=self.total_steps,
            first_step=first_step,
            max_grad_norm=self.max_grad_norm,
            seed=self.seed,
        )

    def batches(self, step: int, num_micro_batches: int) -> list[Batch]:
        """Return this process's micro-batches of a step: the texts of whole groups, one group after the other."""
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        groups = draw_groups(self.classes, num=self.num_groups, seed=self.seed, step=step)
        parts = micro_batches(groups, num=min(num_micro_batches, self.num_groups // world_size * world_size))
        return [self._batch(part) for part in parts[rank::world_size]]

    def _batch(self, groups: Ints) -> Batch:
        made = collate(self.texts.parts["train"], groups.reshape(-1), tokenizer=self.texts.tokenizer)
        return Batch(made.inputs, torch.from_numpy(self.classes.alike(groups)), made.ids)


def group_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the mean loss of a batch's groups, of whose texts an encoder makes vectors [texts, width]."""
    assert batch.labels is not None, "groups come with what is alike in them"
    vectors: Tensor = model(**batch.inputs)
    return cosine_similarity_loss(vectors.unflatten(0, batch.labels.shape[:2]), batch.labels)


def default_steps(num_texts: int, *, size: int) -> int:
    """Return the steps of `size` texts in which each text is seen 20 times on average, but 40 at least and 300 at most.

    >>> [default_steps(num, size=32) for num in (16, 128, 5000)]
    [40, 80, 300]
    """
    return min(MOST_STEPS, max(FEWEST_STEPS, math.ceil(EPOCHS * num_texts / size)))


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


def learns_from_pairs(run: Run[TextClassifierSettings], inputs: Inputs, head: Head) -> bool:
    """Tell whether the pairs of the training texts are the better teachers: there are few of them, and two that differ."""
    few = inputs.fields.target_type != "continuous" and len(inputs.train) < FEW_TEXTS
    num_groups, wanted = run.settings.batch.size // GROUP, run.settings.batch.micro_batches or run.first_num_processes
    if not few or head.probe is None or num_groups < wanted or run.settings.data.balanced_sampling:
        return False
    try:
        group_by_class(targets_of(inputs.train))
    except ConfigError:
        return False
    return isinstance(head.model, PooledForSequenceClassification)


def train_fewshot(
    run: Run[TextClassifierSettings],
    inputs: Inputs,
    texts: EncodedTexts,
    head: Head,
    optim: Optim,
    *,
    base_model: str,
    lr: float = PAIRS_LR,
    steps: int | None = None,
) -> RunResult:
    """Train the body of `head.model` on pairs, fit the head to what it makes of the texts then, and finish the run."""
    assert head.probe is not None, "the head is fitted"
    model = cast(PooledForSequenceClassification, faster(head.model))
    tell_how_weights_are_chosen(run, inputs)
    progress = train_on_pairs(run, inputs, texts, optim, model=model, lr=lr, steps=steps, l2=head.probe.l2)
    fit_head_(run, inputs, texts, model, l2=head.probe.l2)
    modality = text_modality(run, inputs, texts, model=model, base_model=base_model, probe=head.outputs)
    return train_classifier(run, inputs, model=model, plans=(), modality=modality, before=progress, first_stage=1)


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

    A step has `batch.size` texts, in groups of 16. Weights are chosen as everywhere, by the validation score, of a head that is
    fitted on the states for each evaluation with the penalty `l2`. The head of `model` is not that of its body afterwards.
    """
    accelerator, settings, encoded = run.accelerator, run.settings, texts.parts["train"]
    num_groups = max(1, settings.batch.size // GROUP)
    num = check_micro_batches(run, num_examples=num_groups, size=num_groups, unit=f"groups of {GROUP} texts")
    size = num_groups * GROUP
    total = steps or default_steps(len(encoded), size=size)
    encoder = TextEncoder(model)
    groups = layer_groups(encoder, body=encoder.body)
    trained, optimizer = prepare_again(accelerator, encoder, transformer_optimizer(optim, lr=lr)(encoder, groups))
    loop = ContrastiveLoop(
        accelerator,
        trained,
        optimizer,
        texts,
        group_by_class(of_windows(targets_of(inputs.train), encoded.owners)),
        schedule_of(optim.schedule, settings.cycles, warmup=optim.warmup_ratio),
        total_steps=total,
        num_groups=num_groups,
        max_grad_norm=optim.max_grad_norm,
        seed=settings.seed,
    )
    run.say(f"contrastive learning: {total:,} steps of {size} of the {len(encoded):,} texts, at a learning rate of {lr:.1e}")
    ended = fit(
        run,
        loop.steps,
        Learner(trained, optimizer, groups),
        Stage(CONTRASTIVE, 0, total, math.ceil(total / EVALUATIONS), is_only=True, parts=num_groups),
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
