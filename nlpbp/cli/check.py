"""Check a model or a finished run for violated practices; each finding comes with its fix.

nlpbp check runs/transformer_sentiment-1
nlpbp check path/to/model --json findings.json

Exit code: 0 when there is nothing above a note, 1 when there are warnings, else as of every command (2: a path or file is wrong).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nlpbp.cli.parsing import known_recipes, leave_out_broken_torchvision


def make_parser(program: str) -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=program,
        description="Check a model or a finished run for violated practices.",
        epilog="The exit code is 1 when there are warnings, 0 when there is nothing above a note.",
    )
    parser.add_argument("folder", help="a run folder, or a model folder saved by save_pretrained")
    parser.add_argument("--json", help="a file to write the findings to as well, as a list of objects")
    return parser


def check(arguments: Sequence[str], program: str = "nlpbp check") -> None:
    """Load, check, print."""
    given = make_parser(program).parse_args(arguments)
    known_recipes()
    leave_out_broken_torchvision()
    import nlpbp.vision  # noqa: F401  # nets of ours, for images
    from nlpbp.checks.model import check_model
    from nlpbp.checks.run import check_run
    from nlpbp.core.errors import ConfigError, escape
    from nlpbp.data.pretrained import exists
    from nlpbp.text.transformer import load_saved

    is_run = exists(f"{given.folder}/config.yaml")
    model = f"{given.folder}/model" if is_run else given.folder
    if not is_run and not exists(f"{model}/config.json"):
        raise ConfigError(f"{given.folder} holds neither a run nor a model", hint="give a run folder, or one of save_pretrained")
    findings = check_run(Path(given.folder)) if is_run else []
    if not is_run or exists(f"{model}/config.json"):  # a run that is under way has no model yet
        findings += check_model(load_saved(model))
    for finding in findings:
        print(escape(str(finding), limit=None))
    warnings = sum(finding.level == "warning" for finding in findings)
    print(f"warnings: {warnings}, notes: {len(findings) - warnings}")
    if given.json:
        try:
            Path(given.json).write_text(json.dumps([dataclasses.asdict(f) for f in findings], indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{given.json} cannot be written: {error.strerror}", column="json", hint="name another file"
            ) from error
    sys.exit(1 if warnings else 0)
