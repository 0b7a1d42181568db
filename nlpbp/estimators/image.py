"""Images: `ImageClassifier`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from sklearn.utils import Tags

from nlpbp.config.data import Images
from nlpbp.data.columns import Examples
from nlpbp.estimators.classify import LabelEstimator
from nlpbp.estimators.inputs import Columns, image_column
from nlpbp.inference import predict
from nlpbp.inference.trained import Classifier


class ImageClassifier(LabelEstimator):
    """A classifier of images, trained by a recipe: by default a small residual net from scratch.

    Arguments left out are the recipe's own defaults; `fit` checks them.

    - recipe: image_classifier, or image_transfer for a pretrained one. model: of image_transfer, a hub id or a folder.
    - epochs, lr, batch_size, random_state, config, verbose: as of `TextClassifier`. image_size: pixels a side the net sees.

    X: paths, Pillow images, or arrays [n, h, w] or [n, h, w, c], from 0 to 255 or from 0 to 1. y: labels [n], or several a row.

    >>> from nlpbp.data.tiny import tiny_shapes
    >>> from recipes import image_classifier
    >>> shapes = tiny_shapes(num_examples=120)
    >>> classifier = ImageClassifier(config=image_classifier.tiny(), verbose=False).fit(shapes["image"], shapes["label"])
    >>> classifier.score(shapes["image"], shapes["label"]) > 0.9
    True
    """

    _kind = "image"
    _recipe = "image_classifier"
    _source = Images

    def __init__(
        self,
        recipe: str | None = None,
        *,
        model: str | None = None,
        epochs: int | None = None,
        lr: float | str | None = None,
        batch_size: int | None = None,
        image_size: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        config: Any = None,
        verbose: bool = True,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.image_size = image_size
        self.random_state = random_state
        self.config = config
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def _columns(self, X: Any, argument: str, names: tuple[str, ...]) -> Columns:
        return image_column(X, argument=argument)

    def _data(self, data: Any, columns: Columns, label: str) -> Any:
        return dataclasses.replace(data, image="image")

    def _examples(self, classifier: Classifier, X: Any) -> Examples:
        given: Any = image_column(X)
        table = predict.read_data([classifier], given, column=("image",))
        return predict.read_texts(classifier, dataclasses.replace(table, name="X"))
