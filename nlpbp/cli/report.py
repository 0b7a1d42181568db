"""Make the report of a finished run again, or compare two runs on the same examples.

nlpbp report runs/transformer_sentiment-1
nlpbp report runs/transformer_sentiment-1 runs/transformer_sentiment-2 --out comparison.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nlpbp.cli.parsing import known_recipes, leave_out_broken_torchvision


def make_parser(program: str) -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog=program, description="Make the report of a finished run, or compare two runs on the same examples."
    )
    parser.add_argument("run", nargs="+", help="a run folder, or two to compare: the second with the first")
    parser.add_argument("--out", help="the page to write (default: report.html in the run folder; comparison.html here)")
    return parser


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program)
    given = parser.parse_args(arguments)
    if len(given.run) > 2:
        parser.error("two runs can be compared, not more")
    return given


def report(arguments: Sequence[str], program: str = "nlpbp report") -> None:
    """Read, draw, write, and say the verdict."""
    given = parse(arguments, program)
    known_recipes()
    leave_out_broken_torchvision()
    from nlpbp.core.errors import escape
    from nlpbp.data.exports import printable
    from nlpbp.evaluation.run_folder import read_result
    from nlpbp.runs.report import write_comparison, write_report
    from recipes import default_settings

    folders = [Path(run) for run in given.run]
    if len(folders) == 1:
        defaults = default_settings(read_result(folders[0]).get("recipe"))
        path = write_report(folders[0], defaults=defaults, out=Path(given.out) if given.out else None)
    else:
        path = Path(given.out or "comparison.html")
        found, settings = write_comparison(folders[0], folders[1], out=path)
        print(printable("\n".join([found.verdict, *settings])))
    print(f"report: {escape(str(path), limit=None)}")
