"""How a fitted estimator shows itself in a notebook: the verdict in words, scores beside baselines, the way to the report."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nlpbp.checks.run import stored_advice
from nlpbp.evaluation.run_folder import RunFolder, read_run
from nlpbp.report.results import baselines, scores, verdict
from nlpbp.runs.advice import in_words
from nlpbp.runs.report import REPORT

CELL = "padding: 0.15em 0.8em; text-align: right"


@dataclass(frozen=True)
class Report:
    """The report of a run: a file, its text, and a frame in a notebook. `run` keeps a temporary folder alive."""

    path: Path
    run: Any

    @property
    def html(self) -> str:
        """The page, which needs no other file."""
        return self.path.read_text(encoding="utf-8")

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" style="width: 100%; height: 40em; border: 0" sandbox="allow-scripts"></iframe>'
        )


def fitted_html(name: str, folder: Path) -> str:
    """Return what a notebook shows of an estimator called `name` whose run is in `folder`: HTML with everything escaped.

    Raises `ConfigError` for a folder that holds no finished run.
    """
    run = read_run(folder)
    headline, *rest = (escape(sentence) for sentence in [*verdict(run), *map(in_words, stored_advice(run.result))])
    tables = "".join(_table(run, part) for part in run.result["metrics"])
    report = folder / REPORT
    link = escape(report.resolve().as_uri()) if report.is_file() else ""
    shown = f'<a href="{link}" target="_blank">{escape(str(report))}</a>' if link else ""
    return (
        f'<div class="nlpbp-estimator"><pre>{escape(name)}</pre><p><strong>{headline}</strong> {" ".join(rest)}</p>'
        f"{tables}<p>Report: {shown or 'none'}; <code>.report()</code> shows it here.</p></div>"
    )


def _table(run: RunFolder, part: str) -> str:
    """Return the scores of one part: each with its interval, beside the baselines."""
    head = ["value", *baselines(run)]
    rows = ["".join(_cell(one, tag="th") for one in (part, head[0], "95 % interval", *head[1:]))]
    for score in scores(run)[part]:
        value, *others = (cell.text for cell in score.cells)
        rows.append("".join(_cell(one) for one in (score.name, value, score.interval, *others)))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _cell(text: str, *, tag: str = "td") -> str:
    return f'<{tag} style="{CELL}">{escape(text)}</{tag}>'
