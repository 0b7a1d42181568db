"""Training with what belongs beside it: the log, evaluation, the best weights, early stopping, checkpoints, signals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from nlpbp.analysis.metrics import higher_is_better
from nlpbp.core.averaging import WeightAverage
from nlpbp.core.errors import EXIT_PREEMPTED, CheckpointError, ConfigError, NlpbpError, NumericError
from nlpbp.core.groups import LayerGroup, group_hashes
from nlpbp.train.checkpoint import Checkpoint, first_non_finite, needed_bytes, newest_checkpoint, write_checkpoint
from nlpbp.train.loop import Step
from nlpbp.train.lr_finder import set_highest_rate
from nlpbp.train.signals import Stopped, StopRequest, requeue, stop_requests
from nlpbp.train.tracking import log, truncate_jsonl
from nlpbp.train.weights import (
    full_optimizer_state,
    full_state,
    load_weights,
    plain_shapes,
    save_weights,
    set_full_optimizer_state,
    set_full_state,
    without_shared,
)
from recipes.common.config import Checkpoints
from recipes.common.folder import Run

AVERAGE = "average.safetensors"  # of a checkpoint, once there is a mean of weights to go on with
MAX_SKIPPED = 20  # fp16 overflows in a row: by then the loss scale is a millionth of what it was

Metrics = dict[str, float | None]
MakeSteps = Callable[[int, int], Iterator[Step]]  # (first step, micro-batches a step) -> the rest of the stage, its steps from 1


@dataclass(frozen=True)
class Progress:
    """All that a run must remember between two steps, beside weights and optimizer; it is saved as plain JSON.

    Steps count on from stage to stage; what is counted beside them is of the stage alone.
    """

    num_micro_batches: int
    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    worse: int = 0  # evaluations in a row without a better score
    num_items: int = 0
    clipped: int = 0
    skipped: int = 0  # fp16 overflows
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # in optimizer steps alone
    lr: float = 0.0  # that a sweep found when the stage began
    scaler: dict[str, Any] = field(default_factory=dict)  # of fp16
    stage: int = 0
    first_step: int = 0  # of the stage: how many steps those before it took
    hashes: dict[str, str] = field(default_factory=dict)  # of the layer groups when the stage began
    stages: list[dict[str, Any]] = field(default_factory=list)  # what the finished stages did, for the result


@dataclass(frozen=True)
class Stage:
    """One of the trainings that a run does one after the other; the weights it ends with are the best or, if so told, its last.

    `later_steps` are those planned after it. `new_metric` says that scores of the stage before are of something else.
    """

    name: str = "training"
    index: int = 0
    later_steps: int = 0
    new_metric: bool = True
    keep_last: bool = False


class Carried(Protocol):
    """What a stage carries from step to step beside weights and optimizer, as `nlpbp.text.lm_data.CarriedState` does."""

    def tensors(self) -> dict[str, torch.Tensor]: ...  # noqa: D102
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None: ...  # noqa: D102
    def commit(self) -> None: ...  # noqa: D102
    def discard(self) -> None: ...  # noqa: D102


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
    stage: Stage = Stage(),
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
    newest = _newest(run, root, identity=must_match)
    if newest is not None and _progress(newest).stage > stage.index:
        return None
    average = WeightAverage(model, after=0 if ema and average_from == 1.0 else int(average_from * total_steps), decay=ema)
    resumed = _resume(
        run, newest, best_file, model=model, optimizer=optimizer, before=before, stage=stage, carried=carried, average=average
    )
    end = (resumed.first_step if resumed else before.step) + total_steps + stage.later_steps
    run.release(f"resumed from step {resumed.step} of {end}" if resumed else None)
    progress = resumed or _begin(before, stage, hashes=group_hashes(run.accelerator.unwrap_model(model), groups))
    _check_disk(run, model, keep=checkpoints.keep, num_copies=4 if average.after >= total_steps else 5)
    if stage != Stage():
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
        _save(
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


def _save(
    run: Run,
    root: Path,
    best_file: Path,
    progress: Progress,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    carried: Carried | None,
    average: WeightAverage,
    identity: Mapping[str, str],
    keep: int,
) -> None:
    """Write a checkpoint from the main process; a disk that is full stops the run with the earlier checkpoints intact."""
    tensors = {"model.safetensors": without_shared(full_state(model)), "optim.safetensors": full_optimizer_state(model, optimizer)}
    if carried is not None:
        tensors["carried.safetensors"] = _over_processes(run, carried.tensors())
    if average.begun:
        with average.applied():
            tensors[AVERAGE] = {name: tensor.clone() for name, tensor in without_shared(full_state(model)).items()}
    answer: list[NlpbpError | None] = [None]
    if not run.out.is_dir():
        answer = [CheckpointError("the run folder is gone", file=str(run.out), hint="do not move a run while it trains")]
    elif run.accelerator.is_main_process:
        files = {best_file.name: best_file} if progress.best_step else {}
        try:
            write_checkpoint(
                root, step=progress.step, tensors=tensors, files=files, state=asdict(progress), identity=identity, keep=keep
            )
        except NlpbpError as error:
            answer = [error]
        except OSError as error:
            free = shutil.disk_usage(run.out).free >> 20 if run.out.exists() else 0
            needed = needed_bytes(_size(tensors), keep=0) >> 20
            message = (
                f"the checkpoint of step {progress.step} could not be written ({error}); {needed} MB are needed, {free} MB free"
            )
            answer = [Stopped(message, code=EXIT_PREEMPTED)]
    broadcast_object_list(answer)
    if answer[0] is not None:
        raise answer[0]


def _size(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
    return sum(tensor.nbytes for content in tensors.values() for tensor in content.values())


def _check_disk(run: Run, model: nn.Module, *, keep: int, num_copies: int) -> None:
    """Refuse to start what cannot be saved: weights, two moments, the best weights and their mean, for each checkpoint kept."""
    needed = needed_bytes(num_copies * sum(p.nbytes for p in model.parameters()), keep=keep)
    free = shutil.disk_usage(run.out).free
    if free < needed:
        raise ConfigError(
            f"{run.out} has {free >> 20} MB free, and the checkpoints need {needed >> 20} MB",
            column="out",
            hint="name another disk",
        )


def _over_processes(run: Run, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the sum over processes, each of which holds rows of its own."""
    if run.accelerator.num_processes == 1:
        return tensors
    return {name: run.accelerator.reduce(tensor.to(run.accelerator.device)).cpu() for name, tensor in tensors.items()}


