"""Long texts are read by their beginning, their end, both or in windows, as the model that is saved then does (practice D6)."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import pipeline

from nlpbp.config.data import Data
from nlpbp.config.optim import Stage
from nlpbp.core.errors import ConfigError
from nlpbp.data.columns import Examples
from nlpbp.inference.predict import predict_outputs
from nlpbp.inference.trained import load_run
from nlpbp.train.setup import start
from recipes import gru_classifier

FILLER = ["the", "film", "was", "on", "in", "old", "town", "when", "we", "came", "by", "and", "stood", "there", "for", "while"]


def rows(num, *, seed):
    """Texts of 40 words whose label is said in the last three alone."""
    rng = random.Random(seed)
    for index in range(num):
        label = ("bad", "good")[index % 2]
        yield {"text": " ".join([*rng.choices(FILLER, k=37), "so", label, "then"]), "label": label}


def train(out, **data):
    config = dataclasses.replace(
        gru_classifier.tiny(),
        data=Data(train=list(rows(160, seed=1)), test=list(rows(60, seed=2)), max_length=16, **data),
        stages=(Stage(epochs=6, lr=3e-2),),
        out=str(out),
        threads=1,
        precision="fp32",
    )
    return gru_classifier.run(config)


@pytest.mark.parametrize(("cut", "learns"), [("head", False), ("tail", True), ("head_tail", True), ("windows", True)])
def test_the_end_of_a_text_is_learned_where_it_is_read(cut, learns, tmp_path):
    result = train(tmp_path / "run", truncation=cut)
    assert (result.metrics["test"]["accuracy"] > 0.9) == learns
    classifier = load_run(tmp_path / "run", accelerator=start(seed=0))
    reads = pipeline("text-classification", model=str(tmp_path / "run" / "model"), top_k=None)
    texts = [row["text"] for row in rows(60, seed=2)]
    outputs = predict_outputs(classifier, Examples("", texts, None, None, []), accelerator=start(seed=0))
    written = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    assert np.allclose(outputs[:, 1], written["probability_good"], atol=1e-6)
    if cut in ("head", "tail"):  # the other two cannot be said in a tokenizer's files
        scores = [{one["label"]: one["score"] for one in answer}["good"] for answer in reads(texts, truncation=True)]
        assert np.allclose(outputs[:, 1], scores, atol=1e-5)


def test_windows_are_drawn_by_the_class_of_their_text(tmp_path):
    result = train(tmp_path / "run", truncation="windows", balanced_sampling=True)
    assert result.metrics["test"]["accuracy"] > 0.9


def test_windows_have_no_other_wording(tmp_path):
    with pytest.raises(ConfigError, match="windows cannot be combined"):
        config = dataclasses.replace(gru_classifier.tiny(), out=str(tmp_path / "run"))
        data = dataclasses.replace(config.data, truncation="windows")
        gru_classifier.run(dataclasses.replace(config, data=data, augment=dataclasses.replace(config.augment, policy="topic")))


def test_a_pair_has_no_windows(tmp_path):
    pairs = [{"premise": row["text"], "hypothesis": "so it was", "label": row["label"]} for row in rows(60, seed=1)]
    config = dataclasses.replace(gru_classifier.tiny(), data=Data(train=pairs, truncation="windows"), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a pair of texts has no windows"):
        gru_classifier.run(config)
