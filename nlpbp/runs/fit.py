"""Training with what belongs beside it: the log, evaluation, the best weights, early stopping, checkpoints, signals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from tqdm.auto import tqdm  # in a notebook it draws itself as one

from nlpbp.config import RunSettings
from nlpbp.core.averaging import WeightAverage
from nlpbp.core.errors import EXIT_PREEMPTED, NumericError
from nlpbp.core.groups import LayerGroup, group_hashes
from nlpbp.runs.folder import Run
from nlpbp.runs.progress import (
    Learner,
    Progress,
    Provenance,
    Stage,
    best_file,
    check_disk,
    newest_of_run,
    progress_of,
    resume_stage,
    save_checkpoint,
)
from nlpbp.tasks.task import Metric
from nlpbp.train.loop import Step
from nlpbp.train.lr_finder import set_highest_rate
from nlpbp.train.signals import Stopped, StopRequest, requeue, stop_requests
from nlpbp.train.tracking import log
from nlpbp.train.weights import (
    load_weights,
    save_weights,
)

WORTH_SAVING = 20.0  # seconds of training: an epoch that took less is no reason for a checkpoint
MAX_SKIPPED = 20  # fp16 overflows in a row: by then the loss scale is a millionth of what it was

Metrics = dict[str, float | None]
MakeSteps = Callable[[int, int], Iterator[Step]]  # (first step, micro-batches a step) -> the rest of the stage, its steps from 1


@dataclass(frozen=True)
class Validation:
    """How weights are chosen: `evaluate` gives metrics, of which `metric` counts, every `eval_steps` or every `epochs` epochs.

    At the end of a stage it is asked, too; with `epochs` None at the end alone, and the last weights are kept.
    `patience` stops a stage after that many evaluations in a row without a better one.
    """

    evaluate: Callable[[], Metrics]
    metric: Metric
    eval_steps: int | None = None
    epochs: int | None = 1
    patience: int | None = None

    def every(self, stage: Stage) -> int:
        """Return after how many steps of a stage an evaluation is due."""
        return self.eval_steps or (stage.total_steps if self.epochs is None else self.epochs * stage.steps_per_epoch)


@dataclass(frozen=True)
class Averaging:
    """Beyond the share `start` of a stage's steps the mean of the weights since then is kept, and not the weights.

    With `ema` a moving average with this decay a step, from the first step on unless `start` says otherwise.
    """

    start: float = 1.0
    ema: float | None = None

    def over(self, model: nn.Module, *, total_steps: int) -> WeightAverage:
        """Return the mean to be kept of a model's weights."""
        return WeightAverage(model, after=0 if self.ema and self.start == 1.0 else int(self.start * total_steps), decay=self.ema)


@dataclass(frozen=True)
class Snapshots:
    """After which of a stage's steps its model is kept, and what keeps it, given the snapshot's number from 1."""

    steps: Sequence[int] = ()
    save: Callable[[int], None] = lambda number: None


NO_AVERAGING, NO_SNAPSHOTS = Averaging(), Snapshots()


