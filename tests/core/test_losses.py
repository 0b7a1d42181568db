from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nlpbp.core import losses
from nlpbp.core.layers import fold_affine_, output_layer
from nlpbp.core.losses import chunked_cross_entropy
from nlpbp.tasks import task_loss, task_outputs


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


def logits_of(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Make hidden vectors [3, 5, 4], a decoder of 7 words and labels of which some are not to count."""
    torch.manual_seed(0)
    given = [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((3, 5, 4), (7, 4), (7,))]
    labels = torch.randint(7, (3, 5))
    labels[0, :2] = labels[2, 4] = -100
    return given if bias else given[:2], labels


@pytest.mark.parametrize("rows_at_a_time", [1, 4, 15, 1000])
@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_in_chunks_has_the_value_and_the_gradients_of_the_loss_at_once(
    rows_at_a_time: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_A_TIME", 7 * rows_at_a_time)
    monkeypatch.setattr(losses, "MIN_ROWS", 1)
    (hidden, weight, *rest), labels = logits_of(bias=bias)
    given = [hidden, weight, *rest]
    chunked = chunked_cross_entropy(hidden, weight, rest[0] if rest else None, labels)
    whole = F.cross_entropy(F.linear(hidden, weight, *rest).flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert torch.allclose(chunked, whole, atol=1e-6)
    assert chunked.item() == pytest.approx(whole.item(), abs=1e-6)
    for mine, theirs in zip(torch.autograd.grad(3 * chunked, given), torch.autograd.grad(3 * whole, given), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
        assert theirs.abs().max() > 0.01


def test_labels_that_do_not_count_add_no_loss_and_no_gradient() -> None:
    (hidden, weight, bias), labels = logits_of()
    loss = chunked_cross_entropy(hidden, weight, bias, labels.fill_(-100))
    assert loss.item() == 0.0
    assert all(grad.eq(0).all() for grad in torch.autograd.grad(loss, (hidden, weight, bias)))


def test_the_loss_of_bf16_inputs_is_in_fp32_and_near_that_of_fp32() -> None:
    low, labels = logits_of(torch.bfloat16)
    loss = chunked_cross_entropy(low[0], low[1], low[2], labels)
    exact = [tensor.detach().float().requires_grad_() for tensor in low]
    whole = F.cross_entropy(F.linear(*exact).flatten(0, 1), labels.flatten())
    assert loss.dtype == torch.float32
    assert loss.bfloat16().item() != loss.item()  # not rounded with its inputs
    assert loss.item() == pytest.approx(whole.item(), rel=1e-2)
    for mine, theirs in zip(torch.autograd.grad(loss, low), torch.autograd.grad(whole, exact), strict=True):
        assert mine.dtype == torch.bfloat16
        assert torch.allclose(mine.float(), theirs, atol=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chunked_cross_entropy(exact[0], exact[1], exact[2], labels).item() == pytest.approx(loss.item(), abs=1e-6)
