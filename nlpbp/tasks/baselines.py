"""What a model has to beat, for any task by its name: a constant answer, and a linear model that fits in seconds.

Both give outputs in the shape of a model's, so that the same metrics and intervals measure them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from nlpbp.core.task import target_type
from nlpbp.tasks.task import get_task


def constant_baseline(task: str, train_targets: np.ndarray, *, num_examples: int, num_labels: int | None = None) -> np.ndarray:
    """Answer every example alike: with the class or label frequencies of the training targets, or with their mean.

    Targets int [m] and `num_labels` -> [n, k]; targets {0, 1} [m, k] -> [n, k], decided as the labels of more than half of the
    examples; numbers [m] -> [n]. `ValueError` without targets, for a class id outside 0 to num_labels - 1, a value that is not
    finite, an unknown task.

    >>> constant_baseline("single_label", np.array([0, 2, 2, 2]), num_examples=2, num_labels=3).tolist()
    [[0.25, 0.0, 0.75], [0.25, 0.0, 0.75]]
    """
    targets = checked_training_targets(task, train_targets, num_labels)
    return np.repeat(get_task(task).constant(targets, num_labels or 0)[np.newaxis], num_examples, axis=0)


def tfidf_baseline(
    task: str,
    train_texts: Sequence[str],
    train_targets: np.ndarray,
    other_texts: Sequence[Sequence[str]],
    *,
    num_labels: int,
    seed: int = 0,
) -> list[np.ndarray]:
    """Fit a linear model over words and word pairs (tf-idf) on the training texts; give its outputs for other texts.

    Targets as in `constant_baseline`; one array per list of texts, [n, k] probabilities or [n] values. A class absent from
    training gets probability 0. Texts mostly without spaces (Chinese, Japanese, Thai) also give character n-grams. Where no text
    has a word, or training has one class, the answer is that of `constant_baseline`. Of a long text the first 10,000
    characters count. `ValueError` as there, and for as many texts as there are not targets.

    >>> texts, targets = ["good fun", "so good", "bad plot", "so bad"], np.array([1, 1, 0, 0])
    >>> outputs, = tfidf_baseline("single_label", texts, targets, [["good plot", "bad fun"]], num_labels=2)
    >>> outputs.shape
    (2, 2)
    """
    from nlpbp.evaluation.tfidf import fit_vectorizers, vectorized  # scikit-learn: a second that `--help` need not wait

    targets = checked_training_targets(task, train_targets, num_labels)
    if len(train_texts) != len(targets):
        raise ValueError(f"{len(train_texts)} training texts, {len(targets)} targets")
    vectorizers, features = fit_vectorizers(train_texts)

    def constant(texts: Sequence[str]) -> np.ndarray:
        return constant_baseline(task, targets, num_examples=len(texts), num_labels=num_labels)

    if not vectorizers:
        return [constant(texts) for texts in other_texts]
    predict = get_task(task).fit_linear(sparse.hstack(features, format="csr"), targets, num_labels, seed)
    return [predict(vectorized(vectorizers, texts)) if len(texts) else constant(texts) for texts in other_texts]


def linear_baseline(
    task: str,
    train_features: np.ndarray,
    train_targets: np.ndarray,
    others: Sequence[np.ndarray],
    *,
    num_labels: int,
    seed: int = 0,
) -> list[np.ndarray]:
    """Fit a linear model over dense features [m, d], brought to one scale, and give its outputs for others; else as above.

    >>> features, targets = np.array([[0.0], [0.1], [1.0]]), np.array([0, 0, 1])
    >>> outputs, = linear_baseline("single_label", features, targets, [np.ones((2, 1))], num_labels=2)
    >>> outputs.shape
    (2, 2)
    """
    targets = checked_training_targets(task, train_targets, num_labels)
    scale = train_features.std() or 1.0
    mean = train_features.mean(axis=0)
    predict = get_task(task).fit_linear(sparse.csr_matrix((train_features - mean) / scale), targets, num_labels, seed)
    return [predict(sparse.csr_matrix((features - mean) / scale)) for features in others]


def checked_training_targets(task: str, targets: np.ndarray, num_labels: int | None) -> np.ndarray:
    """Return training targets as class ids, zeros and ones, or float64; `ValueError` for those that cannot be."""
    kind, targets = target_type(task), np.asarray(targets)
    num_dimensions = 2 if kind == "multilabel-indicator" else 1
    if targets.ndim != num_dimensions or len(targets) == 0:
        raise ValueError(f"training targets of {task} are {list(targets.shape)}: at least one example is needed")
    if kind == "continuous":
        return np.asarray_chkfinite(targets, dtype=np.float64)
    if kind == "multilabel-indicator":
        return _checked_ids(targets, num_labels=2)
    if num_labels is None:
        raise ValueError(f"{task} needs num_labels: a class may be absent from training")
    return _checked_ids(targets, num_labels=num_labels)


def _checked_ids(targets: np.ndarray, *, num_labels: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a NaN is found below
        whole = targets.astype(np.int64)
    wrong = targets[(whole != targets) | (whole < 0) | (whole >= num_labels)]
    if len(wrong):
        raise ValueError(f"training targets are 0 to {num_labels - 1}, one is {wrong[0]}")
    return whole