def _newest(run: Run, root: Path, *, identity: Mapping[str, str]) -> Checkpoint | None:
    """Find the newest checkpoint that verifies, the same for every process."""
    answer: list[Checkpoint | NlpbpError | None] = [None]
    if run.accelerator.is_main_process:
        try:
            answer = [newest_checkpoint(root, identity=identity)]
        except NlpbpError as error:
            answer = [error]
    broadcast_object_list(answer)
    found = answer[0]
    if isinstance(found, NlpbpError):
        raise found
    return found


def _resume(
    run: Run,
    newest: Checkpoint | None,
    best_file: Path,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    before: Progress,
    stage: Stage,
    carried: Carried | None,
    average: WeightAverage,
) -> Progress | None:
    """Go back to a checkpoint of this stage: weights, optimizer, log and best weights; None: the stage has none."""
    found = newest if newest is not None and _progress(newest).stage == stage.index else None
    if run.accelerator.is_main_process:
        truncate_jsonl(run.out / "metrics.jsonl", last_step=found.step if found else before.step)
        if found or stage.new_metric:
            best_file.unlink(missing_ok=True)
        if found and (found.path / best_file.name).exists():
            shutil.copyfile(found.path / best_file.name, best_file)
    if found is None:
        return None
    progress = _progress(found)
    if progress.step - progress.first_step > average.after:
        _load(found, AVERAGE, model)
        average.begin()
    _load(found, "model.safetensors", model)
    set_full_optimizer_state(model, optimizer, found.tensors("optim.safetensors"))
    if carried is not None:
        carried.load(found.tensors("carried.safetensors"))
    if found.rejected:
        run.say(f"warning: set aside, because they do not verify: {'; '.join(found.rejected)}")
    if run.accelerator.scaler is not None and progress.scaler:
        run.accelerator.scaler.load_state_dict(progress.scaler)
    return progress


def _progress(found: Checkpoint) -> Progress:
    """Turn a checkpoint's plain data back into a `Progress`, of exactly its fields and their kinds."""
    blank = asdict(Progress(1, best_score=0.0))
    state = found.state if isinstance(found.state, dict) else {}
    containers = {"scaler": dict, "hashes": dict, "stages": list}
    numbers = {name: value for name, value in state.items() if name not in (*containers, "best_score")}
    complete = {"lr": 0.0, **state}.keys() == blank.keys()  # the rate found is not in the first checkpoints that were written
    sound = complete and all(isinstance(state[name], kind) for name, kind in containers.items())
    if not sound or not all(isinstance(value, int | float) for value in numbers.values()):
        raise CheckpointError("its state is not that of a training run", file=str(found.path), hint="resume from an earlier one")
    return Progress(**state)


def _load(found: Checkpoint, file: str, model: nn.Module) -> None:
    """Give `model` the weights of one of a checkpoint's files, if they can be its own."""
    weights = found.tensors(file)
    _compare_shapes(found, weights, model)
    if name := first_non_finite(weights):
        raise CheckpointError(f"{name} is not finite in the checkpoint", file=str(found.path), hint="resume from an earlier one")
    set_full_state(model, weights)


def _compare_shapes(found: Checkpoint, weights: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """Refuse a checkpoint of another architecture, naming the first tensors that differ."""
    wanted = plain_shapes(model)
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [
        f"{name}: {saved.get(name)} saved, {wanted.get(name)} here"
        for name in {**wanted, **saved}
        if wanted.get(name) != saved.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{len(differing)} tensors differ from the model's: {'; '.join(differing[:5])}",
            file=str(found.path),
            hint="resume with the model of that run",
        )
