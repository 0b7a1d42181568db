"""The main job on every kind of data and target that a user may bring, small enough for seconds."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, pipeline

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Fields
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import Table
from nlpbp.data.tiny import WORDS, tiny_reviews
from nlpbp.inference.predict import read_texts
from nlpbp.runs.folder import CACHE
from nlpbp.runs.result import RunResult
from nlpbp.text.tiny import tiny_bert
from recipes import transformer_sentiment

REVIEWS = tiny_reviews(num_examples=160).columns


def run(tmp_path: Path, train: Any, *, name: str = "run", **data: Any) -> RunResult:
    config = transformer_sentiment.tiny()
    sections = {key: data.pop(key) for key in list(data) if key in {field.name for field in dataclasses.fields(config)}}
    config = dataclasses.replace(config, **sections)
    given = dataclasses.replace(config.data, train=train, **data)
    return transformer_sentiment.run(dataclasses.replace(config, data=given, out=str(tmp_path / name), threads=1))


def write_csv(path: Path, columns: dict[str, list[Any]], *, delimiter: str = ",") -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def sources(tmp_path: Path) -> dict[str, Any]:
    rows = [{"text": text, "label": label} for text, label in zip(REVIEWS["text"], REVIEWS["label"], strict=True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    frame = pd.DataFrame(REVIEWS)
    frame.to_parquet(tmp_path / "a.parquet")
    for index, row in enumerate(rows):
        folder = tmp_path / "folder" / row["label"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:03}.txt").write_text(row["text"])
    return {
        "csv": write_csv(tmp_path / "a.csv", REVIEWS),
        "semicolons": write_csv(tmp_path / "b.csv", REVIEWS, delimiter=";"),
        "tsv": write_csv(tmp_path / "a.tsv", REVIEWS, delimiter="\t"),
        "jsonl": str(tmp_path / "a.jsonl"),
        "json": str(tmp_path / "a.json"),
        "parquet": str(tmp_path / "a.parquet"),
        "folder": str(tmp_path / "folder"),
        "frame": frame,
        "records": rows,
        "lists": dict(REVIEWS),
    }


def test_the_same_reviews_train_the_same_model_from_every_kind_of_source(tmp_path: Path) -> None:
    results = {kind: run(tmp_path, source, name=f"run-{kind}", epochs=1) for kind, source in sources(tmp_path).items()}
    scores = {kind: result.metrics["test"] for kind, result in results.items() if kind != "folder"}
    assert all(score == scores["csv"] for score in scores.values())  # a folder comes in another order
    assert results["folder"].metrics["test"]["accuracy"] is not None


def tagged(num: int, tags: list[str], *, start: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(start)
    chosen = [[tag for tag in tags if rng.random() < 0.3] for _ in range(num)]
    return [
        {"text": f"{rng.choice(WORDS['pos' if row else 'neg'])} film {start + i}", "label": row} for i, row in enumerate(chosen)
    ]


def test_validation_texts_without_any_label_leave_a_score_undefined_and_nothing_else(tmp_path: Path) -> None:
    tags, given = ["pos", "neg"], {"label": "label", "task": "multi_label"}
    parts = {"validation": tagged(20, [], start=100), "test": tagged(20, tags, start=200)}
    still = sections.Optim(lr=1e-4, probe="never", asymmetric=(0.0, 2.0, 0.05))  # it answers no label to the end
    result = run(tmp_path, tagged(60, tags, start=0), epochs=2, optim=still, **parts, **given)
    written = json.loads((result.out / "result.json").read_text())
    assert result.metrics["validation"]["micro_f1"] is None
    assert written["stages"][0]["best"] is None
    assert written["best_step"] > 0  # something was kept
    assert written["baselines"]["majority"]["test"]["micro_f1"] == 0.0  # no label holds for more than half
    assert set(json.loads((result.out / "thresholds.json").read_text())["values"].values()) == {0.5}


def test_multi_label_cells_train_with_thresholds_from_validation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tags = [[word for word in ("pos", "neg") if rng.random() < 0.6] for _ in range(240)]
    texts = [" ".join(rng.choice(WORDS[tag]) for tag in row) + f" the film is {i}" for i, row in enumerate(tags)]
    path = write_csv(tmp_path / "tags.csv", {"text": texts, "tags": ["|".join(row) for row in tags]})
    result = run(tmp_path, path, epochs=20)
    assert result.task == "multi_label"
    assert result.metrics["test"]["micro_f1"] > 0.1 + result.baselines["majority"]["test"]["micro_f1"]
    model = AutoModelForSequenceClassification.from_pretrained(result.out / "model")
    assert len(model.config.decision_thresholds) == 2
    thresholds = json.loads((result.out / "thresholds.json").read_text())
    assert list(thresholds["values"].values()) == model.config.decision_thresholds
    predictions = pq.read_table(result.out / "predictions.parquet").to_pydict()
    assert all(isinstance(labels, list) for labels in predictions["prediction"])
    classify = pipeline("text-classification", model=str(result.out / "model"), top_k=None)
    for row, answers in zip(range(3), classify([texts[i] for i in predictions["id"][:3]]), strict=True):
        for answer in answers:  # each label has a probability of its own
            assert answer["score"] == pytest.approx(predictions[f"probability_{answer['label']}"][row], abs=1e-4)
    for row in range(8):
        answered = answer_of_card(result.out / "model", texts[predictions["id"][row]])["answer"]
        assert set(answered) == set(predictions["prediction"][row])


def answer_of_card(folder: Path, text: str) -> dict[str, Any]:
    """Run the lines that the model's card shows, on a text of ours, and return what they leave."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    found: dict[str, Any] = {}
    exec(lines.replace("PATH/TO/THIS/FOLDER", str(folder)).replace('"Some text."', repr(text)), found)
    return found


