"""Concat pooling finds what stands anywhere, and never sees padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nlpbp.core.pooling import Pooling, concat_pool, pool

HIDDEN = torch.tensor([[[-1.0, 5.0], [-4.0, 3.0], [-2.0, 1.0]]])


def test_last_greatest_and_mean_stand_side_by_side() -> None:
    assert concat_pool(HIDDEN, torch.ones(1, 3)).tolist() == [[-2.0, 1.0, -1.0, 5.0, pytest.approx(-7 / 3), 3.0]]


@pytest.mark.parametrize("pads", [1, 100])
def test_padding_on_either_side_changes_nothing(pads: int) -> None:
    padding, mask = torch.full((1, pads, 2), 9.0), torch.ones(1, 3)
    whole = concat_pool(HIDDEN, mask)
    assert torch.equal(concat_pool(torch.cat([HIDDEN, padding], 1), torch.cat([mask, torch.zeros(1, pads)], 1)), whole)
    assert torch.equal(concat_pool(torch.cat([padding, HIDDEN], 1), torch.cat([torch.zeros(1, pads), mask], 1)), whole)


def test_a_row_without_tokens_is_zero_with_a_gradient_that_is_finite() -> None:
    hidden = HIDDEN.clone().requires_grad_()
    pooled = concat_pool(hidden, torch.zeros(1, 3))
    assert pooled.tolist() == [[0.0] * 6]
    pooled.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_the_mean_of_many_is_summed_in_fp32() -> None:
    hidden = torch.full((1, 4000, 1), 0.1, dtype=torch.bfloat16)
    assert concat_pool(hidden, torch.ones(1, 4000))[0, 2].item() == pytest.approx(0.1, abs=1e-3)


def test_one_telling_token_anywhere_is_found_by_the_greatest_and_not_by_the_last() -> None:
    torch.manual_seed(0)
    hidden = 0.1 * torch.randn(200, 50, 1)
    told = torch.arange(200) % 2 == 0
    hidden[torch.arange(200)[told], torch.randint(0, 40, (100,)), 0] = 1.0
    pooled = concat_pool(hidden, torch.ones(200, 50))
    accuracy = [((pooled[:, i] > 0.5) == told).float().mean().item() for i in range(3)]
    assert accuracy[1] == 1.0
    assert accuracy[0] < 0.6


KINDS: tuple[Pooling, ...] = ("last", "mean", "max", "first", "concat")
WANTED = {"last": [-2.0, 1.0], "mean": [pytest.approx(-7 / 3), 3.0], "max": [-1.0, 5.0], "first": [-1.0, 5.0]}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_by_hand_and_blind_to_padding_on_both_sides(kind: Pooling) -> None:
    whole = pool(HIDDEN, torch.ones(1, 3), kind=kind)
    assert whole[0].tolist() == (WANTED["last"] + WANTED["max"] + WANTED["mean"] if kind == "concat" else WANTED[kind])
    padding = torch.tensor([9.0, float("nan")]).expand(1, 100, 2)  # not even a NaN there may enter
    mask = torch.cat([torch.zeros(1, 100), torch.ones(1, 3), torch.zeros(1, 100)], dim=1)
    padded = torch.cat([padding, HIDDEN, padding], dim=1).requires_grad_()
    pooled = pool(padded, mask, kind=kind)
    assert torch.equal(pooled, whole)
    (grad,) = torch.autograd.grad(pooled.sum(), padded)
    assert grad.isfinite().all()
    assert not grad[mask == 0].any()
    assert grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_tokens_is_zero_beside_one_with_tokens(kind: Pooling) -> None:
    pooled = pool(HIDDEN.expand(2, 3, 2), torch.tensor([[0, 0, 0], [1, 1, 1]]), kind=kind)
    assert not pooled[0].any()
    assert torch.equal(pooled[1:], pool(HIDDEN, torch.ones(1, 3), kind=kind))


def test_the_mean_alone_is_summed_in_fp32_and_answers_in_its_own_format() -> None:
    hidden = torch.full((1, 4000, 1), 0.1, dtype=torch.bfloat16)
    pooled = pool(hidden, torch.ones(1, 4000), kind="mean")
    assert pooled.dtype == torch.bfloat16
    assert pooled.item() == pytest.approx(0.1, abs=1e-3)
    total = torch.zeros(1, 1, dtype=torch.bfloat16)
    for position in range(4000):
        total = total + hidden[:, position]
    assert total.item() / 4000 < 0.02  # a sum in bf16 stops growing


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="attention"):
        pool(HIDDEN, torch.ones(1, 3), kind="attention")


def texts_with_one_telling_token(num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make texts [num, 60, 8] of noise, of 30 to 60 tokens; in each, one token anywhere has feature 0 or 1 set: the label."""
    lengths = torch.randint(30, 61, (num, 1))
    labels = torch.randint(2, (num,))
    hidden = 0.5 * torch.randn(num, 60, 8)
    places = (torch.rand(num) * lengths.squeeze(1)).long()
    hidden[torch.arange(num), places, labels] = 4.0
    return hidden, torch.arange(60) < lengths, labels


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("last", 0.4, 0.62), ("first", 0.4, 0.62), ("max", 0.98, 1.0), ("concat", 0.97, 1.0)]
)
def test_a_trained_head_finds_one_telling_token_anywhere_through_the_greatest_alone(kind: Pooling, low: float, high: float) -> None:
    torch.manual_seed(0)
    (hidden, mask, labels), (new_hidden, new_mask, new_labels) = (texts_with_one_telling_token(num) for num in (400, 400))
    pooled = pool(hidden, mask, kind=kind)
    head = nn.Linear(pooled.shape[1], 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(pooled), labels).backward()
        optimizer.step()
    accuracy = (head(pool(new_hidden, new_mask, kind=kind)).argmax(1) == new_labels).float().mean().item()
    assert low <= accuracy <= high
