"""A new modality is one module and a line in a table: `signals.py` beside this file is trained, and answers for new data."""

from __future__ import annotations

import csv
import io
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import nlpbp.modalities
from nlpbp import config as sections
from nlpbp.cli.predict import answer
from nlpbp.core.errors import ConfigError
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import Table
from nlpbp.inference import predict, trained
from nlpbp.modalities import Line
from nlpbp.runs.folder import open_run
from nlpbp.runs.result import RunResult
from nlpbp.train.setup import start
from nlpbp.trainers.classifier import train_classifier
from nlpbp.trainers.optimizers import schedule_of, transformer_optimizer
from nlpbp.trainers.stages import StagePlan

LINE = Line("signals", ("backwards", "dropout"), "signals from their end on")


def write_signals(file: Path, *, num: int, seed: int) -> Path:
    """Write signals that rise or fall, with noise, of eight numbers each: backwards, each is of the other class."""
    random = np.random.default_rng(seed)
    rows = [["signal", "label"]]
    for index in range(num):
        rise = 1 if index % 2 else -1
        numbers = rise * np.linspace(-1, 1, 8) + random.normal(scale=0.4, size=8)
        rows.append([" ".join(f"{number:.3f}" for number in numbers), "rising" if rise > 0 else "falling"])
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return file


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, and its line in the table: all that a new modality takes."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(nlpbp.modalities.MODALITIES, "signal", LINE)
    import signals

    return signals


def train(signals: Any, folder: Path) -> RunResult:
    """Train as a recipe does."""
    data = sections.Data(train=str(write_signals(folder / "train.csv", num=240, seed=0)), text=("signal",), label="label")
    config = sections.ClassifierSettings(out=str(folder / "run"), threads=1, precision="fp32", data=data)
    store: dict[str, Any] = {}

    def read(source: Any, *, split: str, delimiter: str | None) -> Table:
        table, found = signals.read_signals(source, split=split, delimiter=delimiter)
        store.update(found)
        return table  # type: ignore[no-any-return]

    with open_run("signals", config) as run:
        inputs = load_inputs(config.data, read=read)
        model = signals.new_model(inputs)
        build = transformer_optimizer(config.optim, lr=1e-2)
        plan = StagePlan(epochs=6, make_optimizer=build, schedule=schedule_of("one_cycle", config.cycles))
        modality = signals.signal_modality(inputs, store, model=model)
        return train_classifier(run, inputs, model=model, plans=[plan], modality=modality)


def test_it_is_trained_and_answers_for_new_examples(
    signals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(signals, tmp_path)
    assert result.metrics["test"]["accuracy"] > 0.9
    new, out = write_signals(tmp_path / "new.csv", num=60, seed=1), tmp_path / "answers.parquet"
    ask = partial(predict.predict_outputs, accelerator=start(seed=0, precision="fp32", threads=1))

    # A saved run answers as it did in training.
    (classifier,) = trained.load_runs([result.out], accelerator=start(seed=0, precision="fp32", threads=1))
    table = predict.read_data([classifier], str(tmp_path / "train.csv"))
    told = pq.read_table(result.out / "predictions.parquet").to_pydict()
    again = ask(classifier, predict.read_texts(classifier, table))
    assert again[told["id"]][:, 0] == pytest.approx(told["probability_falling"], abs=1e-5)

    # On new examples, read through a view or not, and in what is said of views that it has not.
    examples = predict.read_texts(classifier, predict.read_data([classifier], str(new)))
    outputs, backwards = ask(classifier, examples), ask(classifier, examples, view="backwards")
    assert examples.targets is not None
    assert (outputs.argmax(axis=1) == examples.targets).mean() > 0.9 > 0.1 > (backwards.argmax(axis=1) == examples.targets).mean()
    assert 0 < np.abs(ask(classifier, examples, view="dropout") - outputs).max() < 0.5
    with pytest.raises(ConfigError, match="windows is of texts") as error:
        ask(classifier, examples, view="windows")
    assert error.value.hint == "give backwards or dropout"

    # On the command line: a file with views, and lines of a pipe.
    answer([str(result.out), "--data", str(new), "--views", "backwards", "--out", str(out), "--threads", "1"])
    mean = 0.25 * outputs + 0.75 * backwards
    assert pq.read_table(out)["probability_rising"].to_pylist() == pytest.approx(mean[:, 1].tolist(), abs=1e-5)
    piped = io.BytesIO(b"-1 -0.7 -0.4 -0.1 0.1 0.4 0.7 1\n1 0.7 0.4 0.1 -0.1 -0.4 -0.7 -1\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=piped))
    capsys.readouterr()
    answer([str(result.out), "--threads", "1"])
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["rising", "falling"]


def test_without_its_line_nobody_knows_it(signals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(signals, tmp_path)
    monkeypatch.delitem(nlpbp.modalities.MODALITIES, "signal")
    with pytest.raises(ConfigError):
        trained.load_run(result.out, accelerator=start(seed=0, precision="fp32", threads=1))
    with pytest.raises(SystemExit):
        answer([str(result.out), "--data", str(tmp_path / "train.csv"), "--views", "backwards"])


@pytest.mark.parametrize("kind", nlpbp.modalities.MODALITIES)
def test_views_of_a_kind_are_choices(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        answer(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    line = nlpbp.modalities.MODALITIES[kind]
    assert line.words in told and all(view in told for view in line.views)
