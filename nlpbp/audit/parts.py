"""Findings on differences between the parts, and on what they must not share: time ranges, groups, and distribution shift."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from nlpbp.audit.duplicates import Words, split_words
from nlpbp.audit.label_errors import NUM_FOLDS, out_of_fold, tfidf_features
from nlpbp.audit.rows import AuditFinding, Example, Rows, examples_of, level_of, nothing, percent

Array = np.ndarray[Any, Any]

ISO_DATE = re.compile(r"\s*(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ](\d{1,2}):(\d{2}))?", re.ASCII)
GROUP_WORDS = {
    *("author", "user", "username", "customer", "client", "speaker", "patient", "person", "writer", "reviewer", "annotator"),
    *("group", "thread", "conversation", "dialog", "dialogue", "session", "document", "doc", "article", "product", "item"),
    *("movie", "film", "book", "account", "company", "subject", "case", "family"),
}
GROUP_FIX = "use parts that share none of them, unless the model will only be used on those it was trained on"
MIN_GROUPS = 5  # fewer values are a category that all parts may share
MAX_OF_A_PART = 10_000  # rows in the adversarial validation, for an interval within 0.01
SHIFTED = 0.7  # area under the curve


def time_leakage(parts: Sequence[Rows]) -> AuditFinding:
    """Find a column of dates whose range in a later part overlaps that of training, so that the score is not one of the future."""
    name, title = "time_leakage", "order in time"
    columns = {column: [_dates(part.others.get(column, [])) for part in parts] for column in parts[0].others}
    dated = {column: dates for column, dates in columns.items() if all(len(found) > 1 for found in dates)}
    if not dated:
        return nothing(name, title, "there is no column of dates")
    column, (train, *others) = next(iter(dated.items()))
    names = [part.part for part in parts]
    shown = {name: [f"{min(found):%Y-%m-%d}", f"{max(found):%Y-%m-%d}"] for name, found in zip(names, dated[column], strict=True)}
    early = {name: sum(day <= max(train) for day in found) for name, found in zip(names[1:], others, strict=True)}
    inside = [name for name, num in early.items() if num]
    said = ", ".join(f"{name} from {first} to {last}" for name, (first, last) in shown.items())
    verb = "begins" if len(inside) == 1 else "begin"
    count = sum(early.values())
    return AuditFinding(
        id=name,
        title=title,
        level="warning" if inside else "note" if len(parts) == 1 else "fine",
        count=count,
        share=count / max(1, sum(map(len, parts[1:]))),
        message=f"column '{column}': {said}" + (f"; {' and '.join(inside)} {verb} before training ends" if inside else ""),
        fix="if the model will be used on later texts, use the latest rows as the test set",
        examples=tuple(Example(part, f"{first} to {last}") for part, (first, last) in shown.items()) if inside else (),
        details={"column": column, "ranges": shown},
    )


def _dates(values: Sequence[Any]) -> list[datetime]:
    """Return the dates of a column, or nothing if fewer than nine in ten of its cells are dates."""
    filled = [value for value in values if value not in (None, "")]
    found = [day for day in map(_date, filled) if day is not None]
    return found if len(found) >= 0.9 * max(1, len(filled)) else []


def _date(value: Any) -> datetime | None:
    """Parse an unambiguous date: year first, or a date object; the time zone is dropped."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    found = ISO_DATE.match(value) if isinstance(value, str) else None
    try:
        year, month, day, hour, minute = (int(number) for number in found.groups(default="0")) if found else (0,) * 5
        return datetime(year, month, day, hour, minute) if found else None
    except ValueError:  # such as a thirteenth month
        return None


def group_leakage(parts: Sequence[Rows]) -> AuditFinding:
    """Find values of a column such as `author` or `product_id` that are in training and in a later part."""
    name, title = "group_leakage", "parts and groups"
    grouped = [column for column in parts[0].others if is_group(column, parts[0].others[column])]
    if not grouped:
        return nothing(name, title, "there is no column that groups the rows")
    column = grouped[0]
    train = {value for value in parts[0].others[column] if value not in (None, "")}
    if len(parts) == 1:
        said = f"column '{column}' has {len(train):,} values for {len(parts[0]):,} rows, so a random split leaks groups"
        return AuditFinding(name, title, "note", 0, 0.0, said, GROUP_FIX, details={"column": column, "groups": len(train)})
    places = [(part, i) for part in parts[1:] for i, value in enumerate(part.others.get(column, ())) if value in train]
    share = len(places) / max(1, sum(map(len, parts[1:])))
    counts = Counter(part.part for part, _ in places)
    said = " and ".join(f"{num:,} of {part} ({percent(num / _size(parts, part))})" for part, num in counts.items())
    said = f"{said} share a group with training" if places else "no group is in two sets"
    return AuditFinding(
        id=name,
        title=title,
        level=level_of(len(places), share),
        count=len(places),
        share=share,
        message=f"column '{column}': {said}",
        fix=GROUP_FIX,
        examples=examples_of((part.references[i], f"{column} {part.others[column][i]}") for part, i in places),
        details={"column": column, "groups": len(train), "counts": dict(counts)},
    )


