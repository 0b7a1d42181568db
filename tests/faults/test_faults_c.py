"""Faults of the numbers: what is not finite, overflow, masked labels, undefined metrics, BatchNorm."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from harness import killed_run, save_small, saved_steps, steps_of, train
from torch import nn

from nlpbp.config.data import Data
from nlpbp.core.batch import Batch, CountedLoss, count_examples
from nlpbp.core.errors import CheckpointError, ConfigError, DataError, NumericError
from nlpbp.core.losses import balanced_class_weights
from nlpbp.core.optim import adamw
from nlpbp.core.schedules import constant
from nlpbp.data.order import evaluation_batches, grouped_steps, steps_per_epoch
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import read_table
from nlpbp.data.tiny import tiny_reviews
from nlpbp.evaluation.calibration import fit_temperature
from nlpbp.runs import folder
from nlpbp.runs import progress as saving
from nlpbp.tasks import bootstrap_intervals, task_loss, task_metrics
from nlpbp.tasks.baselines import constant_baseline, tfidf_baseline
from nlpbp.train import checkpoint
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import train_steps
from nlpbp.train.lr_finder import find_rate
from nlpbp.trainers import targets


def linear(*, outputs: int = 2) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, outputs)


def batch(ids: Sequence[int], *, labels: list[int] | None = None) -> Batch:
    rows = torch.tensor([[math.sin(i), math.cos(i), 1.0] for i in ids])
    return Batch({"input": rows}, torch.tensor(labels or [i % 2 for i in ids]), torch.tensor(list(ids)))


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return task_loss(model(batch.inputs["input"]), batch.labels, task="single_label")


def labelled(batch: Batch) -> int:
    return int((batch.labels != -100).sum())


def steps(
    model: nn.Module,
    windows: Sequence[Sequence[Batch]],
    *,
    loss_fn: Any = loss_of,
    count: Any = count_examples,
    accelerator: Any = None,
    optimizer: Any = None,
    **options: Any,
) -> Any:
    return train_steps(
        model,
        windows,
        optimizer or torch.optim.SGD(model.parameters(), lr=0.1),
        accelerator=accelerator or Accelerator(cpu=True),
        loss_fn=CountedLoss(loss_fn, count),
        schedule=constant(),
        total_steps=len(windows),
        **options,
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def check_bad_loss(value: float) -> None:
    model = linear()

    def loss_fn(model: nn.Module, batch: Batch) -> torch.Tensor:
        return loss_of(model, batch) + (value if 7 in batch.ids else 0.0)

    run = steps(model, [[batch([0, 1])], [batch([2, 3])], [batch([4, 5]), batch([6, 7])]], loss_fn=loss_fn)
    assert [next(run).step, next(run).step] == [1, 2]
    before = copy.deepcopy(model)
    with pytest.raises(NumericError) as error:
        next(run)
    assert error.value.code == 5
    assert "step 3 (norm " in error.value.message
    assert "rate 1.00e-01" in error.value.message
    assert "[6, 7]" in error.value.message
    assert same(model, before)


@pytest.mark.fault("C1")
def test_a_loss_that_is_no_number_stops_before_the_optimizer_moves() -> None:
    check_bad_loss(float("nan"))


@pytest.mark.fault("C1")
def test_a_run_whose_loss_is_no_number_keeps_its_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = targets.classifier_loss, {"micro": 0}

    def classifier_loss(**options: Any) -> Any:
        loss_fn = original(**options)

        def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
            calls["micro"] += 1
            return loss_fn(model, batch) * (float("nan") if calls["micro"] == 16 else 1.0)

        return loss

    monkeypatch.setattr(targets, "classifier_loss", classifier_loss)
    with pytest.raises(NumericError) as error:
        train(tmp_path / "run")
    assert "step 8" in error.value.message
    assert saved_steps(tmp_path / "run") == [3, 6]
    assert len(steps_of(tmp_path / "run")) == 7


@pytest.mark.fault("C2")
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_loss_stops_before_the_optimizer_moves(value: float) -> None:
    check_bad_loss(value)


@pytest.mark.fault("C3")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_gradient_that_is_no_number_is_named_and_not_applied(value: float) -> None:
    model = nn.Sequential(linear(outputs=3), nn.Tanh(), linear())
    model[2].bias.register_hook(lambda grad: torch.where(torch.tensor([True, False]), grad * value, grad))
    before = copy.deepcopy(model)
    with pytest.raises(NumericError) as error:
        list(steps(model, [[batch([1, 2, 3])]]))
    assert error.value.code == 5
    assert "2.bias" in error.value.message
    assert same(model, before)


@pytest.mark.fault("C4")
def test_a_gradient_that_explodes_is_clipped_and_counted(tmp_path: Path) -> None:
    def exploding(model: nn.Module, batch: Batch) -> torch.Tensor:
        return loss_of(model, batch) * (1e8 if 3 in batch.ids else 1e-3)

    model = linear()
    before = copy.deepcopy(model)
    quiet, loud = steps(model, [[batch([1, 2])], [batch([3, 4])]], loss_fn=exploding, max_grad_norm=1.0)
    assert (quiet.clipped, loud.clipped) == (False, True)
    assert loud.grad_norm > 1e6
    moved = torch.cat([(x - y).flatten() for x, y in zip(model.parameters(), before.parameters(), strict=True)])
    assert moved.norm().item() <= 0.1 * (1.0 + 1e-3) + 1e-6
    result = train(tmp_path / "run", epochs=1, optim={"max_grad_norm": 1e-9})
    assert json.loads((result.out / "result.json").read_text())["clipped_share"] == 1.0


@pytest.mark.fault("C5")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float) -> None:
    save_small(tmp_path, 1)
    with pytest.raises(CheckpointError) as error:
        checkpoint.write_checkpoint(
            tmp_path, step=2, tensors={"model.safetensors": {"w": torch.tensor([1.0, value])}}, files={}, state={}, identity={}
        )
    assert error.value.code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.fault("C5")
def test_weights_that_are_not_finite_are_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = saving.full_state

    def poisoned(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: torch.full_like(tensor, float("nan")) for name, tensor in original(model).items()}

    with monkeypatch.context() as patch:
        patch.setattr(saving, "full_state", poisoned)
        patch.setattr(checkpoint, "_refuse_non_finite", lambda *given: None)
        killed_run(patch, tmp_path / "run", step=4)
    with pytest.raises(CheckpointError) as error:
        train(tmp_path / "run")
    assert error.value.code == 4


def half_precision(*, fused: bool) -> tuple[Accelerator, nn.Module, AcceleratedOptimizer]:
    """What accelerate sets up for fp16 on a GPU, on the CPU: a scaler around the optimizer and the loss."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = linear()
    groups = [{"params": list(model.parameters()), "lr": 0.1}]
    optimizer = adamw(groups) if fused else torch.optim.SGD(groups)
    return accelerator, model, AcceleratedOptimizer(optimizer, scaler=accelerator.scaler)


