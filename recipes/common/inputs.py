"""From what the user named to three parts of examples: read, understood, split without leaks, sampled."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from accelerate.utils import gather_object

from nlpbp.core.errors import ConfigError, DataError, DistributedError, NlpbpError
from nlpbp.data.columns import Examples, Fields, empty_texts, infer_fields, read_examples
from nlpbp.data.fields import fit_statistics, read_moments
from nlpbp.data.find_columns import column_of
from nlpbp.data.labels import is_missing
from nlpbp.data.order import Ints
from nlpbp.data.packaged import packaged_reviews
from nlpbp.data.pretrained import exists
from nlpbp.data.readers import Table, hub_splits, read_hub, read_table
from nlpbp.data.splits import nested_sample, shared_texts, split_examples, split_groups, split_time, text_keys
from nlpbp.data.tiny import tiny_reviews
from recipes.common.config import Data, Images, Texts
from recipes.common.folder import Run

SPLIT_SEED = 0  # not the run's seed: runs that differ in it are compared on the same test part
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")

Read = Callable[..., Table]  # (source, split=, delimiter=) -> its rows


@dataclass(frozen=True)
class Part:
    """Some examples of one source; `ids` [n] are their positions in it, ascending."""

    examples: Examples
    ids: Ints

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Inputs:
    """What a recipe trains on, chooses by and is scored on; `notes` say what was inferred, for printing.

    `tables` are the parts' rows as they stand in their sources, with all columns.
    """

    fields: Fields
    train: Part
    validation: Part
    test: Part | None
    fingerprint: str
    notes: tuple[str, ...]
    tables: Mapping[str, Table]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return self.fields.labels

    @property
    def scored(self) -> dict[str, Part]:
        """The parts that are not trained on, by name."""
        return {"validation": self.validation} | ({"test": self.test} if self.test else {})


class Loaded(Protocol):
    """What processes compare before they train together."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102


L = TypeVar("L", bound=Loaded)


@dataclass(frozen=True)
class Corpus:
    """The texts of a language model.

    `tables` are the parts' rows as they stand in their sources, with all columns; those without a text, which are left out, stand
    with the rows to train on. `fields` say which column is the text.
    """

    train: list[str]
    validation: list[str]
    test: list[str] | None
    fingerprint: str
    notes: tuple[str, ...]
    fields: Fields
    tables: Mapping[str, Table]
    labels: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, list[str]]:
        """All parts by name."""
        return {"train": self.train, "validation": self.validation} | ({"test": self.test} if self.test else {})


def targets_of(part: Part) -> np.ndarray[Any, Any]:
    """Return the labels of a part that has them: every part a recipe loads."""
    assert part.examples.targets is not None, "recipes read labelled examples"
    return part.examples.targets


def load_inputs(data: Data | Images, *, read: Read | None = None) -> Inputs:
    """Read the sources that `data` names and cut the missing parts from the training data; `read` is `read_source` unless given.

    Raises `DataError` with file, row and column for whatever cannot be read as it should.
    """
    read = read or read_source
    table = read(data.train, split="train", delimiter=data.delimiter)
    fields = infer_fields(table, text=data.text, compose=data.fields, label=data.label, task=data.task)
    notes = [f"reading {table.name}: {len(table):,} rows", *table.notes, *fields.notes]
    kind = "images" if isinstance(data, Images) else "texts"
    whole = read_examples(table, fields)
    notes += _oddities(whole, kind)
    given = {name: _given(data, name, fields, notes, read) for name in ("validation", "test")}
    shares = {"validation": data.validation_share, "test": data.test_share}
    cut = {name: 0.0 if given[name] else share for name, share in shares.items()}
    for column in data.slices:
        column_of(given["validation"] or table, column)
    train_ids, *cut_ids = _split(table, whole, data, cut)
    notes += _whole_groups(table, data, {name: (cut[name], len(ids)) for name, ids in zip(cut, cut_ids, strict=True)})
    if data.sample < 1.0:
        everything = len(train_ids)
        train_ids = nested_sample(whole, train_ids, share=data.sample, seed=SPLIT_SEED)
        notes.append(f"training on a stratified sample: {len(train_ids):,} of {everything:,} {kind}")
    if fields.kinds:  # what stands for a missing number is known only now, and from the training part alone
        fields = _with_statistics(fields, table, train_ids)
        whole = read_examples(table, fields)
    parts = {
        name: _part(given_table, fields) if given_table else (Part(whole.select(ids), ids) if len(ids) else None)
        for (name, given_table), ids in zip(given.items(), cut_ids, strict=True)
    }
    train = Part(whole.select(train_ids), train_ids)
    validation = parts["validation"]
    assert validation is not None, "a validation part is given or cut"
    if parts["test"] is not None:
        _refuse_choosing_by_test(validation, parts["test"])
    notes += [
        *_leaks(train, validation, parts["test"], kind),
        *_shared_groups(table, given, data.group),
        *_untrained(train, fields, kind),
    ]
    sizes = [f"{name} {len(part):,}" for name, part in (("train", train), *parts.items()) if part]
    notes.append(f"parts: {', '.join(sizes)}" + ("" if parts["test"] else "; no test part"))
    return Inputs(
        fields,
        train,
        validation,
        parts["test"],
        fingerprint([part.examples if part else None for part in (train, validation, parts["test"])]),
        tuple(notes),
        {"train": table.select(train_ids)}
        | {
            name: given_table or table.select(ids)
            for (name, given_table), ids in zip(given.items(), cut_ids, strict=True)
            if parts[name]
        },
    )


