"""The states of a frozen model that its head reads, in one pass over the examples, and what a linear probe makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import PreTrainedModel

from nlpbp.config import ClassifierSettings
from nlpbp.core.batch import Batch
from nlpbp.core.pooling import Pooling
from nlpbp.data.modality import Modality, Prepared
from nlpbp.data.order import Ints, evaluation_batches
from nlpbp.data.parts import SPLIT_SEED, Inputs
from nlpbp.data.splits import nested_sample
from nlpbp.data.windows import means_of_windows
from nlpbp.runs.folder import Run
from nlpbp.tasks.probe import Probe, fit_probe, probe_outputs
from nlpbp.text.states import HeadInputs
from nlpbp.train.evaluate import predict
from nlpbp.trainers.targets import standardised

MAX_PROBED = 4_000  # training examples that a probe is fitted on: 2,000 review sentences gave .741, 6,000 gave .760
OWN = "model"  # the state that the model's own head reads

Floats = np.ndarray[Any, np.dtype[np.float32]]


def with_probe(run: Run[ClassifierSettings], inputs: Inputs, modality: Modality, model: PreTrainedModel) -> Modality:
    """Return `modality` with one more baseline: a linear probe of the states that the head of `model` reads, as they are now."""
    if is_divided(run):
        return modality

    def states(part: str, rows: Ints | None = None) -> Floats:
        examples = modality.parts[part]
        return frozen_states(model, examples, modality.collate, accelerator=run.accelerator, max_cost=modality.max_cost, rows=rows)[
            OWN
        ]

    rows, targets = probed(inputs, modality.parts["train"])
    probe = fit_probe(inputs.fields.task, states("train", rows), targets, num_outputs=max(1, len(inputs.labels)))
    outputs = outputs_by_part(inputs, probe, states)
    return replace(modality, baselines=lambda: modality.baselines() | {"probe": outputs})


def is_divided(run: Run[ClassifierSettings]) -> bool:
    """Tell, and say, whether a model is divided among devices, so that none has it whole before it trains."""
    divided = run.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if divided:
        run.say("no linear probe: the model is divided among devices")
    return divided


def probed(inputs: Inputs, examples: Prepared) -> tuple[Ints, np.ndarray[Any, Any]]:
    """Return the rows of `examples` that a probe is fitted on, windows of a text together, and the targets of their texts."""
    targets, num = standardised(inputs, can_shift=True, value_range=None)[0], len(inputs.train)
    chosen = np.arange(num)
    if num > MAX_PROBED:
        chosen = nested_sample(inputs.train.examples, chosen, share=MAX_PROBED / num, seed=SPLIT_SEED)
    rows = chosen if examples.owners is None else np.flatnonzero(np.isin(examples.owners, chosen))
    return rows, targets[chosen]


def outputs_by_part(inputs: Inputs, probe: Probe, states_of: Callable[[str], Floats]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what a probe answers for each part that is scored, given the states of a part."""
    _, scale, shift = standardised(inputs, can_shift=True, value_range=None)
    made = probe_outputs(inputs.fields.task, probe, [states_of(part) for part in inputs.scored])
    return {part: outputs * scale + shift for part, outputs in zip(inputs.scored, made, strict=True)}


def frozen_states(
    model: PreTrainedModel,
    examples: Prepared,
    collate: Callable[[Any, Ints], Batch],
    *,
    accelerator: Accelerator,
    max_cost: int,
    rows: Ints | None = None,
    poolings: Sequence[Pooling] = (),
) -> dict[str, Floats]:
    """Return by name the states of `examples`, of all or of some rows, [rows, width] each; those of a text's windows are averaged.

    `model` is what the head of `model` reads; with it go further `poolings` of a text model's last states. The model is in
    evaluation mode afterwards, and otherwise unchanged. Every process gets all states.
    """
    rows = np.arange(len(examples)) if rows is None else rows
    batches = evaluation_batches(examples.padded_lengths[rows], max_tokens=max_cost)
    reads = HeadInputs(model.to(accelerator.device), poolings=poolings)
    with accelerator.autocast():
        plan = [rows[batch] for batch in batches]
        made = predict(reads, plan, partial(collate, examples), accelerator=accelerator, show_progress=True).logits
    owners = None if examples.owners is None else examples.owners[rows]
    each = np.split(made, np.cumsum(reads.widths)[:-1], axis=1)
    return {kind: means_of_windows(values, owners) for kind, values in zip((OWN, *poolings), each, strict=True)}
