"""Make the report of a finished run again, or compare two runs on the same examples.

python scripts/report.py runs/transformer_sentiment-1
python scripts/report.py runs/transformer_sentiment-1 runs/transformer_sentiment-2 --out comparison.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import known_recipes, leave_out_broken_torchvision, main


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="report.py", description="Make the report of a finished run, or compare two runs on the same examples."
    )
    parser.add_argument("run", nargs="+", help="a run folder, or two to compare: the second with the first")
    parser.add_argument("--out", help="the page to write (default: report.html in the run folder; comparison.html here)")
    given = parser.parse_args(arguments)
    if len(given.run) > 2:
        parser.error("two runs can be compared, not more")
    return given


def report(arguments: Sequence[str]) -> None:
    """Read, draw, write, and say the verdict."""
    given = parse(arguments)
    known_recipes()
    leave_out_broken_torchvision()
    from nlpbp.core.errors import escape
    from nlpbp.data.exports import printable
    from nlpbp.evaluation.run_folder import read_result
    from nlpbp.runs.report import write_comparison, write_report

    folders = [Path(run) for run in given.run]
    if len(folders) == 1:
        defaults = recipe_defaults(read_result(folders[0]).get("recipe"))
        path = write_report(folders[0], defaults=defaults, out=Path(given.out) if given.out else None)
    else:
        path = Path(given.out or "comparison.html")
        found, settings = write_comparison(folders[0], folders[1], out=path)
        print(printable("\n".join([found.verdict, *settings])))
    print(f"report: {escape(str(path), limit=None)}")


def recipe_defaults(name: Any) -> dict[str, Any] | None:
    """Return a recipe's settings where nothing is said; None for a recipe that is not one of ours."""
    import importlib

    from nlpbp.config.files import asdict

    recipes = known_recipes()
    return asdict(importlib.import_module(recipes[name][0]).Config()) if name in recipes else None


if __name__ == "__main__":
    main(report)
