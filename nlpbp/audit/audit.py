"""Audit a dataset before training on it: every finding with its count, examples and fix (practices D2 and D3).

Each finding is a function of the parts that can be called separately; here they share tokenization and duplicate detection, which
take most of the time. Nothing is changed; `nlpbp.audit.repair` changes data by a plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nlpbp.audit.copies import (
    conflicting_labels,
    exact_duplicates,
    find_copies,
    leaks,
    near_conflicting_labels,
    near_duplicates,
    near_leaks,
)
from nlpbp.audit.duplicates import Words, split_words
from nlpbp.audit.effect import effect_of_copies
from nlpbp.audit.labels import class_balance, label_errors, label_names
from nlpbp.audit.languages import language_mix
from nlpbp.audit.parts import adversarial_validation, group_leakage, time_leakage
from nlpbp.audit.rows import AuditFinding, Rows
from nlpbp.audit.texts import encoding_trouble, missing_values, script_mix, text_lengths
from nlpbp.core.errors import escape

LEVELS = ("warning", "note", "fine")


def audit(parts: Sequence[Rows], *, max_words: int | None = 256, seed: int = 0) -> list[AuditFinding]:
    """Return all findings on the parts, training first; they are reproducible for the same data and seed.

    `max_words` is how many words of a text a model reads; None without truncation, as for a language model.

    25,000 long reviews took 26 s on one core and 1.1 GB; the time grows with the number of words and, for label errors, of classes.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.tiny import tiny_reviews
    >>> findings = {finding.id: finding for finding in audit([rows_of(tiny_reviews())])}
    >>> print(findings["class_balance"])
    fine class_balance: train: 'neg' 120, 'pos' 120
    """
    words = split_words([text for part in parts for text in part.texts])
    copies = find_copies(parts, words=words)
    train = Words(words.ids[: words.starts[len(parts[0])]], words.starts[: len(parts[0]) + 1], words.vocabulary)
    return [
        missing_values(parts),
        exact_duplicates(parts, copies),
        near_duplicates(parts, copies),
        leaks(parts, copies),
        near_leaks(parts, copies),
        effect_of_copies(parts, copies, words=words, seed=seed),
        conflicting_labels(parts, copies),
        near_conflicting_labels(parts, copies),
        label_errors(parts, words=train, seed=seed),
        class_balance(parts),
        label_names(parts),
        text_lengths(parts, max_words=max_words, words=words),
        encoding_trouble(parts),
        script_mix(parts),
        language_mix(parts, seed=seed),
        time_leakage(parts),
        group_leakage(parts),
        adversarial_validation(parts, words=words, seed=seed),
    ]


def audit_record(parts: Sequence[Rows], findings: Sequence[AuditFinding], *, with_texts: bool = True) -> dict[str, Any]:
    """Return the findings as plain values, for `audit.json`; excerpts are shortened and escaped, or left out with all words of
    texts."""
    return {
        "source": parts[0].table.name,
        "rows": sum(map(len, parts)),
        "parts": {part.part: len(part) for part in parts},
        "findings": [
            {
                "id": finding.id,
                "title": finding.title,
                "level": finding.level,
                "was_looked_at": finding.was_looked_at,
                "count": finding.count,
                "share": float(finding.share),
                "message": finding.message,
                "fix": finding.fix,
                "examples": [
                    {"reference": example.reference, "excerpt": example.excerpt if with_texts else ""}
                    for example in finding.examples
                ],
                "details": _plain(finding.details, left_out=() if with_texts else ("words",)),
            }
            for finding in findings
        ],
    }


def audit_lines(findings: Sequence[AuditFinding], *, with_examples: bool = True) -> list[str]:
    """Return the findings as lines to print, warnings first, each with its examples; safe for a terminal."""
    lines = []
    for finding in sorted(findings, key=lambda finding: LEVELS.index(finding.level)):
        lines.append(escape(str(finding), limit=None))
        if finding.level != "fine" and with_examples:
            lines += [f"    {': '.join(filter(None, (one.reference, one.excerpt)))}" for one in finding.examples]
    return lines


def _plain(value: Any, *, left_out: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner, left_out=left_out) for name, inner in value.items() if name not in left_out}
    if isinstance(value, list | tuple):
        return [_plain(inner, left_out=left_out) for inner in value]
    return value.item() if isinstance(value, np.generic) else value
