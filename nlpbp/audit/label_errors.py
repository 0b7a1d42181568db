"""Label errors found by confident learning (Northcutt, Jiang and Chuang 2021) with a linear model.

The probabilities are out of fold: each of five folds is predicted by a model trained on the other four.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from nlpbp.audit.duplicates import Words, word_shingles

Array = np.ndarray[Any, Any]

NUM_FOLDS = 5
MAX_FEATURES = 50_000
MAX_WEIGHTS = 2_000_000  # features times classes: 16 MB, of which the optimizer keeps about twenty vectors
MAX_FITTED = 50_000  # texts that a fold is trained on; all are predicted
INVERSE_REGULARIZATION = 3.0  # below the 10 of the baseline, because probabilities and not decisions are used


def tfidf_features(words: Words, *, max_features: int = MAX_FEATURES) -> sparse.csr_matrix:
    """Return binary tf-idf over the most frequent words and word bigrams [n, features].

    >>> from nlpbp.audit.duplicates import split_words
    >>> tfidf_features(split_words(["so good", "so bad"])).shape
    (2, 5)
    """
    parts = [word_shingles(words, size=size) for size in (1, 2)]
    frequencies = [np.unique(part.hashes, return_inverse=True, return_counts=True) for part in parts]
    counts = np.concatenate([count for _, _, count in frequencies])
    chosen = np.sort(np.argsort(-counts, kind="stable")[:max_features])
    column = np.full(len(counts), -1)
    column[chosen] = np.arange(len(chosen))
    matrices, offset = [], 0
    for part, (distinct, inverse, _) in zip(parts, frequencies, strict=True):
        columns = column[offset + inverse]
        owners = np.repeat(np.arange(len(words)), np.diff(part.starts))
        is_kept = columns >= 0
        places = (owners[is_kept], columns[is_kept])
        matrices.append(sparse.csr_matrix((np.ones(is_kept.sum(), dtype=np.float32), places), shape=(len(words), len(chosen))))
        offset += len(distinct)
    return TfidfTransformer().fit_transform(matrices[0] + matrices[1])


def out_of_fold(features: sparse.csr_matrix, labels: Array, *, num_labels: int, seed: int = 0) -> Array:
    """Return out-of-fold probabilities [n, num_labels].

    `labels` int [n]; every label from 0 to num_labels - 1 must occur five times or more, else `ValueError`.
    """
    counts = np.bincount(labels, minlength=num_labels)
    if num_labels < 2 or len(counts) > num_labels or counts.min() < NUM_FOLDS:
        raise ValueError(f"{NUM_FOLDS} folds need two labels or more and {NUM_FOLDS} rows of each, there are {counts.tolist()}")
    probabilities = np.zeros((len(labels), num_labels))
    generator = np.random.default_rng(seed)
    for fitted, held in StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(labels, labels):
        model = fit_linear(features, labels, fitted, num_labels=num_labels, generator=generator)
        probabilities[held] = model.predict_proba(features[held])
    return probabilities


def fit_linear(
    features: sparse.csr_matrix, labels: Array, rows: Array, *, num_labels: int, generator: np.random.Generator
) -> LogisticRegression:
    """Train a linear model on the rows, or on a random sample of 50,000 of them that includes every label."""
    if len(rows) > MAX_FITTED:
        first = np.array([rows[labels[rows] == label][0] for label in range(num_labels)])  # no label is left out
        rows = np.union1d(first, generator.choice(rows, MAX_FITTED, replace=False))
    model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=100, tol=1e-3)
    with warnings.catch_warnings():  # an optimum to two digits is enough for ranking
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features[rows], labels[rows])


def confident_labels(probabilities: Array, labels: Array) -> Array:
    """Return for each row the confident label [n], -1 if there is none.

    The model is confident in a label if its probability is at least the mean over the rows with that label.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.9, 0.1]])
    >>> confident_labels(probabilities, np.array([0, 0, 1, 1])).tolist()
    [0, -1, 1, 0]
    """
    thresholds = [probabilities[labels == label, label].mean() for label in range(probabilities.shape[1])]
    is_sure = probabilities >= np.array(thresholds)
    return np.where(is_sure.any(axis=1), np.where(is_sure, probabilities, -1.0).argmax(axis=1), -1)


def confident_joint(probabilities: Array, labels: Array) -> Array:
    """Count rows by given and by confident label (the confident joint), int [labels, labels]; off the diagonal are label issues.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.9, 0.1]])
    >>> confident_joint(probabilities, np.array([0, 0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    sure = confident_labels(probabilities, labels)
    joint = np.zeros((probabilities.shape[1],) * 2, dtype=np.int64)
    np.add.at(joint, (labels[sure >= 0], sure[sure >= 0]), 1)
    return joint


def rank_labels(probabilities: Array, labels: Array) -> Array:
    """Return all rows ordered by normalised margin: the probability of the given label minus the highest other one, lowest first.

    >>> rank_labels(np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]), np.array([0, 1, 1])).tolist()
    [2, 1, 0]
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1.0
    return np.argsort(probabilities[rows, labels] - others.max(axis=1), kind="stable")


def label_error_candidates(probabilities: Array, labels: Array) -> Array:
    """Return the rows with label issues, where the model is confident in another label, the lowest margin first."""
    sure = confident_labels(probabilities, labels)
    ranked = rank_labels(probabilities, labels)
    return ranked[(sure[ranked] >= 0) & (sure[ranked] != labels[ranked])]
