"""Texts and files that `scripts/predict.py` is given: what cannot be used is told before any work is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Fields
from nlpbp.data.readers import Table
from recipes.common.predict import Classifier, check_predictions_file, read_lines, read_texts, write_predictions

UNUSED: Any = None
CLASSIFIER = Classifier(UNUSED, UNUSED, Fields(("text",), "label", "single_label", ("neg", "pos"), None, ()), None)


def table(labels: list[str]) -> Table:
    return Table("new.csv", {"text": ["so good", "so bad"], "label": labels}, [2, 3])


def test_a_pipe_is_one_text_a_line() -> None:
    read = read_lines("so good\r\n\ncaf\u00e9".encode(), name="standard input")
    assert (read.columns, read.rows) == ({"text": ["so good", "", "caf\u00e9"]}, [1, 2, 3])


@pytest.mark.parametrize(("raw", "row"), [(b"", None), (b"fine\n\xff\n", 2)])
def test_a_pipe_without_text_is_an_error_with_its_line(raw: bytes, row: int | None) -> None:
    with pytest.raises(DataError) as error:
        read_lines(raw, name="standard input")
    assert (error.value.file, error.value.row) == ("standard input", row)


def test_labels_that_are_still_to_be_filled_in_are_none_unless_they_are_asked_for() -> None:
    assert read_texts(CLASSIFIER, table(["", " "])).targets is None
    assert read_texts(CLASSIFIER, table(["pos", "neg"])).targets is not None
    for labels, label in ((["", ""], "label"), (["pos", ""], None)):
        with pytest.raises(DataError, match="the label is missing"):
            read_texts(CLASSIFIER, table(labels), label=label)


@pytest.mark.parametrize("name", ["a.xlsx", "missing/a.csv", "folder.csv"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    for refuse in (check_predictions_file, lambda path: write_predictions({"id": [0]}, path)):
        with pytest.raises(ConfigError, match=re.escape(str(tmp_path / name))) as error:
            refuse(tmp_path / name)
        assert error.value.column == "out"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_every_suffix_that_is_named_is_written(tmp_path: Path, suffix: str) -> None:
    write_predictions({"id": [0], "prediction": [["neg", "pos"]]}, tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 0
