"""How a text classifier's head begins: which states of the pretrained model it reads, and from the weights of a linear probe.

One pass over the frozen model gives the states. A linear probe on them is the baseline that fine-tuning has to beat, tells which of
two poolings knows more of the task, and is where the head may begin (LP-FT; Kumar et al. 2022): a random head first moves the body
away from what it knew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from nlpbp.config import MaskedLM, TextClassifierSettings
from nlpbp.config.optim import Start, begins_at_probe
from nlpbp.core.errors import ConfigError
from nlpbp.core.layers import output_layer
from nlpbp.core.pooling import Pooling
from nlpbp.data.order import Ints, evaluation_tokens
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.data.pretrained import from_pretrained
from nlpbp.data.windows import chosen_windows
from nlpbp.modalities.encoding import EncodedTexts
from nlpbp.runs.fit import Metrics
from nlpbp.runs.folder import Run, write_text
from nlpbp.runs.predictions import decision_thresholds
from nlpbp.tasks import task_metrics
from nlpbp.tasks.probe import Probe, fit_probe, probe_outputs
from nlpbp.text.batches import Encoded, collate
from nlpbp.text.pooled import PooledConfig, sentence_pooling
from nlpbp.text.states import NotPooledError
from nlpbp.text.transformer import has_trained_head, with_pooling
from nlpbp.trainers.frozen import OWN, Floats, frozen_states, is_divided, outputs_by_part, probed

CANDIDATE: Pooling = "mean"  # what the head of the family is compared with
FILE = "probe.json"


@dataclass(frozen=True)
class Head:
    """A classifier whose head is settled, the probe of its states, and the probe's outputs by part, as a baseline.

    There is no probe of a model that is too large for one device.
    """

    model: PreTrainedModel
    probe: Probe | None
    outputs: dict[str, np.ndarray[Any, Any]]


def choose_head(
    run: Run[TextClassifierSettings], inputs: Inputs, texts: EncodedTexts, model: PreTrainedModel, *, is_settled: bool
) -> Head:
    """Probe the states that the head of `model` reads and, unless it `is_settled`, the mean of all tokens; keep the better pooling.

    What was chosen, and why, is printed and stays in the run folder's probe.json, which a run that goes on obeys.
    """
    if is_divided(run):
        return Head(model, None, {})
    _refuse_run_of_before(run)
    rows, targets = probed(inputs, texts.parts["train"])
    try:
        states = _states(run, texts, model, texts.parts["train"], rows=rows, poolings=() if is_settled else (CANDIDATE,))
    except NotPooledError as error:
        run.say(f"pooling: {OWN}, for {error}")
        states = _states(run, texts, model, texts.parts["train"], rows=rows)
    task, num_outputs = inputs.fields.task, max(1, len(inputs.labels))
    probes = {kind: fit_probe(task, found, targets, num_outputs=num_outputs) for kind, found in states.items()}
    chosen = _chosen(run, probes)
    _record(run, probes, chosen, num_examples=len(targets))
    if chosen != OWN:
        model = with_pooling(model, CANDIDATE)
    probe = probes[chosen]
    return Head(model, probe, outputs_by_part(inputs, probe, lambda part: _states(run, texts, model, texts.parts[part])[OWN]))


class Settled(NamedTuple):
    """What is known of a head before a probe: the pooling to load the model with, None for the head of its family, whether that is
    settled, and whether it is the head that the model was trained with for the same labels."""

    pooling: Pooling | None
    is_settled: bool
    is_trained: bool


def settle_pooling(run: Run[Any], wanted: Pooling | Literal["auto", "model"], *, name: str, labels: Sequence[str]) -> Settled:
    """Settle what the head of the model `name` reads, as far as that can be done without a probe.

    `auto` keeps a head that was trained for these labels, and pools the states of a sentence encoder as it was trained to.
    """
    saved = from_pretrained(AutoConfig, name)
    is_trained = has_trained_head(saved, labels)
    if wanted == "auto" and not is_trained and (known := sentence_pooling(name)) is not None:
        run.say(f"pooling: {known}, as this sentence encoder was trained with")
        return Settled(known, True, False)
    if wanted in ("auto", "model"):
        return Settled(None, wanted == "model" or is_trained, is_trained)
    same = isinstance(saved, PooledConfig) and saved.pooling == wanted and is_trained
    return Settled(None if same else cast(Pooling, wanted), True, same)


def fit_head_(run: Run[TextClassifierSettings], inputs: Inputs, texts: EncodedTexts, model: PreTrainedModel, *, l2: float) -> Probe:
    """Fit a linear probe on the states of the training texts as they are now, give `model` its weights, and return it.

    `l2` is the penalty that cross-validation chose before the states had seen the labels.
    """
    rows, targets = probed(inputs, texts.parts["train"])
    states = _states(run, texts, model, texts.parts["train"], rows=rows)[OWN]
    probe = fit_probe(inputs.fields.task, states, targets, num_outputs=max(1, len(inputs.labels)), l2=l2)
    begin_at_probe_(model, probe)
    return probe


def validate_head(
    run: Run[TextClassifierSettings], inputs: Inputs, texts: EncodedTexts, model: PreTrainedModel, *, l2: float
) -> Metrics:
    """Score the validation set, or the sample of it by which training decides, with a head fitted on the states as they are."""
    task, encoded, part = inputs.fields.task, texts.parts["validation"], inputs.while_training()
    probe = fit_head_(run, inputs, texts, model, l2=l2)
    rows, _ = chosen_windows(len(encoded), encoded.owners, inputs.eval_ids)
    (outputs,) = probe_outputs(task, probe, [_states(run, texts, model, encoded, rows=rows)[OWN]])
    return task_metrics(task, targets_of(part.validation), outputs, thresholds=decision_thresholds(part, outputs))


def _states(
    run: Run[TextClassifierSettings],
    texts: EncodedTexts,
    model: PreTrainedModel,
    encoded: Encoded,
    *,
    rows: Ints | None = None,
    poolings: Sequence[Pooling] = (),
) -> dict[str, Floats]:
    """Return the states of texts, of all or of some rows of `encoded`."""
    return frozen_states(
        model,
        encoded,
        partial(collate, tokenizer=texts.tokenizer),
        accelerator=run.accelerator,
        max_cost=evaluation_tokens(run.settings.batch.evaluation_tokens, run.accelerator.device.type),
        rows=rows,
        poolings=poolings,
    )


def _refuse_run_of_before(run: Run[Any]) -> None:
    """Raise `ConfigError` for an unfinished run of nlpbp 0.1, whose head, rate and number of steps were others."""
    if (run.out / "checkpoints").is_dir() and not (run.out / FILE).exists():
        raise ConfigError(
            f"{run.out} was begun by an earlier version, which trains another head at another rate",
            column="out",
            hint="finish it with nlpbp 0.1, or begin another run",
        )


def _chosen(run: Run[Any], probes: dict[str, Probe]) -> str:
    """Return the pooling with the lowest cross-validated loss, or the one that the run began with."""
    file = run.out / FILE
    if file.exists():
        return str(json.loads(file.read_text(encoding="utf-8"))["pooling"])
    best = min(probes, key=lambda kind: probes[kind].loss)
    if len(probes) > 1:
        losses = " and ".join(f"{probe.loss:.4f} ({kind})" for kind, probe in probes.items())
        run.say(f"pooling: {best}, by the cross-validated loss of a linear probe, {losses}")

    return best


def _record(run: Run[Any], probes: dict[str, Probe], chosen: str, *, num_examples: int) -> None:
    found = {kind: {"loss": probe.loss if np.isfinite(probe.loss) else None, "l2": probe.l2} for kind, probe in probes.items()}
    if run.accelerator.is_main_process:
        write_text(run.out / FILE, json.dumps({"pooling": chosen, "examples": num_examples, "probes": found}, indent=2) + "\n")


def begin_head_(run: Run[TextClassifierSettings], inputs: Inputs, head: Head, *, wanted: Start) -> None:
    """Begin the head at the probe where that is wanted, or left open and it is better there.

    Raises `ConfigError` for a head that has to begin there and cannot.
    """
    obstacle = (
        "the model is divided among devices"
        if head.probe is None
        else "its body changes before, in the masked language model"
        if getattr(run.settings, "mlm", MaskedLM()).steps is not None
        else "answers are kept to a range"
        if run.settings.data.value_range is not None
        else None
    )
    if wanted == "always" and obstacle is not None:
        raise ConfigError(f"the head cannot begin at a probe: {obstacle}", column="optim.probe", hint="leave it out")
    begins = begins_at_probe(wanted, num_texts=len(inputs.train))
    if not begins or obstacle is not None:
        return
    assert head.probe is not None, "that is an obstacle"
    begin_at_probe_(head.model, head.probe)
    run.say("the head begins at the linear probe (--optim.probe)")


def begin_at_probe_(model: PreTrainedModel, probe: Probe) -> None:
    """Give the output layer of `model` the weights of a probe of its states."""
    output = output_layer(model, num_outputs=len(probe.bias))
    with torch.no_grad():
        output.weight.copy_(probe.weight)
        if output.bias is not None:
            output.bias.copy_(probe.bias)
