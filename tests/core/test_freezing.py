"""Gradual unfreezing: exactly the last groups train, and what is unfrozen later moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nlpbp.core.freezing import freeze_to, keep_norm_statistics_, train_mode
from nlpbp.core.groups import LayerGroup, layer_groups, parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.ModuleDict({"embed": nn.Linear(3, 4), "layers": nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])})
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.body["embed"](inputs)
        for layer in self.body["layers"]:
            hidden = layer(hidden)
        return self.head(hidden)


def groups_of(model: Model) -> list[LayerGroup]:
    return layer_groups(model, body=model.body)


@pytest.mark.parametrize("train_last", [1, 2, 3, 4, None])
def test_exactly_the_last_groups_train_and_their_parameters_are_counted(train_last: int | None) -> None:
    groups = groups_of(Model())
    sizes = [16, 20, 8, 5]
    count = freeze_to(groups, train_last=train_last)
    trains = [all(p.requires_grad for _, p in group.parameters) for group in groups]
    frozen = 0 if train_last is None else 4 - train_last
    assert trains == [False] * frozen + [True] * (4 - frozen)
    assert count == sum(sizes[frozen:])


@pytest.mark.parametrize("train_last", [0, 5, -1])
def test_a_number_of_groups_that_there_is_not_is_refused(train_last: int) -> None:
    with pytest.raises(ValueError, match=f"{train_last} layer groups cannot train: the model has 4"):
        freeze_to(groups_of(Model()), train_last=train_last)


def test_under_one_optimizer_each_unfreezing_moves_exactly_what_it_adds() -> None:
    model = Model()
    groups = groups_of(model)
    freeze_to(groups, train_last=1)
    optimizer = torch.optim.SGD(parameter_groups(groups, lr=0.1))  # made while all but the head is frozen
    inputs = torch.randn(8, 3)
    moved = []
    for train_last in (1, 2, 3, None):
        freeze_to(groups, train_last=train_last)
        train_mode(model)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        parameters = dict(model.named_parameters())
        moved.append([group.name for group in groups if any(not parameters[n].equal(before[n]) for n, _ in group.parameters)])
    assert moved == [["head"], ["block.1", "head"], ["block.0", "block.1", "head"], ["embeddings", "block.0", "block.1", "head"]]


def test_the_statistics_of_a_frozen_normalisation_stay() -> None:
    model = Model()
    groups = groups_of(model)
    norm = model.body["layers"][1]
    for train_last, stays in ((1, True), (2, False)):
        before = norm.running_mean.clone()
        freeze_to(groups, train_last=train_last)
        train_mode(model)
        model(torch.randn(8, 3))
        assert norm.running_mean.equal(before) is stays


def test_frozen_statistics_of_batch_normalisation_stay_bit_for_bit_while_its_scale_trains() -> None:
    model = Model()
    norm = model.body["layers"][1]
    assert isinstance(norm, nn.BatchNorm1d)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    statistics = {}
    for norms in ("frozen", "trained"):
        before = {name: value.clone() for name, value in norm.state_dict().items()}
        for step in range(5):
            keep_norm_statistics_(model, keep=norms == "frozen")
            train_mode(model)
            torch.manual_seed(step)
            model(5.0 + torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        after = norm.state_dict()
        statistics[norms] = [
            torch.equal(before[name], after[name]) for name in ("running_mean", "running_var", "num_batches_tracked")
        ]
        assert not torch.equal(before["weight"], after["weight"])
    assert statistics == {"frozen": [True] * 3, "trained": [False] * 3}


def test_the_statistics_of_frozen_layers_stay_whatever_is_chosen() -> None:
    model = Model()
    freeze_to(groups_of(model), train_last=1)
    norm = model.body["layers"][1]
    before = norm.running_mean.clone()
    train_mode(model)
    model(torch.randn(8, 3))
    assert torch.equal(norm.running_mean, before)
