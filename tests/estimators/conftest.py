"""Texts that a net of a few thousand weights learns in a second, and estimators that have learned them."""

from __future__ import annotations

from typing import Any

import pytest

from nlpbp import TextClassifier
from nlpbp.data.tiny import tiny_reviews

TINY: dict[str, Any] = {
    "model": "tiny:bert",
    "epochs": 4,
    "lr": 0.01,
    "batch_size": 8,
    "max_length": 32,
    "config": {"threads": 1, "optim.layer_decay": 1.0},
    "verbose": False,
}


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    return TINY


@pytest.fixture(scope="session")
def reviews() -> tuple[list[str], list[str]]:
    columns = tiny_reviews(num_examples=120).columns
    return columns["text"], columns["label"]


@pytest.fixture(scope="session")
def fitted(reviews: tuple[list[str], list[str]]) -> TextClassifier:
    return TextClassifier(**TINY).fit(*reviews)
