"""Findings on the labels: class balance, names that may mean the same class, and label errors."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np

from nlpbp.audit.duplicates import Words, split_words
from nlpbp.audit.label_errors import MAX_FEATURES, MAX_WEIGHTS, NUM_FOLDS, label_error_candidates, out_of_fold, tfidf_features
from nlpbp.audit.rows import AuditFinding, Rows, examples_of, has_classes, no_classes, nothing, num_rows, percent

IMBALANCE = 20  # ratio of the largest to the smallest class, as in the notes of a run
MIN_ABBREVIATION = 3  # characters
MIN_MISSPELT = 6  # minimum length of names that differ in one letter
MAX_NAMES = 200  # all pairs of them are compared
MAX_LABELS = 100  # the time for a fold grows with the number of classes


def class_balance(parts: Sequence[Rows]) -> AuditFinding:
    """Count each class in each part; a class without training rows is a warning, imbalance of 20 to 1 or more a note.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> rows = rows_of(Table("a.csv", {"text": ["So good", "bad", "good"], "label": ["pos", "neg", "pos"]}, [2, 3, 4]))
    >>> class_balance([rows]).message
    "train: 'pos' 2, 'neg' 1; classes with one row: 'neg'"
    """
    name, title = "class_balance", "class balance"
    if not has_classes(parts):
        return nothing(name, title, no_classes(parts))
    counts = {part.part: Counter(label for label in part.labels or () if label is not None) for part in parts}
    train = counts[parts[0].part]
    unknown = [(part, label) for part in counts for label in counts[part] if label not in train]
    rare = [label for label, count in train.items() if count == 1]
    is_uneven = bool(train) and max(train.values()) >= IMBALANCE * min(train.values())
    count = sum(counts[part][label] for part, label in unknown)
    said = [f"{part}: {_most(found)}" for part, found in counts.items()]
    said += [f"training has no rows of {', '.join(sorted({repr(label) for _, label in unknown}))}"] if unknown else []
    said += [f"classes with one row: {', '.join(map(repr, sorted(rare)[:5]))}"] if rare else []
    return AuditFinding(
        id=name,
        title=title,
        level="warning" if unknown else "note" if rare or is_uneven else "fine",
        count=count,
        share=count / max(1, num_rows(parts)),
        message="; ".join(said),
        fix="a class cannot be learned without rows; for imbalanced classes look at macro-F1, and try --optim.class_weights auto",
        details={part: dict(found.most_common()) for part, found in counts.items()},
    )


def _most(counts: Counter[str]) -> str:
    more = f" and {len(counts) - 10} more" if len(counts) > 10 else ""
    return ", ".join(f"{label!r} {count:,}" for label, count in counts.most_common(10)) + more


def label_names(parts: Sequence[Rows]) -> AuditFinding:
    """Find names that may be the same class: equal except for case, space and punctuation, abbreviated, or misspelt.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> table = Table("a.csv", {"text": ["a b", "c d", "e f"], "label": ["Positive", "positive ", "pos"]}, [2, 3, 4])
    >>> label_names([rows_of(table)]).message
    "names that may be one class: 'Positive' and 'pos', 'Positive' and 'positive ', 'pos' and 'positive '"
    """
    name, title = "label_names", "names of labels"
    if parts[0].labels is None or parts[0].fields.target_type == "continuous":
        return nothing(name, title, no_classes(parts))
    is_several = parts[0].fields.target_type == "multilabel-indicator"
    cells = [label for part in parts for label in part.labels or () if label is not None]
    counts = Counter(found for cell in cells for found in (cell.split("|") if is_several else [cell]))
    if len(counts) > MAX_NAMES:
        return nothing(name, title, f"{len(counts):,} names are too many to compare all pairs")
    alike = {pair: why for pair in combinations(sorted(counts), 2) if (why := _alike(*pair))}
    is_certain = "spelling" in alike.values()
    count = sum(min(counts[a], counts[b]) for a, b in alike)
    said = ", ".join(f"{a!r} and {b!r}" for a, b in alike)
    shown = ((f"{a!r} and {b!r}", f"{why}: {counts[a]:,} and {counts[b]:,} rows") for (a, b), why in alike.items())
    return AuditFinding(
        id=name,
        title=title,
        level="warning" if is_certain else "note" if alike else "fine",
        count=count,
        share=count / max(1, num_rows(parts)),
        message=f"names that may be one class: {said}" if alike else "no two names are alike",
        fix="use one spelling for each class in the file; nothing is merged",
        examples=examples_of(shown),
        details={"pairs": [[a, b, why] for (a, b), why in alike.items()]},
    )


def _alike(a: str, b: str) -> str | None:
    a, b = _plain(a), _plain(b)
    shorter, longer = sorted((a, b), key=len)
    if a == b:
        return "spelling" if a else None
    if re.findall(r"\d+", a) != re.findall(r"\d+", b):
        return None
    if len(shorter) >= MIN_ABBREVIATION and longer.startswith(shorter) and " " not in longer:
        return "abbreviation"
    is_near = len(shorter) >= MIN_MISSPELT and SequenceMatcher(None, a, b, autojunk=False).ratio() > 1 - 1 / len(longer) - 1e-9
    return "misspelling" if is_near else None


def _plain(label: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", label).casefold()).split())


def label_errors(parts: Sequence[Rows], *, words: Words | None = None, seed: int = 0) -> AuditFinding:
    """Find training labels that a linear model, trained on other rows, confidently predicts to be different, most likely errors
    first.

    They are candidates for review: on hard data many of them are right, so dropping them can hurt. See `nlpbp.audit.label_errors`.
    """
    name, title = "label_errors", "labels that may be wrong"
    rows = parts[0]
    if not has_classes(parts):
        return nothing(name, title, no_classes(parts))
    names = rows.labels or []
    counts = Counter(label for label, text in zip(names, rows.texts, strict=True) if label is not None and text.strip())
    usual = sorted(label for label, count in counts.items() if count >= NUM_FOLDS)
    if not 2 <= len(usual) <= MAX_LABELS:
        return nothing(name, title, f"{len(usual):,} classes have {NUM_FOLDS} rows or more, and 2 to {MAX_LABELS} are looked at")
    known = {label: number for number, label in enumerate(usual)}
    chosen = np.array([i for i, label in enumerate(names) if label in known and rows.texts[i].strip()])
    labels = np.array([known[label] for label in (names[i] for i in chosen) if label is not None])
    features = tfidf_features(words or split_words(rows.texts), max_features=min(MAX_FEATURES, MAX_WEIGHTS // len(usual)))
    probabilities = out_of_fold(features[chosen], labels, num_labels=len(usual), seed=seed)
    candidates = label_error_candidates(probabilities, labels)
    best = probabilities.argmax(axis=1)
    given = probabilities[np.arange(len(labels)), labels]
    accuracy = float((best == labels).mean())
    reasons = {
        int(chosen[i]): f"{usual[labels[i]]!r} {given[i]:.2f}, {usual[best[i]]!r} {probabilities[i, best[i]]:.2f}"
        for i in candidates
    }
    return AuditFinding(
        id=name,
        title=title,
        level="note" if len(candidates) else "fine",
        count=len(candidates),
        share=len(candidates) / len(labels),
        message=f"a linear model is sure of another label in {len(candidates):,} of {len(labels):,} training rows "
        f"({percent(len(candidates) / len(labels))}); out of fold it is right in {percent(accuracy)}",
        fix="review them from the top, where errors are most frequent; a plan with label_errors drops them all from training",
        examples=examples_of((rows.references[row], f"{why}: {rows.texts[row]}") for row, why in reasons.items()),
        details={"out_of_fold_accuracy": accuracy, "left_out_classes": sorted(set(counts) - set(usual))},
        rows={row: f"the label is doubted: {why}" for row, why in reasons.items()},
    )