def test_regression_trains_on_any_scale_and_the_saved_model_answers_in_it(tmp_path: Path) -> None:
    values = [1000.0 + 500.0 * (label == "pos") + i % 7 / 2 for i, label in enumerate(REVIEWS["label"])]
    result = run(tmp_path, {"text": REVIEWS["text"], "price": values}, label="price", epochs=10)
    assert result.task == "regression"
    assert result.metrics["test"]["rmse"] < 0.4 * result.baselines["majority"]["test"]["rmse"]
    predictions = pq.read_table(result.out / "predictions.parquet").to_pydict()
    answers = pipeline("text-classification", model=str(result.out / "model"))([REVIEWS["text"][i] for i in predictions["id"]])
    assert [answer["score"] for answer in answers] == pytest.approx(predictions["prediction"], rel=1e-4)


def test_the_card_of_a_model_with_a_range_says_how_to_get_into_it(tmp_path: Path) -> None:
    values = [1.0 + 4.0 * (label == "pos") for label in REVIEWS["label"]]
    result = run(tmp_path, {"text": REVIEWS["text"], "stars": values}, label="stars", task="regression", value_range=(1.0, 5.0))
    predictions = pq.read_table(result.out / "predictions.parquet").to_pydict()
    for row in range(3):
        found = answer_of_card(result.out / "model", REVIEWS["text"][predictions["id"][row]])
        assert found["answer"] == pytest.approx(predictions["prediction"][row], rel=1e-4)
        assert abs(found["score"] - found["answer"]) > 0.5


def test_a_run_folder_given_for_a_model_is_told_where_its_model_is(tmp_path: Path) -> None:
    first = run(tmp_path, REVIEWS, name="first", epochs=1)
    with pytest.raises(ConfigError, match=r"it is a run's folder: give .*first/model"):
        run(tmp_path, REVIEWS, name="second", model=transformer_sentiment.Model(str(first.out)))


def test_a_pair_of_texts_is_told_from_its_two_halves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [(rng.choice(["pos", "neg"]), rng.choice(["pos", "neg"])) for _ in range(400)]
    rows = [
        {"premise": f"the film is {rng.choice(WORDS[a])} {i}", "hypothesis": f"i found it {rng.choice(WORDS[b])}", "label": a}
        for i, (a, b) in enumerate(kinds)
    ]
    result = run(tmp_path, rows, epochs=10, optim=sections.Optim(lr=3e-3, layer_decay=1.0))
    assert json.loads((result.out / "result.json").read_text())["data"]["text"] == ["premise", "hypothesis"]
    assert result.metrics["test"]["accuracy"] > 0.9


