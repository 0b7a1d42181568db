"""Training with what belongs beside it: the log, evaluation, the best weights, early stopping, checkpoints, signals."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from nlpbp.analysis.metrics import higher_is_better
from nlpbp.core.errors import EXIT_PREEMPTED, CheckpointError, ConfigError, NlpbpError, NumericError
from nlpbp.train.checkpoint import Checkpoint, first_non_finite, needed_bytes, newest_checkpoint, write_checkpoint
from nlpbp.train.loop import Step
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

MAX_SKIPPED = 20  # fp16 overflows in a row: by then the loss scale is a millionth of what it was

Metrics = dict[str, float | None]
MakeSteps = Callable[[int, int], Iterator[Step]]  # (first step, micro-batches a step) -> the rest of the training


@dataclass(frozen=True)
class Progress:
    """All that a run must remember between two steps, beside weights and optimizer; it is saved as plain JSON."""

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
    scaler: dict[str, Any] = field(default_factory=dict)  # of fp16


def fit(
    run: Run,
    make_steps: MakeSteps,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    evaluate: Callable[[], Metrics],
    metric: str,
    total_steps: int,
    steps_per_epoch: int,
    num_micro_batches: int,
    identity: Mapping[str, str],
    checkpoints: Checkpoints,
    references: Sequence[str],
    allow_data_change: bool = False,
    eval_steps: int | None = None,
    patience: int | None = None,
) -> Progress:
    """Train to the end, or from the newest checkpoint of this run folder on, and leave the best weights in `model`.

    Evaluates every epoch (or every `eval_steps`); `patience` stops after that many evaluations in a row without a better
    `metric`. `identity` names what a checkpoint must belong to, `references` where each training example is from. When memory
    runs out, micro-batches are halved and their number doubled: the step stays the same. Raises `Stopped` after a signal, when
    everything is saved.
    """
    root, best_file = run.out / "checkpoints", run.out / "best.safetensors"
    must_match = {name: value for name, value in identity.items() if name != "data" or not allow_data_change}
    resumed = _resume(run, root, best_file, model=model, optimizer=optimizer, identity=must_match)
    run.release(f"resumed from step {resumed.step} of {total_steps}" if resumed else None)
    progress = resumed or Progress(num_micro_batches)
    _check_disk(run, model, keep=checkpoints.keep)
    every = eval_steps or steps_per_epoch
    main = run.accelerator.is_main_process
    bar = tqdm(total=total_steps, initial=progress.step, desc="training", unit="step", dynamic_ncols=True, disable=not main)

    def save() -> None:
        _save(run, root, best_file, progress, model=model, optimizer=optimizer, identity=identity, keep=checkpoints.keep)

    with bar, stop_requests() as request:
        saved_at = started = time.monotonic()
        for step in _steps_that_fit_in_memory(run, make_steps, progress, optimizer, references):
            progress = _advance(run, progress, step, seconds=time.monotonic() - started)
            log(run.accelerator, run.out / "metrics.jsonl", {**asdict(step), "epoch": round(step.step / steps_per_epoch, 4)})
            if progress.skipped_in_a_row >= MAX_SKIPPED:
                raise NumericError(
                    f"fp16 has overflowed in the last {MAX_SKIPPED} steps", hint="use --precision bf16 or fp32, or lower --optim.lr"
                )
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            if step.step % every == 0 or step.step == total_steps:
                progress = _evaluate(run, progress, evaluate(), metric, model=model, best_file=best_file, total=total_steps)
            if patience is not None and progress.worse >= patience:
                run.say(f"stopping: {metric} has not improved in {progress.worse} evaluations")
                break
            code = _agreed_code(run, request)
            due = checkpoints.every_steps is not None and step.step % checkpoints.every_steps == 0
            late = _agreed(run, time.monotonic() - saved_at >= checkpoints.every_seconds)
            if code or due or late or step.step % steps_per_epoch == 0:
                save()
                saved_at = time.monotonic()
            if code:
                raise _stopped(run, code, request, step=step.step, total=total_steps)
            started = time.monotonic()
    if progress.best_step != progress.step:
        run.accelerator.wait_for_everyone()
        load_weights(model, best_file)
    return progress


def clean_up(run: Run) -> None:
    """Remove what only an unfinished run needs."""
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        (run.out / "best.safetensors").unlink(missing_ok=True)
        shutil.rmtree(run.out / "checkpoints", ignore_errors=True)


def _steps_that_fit_in_memory(
    run: Run, make_steps: MakeSteps, progress: Progress, optimizer: Optimizer, references: Sequence[str]
) -> Iterator[Step]:
    """Yield the steps; one that runs out of memory is done again in twice as many micro-batches, as are all after it."""
    done, num = progress.step, progress.num_micro_batches
    while True:
        try:
            for step in make_steps(done, num):
                done = step.step
                yield step
            return
        except NumericError as error:
            named = ", ".join(references[i] for i in error.example_ids[:5])
            raise NumericError(f"{error.message}, first {named}" if named else error.message, hint=error.hint) from error
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            optimizer.zero_grad()
            num = _split(run, num, step=done + 1, most=len(references), error=error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def _split(run: Run, num: int, *, step: int, most: int, error: RuntimeError) -> int:
    if num >= most:
        raise NumericError(f"out of memory in step {step} with one example at a time", hint="lower --data.max_length") from error
    if run.accelerator.num_processes > 1:
        raise NumericError(
            f"out of memory in step {step}", hint=f"cut steps into more parts: --batch.micro_batches {2 * num}"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    run.say(
        f"out of memory in step {step}: going on with {2 * num} micro-batches a step instead of {num} (the step stays the same)"
    )
    return 2 * num


def _advance(run: Run, progress: Progress, step: Step, *, seconds: float) -> Progress:
    scaler = getattr(run.accelerator, "scaler", None)
    return replace(
        progress,
        num_micro_batches=step.num_micro_batches,
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
    identity: Mapping[str, str],
    keep: int,
) -> None:
    """Write a checkpoint from the main process; a disk that is full stops the run with the earlier checkpoints intact."""
    tensors = {"model.safetensors": without_shared(full_state(model)), "optim.safetensors": full_optimizer_state(model, optimizer)}
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


def _check_disk(run: Run, model: nn.Module, *, keep: int) -> None:
    """Refuse to start what cannot be saved: weights, two moments, and the best weights, for each checkpoint kept."""
    needed = needed_bytes(4 * sum(p.nbytes for p in model.parameters()), keep=keep)
    free = shutil.disk_usage(run.out).free
    if free < needed:
        raise ConfigError(
            f"{run.out} has {free >> 20} MB free, and the checkpoints need {needed >> 20} MB",
            column="out",
            hint="name another disk",
        )


def _resume(
    run: Run, root: Path, best_file: Path, *, model: nn.Module, optimizer: Optimizer, identity: Mapping[str, str]
) -> Progress | None:
    """Go back to the newest checkpoint that verifies: weights, optimizer, log and best weights."""
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
    if run.accelerator.is_main_process:
        truncate_jsonl(run.out / "metrics.jsonl", last_step=found.step if found else 0)
        best_file.unlink(missing_ok=True)
        if found and (found.path / best_file.name).exists():
            shutil.copyfile(found.path / best_file.name, best_file)
    if found is None:
        return None
    weights = found.tensors("model.safetensors")
    _compare_shapes(found, weights, model)
    if name := first_non_finite(weights):
        raise CheckpointError(f"{name} is not finite in the checkpoint", file=str(found.path), hint="resume from an earlier one")
    set_full_state(model, weights)
    set_full_optimizer_state(model, optimizer, found.tensors("optim.safetensors"))
    if found.rejected:
        run.say(f"warning: set aside, because they do not verify: {'; '.join(found.rejected)}")
    progress = _progress(found)
    if run.accelerator.scaler is not None and progress.scaler:
        run.accelerator.scaler.load_state_dict(progress.scaler)
    return progress


def _progress(found: Checkpoint) -> Progress:
    """Turn a checkpoint's plain data back into a `Progress`, of exactly its fields and their kinds."""
    blank = asdict(Progress(1, best_score=0.0))
    state = found.state if isinstance(found.state, dict) else {}
    numbers = {name: value for name, value in state.items() if name not in ("scaler", "best_score")}
    sound = state.keys() == blank.keys() and isinstance(state["scaler"], dict)
    if not sound or not all(isinstance(value, int | float) for value in numbers.values()):
        raise CheckpointError("its state is not that of a training run", file=str(found.path), hint="resume from an earlier one")
    return Progress(**state)


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
