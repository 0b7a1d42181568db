"""Predictions as a file: CSV, TSV, JSON lines or Parquet, by its suffix."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nlpbp.core.errors import ConfigError
from nlpbp.data.exports import spreadsheet_cell

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def check_predictions_file(path: Path) -> None:
    """Raise `ConfigError` for a file that `write_predictions` could not write, before any work is done."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} has no known suffix", column="out", hint=f"end it in one of {', '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a folder" if path.is_dir() else f"cannot be written: there is no folder {path.parent}"
        raise ConfigError(f"{path} {reason}", column="out", hint="name a file in a folder that is there")


def write_predictions(columns: dict[str, list[Any]], path: Path, *, separator: str = "|") -> None:
    """Write predictions as .csv, .tsv, .jsonl or .parquet, by the suffix.

    Raises `ConfigError` for a file that cannot be written.
    """
    check_predictions_file(path)
    try:
        _write(columns, path, separator=separator)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}", column="out", hint="name another file") from error


def _write(columns: dict[str, list[Any]], path: Path, *, separator: str) -> None:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(columns), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            for row in rows:
                cells = {name: separator.join(v) if isinstance(v, list) else v for name, v in row.items()}
                writer.writerow({name: spreadsheet_cell(cell) for name, cell in cells.items()})