def overflowing(example: int) -> Any:
    """A loss in fp16 whose gradient is beyond 65504, the largest number of fp16, for one example."""

    def loss_fn(model: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(**batch.inputs)
        return (logits * (6e4 if example in batch.ids else 1.0)).sum()

    return loss_fn


@pytest.mark.fault("C6")
@pytest.mark.parametrize("fused", [True, False], ids=["our AdamW", "plain SGD"])
def test_an_overflow_in_fp16_skips_the_step_and_halves_the_scale(fused: bool) -> None:
    accelerator, model, optimizer = half_precision(fused=fused)
    run = steps(
        model, [[batch([1])], [batch([5])], [batch([2])]], loss_fn=overflowing(5), accelerator=accelerator, optimizer=optimizer
    )
    assert not next(run).skipped
    scale, before = accelerator.scaler.get_scale(), copy.deepcopy(model)
    assert next(run).skipped
    assert same(model, before)
    assert accelerator.scaler.get_scale() == scale / 2
    assert not next(run).skipped
    assert not same(model, before)


@pytest.mark.fault("C7")
def test_an_overflow_in_every_step_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**options: Any) -> Accelerator:
        accelerator = original(**options)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=3e38, backoff_factor=0.999)
        return accelerator

    def beyond(**options: Any) -> Any:
        loss_fn = plain(**options)
        return lambda model, given: loss_fn(model, given) * 1e3  # finite, and beyond every number once it is scaled

    original, plain = folder.start, targets.classifier_loss
    monkeypatch.setattr(folder, "start", start)
    monkeypatch.setattr(targets, "classifier_loss", beyond)
    with pytest.raises(NumericError) as error:
        train(tmp_path / "run", checkpoint={"save_steps": None})
    assert error.value.code == 5
    assert "bf16" in str(error.value.hint)
    assert len(steps_of(tmp_path / "run")) == 20
    assert all(step["skipped"] for step in steps_of(tmp_path / "run"))


