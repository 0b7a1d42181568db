"""The stages of a recurrent classifier's training, from its config."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nlpbp import config as sections
from nlpbp.core.optim import RECURRENT_BETAS, RECURRENT_EPS
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.trainers.optimizers import epochs_of, make_optimizer, momentum_of, schedule_of, snapshot_steps
from nlpbp.trainers.stages import Training

HEAD_LR = 1e-2  # of a stage that says nothing of it


def stage_trainings(stages: Sequence[sections.Stage], optim: sections.RecurrentOptim, cycles: sections.Cycles) -> list[Training]:
    """Turn a config's stages into trainings: rates fall by `optim.group_ratio` from one layer group to the one below."""
    return [_stage_training(stage, optim, cycles) for stage in stages]


def _stage_training(stage: sections.Stage, optim: sections.RecurrentOptim, cycles: sections.Cycles) -> Training:
    wanted = optim.lr or stage.lr or HEAD_LR
    lr = SWEPT if isinstance(wanted, str) else wanted
    ratio = 1.0 if optim.similarity else optim.group_ratio
    return Training(
        epochs=epochs_of(stage.epochs or 1, optim.schedule, cycles),
        make_optimizer=partial(
            make_optimizer,
            name=optim.optimizer,
            lr=lr / ratio,
            head_lr=lr,
            layer_decay=1.0 / ratio,
            similarity=optim.similarity,
            weight_decay=optim.weight_decay,
            betas=(optim.momentum[0], RECURRENT_BETAS[1]),
            eps=RECURRENT_EPS,
        ),
        schedule=schedule_of(optim.schedule, cycles),
        momentum=momentum_of(optim.schedule, optim.momentum),
        sweep=wanted == "auto",
        train_last=stage.train_last,
        max_length=stage.max_length,
        batch_size=stage.batch_size,
        cache_frozen=stage.cache_frozen,
        average_from=optim.average_from,
        ema=optim.ema,
        snapshots=partial(snapshot_steps, schedule=optim.schedule, cycles=cycles),
        name=stage_name(stage.train_last),
    )


def stage_name(train_last: int | None) -> str:
    """Name a stage by what trains in it."""
    if train_last is None:
        return "all layers"
    return "head" if train_last == 1 else f"last {train_last} groups"
