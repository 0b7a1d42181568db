"""scikit-learn's own checks of an estimator, on our estimators behind a reader that turns rows of numbers into texts or images.

The checks feed tables of floats. An estimator of texts says by its tags that it takes none, and scikit-learn then checks next to
nothing; so here each row is written out as a text, or drawn as an image, and every check runs but for those named below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from nlpbp import ImageClassifier, TextClassifier, TextRegressor

NOT_RUN = {"check_array_api_input": "it runs only where the environment says SCIPY_ARRAY_API=1; scikit-learn skips it"}
"""Checks that are not expected to pass, and why."""
OF_CLASSIFIERS = NOT_RUN | {
    "check_classifiers_multilabel_output_format_decision_function": "there is no decision_function; scikit-learn skips it",
}


class ReadsTables:
    """Reads each row of a table of floats as a text such as `a0.50 b-1.25`; what is no such table is refused by scikit-learn."""

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(self.rows(validate_data(self, X)), y)

    def _outputs(self, X: Any) -> Any:
        check_is_fitted(self)
        return super()._outputs(self.rows(validate_data(self, X, reset=False)))

    def rows(self, X: np.ndarray) -> Any:
        return [" ".join(f"{letter}{value:.2f}" for letter, value in zip("abcdefghij", row, strict=False)) for row in X]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        for of_kind in filter(None, (tags.classifier_tags, tags.regressor_tags)):
            of_kind.poor_score = True  # numbers as words, one epoch, and a net that has learned nothing before
        return tags


class TableClassifier(ReadsTables, TextClassifier):
    pass


class TableRegressor(ReadsTables, TextRegressor):
    pass


SETTINGS: dict[str, Any] = {
    "model": "tiny:bert",
    "epochs": 1,
    "max_length": 32,
    "config": {"threads": 1, "report.audit": False},
    "verbose": False,
}


@parametrize_with_checks(
    [TableClassifier(**SETTINGS), TableRegressor(**SETTINGS)],
    expected_failed_checks=lambda estimator: OF_CLASSIFIERS if isinstance(estimator, TextClassifier) else NOT_RUN,
)
@pytest.mark.filterwarnings("default")
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("estimator", [TextClassifier(), TextRegressor(), ImageClassifier()], ids=lambda one: type(one).__name__)
def test_the_tags_say_that_tables_of_numbers_are_not_read(estimator: Any) -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        results = check_estimator(estimator)
    assert [one["check_name"] for one in results] == ["check_estimator_cloneable"]
    assert {one["status"] for one in results} == {"passed"}
