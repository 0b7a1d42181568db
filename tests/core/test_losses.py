from __future__ import annotations

import math

import pytest
import torch

from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import task_loss, task_outputs


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    for task, labels in (("single_label", torch.tensor([1])), ("multi_label", torch.tensor([[0.0, 1.0]]))):
        logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
        loss = task_loss(logits, labels, task=task)
        loss.backward()
        assert logits.grad is not None
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_losses_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert task_loss(logits, torch.tensor([0]), task="single_label").item() == pytest.approx(-math.log(0.75))
    smoothed = -0.95 * math.log(0.75) - 0.05 * math.log(0.25)
    assert task_loss(logits, torch.tensor([0]), task="single_label", label_smoothing=0.1).item() == pytest.approx(smoothed)
    two = task_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), task="multi_label")
    assert two.item() == pytest.approx(math.log(2))
    assert task_loss(torch.tensor([[3.0]]), torch.tensor([1.0]), task="regression").item() == 4.0


def test_two_true_labels_can_both_be_learned_with_sigmoids_but_not_with_a_softmax() -> None:
    both = torch.tensor([[20.0, 20.0]])
    assert task_loss(both, torch.tensor([[1.0, 1.0]]), task="multi_label").item() < 1e-6
    assert -both.log_softmax(-1).mean().item() == pytest.approx(math.log(2))


def test_outputs_are_probabilities_or_values() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert task_outputs(logits, task="single_label").tolist() == [pytest.approx([0.25, 0.75])]
    assert task_outputs(logits, task="multi_label").tolist() == [pytest.approx([0.5, 0.75])]
    assert task_outputs(torch.tensor([[2.5]]), task="regression").tolist() == [2.5]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="ranking"):
        task_loss(torch.zeros(1, 1), torch.zeros(1), task="ranking")


def test_a_shift_needs_a_bias_and_an_output_layer_must_exist() -> None:
    with pytest.raises(ValueError, match="bias"):
        fold_affine_(torch.nn.Linear(1, 1, bias=False), scale=1.0, shift=1.0)
    with pytest.raises(ValueError, match="3 outputs"):
        output_layer(torch.nn.Linear(1, 1), num_outputs=3)
