"""Load the three parts of a labelled dataset: read the sources, infer the fields, split without leaks, sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nlpbp.config.data import Data, Images
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Examples, Fields, empty_texts, infer_fields, read_examples
from nlpbp.data.fields import fit_statistics, read_moments
from nlpbp.data.find_columns import column_of
from nlpbp.data.labels import is_missing
from nlpbp.data.order import Ints
from nlpbp.data.readers import Table
from nlpbp.data.sources import _named_source, read_source
from nlpbp.data.splits import nested_sample, shared_texts, split_examples, split_groups, split_time, text_keys

SPLIT_SEED = 0  # not the run's seed, so that runs with different seeds are compared on the same test set

Read = Callable[..., Table]  # (source, split=, delimiter=) -> its rows


@dataclass(frozen=True)
class Part:
    """Examples of one source; `ids` [n] are their positions in it, ascending."""

    examples: Examples
    ids: Ints

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Inputs:
    """The data for training, model selection and testing; `notes` say what was inferred, for printing.

    `tables` are the parts' rows as in their sources, with all columns. `eval_ids` are the positions of the validation examples by
    which training decides, ascending; None for all.
    """

    fields: Fields
    train: Part
    validation: Part
    test: Part | None
    fingerprint: str
    notes: tuple[str, ...]
    tables: Mapping[str, Table]
    eval_ids: Ints | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their ids."""
        return self.fields.labels

    @property
    def scored(self) -> dict[str, Part]:
        """The parts that are not trained on, by name."""
        return {"validation": self.validation} | ({"test": self.test} if self.test else {})

    def while_training(self) -> Inputs:
        """Return the same inputs with a validation set of the examples by which training decides."""
        return self if self.eval_ids is None else replace(self, validation=_selected(self.validation, self.eval_ids))


def _selected(part: Part, positions: Ints) -> Part:
    return Part(part.examples.select(positions), part.ids[positions])


def targets_of(part: Part) -> np.ndarray[Any, Any]:
    """Return the targets of a labelled part, as all parts of a recipe are."""
    assert part.examples.targets is not None, "recipes read labelled examples"
    return part.examples.targets


def examples_per_label(inputs: Inputs) -> float | None:
    """Return the mean number of training examples of a class or label; None where a number is predicted."""
    if not inputs.labels:
        return None
    targets = targets_of(inputs.train)
    return float(targets.sum() if targets.ndim == 2 else len(targets)) / len(inputs.labels)


def load_inputs(data: Data | Images, *, read: Read | None = None) -> Inputs:
    """Read the sources in `data` and split missing parts off the training data; `read` defaults to `read_source`.

    Raises `DataError` with file, row and column for anything that cannot be read.
    """
    read = read or read_source
    table = read(data.train, split="train", delimiter=data.delimiter)
    fields = infer_fields(
        table, text=data.text, compose=data.fields, label=data.label, task=data.task, label_order=data.label_order
    )
    notes = [f"reading {table.name}: {len(table):,} rows", *table.notes, *fields.notes]
    kind = "images" if isinstance(data, Images) else "texts"
    whole = read_examples(table, fields)
    notes += _oddities(whole, kind)
    given = {name: _given(data, name, fields, notes, read) for name in ("validation", "test")}
    shares = {"validation": data.validation_share, "test": data.test_share}
    cut = {name: 0.0 if given[name] else share for name, share in shares.items()}
    for column in data.slices:
        column_of(given["validation"] or table, column)
    everything = dict(zip(("train", *cut), _split(table, whole, data, cut), strict=True))
    notes += _whole_groups(table, data, {name: (share, len(everything[name])) for name, share in cut.items()})
    ids = {name: share_of(whole, part, data.fraction) for name, part in everything.items()}
    if data.train_fraction < 1.0:
        of = len(ids["train"])
        ids["train"] = share_of(whole, ids["train"], data.train_fraction)
        notes.append(f"training on a stratified sample: {len(ids['train']):,} of {of:,} {kind}")
    if fields.kinds:  # imputed values are fitted after the split, on the training set alone
        fields = _with_statistics(fields, table, ids["train"])
        whole = read_examples(table, fields)
    train = Part(whole.select(ids["train"]), ids["train"])
    held_out = _held_out(whole, table, fields, given, ids, fraction=data.fraction)
    parts = {"train": train} | {name: part for name, (part, _) in held_out.items()}
    validation, test = parts["validation"], parts.get("test")
    if test is not None:
        _refuse_choosing_by_test(validation, test)
    eval_ids, on_evaluation = _evaluation_sample(validation, data.eval_sample, kind)
    notes += [
        *_leaks(train, validation, test, kind),
        *_shared_groups(table, given, data.group),
        *_untrained(train, fields, kind),
        *on_evaluation,
        _sizes(parts, {name: given.get(name) or part for name, part in everything.items()}, fraction=data.fraction),
    ]
    return Inputs(
        fields,
        train,
        validation,
        test,
        fingerprint([part.examples if part else None for part in (train, validation, test)]),
        tuple(notes),
        {"train": table.select(ids["train"])} | {name: rows for name, (_, rows) in held_out.items()},
        eval_ids,
    )


