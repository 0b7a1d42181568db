"""What cannot be trained on or answered for is told by the name of the argument, with the fix."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

import nlpbp
from nlpbp import ImageClassifier, TextClassifier, TextRegressor
from nlpbp.config.data import Data
from nlpbp.config.optim import Stage
from nlpbp.core.errors import ConfigError, DataError, NlpbpError
from nlpbp.estimators import base
from nlpbp.estimators.settings import recipe_and_config
from nlpbp.train.signals import Stopped
from recipes import gru_classifier, image_classifier, transformer_sentiment

TEXTS, LABELS = ["so good", "so bad"], ["pos", "neg"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"recipe": "transformer_sentimant"},
            "recipe: there is no recipe 'transformer_sentimant'. Fix: did you mean 'transformer_s",
        ),
        ({"recipe": "lm_transformer"}, "recipe: lm_transformer is not trained on labelled texts. Fix: "),
        ({"recipe": "image_classifier"}, "recipe: image_classifier is not trained on labelled texts"),
        ({"recipe": "ulmfit", "config": gru_classifier.Config()}, "recipe: ulmfit, and config is one of gru_classifier"),
        ({"config": image_classifier.Config()}, "recipe: image_classifier is not trained on labelled texts"),
        ({"config": Stage()}, "config: Stage is no recipe's Config"),
        ({"config": 3}, "config: a int is no config. Fix: give a dict"),
        ({"config": {"optim.lrr": 1}}, "config: there is no setting optim.lrr .*did you mean optim.lr"),
        ({"config": {"batch.size.x": 1}}, "config: there is no setting batch.size.x"),
        ({"config": {"report.texts": "some"}}, "config: report.texts must be one of held_out, all, none, found 'some'"),
        ({"config": {"threads": 0}}, "config={'threads': ...}: 0 is out of range. Fix: give a number 1 or more"),
        (
            {"recipe": "gru_classifier", "epochs": 3},
            "epochs: the recipe gru_classifier has no setting epochs. Fix: it trains in stages",
        ),
        ({"recipe": "ulmfit", "model": "x"}, "model: the recipe ulmfit has no setting model.name. Fix: leave model out"),
        ({"epochs": "3"}, r"epochs: epochs must be int \(found: ''3''\). Fix: give int"),
        ({"epochs": 0}, "epochs: 0 is out of range. Fix: give a number 1 or more"),
        ({"lr": -1.0}, "lr: -1.0 is out of range"),
        ({"random_state": -1}, "random_state: -1 is out of range"),
        ({"model": "tiny:bert", "verbose": False}, "max_length: 256 tokens are asked for, and the model reads 64"),
        ({"config": {"data.train": "a.csv"}}, "config: data.train is what fit gets as X, y, X_val and y_val"),
        ({"config": {"data.label_order": [1, 2]}}, "config: data.label_order must be str, not a number, .*put it in quotes: '1'"),
        ({"config": {"data.task": "regression"}}, "config: data.task is regression. Fix: take TextRegressor"),
    ],
    ids=str,
)
def test_settings_are_checked_in_fit(settings: dict[str, Any], said: str) -> None:
    texts = [f"{word} {number}" for number in range(20) for word in TEXTS]
    with pytest.raises(ConfigError, match=said.replace("{", r"\{").replace("}", r"\}")):
        TextClassifier(**settings).fit(texts, LABELS * 20)


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (["a", "b", "c"], ["x", "y"], "X has 3 rows and y has 2. Fix: give one label for each row"),
        ("a", ["x"], "X: one str, and not a list of texts"),
        (3, ["x"], "X: one int, and not a list of texts"),
        ([], [], "X: there are no texts"),
        (np.zeros((2, 5)), LABELS, r"X: numbers of shape \(2, 5\), and texts are wanted"),
        ([("a", "b", "c")] * 2, LABELS, "X: rows are one text each, or two for a pair"),
        ([("a", "b"), "c"], LABELS, "X: rows are one text each, or two for a pair"),
        (pd.DataFrame([["a", "b", "c"]] * 2), LABELS, "X: 3 columns may hold the text .*data.text"),
        ({"a": ["x", "y"], "b": ["x"]}, LABELS, "X: columns differ in length: a 2, b 1"),
        (["a", None], LABELS, "X and y, row 2, column 'text': the text is missing"),
        (TEXTS, None, "requires y to be passed, but the target y is None"),
        (TEXTS, ["x", None], "y: the label is missing"),
        (TEXTS, [1, pd.NA], "y: the label is missing"),
        (TEXTS, ["x", 1], "y: labels of several types: str .'x'. and number .1."),
        (TEXTS, ["x", "x"], "y: one class, 'x', so there is nothing to learn"),
        (TEXTS, [["x"], "y"], "y: one label among lists of labels"),
        (TEXTS, pd.DataFrame({"a": [1, 2], "b": [0, 1]}), "y: a table of shape .2, 2. that is not of zeros and ones"),
    ],
    ids=str,
)
def test_data_are_checked_in_fit(X: Any, y: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        TextClassifier(model="tiny:bert", max_length=32, verbose=False).fit(X, y)


def test_scikit_learns_words_for_numbers_that_are_no_labels() -> None:
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        TextClassifier().fit(TEXTS, [0.5, 1.5])
    with pytest.raises(ValueError, match="Input y contains NaN"):
        TextRegressor().fit(TEXTS, [0.5, np.nan])
    with pytest.raises(DataError, match="y: not all are numbers to predict"):
        TextRegressor().fit(TEXTS, ["a", "b"])
    with pytest.raises(DataError, match="y: the same number everywhere"):
        TextRegressor().fit(TEXTS, [1, 1])
    with pytest.raises(ConfigError, match=r"data.task is multi_label. Fix: take TextClassifier"):
        TextRegressor(config={"data.task": "multi_label"}).fit(TEXTS, [1, 2])


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ((TEXTS, None), "y_val is missing. Fix: give both"),
        ((None, LABELS), "X_val is missing. Fix: give both"),
        ((TEXTS, ["pos"]), "X_val has 2 rows and y_val has 1"),
        (([("a", "b")] * 2, LABELS), "X_val: 2 columns, and the model was trained on 1"),
        ((["a", "b"], ["pos", "other"]), "X and y, or X_val and y_val, row 2, .*the training data have no label 'other'"),
    ],
    ids=str,
)
def test_validation_data_are_checked(validation: Any, said: str) -> None:
    texts = [f"{word} {number}" for number in range(20) for word in TEXTS]
    with pytest.raises(DataError, match=said):
        TextClassifier(model="tiny:bert", max_length=32, verbose=False).fit(texts, LABELS * 20, *validation)


@pytest.mark.parametrize("estimator", [TextClassifier(), TextRegressor(), ImageClassifier()], ids=lambda one: type(one).__name__)
def test_nothing_is_answered_before_fit(estimator: Any, tmp_path: Path) -> None:
    for ask in (lambda: estimator.predict(TEXTS), lambda: estimator.save(tmp_path / "a"), estimator.report):
        with pytest.raises(NotFittedError):
            ask()


def test_new_texts_must_be_of_the_kind_of_training(fitted: TextClassifier) -> None:
    with pytest.raises(DataError, match=r"X: 2 columns, and the model was trained on 1.*give text"):
        fitted.predict([("a", "b")])
    with pytest.raises(DataError, match="X, row 2, column 'text': the text is missing"):
        fitted.predict(["a", None])
    with pytest.raises(DataError, match="X: there are no texts"):
        fitted.predict([])


def test_an_error_leaves_no_folder_and_what_was_fitted_before(
    fitted: TextClassifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    estimator, expected = copy.deepcopy(fitted).set_params(max_length=256), fitted.predict_proba(TEXTS)
    with pytest.raises(NlpbpError, match="max_length"):
        estimator.fit([f"{word} {number}" for number in range(20) for word in TEXTS], LABELS * 20)
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(estimator.predict_proba(TEXTS), expected)


@pytest.mark.parametrize(("code", "raised"), [(130, KeyboardInterrupt), (75, SystemExit), (0, Stopped)])
def test_an_interrupted_run_interrupts_what_called_it(
    code: int, raised: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(config: Any) -> None:
        raise Stopped("asked to stop", code=code)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(transformer_sentiment, "run", run)
    with pytest.raises(raised):
        base.trained("transformer_sentiment", transformer_sentiment.tiny(), verbose=True)
    assert list(tmp_path.iterdir()) == []


def test_settings_become_a_config() -> None:
    given = {"epochs": np.int64(2), "lr": np.float64(0.1), "config": {"stages": [{"epochs": 1, "train_last": 1}]}}
    name, config = recipe_and_config(given, default="transformer_sentiment", source=Data)
    assert (name, config.epochs, config.optim.lr, config.stages) == (
        "transformer_sentiment",
        2,
        0.1,
        (Stage(epochs=1, train_last=1),),
    )
    assert type(config.epochs) is int
    drawn = [
        recipe_and_config({"random_state": state}, default="ulmfit", source=Data)[1].seed
        for state in [np.random.RandomState(0)] * 2
    ]
    assert drawn[0] != drawn[1]


def test_the_top_package_names_its_estimators() -> None:
    assert {"TextClassifier", "TextRegressor", "ImageClassifier", "__version__"} <= set(dir(nlpbp))
    with pytest.raises(AttributeError, match="has no attribute 'TextClasifier'"):
        nlpbp.TextClasifier  # noqa: B018
