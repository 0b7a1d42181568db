"""What the recipes for images share: a classifier's stages, and the training of a model on a medium of images."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.core.freezing import train_mode
from nlpbp.core.optim import IMAGE_BETAS, IMAGE_EPS
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.trainers.optimizers import epochs_of, make_optimizer, momentum_of, schedule_of, snapshot_steps
from nlpbp.trainers.recurrent_stages import stage_name
from nlpbp.trainers.stages import Training


class StagedConfig(Protocol):
    """The fields of a Config that the stages of an image classifier are made from."""

    @property
    def stages(self) -> tuple[sections.ImageStage, ...]: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def optim(self) -> sections.ImageOptim: ...  # noqa: D102
    @property
    def cycles(self) -> sections.Cycles: ...  # noqa: D102


def image_trainings(config: StagedConfig, *, lr: float) -> list[Training]:
    """Turn a config's stages into trainings; `lr` is the rate of one that says nothing of it."""
    return [_training(stage, config, default=lr) for stage in config.stages]


def _training(stage: sections.ImageStage, config: StagedConfig, *, default: float) -> Training:
    optim = config.optim
    if config.cycles.cycle_len is not None and stage.epochs is not None:
        raise ConfigError("sets the epochs, which the stage gives too", column="cycles.cycle_len", hint="leave one of them out")
    wanted = stage.lr or optim.lr or default
    return Training(
        epochs=epochs_of(stage.epochs or config.epochs, optim.schedule, config.cycles),
        make_optimizer=partial(
            make_optimizer,
            name=optim.optimizer,
            lr=SWEPT if isinstance(wanted, str) else wanted,
            head_lr=optim.head_lr,
            layer_decay=optim.layer_decay,
            similarity=optim.similarity,
            weight_decay=optim.weight_decay,
            betas=(optim.momentum[0], IMAGE_BETAS[1]),
            eps=IMAGE_EPS,
        ),
        schedule=schedule_of(optim.schedule, config.cycles, warmup=optim.warmup),
        momentum=momentum_of(optim.schedule, optim.momentum),
        sweep=wanted == "auto",
        train_last=stage.train_last,
        image_size=stage.size,
        batch_size=stage.batch_size,
        average_from=optim.average_from,
        ema=optim.ema,
        snapshots=partial(snapshot_steps, schedule=optim.schedule, cycles=config.cycles),
        set_mode=partial(train_mode, norms=optim.norms),
        name=named(stage),
    )


def named(stage: sections.ImageStage) -> str:
    """Name a stage by what trains in it, and by the size of its images where it has one of its own.

    >>> named(sections.ImageStage(train_last=1, size=64))
    'head, 64 pixels'
    """
    return stage_name(stage.train_last) + (f", {stage.size} pixels" if stage.size else "")
