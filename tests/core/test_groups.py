from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    T5Config,
    XLNetConfig,
)

from nlpbp.core.groups import coarse_groups, layer_groups, no_decay_names, parameter_groups
from nlpbp.core.optim import TRANSFORMER_BETAS, TRANSFORMER_EPS, adamw, set_momentum, set_rates, sgd

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
CONFIGS: list[Callable[[], PreTrainedConfig]] = [
    lambda: BertConfig(**SMALL),
    lambda: RobertaConfig(**SMALL),
    lambda: DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=16, vocab_size=20),
    lambda: GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=20, pad_token_id=0),
    lambda: T5Config(d_model=16, d_ff=16, d_kv=8, num_layers=2, num_heads=2, vocab_size=20, pad_token_id=0),
    lambda: AlbertConfig(**SMALL, embedding_size=8),
    lambda: ElectraConfig(**SMALL, embedding_size=8),
    lambda: DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    lambda: MPNetConfig(**SMALL),
    lambda: ModernBertConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    lambda: XLNetConfig(vocab_size=20, d_model=16, n_layer=3, n_head=2, d_inner=16),
    lambda: LlamaConfig(**SMALL, pad_token_id=0),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_of_any_encoder_stands_in_exactly_one_group(config: Callable[[], PreTrainedConfig]) -> None:
    model = AutoModelForSequenceClassification.from_config(config())
    groups = layer_groups(model)
    grouped = [id(p) for group in groups for _, p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert groups[0].name == "embeddings"
    assert groups[-1].name == "head"
    made = parameter_groups(groups, lr=1.0, no_decay=no_decay_names(model))
    assert sorted(id(p) for group in made for p in group["params"]) == sorted(grouped)


def test_layer_wise_rates_fall_by_the_decay_and_keep_their_ratio_through_the_schedule() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))
    made = parameter_groups(layer_groups(model), lr=1.0, layer_decay=0.5, head_lr=7.0)
    rates = {group["name"].removesuffix(", no decay"): group["lr"] for group in made}
    expected = {"embeddings": 0.125, "block.0": 0.25, "block.1": 0.5, "block.2": 1.0, "head": 7.0}
    assert rates == expected
    optimizer = adamw(made)
    set_rates(optimizer, 0.3)
    assert [g["lr"] / g["base_lr"] for g in optimizer.param_groups] == pytest.approx([0.3] * len(made))


def test_biases_norms_and_embeddings_do_not_decay_and_the_rest_does() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))
    no_decay = no_decay_names(model)
    assert "bert.embeddings.word_embeddings.weight" in no_decay
    assert "bert.encoder.layer.0.attention.output.LayerNorm.weight" in no_decay
    decaying = {name for name, _ in model.named_parameters()} - no_decay
    assert decaying
    assert all(name.endswith("weight") and "LayerNorm" not in name and "embeddings" not in name for name in decaying)


def test_decay_is_decoupled_from_the_gradient() -> None:
    decayed, kept = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [decayed], "lr": 0.1, "weight_decay": 0.5}, {"params": [kept], "lr": 0.1, "weight_decay": 0.0}]
    optimizer = adamw(groups)
    for parameter in (decayed, kept):
        parameter.grad = torch.zeros(1)
    optimizer.step()
    assert decayed.item() == pytest.approx(1 - 0.1 * 0.5)
    assert kept.item() == 1.0


def test_adamw_has_the_transformer_constants() -> None:
    optimizer = adamw([{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}])
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == (TRANSFORMER_BETAS, TRANSFORMER_EPS) == ((0.9, 0.98), 1e-6)


def test_frozen_parameters_are_in_the_optimizer_so_that_unfreezing_trains_them() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))
    model.bert.requires_grad_(False)
    made = parameter_groups(layer_groups(model), lr=1.0)
    assert sum(len(group["params"]) for group in made) == len(list(model.parameters()))


@pytest.mark.parametrize(("similarity", "ratio"), [("high", 10.0), ("low", 3.0)])
def test_rates_by_similarity_are_of_three_groups(similarity: Literal["high", "low"], ratio: float) -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**{**SMALL, "num_hidden_layers": 5}))
    groups = layer_groups(model)
    assert [group.name for group in coarse_groups(groups)] == ["embeddings - block.1", "block.2 - block.4", "head"]
    made = parameter_groups(groups, lr=1.0, similarity=similarity)
    rates = {group["name"].removesuffix(", no decay"): group["lr"] for group in made}
    assert rates == pytest.approx({"embeddings - block.1": ratio**-2, "block.2 - block.4": 1 / ratio, "head": 1.0})
    assert sorted(id(p) for group in made for p in group["params"]) == sorted(id(p) for p in model.parameters())


def test_sgd_takes_the_same_groups_and_its_momentum_is_set() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))
    optimizer = sgd(parameter_groups(layer_groups(model), lr=1.0, layer_decay=0.5), momentum=0.8)
    set_momentum(optimizer, 0.7)
    set_rates(optimizer, 0.5)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.7}
    assert max(group["lr"] for group in optimizer.param_groups) == 0.5
    assert all(group["nesterov"] for group in optimizer.param_groups)