def share_of(examples: Examples, ids: Ints, share: float) -> Ints:
    """Return the same stratified sample of the examples at `ids` in every run; smaller shares are subsets of larger ones.

    >>> texts = [f"text {i}" for i in range(20)]
    >>> examples = Examples("list", texts, None, np.arange(20) % 2, texts)
    >>> share_of(examples, np.arange(20), 1.0).size, share_of(examples, np.arange(20), 0.1).size
    (20, 2)
    """
    return ids if share == 1.0 else nested_sample(examples, ids, share=share, seed=SPLIT_SEED)


def _sizes(parts: Mapping[str, Part], everything: Mapping[str, Sized], *, fraction: float) -> str:
    """Say how large the parts are, and of how many examples each is a sample."""
    of = {name: f" of {len(everything[name]):,}" if fraction < 1.0 else "" for name in parts}
    sizes = ", ".join(f"{name} {len(part):,}{of[name]}" for name, part in parts.items())
    sampled = f"; stratified samples, as --data.fraction {fraction:g} asks" if fraction < 1.0 else ""
    return f"split: {sizes}{sampled}" + ("" if "test" in parts else "; no test set")


def _evaluation_sample(validation: Part, wanted: int | None, kind: str) -> tuple[Ints | None, list[str]]:
    """Return the positions of the validation examples by which training decides, None for all, and what to say of them."""
    if wanted is None:
        return None, []
    num = len(validation)
    if wanted >= num:
        return None, [f"evaluations during training use all {num:,} validation {kind}, not more than --data.eval_sample {wanted:,}"]
    ids = nested_sample(validation.examples, np.arange(num), share=wanted / num, seed=SPLIT_SEED)
    return ids, [
        f"evaluations during training use a stratified sample of {len(ids):,} of {num:,} validation {kind}; final scores use all"
    ]


def _held_out(
    whole: Examples, table: Table, fields: Fields, given: Mapping[str, Table | None], ids: Mapping[str, Ints], *, fraction: float
) -> dict[str, tuple[Part, Table]]:
    """Return the validation and test sets with their rows: from tables of their own, or split off the training data."""
    held_out = {}
    for name, own in given.items():
        examples, rows, part_ids = whole, table, ids[name]
        if own is not None:
            examples, rows = read_examples(own, fields), own
            part_ids = share_of(examples, np.arange(len(own)), fraction)
        if len(part_ids):
            held_out[name] = Part(examples.select(part_ids), part_ids), rows.select(part_ids)
    return held_out


def _split(table: Table, whole: Examples, data: Data | Images, shares: Mapping[str, float]) -> tuple[Ints, Ints, Ints]:
    """Split off the parts that are not given: by groups, by time, or stratified."""
    by = {name: column for name, column in (("group", data.group), ("time", data.time)) if column is not None}
    if len(by) > 1:
        raise ConfigError(
            f"and --data.group {data.group} cut the data in two ways", column="data.time", hint="leave one of them out"
        )
    if by and not any(shares.values()):
        raise ConfigError("splits nothing: all sets are given", column=f"data.{next(iter(by))}", hint="leave it out")
    validation_share, test_share = shares["validation"], shares["test"]
    if data.group is not None:
        groups = column_of(table, data.group)
        return split_groups(whole, groups, validation_share=validation_share, test_share=test_share, seed=SPLIT_SEED)
    if data.time is not None:
        column_of(table, data.time)
        return split_time(whole, read_moments(table, data.time), validation_share=validation_share, test_share=test_share)
    return split_examples(whole, validation_share=validation_share, test_share=test_share, seed=SPLIT_SEED)


def _whole_groups(table: Table, data: Data | Images, cut: Mapping[str, tuple[float, int]]) -> list[str]:
    """Warn of parts whose size differs from their share, because groups or points in time are not divided."""
    column = data.group or data.time
    if column is None:
        return []
    without = sum(map(is_missing, table.columns[column])) if data.group else 0
    notes = [f"warning: {without:,} rows have no '{column}', and each is treated as a group of its own"] if without else []
    for name, (share, size) in cut.items():
        actual = size / len(table)
        if share and not share / 2 <= actual <= share * 2:
            kept = f"rows of one '{column}' stay together"
            notes.append(f"warning: the {name} set is {actual:.0%} of the data and not {share:.0%}, for {kept}")
    return notes