def fit(
    run: Run[RunSettings],
    make_steps: MakeSteps,
    learner: Learner,
    stage: Stage,
    *,
    validation: Validation,
    provenance: Provenance,
    before: Progress,
    averaging: Averaging = NO_AVERAGING,
    snapshots: Snapshots = NO_SNAPSHOTS,
    find_lr: Callable[[], float] | None = None,
) -> Progress | None:
    """Train one stage to its end, or from the newest checkpoint of this run folder on, and leave the best weights in the model.

    When memory runs out, micro-batches are halved and their number doubled: the step stays the same. `before` is how the stage
    before ended. `find_lr` is asked for the highest learning rate when the stage begins, and never again.
    A stage that a later one has left behind is not run again, and None is returned. At its end exactly the layer groups whose
    parameters train must have changed. Raises `Stopped` after a signal, when everything is saved.
    """
    newest = newest_of_run(run, identity=provenance.must_match(learner.optimizer))
    if newest is not None and progress_of(newest).stage > stage.index:
        return None
    average = averaging.over(learner.model, total_steps=stage.total_steps)
    resumed = resume_stage(run, newest, learner, before=before, stage=stage, average=average)
    end = (resumed.first_step if resumed else before.step) + stage.total_steps + stage.later_steps
    run.release(f"resumed from step {resumed.step} of {end}" if resumed else None)
    progress = resumed or _begin(run, before, stage, learner)
    num_copies = 4 if average.after >= stage.total_steps else 5
    check_disk(run, learner.model, num_copies=num_copies, num_snapshots=len(snapshots.steps))
    if not stage.is_only:
        run.say(f"stage {stage.index + 1}: {stage.name}, {trained_share(learner.groups)}")
    if find_lr is not None:
        progress = progress if resumed else replace(progress, lr=_found(find_lr, num_micro_batches=progress.num_micro_batches))
        set_highest_rate(learner.optimizer, progress.lr)
    if average.after < stage.total_steps:
        run.say(f"weights are averaged from step {progress.first_step + average.after} on")

    every, first, started = validation.every(stage), progress.first_step, time.monotonic()
    saved_at = started
    with _progress_bar(run, stage, progress) as bar, stop_requests() as request:
        for step, num in _steps_that_fit_in_memory(run, make_steps, progress, learner, stage, provenance.references):
            done, is_last = step.step - first, step.step - first == stage.total_steps  # of this stage
            progress = _advance(run, progress, step, num_micro_batches=num, seconds=time.monotonic() - started)
            _log_step(run, step, stage, done=done)
            _refuse_endless_overflow(progress)
            average.update(done)
            if done in snapshots.steps:
                with average.applied():
                    snapshots.save(list(snapshots.steps).index(done) + 1)
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            if done % every == 0 or is_last:
                with average.applied():
                    progress = _evaluate(run, progress, validation, model=learner.model, total=end)
            if validation.patience is not None and progress.worse >= validation.patience:
                run.say(f"stopping: {validation.metric.name} has not improved in {progress.worse} evaluations")
                break
            code = _agreed_code(run, request)
            if code or _checkpoint_is_due(run, step, saved_at=saved_at, epoch_ends=done % stage.steps_per_epoch == 0 or is_last):
                save_checkpoint(run, progress, learner, average=average, provenance=provenance)
                saved_at = time.monotonic()
            if code:
                raise _stopped(run, code, request, step=step.step, total=end)
            started = time.monotonic()
    average.keep()
    return _end(run, progress, stage, learner, metric=validation.metric)


def _progress_bar(run: Run[Any], stage: Stage, progress: Progress) -> tqdm[Any]:
    return tqdm(
        total=stage.total_steps,
        initial=progress.step - progress.first_step,
        desc=stage.name,
        unit="step",
        dynamic_ncols=True,
        disable=not run.accelerator.is_main_process,
    )


def _log_step(run: Run[Any], step: Step, stage: Stage, *, done: int) -> None:
    record = {**asdict(step), "epoch": round(done / stage.steps_per_epoch, 4)}
    log(run.accelerator, run.out / "metrics.jsonl", record if stage.is_only else {**record, "stage": stage.name})


def _refuse_endless_overflow(progress: Progress) -> None:
    if progress.skipped_in_a_row >= MAX_SKIPPED:
        raise NumericError(
            f"fp16 has overflowed in the last {MAX_SKIPPED} steps", hint="use --precision bf16 or fp32, or lower --optim.lr"
        )


def _checkpoint_is_due(run: Run[RunSettings], step: Step, *, saved_at: float, epoch_ends: bool) -> bool:
    """Tell whether so many steps or seconds have gone by, fewer at the end of an epoch; every process hears the same."""
    wanted = run.settings.checkpoint
    is_due = wanted.save_steps is not None and step.step % wanted.save_steps == 0
    seconds = min(wanted.save_seconds, WORTH_SAVING) if epoch_ends else wanted.save_seconds
    return _agreed(run, time.monotonic() - saved_at >= seconds) or is_due


