"""Answers in classes: what classifiers of texts and of images share."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.labels import label_name
from nlpbp.estimators.base import Array, Estimator
from nlpbp.estimators.targets import Target, indicator_of, read_labels
from nlpbp.inference import predict
from nlpbp.inference.trained import Classifier

CLASSIFIERS = {"text": "TextClassifier", "image": "ImageClassifier"}  # by the kind of examples


class LabelEstimator(ClassifierMixin, Estimator):
    """An estimator that answers with classes. `classes_` [k] are those of y, in its types, sorted."""

    classes_: Array

    def predict(self, X: Any) -> Array:
        """Return the class of each row of X, [n], in the type it had in y; of several labels zeros and ones, int [n, k].

        The answers are those of `nlpbp predict`. Raises `NotFittedError` before `fit`, `DataError` for what the model cannot read.
        """
        classifier, examples, outputs = self._outputs(X)
        made = predict.predictions(classifier, examples, outputs)["prediction"]
        names = [label_name(one) for one in self.classes_.tolist()]
        if classifier.fields.task == "multi_label":
            return indicator_of(made, names)
        position = {name: index for index, name in enumerate(names)}
        answers: Array = self.classes_[[position[name] for name in made]]
        return answers

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, float32 [n, k], in the order of `classes_`; of several labels that each holds.

        Raises as `predict` does.
        """
        classifier, _, outputs = self._outputs(X)
        column = {name: index for index, name in enumerate(classifier.fields.labels)}
        probabilities = np.zeros((len(outputs), len(self.classes_)), dtype=outputs.dtype)
        for index, one in enumerate(self.classes_.tolist()):
            if (name := label_name(one)) in column:  # a label that no example has is not one of the model's
                probabilities[:, index] = outputs[:, column[name]]
        return probabilities

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows of X whose answer is y: accuracy, of several labels that of all of them together.

        Raises as `predict` does, and `DataError` for labels that are missing.
        """
        answers = self.predict(X)
        if answers.ndim == 1:
            return float(accuracy_score(y, answers, sample_weight=sample_weight))
        names = [label_name(one) for one in self.classes_.tolist()]
        target = read_labels(y, task="multi_label")
        if target.classes is None:
            raise DataError("y: text, and several labels a row are wanted", hint="give lists of labels, or zeros and ones [n, k]")
        rows = [[label_name(label) for label in cell] for cell in target.cells]
        known, unknown = indicator_of(rows, names), np.array([bool(set(row) - set(names)) for row in rows])
        return float(np.average((known == answers).all(axis=1) & ~unknown, weights=sample_weight))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _read_target(self, y: Any, task: str, argument: str) -> Target:
        target = read_labels(y, task=task, argument=argument)
        if argument == "y" and target.classes is not None and len(target.classes) < 2 and target.task != "multi_label":
            found = f"{target.classes.tolist()[0]!r:.40}" if len(target.classes) else "none"
            raise DataError(f"y: one class, {found}, so there is nothing to learn", hint="add rows of another class")
        return target

    def _know_classes(self, classes: Array | None) -> None:
        self.classes_ = np.array(self._labels()) if classes is None else classes

    @classmethod
    def _refuse(cls, classifier: Classifier, folder: str) -> None:
        if classifier.fields.task == "regression":
            raise ConfigError(f"{folder} answers with numbers", hint="load it with TextRegressor")
        kind = classifier.reader.kind
        if kind != cls._kind:
            raise ConfigError(f"{folder} reads {kind}s", hint=who_loads(kind))


def who_loads(kind: str) -> str:
    """Say which estimator loads a classifier of this kind of examples.

    >>> who_loads("image"), who_loads("audio")
    ('load it with ImageClassifier', 'use nlpbp predict')
    """
    return f"load it with {CLASSIFIERS[kind]}" if kind in CLASSIFIERS else "use nlpbp predict"
