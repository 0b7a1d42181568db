"""From a config's stages to plans: how each kind of classifier is optimised, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import nn
from torch.optim import Optimizer

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.core.groups import LayerGroup
from nlpbp.core.optim import IMAGE_BETAS, IMAGE_EPS, RECURRENT_BETAS, RECURRENT_EPS
from nlpbp.core.schedules import Schedule
from nlpbp.data.modality import StageData
from nlpbp.runs.fit import Averaging
from nlpbp.runs.folder import Run
from nlpbp.runs.lr_finder import SWEPT
from nlpbp.trainers.optimizers import epochs_of, make_optimizer, schedule_of, snapshot_steps, transformer_optimizer
from nlpbp.trainers.stages import StagePlan

HEAD_LR = 1e-2  # of a recurrent classifier's stage that says nothing of it
SCRATCH_EPOCHS, SCRATCH_STEPS = 5, 250  # of a recurrent classifier without a language model
MakeOptimizer = Callable[[nn.Module, Sequence[LayerGroup]], Optimizer]


def transformer_plan(
    run: Run[sections.TextClassifierSettings],
    stage: sections.Stage,
    optim: sections.Optim,
    *,
    epochs: int,
    min_steps: int = 0,
    default_lr: float,
    head_speed: float = 1.0,
) -> StagePlan:
    """Plan a stage of a transformer; `epochs`, their fewest steps and `default_lr` are those of one that says nothing of them.

    Then the head has `head_speed` times the rate of the layer below it.
    """
    cycles = run.settings.cycles
    refuse_two_lengths(stage, cycles)
    wanted = stage.lr or optim.lr or default_lr
    lr = SWEPT if isinstance(wanted, str) else wanted
    if optim.head_lr is None and head_speed != 1.0:
        optim = replace(optim, head_lr=head_speed * lr)
    build = transformer_optimizer(optim, lr=lr)

    def make_optimizer(model: nn.Module, layers: Sequence[LayerGroup]) -> Optimizer:
        optimizer = build(model, layers)
        if wanted != "auto":
            rates = [group["lr"] for group in optimizer.param_groups]
            low = "" if max(rates) == min(rates) else f", {min(rates):.1e} at the bottom"
            run.say(f"learning rates: {max(rates):.1e} at the top{low} of {len(layers)} layer groups")
        return optimizer

    schedule = schedule_of(optim.schedule, cycles, warmup=optim.warmup_ratio)
    plan = _plan(stage, optim, cycles, epochs=stage.epochs or epochs, make_optimizer=make_optimizer, schedule=schedule)
    if stage.epochs is None and cycles.cycle_len is None:
        plan = replace(plan, min_steps=min_steps)
    return plan if wanted != "auto" else found_by_sweep(plan)


def recurrent_plans(
    stages: Sequence[sections.Stage], optim: sections.RecurrentOptim, cycles: sections.Cycles, *, from_scratch: bool = False
) -> list[StagePlan]:
    """Plan the stages of a recurrent classifier: rates fall by `optim.group_ratio` from one layer group to the one below.

    A stage of a net from scratch that says nothing of epochs has `SCRATCH_EPOCHS`, and `SCRATCH_STEPS` at least.
    """
    return [_recurrent_plan(stage, optim, cycles, from_scratch=from_scratch) for stage in stages]


def _recurrent_plan(
    stage: sections.Stage, optim: sections.RecurrentOptim, cycles: sections.Cycles, *, from_scratch: bool
) -> StagePlan:
    wanted = optim.lr or stage.lr or HEAD_LR
    lr = SWEPT if isinstance(wanted, str) else wanted
    ratio = 1.0 if optim.similarity else optim.group_ratio
    build = partial(
        make_optimizer,
        name=optim.optimizer,
        lr=lr / ratio,
        head_lr=lr,
        layer_decay=1.0 / ratio,
        similarity=optim.similarity,
        weight_decay=optim.weight_decay,
        betas=(optim.momentum[0], RECURRENT_BETAS[1]),
        eps=RECURRENT_EPS,
    )
    schedule = schedule_of(optim.schedule, cycles, momentum=optim.momentum)
    epochs = stage.epochs or (SCRATCH_EPOCHS if from_scratch else 1)
    plan = _plan(stage, optim, cycles, epochs=epochs, make_optimizer=build, schedule=schedule)
    if from_scratch and stage.epochs is None and cycles.cycle_len is None:
        plan = replace(plan, min_steps=SCRATCH_STEPS)
    return plan if wanted != "auto" else found_by_sweep(plan)


def image_plans(settings: sections.ImageClassifierSettings, *, lr: float) -> list[StagePlan]:
    """Plan the stages of an image classifier; `lr` is the learning rate of one that says nothing of it."""
    return [_image_plan(stage, settings, default_lr=lr) for stage in settings.stages]


def _image_plan(stage: sections.ImageStage, settings: sections.ImageClassifierSettings, *, default_lr: float) -> StagePlan:
    optim, cycles = settings.optim, settings.cycles
    refuse_two_lengths(stage, cycles)
    wanted = stage.lr or optim.lr or default_lr
    build = partial(
        make_optimizer,
        name=optim.optimizer,
        lr=SWEPT if isinstance(wanted, str) else wanted,
        head_lr=optim.head_lr,
        layer_decay=optim.layer_decay,
        similarity=optim.similarity,
        weight_decay=optim.weight_decay,
        betas=(optim.momentum[0], IMAGE_BETAS[1]),
        eps=IMAGE_EPS,
    )
    schedule = schedule_of(optim.schedule, cycles, warmup=optim.warmup_ratio, momentum=optim.momentum)
    plan = _plan(stage, optim, cycles, epochs=stage.epochs or settings.epochs, make_optimizer=build, schedule=schedule)
    return plan if wanted != "auto" else found_by_sweep(plan)


def _plan(
    stage: sections.Stage | sections.ImageStage,
    optim: sections.Optim | sections.RecurrentOptim | sections.ImageOptim,
    cycles: sections.Cycles,
    *,
    epochs: int,
    make_optimizer: MakeOptimizer,
    schedule: Schedule,
) -> StagePlan:
    """Make a plan of what all kinds of stages say alike."""
    if isinstance(stage, sections.ImageStage):
        data = StageData(image_size=stage.size)
    else:
        data = StageData(stage.max_length, cache_frozen=stage.cache_frozen)
    return StagePlan(
        epochs=epochs_of(epochs, optim.schedule, cycles),
        make_optimizer=make_optimizer,
        schedule=schedule,
        train_last=stage.train_last,
        data=data,
        batch_size=stage.batch_size,
        keep_norm_statistics=getattr(optim, "norms", "trained") == "frozen",
        averaging=Averaging(optim.swa_start, optim.ema_decay),
        snapshots=partial(snapshot_steps, schedule=optim.schedule, cycles=cycles),
        name=stage_name(stage),
    )


def found_by_sweep(plan: StagePlan) -> StagePlan:
    """Return the plan with a learning rate that a sweep finds when the stage begins."""
    return replace(plan, find_lr=True)


def refuse_two_lengths(stage: sections.Stage | sections.ImageStage, cycles: sections.Cycles) -> None:
    """Raise `ConfigError` for a stage whose epochs are given twice."""
    if cycles.cycle_len is not None and stage.epochs is not None:
        raise ConfigError("sets the epochs, which the stage gives too", column="cycles.cycle_len", hint="leave one of them out")


def stage_name(stage: sections.Stage | sections.ImageStage) -> str:
    """Name a stage by what trains in it, and by the size of its images where it has one of its own.

    >>> stage_name(sections.ImageStage(train_last=1, size=64)), stage_name(sections.Stage())
    ('head, 64 pixels', 'all layers')
    """
    last = stage.train_last
    name = "all layers" if last is None else "head" if last == 1 else f"last {last} groups"
    size = stage.size if isinstance(stage, sections.ImageStage) else None
    return name + (f", {size} pixels" if size else "")
