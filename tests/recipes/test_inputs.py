"""From the names of sources to the parts of a run."""

from __future__ import annotations

from typing import Any

import pytest

from nlpbp.config.data import Data
from nlpbp.data import parts as inputs
from nlpbp.data import sources
from nlpbp.data.readers import Table
from nlpbp.data.tiny import tiny_reviews

TEXTS, LABELS = tiny_reviews(num_examples=60).columns.values()


def hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[Any]]) -> None:
    """Let the hub have one data set of these splits, given by their labels."""
    tables = {
        name: Table(f"glue:sst2[{name}]", {"sentence": TEXTS[: len(labels)], "label": labels}, list(range(1, len(labels) + 1)))
        for name, labels in splits.items()
    }
    monkeypatch.setattr(sources, "hub_splits", lambda name: list(tables))
    monkeypatch.setattr(sources, "read_hub", lambda name, *, split: tables[split])


def test_the_hubs_own_splits_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {"train": LABELS, "validation": LABELS[:7], "test": LABELS[:9]})
    loaded = inputs.load_inputs(Data(train="glue:sst2"))
    assert {name: len(part) for name, part in loaded.scored.items()} == {"validation": 7, "test": 9}
    assert len(loaded.train) == 60


def test_a_test_split_whose_labels_the_hub_keeps_secret_is_cut_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {"train": LABELS, "validation": LABELS[:7], "test": [None] * 9})
    loaded = inputs.load_inputs(Data(train="glue:sst2"))
    assert "glue:sst2[test]: not used, because its labels are kept secret" in loaded.notes
    assert {name: len(part) for name, part in loaded.scored.items()} == {"validation": 7, "test": 6}
    assert len(loaded.train) == 54
