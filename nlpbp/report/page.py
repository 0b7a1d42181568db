"""The page a person opens after a run, and the one that compares two: one file each, that loads and links nothing from outside.

Every text passes the template's escaping. One script may run, which sorts tables: the page's content security policy has its hash.
Beside it only drawings of `nlpbp.report.plots` go in as they are, whose texts matplotlib has escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nlpbp import __version__
from nlpbp.checks.run import check_run
from nlpbp.core.errors import ConfigError, NlpbpError, escape
from nlpbp.evaluation.run_folder import RunFolder, read_run
from nlpbp.report import results as answers
from nlpbp.report import training
from nlpbp.report.against import is_better
from nlpbp.report.cells import MAX_TEXT, Cell, number, words
from nlpbp.report.comparison import Comparison, compare_runs

T = TypeVar("T")

TEMPLATES = Path(__file__).parent / "templates"
KEPT = "\n\t\u200c\u200d"  # not printable, yet part of a text: breaks, and the joiners of Persian, Hindi and emoji
MAX_FLIPS = 20  # examples each way on a page that compares


def run_report(folder: Path, *, defaults: Mapping[str, Any] | None = None) -> str:
    """Make the report of a finished run: one page of HTML that needs nothing beside it.

    `defaults` are the settings of its recipe where nothing is said, to show first what differs from them. Raises `ConfigError` for
    a folder without a finished run, and for a file in it that does not hold what it should.
    """
    run = read_run(folder)

    def part(file: str, make: Callable[..., T], *arguments: Any) -> T:
        return _of_file(run, file, make, *arguments)

    return _page(
        "report.html.j2",
        title=run.path.resolve().name,
        recipe=run.result.get("recipe"),
        part=run.part,
        is_better=part("result.json", is_better, run.result),
        scores=part("result.json", answers.scores, run),
        baselines=answers.baselines(run),
        findings=check_run(folder),
        errors_part=run.errors.get("part"),
        wrong_answers=part("errors.json", answers.wrong_answers, run),
        slices=part("errors.json", answers.slices, run),
        confusions=part("predictions.parquet", answers.confusions, run),
        calibration=part("calibration.json", answers.calibration, run),
        data=part("result.json", training.data, run),
        audit=part("audit.json", training.audit, run.audit),
        looked_at=part("audit.json", training.looked_at, run.audit),
        settings=part("config.yaml", training.settings, run, defaults),
        stages=part("result.json", training.stages, run),
        curves=part("metrics.jsonl", training.curves, run),
        sweeps=part("lr_finder_*.json", training.sweeps, run),
        evaluations=part("metrics.jsonl", training.evaluations, run),
        cost=part("result.json", training.cost, run),
        verdict=part("result.json", answers.verdict, run),
    )


def comparison_report(first: Path, second: Path, *, settings: Sequence[str] = ()) -> tuple[Comparison, str]:
    """Compare two finished runs on the same examples; return what was found, and a page of HTML that shows it.

    `settings` are lines that say what differs in how they were trained. Errors are those of `run_report`, and `ConfigError` for
    runs of other data.
    """
    runs = read_run(first), read_run(second)
    found = compare_runs(*runs)
    return found, _page(
        "comparison.html.j2",
        title=f"{first.resolve().name} and {second.resolve().name}",
        names=(first.resolve().name, second.resolve().name),
        found=found,
        metrics=[_difference_row(name, found) for name in found.metrics],
        flips=[(way, len(ids), _flips(runs, ids)) for way, ids in (("became right", found.gained), ("became wrong", found.lost))],
        most=MAX_FLIPS,
        settings=settings,
    )


def audit_page(record: Mapping[str, Any]) -> str:
    """Show what `audit_record` holds: one page of HTML that needs nothing beside it."""
    found, seen = training.audit(record), training.looked_at(record)
    return _page("audit.html.j2", title=record["source"], audit=found, looked_at=seen)


def _of_file(run: RunFolder, file: str, make: Callable[..., T], *arguments: Any) -> T:
    """Make one section; what a damaged or foreign file leads to is one error that names it."""
    try:
        return make(*arguments)
    except NlpbpError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise ConfigError(
            f"does not hold what a report needs ({type(error).__name__}: {escape(str(error))})",
            file=str(run.path / file),
            hint="remove the file, or let nlpbp write it again",
        ) from error


def _difference_row(name: str, found: Comparison) -> list[Cell]:
    one = found.metrics[name]
    interval = "–" if one.interval is None else f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}"
    cells = [number(value, "{:.4f}") for value in (one.first, one.second)]
    return [Cell(words(name)), *cells, number(one.change, "{:+.4f}"), Cell(interval)]


def _flips(runs: tuple[RunFolder, RunFolder], ids: Sequence[int]) -> list[dict[str, str]]:
    """Return examples whose answer has changed, with their text where the errors of either run hold it."""
    texts = {error.get("id"): error.get("text") for run in runs for error in run.errors.get("most_confident", ())}
    of_part = {run.errors.get("part", run.part) for run in runs} == {runs[0].part}  # ids are of a part
    one, two = (run.predictions for run in runs)
    rows = {example: row for row, example in enumerate(one["id"])}
    return [
        {
            "reference": str(one["reference"][rows[example]]),
            "text": str(texts.get(example) or "")[:MAX_TEXT] if of_part else "",
            "label": words(one["label"][rows[example]]),
            "first": words(one["prediction"][rows[example]]),
            "second": words(two["prediction"][rows[example]]),
        }
        for example in ids[:MAX_FLIPS]
    ]


def _page(template: str, **content: Any) -> str:
    script = (TEMPLATES / "table.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
            **content,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["drawing"] = Markup  # of `plots.inline`, and of nothing else
    return environment


def _visible(value: Any) -> Any:
    r"""Show what is not printable by its number: it could hide or turn round what stands beside it, or have no place in a file.

    >>> _visible("a\u202eb\x00"), _visible(3)
    ('a\\u202eb\\x00', 3)
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c in KEPT else repr(c)[1:-1] for c in value)
