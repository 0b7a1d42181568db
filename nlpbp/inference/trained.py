"""Finished runs and model folders as classifiers that can answer: one, several of one task, or a run's snapshots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel

from nlpbp.core.errors import ConfigError
from nlpbp.core.task import target_type
from nlpbp.data.columns import Fields
from nlpbp.data.fields import unpack_fields
from nlpbp.data.modality import Reader
from nlpbp.modalities import load_trained_model
from nlpbp.tasks.task import task_of_config

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Classifier:
    """A trained model with what it needs to read new examples, whatever their kind, and to answer in words."""

    model: PreTrainedModel
    fields: Fields
    thresholds: Array | None
    reader: Reader


def load_run(path: str | Path, *, accelerator: Accelerator) -> Classifier:
    """Load a run folder, or a model folder alone.

    Raises `ConfigError` when there is no model in it.
    """
    path = Path(path)
    folder = path / "model" if (path / "model").is_dir() else path
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{path} holds no finished model", hint="give a run folder with model/ in it, or a model folder")
    model: Any
    model, reader = load_trained_model(folder)
    model.to(accelerator.device)
    thresholds = getattr(model.config, "decision_thresholds", None)
    fields = _trained_fields(path / "result.json", model)
    return Classifier(
        model=model,
        fields=replace(fields, text=reader.columns or fields.text),
        thresholds=None if thresholds is None else np.array(thresholds),
        reader=reader,
    )


def load_runs(paths: Sequence[str | Path], *, accelerator: Accelerator) -> list[Classifier]:
    """Load runs whose answers can be averaged: of one task, with the same labels in any order, on as many texts.

    Raises `ConfigError` for those that differ, naming both.
    """
    classifiers = [load_run(path, accelerator=accelerator) for path in paths]
    for path, classifier in zip(paths[1:], classifiers[1:], strict=True):
        for before, now in zip(_described(classifiers[0]), _described(classifier), strict=True):
            if before != now and before and now:
                raise ConfigError(
                    f"{path} answers for {now}, and {paths[0]} for {before}: there is no mean of them",
                    hint="give runs of the same task, labels and number of text columns",
                )
    return classifiers


def load_snapshots(path: str | Path, *, accelerator: Accelerator) -> list[Classifier]:
    """Load the models that a run with `--cycles.snapshots` kept, the last one first, with the run's own columns and thresholds.

    Raises `ConfigError` for a run that kept none.
    """
    folders = sorted(Path(path, "snapshots").glob("*/config.json"), key=lambda file: -int(file.parent.name))
    if not folders:
        raise ConfigError(
            f"{path} has no snapshots", column="snapshots", hint="train with --optim.schedule warm_restarts --cycles.snapshots"
        )
    whole = load_run(path, accelerator=accelerator)
    loaded = [load_run(file.parent, accelerator=accelerator) for file in folders]
    return [replace(one, fields=whole.fields, thresholds=whole.thresholds) for one in loaded]


def _described(classifier: Classifier) -> tuple[str, str, str]:
    """Say what must be the same in runs that answer together; the columns of a model folder alone are not known."""
    fields, kind = classifier.fields, classifier.reader.kind
    examples = {0: "", 1: f"one {kind}"}.get(len(fields.text), f"a pair of {kind}s")
    if fields.kinds:
        medians = ((name, fields.statistics.get(name)) for name in fields.kinds)
        examples = "the fields " + ", ".join(name if typical is None else f"{name} ({typical:g})" for name, typical in medians)
    return fields.task, f"the labels {', '.join(sorted(fields.labels))}" if fields.labels else "", examples


def combined(classifiers: Sequence[Classifier]) -> Classifier:
    """Return the first one, to read texts and name answers with, with the mean of all decision thresholds."""
    first = classifiers[0]
    if all(classifier.thresholds is None for classifier in classifiers):
        return first
    even = np.full(len(first.fields.labels), 0.5)  # what no thresholds mean
    rows = [even if one.thresholds is None else one.thresholds[label_columns_of(one, first)] for one in classifiers]
    return replace(first, thresholds=np.mean(rows, axis=0))


def label_columns_of(classifier: Classifier, first: Classifier) -> list[int]:
    """Return where `classifier` has the labels of `first`, in their order there."""
    return [classifier.fields.labels.index(label) for label in first.fields.labels]


def _trained_fields(result: Path, model: PreTrainedModel) -> Fields:
    """Read which columns the run was trained on; a model folder alone knows only its task and labels."""
    task = task_of_config(model.config)
    names: Any = model.config.id2label
    labels = () if target_type(task) == "continuous" else tuple(names[index] for index in range(len(names)))
    try:
        data = json.loads(result.read_text(encoding="utf-8"))["data"] if result.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"not a result: {error}", file=str(result), hint="give the model folder alone") from error
    # A model folder alone knows how its fields are written, too: without that it would be asked in a form it has never seen.
    kinds, statistics = unpack_fields(getattr(model.config, "composed_fields", None) or ())
    return Fields(
        text=tuple(kinds) or tuple(data.get("text", ())),
        label=data.get("label"),
        task=task,
        labels=labels,
        separator=data.get("separator"),
        notes=(),
        kinds=kinds,
        statistics=statistics,
    )
