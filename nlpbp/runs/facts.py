"""The facts of a finished run that its advice is made of (`nlpbp.runs.advice`)."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from nlpbp.config.files import asdict
from nlpbp.config.limits import NOT_OF_A_FITTED_HEAD
from nlpbp.data.modality import Modality
from nlpbp.data.parts import Inputs, examples_per_label, targets_of
from nlpbp.evaluation.run_folder import read_records
from nlpbp.report.cells import flat
from nlpbp.runs.advice import CONTRASTIVE, FEWSHOT, Facts
from nlpbp.runs.folder import Run
from nlpbp.runs.predictions import answer_names
from nlpbp.runs.progress import Progress
from nlpbp.runs.result import Array, RunResult
from nlpbp.tasks.differences import Answers
from nlpbp.tasks.scores import decide
from nlpbp.tasks.task import get_task, metric_of

ENOUGH = 5  # validation examples with a label, of which one should be given it


def facts_of(run: Run[Any], result: RunResult, progress: Progress) -> Facts:
    """Gather what is known of any run: its settings, how it stands beside its baselines, and its evaluations.

    A run that has learned from pairs is one of the recipe fewshot, whatever its own: what only others are told has had no effect.
    """
    from_pairs = any(stage["name"] == CONTRASTIVE for stage in progress.stages)
    refused = (*NOT_OF_A_FITTED_HEAD, "epochs", "min_steps", "stages") if from_pairs else ()
    interval = result.intervals.get("validation", {}).get(metric_of(result.task).name)
    return Facts(
        task=result.task,
        recipe=FEWSHOT if from_pairs else run.recipe,
        recipes=recipe_names(),
        settings={name: value for name, value in flat(asdict(run.settings)).items() if name not in refused},
        against=result.against,
        records=read_records(run.out),
        standard_error=None if interval is None else (interval[1] - interval[0]) / 4,  # of a 95 % interval
    )


def classifier_facts(
    inputs: Inputs, modality: Modality, answers: Answers, baselines: Mapping[str, Mapping[str, Answers]]
) -> dict[str, Any]:
    """Gather what only a classifier has: the fields of `Facts` about its data and its answers on the validation set.

    Not on the test set: whoever changes something after a look at its answers has used it up.
    """
    task, targets = get_task(inputs.fields.task), targets_of(inputs.validation)
    decisions = decide(task.name, answers.outputs, answers.thresholds)
    linear = [by_part["validation"].outputs for kind, by_part in baselines.items() if kind != task.constant_name]
    widest = max([_spread(outputs) for outputs in linear], default=0.0)
    return {
        "kind": modality.kind,
        "num_train": len(inputs.train),
        "num_per_class": examples_per_label(inputs),
        "spread": _spread(answers.outputs) / widest if widest else None,
        "only_answer": _only_answer(decisions, targets, inputs),
        "never_answered": _never_answered(decisions, targets, inputs.labels),
        "reading": modality.reading() if modality.reading else None,
    }


def recipe_names() -> list[str]:
    """Return the recipes that are installed beside this package, without loading any."""
    found = find_spec("recipes")
    folders = found.submodule_search_locations if found else None
    return [module.name for module in pkgutil.iter_modules(folders)] if folders else []


def _spread(outputs: Array) -> float:
    """Return how far outputs [n, k] or [n] vary over the examples: the root mean square of their standard deviations."""
    return float(np.sqrt(np.mean(np.var(outputs, axis=0))))


def _only_answer(decisions: Array, targets: Array, inputs: Inputs) -> str | None:
    """Name the answer that all examples get though their targets differ; None where answers differ, or are no labels."""
    if inputs.fields.target_type == "continuous" or (decisions != decisions[0]).any() or not (targets != targets[0]).any():
        return None
    (name,) = answer_names(decisions[:1], inputs.fields)
    return str(name) if isinstance(name, str) else ", ".join(name) or "of no label"


def _never_answered(decisions: Array, targets: Array, labels: Sequence[str]) -> list[str]:
    """Name the labels that enough examples have and none is given, the most frequent first."""
    wanted, given = (_label_counts(one, len(labels)) for one in (targets, decisions))
    order = sorted(range(len(wanted)), key=lambda index: -wanted[index])
    return [labels[index] for index in order if wanted[index] >= ENOUGH and given[index] == 0]


def _label_counts(targets: Array, num_labels: int) -> Array:
    """Count the examples of each label; none where numbers are predicted."""
    if targets.ndim == 2:
        return np.asarray(targets.sum(axis=0))
    return np.bincount(targets.astype(np.int64), minlength=num_labels) if num_labels else np.zeros(0)
