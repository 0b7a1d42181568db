"""Texts: `TextClassifier` for labels, `TextRegressor` for numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import Tags

from nlpbp.config.data import Data
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Examples
from nlpbp.data.readers import read_table
from nlpbp.estimators.base import Array, Estimator, as_named
from nlpbp.estimators.classify import LabelEstimator, who_loads
from nlpbp.estimators.inputs import Columns, text_columns
from nlpbp.estimators.targets import Target, read_numbers
from nlpbp.inference import predict
from nlpbp.inference.trained import Classifier


class TextEstimator(Estimator):
    """What estimators of texts share. X is a list, array, series or column of texts [n], pairs [n, 2], or a frame of columns."""

    _kind = "text"
    _recipe = "transformer_sentiment"
    _source = Data

    def __init__(
        self,
        recipe: str | None = None,
        *,
        model: str | None = None,
        epochs: int | None = None,
        lr: float | str | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        config: Any = None,
        verbose: bool = True,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.max_length = max_length
        self.random_state = random_state
        self.config = config
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        return tags

    def _columns(self, X: Any, argument: str, names: tuple[str, ...]) -> Columns:
        return text_columns(X, argument=argument, names=names)

    def _data(self, data: Any, columns: Columns, label: str) -> Any:
        beside = {data.group, data.time, *data.slices}
        texts = [name for name in columns if name not in beside]
        if data.fields or (data.text and set(data.text) <= set(columns)):
            return data
        if len(texts) not in (1, 2):
            hint = "name them with config={'data.text': ('title',)}, or what makes one text together with 'data.fields'"
            raise DataError(f"X: {len(texts)} columns may hold the text", excerpt=", ".join(texts), hint=hint)
        return dataclasses.replace(data, text=tuple(texts))

    def _examples(self, classifier: Classifier, X: Any) -> Examples:
        names = classifier.fields.text
        columns = text_columns(X, names=names)
        columns = as_named(columns, names, "X") if names else columns
        table = dataclasses.replace(read_table(columns), name="X")
        return predict.read_texts(classifier, table, text=() if names else tuple(columns))


class TextClassifier(TextEstimator, LabelEstimator):
    """A classifier of texts, trained by a recipe: by default a pretrained transformer is fine-tuned.

    Arguments left out are the recipe's own defaults; `fit` checks them.

    - recipe: transformer_sentiment, fewshot, ulmfit, gru_classifier or transformers_trainer.
    - model: a hub id, a folder, or `demo:minilm`. epochs: passes over the data. lr: the base rate, or "auto".
    - batch_size: texts a step. max_length: tokens a text at most. random_state: the seed; an int gives the same weights again.
    - config: more settings by their names, {"threads": 1, "data.task": "multi_label", "out": "runs/mine"}; or a recipe's whole
      `Config`, which is then taken as it is but for the data, its test set included. What is given beside it wins.
    - verbose: print what the run prints.

    X: texts [n], pairs of texts [n, 2], or a frame. y: labels [n]; lists of labels [n], or zeros and ones [n, k], for several.
    The weights are those of the recipe's `run` with the same settings and data.

    >>> from nlpbp import TextClassifier
    >>> texts, labels = [f"{word} no {n}" for n in range(20) for word in ("moving", "dull")], ["pos", "neg"] * 20
    >>> settings = {"model": "tiny:bert", "epochs": 4, "lr": 0.01, "batch_size": 4, "max_length": 32, "verbose": False}
    >>> classifier = TextClassifier(**settings, random_state=0)
    >>> classifier.fit(texts, labels).predict(["dull", "moving"]).tolist()
    ['neg', 'pos']
    >>> classifier.predict_proba(["moving"]).shape, classifier.classes_.tolist()
    ((1, 2), ['neg', 'pos'])
    """


class TextRegressor(RegressorMixin, TextEstimator):
    """A model of texts that answers with a number each; the arguments and X are those of `TextClassifier`, y is numbers [n].

    >>> texts, numbers = [f"{word} no {n}" for n in range(20) for word in ("moving", "dull")], [1.5, -1.5] * 20
    >>> settings = {"model": "tiny:bert", "epochs": 4, "lr": 0.01, "batch_size": 4, "max_length": 32, "verbose": False}
    >>> regressor = TextRegressor(**settings).fit(texts, numbers)
    >>> regressor.predict(["moving"]) > regressor.predict(["dull"])
    array([ True])
    """

    def predict(self, X: Any) -> Array:
        """Return a number for each row of X, float64 [n].

        Raises `NotFittedError` before `fit`, `DataError` for what the model cannot read.
        """
        _, _, outputs = self._outputs(X)
        return outputs.astype(np.float64)

    def _read_target(self, y: Any, task: str, argument: str) -> Target:
        target = read_numbers(y, task=task, argument=argument)
        if argument == "y" and len(set(target.cells)) < 2:
            found = "one sample" if len(target.cells) == 1 else "the same number everywhere"
            raise DataError(f"y: {found}, so there is nothing to learn", hint="add rows of another number")
        return target

    @classmethod
    def _refuse(cls, classifier: Classifier, folder: str) -> None:
        if classifier.fields.task != "regression":
            raise ConfigError(f"{folder} answers with classes", hint=who_loads(classifier.reader.kind))
