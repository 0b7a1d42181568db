"""Ordered classes: a loss that knows which error is worse, the median as the answer, and a whole run."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, mean_absolute_error
from torch.nn import functional as F

from nlpbp.config import Data
from nlpbp.core.errors import ConfigError
from nlpbp.data.columns import infer_fields
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import read_table
from nlpbp.runs.result import RunResult
from nlpbp.tasks import bootstrap_intervals, decide, get_task, task_loss, task_metrics
from nlpbp.tasks.baselines import constant_baseline, linear_baseline
from nlpbp.tasks.ordinal import cumulative_logits, quadratic_weighted_kappa
from recipes import gru_classifier, transformer_sentiment
from run_script import run_script

WORDS = {  # that the tiny model knows
    1: ("awful", "tedious"),
    2: ("dull", "empty"),
    3: ("clumsy", "noisy"),
    4: ("warm", "funny"),
    5: ("wonderful", "brilliant"),
}


def reviews(num: int = 200) -> list[dict[str, Any]]:
    """Sentences by rule: two of three words are of the review's stars, the third may be of the stars beside them."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(num):
        stars = index % 5 + 1
        beside = min(5, max(1, stars + int(rng.integers(-1, 2))))
        words = [str(rng.choice(WORDS[stars])), str(rng.choice(WORDS[stars])), str(rng.choice(WORDS[beside]))]
        rows.append({"text": f"this film is {' '.join(words)} no {index}", "stars": stars})
    return rows


def test_the_loss_is_the_sum_of_the_binary_questions_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    assert cumulative_logits(logits).sigmoid().tolist() == [pytest.approx([0.5, 0.25])]  # P(y > 0), P(y > 1)
    for label, shares in ((0, (0.5, 0.75)), (1, (0.5, 0.75)), (2, (0.5, 0.25))):
        loss = task_loss(logits, torch.tensor([label]), task="ordinal").item()
        assert loss == pytest.approx(-np.log(shares[0]) - np.log(shares[1]))


def test_an_error_far_off_costs_more_than_one_nearby_and_cross_entropy_cannot_tell_them_apart() -> None:
    sure = torch.full((1, 5), -4.0)
    sure[0, 4] = 4.0  # five stars
    ordinal = [task_loss(sure, torch.tensor([label]), task="ordinal").item() for label in range(5)]
    plain = [task_loss(sure, torch.tensor([label]), task="single_label").item() for label in range(4)]
    assert ordinal == sorted(ordinal, reverse=True)
    assert ordinal[0] > 3 * ordinal[3] > 30 * ordinal[4]
    assert plain == pytest.approx([plain[0]] * 4)


def test_answers_to_the_questions_never_contradict_each_other_and_large_logits_stay_finite() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 30
    above = cumulative_logits(logits)
    assert bool((above[:, 1:] <= above[:, :-1] + 1e-4).all())
    wild = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = task_loss(wild, torch.tensor([2]), task="ordinal")
    loss.backward()
    assert bool(loss.isfinite())
    assert wild.grad is not None
    assert bool(wild.grad.isfinite().all())


def test_masked_labels_class_weights_and_smoothing() -> None:
    logits, labels = torch.zeros(2, 3), torch.tensor([0, -100])
    alone = task_loss(logits[:1], labels[:1], task="ordinal").item()
    assert task_loss(logits, labels, task="ordinal").item() == pytest.approx(alone)
    weights = torch.tensor([3.0, 1.0, 1.0])
    assert task_loss(logits, labels, task="ordinal", class_weights=weights).item() == pytest.approx(3 * alone)
    sure = torch.tensor([[9.0, 0.0, 0.0]])
    smoothed = task_loss(sure, torch.tensor([0]), task="ordinal", label_smoothing=0.2).item()
    assert smoothed > task_loss(sure, torch.tensor([0]), task="ordinal").item() + 0.5
    with pytest.raises(ValueError, match="focal"):
        task_loss(logits, torch.tensor([0, 0]), task="ordinal", focal_gamma=2.0)


