"""Training with what belongs beside it: the log, evaluation, the best weights, early stopping, checkpoints, signals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from nlpbp.config.run import Checkpoints
from nlpbp.core.averaging import WeightAverage
from nlpbp.core.errors import EXIT_PREEMPTED, NumericError
from nlpbp.core.groups import LayerGroup, group_hashes
from nlpbp.evaluation.metrics import higher_is_better
from nlpbp.runs.folder import Run
from nlpbp.runs.progress import Carried, Progress, Stage, check_disk, newest_of_run, progress_of, resume_stage, save_checkpoint
from nlpbp.train.loop import Step
from nlpbp.train.lr_finder import set_highest_rate
from nlpbp.train.signals import Stopped, StopRequest, requeue, stop_requests
from nlpbp.train.tracking import log
from nlpbp.train.weights import (
    load_weights,
    save_weights,
)

AVERAGE = "average.safetensors"  # of a checkpoint, once there is a mean of weights to go on with
ALONE = Stage()  # of a run that has no other stage
MAX_SKIPPED = 20  # fp16 overflows in a row: by then the loss scale is a millionth of what it was

Metrics = dict[str, float | None]
MakeSteps = Callable[[int, int], Iterator[Step]]  # (first step, micro-batches a step) -> the rest of the stage, its steps from 1


def fit(
    run: Run,
    make_steps: MakeSteps,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    groups: Sequence[LayerGroup],
    evaluate: Callable[[], Metrics],
    metric: str,
    total_steps: int,
    steps_per_epoch: int,
    identity: Mapping[str, str],
    checkpoints: Checkpoints,
    references: Sequence[str],
    before: Progress,
    stage: Stage = ALONE,
    carried: Carried | None = None,
    allow_data_change: bool = False,
    eval_steps: int | None = None,
    patience: int | None = None,
    average_from: float = 1.0,
    ema: float | None = None,
    find_rate: Callable[[], float] | None = None,
    snapshots: Sequence[int] = (),
    save_snapshot: Callable[[int], None] = lambda number: None,
) -> Progress | None:
    """Train one stage to its end, or from the newest checkpoint of this run folder on, and leave the best weights in `model`.

    Evaluates every epoch (or every `eval_steps`); `patience` stops after that many evaluations in a row without a better
    `metric`. `identity` names what a checkpoint must belong to, `references` where each training example is from. When memory
    runs out, micro-batches are halved and their number doubled: the step stays the same. `before` is how the stage before ended.
    Beyond the share `average_from` of the steps the mean of the weights since then is evaluated and kept, in place of the weights;
    with `ema` a moving one. `find_rate` is asked for the highest rate when the stage begins, and never again. After each of the
    stage's steps `snapshots`, `save_snapshot` is called with its number, from 1.
    A stage that a later one has left behind is not run again, and None is returned. At its end exactly the `groups` whose
    parameters train must have changed. Raises `Stopped` after a signal, when everything is saved.
    """
    root, best_file = run.out / "checkpoints", run.out / "best.safetensors"
    identity = {**identity, "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__}
    must_match = {name: value for name, value in identity.items() if name != "data" or not allow_data_change}
    newest = newest_of_run(run, root, identity=must_match)
    if newest is not None and progress_of(newest).stage > stage.index:
        return None
    average = WeightAverage(model, after=0 if ema and average_from == 1.0 else int(average_from * total_steps), decay=ema)
    resumed = resume_stage(
        run, newest, best_file, model=model, optimizer=optimizer, before=before, stage=stage, carried=carried, average=average
    )
    end = (resumed.first_step if resumed else before.step) + total_steps + stage.later_steps
    run.release(f"resumed from step {resumed.step} of {end}" if resumed else None)
    progress = resumed or _begin(before, stage, hashes=group_hashes(run.accelerator.unwrap_model(model), groups))
    num_copies = 4 if average.after >= total_steps else 5
    check_disk(run, model, keep=checkpoints.keep, num_copies=num_copies, num_snapshots=len(snapshots))
    if stage != ALONE:
        run.say(f"stage {stage.index + 1}: {stage.name}, {trained_share(groups)}")
    if find_rate is not None:
        progress = progress if resumed else replace(progress, lr=_found(find_rate, num_micro_batches=progress.num_micro_batches))
        set_highest_rate(optimizer, progress.lr)
    if average.after < total_steps:
        run.say(f"the mean of the weights after step {progress.first_step + average.after} is kept")
    every = eval_steps or steps_per_epoch
    main = run.accelerator.is_main_process
    first = progress.first_step
    bar = tqdm(total=total_steps, initial=progress.step - first, desc=stage.name, unit="step", dynamic_ncols=True, disable=not main)

    def save() -> None:
        save_checkpoint(
            run,
            root,
            best_file,
            progress,
            model=model,
            optimizer=optimizer,
            carried=carried,
            average=average,
            identity=identity,
            keep=checkpoints.keep,
        )

    with bar, stop_requests() as request:
        saved_at = started = time.monotonic()
        for step, num in _steps_that_fit_in_memory(run, make_steps, progress, optimizer, references, carried):
            done = step.step - first  # of this stage
            progress = _advance(run, progress, step, num_micro_batches=num, seconds=time.monotonic() - started)
            record = {**asdict(step), "epoch": round(done / steps_per_epoch, 4)}
            log(run.accelerator, run.out / "metrics.jsonl", record if stage == Stage() else {**record, "stage": stage.name})
            if progress.skipped_in_a_row >= MAX_SKIPPED:
                raise NumericError(
                    f"fp16 has overflowed in the last {MAX_SKIPPED} steps", hint="use --precision bf16 or fp32, or lower --optim.lr"
                )
            average.update(done)
            if done in snapshots:
                with average.applied():
                    save_snapshot(list(snapshots).index(done) + 1)
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            if done % every == 0 or done == total_steps:
                with average.applied():
                    progress = _evaluate(run, progress, evaluate(), metric, model=model, best_file=best_file, total=end)
            if patience is not None and progress.worse >= patience:
                run.say(f"stopping: {metric} has not improved in {progress.worse} evaluations")
                break
            code = _agreed_code(run, request)
            due = checkpoints.every_steps is not None and step.step % checkpoints.every_steps == 0
            late = _agreed(run, time.monotonic() - saved_at >= checkpoints.every_seconds)
            if code or due or late or done % steps_per_epoch == 0 or done == total_steps:
                save()
                saved_at = time.monotonic()
            if code:
                raise _stopped(run, code, request, step=step.step, total=end)
            started = time.monotonic()
    average.keep()
    return _end(run, progress, stage, metric=metric, model=model, groups=groups, best_file=best_file)


def _begin(before: Progress, stage: Stage, *, hashes: dict[str, str]) -> Progress:
    """Return the progress of a stage that has not done a step, after what came before it."""
    fresh = Progress(before.num_micro_batches, step=before.step, stage=stage.index, first_step=before.step, hashes=hashes)
    fresh = replace(fresh, stages=before.stages, scaler=before.scaler)
    return fresh if stage.new_metric else replace(fresh, best_score=before.best_score, best_step=before.best_step)


def _end(
    run: Run, progress: Progress, stage: Stage, *, metric: str, model: nn.Module, groups: Sequence[LayerGroup], best_file: Path
) -> Progress:
    """Hold the stage to what it announced, leave the right weights in the model, and note what it did."""
    after = group_hashes(run.accelerator.unwrap_model(model), groups)
    changed = {name for name, value in after.items() if value != progress.hashes.get(name)}
    announced = {group.name for group in groups if any(p.requires_grad for _, p in group.parameters)}
    assert changed <= announced, f"frozen layer groups have changed: {sorted(changed - announced)}"
    if announced - changed and progress.step > progress.first_step:
        run.say(f"warning: nothing has changed in {', '.join(sorted(announced - changed))}: its rate is too low")
    if not stage.keep_last and progress.best_step != progress.step:
        run.accelerator.wait_for_everyone()
        load_weights(model, best_file)
    record = {
        "name": stage.name,
        "steps": progress.step - progress.first_step,
        "items": progress.num_items,
        "seconds": round(progress.seconds, 3),
        "trained": sorted(announced),
        "trained_parameters": sum(p.numel() for group in groups for _, p in group.parameters if p.requires_grad),
        "lr": progress.lr or None,
        "metric": metric,
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


def clean_up(run: Run) -> None:
    """Remove what only an unfinished run needs."""
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        (run.out / "best.safetensors").unlink(missing_ok=True)
        shutil.rmtree(run.out / "checkpoints", ignore_errors=True)


def _steps_that_fit_in_memory(
    run: Run,
    make_steps: MakeSteps,
    progress: Progress,
    optimizer: Optimizer,
    references: Sequence[str],
    carried: Carried | None,
) -> Iterator[tuple[Step, int]]:
    """Yield the steps, counted over all stages, with the micro-batches a step that hold from now on.

    A step that runs out of memory is done again in twice as many. A step of few examples may have been cut into fewer parts.
    """
    first = progress.first_step
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
            optimizer.zero_grad()
            if carried is not None:
                carried.discard()
            num = _split(run, num, step=first + done + 1, most=len(references), error=error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def _found(find_rate: Callable[[], float], *, num_micro_batches: int) -> float:
    """Look for the rate; a sweep is not split into smaller parts while it runs."""
    try:
        return find_rate()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        hint = f"begin with steps in more parts: --batch.micro_batches {2 * num_micro_batches}"
        raise NumericError("out of memory while looking for a rate", hint=hint) from error


def _split(run: Run, num: int, *, step: int, most: int, error: RuntimeError) -> int:
    if num >= most:
        raise NumericError(f"out of memory in step {step} with one example at a time", hint="lower --data.max_length") from error
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


def _advance(run: Run, progress: Progress, step: Step, *, num_micro_batches: int, seconds: float) -> Progress:
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


def _evaluate(
    run: Run, progress: Progress, metrics: Metrics, metric: str, *, model: nn.Module, best_file: Path, total: int
) -> Progress:
    """Log an evaluation and keep the weights if they are the best so far."""
    log(run.accelerator, run.out / "metrics.jsonl", {"step": progress.step, "split": "validation", **metrics})
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
    run.say(f"step {progress.step} of {total}: validation {shown}")
    value = metrics[metric]
    score = float("-inf") if value is None else value if higher_is_better(metric) else -value
    if progress.best_score is not None and score <= progress.best_score:
        return replace(progress, worse=progress.worse + 1)
    failure: list[str | None] = [None]
    try:
        save_weights(model, best_file, is_main_process=run.accelerator.is_main_process)
    except OSError as error:
        failure = [str(error)]
    broadcast_object_list(failure)
    if failure[0]:
        raise Stopped(f"the best weights could not be written to {best_file} ({failure[0]})", code=EXIT_PREEMPTED)
    return replace(progress, best_score=score, best_step=progress.step, worse=0)


def _agreed_code(run: Run, request: StopRequest) -> int:
    """Return the exit code that any process was asked to stop with, the same in all of them."""
    if run.accelerator.num_processes == 1:
        return request.code
    codes = run.accelerator.gather(torch.tensor([request.code], device=run.accelerator.device))
    return int(codes.max().item())


def _agreed(run: Run, condition: bool) -> bool:
    """Let the main process decide for all."""
    if run.accelerator.num_processes == 1:
        return condition
    answer = [condition]
    broadcast_object_list(answer)
    return answer[0]


def _stopped(run: Run, code: int, request: StopRequest, *, step: int, total: int) -> Stopped:
    if run.accelerator.is_main_process and request.signal_name == "SIGUSR1":
        requeue()
    again = f"--out {run.out} goes on from there"
    return Stopped(f"stopped by {request.signal_name or 'a signal'} after step {step} of {total}, and saved: {again}", code=code)
