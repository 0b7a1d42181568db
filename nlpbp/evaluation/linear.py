"""Linear models over features: what a fine-tuned model has to beat, fitted in seconds."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

Predict = Callable[[sparse.csr_matrix], np.ndarray]  # features of other examples -> outputs in the shape of a model's

INVERSE_REGULARIZATION = 10.0  # on held-out IMDb and Rotten Tomatoes the log loss is lower than with 1 and 3


def fit_logistic(features: sparse.csr_matrix, targets: np.ndarray, num_labels: int, seed: int) -> Predict:
    """Fit a logistic regression on class ids [m]; it gives probabilities [n, num_labels], 0 for a class that training lacks."""
    present = np.unique(targets)
    if len(present) == 1:  # nothing to tell apart, scikit-learn refuses
        return lambda other: np.repeat(np.eye(num_labels)[present], other.shape[0], axis=0)
    model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=300, random_state=seed)
    with warnings.catch_warnings():  # an optimum reached to two digits is a baseline as good
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, targets)

    def predict(other: sparse.csr_matrix) -> np.ndarray:
        outputs = np.zeros((other.shape[0], num_labels))
        outputs[:, present] = model.predict_proba(other)
        return outputs

    return predict


def fit_ridge(features: sparse.csr_matrix, targets: np.ndarray, seed: int) -> Predict:
    """Fit a ridge regression on numbers [m]; it gives values [n]."""
    return Ridge(random_state=seed).fit(features, targets).predict  # type: ignore[no-any-return]