def test_the_answer_is_the_median_class() -> None:
    shares = np.array(
        [[0.4, 0.05, 0.05, 0.2, 0.3], [0.1, 0.2, 0.7, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    )
    assert decide("ordinal", shares).tolist() == [2, 2, 0, 4]
    assert decide("single_label", shares).tolist() == [0, 2, 0, 4]
    rng = np.random.default_rng(0)  # no class has a lower expected distance than the median
    drawn = rng.dirichlet(np.ones(5), size=200)
    distance = np.abs(np.arange(5)[:, None] - np.arange(5)[None, :])
    expected = drawn @ distance
    assert np.allclose(expected[np.arange(200), decide("ordinal", drawn)], expected.min(axis=1))


def test_metrics_are_those_of_scikit_learn_and_stand_in_their_intervals() -> None:
    rng = np.random.default_rng(1)
    targets, outputs = rng.integers(0, 5, size=300), rng.dirichlet(np.ones(5), size=300)
    outputs[np.arange(300), targets] += 0.3
    outputs /= outputs.sum(axis=1, keepdims=True)
    found, answers = task_metrics("ordinal", targets, outputs), decide("ordinal", outputs)
    assert found["qwk"] == pytest.approx(cohen_kappa_score(targets, answers, weights="quadratic"))
    assert found["mae"] == pytest.approx(mean_absolute_error(targets, answers))
    assert found["accuracy"] == pytest.approx((targets == answers).mean())
    for name, interval in bootstrap_intervals("ordinal", targets, outputs, num_resamples=200).items():
        assert interval is not None
        assert interval[0] < found[name] < interval[1]
    twice = np.concatenate([targets, targets[:50]]), np.concatenate([answers, answers[:50]])
    weights = np.ones((1, 300))
    weights[0, :50] = 2.0
    assert quadratic_weighted_kappa(targets, answers, weights)[0] == pytest.approx(cohen_kappa_score(*twice, weights="quadratic"))
    assert task_metrics("ordinal", np.zeros(3, dtype=int), np.eye(3)[[0, 0, 0]])["qwk"] is None


def test_baselines_answer_the_training_median_and_by_questions_that_agree() -> None:
    constant = constant_baseline("ordinal", np.array([0, 0, 1, 3, 4]), num_examples=2, num_labels=5)
    assert decide("ordinal", constant).tolist() == [1, 1]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3))
    targets = np.clip(np.round(features[:, 0] * 1.5 + 2 + rng.normal(size=400) * 0.5), 0, 4).astype(int)
    (outputs,) = linear_baseline("ordinal", features[:300], targets[:300], [features[300:]], num_labels=5)
    assert outputs.min() >= 0.0
    assert np.allclose(outputs.sum(axis=1), 1.0)
    constant = constant_baseline("ordinal", targets[:300], num_examples=100, num_labels=5)
    errors = [task_metrics("ordinal", targets[300:], made)["mae"] for made in (outputs, constant)]
    assert errors[0] < 0.6 * errors[1]
    missing = np.where(targets[:300] == 2, 1, targets[:300])  # a class that training lacks
    (outputs,) = linear_baseline("ordinal", features[:300], missing, [features[300:]], num_labels=5)
    assert np.allclose(outputs[:, 2], 0.0, atol=0.05)


def test_ordinal_training_errs_by_less_than_cross_entropy_where_classes_overlap() -> None:
    """Effect: the same small net on noisy ordered classes, five seeds; the mean distance from the truth is smaller."""
    errors: dict[str, list[float]] = {"ordinal": [], "single_label": []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(2120, 10)).astype(np.float32)
        hidden = inputs[:, :3].sum(axis=1) + rng.normal(size=2120) * 1.5
        targets = np.digitize(hidden, [-2.5, -0.8, 0.8, 2.5])
        x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
        for task, found in errors.items():
            torch.manual_seed(seed)
            net = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 5))
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
            for _ in range(150):
                optimizer.zero_grad()
                task_loss(net(x[:120]), y[:120], task=task).backward()
                optimizer.step()
            with torch.no_grad():
                outputs = F.softmax(net(x[120:]), dim=1).numpy()
            found.append(float(np.abs(decide(task, outputs) - targets[120:]).mean()))
    assert np.mean(errors["ordinal"]) < np.mean(errors["single_label"]) - 0.01


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("ordinal")
    rows = [json.dumps(row) for row in reviews()]
    (folder / "reviews.jsonl").write_text("\n".join(rows) + "\n")
    tiny = transformer_sentiment.tiny()
    data = dataclasses.replace(tiny.data, train=str(folder / "reviews.jsonl"), task="ordinal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLPBP_REPORT", "on")
        return transformer_sentiment.run(dataclasses.replace(tiny, data=data, epochs=6, out=str(folder / "run"), threads=1))


def test_a_run_has_scores_baselines_and_predictions(finished: RunResult) -> None:
    result = json.loads((finished.out / "result.json").read_text())
    assert result["task"] == "ordinal"
    assert result["data"]["labels"] == ["1", "2", "3", "4", "5"]
    assert list(result["metrics"]["test"]) == ["mae", "qwk", "accuracy"]
    assert set(result["baselines"]) == {"median", "tfidf", "probe"}
    assert result["metrics"]["test"]["mae"] < result["baselines"]["median"]["test"]["mae"]
    assert all(low <= high for low, high in result["intervals"]["test"].values())
    table = pq.read_table(finished.out / "predictions.parquet").to_pydict()
    errors = [abs(int(a) - int(b)) for a, b in zip(table["label"], table["prediction"], strict=True)]
    assert np.mean(errors) == pytest.approx(finished.metrics["test"]["mae"])
    for name in ("errors.json", "calibration.json"):
        assert (finished.out / name).is_file()


def test_the_report_says_what_the_metric_means(finished: RunResult) -> None:
    page = (finished.out / "report.html").read_text()
    assert "mean absolute error" in page
    assert "quadratic weighted kappa" in page
    assert "the median class" in page
    assert "the label down, the answer across" in page