def test_given_parts_are_used_and_texts_they_share_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny_reviews(num_examples=40, seed=5).columns
    other["text"][3] = REVIEWS["text"][7]
    other["label"][3] = REVIEWS["label"][7]
    path = write_csv(tmp_path / "test.csv", other)
    result = run(tmp_path, write_csv(tmp_path / "train.csv", REVIEWS), test=path, epochs=1)
    printed = capsys.readouterr().out
    assert "warning: 1 test texts are in the training set too" in printed
    assert "train.csv:9 = test.csv:5" in printed
    predictions = pq.read_table(result.out / "predictions.parquet").to_pydict()
    assert predictions["id"] == list(range(40))
    assert predictions["reference"][0] == "test.csv:2"
    assert json.loads((result.out / "result.json").read_text())["data"]["examples"] == {"train": 144, "validation": 16, "test": 40}


def test_guessing_hidden_words_is_learned_and_reaches_the_classifier(tmp_path: Path) -> None:
    tiny = transformer_sentiment.tiny()
    still = dataclasses.replace(tiny.optim, lr=1e-9)  # what the classifier's body ends with is then what it began with
    result = run(tmp_path, dict(REVIEWS), mlm=sections.MaskedLM(steps=48, lr=1e-2), optim=still, epochs=1)
    lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "perplexity" in line]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.3
    stages = json.loads((result.out / "result.json").read_text())["stages"]
    assert [(stage["metric"], stage["steps"]) for stage in stages] == [("loss", 48), ("accuracy", 9)]
    before = load_file(tiny_bert(CACHE / "tiny-bert") / "model.safetensors")
    after = load_file(result.out / "model" / "model.safetensors")
    body = [name for name in after if name in before and "encoder" in name]
    assert len(body) > 10
    assert all(abs(after[name] - before[name]).max() > 1e-3 for name in body if name.endswith("weight"))


def test_a_sample_is_nested_and_leaves_the_other_parts_alone(tmp_path: Path) -> None:
    result = run(tmp_path, dict(REVIEWS), train_fraction=0.25, epochs=1)
    examples = json.loads((result.out / "result.json").read_text())["data"]["examples"]
    assert examples == {"train": 32, "validation": 16, "test": 16}


def test_an_unknown_label_in_the_validation_file_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "validation.csv", {"text": ["a film", "the plot"], "label": ["pos", "positive"]})
    with pytest.raises(DataError) as error:
        run(tmp_path, dict(REVIEWS), validation=path)
    assert (error.value.file, error.value.row, error.value.column) == (path, 3, "label")
    assert not (tmp_path / "run").exists()


def test_a_very_long_text_is_clipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [*REVIEWS["text"][:-1], "wonderful " * 200_000]
    run(tmp_path, {"text": texts, "label": REVIEWS["label"]}, epochs=1)
    printed = capsys.readouterr().out
    assert "only its beginning was tokenized" in printed
    assert "are cut to 32 tokens" in printed


def test_texts_that_the_tokenizer_does_not_know_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, dict(REVIEWS), epochs=1)
    assert "does not know" not in capsys.readouterr().out
    thai = [f"หนังเรื่องนี้สนุกมาก {text}" for text in REVIEWS["text"]]
    run(tmp_path, {"text": thai, "label": REVIEWS["label"]}, name="thai", epochs=1)
    assert "warning: the tokenizer does not know" in capsys.readouterr().out


def test_copies_of_texts_are_counted() -> None:
    twice = {"text": [*REVIEWS["text"], *REVIEWS["text"][:3]], "label": [*REVIEWS["label"], *REVIEWS["label"][:3]]}
    notes = load_inputs(sections.Data(train=twice)).notes
    assert any(note.startswith("copies") and ": 3;" in note for note in notes)
    assert not any(note.startswith("copies") for note in load_inputs(sections.Data(train=dict(REVIEWS))).notes)


