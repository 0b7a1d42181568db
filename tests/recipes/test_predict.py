"""Texts, files and runs that `scripts/predict.py` is given: what cannot be used is told before any work is done."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Fields
from nlpbp.data.modality import Reader
from nlpbp.data.readers import Table
from nlpbp.data.tiny import tiny_reviews
from nlpbp.inference import predict, trained
from nlpbp.inference.predict import read_lines, read_texts
from nlpbp.inference.prediction_files import check_predictions_file, write_predictions
from nlpbp.inference.trained import Classifier
from recipes import ulmfit

UNUSED: Any = None
READER = Reader("text", read=UNUSED, forms=UNUSED, collate=UNUSED, max_cost=1)
CLASSIFIER = Classifier(UNUSED, Fields(("text",), "label", "single_label", ("neg", "pos"), None, ()), None, READER)


def table(labels: list[str]) -> Table:
    return Table("new.csv", {"text": ["so good", "so bad"], "label": labels}, [2, 3])


def test_a_pipe_is_one_text_a_line() -> None:
    read = read_lines("so good\r\n\ncaf\u00e9".encode(), name="standard input")
    assert (read.columns, read.rows) == ({"text": ["so good", "", "caf\u00e9"]}, [1, 2, 3])


@pytest.mark.parametrize(("raw", "row"), [(b"", None), (b"fine\n\xff\n", 2)])
def test_a_pipe_without_text_is_an_error_with_its_line(raw: bytes, row: int | None) -> None:
    with pytest.raises(DataError) as error:
        read_lines(raw, name="standard input")
    assert (error.value.file, error.value.row) == ("standard input", row)


def test_labels_that_are_still_to_be_filled_in_are_none_unless_they_are_asked_for() -> None:
    assert read_texts(CLASSIFIER, table(["", " "])).targets is None
    assert read_texts(CLASSIFIER, table(["pos", "neg"])).targets is not None
    for labels, label in ((["", ""], "label"), (["pos", ""], None)):
        with pytest.raises(DataError, match="the label is missing"):
            read_texts(CLASSIFIER, table(labels), label=label)


@pytest.mark.parametrize(("label", "why"), [("", "the label is missing"), ("maybe", "no label 'maybe'")])
def test_data_with_a_label_that_cannot_be_scored_are_answered_and_it_is_said(label: str, why: str) -> None:
    notes: list[str] = []
    examples = read_texts(CLASSIFIER, table(["pos", label]), notes=notes)
    assert (examples.targets, len(examples)) == (None, 2)
    (note,) = notes
    assert note.startswith("not scored: ") and why in note
    with pytest.raises(DataError, match=why):
        read_texts(CLASSIFIER, table(["pos", label]), label="label", notes=notes)


@pytest.mark.parametrize("name", ["a.xlsx", "missing/a.csv", "folder.csv"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    for refuse in (check_predictions_file, lambda path: write_predictions({"id": [0]}, path)):
        with pytest.raises(ConfigError, match=re.escape(str(tmp_path / name))) as error:
            refuse(tmp_path / name)
        assert error.value.column == "out"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"])
def test_every_suffix_that_is_named_is_written(tmp_path: Path, suffix: str) -> None:
    write_predictions({"id": [0], "prediction": [["neg", "pos"]]}, tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 0


def answering(
    labels: tuple[str, ...], task: str = "single_label", thresholds: Any = None, text: tuple[str, ...] = ("text",)
) -> Classifier:
    return Classifier(UNUSED, Fields(text, "label", task, labels, None, ()), thresholds, READER)


def test_answers_are_averaged_label_by_label_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {("neg", "pos"): [[0.9, 0.1], [0.3, 0.7]], ("pos", "neg"): [[0.5, 0.5], [0.1, 0.9]]}
    monkeypatch.setattr(predict, "predict_outputs", lambda c, examples, **_: np.array(given[c.fields.labels], dtype=np.float32))
    both = [answering(labels) for labels in given]
    assert predict.mean_outputs(both, UNUSED, accelerator=UNUSED).tolist() == [pytest.approx(r) for r in ([0.7, 0.3], [0.6, 0.4])]
    alone = predict.mean_outputs(both[1:], UNUSED, accelerator=UNUSED)
    assert (alone.dtype, alone.tolist()) == (np.float32, np.array(given[("pos", "neg")], np.float32).tolist())
    assert trained.combined(both) is both[0]


def test_values_and_thresholds_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([np.array([1.0, 5.0], np.float32), np.array([2.0, 3.0], np.float32)])
    monkeypatch.setattr(predict, "predict_outputs", lambda *given, **_: next(values))
    assert predict.mean_outputs([answering((), "regression")] * 2, UNUSED, accelerator=UNUSED).tolist() == [1.5, 4.0]
    tags = [answering(("a", "b"), "multi_label", np.array([0.2, 0.4])), answering(("b", "a"), "multi_label", np.array([0.6, 0.8]))]
    assert trained.combined(tags).thresholds == pytest.approx([0.5, 0.5])
    assert trained.combined([tags[0], answering(("a", "b"), "multi_label")]).thresholds == pytest.approx([0.35, 0.45])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (answering(("neg", "neutral", "pos")), "two answers for the labels neg, neutral, pos, and one for the labels neg, pos"),
        (answering(("neg", "pos"), "multi_label"), "two answers for multi_label, and one for single_label"),
        (answering(("neg", "pos"), text=("a", "b")), "two answers for a pair of texts, and one for one text"),
        (answering(("pos", "neg"), text=()), ""),
    ],
)
def test_runs_that_answer_something_else_are_refused_and_both_named(
    monkeypatch: pytest.MonkeyPatch, other: Classifier, told: str
) -> None:
    monkeypatch.setattr(trained, "load_run", lambda path, accelerator: {"one": CLASSIFIER, "two": other}[path])
    if not told:
        assert len(trained.load_runs(["one", "two"], accelerator=UNUSED)) == 2
        return
    with pytest.raises(ConfigError, match=told):
        trained.load_runs(["one", "two"], accelerator=UNUSED)


def test_a_forward_and_a_backward_model_answer_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from predict import answer

    config = dataclasses.replace(ulmfit.tiny(), threads=1)
    for name in ("forward", "backward"):
        model = dataclasses.replace(config.model, backwards=name == "backward")
        ulmfit.run(dataclasses.replace(config, model=model, out=str(tmp_path / name)))
    reviews = tiny_reviews(num_examples=40, seed=9).columns
    rows = zip(reviews["text"], reviews["label"], strict=True)
    (tmp_path / "new.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))

    def probabilities(*runs: str) -> Any:
        out = tmp_path / f"{'-'.join(runs)}.parquet"
        answer([*(str(tmp_path / run) for run in runs), "--data", str(tmp_path / "new.csv"), "--out", str(out), "--threads", "1"])
        return np.array([pq.read_table(out)[f"probability_{label}"].to_pylist() for label in ("neg", "pos")]).T

    forward, backward, both = probabilities("forward"), probabilities("backward"), probabilities("forward", "backward")
    assert abs(forward - backward).max() > 0.01
    assert np.allclose(both, (forward + backward) / 2, atol=1e-6)
    right = np.array([["neg", "pos"].index(label) for label in reviews["label"]])
    losses = [-np.log(np.take_along_axis(p, right[:, None], axis=1)).mean() for p in (forward, backward, both)]
    assert losses[2] < (losses[0] + losses[1]) / 2
    assert "accuracy" in capsys.readouterr().out
