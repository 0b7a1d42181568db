"""The report of a finished run, `report.html` in its folder, and the one that compares two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlpbp.config import BasicSettings
from nlpbp.config.files import asdict, differences
from nlpbp.core.errors import ConfigError, NlpbpError
from nlpbp.evaluation.run_folder import read_config
from nlpbp.runs.folder import Run, write_text

if TYPE_CHECKING:
    from nlpbp.report.comparison import Comparison

REPORT = "report.html"


def leave_report(run: Run[BasicSettings]) -> None:
    """Write the report into the folder of a run that has ended; one that cannot be made is told, and changes nothing else.

    It takes about a second: NLPBP_REPORT=off in the environment leaves it out, for hundreds of runs of seconds each.
    """
    if reports_are_off():
        return
    try:
        write_report(run.out, defaults=asdict(type(run.settings)()))
    except Exception as error:  # whatever goes wrong in a drawing: the model is trained, and stands
        reason = str(error) if isinstance(error, NlpbpError) else f"{type(error).__name__}: {error}"
        run.say(f"warning: the report could not be made ({reason}); scripts/report.py {run.out} tries again")
    else:
        run.say(f"report: {run.out / REPORT}")


def reports_are_off() -> bool:
    """Tell whether the environment says NLPBP_REPORT=off."""
    return os.environ.get("NLPBP_REPORT") == "off"


def write_report(folder: Path, *, defaults: Mapping[str, Any] | None = None, out: Path | None = None) -> Path:
    """Write the report of a finished run to `out`, or into its folder; return where it is.

    `defaults` are its recipe's settings where nothing is said, if they are known. Raises `ConfigError` for a folder without a
    finished run, and for a file that cannot be read or written.
    """
    from nlpbp.report.page import run_report  # SciPy's tests and jinja2: a second that `--help` need not wait

    return _write(run_report(folder, defaults=defaults), out or folder / REPORT)


def write_comparison(first: Path, second: Path, *, out: Path) -> tuple[Comparison, list[str]]:
    """Write a page that compares two finished runs; return what was found, and the settings that differ in a line each.

    Raises `ConfigError` as `write_report` does, and for runs of other data.
    """
    from nlpbp.report.page import comparison_report

    settings = differences(read_config(first), read_config(second))
    found, page = comparison_report(first, second, settings=settings)
    _write(page, out)
    return found, settings


def _write(page: str, path: Path) -> Path:
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", column="out", hint="name another file") from error
    return path
