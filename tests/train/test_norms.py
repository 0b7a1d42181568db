from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from nlpbp.core.batch import Batch
from nlpbp.train.loop import train_steps


def trained(micro_batches: list[list[int]], *, num_steps: int = 3) -> nn.BatchNorm1d:
    """Train a batch norm on the same rows a step, divided as given, without moving its weights."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    rows = torch.randn(6, 2) * 3 + 5
    norm = nn.BatchNorm1d(2)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.0)
    step = [Batch({"input": rows[part]}, torch.zeros(len(part)), torch.tensor(part)) for part in micro_batches]
    steps = train_steps(
        norm,
        [step] * num_steps,
        optimizer,
        accelerator=accelerator,
        loss_fn=lambda model, batch: model(**batch.inputs).square().mean(),
        schedule=lambda progress: 1.0,
        total_steps=num_steps,
    )
    assert len(list(steps)) == num_steps
    return norm


def test_a_step_moves_the_statistics_once_by_the_mean_over_its_micro_batches() -> None:
    norm = trained([[0, 1, 2], [3, 4, 5]])
    torch.manual_seed(0)
    rows = torch.randn(6, 2) * 3 + 5
    means, variances = rows.view(2, 3, 2).mean(dim=1).mean(dim=0), rows.view(2, 3, 2).var(dim=1).mean(dim=0)
    share = 1 - 0.9**3
    np.testing.assert_allclose(norm.running_mean, share * means, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(norm.running_var, 1 - share + share * variances, rtol=1e-5)  # type: ignore[arg-type]
    assert norm.num_batches_tracked == 3  # torch alone would count six, and move the averages twice a step


def test_the_order_of_micro_batches_does_not_matter() -> None:
    one, other = trained([[0, 1, 2], [3, 4, 5]]), trained([[3, 4, 5], [0, 1, 2]])
    assert torch.equal(one.running_mean, other.running_mean)  # type: ignore[arg-type]
    alone = nn.BatchNorm1d(2)
    torch.manual_seed(0)
    rows = torch.randn(6, 2) * 3 + 5
    for part in (rows[:3], rows[3:]):
        alone(part)
    backwards = nn.BatchNorm1d(2)
    for part in (rows[3:], rows[:3]):
        backwards(part)
    assert not torch.equal(alone.running_mean, backwards.running_mean)  # type: ignore[arg-type]


def test_with_one_micro_batch_they_are_torchs_own() -> None:
    norm, plain = trained([[0, 1, 2, 3, 4, 5]]), nn.BatchNorm1d(2)
    torch.manual_seed(0)
    rows = torch.randn(6, 2) * 3 + 5
    for _ in range(3):
        plain(rows)
    assert torch.equal(norm.running_mean, plain.running_mean)  # type: ignore[arg-type]
    assert torch.equal(norm.running_var, plain.running_var)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [True, False])
def test_statistics_that_are_kept_stay(kept: bool) -> None:
    from nlpbp.core.freezing import keep_norm_statistics_

    accelerator, norm = Accelerator(cpu=True), nn.BatchNorm1d(2)
    keep_norm_statistics_(norm, keep=kept)
    batch = Batch({"input": torch.randn(4, 2) + 3}, torch.zeros(4), torch.arange(4))
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.0)
    list(
        train_steps(
            norm,
            [[batch]],
            optimizer,
            accelerator=accelerator,
            loss_fn=lambda model, given: model(**given.inputs).square().mean(),
            schedule=lambda progress: 1.0,
            total_steps=1,
        )
    )
    assert torch.equal(norm.running_mean, torch.zeros(2)) is kept  # type: ignore[arg-type]