def _size(parts: Sequence[Rows], name: str) -> int:
    return next(len(part) for part in parts if part.part == name)


def is_group(name: str, values: Sequence[Any]) -> bool:
    """Tell whether a column groups rows: by its name, and because its values repeat.

    >>> is_group("product_id", [1, 2, 3, 4, 5, 6] * 2), is_group("product_id", list(range(12))), is_group("stars", [1, 2] * 6)
    (True, False, False)
    """
    parts = [word for word in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name) if word.casefold() not in ("id", "name", "key", "no")]
    if not parts or parts[-1].casefold() not in GROUP_WORDS or any(isinstance(value, list | dict) for value in values):
        return False
    filled = [value for value in values if value not in (None, "")]
    return len(set(filled)) >= MIN_GROUPS and len(filled) >= 1.5 * len(set(filled))


def adversarial_validation(parts: Sequence[Rows], *, words: Words | None = None, seed: int = 0) -> AuditFinding:
    """Adversarial validation: a linear model that can tell training from a later part shows that the parts differ.

    The ROC AUC (0.5: it cannot) is out of fold, with the 95 % confidence interval of Hanley and McNeil (1982); above 0.7 is a
    warning. The words named are those whose document frequencies differ most.
    """
    name, title = "adversarial_validation", "distribution shift"
    words = words or split_words([text for part in parts for text in part.texts])
    if len(parts) == 1 or min(map(len, parts)) < 2 * NUM_FOLDS or not len(words.ids):
        return nothing(name, title, "there are no two parts of ten rows or more")
    generator = np.random.default_rng(seed)
    features = tfidf_features(words)
    starts = np.cumsum([0, *map(len, parts)])
    train = _some(generator, np.arange(len(parts[0])))
    details: dict[str, Any] = {}
    for number, part in enumerate(parts[1:], 1):
        rows = np.concatenate([train, _some(generator, np.arange(starts[number], starts[number + 1]))])
        is_later = (rows >= len(parts[0])).astype(np.int64)
        scores = out_of_fold(features[rows], is_later, num_labels=2, seed=seed)[:, 1]
        area = float(roc_auc_score(is_later, scores))
        interval = auc_interval(area, int(is_later.sum()), int((1 - is_later).sum()))
        details[part.part] = {"auc": area, "interval": list(interval), "words": _telling_words(words, rows, is_later)}
    worst, found = max(details.items(), key=lambda item: item[1]["auc"])
    is_shifted, is_sure = found["auc"] > SHIFTED, found["interval"][0] > 0.5
    low, high = found["interval"]
    return AuditFinding(
        id=name,
        title=title,
        level="warning" if is_shifted and is_sure else "note" if is_sure else "fine",
        count=len(details),
        share=found["auc"],
        message=f"train and {worst}: area under the curve {found['auc']:.2f} [{low:.2f}, {high:.2f}], where 0.5 is alike",
        fix="look at the words that distinguish them; scores on a part unlike future texts mean little",
        examples=examples_of([(worst, f"words: {', '.join(found['words'])}")]) if is_sure else (),
        details=details,
    )


def auc_interval(area: float, num_positive: int, num_negative: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of an AUC (Hanley and McNeil 1982).

    >>> [round(end, 3) for end in auc_interval(0.8, 50, 50)]
    [0.713, 0.887]
    """
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (num_positive - 1) * (first - area**2) + (num_negative - 1) * (second - area**2)
    width = 1.96 * float(np.sqrt(max(0.0, spread) / (num_positive * num_negative)))
    return max(0.0, area - width), min(1.0, area + width)


def _some(generator: np.random.Generator, rows: Array) -> Array:
    return rows if len(rows) <= MAX_OF_A_PART else np.sort(generator.choice(rows, MAX_OF_A_PART, replace=False))


def _telling_words(words: Words, rows: Array, is_later: Array) -> list[str]:
    """Return the five words whose document frequencies differ most between the two, by a two-proportion z-test."""
    is_chosen = np.full(len(words), -1)
    is_chosen[rows] = is_later
    owners = np.repeat(np.arange(len(words)), words.lengths)
    pairs = np.unique((owners.astype(np.int64) << 32) | words.ids)
    side, ids = is_chosen[pairs >> 32], pairs & 0xFFFFFFFF
    counts = np.stack([np.bincount(ids[side == of], minlength=len(words.vocabulary)) for of in (0, 1)])
    sizes = np.array([[(is_later == 0).sum()], [(is_later == 1).sum()]])
    share = counts.sum(axis=0) / sizes.sum()
    spread = np.sqrt(share * (1 - share) * (1 / sizes).sum()) + 1e-9
    difference = np.abs(counts[0] / sizes[0] - counts[1] / sizes[1]) / spread
    return [words.vocabulary[word] for word in np.argsort(-difference, kind="stable")[:5]]