def _split(table: Table, whole: Examples, data: Data | Images, shares: Mapping[str, float]) -> tuple[Ints, Ints, Ints]:
    """Cut off the parts that are not given: by groups, by time, or stratified."""
    by = {name: column for name, column in (("group", data.group), ("time", data.time)) if column is not None}
    if len(by) > 1:
        raise ConfigError(
            f"and --data.group {data.group} cut the data in two ways", column="data.time", hint="leave one of them out"
        )
    if by and not any(shares.values()):
        raise ConfigError("cuts nothing: all parts are given", column=f"data.{next(iter(by))}", hint="leave it out")
    validation_share, test_share = shares["validation"], shares["test"]
    if data.group is not None:
        groups = column_of(table, data.group)
        return split_groups(whole, groups, validation_share=validation_share, test_share=test_share, seed=SPLIT_SEED)
    if data.time is not None:
        column_of(table, data.time)
        return split_time(whole, read_moments(table, data.time), validation_share=validation_share, test_share=test_share)
    return split_examples(whole, validation_share=validation_share, test_share=test_share, seed=SPLIT_SEED)


def _whole_groups(table: Table, data: Data | Images, cut: Mapping[str, tuple[float, int]]) -> list[str]:
    """Say where parts, given with their share and size, are of another size because groups or moments stay whole."""
    column = data.group or data.time
    if column is None:
        return []
    without = sum(map(is_missing, table.columns[column])) if data.group else 0
    notes = [f"warning: {without:,} rows have no '{column}', and each is taken for a group of its own"] if without else []
    for name, (share, size) in cut.items():
        actual = size / len(table)
        if share and not share / 2 <= actual <= share * 2:
            kept = f"rows of one '{column}' stay together"
            notes.append(f"warning: the {name} part is {actual:.0%} of the data and not {share:.0%}, for {kept}")
    return notes


def _refuse_choosing_by_test(validation: Part, test: Part) -> None:
    """Raise `ConfigError` for a test part that is the validation part: its score would be of what was chosen by it."""
    if set(text_keys(validation.examples)) == set(text_keys(test.examples)):
        raise ConfigError(
            "holds the examples of the validation data, by which the weights are chosen: its score would flatter them",
            column="data.test",
            hint="give other data, or leave one of the two out: it is then cut from the training data",
        )


def _shared_groups(table: Table, given: Mapping[str, Table | None], group: str | None) -> list[str]:
    """Warn of groups that stand in the training data and in a part that was given; parts that are cut here share none."""
    if group is None:
        return []
    known = set(table.columns[group])
    shared = {name: known & set(part.columns[group]) for name, part in given.items() if part is not None and group in part.columns}
    return [f"warning: {len(both)} groups of '{group}' stand in the {name} data too" for name, both in shared.items() if both]


def _untrained(train: Part, fields: Fields, kind: str) -> list[str]:
    """Warn of classes without an example to train on, as a cut by time may leave them."""
    if fields.task != "single_label":
        return []
    seen = set(targets_of(train).tolist())
    lacking = [name for index, name in enumerate(fields.labels) if index not in seen]
    return [f"warning: no {kind[:-1]} to train on has the label {', '.join(lacking[:5])}"] if lacking else []