@pytest.mark.fault("C8")
def test_the_loss_over_labels_that_are_all_masked_is_zero() -> None:
    model = linear()
    for smoothing in (0.0, 0.1):
        logits = model(batch([1, 2]).inputs["input"])
        loss = task_loss(logits, torch.tensor([-100, -100]), task="single_label", label_smoothing=smoothing)
        loss.backward()
        assert loss.item() == 0.0
        assert model.weight.grad.abs().max().item() == 0.0
    plain = task_loss(model(batch([1, 2]).inputs["input"]), torch.tensor([1, -100]), task="single_label")
    alone = task_loss(model(batch([1]).inputs["input"]), torch.tensor([1]), task="single_label")
    assert plain.item() == pytest.approx(alone.item(), abs=1e-6)


@pytest.mark.fault("C8")
def test_a_masked_micro_batch_changes_nothing_and_a_masked_step_is_counted() -> None:
    with_masked, without = linear(), linear()
    (step,) = steps(with_masked, [[batch([1, 2]), batch([3, 4], labels=[-100, -100])]], count=labelled)
    list(steps(without, [[batch([1, 2])]], count=labelled))
    assert same(with_masked, without)
    assert step.num_items == 2
    before = copy.deepcopy(with_masked)
    (step,) = steps(with_masked, [[batch([3, 4], labels=[-100, -100])]], count=labelled)
    assert (step.loss, step.num_items) == (0.0, 0)
    assert same(with_masked, before)


@pytest.mark.fault("C9")
def test_texts_of_length_zero_are_kept_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tiny_reviews(num_examples=60).columns
    rows["text"][4], rows["text"][9] = "", "   "
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in zip(rows["text"], rows["label"], strict=True)))
    notes = " ".join(load_inputs(Data(train=str(path))).notes)
    assert "reviews.csv:6" in notes
    assert "reviews.csv:11" in notes
    train(tmp_path / "run", data={"train": str(path)}, epochs=1)
    assert "reviews.csv:6" in capsys.readouterr().out


@pytest.mark.fault("C10")
def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", data={"max_length": 65})
    assert (error.value.code, error.value.column) == (2, "data.max_length")
    assert "64" in str(error.value)


@pytest.mark.fault("C10")
def test_longer_texts_are_cut_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tiny_reviews(num_examples=60).columns
    rows["text"] = [text + " wonderful" * (100 if index < 7 else 0) for index, text in enumerate(rows["text"])]
    train(tmp_path / "run", data={"train": rows, "max_length": 64}, epochs=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "are cut to 64 tokens" in line]
    assert sum(int(line.split(": ")[1].split(" of")[0]) for line in lines) == 7


def classes_file(path: Path, ids: list[int]) -> Path:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pyarrow.table({"text": [f"text {i}" for i in range(len(ids))], "label": ids})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path)
    return path


@pytest.mark.fault("C11")
@pytest.mark.parametrize("number", [2, 99, -2])
def test_a_class_number_without_a_class_is_told_with_its_row(tmp_path: Path, number: int) -> None:
    path = classes_file(tmp_path / "a.parquet", [0, 1, 0, number])
    with pytest.raises(DataError) as error:
        read_table(path)
    assert (error.value.code, error.value.file, error.value.row, error.value.column) == (3, str(path), 4, "label")


