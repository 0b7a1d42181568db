"""Look at a data set before training on it: copies, leaks, doubtful labels, broken texts, and parts that differ.

nlpbp audit reviews.csv --test later.csv
nlpbp audit demo:imdb --json audit.json --html audit.html
nlpbp audit reviews.csv --fix plan.yaml --out clean.csv
nlpbp audit photos/ --images

A plan is a list of findings, such as `[exact_duplicates, encoding]`: the training set without those rows, or with them repaired,
is written to --out, and each such row to a log beside it. The data themselves are never changed.

Exit code: 0 when there is nothing above a note, 1 when there are warnings, else as of every command (3: the data cannot be read).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlpbp.cli.parsing import known_recipes, leave_out_broken_torchvision
from nlpbp.core.task import TASKS

if TYPE_CHECKING:
    from nlpbp.audit.rows import AuditFinding, Rows
    from nlpbp.data.readers import Table


def make_parser(program: str) -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=program,
        description="Look at a data set before training on it.",
        epilog="The exit code is 1 when there are warnings, 0 when there is nothing above a note.",
    )
    parser.add_argument("data", help="the training data: a file, a folder, a hub id, demo:imdb ...")
    parser.add_argument("--validation", help="data to choose by (default: the hub's own split, if it has one)")
    parser.add_argument("--test", help="data to score on (default: the hub's own split, if it has one)")
    parser.add_argument(
        "--images", action="store_true", help="of images: a folder with a sub-folder for each label, a table of paths ..."
    )
    parser.add_argument(
        "--text", nargs="+", default=[], help="the text column, or two for a pair; or the image column (default: found)"
    )
    parser.add_argument("--label", help="the column to predict (default: found)")
    parser.add_argument("--task", choices=("auto", *TASKS), default="auto", help="as --data.task of training (default: found)")
    parser.add_argument("--delimiter", help="of a .csv file (default: found)")
    parser.add_argument("--max_words", type=int, default=256, help="count what a cut at so many words would lose")
    parser.add_argument("--json", help="a file to write the findings to as well")
    parser.add_argument("--html", help="a page to write the findings to as well")
    parser.add_argument("--fix", metavar="PLAN", help="a YAML or JSON list of findings to act on, in training alone")
    parser.add_argument("--out", help="the cleaned copy: .csv, .tsv, .jsonl or .parquet; its log is OUT.log.jsonl")
    return parser


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program)
    given = parser.parse_args(arguments)
    if bool(given.fix) != bool(given.out):
        parser.error("--fix and --out belong together: the plan, and the file for the cleaned copy")
    if given.images and (given.fix or len(given.text) > 1):
        parser.error("--images: a plan is for texts" if given.fix else "--images: name one column of images")
    if given.max_words < 1:
        parser.error("--max_words must be 1 or more")
    return given


def audit(arguments: Sequence[str], program: str = "nlpbp audit") -> None:
    """Read, look, print; with a plan, write the cleaned copy."""
    given = parse(arguments, program)
    known_recipes()
    leave_out_broken_torchvision()
    from nlpbp.audit.audit import audit as find
    from nlpbp.audit.audit import audit_lines, audit_record
    from nlpbp.audit.images import image_audit
    from nlpbp.audit.repair import check_clean_file, read_plan

    plan = read_plan(Path(given.fix)) if given.fix else ()
    if given.out:
        check_clean_file(Path(given.out), sources=[source for source in (given.data, given.validation, given.test) if source])
    parts, sizes = read_parts(given)
    findings = image_audit(parts, sizes=sizes) if given.images else find(parts, max_words=given.max_words)
    print(*audit_lines(findings), sep="\n")
    warnings, notes = (sum(finding.level == level for finding in findings) for level in ("warning", "note"))
    print(f"warnings: {warnings}, notes: {notes}")
    record = audit_record(parts, findings)
    if given.json:
        write(json.dumps(record, indent=2, ensure_ascii=False) + "\n", given.json, column="json")
    if given.html:
        from nlpbp.report.page import audit_page

        write(audit_page(record), given.html, column="html")
    if given.out:
        fix(parts[0], findings, plan, out=Path(given.out))
    sys.exit(1 if warnings else 0)


def read_parts(given: argparse.Namespace) -> tuple[list[Rows], dict[str, tuple[int, int]]]:
    """Read training and the parts that were named, or that the hub keeps beside it, and say what was found.

    Of images the rows' texts are digests, whose height and width are returned too.
    """
    from nlpbp.audit.rows import audited_fields, rows_of
    from nlpbp.data.exports import printable
    from nlpbp.data.readers import hub_splits
    from nlpbp.data.sources import is_hub_id, read_source
    from nlpbp.modalities.images import read_images
    from nlpbp.vision.sources import IMAGE

    sizes: dict[str, tuple[int, int]] = {}

    def read(source: str, split: str) -> Table:
        if not given.images:
            return read_source(source, split=split, delimiter=given.delimiter)
        table, images = read_images(source, split=split, column=next(iter(given.text), None), delimiter=given.delimiter)
        sizes.update({digest: (one.height, one.width) for digest, one in images.items()})
        return table

    table = read(given.data, "train")
    fields = audited_fields(table, text=[IMAGE] if given.images else given.text, label=given.label, task=given.task)
    beside = hub_splits(given.data) if is_hub_id(given.data) else []
    parts = [rows_of(table, fields=fields)]
    for name in ("validation", "test"):
        source = getattr(given, name) or (given.data if name in beside else None)
        if source:
            parts.append(rows_of(read(source, name), fields=fields, part=name))
    counts = ", ".join(f"{part.part} {len(part):,}" for part in parts)
    for note in (f"reading {table.name}: {counts} rows", *table.notes, *fields.notes):
        print(printable(note), file=sys.stderr)
    return parts, sizes


def write(text: str, file: str, *, column: str) -> None:
    """Write the findings, or say why not."""
    from nlpbp.core.errors import ConfigError

    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", column=column, hint="name another file") from error


def fix(train: Rows, findings: Sequence[AuditFinding], plan: Sequence[str], *, out: Path) -> None:
    """Write the training set after the plan, and the log of what was dropped and changed."""
    from nlpbp.audit.repair import clean, write_log, write_table
    from nlpbp.core.errors import escape

    table, changes = clean(train, findings, plan)
    log = out.with_name(f"{out.name}.log.jsonl")
    write_log(changes, log)
    write_table(table, out)
    dropped = sum(change.action == "dropped" for change in changes)
    print(
        f"{len(table):,} of {len(train):,} training rows written to {escape(str(out), limit=None)}: {dropped:,} dropped, "
        f"{len(changes) - dropped:,} changed, each in {escape(str(log), limit=None)}"
    )
