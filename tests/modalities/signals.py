"""A whole modality in one module, small enough to read: signals, which are a few numbers in a row, written `0.1 0.5 0.7`.

As with images, a table's cells hold digests, and the numbers themselves go beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from nlpbp.core.batch import Batch
from nlpbp.core.errors import DataError
from nlpbp.core.task import problem_type
from nlpbp.data.columns import Examples
from nlpbp.data.find_columns import column_of
from nlpbp.data.modality import Array, Card, MakeBatches, Modality, Reader, StageData
from nlpbp.data.order import Ints
from nlpbp.data.parts import Inputs, Part, targets_of
from nlpbp.data.readers import Table
from nlpbp.data.sources import read_source
from nlpbp.runs.diagnosis import label_columns, wrong_record
from nlpbp.runs.model_folder import save_model
from nlpbp.tasks.baselines import linear_baseline
from nlpbp.tasks.task import get_task

SIGNAL = "signal"  # the column of digests
Store = dict[str, tuple[float, ...]]


# What a model is, and what it sees.


class SignalConfig(PreTrainedConfig):
    model_type = "signal"

    def __init__(self, length: int = 8, **others: Any) -> None:
        self.length = length
        super().__init__(**others)


class SignalClassifier(PreTrainedModel):
    config_class = SignalConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(nn.Linear(config.length, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, config.num_labels))
        self.post_init()

    def forward(self, numbers: Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.layers(numbers))


def new_model(inputs: Inputs) -> SignalClassifier:
    names = dict(enumerate(inputs.labels))
    ids = {label: index for index, label in names.items()}
    return SignalClassifier(SignalConfig(id2label=names, label2id=ids, problem_type=problem_type(inputs.fields.task)))


@dataclass(frozen=True)
class Signals:
    """Signals as the model sees them, float32 [n, length]."""

    numbers: Array
    owners: None = None

    @property
    def padded_lengths(self) -> Ints:
        return np.ones(len(self.numbers), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class Padding:
    """What is saved beside a model: how long its signals are."""

    length: int

    def __call__(self, signals: Sequence[Sequence[float]]) -> Signals:
        rows = [[*signal[: self.length], *[0.0] * (self.length - len(signal))] for signal in signals]
        return Signals(np.array(rows, dtype=np.float32))

    def save_pretrained(self, folder: Path) -> None:
        (folder / "signal.json").write_text(json.dumps({"length": self.length}))


# Reading and batches.


def read_signals(source: Any, *, split: str, column: str = SIGNAL, delimiter: str | None = None) -> tuple[Table, Store]:
    """Read a table whose cells are numbers, and return it with digests in their place, and the numbers by digest."""
    table = source if isinstance(source, Table) else read_source(source, split=split, delimiter=delimiter)
    store: Store = {}
    digests = []
    for row, cell in zip(table.rows, column_of(table, column), strict=True):
        try:
            signal = tuple(float(number) for number in str(cell).split())
        except ValueError as error:
            raise DataError("this is no signal", file=table.name, row=row, column=column, hint="write 0.1 0.5 0.7") from error
        digests.append(hashlib.sha256(repr(signal).encode()).hexdigest()[:16])
        store[digests[-1]] = signal
    return replace(table, columns={**table.columns, SIGNAL: digests}), store


def collate(signals: Signals, ids: Ints, *, labels: Array | None = None) -> Batch:
    targets = None if labels is None else torch.from_numpy(labels[ids])
    return Batch({"numbers": torch.from_numpy(signals.numbers[ids])}, targets, torch.from_numpy(ids))


def batches(signals: Signals, plan: Iterator[list[Ints]], *, labels: Array, first_step: int, seed: int) -> Iterator[list[Batch]]:
    for step in plan:
        yield [collate(signals, ids, labels=labels) for ids in step]


# For training.


def signal_modality(inputs: Inputs, store: Store, *, model: SignalClassifier) -> Modality:
    padding = Padding(model.config.length)

    def seen(part: Part) -> Signals:
        return padding([store[digest] for digest in part.examples.texts])

    parts = {name: seen(part) for name, part in {"train": inputs.train, **inputs.scored}.items()}

    def stage(wanted: StageData) -> tuple[Signals, MakeBatches]:
        return parts["train"], partial(batches, parts["train"])

    def save(plain: Any, state: dict[str, Tensor], folder: Path, card: str) -> None:
        save_model(plain, padding, state, folder=folder, card=card)

    def errors(outputs: Array, answer: Callable[[Any], Array]) -> dict[str, Any]:
        columns = label_columns(inputs.validation.examples, inputs.fields)
        return wrong_record(inputs, outputs, columns, by=(), shown=lambda index, label: {})

    def baseline() -> dict[str, dict[str, Array]]:
        others = [parts[name].numbers for name in inputs.scored]
        made = linear_baseline(
            inputs.fields.task, parts["train"].numbers, targets_of(inputs.train), others, num_labels=len(inputs.labels)
        )
        return {"linear": dict(zip(inputs.scored, made, strict=True))}

    usage = get_task(inputs.fields.task).usage('"0.1 0.5 0.7"', "")
    return Modality(
        kind="signal",
        parts=parts,
        collate=collate,
        max_cost=64,
        stage=stage,
        mix=lambda loss_fn: loss_fn,
        identity={"data": inputs.fingerprint, "labels": json.dumps(inputs.labels)},
        save=save,
        errors=errors,
        baselines=baseline,
        card=Card("nothing", usage, "", f"It sees {padding.length} numbers."),
    )


# For new examples.


def load_trained_model(folder: Path) -> tuple[PreTrainedModel, Reader] | None:
    if not (folder / "signal.json").is_file():
        return None
    padding = Padding(json.loads((folder / "signal.json").read_text())["length"])
    reader = Reader("signal", read_new, partial(forms, padding), collate, max_cost=64, columns=(SIGNAL,))
    return SignalClassifier.from_pretrained(folder).eval(), reader


def read_new(source: Any, split: str, columns: Sequence[str]) -> tuple[Table, dict[str, Any]]:
    return read_signals(source, split=split, column=next(iter(columns), SIGNAL))


def forms(padding: Padding, examples: Examples, view: str | None, store: Mapping[str, Any]) -> list[Signals]:
    signals = [store[digest] for digest in examples.texts]
    return [padding([signal[::-1] for signal in signals] if view == "backwards" else signals)]
