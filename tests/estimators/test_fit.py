"""What fit trains is what the recipe trains, whatever the texts and labels come in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.metrics import accuracy_score, r2_score

from nlpbp import TextClassifier, TextRegressor
from nlpbp import config as sections
from nlpbp.data.readers import read_table
from nlpbp.estimators.inputs import text_columns
from nlpbp.estimators.targets import read_labels, read_numbers
from nlpbp.inference.predict import predict_outputs, predictions, read_texts
from nlpbp.inference.trained import load_run
from nlpbp.train.setup import start
from recipes import gru_classifier, transformer_sentiment

TEXTS = ["so good", "so bad"]
Reviews = tuple[list[str], list[str]]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


# --- the same as the recipe ---


@pytest.mark.parametrize("with_validation", [False, True])
def test_the_weights_are_those_of_the_recipe(reviews: Reviews, tiny: dict[str, Any], tmp_path: Path, with_validation: bool) -> None:
    texts, labels = reviews
    parts: dict[str, Any] = {"train": {"text": texts[:60], "label": labels[:60]}}
    if with_validation:
        parts["validation"] = {"text": texts[60:], "label": labels[60:]}
    config = transformer_sentiment.Config(
        data=sections.Data(**parts, max_length=32, test_share=0.0),
        model=transformer_sentiment.Model(name="tiny:bert"),
        optim=sections.Optim(lr=0.01, layer_decay=1.0),
        batch=sections.Batch(size=8),
        epochs=4,
        seed=7,
        threads=1,
        out=str(tmp_path / "run"),
    )
    result = transformer_sentiment.run(config)
    held_out = (texts[60:], labels[60:]) if with_validation else (None, None)
    estimator = TextClassifier(**tiny, random_state=7).fit(texts[:60], labels[:60], *held_out)
    assert weights(estimator.run_.path) == weights(result.out)
    another = TextClassifier(**tiny, random_state=8).fit(texts[:60], labels[:60], *held_out)
    assert weights(another.run_.path) != weights(result.out)


def test_a_whole_config_is_taken_as_it_is(reviews: Reviews, tmp_path: Path) -> None:
    config = dataclasses.replace(gru_classifier.tiny(), threads=1)
    data: Any = {"text": reviews[0], "label": reviews[1]}
    plain = dataclasses.replace(config, out=str(tmp_path / "run"), data=dataclasses.replace(config.data, train=data))
    result = gru_classifier.run(plain)
    estimator = TextClassifier(config=config, verbose=False).fit(*reviews)
    assert weights(estimator.run_.path) == weights(result.out)
    assert set(estimator.run_.result()["metrics"]) == {"validation", "test"}
    assert config == dataclasses.replace(gru_classifier.tiny(), threads=1)


def test_no_row_is_kept_for_a_test_unless_it_is_asked_for(fitted: TextClassifier, reviews: Reviews, tiny: dict[str, Any]) -> None:
    assert fitted.run_.result()["data"]["examples"] == {"train": 108, "validation": 12}
    asked = tiny | {"epochs": 1, "config": {"threads": 1, "data.test_share": 0.2}}
    assert TextClassifier(**asked).fit(*reviews).run_.result()["data"]["examples"]["test"] == 24


def test_answers_are_those_of_predict(fitted: TextClassifier, reviews: Reviews) -> None:
    accelerator = start(seed=0, precision="fp32", threads=1)
    classifier = load_run(fitted.run_.path, accelerator=accelerator)
    examples = read_texts(classifier, read_table({"text": reviews[0]}))
    outputs = predict_outputs(classifier, examples, accelerator=accelerator)
    assert fitted.predict(reviews[0]).tolist() == predictions(classifier, examples, outputs)["prediction"]
    assert np.array_equal(fitted.predict_proba(reviews[0]), outputs)
    assert fitted.score(*reviews) == accuracy_score(reviews[1], fitted.predict(reviews[0])) > 0.9


def test_random_numbers_and_threads_are_the_callers(reviews: Reviews, tiny: dict[str, Any]) -> None:
    import random

    import torch

    def drawn() -> list[float]:
        return [random.random(), np.random.rand(), torch.rand(1).item(), torch.get_num_threads()]

    def seeded() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seeded()
    expected = drawn()
    seeded()
    TextClassifier(**tiny).fit(*reviews).predict(TEXTS)
    assert drawn() == expected


# --- texts ---


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS)[:, None],
        pd.Series(TEXTS),
        pd.Series(TEXTS, index=[7, 7], name="text", dtype="category"),
        pd.DataFrame({"text": TEXTS}),
        pl.Series(TEXTS),
        pl.DataFrame({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
        datasets.Dataset.from_dict({"text": TEXTS}),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS]),
        pa.table({"text": TEXTS}),
        {"text": TEXTS},
    ],
    ids=lambda texts: f"{type(texts).__module__.split('.')[0]}.{type(texts).__name__}",
)
def test_texts_come_in_many_containers(texts: Any, fitted: TextClassifier) -> None:
    assert text_columns(texts) == {"text": TEXTS}
    assert np.array_equal(fitted.predict_proba(texts), fitted.predict_proba(TEXTS))


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "b"), ("c", "d")],
        np.array([["a", "b"], ["c", "d"]], dtype=object),
        pd.DataFrame({"text_a": ["a", "c"], "text_b": ["b", "d"]}),
        pl.DataFrame({"text_a": ["a", "c"], "text_b": ["b", "d"]}),
    ],
    ids=lambda pairs: type(pairs).__module__,
)
def test_pairs_are_two_columns(pairs: Any) -> None:
    assert text_columns(pairs) == {"text_a": ["a", "c"], "text_b": ["b", "d"]}


def test_names_of_columns_are_kept_and_found_again(reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, labels = reviews
    frame = pd.DataFrame({"claim": texts, "proof": texts[::-1]})
    estimator = TextClassifier(**tiny).fit(frame, pd.Series(labels, name="holds"))
    data = estimator.run_.result()["data"]
    assert (data["text"], data["label"]) == (["claim", "proof"], "holds")
    expected = estimator.predict_proba(frame)
    assert np.array_equal(estimator.predict_proba(frame[["proof", "claim"]].assign(more=1)), expected)
    assert np.array_equal(estimator.predict_proba(list(zip(texts, texts[::-1], strict=True))), expected)
    assert not np.array_equal(estimator.predict_proba(pl.DataFrame({"claim": texts[::-1], "proof": texts})), expected)


def test_columns_beside_the_text_cut_the_data(reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, labels = reviews
    frame = pd.DataFrame({"review": texts, "author": [index // 4 for index in range(len(texts))]})
    asked = tiny | {"epochs": 1, "config": {"threads": 1, "data.group": "author"}}
    assert TextClassifier(**asked).fit(frame, labels).run_.result()["data"]["text"] == ["review"]


def test_several_columns_make_one_text(reviews: Reviews, tiny: dict[str, Any]) -> None:
    frame = pd.DataFrame({"body": reviews[0], "price": range(len(reviews[0])), "more": "x"})
    asked = tiny | {"epochs": 1, "config": {"threads": 1, "data.fields": ("body", "price")}}
    estimator = TextClassifier(**asked).fit(frame, reviews[1])
    assert estimator.predict(frame[["price", "body"]]).tolist() == estimator.predict(frame).tolist()


# --- labels ---


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], np.array(["a", "b"])),
        ([10, 9, 10], np.array([9, 10])),
        (["10", "9", "10"], np.array(["10", "9"])),
        ([True, False, True], np.array([False, True])),
        (np.array([3, 1, 3], dtype=np.int8), np.array([1, 3], dtype=np.int8)),
        (np.array([2.0, 1.0, 2.0]), np.array([1.0, 2.0])),
        (np.array(["b", "a", "b"], dtype=object), np.array(["a", "b"])),
        (pd.Series(["b", "a", "b"], dtype="category"), np.array(["a", "b"])),
        (pd.Series([1, 0, 1], dtype="Int64"), np.array([0, 1])),
        (pl.Series(["b", "a", "b"]), np.array(["a", "b"])),
        (datasets.Dataset.from_dict({"y": [1, 0, 1]})["y"], np.array([0, 1])),
        (pa.array([1, 0, 1]), np.array([0, 1])),
        (pd.DataFrame({"y": [1, 0, 1]}), np.array([0, 1])),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:A column-vector y")
def test_labels_keep_their_type_and_are_sorted(labels: Any, classes: np.ndarray) -> None:
    target = read_labels(labels)
    assert target.task == "single_label"
    assert target.classes is not None
    assert (target.classes.tolist(), target.classes.dtype.kind) == (classes.tolist(), classes.dtype.kind)
    assert [type(cell) for cell in target.cells] == [type(target.cells[0])] * 3


@pytest.mark.parametrize("values", [(10, 9), (True, False), ("10", "9"), (1.0, 2.0)], ids=str)
def test_answers_have_the_type_of_the_labels(values: tuple[Any, Any], reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, names = reviews
    labels = np.array([values[name == "pos"] for name in names])
    estimator = TextClassifier(**tiny).fit(texts, labels)
    answers = estimator.predict(texts)
    assert estimator.classes_.tolist() == sorted(values)
    assert answers.dtype == labels.dtype
    assert np.mean(answers == labels) > 0.9
    chosen = estimator.classes_[estimator.predict_proba(texts).argmax(axis=1)]
    assert chosen.tolist() == answers.tolist()


TAGS = [["new"], [], ["new", "old"], ["old"]]
MATRIX = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (TAGS, ["new", "old"]),
        ([set(one) for one in TAGS], ["new", "old"]),
        (pl.Series(TAGS), ["new", "old"]),
        (pa.array(TAGS), ["new", "old"]),
        (MATRIX, [0, 1]),
        (MATRIX.astype(bool), [0, 1]),
        (MATRIX.tolist(), [0, 1]),
        (sparse.csr_matrix(MATRIX), [0, 1]),
        (pd.DataFrame(MATRIX, columns=["new", "old"]), ["new", "old"]),
        (pl.DataFrame(MATRIX, schema=["new", "old"]), ["new", "old"]),
    ],
    ids=lambda y: type(y).__module__,
)
def test_several_labels_come_as_lists_or_as_an_indicator_matrix(y: Any, classes: list[Any]) -> None:
    target = read_labels(y)
    assert target.task == "multi_label"
    assert target.classes is not None and target.classes.tolist() == classes
    assert [sorted(cell) for cell in target.cells] == [[str(name) for name in one] for one in named(classes)]


def named(classes: list[Any]) -> list[list[Any]]:
    return [[classes[column] for column in np.flatnonzero(row)] for row in MATRIX]


def test_several_labels_are_answered_with_an_indicator_matrix(reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, names = reviews
    tags = [["pos", "seen"] if name == "pos" else [] for name in names]
    by_lists = TextClassifier(**tiny).fit(texts, tags)
    assert by_lists.classes_.tolist() == ["pos", "seen"]
    matrix = np.array([[int(name == "pos"), 0, int(name == "pos")] for name in names])
    estimator = TextClassifier(**tiny).fit(texts, matrix)
    answers, probabilities = estimator.predict(texts), estimator.predict_proba(texts)
    assert answers.shape == probabilities.shape == (120, 3)
    assert estimator.score(texts, matrix) == accuracy_score(matrix, answers) > 0.9
    assert not probabilities[:, 1].any(), "no example has this label"
    assert np.array_equal(by_lists.predict(texts), answers[:, [0, 2]])
    assert by_lists.score(texts, tags) == estimator.score(texts, matrix)
    assert by_lists.score(texts, [[*tag, "unknown"] for tag in tags]) == 0.0


def test_labels_in_one_text_are_told_apart_by_the_recipe(reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, names = reviews
    asked = tiny | {"epochs": 1, "config": {"threads": 1, "data.task": "multi_label"}}
    estimator = TextClassifier(**asked).fit(texts, ["pos|seen" if name == "pos" else "neg|seen" for name in names])
    assert estimator.classes_.tolist() == ["neg", "pos", "seen"]


# --- numbers ---


@pytest.mark.parametrize(
    "numbers",
    [[1, 2.5], np.array([1, 2.5], dtype=np.float32), pd.Series([1, 2.5]), pl.Series([1.0, 2.5]), pa.array([1, 2.5])],
    ids=lambda numbers: type(numbers).__module__,
)
def test_numbers_come_in_many_containers(numbers: Any) -> None:
    assert read_numbers(numbers).cells == [1.0, 2.5]


def test_numbers_are_predicted(reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, names = reviews
    numbers = [8 if name == "pos" else 3 for name in names]  # whole ones, which are classes elsewhere
    estimator = TextRegressor(**(tiny | {"epochs": 8})).fit(texts, numbers)
    answers = estimator.predict(texts)
    assert (answers.shape, answers.dtype) == ((120,), np.float64)
    assert estimator.score(texts, numbers) == r2_score(numbers, answers) > 0.8
    assert not hasattr(estimator, "predict_proba")