def _begin(run: Run[Any], before: Progress, stage: Stage, learner: Learner) -> Progress:
    """Return the progress of a stage that has not done a step, after what came before it."""
    hashes = group_hashes(run.accelerator.unwrap_model(learner.model), learner.groups)
    fresh = Progress(before.num_micro_batches, step=before.step, stage=stage.index, first_step=before.step, hashes=hashes)
    fresh = replace(fresh, stages=before.stages, scaler=before.scaler)
    return fresh if stage.new_metric else replace(fresh, best_score=before.best_score, best_step=before.best_step)


def _end(run: Run[Any], progress: Progress, stage: Stage, learner: Learner, *, metric: Metric) -> Progress:
    """Hold the stage to what it announced, leave the right weights in the model, and note what it did."""
    model, groups = learner.model, learner.groups
    after = group_hashes(run.accelerator.unwrap_model(model), groups)
    changed = {name for name, value in after.items() if value != progress.hashes.get(name)}
    announced = {group.name for group in groups if any(p.requires_grad for _, p in group.parameters)}
    assert changed <= announced, f"frozen layer groups have changed: {sorted(changed - announced)}"
    if announced - changed and progress.step > progress.first_step:
        run.say(f"warning: the weights of {', '.join(sorted(announced - changed))} have not changed: the learning rate is too low")
    if not stage.keep_last and progress.best_step != progress.step:
        run.accelerator.wait_for_everyone()
        load_weights(model, best_file(run))
    record = {
        "name": stage.name,
        "steps": progress.step - progress.first_step,
        "items": progress.num_items,
        "seconds": round(progress.seconds, 3),
        "trained": sorted(announced),
        "trained_parameters": sum(p.numel() for group in groups for _, p in group.parameters if p.requires_grad),
        "lr": progress.lr or None,
        "metric": metric.name,
        "best": progress.best_score,
        "clipped": progress.clipped,
        "skipped": progress.skipped,
    }
    return replace(progress, stages=[*progress.stages, record])


def trained_share(groups: Sequence[LayerGroup]) -> str:
    """Say how many parameters train, and in which layer groups."""
    training = [group.name for group in groups if any(p.requires_grad for _, p in group.parameters)]
    counts = [(p.numel(), p.requires_grad) for group in groups for _, p in group.parameters]
    which = "all layers" if len(training) == len(groups) else ", ".join(training)
    return f"{sum(n for n, trains in counts if trains):,} of {sum(n for n, _ in counts):,} parameters train ({which})"


def clean_up(run: Run[Any]) -> None:
    """Remove what only an unfinished run needs."""
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        best_file(run).unlink(missing_ok=True)
        shutil.rmtree(run.out / "checkpoints", ignore_errors=True)


