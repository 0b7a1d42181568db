"""What a run remembers of itself: `metrics.jsonl`, one JSON object a line, and any tracker that accelerate knows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

_TOLD: set[Path] = set()  # files whose loss was told: once is enough


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record; a full disk loses the record and says so, but never stops training.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> append_jsonl(path, {"step": 1, "loss": 0.5}); path.read_text()
    '{"step": 1, "loss": 0.5}\\n'
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        if path not in _TOLD:
            print(f"warning: {path}: lines of metrics are lost ({error})", file=sys.stderr)  # noqa: T201
        _TOLD.add(path)


def truncate_jsonl(path: Path, *, last_step: int) -> None:
    """Cut the records after `last_step`, and a last line that was not written to its end.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> _ = path.write_text('{"step": 1}\\n{"step": 2}\\n{"ste')
    >>> truncate_jsonl(path, last_step=1); path.read_text()
    '{"step": 1}\\n'
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if not line.endswith("\n") or json.loads(line)["step"] > last_step:
                break
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        kept.append(line)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def log(accelerator: Accelerator, path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` to `path` and to the tracker, once, from the main process; it holds the `step` it belongs to."""
    if accelerator.is_main_process:
        append_jsonl(path, record)
    if accelerator.trackers:
        prefix = f"{record['split']}/" if "split" in record else "train/"
        values = {prefix + name: value for name, value in record.items() if isinstance(value, int | float) and name != "step"}
        accelerator.log(values, step=record["step"])
