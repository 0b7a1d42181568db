"""What a run has left in its folder, for those who look at it afterwards: plain data, or an error that names the file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from nlpbp.config.renamed import rename_keys
from nlpbp.core.errors import ConfigError, escape

Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """A finished run: what its files hold, by their names; a file that is not there is empty.

    `records` are the lines of `metrics.jsonl`, `predictions` the columns of the table, `sweeps` the files `lr_finder_N.json`.
    """

    path: Path
    config: Record
    environment: Record
    result: Record
    records: Sequence[Record]
    predictions: Mapping[str, list[Any]]
    sweeps: Sequence[Record]
    audit: Record
    calibration: Record
    errors: Record

    @property
    def task(self) -> str:
        """What the model was trained to answer."""
        return str(self.result["task"])

    @property
    def part(self) -> str:
        """The part that the result is of: the test, or validation where there is none."""
        return "test" if "test" in self.result["metrics"] else "validation"


def read_run(folder: Path) -> RunFolder:
    """Read a finished run. Raises `ConfigError` for a folder that holds none, naming the file that is missing or damaged."""
    result = read_result(folder)
    config = read_config(folder)
    if not result:
        raise ConfigError(f"{escape(str(folder), limit=None)} holds no finished run", hint="go on with it: --resume, or its --out")
    for name in ("task", "metrics", "intervals", "baselines", "data"):
        if name not in result:
            raise ConfigError(f"has no {name}", file=str(folder / "result.json"), hint="give a run folder as nlpbp wrote it")
    return RunFolder(
        path=folder,
        config=config,
        environment=_read_if_there(folder / "environment.json"),
        result=result,
        records=read_records(folder),
        predictions=_read_predictions(folder / "predictions.parquet"),
        sweeps=[_read(file, json.loads) for file in sorted(folder.glob("lr_finder_*.json"))],
        audit=_read_if_there(folder / "audit.json"),
        calibration=_read_if_there(folder / "calibration.json"),
        errors=_read_if_there(folder / "errors.json"),
    )


def read_config(folder: Path) -> Record:
    """Read `config.yaml`, old names of settings replaced; a folder without one is no run, and a `ConfigError`."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"{escape(str(folder), limit=None)} is not a run folder: it has no config.yaml",
            hint="give a run folder, or a model folder",
        )
    file = folder / "config.yaml"
    return rename_keys(None, _read(file, yaml.safe_load), file=str(file))


def read_result(folder: Path) -> Record:
    """Read `result.json`; it is empty for a run that is not finished."""
    return _read_if_there(folder / "result.json")


def read_records(folder: Path) -> list[Record]:
    """Read the steps and evaluations of `metrics.jsonl`; a run that was killed may have left half a line at the end."""
    file = folder / "metrics.jsonl"
    return list(_read(file, _json_lines)["records"]) if file.is_file() else []


def section(data: Record, name: str) -> Record:
    """Return the mapping of that name, empty where there is none."""
    found = data.get(name)
    return found if isinstance(found, Mapping) else {}


def at(data: Any, *names: str | None) -> Any:
    """Return what stands in nested mappings under `names`, or None.

    >>> at({"optim": {"lr": 0.1}}, "optim", "lr"), at({}, "optim", "lr")
    (0.1, None)
    """
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def finite(value: Any) -> float | None:
    """Return `value` as a number, None where it is no finite one."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _read_if_there(path: Path) -> Record:
    return _read(path, json.loads) if path.is_file() else {}


def _read(path: Path, parse: Any) -> dict[str, Any]:
    """Read one file as a mapping; say in one line why it cannot be."""
    try:
        data = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"cannot be read: {escape(reason)}", file=str(path), hint="give a run folder as nlpbp wrote it"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError("holds no names with values", file=str(path), hint="give a run folder as nlpbp wrote it")
    return data


def _read_predictions(path: Path) -> dict[str, list[Any]]:
    try:
        return pq.read_table(path).to_pydict() if path.is_file() else {}
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"cannot be read: {escape(str(error))}", file=str(path), hint="give a run folder as nlpbp wrote it"
        ) from error


def _json_lines(text: str) -> dict[str, list[Record]]:
    """Take the records that have a step, up to the last line that was written to its end."""
    whole = text[: text.rfind("\n") + 1].splitlines()
    records = [json.loads(line) for line in whole]
    return {"records": [r for r in records if isinstance(r, dict) and isinstance(r.get("step"), int)]}
