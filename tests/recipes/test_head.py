"""How a transformer's head begins: its pooling, the probe beside every run, and few labels that get enough steps."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.data.readers import read_table
from nlpbp.data.tiny import tiny_reviews
from nlpbp.inference.predict import predict_outputs, read_texts
from nlpbp.inference.trained import load_run
from nlpbp.runs.result import RunResult
from nlpbp.text.pooled import PooledForSequenceClassification
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import load_tokenizer
from nlpbp.trainers import frozen
from recipes import transformer_sentiment


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a pretrained model without a head, as most come."""
    folder = tmp_path_factory.mktemp("body") / "bert"
    source = tiny_bert(folder.with_name("source"))
    AutoModel.from_pretrained(source).save_pretrained(folder)
    load_tokenizer(str(source)).save_pretrained(folder)
    return folder


def train(out: Path, name: Path | str, *, pooling: str = "auto", num: int = 240, **changes: Any) -> RunResult:
    config = transformer_sentiment.tiny()
    model = dataclasses.replace(config.model, name=str(name), pooling=pooling)
    data = dataclasses.replace(config.data, train=tiny_reviews(num_examples=num).columns)
    changes = {"epochs": 1, "threads": 1, "precision": "fp32"} | changes
    return transformer_sentiment.run(dataclasses.replace(config, model=model, data=data, out=str(out), **changes))


