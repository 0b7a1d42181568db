"""Weights and focus in the loss: what they are, that they add up like one big batch, and what they are good for (A1, A2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nlpbp.core.batch import Batch
from nlpbp.core.losses import balanced_class_weights, looks_normalised
from nlpbp.tasks import classifier_loss, task_loss


def test_weighted_losses_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    weights = torch.tensor([0.5, 4.0])
    loss = task_loss(logits, torch.tensor([0, 1]), task="single_label", class_weights=weights)
    assert loss.item() == pytest.approx((-0.5 * math.log(0.75) + 4.0 * math.log(2)) / 2)
    several = task_loss(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), task="multi_label", class_weights=weights)
    assert several.item() == pytest.approx((-0.5 * math.log(0.75) + math.log(2) + math.log(2) + 4.0 * math.log(2)) / 4)


def test_the_weight_of_the_label_multiplies_the_smoothed_loss() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    smoothed = -0.95 * math.log(0.75) - 0.05 * math.log(0.25)
    loss = task_loss(logits, torch.tensor([0]), task="single_label", label_smoothing=0.1, class_weights=torch.tensor([3.0, 100.0]))
    assert loss.item() == pytest.approx(3 * smoothed)


def test_focal_losses_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert task_loss(logits, torch.tensor([0]), task="single_label", focal_gamma=2.0).item() == pytest.approx(
        -(0.25**2) * math.log(0.75)
    )
    assert task_loss(logits, torch.tensor([1]), task="single_label", focal_gamma=0.5).item() == pytest.approx(
        -(0.75**0.5) * math.log(0.25)
    )
    several = task_loss(
        logits, torch.tensor([[1.0, 0.0]]), task="multi_label", focal_gamma=2.0, class_weights=torch.tensor([10.0, 10.0])
    )
    assert several.item() == pytest.approx((-10 * 0.25**2 * math.log(0.75) + 0.5**2 * math.log(2)) / 2)


TASKS = {
    "single_label": torch.tensor([0, 2, 1, -100, 2]),
    "multi_label": torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
}


@pytest.mark.parametrize("task", TASKS)
def test_gamma_0_and_weights_of_1_are_the_plain_loss(task: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), TASKS[task]
    plain = task_loss(logits, labels, task=task)
    assert task_loss(logits, labels, task=task, focal_gamma=0.0, class_weights=torch.ones(3)).item() == plain.item()
    assert task_loss(logits, labels, task=task, focal_gamma=1e-6).item() == pytest.approx(plain.item(), rel=1e-5)
    assert task_loss(logits, labels, task=task, focal_gamma=1.0).item() < 0.9 * plain.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_logits_of_ten_thousand_are_finite_with_weights_and_focus(task: str, right: bool, gamma: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4]], dtype=dtype, requires_grad=True)
    index = 0 if right else 1
    labels = torch.tensor([index]) if task == "single_label" else F.one_hot(torch.tensor([index]), 2).float()
    loss = task_loss(logits, labels, task=task, focal_gamma=gamma, class_weights=torch.tensor([2.0, 3.0]))
    loss.backward()
    assert loss.item() == 0.0 if right else loss.item() > 1e4
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.any() != right


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("task", TASKS)
def test_two_unequal_parts_of_a_batch_add_up_to_the_whole(task: str, gamma: float) -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(5, 3), TASKS[task], torch.tensor([0.2, 1.0, 9.0])
    counts = [1, 3] if task == "single_label" else [1, 4]  # one label does not count
    parts = [
        task_loss(logits[rows], labels[rows], task=task, class_weights=weights, focal_gamma=gamma) * count
        for rows, count in zip((slice(0, 1), slice(1, 5)), counts, strict=True)
    ]
    whole = task_loss(logits, labels, task=task, class_weights=weights, focal_gamma=gamma)
    assert (sum(parts) / sum(counts)).item() == pytest.approx(whole.item())
    if task == "single_label":  # torch's mean does not add up: it divides by the weights
        theirs = [F.cross_entropy(logits[rows], labels[rows], weight=weights) for rows in (slice(0, 1), slice(1, 5))]
        together = (theirs[0] + 3 * theirs[1]) / 4
        assert abs(together - F.cross_entropy(logits, labels, weight=weights)) > 0.05


def test_asymmetric_losses_by_hand() -> None:
    # p = 0.75 and 0.5. The true label: 0.25 * log(4 / 3). The false one, above a margin of 0.25: 0.25 ** 2 * log(4 / 3).
    logits, labels = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[1.0, 0.0]])
    loss = task_loss(logits, labels, task="multi_label", asymmetric=(1.0, 2.0, 0.25))
    assert loss.item() == pytest.approx((0.25 + 0.0625) * math.log(4 / 3) / 2)
    weighted = task_loss(logits, labels, task="multi_label", asymmetric=(1.0, 2.0, 0.25), class_weights=torch.tensor([3.0, 9.0]))
    assert weighted.item() == pytest.approx((3 * 0.25 + 0.0625) * math.log(4 / 3) / 2)
    below = task_loss(torch.tensor([[-4.0]]), torch.tensor([[0.0]]), task="multi_label", asymmetric=(0.0, 1.0, 0.05))
    assert below.item() == pytest.approx(0.0, abs=1e-30)  # p = 0.018


def test_an_asymmetric_loss_without_asymmetry_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), TASKS["multi_label"]
    plain = task_loss(logits, labels, task="multi_label").item()
    assert task_loss(logits, labels, task="multi_label", asymmetric=(0.0, 0.0, 0.0)).item() == pytest.approx(plain, rel=1e-6)
    assert task_loss(logits, labels, task="multi_label", asymmetric=(0.0, 4.0, 0.05)).item() < 0.9 * plain


@pytest.mark.parametrize("asymmetric", [(0.0, 0.0, 0.0), (0.0, 4.0, 0.05), (0.5, 0.5, 0.0), (1.0, 4.0, 0.2)])
@pytest.mark.parametrize("logit", [1e4, 0.0, -1e4])
def test_an_asymmetric_loss_and_its_gradient_are_finite(asymmetric: tuple[float, float, float], logit: float) -> None:
    logits = torch.full((1, 2), logit, requires_grad=True)
    loss = task_loss(logits, torch.tensor([[1.0, 0.0]]), task="multi_label", asymmetric=asymmetric)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("task", ["single_label", "ordinal", "regression"])
def test_an_asymmetric_loss_is_for_several_labels(task: str) -> None:
    with pytest.raises(ValueError, match="asymmetric"):
        task_loss(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), task=task, asymmetric=(0.0, 4.0, 0.05))
    for more in ({"focal_gamma": 1.0}, {"label_smoothing": 0.1}):
        with pytest.raises(ValueError, match="asymmetric"):
            task_loss(torch.zeros(1, 2), torch.zeros(1, 2), task="multi_label", asymmetric=(0.0, 4.0, 0.05), **more)


def test_what_cannot_be_weighed_or_focused_is_refused() -> None:
    numbers = torch.zeros(2, 1), torch.zeros(2)
    with pytest.raises(ValueError, match="regression"):
        task_loss(*numbers, task="regression", class_weights=torch.ones(1))
    with pytest.raises(ValueError, match="regression"):
        task_loss(*numbers, task="regression", focal_gamma=1.0)
    for gamma, smoothing in ((2.0, 0.1), (-1.0, 0.0)):
        with pytest.raises(ValueError, match=str(gamma)):
            task_loss(torch.zeros(1, 2), torch.tensor([0]), task="single_label", focal_gamma=gamma, label_smoothing=smoothing)
    with pytest.raises(ValueError, match="label 5"):
        balanced_class_weights(torch.tensor([5]), num_labels=2)
    with pytest.raises(ValueError, match="2 labels, not 3"):
        balanced_class_weights(torch.zeros(4, 2), num_labels=3)


def test_balanced_weights_are_1_on_average_and_finite() -> None:
    targets = torch.tensor([0] * 6 + [1] * 3 + [3] + [-100])
    weights = balanced_class_weights(targets, num_labels=5)
    assert weights.tolist() == [pytest.approx(w) for w in (10 / 18, 10 / 9, 1.0, 10 / 3, 1.0)]
    assert weights[targets[:-1]].mean().item() == pytest.approx(1.0)
    several = balanced_class_weights(torch.tensor([[1.0, 0, 1], [0, 0, 1], [0, 0, 1]]), num_labels=3)
    assert several.tolist() == [2.0, 3.0, pytest.approx(1 / 3)]


def learned(loss_of: Callable[[Tensor], Tensor], inputs: Tensor, *, start: Tensor, lr: float, steps: int) -> Tensor:
    """Return the logits for `inputs` of a linear layer after some steps of gradient descent from the weights `start`."""
    layer = nn.Linear(inputs.shape[1], len(start))
    layer.weight.data.copy_(start)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(layer(inputs)).backward()
        optimizer.step()
    return layer(inputs).detach()


def test_balanced_weights_bring_back_the_recall_of_a_rare_class() -> None:
    """Two bells 1.5 apart, 19 to 1: the best threshold is at 2.71, which finds 11 % of the rare, and with weights at 0.75: 77 %."""
    torch.manual_seed(0)
    labels = (torch.arange(4000) % 20 == 0).long()
    inputs = torch.randn(4000, 1) + 1.5 * labels.unsqueeze(1)
    balanced = balanced_class_weights(labels, num_labels=2)
    recalls = []
    for weights in (None, balanced):
        logits = learned(
            lambda logits, w=weights: task_loss(logits, labels, task="single_label", class_weights=w),
            inputs,
            start=torch.zeros(2, 1),
            lr=1.0,
            steps=200,
        )
        recalls.append(logits.argmax(1)[labels == 1].float().mean().item())
    assert recalls[0] == pytest.approx(0.11, abs=0.06)
    assert recalls[1] == pytest.approx(0.77, abs=0.06)


@pytest.mark.parametrize("task", TASKS)
def test_focus_takes_the_gradient_from_easy_examples(task: str) -> None:
    def share_of_easy(gamma: float) -> float:
        logits = torch.tensor([[4.0, 0.0]] * 9 + [[-1.0, 0.0]], requires_grad=True)  # nine are right, one is wrong
        labels = torch.zeros(10, dtype=torch.int64)
        targets = labels if task == "single_label" else F.one_hot(labels, 2).float()
        (grad,) = torch.autograd.grad(task_loss(logits, targets, task=task, focal_gamma=gamma), logits)
        sizes = grad[:, 0].abs()
        return (sizes[:9].sum() / sizes.sum()).item()

    assert share_of_easy(0.0) == pytest.approx(0.18, abs=0.02)  # 9 * 0.018 of 9 * 0.018 + 0.731
    assert share_of_easy(2.0) < 0.002


def test_a_second_softmax_makes_learning_slow_and_is_noticed() -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    inputs = torch.randn(90, 3) + 4.0 * F.one_hot(labels, 3)

    def compare(start: float) -> tuple[Tensor, float, float]:
        """Return the logits after 20 steps, and the losses of a model that was trained with one softmax and with two."""
        options = {"start": start * torch.eye(3), "lr": 0.1, "steps": 20}
        once = learned(lambda logits: task_loss(logits, labels, task="single_label"), inputs, **options)
        twice = learned(lambda logits: task_loss(logits.softmax(1), labels, task="single_label"), inputs, **options)
        return once, *(task_loss(logits, labels, task="single_label").item() for logits in (once, twice))

    once, good, bad = compare(0.0)
    assert bad > 1.5 * good
    _, good, bad = compare(-2.0)  # sure of the wrong label, as a bad start can be
    assert good < 0.3
    assert bad > 8.0
    # However certain, twice normalised two labels cannot get below log(1 + 1 / e).
    floor = task_loss(torch.tensor([[1e4, -1e4]]).softmax(1), torch.tensor([0]), task="single_label").item()
    assert floor == pytest.approx(0.3133, abs=1e-4)
    assert not looks_normalised(once)
    assert looks_normalised(once.softmax(1))


def test_only_rows_of_probabilities_look_normalised() -> None:
    torch.manual_seed(0)
    probabilities = torch.randn(16, 5).softmax(1)
    assert looks_normalised(probabilities)
    assert looks_normalised(probabilities.bfloat16())
    assert looks_normalised(F.one_hot(torch.arange(8), 8).float())
    assert not looks_normalised(probabilities[:7])  # too few to say
    assert not looks_normalised(probabilities.log())
    assert not looks_normalised(probabilities * 1.01)
    assert not looks_normalised(torch.cat([probabilities, torch.tensor([[1.5, -0.5, 0.0, 0.0, 0.0]])]))
    assert not looks_normalised(torch.ones(16, 1))  # one output


class Model(nn.Module):
    def forward(self, logits: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=logits)


def test_the_loss_of_a_classifier_takes_the_same_options() -> None:
    logits, labels, weights = torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), torch.tensor([3.0, 0.5])
    batch = Batch({"logits": logits}, labels, torch.arange(4))
    options = {"task": "single_label", "class_weights": weights}
    for more in ({"focal_gamma": 2.0}, {"label_smoothing": 0.1}):
        made = classifier_loss(**options, **more)(Model(), batch)
        assert made.item() == task_loss(logits, labels, **options, **more).item()
        assert made.item() != task_loss(logits, labels, task="single_label").item()
