"""scikit-learn estimators: the recipes as `fit` and `predict`, for pipelines, cross-validation and grid searches."""

from nlpbp.estimators.image import ImageClassifier
from nlpbp.estimators.text import TextClassifier, TextRegressor

__all__ = ["ImageClassifier", "TextClassifier", "TextRegressor"]
