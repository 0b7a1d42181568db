"""The audit of a run's data, before it trains on them: warnings are printed, `audit.json` has everything for the report."""

from __future__ import annotations

import json

from recipes.common import config as sections
from recipes.common.folder import Run, write_text
from recipes.common.inputs import Inputs
from recipes.common.report import reports_are_off
from recipes.common.secrets import redact

AUDIT = "audit.json"
MAX_ROWS = 50_000  # of all parts; 25,000 long reviews take a quarter of a minute


def audit_inputs(run: Run, inputs: Inputs, wanted: sections.Report, *, max_length: int) -> None:
    """Look at the parts of a run in its main process, once, and print warnings; an audit that fails stops nothing.

    More than 50,000 rows are left to `scripts/audit.py`.
    """
    if not run.accelerator.is_main_process or reports_are_off() or (run.out / AUDIT).exists():
        return
    num_rows = sum(map(len, inputs.tables.values()))
    if num_rows > MAX_ROWS:
        run.say(f"no audit: {num_rows:,} rows are more than {MAX_ROWS:,}; scripts/audit.py takes as many as there are")
        return
    from nlpbp.analysis.audit import audit, audit_lines, audit_record  # scikit-learn, which `--help` need not wait for
    from nlpbp.analysis.audit_rows import rows_of

    try:
        parts = [rows_of(table, fields=inputs.fields, part=name) for name, table in inputs.tables.items()]
        findings = audit(parts, max_words=max_length)
        record = audit_record(parts, findings, with_texts=wanted.texts == "all")
        write_text(run.out / AUDIT, json.dumps(redact(record), indent=2, ensure_ascii=False) + "\n")
    except Exception as error:  # of a look at the data: training has no need of it
        run.say(f"warning: the audit failed ({type(error).__name__}: {error}); scripts/audit.py tries it alone")
        return
    for line in audit_lines([finding for finding in findings if finding.level == "warning"], with_examples=False):
        run.say(f"audit: {redact(line)}")
