"""How often a run's test part has been scored, in `looks.json`: what is chosen by its score flatters the next one (practice D2)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nlpbp.data.columns import Examples
from nlpbp.data.splits import text_keys
from nlpbp.runs.folder import write_text

FILE = "looks.json"


def begin_looks(folder: Path, test: Examples, *, by: str) -> None:
    """Note the first look, that of the run itself."""
    _write(folder, _key(test), [by])


def is_test_part(folder: Path, examples: Examples) -> bool:
    """Tell whether `examples` are the test part of the run in `folder`, as far as it keeps count."""
    try:
        return bool(json.loads((folder / FILE).read_text(encoding="utf-8"))["test"] == _key(examples))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def add_look(folder: Path, examples: Examples, *, by: str) -> int | None:
    """Count a scoring of `examples` if they are the test part of the run in `folder`, and return how many there were by now.

    None for other examples, and for a folder that keeps no count or cannot be written to.
    """
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        key, looks = kept["test"], [*map(str, kept["looks"]), by]
        if key != _key(examples):
            return None
        _write(folder, key, looks)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return len(looks)


def _key(examples: Examples) -> str:
    """Hash a part's texts, in any order."""
    return hashlib.sha256(b"".join(sorted(text_keys(examples)))).hexdigest()[:16]


def _write(folder: Path, key: str, looks: list[str]) -> None:
    write_text(folder / FILE, json.dumps({"test": key, "looks": looks}, indent=2) + "\n")