@pytest.mark.fault("C11")
def test_class_numbers_with_a_class_become_its_name(tmp_path: Path) -> None:
    assert read_table(classes_file(tmp_path / "a.parquet", [0, 1, 0, 1])).columns["label"] == ["neg", "pos", "neg", "pos"]


@pytest.mark.fault("C12")
def test_a_class_that_is_absent_from_training_divides_nothing_by_zero() -> None:
    """What counts classes are the weights by their frequency, the baselines and the metrics."""
    weights = balanced_class_weights(torch.tensor([0, 2, 2, 0]), num_labels=3)
    assert weights.isfinite().all()
    targets = np.array([0, 2, 2, 0])
    texts = ["good fun", "bad plot", "so bad", "so good"]
    (tfidf,) = tfidf_baseline("single_label", texts, targets, [["good plot", "bad"]], num_labels=3)
    majority = constant_baseline("single_label", targets, num_examples=2, num_labels=3)
    for outputs in (tfidf, majority):
        assert np.isfinite(outputs).all()
        assert outputs[:, 1].max() == 0.0
        metrics = task_metrics("single_label", np.array([1, 0]), outputs)
        assert all(value is not None and math.isfinite(value) for value in metrics.values())


@pytest.mark.fault("C13")
@pytest.mark.parametrize(
    ("start", "end", "num_steps", "told"),
    [(10.0, 1e9, 40, "diverged"), (1e-12, 1e-11, 40, "noise"), (1e-6, 1.0, 1, "only 0 steps")],
    ids=["diverges", "flat", "one point"],
)
def test_a_rate_search_that_finds_nothing_suggests_nothing_and_leaves_the_model_alone(
    start: float, end: float, num_steps: int, told: str
) -> None:
    model = linear()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def make_steps(schedule: Any, total_steps: int, order: int) -> Any:
        numbers = np.random.default_rng(order)
        batches = [[batch(numbers.integers(0, 50, size=4).tolist())] for _ in range(total_steps)]
        return train_steps(
            model,
            batches,
            optimizer,
            accelerator=Accelerator(cpu=True),
            loss_fn=lambda model, batch: loss_of(model, batch) * (1e30 if start > 1.0 else 1.0),
            schedule=schedule,
            total_steps=total_steps,
            max_grad_norm=None,
        )

    found = find_rate(
        make_steps,
        model=model,
        optimizer=optimizer,
        accelerator=Accelerator(cpu=True),
        start=start,
        end=end,
        num_steps=num_steps,
    )
    assert found.suggestions == {}
    assert found.refused is not None and told in found.refused
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.fault("C13")
def test_a_run_whose_rate_is_not_found_stops_with_the_fix_and_its_curve(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no learning rate") as error:
        train(tmp_path / "run", optim={"lr": "auto"}, finder={"start": 1e-12, "end": 1e-11, "num_sweeps": 1})
    assert error.value.column == "optim.lr"
    assert (tmp_path / "run" / "lr_finder_1.svg").exists()


@pytest.mark.fault("C14")
def test_a_metric_that_is_undefined_is_null() -> None:
    none, outputs = np.zeros((3, 2), dtype=int), np.full((3, 2), 0.1)
    assert task_metrics("multi_label", none, outputs) == {"micro_f1": None, "macro_f1": None}
    assert set(bootstrap_intervals("multi_label", none, outputs, num_resamples=10).values()) == {None}
    assert task_metrics("multi_label", none + 1, outputs + 0.5)["micro_f1"] == 1.0


@pytest.mark.fault("C14")
def test_an_evaluation_with_one_class_finishes_with_finite_numbers(tmp_path: Path) -> None:
    test = {"text": ["this film is dull", "the plot was awful"], "label": ["neg", "neg"]}
    result = train(tmp_path / "run", data={"test": test}, epochs=1)
    assert all(value is not None and math.isfinite(value) for value in result.metrics["test"].values())


@pytest.mark.fault("C15")
def test_a_constant_target_makes_the_rank_correlation_null(tmp_path: Path) -> None:
    texts = tiny_reviews(num_examples=80).columns["text"]
    rows = {"text": texts, "label": [i * 0.37 % 3 for i in range(80)]}
    test = {"text": texts[:5], "label": [1.5] * 5}
    result = train(tmp_path / "run", data={"train": rows, "test": test}, epochs=1)
    assert result.metrics["test"]["spearman"] is None
    assert result.metrics["validation"]["spearman"] is not None
    saved = json.loads((result.out / "result.json").read_text())
    assert saved["metrics"]["test"]["spearman"] is None
    assert math.isfinite(saved["metrics"]["test"]["rmse"])


@pytest.mark.fault("C16")
@pytest.mark.parametrize(
    ("task", "labels", "wanted"),
    [
        ("single_label", torch.tensor([0]), 0.0),
        ("single_label", torch.tensor([1]), 2e4),
        ("multi_label", torch.tensor([[1.0, 0.0]]), 0.0),
        ("multi_label", torch.tensor([[0.0, 1.0]]), 1e4),
    ],
)
def test_logits_of_ten_thousand_give_a_finite_loss_and_gradient(task: str, labels: torch.Tensor, wanted: float) -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = task_loss(logits, labels, task=task)
    loss.backward()
    assert loss.item() == pytest.approx(wanted)
    assert logits.grad.isfinite().all()
    assert task_loss(logits.half(), labels, task=task).isfinite()


class Normalised(nn.Module):
    """A head with BatchNorm, as those of recurrent classifiers have."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, input: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.linear(self.norm(input)))


@pytest.mark.fault("C17")
@pytest.mark.parametrize("targets", [[0, 0, 0, 0], [1, 1, 1, 1]], ids=["all right", "all wrong"])
def test_a_temperature_that_runs_away_is_one_and_says_why(targets: list[int]) -> None:
    logits = np.array([[3.0, 0.0], [9.0, 0.0], [2.0, 0.0], [1e4, 0.0]])
    fitted = fit_temperature(logits, np.array(targets), task="single_label")
    assert fitted.value == 1.0
    assert fitted.problem is not None
    assert "no minimum" in fitted.problem


@pytest.mark.fault("C17")
def test_a_search_that_is_cut_short_falls_back_to_one() -> None:
    logits, targets = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    fitted = fit_temperature(logits, targets, task="single_label", max_iterations=1)
    assert (fitted.value, fitted.problem) == (1.0, "the search for a temperature did not converge in 1 steps")
    assert fit_temperature(logits, targets, task="single_label").value == pytest.approx(4 / math.log(3))


@pytest.mark.fault("C17")
def test_logits_that_are_not_finite_are_named_and_not_fitted() -> None:
    with pytest.raises(NumericError, match="example 1") as error:
        fit_temperature(np.array([[1.0, 0.0], [np.nan, 0.0]]), np.array([0, 1]), task="single_label")
    assert error.value.code == 5


@pytest.mark.fault("C18")
def test_a_rest_of_one_example_trains_and_is_evaluated_under_batch_norm() -> None:
    lengths = np.full(17, 4)  # 17 examples in steps of 4: one is left over
    with pytest.raises(ValueError, match="more than 1 value"):
        Normalised()(batch([1]).inputs["input"])
    model = Normalised()
    plan = grouped_steps(lengths, size=4, seed=0, epoch=0, min_size=2)
    assert len(plan) == steps_per_epoch(lengths, size=4, min_size=2)
    assert min(map(len, plan)) >= 2
    assert sorted(int(i) for step in plan for i in step) == list(range(17))
    windows = [[batch(ids.tolist())] for ids in plan]
    done = list(steps(model, windows, loss_fn=lambda m, b: task_loss(m(**b.inputs).logits, b.labels, task="single_label")))
    assert all(math.isfinite(step.loss) for step in done)
    one_by_one = [np.array([i]) for i in range(17)]
    made = [
        predict(model, plan, lambda ids: batch(ids.tolist()), accelerator=Accelerator(cpu=True)).logits
        for plan in (one_by_one, evaluation_batches(lengths, max_tokens=32))
    ]
    assert np.allclose(made[0], made[1], atol=1e-6)
