"""The audit of a run's data, before it trains on them: warnings are printed, `audit.json` has everything for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from recipes.common import config as sections
from recipes.common.folder import Run, write_text
from recipes.common.inputs import Inputs
from recipes.common.report import reports_are_off
from recipes.common.secrets import redact

if TYPE_CHECKING:
    from nlpbp.analysis.audit_rows import AuditFinding, Rows
    from nlpbp.vision.sources import Shelved

AUDIT = "audit.json"
MAX_ROWS = 50_000  # of all parts; 25,000 long reviews take a quarter of a minute


def audit_inputs(run: Run, inputs: Inputs, wanted: sections.Report, *, max_length: int) -> None:
    """Look at the parts of a run in its main process, once, and print warnings; an audit that fails stops nothing.

    More than 50,000 rows are left to `scripts/audit.py`.
    """
    _audit(run, inputs, lambda parts: _text_findings(parts, max_words=max_length), with_texts=wanted.texts == "all")


def audit_images(run: Run, inputs: Inputs, wanted: sections.Report, shelf: Mapping[str, Shelved]) -> None:
    """The same for images: copies, leaks, labels, groups, and their sizes."""

    def findings(parts: Sequence[Rows]) -> list[AuditFinding]:
        from nlpbp.analysis.audit_images import image_audit

        return image_audit(parts, sizes={digest: (one.height, one.width) for digest, one in shelf.items()})

    _audit(run, inputs, findings, with_texts=False)


def _text_findings(parts: Sequence[Rows], *, max_words: int) -> list[AuditFinding]:
    from nlpbp.analysis.audit import audit  # scikit-learn, which `--help` need not wait for

    return audit(parts, max_words=max_words)


def _audit(run: Run, inputs: Inputs, find: Callable[[list[Rows]], list[AuditFinding]], *, with_texts: bool) -> None:
    if not run.accelerator.is_main_process or reports_are_off() or (run.out / AUDIT).exists():
        return
    num_rows = sum(map(len, inputs.tables.values()))
    if num_rows > MAX_ROWS:
        run.say(f"no audit: {num_rows:,} rows are more than {MAX_ROWS:,}; scripts/audit.py takes as many as there are")
        return
    from nlpbp.analysis.audit import audit_lines, audit_record
    from nlpbp.analysis.audit_rows import rows_of

    try:
        parts = [rows_of(table, fields=inputs.fields, part=name) for name, table in inputs.tables.items()]
        findings = find(parts)
        record = audit_record(parts, findings, with_texts=with_texts)
        write_text(run.out / AUDIT, json.dumps(redact(record), indent=2, ensure_ascii=False) + "\n")
    except Exception as error:  # of a look at the data: training has no need of it
        run.say(f"warning: the audit failed ({type(error).__name__}: {error}); scripts/audit.py tries it alone")
        return
    for line in audit_lines([finding for finding in findings if finding.level == "warning"], with_examples=False):
        run.say(f"audit: {redact(line)}")