def load_corpus(data: Texts) -> Corpus:
    """Read texts for a language model and cut the missing parts from the training texts; empty ones are left out."""
    table = read_source(data.train, split="train", delimiter=data.delimiter)
    fields = infer_fields(table, text=data.text, compose=data.fields, require_label=False)
    whole, kept, notes = _documents(table, fields)
    notes = [f"reading {table.name}: {len(table):,} rows", *table.notes, *_notes_on_text(fields), *notes]
    given = {name: _given_table(data, name) for name in ("validation", "test")}
    shares = {"validation": data.validation_share, "test": data.test_share}
    cut = {name: 0.0 if given[name] is not None else share for name, share in shares.items()}
    train_ids, *cut_ids = split_examples(whole, validation_share=cut["validation"], test_share=cut["test"], seed=SPLIT_SEED)
    if data.sample < 1.0:
        train_ids = nested_sample(whole, train_ids, share=data.sample, seed=SPLIT_SEED)
    if fields.kinds:
        fields = _with_statistics(fields, table, train_ids)
        whole, _, _ = _documents(table, fields)
    train = whole.select(train_ids)
    others = {
        name: (whole.select(ids), table.select(kept[ids])) if other is None else (_documents(other, fields)[0], other)
        for (name, other), ids in zip(given.items(), cut_ids, strict=True)
        if other is not None or len(ids)
    }
    validation, test = (others[name][0] if name in others else None for name in ("validation", "test"))
    assert validation is not None, "a validation part is given or cut"
    sizes = [f"{name} {len(part):,}" for name, part in (("train", train), ("validation", validation), ("test", test)) if part]
    notes.append(f"parts: {', '.join(sizes)}" + ("" if test else "; no test part"))
    return Corpus(
        train=train.texts,
        validation=validation.texts,
        test=test.texts if test else None,
        fingerprint=fingerprint([train, validation, test]),
        notes=tuple(notes),
        fields=fields,
        tables={"train": table.select(np.union1d(kept[train_ids], np.setdiff1d(np.arange(len(table)), kept)))}
        | {name: rows for name, (_, rows) in others.items()},
    )


def _notes_on_text(fields: Fields) -> list[str]:
    """Leave out what was found of labels, which a language model does not look at."""
    return [note for note in fields.notes if note.startswith(("text:", "fields:", "warning: '"))]


def _with_statistics(fields: Fields, table: Table, train_ids: Ints) -> Fields:
    """Fit what stands for a missing number, on the rows to train on alone."""
    trained_on = {name: [table.columns[name][index] for index in train_ids] for name in fields.kinds}
    return replace(fields, statistics=fit_statistics(trained_on, kinds=fields.kinds))


def load_texts(source: Any, *, delimiter: str | None = None) -> Examples:
    """Read all texts of a source as documents, a pair joined by a line break, without the empty ones."""
    table = read_source(source, split="train", delimiter=delimiter)
    return _documents(table, infer_fields(table, require_label=False))[0]


def joined_texts(examples: Examples) -> list[str]:
    """Return each example as one text: a pair is joined by a line break."""
    if examples.pairs is None:
        return examples.texts
    return [f"{text}\n{pair}" for text, pair in zip(examples.texts, examples.pairs, strict=True)]


def _documents(table: Table, fields: Fields) -> tuple[Examples, Ints, list[str]]:
    """Return the texts that are not empty, their positions in the table, and what is to be said of the others."""
    examples = read_examples(table, replace(fields, label=None), require_label=False)
    texts = joined_texts(examples)
    kept = [index for index, text in enumerate(texts) if text.strip()]
    if not kept:
        raise DataError("there are only empty texts", file=table.name, hint="give texts to learn from")
    notes = [f"warning: {len(texts) - len(kept)} empty texts are left out"] if len(kept) < len(texts) else []
    return replace(examples, texts=texts, pairs=None).select(kept), np.array(kept, dtype=np.int64), notes


def _given_table(data: Texts, name: str) -> Table | None:
    source = _named_source(data, name)
    return None if source is None else read_source(source, split=name, delimiter=data.delimiter)


