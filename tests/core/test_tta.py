"""Views are averaged as probabilities, weighed by what they know, and no view at all changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlpbp.core.tta import average, dropout_active, fit_view_weights, view_weights


def test_no_view_and_views_that_are_the_same_change_nothing():
    clean = torch.rand(5, 3).softmax(-1)
    assert average([clean], weights=view_weights(0)).equal(clean)
    assert torch.allclose(average([clean] * 4, weights=view_weights(3)), clean)
    for num in range(6):
        assert view_weights(num).sum().item() == pytest.approx(1.0)


def test_the_mean_is_of_probabilities_and_not_of_logits():
    sure, unsure = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.4, 0.6]])
    assert average([sure, unsure], weights=view_weights(1)).tolist() == [pytest.approx([0.55, 0.45])]


@pytest.mark.parametrize("weights", [[0.5, 0.6], [1.0], [1.5, -0.5]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="sum to 1"):
        average([torch.ones(1, 2)] * 2, weights=torch.tensor(weights))


@pytest.mark.parametrize("several", [False, True])
def test_fitted_weights_have_the_lowest_loss_of_a_fine_grid(several):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(2, (400,), generator=generator)
    targets = torch.stack([1 - truth, truth], dim=1) if several else truth

    def view(noise):
        logits = (2.0 * truth - 1) + noise * torch.randn(400, generator=generator)
        return torch.stack([-logits, logits], dim=1).sigmoid()

    views = [view(1.0), view(1.5)]
    fitted = fit_view_weights(views, targets)
    assert fitted.sum().item() == pytest.approx(1.0)

    def loss(share):
        mean = average(views, weights=torch.tensor([share, 1 - share], dtype=torch.float64))
        return -mean.gather(1, truth.unsqueeze(1)).log().mean().item()

    losses = {number / 100: loss(number / 100) for number in range(101)}
    assert abs(min(losses, key=losses.__getitem__) - fitted[0].item()) < 0.02
    assert 0.5 < fitted[0] < 0.95  # the better view, but not alone
    assert min(losses.values()) < min(loss(0.0), loss(1.0)) - 0.005


def test_dropout_acts_in_evaluation_mode_and_statistics_stay():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
    inputs, before = torch.randn(4, 8), model(torch.zeros(4, 8))
    with dropout_active(model):
        model.eval()
        assert not model(inputs).equal(model(inputs))
    assert not any(part.training for part in model.modules())
    assert model(torch.zeros(4, 8)).equal(before)