def _steps_that_fit_in_memory(
    run: Run[Any], make_steps: MakeSteps, progress: Progress, learner: Learner, stage: Stage, references: Sequence[str]
) -> Iterator[tuple[Step, int]]:
    """Yield the steps, counted over all stages, with the micro-batches a step that hold from now on.

    A step that runs out of memory is done again in twice as many. A step of few examples may have been cut into fewer parts.
    """
    first, carried = progress.first_step, learner.carried
    done, num = progress.step - first, progress.num_micro_batches
    while True:
        try:
            for step in make_steps(done, num):
                done = step.step
                if carried is not None:
                    carried.commit()
                yield replace(step, step=first + done), num
            return
        except NumericError as error:
            named = ", ".join(references[i] for i in error.example_ids[:5])
            raise NumericError(f"{error.message}, first {named}" if named else error.message, hint=error.hint) from error
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            learner.optimizer.zero_grad()
            if carried is not None:
                carried.discard()
            num = _split(run, num, step=first + done + 1, most=stage.parts or len(references), error=error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def _found(find_lr: Callable[[], float], *, num_micro_batches: int) -> float:
    """Look for the learning rate; a sweep is not split into smaller parts while it runs."""
    try:
        return find_lr()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        hint = f"begin with steps in more parts: --batch.micro_batches {2 * num_micro_batches}"
        raise NumericError("out of memory while looking for a learning rate", hint=hint) from error


def _split(run: Run[Any], num: int, *, step: int, most: int, error: RuntimeError) -> int:
    if num >= most:
        raise NumericError(
            f"out of memory in step {step} with as little at a time as can be", hint="lower --data.max_length"
        ) from error
    if run.accelerator.num_processes > 1:
        raise NumericError(
            f"out of memory in step {step}", hint=f"begin another run, with steps in more parts: --batch.micro_batches {2 * num}"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    run.say(
        f"out of memory in step {step}: going on with {2 * num} micro-batches a step instead of {num} (the step stays the same)"
    )
    return 2 * num


def _advance(run: Run[Any], progress: Progress, step: Step, *, num_micro_batches: int, seconds: float) -> Progress:
    scaler = getattr(run.accelerator, "scaler", None)
    return replace(
        progress,
        num_micro_batches=num_micro_batches,
        step=step.step,
        num_items=progress.num_items + step.num_items,
        clipped=progress.clipped + step.clipped,
        skipped=progress.skipped + step.skipped,
        skipped_in_a_row=progress.skipped_in_a_row + 1 if step.skipped else 0,
        seconds=progress.seconds + seconds,
        scaler={} if scaler is None else scaler.state_dict(),
    )


def _evaluate(run: Run[Any], progress: Progress, validation: Validation, *, model: nn.Module, total: int) -> Progress:
    """Evaluate, log it, and keep the weights if they are the best so far."""
    metrics, metric = validation.evaluate(), validation.metric
    log(run.accelerator, run.out / "metrics.jsonl", {"step": progress.step, "split": "validation", **metrics})
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
    run.say(f"step {progress.step} of {total}: validation {shown}")
    value = metrics[metric.name]
    score = value if value is None or metric.higher_is_better else -value
    if _is_no_better(score, progress):
        return replace(progress, worse=progress.worse + 1)
    failure: list[str | None] = [None]
    try:
        save_weights(model, best_file(run), is_main_process=run.accelerator.is_main_process)
    except OSError as error:
        failure = [str(error)]
    broadcast_object_list(failure)
    if failure[0]:
        raise Stopped(f"the best weights could not be written to {best_file(run)} ({failure[0]})", code=EXIT_PREEMPTED)
    return replace(progress, best_score=score, best_step=progress.step, worse=0)


def _is_no_better(score: float | None, progress: Progress) -> bool:
    """Tell whether the weights kept so far stay: an undefined score is worse than any, but something has to be kept."""
    if score is None:
        return progress.best_step > 0
    return progress.best_score is not None and score <= progress.best_score


def _agreed_code(run: Run[Any], request: StopRequest) -> int:
    """Return the exit code that any process was asked to stop with, the same in all of them."""
    if run.accelerator.num_processes == 1:
        return request.code
    codes = run.accelerator.gather(torch.tensor([request.code], device=run.accelerator.device))
    return int(codes.max().item())


def _agreed(run: Run[Any], condition: bool) -> bool:
    """Let the main process decide for all."""
    if run.accelerator.num_processes == 1:
        return condition
    answer = [condition]
    broadcast_object_list(answer)
    return answer[0]


def _stopped(run: Run[Any], code: int, request: StopRequest, *, step: int, total: int) -> Stopped:
    if run.accelerator.is_main_process and request.signal_name == "SIGUSR1":
        requeue()
    again = f"--out {run.out} goes on from there"
    return Stopped(f"stopped by {request.signal_name or 'a signal'} after step {step} of {total}, and saved: {again}", code=code)
