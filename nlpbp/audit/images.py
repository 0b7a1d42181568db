"""Findings on images: duplicates, labels and groups, as for texts, and sizes.

The texts of the rows are digests of the images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nlpbp.audit.copies import conflicting_labels, exact_duplicates, find_copies, leaks
from nlpbp.audit.labels import class_balance, label_names
from nlpbp.audit.parts import group_leakage, time_leakage
from nlpbp.audit.rows import AuditFinding, Rows, all_rows, examples_of, level_of, num_rows

MAX_ASPECT = 3.0  # aspect ratio: beyond it the centre crop is less than a third of an image
DIGEST = re.compile(r"(: )?[0-9a-f]{32}$")
FIXES = {
    "exact_duplicates": "duplicates count double in training and in scores: remove all but one",
    "leaks": "scores on them measure memorisation: remove them from training",
    "conflicting_labels": "decide which label is right",
}
SMALL = 0.25  # of the median side: smaller images are enlarged a lot


def image_audit(parts: Sequence[Rows], *, sizes: Mapping[str, tuple[int, int]]) -> list[AuditFinding]:
    """Return all findings on the parts, training first; `sizes` are height and width by digest.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.columns import Fields
    >>> from nlpbp.data.readers import Table
    >>> fields = Fields(("image",), "label", "single_label", ("a", "b"), None, ())
    >>> rows = rows_of(Table("x", {"image": ["d1", "d1"], "label": ["a", "b"]}, [1, 2]), fields=fields)
    >>> [finding.id for finding in image_audit([rows], sizes={"d1": (8, 8)}) if finding.level != "fine"]
    ['exact_duplicates', 'conflicting_labels', 'class_balance']
    """
    copies = find_copies(parts)
    return [
        *map(_of_images, (exact_duplicates(parts, copies), leaks(parts, copies), conflicting_labels(parts, copies))),
        class_balance(parts),
        label_names(parts),
        image_sizes(parts, sizes),
        time_leakage(parts),
        group_leakage(parts),
    ]


def _of_images(finding: AuditFinding) -> AuditFinding:
    """Reword findings on digests as findings on images."""
    examples = tuple(
        replace(one, excerpt=DIGEST.sub("", one.excerpt).replace("the same text", "the same image")) for one in finding.examples
    )
    message = finding.message.replace(" (but for case and white space)", "").replace("text", "image")
    return replace(finding, message=message, fix=FIXES[finding.id], examples=examples)


def image_sizes(parts: Sequence[Rows], sizes: Mapping[str, tuple[int, int]]) -> AuditFinding:
    """Count images that are far from square, of which only the centre is used, or far smaller than the others."""
    found = [(part.references[index], *sizes[part.texts[index]]) for part, index in all_rows(parts)]
    median = float(np.median([min(height, width) for _, height, width in found]))
    odd = [
        (reference, f"{width} x {height} pixels")
        for reference, height, width in found
        if max(height, width) > MAX_ASPECT * min(height, width) or min(height, width) < SMALL * median
    ]
    shapes = {(height, width) for _, height, width in found}
    ((height, width), *others) = sorted(shapes)
    said = f"{len(shapes):,} sizes, the median side {median:.0f} pixels"
    said = said if others else f"all images have {width} x {height} pixels"
    return AuditFinding(
        id="image_sizes",
        title="sizes of images",
        level=level_of(len(odd), len(odd) / max(1, num_rows(parts)), most="note"),
        count=len(odd),
        share=len(odd) / max(1, num_rows(parts)),
        message=said + (f"; {len(odd):,} are far from square or far smaller than the others" if odd else ""),
        fix="look at them: only the centre crop of an elongated image is used",
        examples=examples_of(odd),
        details={"sizes": len(shapes), "median": median},
    )
