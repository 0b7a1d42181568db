"""Whole numbers in a label column: whether they are classes or quantities, by one rule, with a warning where it may be wrong.

Numbers alone cannot tell stars from quantities, or class ids from counts. So the rule asks for what most columns of classes have:
few numbers, which repeat, are spread over their range, and are numbered from 0 or 1.
"""

from __future__ import annotations

import re
from collections import Counter

FEW = 5  # up to so many different numbers are classes, in however many rows
SEVERAL = 20  # up to so many need not be numbered from 0 or 1: 10, 20, 30
MANY = 300  # more are a quantity
MIN_ROWS = {False: 2, True: 10}  # for each number on average: of up to SEVERAL, and of more
TAIL = 0.1  # of the rows: counts have fewer in the upper half of their numbers, the most frequent one (0, or "none") set aside
DENSE = 0.9  # of all numbers from the lowest to the highest: a small table lacks some of its rare classes
ALONE = 0.9  # different numbers for each row: ids, or prices
MEASURES = {
    *("star", "stars", "rating", "ratings", "score", "scores", "grade", "grades", "similarity", "level", "rank", "age", "price"),
    *("count", "counts", "year", "years", "amount", "quantity", "votes", "likes", "points"),
}
ORDINAL = "--data.task ordinal if they have an order, as stars have"
REGRESSION = "--data.task regression predicts them as quantities"


def task_of_whole_numbers(counts: Counter[int], *, column: str) -> tuple[str, str, str]:
    """Return the task that the whole numbers of a label column imply, the reason, and a warning where they may be something else.

    `counts` are the rows of each number. Up to 5 different numbers are classes. Up to 20 are if they repeat (2 rows for each on
    average) and are no counts: these have fewer than a tenth of their rows in the upper half of their numbers, the most frequent
    number set aside. Up to 300 are if they repeat more (10 rows for each), are no counts, and are numbered from 0 or 1 with hardly
    a gap. All others are quantities.

    >>> task_of_whole_numbers(Counter({number: 90 for number in range(45)}), column="label")[0]
    'single_label'
    >>> task, why, warning = task_of_whole_numbers(Counter([1, 2, 3, 4, 5]), column="stars")
    >>> task, warning.partition(": ")[2].partition(",")[0]
    ('single_label', '--data.task regression predicts them as quantities')
    >>> task_of_whole_numbers(Counter(range(100, 400)), column="price")[:2]
    ('regression', 'it holds 300 different whole numbers in 300 rows, which hardly repeat: quantities')
    """
    num, rows, low, high = len(counts), counts.total(), min(counts), max(counts)
    against, held = _reason_against_classes(counts), f"'{column}' holds {num:,} different whole numbers from {low} to {high}"
    if against is None:
        each = f"each in {rows / num:.0f} rows on average" if rows >= 2 * num else f"in {rows:,} rows"
        why = f"it holds {num} different whole numbers, {each}: classes"
        is_plain = (low, high) == (0, num - 1) and not (_is_measure(column) or _has_tail(counts))
        if num == 2 or is_plain:
            return "single_label", why + (f"; {REGRESSION}" if num > 2 else ""), ""
        return "single_label", why, f"{held}, taken as classes: {REGRESSION}, {ORDINAL}"
    why = f"it holds {num:,} different whole numbers{against}: quantities"
    if num > ALONE * rows:
        is_id = "if they are ids, name the column to predict with --data.label"
        return "regression", why, f"{held} in {rows:,} rows, taken as quantities: {is_id}"
    warning = f"{held}, taken as quantities: --data.task single_label makes each of them a class, {ORDINAL}"
    return "regression", why, warning if num <= MANY else ""


def _reason_against_classes(counts: Counter[int]) -> str | None:
    num, rows, low, high = len(counts), counts.total(), min(counts), max(counts)
    if num <= FEW:
        return None
    if rows < MIN_ROWS[num > SEVERAL] * num:
        return f" in {rows:,} rows, which hardly repeat"
    if num > MANY:
        return f", more than {MANY}"
    if _has_tail(counts):
        return " with a long tail, as counts have"
    if num > SEVERAL and not (low in (0, 1) and num >= DENSE * (high - low + 1)):
        return f" from {low} to {high}, not numbered from 0 or 1 as classes are"
    return None


def _has_tail(counts: Counter[int]) -> bool:
    rest = sorted(set(counts) - {number for number, _ in counts.most_common(1)})
    rows = [counts[number] for number in rest]
    return sum(rows[-(len(rows) // 2) :]) < TAIL * sum(rows)


def _is_measure(column: str) -> bool:
    return bool(set(re.split(r"[\W_]+", column.casefold())) & MEASURES)