def the_same_everywhere(run: Run, load: Callable[[], L]) -> L:
    """Load in every process; an error in one of them, or data that differ between them, is an error in all.

    Without this a process that cannot read its data would leave the others waiting for it.
    """
    inputs, error = None, None
    try:
        inputs = load()
    except NlpbpError as caught:
        error = caught
    if run.accelerator.num_processes > 1:
        told = gather_object([(error, inputs and (inputs.fingerprint, inputs.labels))])
        error = next((other for other, _ in told if other is not None), None)
        seen = [identity for _, identity in told]
        if error is None and len(set(seen)) > 1:
            error = DistributedError(f"the processes read different data: {seen[0]} and {next(s for s in seen if s != seen[0])}")
    if error is not None:
        raise error
    assert inputs is not None, "loaded or failed"
    return inputs


def read_source(source: Any, *, split: str, delimiter: str | None = None) -> Table:
    """Read a file, a folder, a packaged data set, a hub id, or data given in memory."""
    if not isinstance(source, str) or exists(source) or not source.strip():
        return read_table(source, delimiter=delimiter)
    kind, _, name = source.partition(":")
    if delimiter is not None and (kind in ("demo", "tiny") or is_hub_id(source)):
        raise ConfigError("a delimiter applies to .csv and .tsv files only", column="data.delimiter", hint="leave it out")
    if kind == "demo":
        return packaged_reviews(name)
    if kind == "tiny":
        return tiny_reviews()
    return read_hub(source, split=split) if is_hub_id(source) else read_table(source, delimiter=delimiter)


def is_hub_id(source: Any) -> bool:
    """Tell a hub id (`name`, `owner/name`, with `:config`) from a path that is not there.

    >>> is_hub_id("owner/reviews:small"), is_hub_id("data/reviews.csv")
    (True, False)
    """
    known = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
    local = isinstance(source, str) and (exists(source) or source.lower().endswith(known))
    packaged = str(source).startswith(("demo:", "tiny:"))
    return isinstance(source, str) and not local and not packaged and bool(HUB_ID.fullmatch(source))


def _given(data: Data | Images, name: str, fields: Fields, notes: list[str], read: Read) -> Table | None:
    """Read the table of a part that the user named, or that the hub keeps beside the training data with its labels."""
    source = _named_source(data, name)
    if source is None:
        return None
    table = read(source, split=name, delimiter=data.delimiter)
    of_hub = getattr(data, name) is None
    if of_hub and fields.label is not None and all(is_missing(value) for value in column_of(table, fields.label)):
        notes.append(f"{table.name}: not used, because its labels are kept secret")  # the way of benchmarks such as GLUE
        return None
    if not len(table):
        raise DataError(f"the {name} data hold no examples", file=table.name)
    return table


def _part(table: Table, fields: Fields) -> Part:
    return Part(read_examples(table, fields), np.arange(len(table)))


def _named_source(data: Data | Images | Texts, name: str) -> Any:
    """Return the source of a part, if it has one of its own."""
    source = getattr(data, name)
    return data.train if source is None and is_hub_id(data.train) and name in hub_splits(data.train) else source


def _oddities(examples: Examples, kind: str) -> list[str]:
    """Tell of examples that are empty, that stand there twice, and that do so with different labels; all are kept."""
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
        notes.append(f"copies{but} of other {kind}: {num:,}; equal {kind} stand in one part")
    if pairs:
        notes.append(f"warning: {len(pairs)} {kind} stand there again with another label: {'; '.join(pairs[:5])}")
    return notes


def _leaks(train: Part, validation: Part, test: Part | None, kind: str) -> list[str]:
    """Warn of examples that stand in two parts; it cannot happen to parts that were cut here, unless by time."""
    notes = []
    for name, part in (("validation", validation), ("test", test)):
        pairs = shared_texts(train.examples, part.examples) if part else []
        if pairs:
            shown = ", ".join(f"{a} = {b}" for a, b in pairs[:5])
            notes.append(f"warning: {len(pairs)} {name} {kind} stand in the training part too, which flatters the score: {shown}")
    chosen_by = shared_texts(validation.examples, test.examples) if test else []
    if chosen_by:
        shown = ", ".join(f"{a} = {b}" for a, b in chosen_by[:5])
        notes.append(f"warning: {len(chosen_by)} test {kind} stand in the validation part too, which chooses the weights: {shown}")
    return notes


def fingerprint(parts: Sequence[Examples | None]) -> str:
    """Hash every text and target, so that a result can be tied to its data."""
    digest = hashlib.sha256()
    for part in parts:
        for text in [*part.texts, *(part.pairs or ())] if part else ():
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        if part and part.targets is not None:
            digest.update(np.ascontiguousarray(part.targets).tobytes())
        digest.update(b"\1")
    return digest.hexdigest()[:16]
