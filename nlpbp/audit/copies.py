"""Findings on duplicate texts: inside a part, across parts, and with different labels.

Exact duplicates ignore case and white space, as in `nlpbp.data.splits`; near duplicates are defined by `nlpbp.audit.duplicates`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpbp.audit.duplicates import THRESHOLD, Words, near_pairs, split_words
from nlpbp.audit.rows import AuditFinding, Rows, all_rows, examples_of, level_of, no_classes, nothing, num_rows, percent
from nlpbp.data.columns import Examples
from nlpbp.data.splits import text_keys

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Copies:
    """The distinct texts of the rows of all parts, and their near duplicates.

    `distinct` int64 [rows] numbers the texts by first appearance; `near` has the near duplicates of each text, with their Jaccard
    similarity. Empty texts are not duplicates.
    """

    distinct: Array
    near: dict[int, list[tuple[int, float]]]


def find_copies(parts: Sequence[Rows], *, threshold: float = THRESHOLD, words: Words | None = None) -> Copies:
    """Compare all texts of all parts, for all findings here; pairs of texts are only compared for equality.

    The reason is that a premise with two hypotheses, or a question with two answers, is a near duplicate by design. Fields that are
    composed to one text are not a pair.
    """
    distinct, first = _distinct(parts)
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)
    if len(parts[0].fields.text) == 1 or parts[0].fields.kinds:
        words = words or split_words([text for part in parts for text in part.texts])
        found = near_pairs(_only(words, first), threshold=threshold)
        for (a, b), similarity in zip(found.indices.tolist(), found.similarity.tolist(), strict=True):
            near[a].append((b, similarity))
            near[b].append((a, similarity))
    return Copies(distinct, dict(near))


def _distinct(parts: Sequence[Rows]) -> tuple[Array, Array]:
    """Number the distinct texts by first appearance; return the number of each row and the first row of each number."""
    numbers: dict[bytes, int] = {}
    distinct: list[int] = []
    first: list[int] = []
    for part in parts:
        keys = text_keys(Examples(part.table.name, part.texts, None, None, part.references))
        for key, text in zip(keys, part.texts, strict=True):
            number = numbers.setdefault(key if text.strip() else b"row %d" % len(distinct), len(numbers))
            if number == len(first):
                first.append(len(distinct))
            distinct.append(number)
    return np.array(distinct, dtype=np.int64), np.array(first, dtype=np.int64)


def _only(words: Words, rows: Array) -> Words:
    """Return the words of some of the texts."""
    lengths = words.lengths[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + np.repeat(words.starts[rows], lengths)
    return Words(words.ids[places], starts, words.vocabulary)


def exact_duplicates(parts: Sequence[Rows], copies: Copies | None = None) -> AuditFinding:
    """Find exact duplicates of an earlier row in the same part; `rows` are those of training with the same label as the earlier
    one.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> finding = exact_duplicates([rows_of(Table("a.csv", {"text": ["So good", "bad", "so  good"]}, [2, 3, 4]))])
    >>> finding.count, finding.rows
    (1, {2: 'equal to a.csv:2'})
    """
    copies = copies or find_copies(parts)
    shown: list[tuple[str, str]] = []
    rows: dict[int, str] = {}
    counts = dict.fromkeys((part.part for part in parts), 0)
    for part, numbers in zip(parts, _by_part(parts, copies.distinct), strict=True):
        first: dict[int, int] = {}
        for index, number in enumerate(numbers):
            earlier = first.setdefault(number, index)
            if earlier != index:
                counts[part.part] += 1
                shown.append((f"{part.references[index]} = {part.references[earlier]}", part.texts[index]))
                if part is parts[0] and _agree(part, index, earlier):
                    rows[index] = f"equal to {part.references[earlier]}"
    return _finding_of_copies("exact_duplicates", "exact duplicates inside a part", counts, shown, rows, parts)


def _agree(part: Rows, index: int, other: int) -> bool:
    """Tell whether two rows have the same label; if not, it is unknown which one is right."""
    return part.labels is None or part.labels[index] == part.labels[other]


def near_duplicates(parts: Sequence[Rows], copies: Copies | None = None) -> AuditFinding:
    """Find near duplicates of an earlier row of the same part that is kept; `rows` are as for exact duplicates."""
    copies = copies or find_copies(parts)
    shown: list[tuple[str, str]] = []
    rows: dict[int, str] = {}
    counts = dict.fromkeys((part.part for part in parts), 0)
    for part, numbers in zip(parts, _by_part(parts, copies.distinct), strict=True):
        kept: dict[int, int] = {}
        for index, number in enumerate(numbers):
            near = [(kept[other], similarity) for other, similarity in copies.near.get(number, ()) if other in kept]
            if not near or number in kept:
                kept.setdefault(number, index)
                continue
            earlier, similarity = max(near, key=lambda pair: pair[1])
            counts[part.part] += 1
            shown.append((f"{part.references[index]} ~ {part.references[earlier]} ({similarity:.2f})", part.texts[index]))
            if part is parts[0] and _agree(part, index, earlier):
                rows[index] = f"nearly {part.references[earlier]} (Jaccard {similarity:.2f})"
    return _finding_of_copies("near_duplicates", "near duplicates inside a part", counts, shown, rows, parts)


def _finding_of_copies(
    name: str, title: str, counts: dict[str, int], shown: list[tuple[str, str]], rows: dict[int, str], parts: Sequence[Rows]
) -> AuditFinding:
    count = sum(counts.values())
    share = count / max(1, num_rows(parts))
    where = ", ".join(f"{part.part} {counts[part.part]:,} of {len(part):,}" for part in parts if counts[part.part])
    kind = "equal (but for case and white space) to" if name == "exact_duplicates" else "nearly the same as"
    return AuditFinding(
        id=name,
        title=title,
        level=level_of(count, share),
        count=count,
        share=share,
        message=f"texts {kind} an earlier one of their part: {where or 'none'}",
        fix=f"duplicates count double in training and in scores; a plan with {name} drops them from training",
        examples=examples_of(shown),
        details=dict(counts),
        rows=rows,
    )


def leaks(parts: Sequence[Rows], copies: Copies | None = None) -> AuditFinding:
    """Find texts of validation or test that are in training too, which makes scores too optimistic; `rows` are those in
    training."""
    copies = copies or find_copies(parts)
    return _leaks(parts, copies, is_near=False)


def near_leaks(parts: Sequence[Rows], copies: Copies | None = None) -> AuditFinding:
    """Find near duplicates of texts of validation or test in training; `rows` are those in training."""
    copies = copies or find_copies(parts)
    return _leaks(parts, copies, is_near=True)


def _leaks(parts: Sequence[Rows], copies: Copies, *, is_near: bool) -> AuditFinding:
    name, title = ("near_leaks", "near copies across the parts") if is_near else ("leaks", "copies across the parts")
    if len(parts) == 1:
        return nothing(name, title, "there is one part only")
    train, *others = _by_part(parts, copies.distinct)
    in_train: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(train):
        in_train[number].append(index)
    shown: list[tuple[str, str]] = []
    rows: dict[int, str] = {}
    counts = {part.part: 0 for part in parts[1:]}
    for part, numbers in zip(parts[1:], others, strict=True):
        for index, number in enumerate(numbers):
            same = [] if is_near and number in in_train else copies.near.get(number, ()) if is_near else [(number, 1.0)]
            found = [(copy, similarity) for other, similarity in same for copy in in_train.get(other, ())]
            if not found:
                continue
            counts[part.part] += 1
            first, similarity = max(found, key=lambda pair: pair[1])
            sign = f"~ {parts[0].references[first]} ({similarity:.2f})" if is_near else f"= {parts[0].references[first]}"
            shown.append((f"{part.references[index]} {sign}", part.texts[index]))
            verb = "stands nearly so" if is_near else "stands"
            rows |= {copy: f"{verb} in {part.part} as {part.references[index]}" for copy, _ in found if copy not in rows}
    sizes = {part.part: len(part) for part in parts[1:]}
    shares = {part: counts[part] / max(1, size) for part, size in sizes.items()}
    said = [f"{counts[part]:,} of {size:,} {part} texts ({percent(shares[part])})" for part, size in sizes.items() if counts[part]]
    count = sum(counts.values())
    certain = "warning" if count and not is_near else level_of(count, max(shares.values()))
    return AuditFinding(
        id=name,
        title=title,
        level=certain,
        count=count,
        share=count / max(1, sum(sizes.values())),
        message=f"{' and '.join(said) or 'no text'} stand{'' if said else 's'} in training too{', slightly changed' * is_near}",
        fix=f"scores on them measure memorisation; `nlpbp audit --fix PLAN` with {name} in the plan drops them from training",
        examples=examples_of(shown),
        details={"counts": counts, "shares": shares, "training_rows": len(rows)},
        rows=rows,
    )


def conflicting_labels(parts: Sequence[Rows], copies: Copies | None = None) -> AuditFinding:
    """Find texts with more than one label; `rows` are all their rows in training.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> table = Table("a.csv", {"text": ["So good", "bad", "so  good"], "label": ["pos", "neg", "neg"]}, [2, 3, 4])
    >>> conflicting_labels([rows_of(table)]).rows
    {0: "the same text is 'neg' and 'pos'", 2: "the same text is 'neg' and 'pos'"}
    """
    name, title = "conflicting_labels", "one text with several labels"
    if not _has_names(parts):
        return nothing(name, title, no_classes(parts))
    copies = copies or find_copies(parts)
    labels, members = _labels_of_texts(parts, copies)
    torn = {number: _names(found) for number, found in labels.items() if len(found) > 1}
    reasons = {row: f"the same text is {names}" for number, names in torn.items() for row in members[number]}
    fix = "decide which label is right; a plan with conflicting_labels drops all of them from training"
    return _finding_of_conflicts(name, title, parts, reasons, f"{len(torn):,} texts have more than one label", fix, most="warning")


def near_conflicting_labels(parts: Sequence[Rows], copies: Copies | None = None) -> AuditFinding:
    """Find near duplicates with different labels; a negation can be the reason, so they are worth reading."""
    name, title = "near_conflicting_labels", "near duplicates with different labels"
    if not _has_names(parts):
        return nothing(name, title, no_classes(parts))
    copies = copies or find_copies(parts)
    labels, members = _labels_of_texts(parts, copies)
    reasons: dict[int, str] = {}
    num_pairs = 0
    for number, others in sorted(copies.near.items()):
        for other, similarity in others:
            if other > number and labels[number] and labels[other] and labels[number].isdisjoint(labels[other]):
                num_pairs += 1
                why = f"nearly the same text ({similarity:.2f}) is {_names(labels[number])} and {_names(labels[other])}"
                reasons |= dict.fromkeys((*members[number], *members[other]), why)
    fix = "read them: a small change can reverse the meaning; a plan with near_conflicting_labels drops all of them from training"
    return _finding_of_conflicts(name, title, parts, reasons, f"{num_pairs:,} pairs of near duplicates have different labels", fix)


def _finding_of_conflicts(
    name: str, title: str, parts: Sequence[Rows], reasons: dict[int, str], message: str, fix: str, *, most: Any = "note"
) -> AuditFinding:
    places = list(all_rows(parts)) if reasons else []
    shown = ((places[row], why) for row, why in reasons.items())
    share = len(reasons) / max(1, num_rows(parts))
    return AuditFinding(
        id=name,
        title=title,
        level=level_of(len(reasons), share, most=most),
        count=len(reasons),
        share=share,
        message=message + (f" ({len(reasons):,} rows)" if reasons else ""),
        fix=fix,
        examples=examples_of((part.references[index], f"{why}: {part.texts[index]}") for (part, index), why in shown),
        rows={row: why for row, why in sorted(reasons.items()) if row < len(parts[0])},
    )


def _has_names(parts: Sequence[Rows]) -> bool:
    return parts[0].labels is not None and parts[0].fields.target_type != "continuous"


def _labels_of_texts(parts: Sequence[Rows], copies: Copies) -> tuple[dict[int, set[str]], dict[int, list[int]]]:
    """Return the labels and the rows of each distinct text."""
    labels: dict[int, set[str]] = defaultdict(set)
    members: dict[int, list[int]] = defaultdict(list)
    for row, ((part, index), number) in enumerate(zip(all_rows(parts), copies.distinct.tolist(), strict=True)):
        label = part.labels[index] if part.labels is not None else None
        members[number].append(row)
        if label is not None:
            labels[number].add(label)
    return labels, members


def _names(labels: set[str]) -> str:
    return " and ".join(repr(label) for label in sorted(labels))


def _by_part(parts: Sequence[Rows], values: Array) -> list[list[int]]:
    """Divide values of the rows of all parts into one list for each part."""
    return [part.tolist() for part in np.split(values, np.cumsum([len(part) for part in parts])[:-1])]
