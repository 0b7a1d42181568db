"""A finished classifier shows its errors and its calibration, and a temperature that is asked for is in the model itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from nlpbp.config.data import Data
from nlpbp.config.optim import Stage
from nlpbp.config.run import Report
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.sources import read_source
from nlpbp.data.tiny import tiny_reviews
from nlpbp.inference import predict, trained
from nlpbp.runs.result import RunResult
from nlpbp.train.setup import start
from recipes import gru_classifier

FILLER = "a " * 20  # short in characters, so that it is no other slice


def rows(*, num: int, seed: int) -> list[dict[str, str]]:
    """Reviews, of which every eighth has its label words beyond 20 tokens, and every tenth the wrong label."""
    columns = tiny_reviews(num_examples=num, seed=seed).columns
    made = []
    for index, (text, label) in enumerate(zip(columns["text"], columns["label"], strict=True)):
        other = {"neg": "pos", "pos": "neg"}[label]
        late, wrong = (index // 2) % 8 == 0, (index // 2) % 10 == 1
        made.append({"text": FILLER + text if late else text, "label": other if wrong else label})
    return made


def train(out: Path, *, calibrate: bool) -> RunResult:
    """Train on heavily smoothed targets, so that the net is underconfident by design.

    Without smoothing, the temperature lies on either side of 1, depending on which of several equally accurate checkpoints is kept,
    and thus on the processor's rounding.
    """
    data = Data(train=rows(num=320, seed=0), validation=rows(num=240, seed=1), test=rows(num=80, seed=2), max_length=20)
    tiny = gru_classifier.tiny()
    optim = dataclasses.replace(tiny.optim, label_smoothing=0.5)
    config = dataclasses.replace(tiny, data=data, stages=(Stage(epochs=8, lr=1e-2),), optim=optim, calibrate=calibrate)
    return gru_classifier.run(dataclasses.replace(config, out=str(out), threads=1, precision="fp32"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, RunResult]:
    folder = tmp_path_factory.mktemp("runs")
    return {calibrate: train(folder / str(calibrate), calibrate=calibrate) for calibrate in (False, True)}


def read(result: RunResult, name: str) -> dict[str, Any]:
    return json.loads((result.out / name).read_text())


def test_texts_whose_label_word_is_cut_off_are_the_first_slice(runs: dict[bool, RunResult]) -> None:
    record = read(runs[False], "errors.json")
    first = record["slices"][0]
    assert (first["slice"], first["value"], first["count"]) == ("truncated", "yes", 30)
    assert first["lift"] > 2
    assert first["p_adjusted"] < 0.01
    assert first["interval"][0] < first["rate"] == first["errors"] / 30 < first["interval"][1]
    assert set(first) == {"slice", "value", "count", "errors", "rate", "interval", "lift", "p_adjusted"}
    assert {"characters", "truncated", "label"} <= {one["slice"] for one in record["slices"]}


def test_the_surest_errors_are_shown_with_what_they_hang_on_and_where_reading_ended(runs: dict[bool, RunResult]) -> None:
    record = read(runs[False], "errors.json")
    assert record["part"] == "validation"
    data = rows(num=240, seed=1)
    assert 0 < len(record["most_confident"]) <= 10
    for error in record["most_confident"]:
        given = data[error["id"]]
        assert error["text"] == given["text"]
        assert error["label"] == given["label"] != error["prediction"]
        assert error["probability"] >= 0.5
        assert (error["truncated_at"] is not None) == given["text"].startswith(FILLER)
        read_text = given["text"][: error["truncated_at"]]
        assert [word for word, _ in error["attributions"]] == read_text.split()
    sure = [error["probability"] for error in record["most_confident"]]
    assert sure == sorted(sure, reverse=True)
    assert sum(pair["count"] for pair in record["confused_pairs"]) == round(
        (1 - runs[False].metrics["validation"]["accuracy"]) * 240
    )


def test_a_temperature_is_always_measured_and_only_folded_in_where_it_is_asked_for(runs: dict[bool, RunResult]) -> None:
    plain, calibrated = (read(runs[asked], "calibration.json") for asked in (False, True))
    assert (plain["applied"], calibrated["applied"]) == (False, True)
    assert {name: value for name, value in plain.items() if name != "applied"} == {
        name: value for name, value in calibrated.items() if name != "applied"
    }
    assert plain["temperature"] < 0.8  # underconfident, so the logits must be scaled up
    assert plain["after"]["log_loss"] < plain["before"]["log_loss"]
    assert plain["before"]["ece"] == pytest.approx(runs[False].metrics["validation"]["ece"], abs=1e-6)
    assert sum(one["count"] for one in plain["reliability"]["after"]) == 240
    assert plain["selective"][-1]["accuracy"] == pytest.approx(runs[False].metrics["validation"]["accuracy"])
    weights = [load_file(runs[asked].out / "model" / "model.safetensors") for asked in (False, True)]
    changed = {name for name in weights[0] if not weights[0][name].equal(weights[1][name])}
    assert changed == {"classifier.out_proj.weight", "classifier.out_proj.bias"}
    ratio = weights[0]["classifier.out_proj.weight"] / weights[1]["classifier.out_proj.weight"]
    assert ratio.mean().item() == pytest.approx(plain["temperature"], rel=1e-4)


def test_no_answer_changes_and_the_probabilities_are_better_on_the_test_part_too(runs: dict[bool, RunResult]) -> None:
    before, after = (runs[asked].metrics for asked in (False, True))
    for part in ("validation", "test"):
        assert after[part]["accuracy"] == before[part]["accuracy"]
        assert after[part]["log_loss"] < before[part]["log_loss"]
    tables = [pq.read_table(runs[asked].out / "predictions.parquet").to_pydict() for asked in (False, True)]
    assert tables[0]["prediction"] == tables[1]["prediction"]
    assert np.abs(np.subtract(tables[0]["probability_pos"], tables[1]["probability_pos"])).max() > 0.02


def test_the_saved_model_answers_with_the_temperature(runs: dict[bool, RunResult]) -> None:
    table = pq.read_table(runs[True].out / "predictions.parquet").to_pydict()
    accelerator = start(seed=0, precision="fp32", threads=1)
    classifier = trained.load_run(runs[True].out, accelerator=accelerator)
    examples = predict.read_texts(classifier, read_source(rows(num=80, seed=2), split="test"))
    outputs = predict.predict_outputs(classifier, examples, accelerator=accelerator)
    assert np.allclose(outputs[:, 1], table["probability_pos"], atol=1e-5)


def test_what_has_no_probability_is_not_calibrated_and_has_no_such_errors(tmp_path: Path) -> None:
    numbers = [
        {"text": f"a {word} film {i}", "label": value + 0.001 * i} for i in range(40) for value, word in enumerate(["dull", "warm"])
    ]
    config = gru_classifier.tiny()
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, train=numbers), threads=1, out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="no probability") as error:
        gru_classifier.run(dataclasses.replace(config, calibrate=True))
    assert error.value.column == "calibrate"
    result = gru_classifier.run(config)
    assert result.task == "regression"
    assert not (result.out / "errors.json").exists()


def test_pairs_and_several_labels_have_records_too(tmp_path: Path) -> None:
    reviews = tiny_reviews(num_examples=120).columns
    pairs = [
        {"text_a": text, "text_b": "half a pair", "label": [label] if i % 3 else [label, "third"]}
        for i, (text, label) in enumerate(zip(reviews["text"], reviews["label"], strict=True))
    ]
    config = gru_classifier.tiny()
    data = dataclasses.replace(config.data, train=pairs, text=("text_a", "text_b"), label="label", task="multi_label")
    result = gru_classifier.run(dataclasses.replace(config, data=data, out=str(tmp_path / "run"), threads=1, calibrate=True))
    record = read(result, "errors.json")
    assert record["confused_pairs"] == []
    error = record["most_confident"][0]
    assert error["label"] != error["prediction"]
    assert {word for word, _ in error["attributions"]} >= {"half", "pair"}
    assert read(result, "calibration.json")["before"]["log_loss"] > 0.0


def test_views_repair_what_is_cut_off_and_on_short_texts_only_cost(
    runs: dict[bool, RunResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator = start(seed=0, precision="fp32", threads=1)
    classifier = trained.load_run(runs[True].out, accelerator=accelerator)
    columns = tiny_reviews(num_examples=120, seed=3).columns
    pairs = list(zip(columns["text"], columns["label"], strict=True))
    short, late = (
        predict.read_texts(classifier, read_source([{"text": lead + text, "label": label} for text, label in pairs], split="test"))
        for lead in ("", FILLER)
    )
    for view in ("windows", "head_tail"):
        views = [view]
        (clean, viewed), factor = predict.outputs_of_members([classifier], short, views=views, accelerator=accelerator)
        assert np.allclose(clean, viewed, atol=1e-5)
        assert factor > 0.0  # a time: how many times as long both take, which is not to be asserted
        (clean, viewed), _ = predict.outputs_of_members([classifier], late, views=views, accelerator=accelerator)
        before, after = (
            (made.argmax(1) == late.targets).mean()
            for made in (clean, predict.average_members([clean, viewed], weights=predict.member_weights(1, 1)))
        )
        assert before < 0.6
        assert after > before + 0.15
    nothing, factor = predict.outputs_of_members([classifier], late, views=[], accelerator=accelerator)
    assert factor == 1.0
    assert np.array_equal(
        predict.average_members(nothing, weights=predict.member_weights(1, 0)),
        predict.predict_outputs(classifier, late, accelerator=accelerator),
    )
    weights = predict.fitted_weights([classifier], late, views=["windows", "dropout"], accelerator=accelerator)
    assert weights[1] > 0.5
    with pytest.raises(ConfigError, match="no labels"):
        unlabelled = dataclasses.replace(late, targets=None)
        predict.fitted_weights([classifier], unlabelled, views=["windows"], accelerator=accelerator)
    with pytest.raises(ConfigError, match="a pair"):
        both = dataclasses.replace(short, pairs=short.texts)
        predict.predict_outputs(classifier, both, accelerator=accelerator, view="windows")

    from predict import answer

    lines = "".join(f"{FILLER}{text},{label}\n" for text, label in pairs)
    (tmp_path / "late.csv").write_text(f"text,label\n{lines}")
    given = [str(runs[True].out), "--data", str(tmp_path / "late.csv"), "--threads", "1", "--out", str(tmp_path / "out.csv")]
    answer([*given, "--views", "windows", "head_tail", "--fit_weights", str(tmp_path / "late.csv")])
    told = capsys.readouterr().err
    assert "weights: as they are 0." in told
    assert "times the time of one answer; accuracy 0." in told


def words_of(folder):
    """All words in the readable files of a run folder but the model's vocabulary."""
    files = [*folder.glob("*.json"), *folder.glob("*.html"), *folder.glob("*.jsonl"), *folder.glob("*.yaml")]
    return " ".join(file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize(("texts", "training_text", "validation_text"), [("held_out", 0, 1), ("all", 1, 1), ("none", 0, 0)])
def test_whose_texts_a_run_leaves_is_the_users_choice(texts, training_text, validation_text, tmp_path, monkeypatch):
    monkeypatch.delenv("NLPBP_REPORT")
    rows = [{"text": f"quokka number {i // 2} was here", "label": ["neg", "pos"][i % 3 == 0]} for i in range(60)]  # copies
    held_out = [{"text": f"zebra number {i} was there", "label": ["neg", "pos"][i % 2]} for i in range(20)]
    config = dataclasses.replace(
        gru_classifier.tiny(),
        data=Data(train=rows, validation=held_out, test_share=0.0),
        stages=(Stage(epochs=1),),
        report=Report(texts=texts),
        out=str(tmp_path / "run"),
        threads=1,
    )
    gru_classifier.run(config)
    written = words_of(tmp_path / "run")
    assert ("quokka" in written, "zebra" in written) == (bool(training_text), bool(validation_text))
    audit = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    copies = next(finding for finding in audit["findings"] if finding["id"] == "exact_duplicates")
    assert copies["level"] == "warning"
    assert "list:" in copies["examples"][0]["reference"]
    assert copies["message"] in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("wanted", [True, False])
def test_the_audit_can_be_left_out(wanted, tmp_path, monkeypatch):
    monkeypatch.delenv("NLPBP_REPORT")
    config = dataclasses.replace(gru_classifier.tiny(), stages=(Stage(epochs=1),), report=Report(audit=wanted), threads=1)
    result = gru_classifier.run(dataclasses.replace(config, out=str(tmp_path / "run")))
    assert (result.out / "audit.json").exists() == wanted
    assert ('id="audit"' in (result.out / "report.html").read_text(encoding="utf-8")) == wanted


def test_errors_are_looked_for_by_a_column_of_the_users(tmp_path):
    reviews = tiny_reviews(num_examples=200, seed=5).columns
    flipped = {"pos": "neg", "neg": "pos"}
    rows = [
        {
            "text": text,
            "label": flipped[label] if i % 4 == 0 else label,
            "shop": ("liar" if i % 4 == 0 else "web"),
            "price": f"{i}.5",
        }
        for i, (text, label) in enumerate(zip(reviews["text"], reviews["label"], strict=True))
    ]
    config = dataclasses.replace(
        gru_classifier.tiny(),
        data=Data(train="tiny:reviews", validation=rows, test_share=0.0, text=("text",), label="label", slices=("shop", "price")),
        out=str(tmp_path / "run"),
        threads=1,
    )
    gru_classifier.run(config)
    slices = json.loads((tmp_path / "run" / "errors.json").read_text(encoding="utf-8"))["slices"]
    assert slices[0]["slice"] == "shop" and slices[0]["value"] == "liar" and slices[0]["p_adjusted"] < 0.001
    assert {one["value"] for one in slices if one["slice"] == "price"} >= {"0.5 to 49.5"}
    with pytest.raises(DataError, match="colour"):
        data = dataclasses.replace(config.data, slices=("colour",))
        gru_classifier.run(dataclasses.replace(config, data=data, out=str(tmp_path / "other")))
