"""What a model has to beat: always the majority, and a linear model over tf-idf that fits in seconds.

Both give outputs in the shape of a model's, so that the same metrics and intervals measure them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

Predict = Callable[[sparse.csr_matrix], np.ndarray]

# On held-out parts of IMDb and Rotten Tomatoes C=10 has a lower log loss than 1 and 3, and the 100,000 most frequent
# features are as good as all 366,000 of IMDb.
INVERSE_REGULARIZATION = 10.0
MAX_FEATURES = 100_000
MIN_TEXTS_TO_PRUNE = 100  # below, a word seen once is most of what there is
MAX_WORD_CHARACTERS = 10_000  # of a text: about 1,700 English words; the time grows with it
MAX_NGRAM_CHARACTERS = 1_000


def majority_baseline(task: str, train_targets: np.ndarray, *, num_examples: int, num_labels: int | None = None) -> np.ndarray:
    """Answer every example alike: with the class or label frequencies of the training part, or with its mean.

    `single_label`: targets int [m] and `num_labels` -> [n, k]; `multi_label`: targets {0, 1} [m, k] -> [n, k], decided
    as the labels of more than half of the examples; `regression`: targets [m] -> [n]. `ValueError` without targets, for
    a class id outside 0 to num_labels - 1, a value that is not finite, an unknown task.

    >>> majority_baseline("single_label", np.array([0, 2, 2, 2]), num_examples=2, num_labels=3).tolist()
    [[0.25, 0.0, 0.75], [0.25, 0.0, 0.75]]
    """
    answer = _frequencies(task, _checked_targets(task, train_targets, num_labels), num_labels or 0)
    return np.repeat(answer[np.newaxis], num_examples, axis=0)


def tfidf_baseline(
    task: str,
    train_texts: Sequence[str],
    train_targets: np.ndarray,
    other_texts: Sequence[Sequence[str]],
    *,
    num_labels: int,
    seed: int = 0,
) -> list[np.ndarray]:
    """Fit a linear model over words and word pairs (tf-idf) on the training part; give its outputs for other texts.

    Targets as in `majority_baseline`; one array per list of texts, [n, k] probabilities or [n] values. Logistic
    regression, one for each label of `multi_label`, ridge regression for `regression`. A class absent from training gets
    probability 0. Texts mostly without spaces (Chinese, Japanese, Thai) also give character n-grams. Where no text has
    a word, or training has one class, the answer is that of `majority_baseline`. Of a long text the first 10,000
    characters count. `ValueError` as there, and for as many texts as there are not targets.

    >>> texts, targets = ["good fun", "so good", "bad plot", "so bad"], np.array([1, 1, 0, 0])
    >>> outputs, = tfidf_baseline("single_label", texts, targets, [["good plot", "bad fun"]], num_labels=2)
    >>> outputs.shape
    (2, 2)
    """
    targets = _checked_targets(task, train_targets, num_labels)
    if len(train_texts) != len(targets):
        raise ValueError(f"{len(train_texts)} training texts, {len(targets)} targets")
    vectorizers, features = _fit_vectorizers(train_texts)
    if not vectorizers:
        return [_majority(task, targets, texts, num_labels) for texts in other_texts]
    predict = _fit(task, sparse.hstack(features, format="csr"), targets, num_labels, seed)
    return [
        predict(_features(vectorizers, texts)) if len(texts) else _majority(task, targets, texts, num_labels)
        for texts in other_texts
    ]


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
    targets = _checked_targets(task, train_targets, num_labels)
    scale = train_features.std() or 1.0
    mean = train_features.mean(axis=0)
    predict = _fit(task, sparse.csr_matrix((train_features - mean) / scale), targets, num_labels, seed)
    return [predict(sparse.csr_matrix((features - mean) / scale)) for features in others]


def _majority(task: str, targets: np.ndarray, texts: Sequence[str], num_labels: int) -> np.ndarray:
    return majority_baseline(task, targets, num_examples=len(texts), num_labels=num_labels)


def _frequencies(task: str, targets: np.ndarray, num_labels: int) -> np.ndarray:
    if task == "single_label":
        return np.bincount(targets, minlength=num_labels) / len(targets)
    return np.asarray(targets.mean(axis=0), dtype=np.float64)


def _fit_vectorizers(texts: Sequence[str]) -> tuple[list[TfidfVectorizer], list[sparse.csr_matrix]]:
    """The vectorizers that found a vocabulary, and what each makes of these texts."""
    analyzers = ("word", "char") if _hardly_any_spaces(texts) else ("word",)
    tried = [_fit_vectorizer(analyzer, _cut(texts, analyzer)) for analyzer in analyzers]
    fitted = [pair for pair in tried if pair is not None]
    return [vectorizer for vectorizer, _ in fitted], [features for _, features in fitted]


def _fit_vectorizer(analyzer: str, texts: list[str]) -> tuple[TfidfVectorizer, sparse.csr_matrix] | None:
    for min_df in (2, 1) if len(texts) >= MIN_TEXTS_TO_PRUNE else (1,):
        vectorizer = _vectorizer(analyzer, min_df=min_df)
        try:
            return vectorizer, vectorizer.fit_transform(texts)  # in one pass: half the time of long texts
        except ValueError:  # scikit-learn's only way to say that no term is left
            continue
    return None


def _vectorizer(analyzer: str, *, min_df: int) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=analyzer,
        token_pattern=r"(?u)\b\w+\b" if analyzer == "word" else None,  # one-letter words count ("I", "a")
        ngram_range=(1, 2) if analyzer == "word" else (1, 3),
        min_df=min_df,
        max_features=MAX_FEATURES,
        sublinear_tf=True,
    )


def _features(vectorizers: list[TfidfVectorizer], texts: Sequence[str]) -> sparse.csr_matrix:
    parts = [vectorizer.transform(_cut(texts, vectorizer.analyzer)) for vectorizer in vectorizers]
    return sparse.hstack(parts, format="csr")


def _cut(texts: Sequence[str], analyzer: str) -> list[str]:
    limit = MAX_WORD_CHARACTERS if analyzer == "word" else MAX_NGRAM_CHARACTERS
    return [text[:limit] for text in texts]


def _hardly_any_spaces(texts: Sequence[str]) -> bool:
    """Whether fewer than one character in twenty is a space: English has one in six, Chinese next to none."""
    cut = _cut(texts, "char")
    return sum(text.count(" ") for text in cut) < 0.05 * sum(len(text) for text in cut)


def _fit(task: str, features: sparse.csr_matrix, targets: np.ndarray, num_labels: int, seed: int) -> Predict:
    if task == "single_label":
        return _fit_classes(features, targets, num_labels, seed)
    if task == "multi_label":
        labels = [_fit_classes(features, column, 2, seed) for column in targets.T]
        return lambda other: np.column_stack([predict(other)[:, 1] for predict in labels])
    return Ridge(random_state=seed).fit(features, targets).predict  # type: ignore[no-any-return]


def _fit_classes(features: sparse.csr_matrix, targets: np.ndarray, num_labels: int, seed: int) -> Predict:
    present = np.unique(targets)
    if len(present) == 1:  # nothing to tell apart, scikit-learn refuses
        return lambda other: majority_baseline("single_label", targets, num_examples=other.shape[0], num_labels=num_labels)
    model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=300, random_state=seed)
    with warnings.catch_warnings():  # an optimum reached to two digits is a baseline as good
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, targets)

    def predict(other: sparse.csr_matrix) -> np.ndarray:
        outputs = np.zeros((other.shape[0], num_labels))
        outputs[:, present] = model.predict_proba(other)
        return outputs

    return predict


def _checked_targets(task: str, targets: np.ndarray, num_labels: int | None) -> np.ndarray:
    if task not in ("single_label", "multi_label", "regression"):
        raise ValueError(f"unknown task {task!r}: one of single_label, multi_label, regression")
    targets = np.asarray(targets)
    num_dimensions = 2 if task == "multi_label" else 1
    if targets.ndim != num_dimensions or len(targets) == 0:
        raise ValueError(f"training targets of {task} are {list(targets.shape)}: at least one example is needed")
    if task == "regression":
        return np.asarray_chkfinite(targets, dtype=np.float64)
    if task == "multi_label":
        return _checked_ids(targets, num_labels=2)
    if num_labels is None:
        raise ValueError("single_label needs num_labels: a class may be absent from training")
    return _checked_ids(targets, num_labels=num_labels)


def _checked_ids(targets: np.ndarray, *, num_labels: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a NaN is found below
        whole = targets.astype(np.int64)
    wrong = targets[(whole != targets) | (whole < 0) | (whole >= num_labels)]
    if len(wrong):
        raise ValueError(f"training targets are 0 to {num_labels - 1}, one is {wrong[0]}")
    return whole
