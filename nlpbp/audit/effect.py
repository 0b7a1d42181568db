"""The effect of duplicates on a score: a linear model's accuracy on all rows, and on those that are not duplicates (practice
D2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from nlpbp.audit.copies import Copies, find_copies
from nlpbp.audit.duplicates import Words, split_words
from nlpbp.audit.label_errors import MAX_FEATURES, MAX_WEIGHTS, NUM_FOLDS, fit_linear, out_of_fold, tfidf_features
from nlpbp.audit.rows import AuditFinding, Rows, has_classes, level_of, no_classes, nothing, num_rows, part_numbers, percent

Array = np.ndarray[Any, Any]

MAX_LABELS = 100
MIN_COPIES = 10  # of a part: with fewer, no difference can be measured


def effect_of_copies(
    parts: Sequence[Rows], copies: Copies | None = None, *, words: Words | None = None, seed: int = 0
) -> AuditFinding:
    """Compare the accuracy on a part with that on its rows that are not exact or near duplicates of training or of each other.

    A linear model trained on the training set is scored on the other parts; if there is only a training set, it is
    cross-validated. The final model may memorise more than a linear one, so this is a lower bound of the bias. With fewer than ten
    duplicates there is no result.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> table = Table("a.csv", {"text": ["So good", "bad"], "label": ["pos", "neg"]}, [2, 3])
    >>> effect_of_copies([rows_of(table)]).message
    'no part that is scored has 10 copies, and as many other rows'
    """
    name, title = "effect_of_copies", "effect of duplicates on the score"
    if not has_classes(parts):
        return nothing(name, title, no_classes(parts))
    copies = copies or find_copies(parts)
    is_copy, numbers = _copies_of_others(parts, copies), part_numbers(parts)
    labels = [label for part in parts for label in part.labels or ()]
    counts = Counter(labels[: len(parts[0])])
    names = sorted(label for label, count in counts.items() if label and count >= NUM_FOLDS)
    usual = {label: number for number, label in enumerate(names)}
    ids = np.array([usual.get(label, -1) if label else -1 for label in labels])
    later = range(min(1, len(parts) - 1), len(parts))  # the training set itself, if there is no other
    copied = [is_copy[(numbers == number) & (ids >= 0)] for number in later]
    scored = [number for number, found in zip(later, copied, strict=True) if MIN_COPIES <= found.sum() <= len(found) - MIN_COPIES]
    if not scored:
        return AuditFinding(name, title, "fine", 0, 0.0, f"no part that is scored has {MIN_COPIES} copies, and as many other rows")
    if not 2 <= len(usual) <= MAX_LABELS:
        return nothing(name, title, f"{len(usual):,} classes have {NUM_FOLDS} rows or more, and 2 to {MAX_LABELS} are looked at")
    words = words or split_words([text for part in parts for text in part.texts])
    features = tfidf_features(words, max_features=min(MAX_FEATURES, MAX_WEIGHTS // len(usual)))
    is_right = _answers(features, ids, numbers == 0, num_labels=len(usual), of_itself=len(parts) == 1, seed=seed) == ids
    details = {}
    for number in scored:
        of_part = (numbers == number) & (ids >= 0)
        details[parts[number].part] = _compared(is_right[of_part], is_copy[of_part])
    telling = [found for found in details.values() if found["p"] < 0.05]
    worst = max((abs(found["effect"]) for found in telling), default=0.0)
    said = [
        f"{part} {percent(found['all'])} of {found['rows']:,} rows, {percent(found['without_copies'])} without {found['copies']:,} "
        f"copies ({100 * found['effect']:+.1f} points{'' if found['p'] < 0.05 else ', within chance'})"
        for part, found in details.items()
    ]
    count = sum(found["copies"] for found in details.values())
    return AuditFinding(
        id=name,
        title=title,
        level=level_of(count, worst) if telling else "note",
        count=count,
        share=count / max(1, num_rows(parts)),
        message=f"accuracy of a linear model: {'; '.join(said)}",
        fix="report the score without them as well; a plan with leaks and near_leaks drops them from training",
        details=details,
    )


def _copies_of_others(parts: Sequence[Rows], copies: Copies) -> Array:
    """Tell for each row whether it is an exact or near duplicate of a row of training or of an earlier row of its part.

    If there is only a training set, all rows of a duplicated text count: each can be predicted from another.
    """
    numbers, alone = part_numbers(parts), len(parts) == 1
    sizes = Counter(copies.distinct.tolist())
    seen: list[set[int]] = [set() for _ in parts]
    found = np.zeros(len(copies.distinct), dtype=bool)
    for row, (text, part) in enumerate(zip(copies.distinct.tolist(), numbers.tolist(), strict=True)):
        like = [text, *(other for other, _ in copies.near.get(text, ()))]
        if alone:
            found[row] = sizes[text] > 1 or len(like) > 1
        else:
            found[row] = any(one in seen[0] or one in seen[part] for one in like)
        seen[part].add(text)
    return found


def _answers(features: Any, ids: Array, is_train: Array, *, num_labels: int, of_itself: bool, seed: int) -> Array:
    """Return the predictions of a linear model of the training rows for each row, out of fold for the training set itself."""
    answers = np.full(len(ids), -2)
    fitted = np.flatnonzero(is_train & (ids >= 0))
    if of_itself:
        answers[fitted] = out_of_fold(features[fitted], ids[fitted], num_labels=num_labels, seed=seed).argmax(axis=1)
        return answers
    model = fit_linear(features, ids, fitted, num_labels=num_labels, generator=np.random.default_rng(seed))
    later = np.flatnonzero(~is_train)
    answers[later] = model.predict(features[later])
    return answers


def _compared(is_right: Array, is_copy: Array) -> dict[str, Any]:
    """Return both accuracies, and the p-value of the difference between duplicates and the others (Fisher's exact test)."""
    copied, others = is_right[is_copy], is_right[~is_copy]
    table = [[int(group.sum()), int((~group).sum())] for group in (copied, others)]
    alone = float(others.mean())
    return {
        "rows": len(is_right),
        "copies": len(copied),
        "all": float(is_right.mean()),
        "without_copies": alone,
        "effect": float(is_right.mean()) - alone,
        "p": float(stats.fisher_exact(table).pvalue),
    }
