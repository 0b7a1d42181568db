"""Each rule on optimizers finds its planted fault, shows what it does, and says nothing of the repaired one."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import SGD, Adam, AdamW
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from nlpbp.checks.model import check_model
from nlpbp.checks.optimizer import decay_on_norms, no_decay_at_all, one_rate_for_all_layers, optimizer_misses_parameters, tied_twice
from nlpbp.core.freezing import freeze_to
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import adamw, set_rates


@pytest.fixture
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    return AutoModelForSequenceClassification.from_config(BertConfig(**small))


def ours(model: nn.Module, *, layer_decay: float = 0.9) -> AdamW:
    groups = layer_groups(model)
    no_decay = no_decay_names(model)
    return adamw(parameter_groups(groups, lr=1e-3, layer_decay=layer_decay, weight_decay=0.01, no_decay=no_decay))


def test_decay_on_everything_is_found_once_for_vectors_and_once_for_embeddings(model: PreTrainedModel) -> None:
    found = decay_on_norms(AdamW(model.parameters(), weight_decay=0.01), model)
    assert [(f.practice, f.level) for f in found] == [("T4", "warning"), ("T4", "note")]
    num_vectors = sum(p.ndim < 2 for p in model.parameters())
    assert f"on {num_vectors} biases and norms" in found[0].message
    assert found[1].module == "bert.embeddings.word_embeddings.weight"
    assert "on 3 embeddings" in found[1].message
    assert decay_on_norms(ours(model), model) == []
    assert decay_on_norms(SGD(model.parameters(), lr=0.1), model) == []


def test_adamw_without_decay_moves_as_adam_does_and_is_found() -> None:
    moved = []
    for kind in (Adam, AdamW):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = kind([parameter], lr=0.1, weight_decay=0.0)
        parameter.grad = torch.tensor([1.0, -2.0, 3.0])
        optimizer.step()
        moved.append(parameter.detach())
    assert torch.equal(*moved)
    assert [(f.practice, f.level) for f in no_decay_at_all(optimizer)] == [("T4", "note")]
    assert no_decay_at_all(Accelerator(cpu=True).prepare(optimizer)) == no_decay_at_all(optimizer)
    for other in (Adam([parameter]), SGD([parameter]), AdamW([parameter], weight_decay=0.01)):
        assert no_decay_at_all(other) == []


def test_one_rate_for_a_pretrained_model_is_a_note(model: PreTrainedModel) -> None:
    optimizer = ours(model, layer_decay=1.0)
    set_rates(optimizer, 0.3)
    found = one_rate_for_all_layers(optimizer, model, pretrained=True)
    assert [(f.practice, f.level) for f in found] == [("L2", "note")]
    assert "all 4 layer groups" in found[0].message
    assert found[0].message.endswith("at 0.001")  # the base rate, wherever the schedule is
    assert one_rate_for_all_layers(optimizer, model, pretrained=False) == []
    assert one_rate_for_all_layers(ours(model), model, pretrained=True) == []
    freeze_to(layer_groups(model), train_last=1)  # a head alone has no lower layers
    assert one_rate_for_all_layers(optimizer, model, pretrained=True) == []


def test_an_optimizer_built_while_frozen_never_trains_what_is_unfrozen_and_is_found(model: PreTrainedModel) -> None:
    freeze_to(layer_groups(model), train_last=1)
    built_while_frozen = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert [(f.practice, f.level) for f in optimizer_misses_parameters(built_while_frozen, model)] == [("N6", "note")]
    freeze_to(layer_groups(model), train_last=None)
    found = optimizer_misses_parameters(built_while_frozen, model)
    assert [(f.practice, f.level) for f in found] == [("N6", "warning")]
    assert found[0].module == "bert.embeddings.word_embeddings.weight"
    body = model.bert.encoder.layer[0].attention.self.query.weight
    for optimizer, moves in ((built_while_frozen, False), (ours(model), True)):
        before = body.detach().clone()
        model(torch.randint(20, (2, 5)), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        assert torch.equal(body, before) is not moves
        assert bool(optimizer_misses_parameters(optimizer, model)) is not moves


def test_numbers_that_are_in_it_twice_move_twice_and_are_found() -> None:
    embedding, decoder = nn.Embedding(4, 2), nn.Linear(2, 4, bias=False)
    decoder.weight.data = embedding.weight.data
    optimizer = SGD([{"params": embedding.parameters(), "name": "body"}, {"params": decoder.parameters()}], lr=0.1)
    before = embedding.weight.detach().clone()
    embedding.weight.grad = decoder.weight.grad = torch.ones(4, 2)
    optimizer.step()
    assert torch.allclose(embedding.weight, before - 0.2)
    found = tied_twice(optimizer)
    assert [(f.practice, f.level) for f in found] == [("L2", "warning")]
    assert "shape [4, 2] is in it twice: body and group 1" in found[0].message
    decoder.weight = embedding.weight
    assert tied_twice(SGD(nn.ModuleList([embedding, decoder]).parameters(), lr=0.1)) == []
    halves = torch.zeros(2, 4)  # two parameters in one storage, beside each other
    assert tied_twice(SGD([nn.Parameter(halves[0]), nn.Parameter(halves[1])], lr=0.1)) == []


def test_without_an_optimizer_nothing_is_said_of_training_and_with_one_everything_is(model: PreTrainedModel) -> None:
    rnn = nn.Sequential(nn.Embedding(4, 4), nn.RNN(4, 4))
    assert check_model(rnn) == []
    found = check_model(rnn, optimizer=AdamW(rnn.parameters(), weight_decay=0.01))
    assert [(f.practice, f.level) for f in found] == [("N3", "warning"), ("T4", "warning"), ("T4", "note")]
    assert check_model(model, optimizer=ours(model), max_grad_norm=1.0, pretrained=True) == []
