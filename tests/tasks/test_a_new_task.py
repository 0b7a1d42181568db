"""A task is one file and one line: a task that a test writes trains, is scored, has a report and predicts."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator

from nlpbp.core.errors import ConfigError
from nlpbp.core.task import TASKS
from nlpbp.inference import predict, trained
from nlpbp.report.page import run_report
from nlpbp.tasks.task import all_metrics
from recipes import transformer_sentiment

MODULE = '''
"""Two classes of which the first is feared: a missed alarm costs five false ones."""
import dataclasses

from nlpbp.core.losses import LossOptions, cross_entropy
from nlpbp.tasks.single_label import TASK as SINGLE
from nlpbp.tasks.task import Metric


def _loss(logits, labels, options):
    import torch
    return cross_entropy(logits, labels, LossOptions(class_weights=torch.tensor([5.0, 1.0])))


def _decide(outputs, thresholds):
    return (outputs[:, 0] < 1 / 6).astype(int)


def _measure(targets, outputs, decisions, weights):
    cost = 5.0 * ((targets == 0) & (decisions == 1)) + 1.0 * ((targets == 1) & (decisions == 0))
    return {"cost": weights @ cost / weights.sum(axis=1)}


TASK = dataclasses.replace(
    SINGLE, name="alarm", metrics=(Metric("cost", False, "cost of errors"),), main_metric="cost", loss=_loss, decide=_decide,
    measure=_measure, constant_name="always", constant_words="the same answer always",
)
'''


@pytest.fixture
def alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alarm_task.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(TASKS, "alarm", ("alarm_task", "multiclass"))
    all_metrics.cache_clear()
    yield
    all_metrics.cache_clear()
    sys.modules.pop("alarm_task", None)


@pytest.mark.usefixtures("alarm")
def test_a_task_in_one_file_is_trained_scored_shown_and_predicts(tmp_path: Path) -> None:
    tiny = transformer_sentiment.tiny()
    data = dataclasses.replace(tiny.data, task="alarm")
    result = transformer_sentiment.run(dataclasses.replace(tiny, data=data, out=str(tmp_path / "run"), threads=1))
    assert list(result.metrics["test"]) == ["cost"]
    assert result.metrics["test"]["cost"] < result.baselines["always"]["test"]["cost"]
    assert set(result.baselines) == {"always", "tfidf", "probe"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "cost" in [line for line in lines if "split" in line][-1]
    page = run_report(tmp_path / "run")
    assert "cost of errors" in page
    assert "the same answer always" in page
    loaded = trained.load_run(tmp_path / "run", accelerator=Accelerator(cpu=True))
    assert loaded.fields.task == "alarm"
    table = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pydict()
    rows = predict.read_data([loaded], "tiny:reviews")
    examples = predict.read_texts(loaded, rows)
    outputs = predict.predict_outputs(loaded, examples, accelerator=Accelerator(cpu=True))
    answers = predict.predictions(loaded, examples, outputs)["prediction"]
    assert [answers[index] for index in table["id"]] == table["prediction"]


def test_without_its_line_it_does_not_exist(tmp_path: Path) -> None:
    tiny = transformer_sentiment.tiny()
    data = dataclasses.replace(tiny.data, task="alarm")
    with pytest.raises(ConfigError, match="there is no such task"):
        transformer_sentiment.run(dataclasses.replace(tiny, data=data, out=str(tmp_path / "run"), threads=1))