def test_the_card_gives_the_runs_own_answers_with_plain_transformers(finished: RunResult) -> None:
    card = (finished.out / "model" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    table = pq.read_table(finished.out / "predictions.parquet").to_pydict()
    texts = [row["text"] for row in reviews()]
    code = code.replace("PATH/TO/THIS/FOLDER", str(finished.out / "model"))
    answers = []
    for index in table["id"]:
        names: dict[str, Any] = {}
        exec(code.replace('"Some text."', repr(texts[index])), names)
        answers.append(names["answer"])
    assert answers == table["prediction"]


def test_predict_answers_as_the_run_did(finished: RunResult, tmp_path: Path) -> None:
    source = finished.out.parent / "reviews.jsonl"
    for model in (finished.out, finished.out / "model"):
        done = run_script("predict", str(model), "--data", str(source), "--out", str(tmp_path / "new.jsonl"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line)["prediction"] for line in (tmp_path / "new.jsonl").read_text().splitlines()]
        table = pq.read_table(finished.out / "predictions.parquet").to_pydict()
        assert [answers[index] for index in table["id"]] == table["prediction"]
    assert "mae:" in run_script("predict", str(finished.out), "--data", str(source), "--out", "p.csv", cwd=tmp_path).stdout


def test_a_recurrent_classifier_can_be_ordinal_too(tmp_path: Path) -> None:
    tiny = gru_classifier.tiny()
    data = dataclasses.replace(tiny.data, train=reviews(), task="ordinal")  # type: ignore[arg-type]
    result = gru_classifier.run(dataclasses.replace(tiny, data=data, out=str(tmp_path / "run"), threads=1))
    assert result.metrics["test"]["mae"] < result.baselines["median"]["test"]["mae"]


def test_stars_are_never_taken_for_ordinal_unasked() -> None:
    assert infer_fields(read_table(reviews(50))).task == "single_label"


def test_an_order_that_the_task_does_not_learn_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, told = transformer_sentiment.tiny(), "single_label ignores the order of the labels"
    data = dataclasses.replace(tiny.data, train=reviews(60), label="stars", text=("text",), label_order=("1", "2", "3", "4", "5"))
    for task, is_told in (("single_label", True), ("ordinal", False)):
        chosen = dataclasses.replace(data, task=task)  # type: ignore[arg-type]
        transformer_sentiment.run(dataclasses.replace(tiny, data=chosen, epochs=1, out=str(tmp_path / task), threads=1))
        assert (told in capsys.readouterr().out) is is_told


def test_a_class_that_no_training_text_has_is_told() -> None:
    rows = [{"text": f"a text {index}", "stars": 1 + index % 2, "at": f"2024-01-{1 + index % 20:02}"} for index in range(100)]
    late = [{"text": f"a late text {index}", "stars": 3, "at": "2024-02-01"} for index in range(10)]
    notes = load_inputs(Data(train=[*rows, *late], time="at", task="ordinal")).notes  # type: ignore[arg-type]
    assert any("has the label 3" in note for note in notes), notes


def test_names_need_an_order_and_get_it(tmp_path: Path) -> None:
    names = {1: "poor", 2: "fair", 3: "good", 4: "great", 5: "superb"}
    rows = [{**row, "stars": names[row["stars"]]} for row in reviews(60)]
    tiny = transformer_sentiment.tiny()
    data = dataclasses.replace(tiny.data, train=rows, task="ordinal", label="stars", text=("text",))
    with pytest.raises(ConfigError, match="order of the labels 'fair', 'good', 'great', 'poor', 'superb' is not known") as error:
        transformer_sentiment.run(dataclasses.replace(tiny, data=data, out=str(tmp_path / "a"), threads=1))
    assert error.value.column == "data.label_order"
    ordered = dataclasses.replace(data, label_order=tuple(names.values()))
    result = transformer_sentiment.run(dataclasses.replace(tiny, data=ordered, epochs=1, out=str(tmp_path / "b"), threads=1))
    assert json.loads((result.out / "result.json").read_text())["data"]["labels"] == list(names.values())
    for wrong, told in ((("poor", "fair"), "does not name the label good"), (("poor", "poor"), "names a label twice")):
        with pytest.raises(ConfigError, match=told):
            infer_fields(read_table(rows), text=["text"], label="stars", label_order=wrong)


def test_numbers_are_ordered_by_value() -> None:
    rows = [{"text": f"a text {index}", "stars": stars} for index, stars in enumerate(["10", "9", "2.5", "2", "10"])]
    assert infer_fields(read_table(rows), label="stars", task="ordinal").labels == ("2", "2.5", "9", "10")


def test_a_focal_loss_is_refused_and_the_task_is_in_the_table(tmp_path: Path) -> None:
    tiny = transformer_sentiment.tiny()
    config = dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, train=reviews(60), task="ordinal"),
        optim=dataclasses.replace(tiny.optim, focal_gamma=2.0),
        out=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match="not defined for the task ordinal"):
        transformer_sentiment.run(config)
    assert get_task("ordinal").main.name == "mae"
