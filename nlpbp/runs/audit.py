"""The audit of a run's data, before it trains on them: warnings are printed, `audit.json` has everything for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nlpbp.config import BasicSettings
from nlpbp.config.secrets import redact
from nlpbp.data.columns import Examples, Fields
from nlpbp.data.corpus import Corpus
from nlpbp.data.parts import Inputs
from nlpbp.data.readers import Table
from nlpbp.data.splits import text_keys
from nlpbp.runs.folder import Run, write_text
from nlpbp.runs.report import reports_are_off

if TYPE_CHECKING:
    from nlpbp.audit.rows import AuditFinding, Rows
    from nlpbp.vision.sources import StoredImage

AUDIT = "audit.json"
MAX_ROWS = 50_000  # of all parts
MAX_CHARACTERS = 50_000_000  # of their texts: 25,000 long reviews have 33 million, and take half a minute


def audit_inputs(run: Run[BasicSettings], inputs: Inputs, *, max_length: int) -> None:
    """Look at the parts of a classifier's run in its main process, once, and print warnings; an audit that fails stops nothing.

    Of more than 50,000 rows, or 50 million characters, a sample is looked at.
    """
    find = partial(_text_findings, max_words=max_length)
    _audit(run, inputs.tables, inputs.fields, find, with_texts=run.settings.report.texts == "all")


def audit_corpus(run: Run[BasicSettings], corpus: Corpus) -> None:
    """Look at the texts of a language model as `audit_inputs` does, at all that needs no labels; they are read whole."""
    fields, find = replace(corpus.fields, label=None), partial(_text_findings, max_words=None)
    _audit(run, corpus.tables, fields, find, with_texts=run.settings.report.texts == "all")


def audit_images(run: Run[BasicSettings], inputs: Inputs, store: Mapping[str, StoredImage]) -> None:
    """Look at the images of a run in the same way: their copies, leaks, labels, groups and sizes."""

    def findings(parts: Sequence[Rows]) -> list[AuditFinding]:
        from nlpbp.audit.images import image_audit

        return image_audit(parts, sizes={digest: (one.height, one.width) for digest, one in store.items()})

    _audit(run, inputs.tables, inputs.fields, findings, with_texts=True)  # there are none


def _text_findings(parts: Sequence[Rows], *, max_words: int | None) -> list[AuditFinding]:
    from nlpbp.audit.audit import audit

    return audit(parts, max_words=max_words)


def _audit(
    run: Run[BasicSettings],
    tables: Mapping[str, Table],
    fields: Fields,
    find: Callable[[Sequence[Rows]], list[AuditFinding]],
    *,
    with_texts: bool,
) -> None:
    if not run.settings.report.audit or not run.accelerator.is_main_process or reports_are_off() or (run.out / AUDIT).exists():
        return
    from nlpbp.audit.audit import audit_lines, audit_record
    from nlpbp.audit.rows import rows_of

    try:
        whole = [rows_of(table, fields=fields, part=name) for name, table in tables.items()]
        parts, share = drawn(whole)
        if share < 1.0:
            run.say(f"the audit looks at {share:.0%} of the rows, all with the same text or none; scripts/audit.py takes all")
        findings = find(parts)
        record = audit_record(parts, findings, with_texts=with_texts)
        if share < 1.0:
            record["drawn_from"] = {part.part: len(part) for part in whole}
        write_text(run.out / AUDIT, json.dumps(redact(record), indent=2, ensure_ascii=False) + "\n")
    except Exception as error:  # of a look at the data: training has no need of it
        run.say(f"warning: the audit failed ({type(error).__name__}: {error}); scripts/audit.py tries it alone")
        return
    for line in audit_lines([finding for finding in findings if finding.level == "warning"], with_examples=False):
        run.say(f"audit: {redact(line)}")


def drawn(parts: list[Rows], *, max_rows: int = MAX_ROWS, max_characters: int = MAX_CHARACTERS) -> tuple[list[Rows], float]:
    """Return the parts with about `max_rows` of their rows, or `max_characters`, whichever is less, and the share that this is.

    Rows are drawn by a hash of their text: those with equal texts come together, so shares of copies and of leaks stay what they
    are. Of texts that are only nearly the same one may be drawn without the other.
    """
    from nlpbp.audit.rows import rows_of

    num_characters = sum(len(text) for part in parts for text in part.texts)
    share = min(1.0, max_rows / max(1, sum(map(len, parts))), max_characters / max(1, num_characters))
    if share == 1.0:
        return parts, share
    below = round(share * 2**64)
    kept = []
    for part in parts:
        keys = text_keys(Examples("", part.texts, None, None, part.references))
        chosen = [row for row, key in enumerate(keys) if int.from_bytes(key[:8]) < below]
        kept.append(rows_of(part.table.select(chosen), fields=part.fields, part=part.part))
    return kept, share
