"""AR and TAR are what the paper says, blind to padding; they train and do not show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlpbp.core.regularize import activation_penalty, gradient_only, regularisation_of_texts, temporal_penalty

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [9.0, 9.0]], [[0.0, 4.0], [0.0, 0.0], [1.0, 1.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def test_the_penalties_are_those_worked_out_by_hand() -> None:
    assert activation_penalty(HIDDEN).item() == pytest.approx((1 + 4 + 9 + 4 + 81 + 81 + 16 + 2) / 12)
    assert temporal_penalty(HIDDEN).item() == pytest.approx((4 + 36 + 49 + 16 + 2) / 8)


def test_padding_does_not_count() -> None:
    assert activation_penalty(HIDDEN, mask=MASK).item() == pytest.approx((1 + 4 + 9 + 4 + 16 + 2) / 10)
    assert temporal_penalty(HIDDEN, mask=MASK).item() == pytest.approx((4 + 16 + 2) / 6)
    assert activation_penalty(HIDDEN, mask=torch.zeros(2, 3)).item() == 0.0


def test_what_never_changes_has_no_temporal_penalty() -> None:
    assert temporal_penalty(torch.ones(2, 5, 3)).item() == 0.0
    assert temporal_penalty(torch.ones(2, 1, 3)).item() == 0.0


def test_a_penalty_shrinks_activations_and_leaves_the_loss_as_it_is() -> None:
    def activations(factor: float) -> tuple[float, float]:
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        inputs, targets = torch.randn(64, 1, 4), 3 * torch.randn(64, 1, 4)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        first = 0.0
        for step in range(100):
            hidden = layer(inputs)
            loss = (hidden - targets).square().mean() + gradient_only(factor * activation_penalty(hidden))
            first = loss.item() if step == 0 else first
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return first, layer(inputs).square().mean().item()

    (plain_loss, plain), (penalised_loss, penalised) = activations(0.0), activations(2.0)
    assert penalised_loss == plain_loss
    assert penalised < 0.5 * plain


def test_a_penalty_that_is_not_finite_shows() -> None:
    assert not gradient_only(torch.tensor(float("inf"))).isfinite()


def test_the_regularisation_of_texts_is_the_mean_of_each_by_itself() -> None:
    torch.manual_seed(0)
    hidden, lengths = torch.randn(3, 5, 4), torch.tensor([5, 3, 1])
    mask = torch.arange(5) < lengths.unsqueeze(1)
    both = regularisation_of_texts(hidden, mask, alpha=2.0, beta=1.0)
    alone = [
        2.0 * activation_penalty(hidden[i : i + 1, :length]) + temporal_penalty(hidden[i : i + 1, :length])
        for i, length in enumerate(lengths.tolist())
    ]
    torch.testing.assert_close(both, torch.stack(alone).mean())
    hidden[1, 3:] = 1e6  # padding does not count
    torch.testing.assert_close(regularisation_of_texts(hidden, mask, alpha=2.0, beta=1.0), both)


def test_the_mean_over_tokens_would_depend_on_how_a_batch_is_divided() -> None:
    hidden = torch.tensor([[[1.0], [1.0]], [[3.0], [0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    halves = [regularisation_of_texts(hidden[i : i + 1], mask[i : i + 1], alpha=1.0, beta=0.0) for i in range(2)]
    assert torch.stack(halves).mean() == regularisation_of_texts(hidden, mask, alpha=1.0, beta=0.0)
    by_tokens = [activation_penalty(hidden[i : i + 1], mask=mask[i : i + 1]) for i in range(2)]
    assert torch.stack(by_tokens).mean() != activation_penalty(hidden, mask=mask)
