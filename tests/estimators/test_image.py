"""Images come as arrays, Pillow images and paths, and are answered alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from nlpbp import ImageClassifier
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.tiny import tiny_shapes
from recipes import image_classifier, image_transfer

SMALL = {"model.widths": (4, 8), "model.num_blocks": 1, "augment.preset": "none", "threads": 1}
TINY: dict[str, Any] = {"epochs": 4, "lr": 0.01, "batch_size": 16, "config": SMALL, "verbose": False}


@pytest.fixture(scope="module")
def shapes() -> tuple[np.ndarray, list[str]]:
    found = tiny_shapes(num_examples=120)
    return found["image"], found["label"]


@pytest.fixture(scope="module")
def fitted(shapes: tuple[np.ndarray, list[str]]) -> ImageClassifier:
    return ImageClassifier(**TINY).fit(*shapes)


def test_the_weights_are_those_of_the_recipe(shapes: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(image_classifier.tiny(), threads=1)
    data: Any = dataclasses.replace(config.data, train={"image": shapes[0], "label": shapes[1]})
    result = image_classifier.run(dataclasses.replace(config, data=data, out=str(tmp_path / "run")))
    estimator = ImageClassifier(config=config, verbose=False).fit(*shapes)
    files = [folder / "model" / "model.safetensors" for folder in (result.out, estimator.run_.path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_arrays_pictures_and_paths_are_answered_alike(fitted: ImageClassifier, shapes: Any, tmp_path: Path) -> None:
    images = shapes[0][:6]
    expected = fitted.predict_proba(images)
    pictures = [Image.fromarray(image) for image in images]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    forms = [images[..., None], images / 255.0, list(images), pictures, paths, list(map(str, paths)), pd.Series(paths)]
    for form in [*forms, pd.DataFrame({"file": list(map(str, paths))})]:
        assert np.allclose(fitted.predict_proba(form), expected, atol=1e-6)
    assert fitted.score(*shapes) > 0.9
    assert fitted.run_.result()["data"]["examples"] == {"train": 108, "validation": 12}


def test_a_saved_one_is_loaded_and_a_transfer_starts_from_it(fitted: ImageClassifier, shapes: Any, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "saved")
    assert ImageClassifier.load(folder).predict(shapes[0]).tolist() == fitted.predict(shapes[0]).tolist()
    settings = TINY | {"epochs": 1, "config": {"threads": 1, "augment.preset": "none"}}
    transfer = ImageClassifier("image_transfer", model=str(folder), **settings)
    held_out = (shapes[0][:20], shapes[1][:20])
    assert transfer.fit(shapes[0][20:], shapes[1][20:], *held_out).classes_.tolist() == fitted.classes_.tolist()
    assert clone(transfer).get_params() == transfer.get_params()


@pytest.mark.parametrize(
    ("X", "said"),
    [
        (np.zeros((2, 64)), r"X: an array of shape \(2, 64\) is not of images. Fix: give \[n, h, w\]"),
        ("a.png", "X: one str, and not a list of images"),
        ([], "X: there are no images"),
        (pd.DataFrame({"a": ["x.png"], "b": ["y.png"]}), "X: a frame of 2 columns"),
        (["missing.png", "other.png"], "missing.png"),
    ],
    ids=str,
)
def test_what_is_no_image_is_told(X: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ImageClassifier(verbose=False).fit(X, ["a", "b"])


def test_settings_that_images_do_not_have_are_told() -> None:
    with pytest.raises(ConfigError, match="recipe: ulmfit is not trained on labelled images"):
        ImageClassifier("ulmfit").fit(np.zeros((2, 8, 8)), ["a", "b"])
    with pytest.raises(ConfigError, match=r"model: the recipe image_classifier has no setting model.name"):
        ImageClassifier(model="x").fit(np.zeros((2, 8, 8)), ["a", "b"])
    with pytest.raises(ConfigError, match="image_size: 2 is out of range"):
        ImageClassifier(image_size=2, config=image_transfer.Config()).fit(np.zeros((2, 8, 8)), ["a", "b"])


class TableImages(ImageClassifier):
    """Draws each row of a table of floats as an image of 8 rows alike, so that scikit-learn's checks can feed it."""

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(self.images(validate_data(self, X)), y)

    def _outputs(self, X: Any) -> Any:
        check_is_fitted(self)
        return super()._outputs(self.images(validate_data(self, X, reset=False)))

    def images(self, X: np.ndarray) -> np.ndarray:
        return np.repeat(np.clip(X * 10 + 128, 0, 255).astype(np.uint8)[:, None, :], 8, axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.input_tags.string = True, False, False
        return tags


@parametrize_with_checks([TableImages(**(TINY | {"epochs": 1}))], legacy=False)
@pytest.mark.filterwarnings("default")
def test_scikit_learns_checks_of_what_every_estimator_does(estimator: Any, check: Any) -> None:
    check(estimator)
