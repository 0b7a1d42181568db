"""Texts for a language model: read, split without leaks, sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nlpbp.config.data import Texts
from nlpbp.core.errors import DataError
from nlpbp.data.columns import Examples, Fields, infer_fields, read_examples
from nlpbp.data.order import Ints
from nlpbp.data.parts import SPLIT_SEED, _with_statistics, fingerprint, share_of
from nlpbp.data.readers import Table
from nlpbp.data.sources import _named_source, read_source
from nlpbp.data.splits import split_examples


@dataclass(frozen=True)
class Corpus:
    """Texts for a language model.

    `tables` are the parts' rows as in their sources, with all columns; rows without a text, which are left out, are among those of
    the training set. `fields` say which column is the text.
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


def load_corpus(data: Texts) -> Corpus:
    """Read texts for a language model and cut the missing parts from the training texts; empty ones are left out."""
    table = read_source(data.train, split="train", delimiter=data.delimiter)
    fields = infer_fields(table, text=data.text, compose=data.fields, require_label=False)
    whole, kept, notes = _documents(table, fields)
    notes = [f"reading {table.name}: {len(table):,} rows", *table.notes, *_notes_on_text(fields), *notes]
    given = {name: _given_table(data, name) for name in ("validation", "test")}
    shares = {"validation": data.validation_share, "test": data.test_share}
    cut = {name: 0.0 if given[name] is not None else share for name, share in shares.items()}
    parts = split_examples(whole, validation_share=cut["validation"], test_share=cut["test"], seed=SPLIT_SEED)
    ids = {name: share_of(whole, part, data.fraction) for name, part in zip(("train", *cut), parts, strict=True)}
    train_ids = share_of(whole, ids["train"], data.train_fraction)
    if fields.kinds:
        fields = _with_statistics(fields, table, train_ids)
        whole, _, _ = _documents(table, fields)
    train = whole.select(train_ids)
    others = {}
    for name, own in given.items():
        if own is not None:
            others[name] = _given_part(own, fields, data.fraction)
        elif len(ids[name]):
            others[name] = whole.select(ids[name]), table.select(kept[ids[name]])
    validation, test = (others[name][0] if name in others else None for name in ("validation", "test"))
    assert validation is not None, "a validation set is given or cut"
    sizes = [f"{name} {len(part):,}" for name, part in (("train", train), ("validation", validation), ("test", test)) if part]
    sampled = f"; samples, as --data.fraction {data.fraction:g} asks" if data.fraction < 1.0 else ""
    notes.append(f"split: {', '.join(sizes)}{sampled}" + ("" if test else "; no test set"))
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


def _given_part(table: Table, fields: Fields, fraction: float) -> tuple[Examples, Table]:
    """Return the texts of a part that has a table of its own, or a sample of them, and its rows."""
    examples, kept, _ = _documents(table, fields)
    if fraction == 1.0:
        return examples, table
    ids = share_of(examples, np.arange(len(examples)), fraction)
    return examples.select(ids), table.select(kept[ids])


def _notes_on_text(fields: Fields) -> list[str]:
    """Remove notes on labels, which a language model does not use."""
    return [note for note in fields.notes if note.startswith(("text:", "fields:", "warning: '"))]


def load_texts(source: Any, *, delimiter: str | None = None) -> Examples:
    """Read all texts of a source as documents, without empty ones; a pair is joined by a line break."""
    table = read_source(source, split="train", delimiter=delimiter)
    return _documents(table, infer_fields(table, require_label=False))[0]


def joined_texts(examples: Examples) -> list[str]:
    """Return each example as one text: a pair is joined by a line break."""
    if examples.pairs is None:
        return examples.texts
    return [f"{text}\n{pair}" for text, pair in zip(examples.texts, examples.pairs, strict=True)]


def _documents(table: Table, fields: Fields) -> tuple[Examples, Ints, list[str]]:
    """Return the texts that are not empty, their positions in the table, and notes on the others."""
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
