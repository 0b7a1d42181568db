"""How often a run's test set has been scored: what is chosen by its score flatters the next one (practice D2)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nlpbp.data.columns import Examples
from nlpbp.data.splits import text_keys
from nlpbp.runs.folder import write_text

FILE = "test_uses.json"  # in the run folder
BEFORE = ("looks.json", "looks")  # what the file and its list were called up to nlpbp 0.1


def begin_test_uses(folder: Path, test: Examples, *, by: str) -> None:
    """Note the first use, that of the run itself."""
    _write(folder, _key(test), [by])


def is_test_part(folder: Path, examples: Examples) -> bool:
    """Tell whether `examples` are the test set of the run in `folder`, as far as it keeps count."""
    return _read(folder).get("test") == _key(examples)


def add_test_use(folder: Path, examples: Examples, *, by: str) -> int | None:
    """Count a scoring of `examples` if they are the test set of the run in `folder`, and return how many there were by now.

    None for other examples, and for a folder that keeps no count or cannot be written to.
    """
    kept = _read(folder)
    if kept.get("test") != _key(examples):
        return None
    uses = [*kept["uses"], by]
    try:
        _write(folder, kept["test"], uses)
    except OSError:
        return None
    return len(uses)


def _read(folder: Path) -> dict[str, Any]:
    """Return the test set's key and its uses; nothing from a file that is missing or damaged."""
    file, name = folder / FILE, "uses"
    if not file.exists():
        file, name = folder / BEFORE[0], BEFORE[1]
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {"test": kept["test"], "uses": [*map(str, kept[name])]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _key(examples: Examples) -> str:
    """Hash a part's texts, in any order."""
    return hashlib.sha256(b"".join(sorted(text_keys(examples)))).hexdigest()[:16]


def _write(folder: Path, key: str, uses: list[str]) -> None:
    write_text(folder / FILE, json.dumps({"test": key, "uses": uses}, indent=2) + "\n")
