"""The sampled estimate of a language model's loss: exact when all is drawn, close when little is, and with gradients to match."""

from __future__ import annotations

import math

import pytest
import torch

from nlpbp.core.losses import IGNORED, chunked_cross_entropy, sampled_cross_entropy

VOCABULARY, WIDTH = 500, 8


def problem(*, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 20, WIDTH, generator=generator).requires_grad_()
    weight = (0.5 * torch.randn(VOCABULARY, WIDTH, generator=generator)).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=generator).requires_grad_()
    labels = torch.randint(0, 40, (3, 20), generator=generator)
    labels[0, :5] = IGNORED
    return hidden, weight, bias, labels


@pytest.mark.parametrize("with_bias", [True, False])
def test_drawing_every_token_is_the_plain_loss(with_bias: bool) -> None:
    hidden, weight, bias, labels = problem()
    given = (hidden, weight, bias if with_bias else None)
    wanted = [p for p in given if p is not None]
    exact = chunked_cross_entropy(*given, labels)
    estimate = sampled_cross_entropy(*given, labels, num_sampled=VOCABULARY)
    torch.testing.assert_close(estimate, exact)
    for a, b in zip(torch.autograd.grad(estimate, wanted), torch.autograd.grad(exact, wanted), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_few_draws_are_close_and_without_their_weight_they_are_not() -> None:
    """What is drawn stands for all others: the sum of the softmax is right on average."""
    hidden, weight, bias, labels = problem()
    exact = chunked_cross_entropy(hidden, weight, bias, labels).item()
    torch.manual_seed(0)
    estimates = [sampled_cross_entropy(hidden, weight, bias, labels, num_sampled=100).item() for _ in range(200)]
    assert sum(estimates) / len(estimates) == pytest.approx(exact, abs=0.05)
    without_others = chunked_cross_entropy(hidden, weight[:40], bias[:40], labels).item()
    assert exact - without_others > math.log(2)


def test_only_what_occurs_or_is_drawn_gets_a_gradient() -> None:
    hidden, weight, bias, labels = problem()
    sampled_cross_entropy(hidden, weight, bias, labels, num_sampled=10).backward()
    assert weight.grad is not None
    moved = weight.grad.abs().sum(dim=1) > 0
    seen = labels[labels != IGNORED].unique()
    assert bool(moved[seen].all())
    assert int(moved.sum()) == len(seen) + 10


def test_nothing_to_predict_is_no_loss() -> None:
    hidden, weight, bias, _ = problem()
    loss = sampled_cross_entropy(hidden, weight, bias, torch.full((3, 20), IGNORED), num_sampled=10)
    loss.backward()
    assert loss.item() == 0.0
