"""Training may decide by a sample of the validation set, and a trial take a share of everything; final scores leave out nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nlpbp.config.data import Data, Images, Texts
from nlpbp.core.errors import ConfigError
from nlpbp.data.corpus import load_corpus
from nlpbp.data.parts import Inputs, load_inputs, targets_of
from nlpbp.data.tiny import tiny_reviews
from recipes import transformer_sentiment, transformers_trainer

THREE = [{"text": f"text {i} of some", "label": "abc"[(i % 10 > 5) + (i % 10 > 8)]} for i in range(2000)]  # 6 : 3 : 1
LENGTHS = [{"text": f"text {i} of some", "label": float(i) + 0.5} for i in range(2000)]


def counts(inputs: Inputs) -> list[int]:
    return np.bincount(targets_of(inputs.validation), minlength=3).tolist()


def test_the_sample_by_which_training_decides_is_stratified_and_nested_and_said() -> None:
    small, large, whole = (load_inputs(Data(train=THREE, eval_sample=num)) for num in (50, 100, None))  # type: ignore[arg-type]
    assert counts(small.while_training()) == [30, 15, 5]
    assert counts(large.while_training()) == [60, 30, 10]
    assert small.eval_ids is not None and large.eval_ids is not None
    assert set(small.eval_ids) < set(large.eval_ids)
    assert whole.eval_ids is None and whole.while_training() is whole
    for inputs in (small, large):
        assert (inputs.fingerprint, counts(inputs)) == (whole.fingerprint, [120, 60, 20])
    said = "evaluations during training use a stratified sample of 50 of 200 validation texts; final scores use all"
    assert said in small.notes
    assert not any("sample" in note for note in whole.notes)


def test_a_sample_as_large_as_the_validation_set_is_all_of_it_and_said() -> None:
    inputs = load_inputs(Data(train=THREE, eval_sample=200))  # type: ignore[arg-type]
    assert inputs.eval_ids is None
    assert any("all 200 validation texts" in note for note in inputs.notes)


@pytest.mark.parametrize("rows", [THREE, LENGTHS])
def test_a_fraction_of_everything_is_taken_of_each_part_after_the_split(rows: list[dict[str, Any]]) -> None:
    tenth, half, whole = (load_inputs(Data(train=rows, fraction=share)) for share in (0.1, 0.5, 1.0))  # type: ignore[arg-type]
    for inputs, sizes in ((tenth, [160, 20, 20]), (half, [800, 100, 100]), (whole, [1600, 200, 200])):
        assert [len(part) for part in (inputs.train, *inputs.scored.values())] == pytest.approx(sizes, abs=10)
        for name, part in {"train": inputs.train, **inputs.scored}.items():
            assert inputs.tables[name].columns["text"] == part.examples.texts
    for name in ("validation", "test"):
        one, two, three = (set(inputs.scored[name].examples.texts) for inputs in (tenth, half, whole))
        assert one < two < three
    assert set(tenth.train.ids) < set(half.train.ids) < set(whole.train.ids)
    assert any(note.startswith("split: train ") and "of 1,600" in note and "--data.fraction 0.1" in note for note in tenth.notes)
    if rows is THREE:
        assert counts(tenth) == [12, 6, 2]


def test_a_fraction_is_taken_of_parts_that_are_given_and_a_share_of_training_leaves_them() -> None:
    train, later = THREE[:1000], THREE[1000:]
    given = Data(train=train, validation=later[:500], test=later[500:], fraction=0.1)  # type: ignore[arg-type]
    inputs = load_inputs(given)
    assert [len(part) for part in (inputs.train, *inputs.scored.values())] == [100, 50, 50]
    assert inputs.tables["test"].rows == (inputs.scored["test"].ids + 1).tolist()
    inputs = load_inputs(dataclasses.replace(given, fraction=1.0, train_fraction=0.1))
    assert [len(part) for part in (inputs.train, *inputs.scored.values())] == [100, 500, 500]


def test_a_language_model_takes_a_fraction_of_all_texts_too() -> None:
    rows: Any = [*THREE, {"text": " "}]
    tenth, whole = (load_corpus(Texts(train=rows[:1001], validation=rows[1000:], fraction=share)) for share in (0.1, 1.0))
    assert [len(part) for part in whole.parts.values()] == [951, 1000, 50]
    for name, texts in tenth.parts.items():
        assert len(texts) == pytest.approx(len(whole.parts[name]) / 10, abs=1)
        assert set(texts) < set(whole.parts[name])
        assert tenth.tables[name].columns["text"] == texts
    assert any("as --data.fraction 0.1 asks" in note for note in tenth.notes)


def test_a_language_model_has_no_such_sample_and_trainer_refuses_it() -> None:
    assert not hasattr(Texts(), "eval_sample")
    assert hasattr(Images(), "eval_sample")
    config = transformers_trainer.tiny()
    with pytest.raises(ConfigError) as error:
        transformers_trainer.run(dataclasses.replace(config, data=dataclasses.replace(config.data, eval_sample=9)))
    assert error.value.column == "data.eval_sample"


WRONG = ["neg" if index % 3 == 0 else label for index, label in enumerate(tiny_reviews().columns["label"])]
REVIEWS: Any = {"text": tiny_reviews().columns["text"], "label": WRONG}  # so that scores are not all 1
DATA = Data(train=REVIEWS, validation_share=0.2, test_share=0.0, truncation="windows", max_length=8, eval_sample=9)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "sampled"
    changes: dict[str, Any] = {"data": DATA, "out": str(out), "threads": 1, "epochs": 2, "eval_steps": 5, "precision": "fp32"}
    transformer_sentiment.run(dataclasses.replace(transformer_sentiment.tiny(), **changes))
    return out


def evaluations(out: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "split" in line}


def test_training_decides_by_the_sample_and_the_final_scores_are_of_all(sampled: Path) -> None:
    result = json.loads((sampled / "result.json").read_text())
    predictions = pq.read_table(sampled / "predictions.parquet").to_pandas()
    assert len(predictions) == result["data"]["examples"]["validation"] == 48
    best = evaluations(sampled)[result["best_step"]]
    is_positive = predictions["label"] == "pos"
    losses = -np.log(np.where(is_positive, predictions["probability_pos"], predictions["probability_neg"]))
    inputs = load_inputs(DATA)
    assert inputs.eval_ids is not None
    assert best["log_loss"] == pytest.approx(losses[inputs.eval_ids].mean(), abs=1e-5)
    assert result["metrics"]["validation"]["log_loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert abs(best["log_loss"] - result["metrics"]["validation"]["log_loss"]) > 1e-3
