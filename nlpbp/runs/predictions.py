"""Outputs as answers: the thresholds behind them, their names, and the table of predictions."""

from __future__ import annotations

from typing import Any

from nlpbp.config.secrets import redact
from nlpbp.data.columns import Examples, Fields
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.evaluation.thresholds import Thresholds
from nlpbp.runs.result import Array
from nlpbp.tasks import decide, get_task


def decision_thresholds(inputs: Inputs, outputs: Array) -> Array | None:
    """Tune the thresholds of a task that has some on the validation set, and on it alone."""
    chosen = chosen_thresholds(inputs, outputs)
    return None if chosen is None else chosen.values


def chosen_thresholds(inputs: Inputs, outputs: Array) -> Thresholds | None:
    """Return `decision_thresholds` with whether they are by label, and why."""
    choose = get_task(inputs.fields.task).choose_thresholds
    return None if choose is None else choose(targets_of(inputs.validation), outputs)


def prediction_table(
    examples: Examples, ids: Array, outputs: Array, fields: Fields, *, thresholds: Array | None
) -> dict[str, list[Any]]:
    """Make the columns id, reference, label (where known), prediction, and one probability a label."""
    columns: dict[str, list[Any]] = {"id": ids.tolist(), "reference": redact(list(examples.references))}
    if examples.targets is not None:
        columns["label"] = answer_names(examples.targets, fields)
    columns["prediction"] = answer_names(decide(fields.task, outputs, thresholds), fields)
    for index, label in enumerate(fields.labels):
        columns[f"probability_{label}"] = outputs[:, index].astype(float).tolist()
    return columns


def answer_names(decisions: Array, fields: Fields) -> list[Any]:
    """Turn decisions, or targets, into what a reader calls them: a label each, a list of labels, or a number."""
    if fields.target_type == "continuous":
        return [float(value) for value in decisions]
    if fields.target_type == "multilabel-indicator":
        return [[label for label, holds in zip(fields.labels, row, strict=True) if holds] for row in decisions]
    return [fields.labels[index] for index in decisions]
