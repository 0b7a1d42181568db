"""The training loop, as a generator: the body of the `for` is where you log, evaluate and save, and `break` stops it.

    for step in train_steps(model, batches, optimizer, accelerator=accelerator, ...):
        print(step.loss)

It keeps no state of its own: rates follow from the step's number, randomness from (seed, step, micro-batch).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.optim import Optimizer

from nlpbp.core.batch import Batch, Count, CountedLoss, LossFn, count_examples
from nlpbp.core.errors import DistributedError, NumericError
from nlpbp.core.freezing import train_mode
from nlpbp.core.optim import set_momentum, set_rates
from nlpbp.core.schedules import Schedule, WithMomentum
from nlpbp.data.order import micro_seed
from nlpbp.train.norms import NormStatistics, batch_norms


@dataclass(frozen=True)
class Step:
    """One optimizer step: the mean loss over its items, and how the update was made."""

    step: int  # how many steps are done, this one included
    loss: float
    lr: float  # the highest rate of any group
    grad_norm: float  # before clipping
    clipped: bool
    skipped: bool  # fp16 overflow: the optimizer did not move
    num_items: int
    num_micro_batches: int  # of all processes


def train_steps(
    model: nn.Module,
    batches: Iterable[Sequence[Batch]],
    optimizer: Optimizer | AcceleratedOptimizer,
    *,
    accelerator: Accelerator,
    loss_fn: LossFn,
    schedule: Schedule,
    total_steps: int,
    first_step: int = 0,
    max_grad_norm: float | None = 1.0,
    seed: int = 0,
) -> Iterator[Step]:
    """Train `model` one optimizer step at a time; each item of `batches` is this process's micro-batches of one step.

    Gradients are those of the mean loss over all items of the step, whatever the number of micro-batches and processes (the items
    are a batch's examples, or what a `CountedLoss` counts). The learning rate of step i is the group's base rate times
    `schedule((i + 0.5) / total_steps)`: the middle of the step, so that neither the first nor the last one is lost to a rate of 0.
    A `WithMomentum` schedule also sets Adam's first beta. `max_grad_norm` clips the global L2 norm (None: never). `train_mode` is
    called before each step. `model` and `optimizer` come from `accelerator.prepare`.

    Raises `NumericError`, before the optimizer moves, when the loss or (outside fp16) the gradient is not finite.

    >>> accelerator = Accelerator(cpu=True)
    >>> model = nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> one = Batch({"input": torch.ones(4, 1)}, torch.ones(4, 1), torch.arange(4))
    >>> def squared_error(model, batch):
    ...     return (model(**batch.inputs) - batch.labels).square().mean()
    >>> steps = train_steps(model, [[one]] * 9, optimizer, accelerator=accelerator, loss_fn=squared_error,
    ...                     schedule=lambda progress: 1.0, total_steps=9)
    >>> losses = [step.loss for step in steps]
    >>> losses[-1] < losses[0]
    True
    """
    world_size, norms = accelerator.num_processes, batch_norms(model)
    count = loss_fn.count if isinstance(loss_fn, CountedLoss) else count_examples
    for index, (window, num_items) in enumerate(_counted(accelerator, batches, count), start=first_step):
        train_mode(model)
        progress = (index + 0.5) / total_steps
        set_rates(optimizer, schedule(progress))
        if isinstance(schedule, WithMomentum):
            set_momentum(optimizer, schedule.momentum(progress))
        divisor = max(1, num_items)  # a step of masked items only moves nothing
        losses, statistics = [], NormStatistics(norms)
        for position, batch in enumerate(window):
            is_last = position == len(window) - 1
            accelerator.gradient_state._set_sync_gradients(is_last)
            torch.manual_seed(micro_seed(seed, index, accelerator.process_index + position * world_size))
            statistics.before()
            with nullcontext() if is_last else accelerator.no_sync(model):
                loss = loss_fn(model, batch.to(accelerator.device))
                # Data parallelism takes the mean of the processes' gradients; the sum is wanted.
                accelerator.backward(loss * (count(batch) / divisor * world_size))
            statistics.after()
            losses.append(loss.detach())
        statistics.finish(accelerator)
        shares = [count(batch) / divisor for batch in window]
        local_losses = [loss.item() for loss in losses]
        (mean_loss,) = _sum_over_processes(accelerator, sum(loss * share for loss, share in zip(local_losses, shares, strict=True)))
        grad_norm = _clip(accelerator, model, optimizer, max_grad_norm)
        if not math.isfinite(mean_loss):
            raise _non_finite_loss(accelerator, index + 1, window, local_losses, norm=grad_norm, lr=_highest_rate(optimizer))
        if not math.isfinite(grad_norm) and accelerator.scaler is None:
            raise _non_finite_gradient(model, index + 1, window, norm=grad_norm, lr=_highest_rate(optimizer))
        loss_scale = _loss_scale(accelerator)
        optimizer.step()
        optimizer.zero_grad()
        yield Step(
            step=index + 1,
            loss=mean_loss,
            lr=_highest_rate(optimizer),
            grad_norm=grad_norm,
            clipped=max_grad_norm is not None and grad_norm > max_grad_norm,
            skipped=_loss_scale(accelerator) < loss_scale,
            num_items=num_items,
            num_micro_batches=len(window) * world_size,
        )


def _counted(accelerator: Accelerator, batches: Iterable[Sequence[Batch]], count: Count) -> Iterator[tuple[Sequence[Batch], int]]:
    """Yield each step's micro-batches with the number of items that all processes together have in it."""
    iterator = iter(batches)
    while True:
        window = next(iterator, None)
        num_items, ended = _sum_over_processes(accelerator, sum(count(batch) for batch in window or ()), float(window is None))
        if 0 < ended < accelerator.num_processes:
            raise DistributedError("the data of one process end before those of another", hint="cut the same plan by rank")
        if window is None:
            return
        yield window, int(num_items)


def _clip(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer | AcceleratedOptimizer, max_grad_norm: float | None
) -> float:
    """Clip the gradient to a global L2 norm and return the norm before; gradients that are not finite stay as they are."""
    bound = math.inf if max_grad_norm is None else max_grad_norm
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        sharded = accelerator.clip_grad_norm_(model.parameters(), bound)
        return 0.0 if sharded is None else float(sharded)
    if accelerator.scaler is not None:
        accelerator.scaler.unscale_(getattr(optimizer, "optimizer", optimizer))
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if norm.isfinite() and norm > bound:
        nn.utils.clip_grads_with_norm_(model.parameters(), bound, norm)
    return float(norm)


def _sum_over_processes(accelerator: Accelerator, *values: float) -> list[float]:
    if accelerator.num_processes == 1:
        return list(values)
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    total = accelerator.reduce(torch.tensor(values, dtype=dtype, device=accelerator.device), reduction="sum")
    return [float(value) for value in total.tolist()]


def _loss_scale(accelerator: Accelerator) -> float:
    """Return fp16's loss scale, which falls when a step is skipped; accelerate's own flag misses that with fused optimizers."""
    return 1.0 if accelerator.scaler is None else float(accelerator.scaler.get_scale())


def _highest_rate(optimizer: Optimizer | AcceleratedOptimizer) -> float:
    return max(group["lr"] for group in optimizer.param_groups)


def _non_finite_loss(
    accelerator: Accelerator, step: int, window: Sequence[Batch], losses: Sequence[float], *, norm: float, lr: float
) -> NumericError:
    """Name the examples of the micro-batches whose loss is not finite, on whichever process they were."""
    bad = [i for batch, loss in zip(window, losses, strict=True) if not math.isfinite(loss) for i in batch.ids.tolist()]
    ids = sorted(gather_object(bad) if accelerator.num_processes > 1 else bad)
    message = f"the loss is not finite at step {step} (norm {norm}, rate {lr:.2e})"
    return _numeric_error(message, ids, hint="look at these examples; lower --optim.lr")


def _non_finite_gradient(model: nn.Module, step: int, window: Sequence[Batch], *, norm: float, lr: float) -> NumericError:
    names = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    ids = sorted(i for batch in window for i in batch.ids.tolist())
    where = f"first in {names[0]}" if names else "in the sum over processes"
    message = f"the gradient is not finite at step {step} (norm {norm}, rate {lr:.2e}), {where}"
    return _numeric_error(message, ids, hint="lower --optim.lr or --optim.max_grad_norm")


def _numeric_error(message: str, ids: list[int], *, hint: str) -> NumericError:
    error = NumericError(f"{message}; examples {ids}", hint=f"{hint}; with fp16 or bf16 try --precision fp32")
    error.example_ids = tuple(ids)
    return error
