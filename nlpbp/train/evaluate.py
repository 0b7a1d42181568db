"""Evaluation: every example exactly once, on any number of processes, and back in the order of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm  # in a notebook it draws itself as one

from nlpbp.core.batch import Batch, Count
from nlpbp.data.order import Ints, rank_share

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Predictions:
    """What a model says about examples: `ids` [n] are positions in the file, ascending; `logits` is [n, labels]."""

    ids: Ints
    logits: Floats


def predict(
    model: nn.Module,
    plan: Sequence[Ints],
    make_batch: Callable[[Ints], Batch],
    *,
    accelerator: Accelerator,
    show_progress: bool = False,
) -> Predictions:
    """Run `model` over the batches of `plan` (arrays of example ids), shared among processes, and collect logits by id.

    Every process gets all predictions. A batch that fills up the last round is run twice and counted once.
    """
    model.eval()
    mine = rank_share(plan, rank=accelerator.process_index, world_size=accelerator.num_processes)
    bar = tqdm(mine, desc="predicting", unit="batch", leave=False, disable=not (show_progress and accelerator.is_main_process))
    with torch.inference_mode():
        parts = [(batch_ids, _logits(model, make_batch(batch_ids).to(accelerator.device))) for batch_ids in bar]
    gathered = gather_object(parts) if accelerator.num_processes > 1 else parts
    ids = np.concatenate([part_ids for part_ids, _ in gathered])
    logits = np.concatenate([part_logits for _, part_logits in gathered])
    unique, first = np.unique(ids, return_index=True)
    return Predictions(unique, logits[first])


def _logits(model: nn.Module, batch: Batch) -> Floats:
    logits: Tensor = model(**batch.inputs).logits
    return logits.float().cpu().numpy()


def batch_losses(
    model: nn.Module,
    blocks: Sequence[Iterable[Batch]],
    *,
    accelerator: Accelerator,
    count: Count,
    loss_of: Callable[[nn.Module, Batch, Any], tuple[Tensor, Any]],
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], Ints]:
    """Return the mean loss of each batch of `blocks` and its number of items, [batches] each, in order, in every process.

    Blocks are shared among processes, and the batches of one are read in turn: `loss_of(model, batch, state)` gives the mean loss
    over the batch's `count` items, and the state that the block's next batch goes on from; the first one gets None.
    """
    model.eval()
    mine = rank_share(list(enumerate(blocks)), rank=accelerator.process_index, world_size=accelerator.num_processes)
    found: list[tuple[int, list[tuple[float, int]]]] = []
    with torch.inference_mode():
        for number, block in mine:
            losses, state = [], None
            for batch in block:
                loss, state = loss_of(model, batch.to(accelerator.device), state)
                losses.append((loss.item(), count(batch)))
            found.append((number, losses))
    by_number = dict(gather_object(found) if accelerator.num_processes > 1 else found)
    pairs = [pair for number in sorted(by_number) for pair in by_number[number]]
    return np.array([loss for loss, _ in pairs]), np.array([num for _, num in pairs], dtype=np.int64)