def test_an_empty_source_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(tmp_path)
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(DataError, match="the path is empty"):
        load_inputs(sections.Data(train=""))


def test_predictions_need_as_many_texts_as_the_model_was_trained_on() -> None:
    def ask(trained: tuple[str, ...], columns: dict[str, list[str]], **given: Any) -> tuple[list[str], list[str]]:
        fields = Fields(trained, "label", "single_label", ("neg", "pos"), None, ())
        classifier: Any = SimpleNamespace(fields=fields, reader=SimpleNamespace(columns=()))
        notes: list[str] = []
        examples = read_texts(classifier, Table("new.csv", columns, [2]), notes=notes, **given)
        return [*examples.texts, *(examples.pairs or [])], notes

    pair = {"premise": ["it is a film"], "hypothesis": ["it is a play"]}
    assert ask(("text",), {"text": ["it is a film"]}) == (["it is a film"], [])
    assert ask(("review",), {"text": ["it is a film"]}) == (["it is a film"], ["text: column 'text', by its name"])
    assert ask(("a", "b"), pair)[0] == ["it is a film", "it is a play"]
    assert ask(("text",), pair, text=["premise"]) == (["it is a film"], [])
    for trained, columns in ((("text",), pair), (("premise", "hypothesis"), {"text": ["it is a film"]})):
        with pytest.raises(DataError, match="the model was trained on"):
            ask(trained, columns)


def test_patience_stops_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    config = transformer_sentiment.tiny()
    optim = dataclasses.replace(config.optim, lr=1e-9)
    result = run(tmp_path, dict(REVIEWS), optim=optim, epochs=50, patience=2, eval_steps=3)
    lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "split" in line]
    assert [line["step"] for line in evaluations] == [3, 6, 9]
    assert json.loads((result.out / "result.json").read_text())["best_step"] == 3
    assert result.metrics["validation"]["accuracy"] == pytest.approx(evaluations[0]["accuracy"])
    assert not (result.out / "best.safetensors").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("switch", ["gradient_checkpointing", "compile"])
def test_switches_that_save_memory_or_time_change_no_result(tmp_path: Path, switch: str) -> None:
    without = transformer_sentiment.tiny()
    base = {"epochs": 1, "precision": "fp32", "dropout": dataclasses.replace(without.dropout, scale=0.0)}
    logging.disable(logging.WARNING)
    plain = run(tmp_path, dict(REVIEWS), name="plain", **base)
    switched = run(tmp_path, dict(REVIEWS), name="switched", **base, model=dataclasses.replace(without.model, **{switch: True}))
    logging.disable(logging.NOTSET)
    steps = [
        [json.loads(line)["loss"] for line in (result.out / "metrics.jsonl").read_text().splitlines() if "loss" in json.loads(line)]
        for result in (plain, switched)
    ]
    assert steps[0] == pytest.approx(steps[1], abs=1e-5)
    control = run(tmp_path, dict(REVIEWS), name="control", **{**base, "dropout": without.dropout})
    first = [json.loads(line) for line in (control.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in first if "loss" in line] != pytest.approx(steps[0], abs=1e-5)


def test_the_dropout_scale_reaches_the_model(tmp_path: Path) -> None:
    result = run(tmp_path, dict(REVIEWS), epochs=1, dropout=transformer_sentiment.sections.Dropout(scale=0.5))
    config = json.loads((result.out / "model" / "config.json").read_text())
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.05, 0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tracker_of_accelerates_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(tmp_path, dict(REVIEWS), epochs=1, track="tensorboard")
    (events,) = {file.parent for file in result.out.rglob("*tfevents*") if file.parent.name == "nlpbp"}
    logged = EventAccumulator(str(events)).Reload()
    lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [event.value for event in logged.Scalars("train/loss")] == pytest.approx(losses)
    assert [event.step for event in logged.Scalars("validation/accuracy")] == [len(losses)]