def _refuse_choosing_by_test(validation: Part, test: Part) -> None:
    """Raise `ConfigError` if the test set is the validation set: its score would be biased by model selection."""
    if set(text_keys(validation.examples)) == set(text_keys(test.examples)):
        raise ConfigError(
            "holds the examples of the validation data, by which the weights are chosen: its score would be too optimistic",
            column="data.test",
            hint="give other data, or leave one of the two out: it is then split off the training data",
        )


def _shared_groups(table: Table, given: Mapping[str, Table | None], group: str | None) -> list[str]:
    """Warn of groups that are in the training data and in a part that was given; parts that are split off here share none."""
    if group is None:
        return []
    known = set(table.columns[group])
    shared = {name: known & set(part.columns[group]) for name, part in given.items() if part is not None and group in part.columns}
    return [f"warning: {len(both)} groups of '{group}' are in the {name} data too" for name, both in shared.items() if both]


def _untrained(train: Part, fields: Fields, kind: str) -> list[str]:
    """Warn of classes without training examples, which a split by time can leave."""
    if fields.target_type != "multiclass":
        return []
    seen = set(targets_of(train).tolist())
    lacking = [name for index, name in enumerate(fields.labels) if index not in seen]
    return [f"warning: no {kind[:-1]} to train on has the label {', '.join(lacking[:5])}"] if lacking else []


def _with_statistics(fields: Fields, table: Table, train_ids: Ints) -> Fields:
    """Fit the imputation of missing numbers on the training rows alone."""
    trained_on = {name: [table.columns[name][index] for index in train_ids] for name in fields.kinds}
    return replace(fields, statistics=fit_statistics(trained_on, kinds=fields.kinds))


def _given(data: Data | Images, name: str, fields: Fields, notes: list[str], read: Read) -> Table | None:
    """Read the table of a part that is given, or that is a labelled split of the training data's dataset on the hub."""
    source = _named_source(data, name)
    if source is None:
        return None
    table = read(source, split=name, delimiter=data.delimiter)
    of_hub = getattr(data, name) is None
    if of_hub and fields.label is not None and all(is_missing(value) for value in column_of(table, fields.label)):
        notes.append(f"{table.name}: not used, because its labels are kept secret")  # as in benchmarks such as GLUE
        return None
    if not len(table):
        raise DataError(f"the {name} data hold no examples", file=table.name)
    return table


def _oddities(examples: Examples, kind: str) -> list[str]:
    """Return notes on examples that are empty, duplicated, or duplicated with different labels; all are kept."""
    notes = []
    if empty := empty_texts(examples):
        notes.append(f"warning: {len(empty)} texts are empty or white space: {', '.join(empty[:5])}")
    first: dict[bytes, int] = {}
    pairs = []
    for index, key in enumerate(text_keys(examples)):
        other = first.setdefault(key, index)
        if examples.targets is not None and np.any(examples.targets[other] != examples.targets[index]):
            pairs.append(f"{examples.references[other]} and {examples.references[index]}")
    if len(first) < len(examples):
        num = len(examples) - len(first)
        but = " (but for case and white space)" if kind == "texts" else ""
        notes.append(f"copies{but} of other {kind}: {num:,}; equal {kind} are in one part")
    if pairs:
        notes.append(f"warning: {len(pairs)} {kind} are duplicated with another label: {'; '.join(pairs[:5])}")
    return notes


def _leaks(train: Part, validation: Part, test: Part | None, kind: str) -> list[str]:
    """Warn of examples that are in two parts; parts that are split off here share none, unless split by time."""
    notes = []
    for name, part in (("validation", validation), ("test", test)):
        pairs = shared_texts(train.examples, part.examples) if part else []
        if pairs:
            shown = ", ".join(f"{a} = {b}" for a, b in pairs[:5])
            notes.append(f"warning: {len(pairs)} {name} {kind} are in the training set too, so scores are too optimistic: {shown}")
    chosen_by = shared_texts(validation.examples, test.examples) if test else []
    if chosen_by:
        shown = ", ".join(f"{a} = {b}" for a, b in chosen_by[:5])
        notes.append(f"warning: {len(chosen_by)} test {kind} are in the validation set too, which selects the weights: {shown}")
    return notes


def fingerprint(parts: Sequence[Examples | None]) -> str:
    """Hash all texts and targets, to identify the data of a result."""
    digest = hashlib.sha256()
    for part in parts:
        for text in [*part.texts, *(part.pairs or ())] if part else ():
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        if part and part.targets is not None:
            digest.update(np.ascontiguousarray(part.targets).tobytes())
        digest.update(b"\1")
    return digest.hexdigest()[:16]
