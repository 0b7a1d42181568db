"""A new output layer begins at the best constant answer: what that is, where it is not given, and what it is good for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nlpbp.core.layers import output_layer, scaled_sigmoid, widened
from nlpbp.data.parts import load_inputs
from nlpbp.tasks import task_loss, task_outputs
from nlpbp.tasks.task import get_task
from nlpbp.text.recurrent import new_classifier
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import load_classifier, load_config, load_tokenizer
from nlpbp.trainers.targets import begin_with_constant_, initial_bias
from nlpbp.vision.pretrained import load_image_classifier, tiny_residual
from recipes import transformer_sentiment

RARE = (np.random.default_rng(0).random((4000, 20)) < np.linspace(0.005, 0.2, 20)).astype(np.float32)
IMBALANCED = np.repeat([0, 1, 2], [900, 90, 10])


@pytest.mark.parametrize(("task", "targets"), [("multi_label", RARE), ("single_label", IMBALANCED), ("ordinal", IMBALANCED)])
def test_at_the_initial_bias_the_loss_is_that_of_the_best_constant_answer(task: str, targets: Any) -> None:
    found, num_labels = get_task(task), 20 if task == "multi_label" else 3
    assert found.initial_bias is not None
    bias = torch.from_numpy(found.initial_bias(targets, num_labels)).float()
    labels = torch.from_numpy(targets)
    begun, at_zero = (task_loss(logits.expand(len(targets), -1), labels, task=task).item() for logits in (bias, 0 * bias))
    assert begun == pytest.approx(found.chance_loss(targets), rel=2e-3)
    assert at_zero > 1.8 * begun
    assert task_outputs(bias.unsqueeze(0), task=task).numpy()[0] == pytest.approx(found.constant(targets, num_labels), abs=1e-3)


def test_labels_that_never_or_always_hold_begin_at_finite_logits() -> None:
    for task, targets in (("multi_label", np.array([[0, 1]] * 5)), ("single_label", np.zeros(5, dtype=int))):
        find = get_task(task).initial_bias
        assert find is not None
        bias = find(targets, 2)
        assert np.isfinite(bias).all()
        assert abs(bias[1] - bias[0]) > 2


def bias_of(rows: list[dict[str, Any]], *, optim: dict[str, Any] | None = None, **data: Any) -> np.ndarray[Any, Any] | None:
    tiny = transformer_sentiment.tiny()
    given = dataclasses.replace(tiny.data, train=rows, label="label", **data)
    return initial_bias(
        dataclasses.replace(tiny, data=given, optim=dataclasses.replace(tiny.optim, **(optim or {}))), load_inputs(given)
    )


def test_classes_that_are_weighted_or_drawn_alike_begin_at_0() -> None:
    rows = [{"text": f"film {i}", "label": "good" if i % 4 else "bad"} for i in range(80)]
    found = bias_of(rows)
    assert found is not None
    assert found[1] - found[0] == pytest.approx(np.log(3), abs=0.1)
    assert bias_of(rows, optim={"class_weights": "auto"}) is None
    assert bias_of(rows, balanced_sampling=True) is None


def test_a_number_in_a_range_begins_at_the_mean() -> None:
    rows = [{"text": f"film {i}", "label": 1.0 + i % 3 / 10 + i / 1000} for i in range(100)]
    found = bias_of(rows, value_range=(1.0, 5.0))
    assert found is not None
    low, high = widened(1.0, 5.0)
    mean = float(np.mean([row["label"] for row in rows]))
    assert scaled_sigmoid(torch.from_numpy(found), low=low, high=high, margin=0.0).item() == pytest.approx(mean, abs=0.03)
    assert bias_of(rows) is None  # without a range the targets are standardised


def test_a_head_that_has_been_trained_keeps_its_bias() -> None:
    trained, without = nn.Linear(4, 2), nn.Linear(4, 2, bias=False)
    before = trained.bias.tolist()
    for layer in (trained, without):
        begin_with_constant_(layer, np.array([-3.0, 3.0]))
    assert trained.bias.tolist() == before


def test_the_new_heads_of_all_kinds_of_models_are_known_for_new(tmp_path: Path) -> None:
    labels = [f"label {n}" for n in range(7)]
    bert = str(tiny_bert(tmp_path / "bert"))
    tokenizer = load_tokenizer(bert)
    cells = {"vocab_size": 20, "embedding_size": 4, "hidden_size": 4, "num_layers": 1, "cell": "gru"}
    models = [
        load_classifier(bert, config=load_config(bert, task="multi_label", labels=labels), tokenizer=tokenizer),
        new_classifier(cells, task="multi_label", labels=labels, dropout=1.0, seed=0),
        load_image_classifier(str(tiny_residual(tmp_path / "net")), task="multi_label", labels=labels),
    ]
    bias = np.linspace(-3.0, 3.0, 7)
    for model in models:
        layer = output_layer(model, num_outputs=7)
        begin_with_constant_(layer, bias)
        assert layer.bias.tolist() == pytest.approx(bias)


def test_of_many_rare_labels_more_is_learned_in_as_many_steps() -> None:
    torch.manual_seed(0)
    inputs, truth = torch.randn(400, 16), torch.randn(16, 60)
    targets = (inputs @ truth > 8.0).float()  # of 400 examples about 10 each
    losses = []
    for begun in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(16, 60)
        nn.init.zeros_(layer.bias)
        find = get_task("multi_label").initial_bias
        assert find is not None
        begin_with_constant_(layer, find(targets.numpy(), 60) if begun else None)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
        for _ in range(100):
            loss = task_loss(layer(inputs), targets, task="multi_label")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] < 0.7 * losses[0], losses
