"""Concat pooling finds what stands anywhere, and never sees padding."""

from __future__ import annotations

import pytest
import torch

from nlpbp.core.pooling import concat_pool

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
