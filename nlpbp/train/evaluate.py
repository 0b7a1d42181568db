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
from tqdm import tqdm

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


def mean_loss(
    model: nn.Module,
    blocks: Sequence[Iterable[Batch]],
    *,
    accelerator: Accelerator,
    count: Count,
    loss_of: Callable[[nn.Module, Batch, Any], tuple[Tensor, Any]],
) -> float:
    """Return the mean loss over all items of `blocks`, which are shared among processes; the batches of one are read in turn.

    `loss_of(model, batch, state)` gives the mean loss over the batch's `count` items, and the state that the block's next batch
    goes on from; the first one gets None. The answer does not depend on the number of processes.
    """
    model.eval()
    numbered = list(enumerate(blocks))
    mine = rank_share(numbered, rank=accelerator.process_index, world_size=accelerator.num_processes)
    totals = []
    with torch.inference_mode():
        for number, block in mine:
            total, items, state = 0.0, 0, None
            for batch in block:
                num = count(batch)
                loss, state = loss_of(model, batch.to(accelerator.device), state)
                total, items = total + loss.item() * num if num else total, items + num
            totals.append((number, total, items))
    gathered = dict((number, rest) for number, *rest in (gather_object(totals) if accelerator.num_processes > 1 else totals))
    losses, counts = zip(*(gathered[number] for number in sorted(gathered)), strict=True)
    return float(sum(losses) / max(1, sum(counts)))
