"""What the sections of a report are made of: cells and tables, drawings, and values in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlpbp.core.task import TASKS
from nlpbp.tasks.task import all_metrics, get_task

BASELINES = {
    "tfidf": "TF-IDF with a linear model",
    "pixels": "a linear model of the pixels",
    "probe": "a linear probe of the frozen model",
    "teacher": "the teacher",
    "unigram": "token frequencies alone",
    "before": "the model before training",
}
MAX_TEXT = 2000  # characters of an example that a page shows


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place, and the number it stands for, if it is one: exact, for sorting."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a head; a column of numbers is one whose first number is not None."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Drawing:
    """A drawing as SVG for a page, with what it shows."""

    caption: str
    svg: str


def number(value: float | None, form: str | None = None) -> Cell:
    """Show a number, whole ones with thousands; a missing one is a dash.

    >>> number(12345).text, number(0.123456).text, number(None).text
    ('12,345', '0.1235', '–')
    """
    if value is None:
        return Cell("–")
    return Cell((form or ("{:,}" if isinstance(value, int) else "{:.4g}")).format(value), float(value))


def baseline_words(task: str, kind: str) -> str:
    """Return what a person calls a baseline of a run with this task.

    >>> baseline_words("single_label", "majority"), baseline_words("single_label", "tfidf")
    ('the most frequent answer', 'TF-IDF with a linear model')
    """
    if task in TASKS and kind == get_task(task).constant_name:
        return get_task(task).constant_words
    return BASELINES.get(kind, kind)


def words(value: Any) -> str:
    """Show any plain value: a metric by its name in words, a list by its items, None as a dash.

    >>> words(["a", 1]), words(None), words("macro_f1")
    ('a, 1', '–', 'macro F1')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(item, Mapping) for item in value) else ", ").join(map(words, value)) or "none"
    if isinstance(value, str):
        return all_metrics()[value].words if value in all_metrics() else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names.

    >>> flat({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