@pytest.fixture(scope="module")
def finished(body: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(tmp_path_factory.mktemp("runs") / "run", body)


def test_the_pooling_is_the_one_whose_probe_is_better_and_the_run_says_so(finished: RunResult) -> None:
    record = json.loads((finished.out / "probe.json").read_text())
    losses = {kind: one["loss"] for kind, one in record["probes"].items()}
    assert set(losses) == {"model", "mean"}
    assert record["pooling"] == min(losses, key=lambda kind: losses[kind]) == "mean"
    saved = AutoModelForSequenceClassification.from_pretrained(finished.out / "model")
    assert isinstance(saved, PooledForSequenceClassification)
    assert saved.config.pooling == "mean"


def test_the_probe_is_a_baseline_beside_tf_idf(finished: RunResult) -> None:
    assert list(finished.baselines) == ["majority", "tfidf", "probe"]
    assert finished.baselines["probe"]["test"]["accuracy"] > finished.baselines["majority"]["test"]["accuracy"]


def test_predict_and_pipeline_answer_as_the_run_did(finished: RunResult) -> None:
    classify = pipeline("text-classification", model=str(finished.out / "model"), top_k=None)
    texts = ["a superb lamp and a lovely kettle", "awful", ""]
    answers = [{one["label"]: one["score"] for one in answer} for answer in classify(texts)]
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    classifier = load_run(finished.out, accelerator=accelerator)
    ours = predict_outputs(classifier, read_texts(classifier, read_table({"text": texts})), accelerator=accelerator)
    found = [[answer[label] for label in ("neg", "pos")] for answer in answers]
    torch.testing.assert_close(torch.tensor(found), torch.from_numpy(ours).float(), atol=1e-5, rtol=1e-4)
    assert "import nlpbp.text" in (finished.out / "model" / "README.md").read_text()


def test_a_run_that_goes_on_keeps_its_pooling(body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "probe.json").write_text('{"pooling": "model"}')
    run = train(tmp_path / "run", body)
    assert not isinstance(AutoModelForSequenceClassification.from_pretrained(run.out / "model"), PooledForSequenceClassification)


def test_an_unfinished_run_of_an_earlier_version_is_refused(body: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="was begun by an earlier version"):
        train(tmp_path / "run", body, num=60)


@pytest.mark.parametrize("pooling", ["first", "max", "concat", "last"])
def test_a_pooling_that_is_asked_for_is_taken(body: Path, tmp_path: Path, pooling: str) -> None:
    run = train(tmp_path / "run", body, pooling=pooling, num=60)
    assert AutoModelForSequenceClassification.from_pretrained(run.out / "model").config.pooling == pooling


def test_the_familys_own_head_can_be_asked_for(body: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", body, pooling="model", num=60)
    saved = AutoModelForSequenceClassification.from_pretrained(run.out / "model")
    assert type(saved).__name__ == "BertForSequenceClassification"


def test_a_head_that_was_trained_for_these_labels_is_kept_and_another_pooling_takes_its_place(
    finished: RunResult, tmp_path: Path
) -> None:
    model = finished.out / "model"
    again = train(tmp_path / "again", model, num=60, optim=sections.Optim(lr=1e-12, probe="never"))
    before, after = (AutoModelForSequenceClassification.from_pretrained(folder) for folder in (model, again.out / "model"))
    torch.testing.assert_close(before.classifier.weight, after.classifier.weight, atol=1e-6, rtol=0.0)
    other = train(tmp_path / "other", model, num=60, pooling="max")
    assert AutoModelForSequenceClassification.from_pretrained(other.out / "model").config.pooling == "max"


def test_a_head_begins_at_the_probe_with_few_labels_and_not_with_many(body: Path, tmp_path: Path) -> None:
    still = sections.Optim(lr=1e-12, layer_decay=1.0)
    few = train(tmp_path / "few", body, num=60, optim=still)
    assert few.metrics["test"] == pytest.approx(few.baselines["probe"]["test"], abs=1e-4), "nothing moved away from the probe"
    for name, optim in (("never", dataclasses.replace(still, probe="never")), ("many", still)):
        run = train(tmp_path / name, body, num=60 if name == "never" else 240, optim=optim)
        assert run.metrics["test"]["log_loss"] != pytest.approx(run.baselines["probe"]["test"]["log_loss"], abs=1e-3)
    always = train(tmp_path / "always", body, optim=dataclasses.replace(still, probe="always"))
    assert always.metrics["test"] == pytest.approx(always.baselines["probe"]["test"], abs=1e-4)


def test_a_start_that_cannot_be_is_refused(body: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the head cannot begin at a probe: its body changes before"):
        train(tmp_path / "run", body, optim=sections.Optim(probe="always"), mlm=sections.MaskedLM(steps=1))


def test_windows_of_a_text_are_one_state(body: Path, tmp_path: Path) -> None:
    config = transformer_sentiment.tiny()
    texts = [f"{text} {text} {text}" for text in tiny_reviews(num_examples=60).columns["text"]]
    columns = {"text": texts, "label": tiny_reviews(num_examples=60).columns["label"]}
    data = dataclasses.replace(config.data, train=columns, max_length=8, truncation="windows")
    model = dataclasses.replace(config.model, name=str(body))
    config = dataclasses.replace(config, data=data, model=model, epochs=1, out=str(tmp_path / "run"), threads=1)
    run = transformer_sentiment.run(config)
    assert json.loads((run.out / "probe.json").read_text())["examples"] == 48


def test_a_probe_of_many_texts_is_fitted_on_a_sample(body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "MAX_PROBED", 20)
    run = train(tmp_path / "run", body, num=60)
    assert json.loads((run.out / "probe.json").read_text())["examples"] in range(19, 22)


@pytest.mark.parametrize(
    ("task", "label"), [("regression", lambda index: 0.5 * index), ("multi_label", lambda index: ["a", "b"][: index % 3])]
)
def test_numbers_and_several_labels_have_a_probe(body: Path, tmp_path: Path, task: str, label: Any) -> None:
    config = transformer_sentiment.tiny()
    columns = {"text": tiny_reviews(num_examples=60).columns["text"], "label": [label(index) for index in range(60)]}
    data = dataclasses.replace(config.data, train=columns, task=task)
    model = dataclasses.replace(config.model, name=str(body))
    config = dataclasses.replace(config, data=data, model=model, epochs=1, out=str(tmp_path / "run"), threads=1)
    run = transformer_sentiment.run(config)
    assert all(value is not None for value in run.baselines["probe"]["validation"].values())


def test_few_texts_get_more_epochs_and_their_validation_set_chooses_nothing(body: Path, tmp_path: Path, capsys: Any) -> None:
    run = train(tmp_path / "run", body, num=60, min_steps=24)
    result = json.loads((run.out / "result.json").read_text())
    assert result["steps"] == 24, "4 steps an epoch, and 6 epochs of them"
    assert result["best_step"] == 24
    records = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "split" in record] == [24]
    assert "6 validation examples are too few to choose weights by" in capsys.readouterr().out
    shutil.rmtree(run.out)
    assert json.loads((train(run.out, body, num=60, min_steps=0).out / "result.json").read_text())["steps"] == 4


def test_a_new_head_of_many_labels_learns_ten_times_as_fast(body: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tiny_reviews(num_examples=240).columns
    many = sections.Data(train=table | {"label": [f"{text[0]} {i % 10}" for i, text in enumerate(table["text"])]}, max_length=32)
    tags = [[f"tag {i % 10}", f"tag {i * 7 % 10}"] for i in range(240)]
    several = sections.Data(train=table | {"label": tags}, task="multi_label", max_length=32)
    few = sections.Data(train=table, max_length=32)

    def rates(name: Path, data: sections.Data, **changes: Any) -> tuple[float, float]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        config = dataclasses.replace(transformer_sentiment.Config(), model=transformer_sentiment.Model(str(name)), data=data)
        changes = {"epochs": 1, "min_steps": 0, "threads": 1, "precision": "fp32", "out": str(out)} | changes
        transformer_sentiment.run(dataclasses.replace(config, report=sections.Report(audit=False), **changes))
        said = re.search(r"learning rates: (\S+) at the top, (\S+) at the bottom", capsys.readouterr().out)
        assert said is not None
        return float(said[1]), float(said[2])

    top, bottom = rates(body, few)
    assert rates(body, many) == (10 * top, bottom)
    assert rates(tmp_path / "1" / "model", many) == (top, bottom), "a head that was trained for these labels is no new one"
    assert rates(body, many, optim=sections.Optim(head_lr=top)) == (top, bottom)
    assert rates(body, several) == (2.5 * 10 * top, pytest.approx(2.5 * bottom, rel=0.05))
