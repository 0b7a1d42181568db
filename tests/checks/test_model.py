"""Each rule finds its planted fault, says nothing of the repaired model, and says nothing of well-known architectures.

Where it takes milliseconds, a test also shows what the fault does.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedConfig

from nlpbp.checks.batch import dead_relus, normalised_outputs, weak_initialisation
from nlpbp.checks.model import (
    bias_before_norm,
    check_model,
    frozen_norm_in_training_mode,
    plain_rnn_without_clipping,
    range_without_scaled_sigmoid,
    relu_rnn_default_init,
    softmax_before_loss,
    softmax_for_multi_label,
)
from nlpbp.core.freezing import train_mode
from nlpbp.core.groups import layer_groups, no_decay_names, parameter_groups
from nlpbp.core.init import init_recurrent_
from nlpbp.core.optim import adamw
from nlpbp.text.awd_lstm import AWDLSTMConfig


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class ConvNet(nn.Module):
    """A convolution and a norm, called as functions and registered in the order given."""

    def __init__(self, *, bias: bool, relu_between: bool = False, inplace: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, bias=bias)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu_between, self.inplace = relu_between, inplace

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(images)
        return self.bn1(F.relu(hidden, inplace=self.inplace) if self.relu_between else hidden)


# --- N8: a bias before batch normalisation ---


def test_a_bias_before_a_batch_norm_gets_no_gradient_and_is_found() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    F.cross_entropy(model(torch.randn(16, 3)), torch.arange(16) % 2).backward()
    assert model[0].bias.grad is not None
    assert model[3].bias.grad is not None
    assert model[0].bias.grad.abs().max() < 1e-7 < model[3].bias.grad.abs().max()
    assert [(f.practice, f.level, f.module) for f in bias_before_norm(model)] == [("N8", "note", "0")]


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)),
        nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.LayerNorm(4)),
        ConvNet(bias=False),
    ],
)
def test_a_bias_that_counts_or_is_not_there_is_not_found(model: nn.Module) -> None:
    assert bias_before_norm(model) == []


def test_names_tell_the_pairs_of_a_module_and_a_batch_tells_them_for_sure() -> None:
    images = torch.randn(2, 1, 5, 5)
    for relu_between, inplace, expected in ((False, False, ["conv1"]), (True, False, []), (True, True, [])):
        model = ConvNet(bias=True, relu_between=relu_between, inplace=inplace)
        assert [f.module for f in bias_before_norm(model)] == ["conv1"]
        assert [f.module for f in bias_before_norm(model, forward=lambda model=model: model(images))] == expected


def test_looking_leaves_modes_statistics_and_hooks_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3).eval(), nn.ReLU(), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model, forward=lambda: model(torch.randn(8, 3)))
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ZeroDivisionError):
        check_model(model, forward=lambda: 1 / 0)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# --- A1: normalised outputs before a loss on logits ---


def test_a_softmax_before_cross_entropy_keeps_the_loss_above_a_third_and_is_found() -> None:
    sure = torch.tensor([[50.0, -50.0]])
    assert F.cross_entropy(sure.softmax(dim=1), torch.tensor([0])).item() == pytest.approx(0.3133, abs=1e-4)  # log(1 + 1/e)
    assert F.cross_entropy(sure, torch.tensor([0])).item() == 0.0
    body, head = nn.Linear(4, 8), nn.Sequential(nn.Dropout(), nn.Linear(8, 2), nn.Softmax(dim=1))
    found = softmax_before_loss(nn.Sequential(body, head))
    assert [(f.practice, f.level, f.module) for f in found] == [("A1", "warning", "1.2")]
    assert softmax_before_loss(nn.Sequential(body, head[:2])) == []


def test_what_may_be_meant_at_the_end_of_a_model_is_a_note_or_nothing() -> None:
    assert [f.level for f in softmax_before_loss(nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1)))] == ["note"]
    assert [f.level for f in softmax_before_loss(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()))] == ["warning"]
    bounded = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    assert [f.level for f in softmax_before_loss(bounded)] == ["note"]
    bounded.config = SimpleNamespace(problem_type="regression")  # type: ignore[assignment]
    assert softmax_before_loss(bounded) == []
    pooling_by_attention = nn.ModuleDict({"out": nn.Linear(4, 2), "attend": nn.Sequential(nn.Linear(4, 1), nn.Softmax(dim=1))})
    assert softmax_before_loss(pooling_by_attention) == []
    inner = nn.ModuleDict({"out": nn.Linear(4, 2), "attention": nn.ModuleDict({"key": nn.Linear(4, 4), "softmax": nn.Softmax(-1)})})
    assert softmax_before_loss(inner) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_are_told_from_logits(dtype: torch.dtype) -> None:
    logits = torch.randn(32, 5)
    assert normalised_outputs(logits.to(dtype)) == []
    assert normalised_outputs(logits.abs().to(dtype)) == []
    assert normalised_outputs(logits.sigmoid().to(dtype)) == []
    assert [f.level for f in normalised_outputs(logits.softmax(dim=1).to(dtype))] == ["warning"]
    assert [f.level for f in normalised_outputs(logits.log_softmax(dim=1))] == ["note"]


def test_outputs_of_any_kind_are_taken_and_those_without_classes_left_alone() -> None:
    probabilities = torch.tensor([[0.5, 0.5]])
    for outputs in (SimpleNamespace(logits=probabilities), (probabilities, None), probabilities.numpy()):
        assert len(normalised_outputs(outputs)) == 1
    for outputs in (
        torch.ones(4, 1),
        torch.zeros(0, 2),
        torch.ones(3),
        torch.tensor([[1, 0]]),
        None,
        torch.full((2, 2), torch.nan),
    ):
        assert normalised_outputs(outputs) == []


# --- A2: several labels ---


def test_a_softmax_for_rows_of_several_labels_cannot_learn_them_and_is_found() -> None:
    both = torch.tensor([[0.5, 0.5]])
    assert F.cross_entropy(torch.tensor([[50.0, 50.0]]), both).item() == pytest.approx(np.log(2))  # the least there is
    single = SimpleNamespace(problem_type="single_label_classification")
    several = [[1, 1, 0], [0, 1, 0]]
    assert [f.practice for f in softmax_for_multi_label(single, several)] == ["A2"]
    assert [f.practice for f in softmax_for_multi_label(single, torch.tensor(several))] == ["A2"]
    multi = SimpleNamespace(problem_type="multi_label_classification")
    for config, targets in (
        (multi, several),
        (single, [[1, 0], [0.1, 0.9], [0.5, 0.5]]),
        (single, [2, 1]),
        (single, None),
        (None, several),
    ):
        assert softmax_for_multi_label(config, targets) == []


def test_a_softmax_at_the_end_of_a_multi_label_model_is_found() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    model.config = SimpleNamespace(problem_type="multi_label_classification")  # type: ignore[assignment]
    assert [(f.practice, f.level) for f in softmax_for_multi_label(model)] == [("A2", "warning")]
    repaired = model[:1]
    repaired.config = model.config
    assert softmax_for_multi_label(repaired) == []


# --- A3: a bounded range ---


def test_ratings_that_pile_up_at_both_ends_want_a_bounded_output() -> None:
    config, stars = SimpleNamespace(problem_type="regression"), np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 20)
    assert [(f.practice, f.level) for f in range_without_scaled_sigmoid(stars, config)] == [("A3", "note")]
    bounded = AWDLSTMConfig(problem_type="regression", num_labels=1, value_range=[0.8, 5.2])
    counts = np.random.default_rng(0).poisson(1.0, size=500)  # many zeros, and one highest
    real = np.random.default_rng(0).normal(size=500)
    for targets, given in ((stars, bounded), (real, config), (counts, config), (np.ones(50), config), ([], config), (stars, None)):
        assert range_without_scaled_sigmoid(targets, given) == []


# --- N3, N5, L5: recurrent layers ---


def test_a_plain_recurrent_net_without_clipping_explodes_and_is_found() -> None:
    rnn = nn.RNN(1, 4, nonlinearity="relu", batch_first=True)
    init_recurrent_(rnn, hidden="identity", scale=1.5)
    first = torch.full((1, 1, 4), 0.1, requires_grad=True)
    rnn(torch.zeros(1, 60, 1), first)[1].sum().backward()
    assert first.grad is not None
    assert first.grad.norm() > 1e10  # 1.5 to the power of 60
    model = nn.ModuleDict({"encoder": rnn})
    for never in (None, 0.0, float("inf")):
        assert [(f.practice, f.level, f.module) for f in plain_rnn_without_clipping(model, max_grad_norm=never)] == [
            ("N3", "warning", "encoder")
        ]
    assert plain_rnn_without_clipping(model, max_grad_norm=0.25) == []
    assert plain_rnn_without_clipping(nn.ModuleList([nn.LSTM(1, 4), nn.GRU(1, 4)]), max_grad_norm=None) == []


def test_a_relu_recurrence_as_torch_makes_it_is_found_at_any_width_from_eight_on() -> None:
    for width in (8, 64):
        rnn = nn.RNN(4, width, num_layers=2, nonlinearity="relu")
        assert [(f.practice, f.level) for f in relu_rnn_default_init(rnn)] == [("L5", "note")]
        for hidden, scale in (("identity", 1.0), ("identity", 0.01), ("orthogonal", 1.0)):
            init_recurrent_(rnn, hidden=hidden, scale=scale)  # type: ignore[arg-type]
            assert relu_rnn_default_init(rnn) == []
        with torch.no_grad():  # training has moved it
            rnn.weight_hh_l0.add_(torch.randn(width, width), alpha=0.3 / width**0.5)
        assert relu_rnn_default_init(rnn) == []
    assert relu_rnn_default_init(nn.ModuleList([nn.RNN(4, 8), nn.LSTM(4, 8)])) == []


# --- T1: frozen parts in training mode ---


def test_statistics_of_a_frozen_norm_move_in_training_mode_and_this_is_found() -> None:
    body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.1), nn.BatchNorm1d(2)).requires_grad_(False)
    model = nn.Sequential(body, nn.Dropout(0.5), nn.Linear(2, 2))
    found = frozen_norm_in_training_mode(model)
    assert [(f.practice, f.level, f.module) for f in found] == [("T1", "warning", "0.1"), ("T1", "note", "0.2")]
    assert "1 more" in found[0].message
    before = body[1].running_mean.clone()
    model(torch.randn(8, 2) + 3)
    assert not torch.equal(body[1].running_mean, before)

    train_mode(model)
    assert frozen_norm_in_training_mode(model) == []
    before = body[1].running_mean.clone()
    model(torch.randn(8, 2) + 3)
    assert torch.equal(body[1].running_mean, before)
    assert model[1].training


def test_norms_and_dropouts_of_what_trains_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.1))
    assert frozen_norm_in_training_mode(model) == []
    model[0].requires_grad_(False)  # the norm still trains, and its statistics with it
    assert frozen_norm_in_training_mode(model) == []


# --- T3: initialisation and dead units, as a batch shows them ---


def deep(layers: int, *, he: bool) -> nn.Sequential:
    model = nn.Sequential(*[layer for _ in range(layers) for layer in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 2))
    for layer in model:
        if he and isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def test_a_deep_relu_net_as_torch_makes_it_loses_its_examples_and_is_found() -> None:
    inputs = torch.randn(64, 64)
    for layers, he, expected in ((20, False, [("T3", "warning", "38")]), (20, True, []), (4, False, []), (2, False, [])):
        model = deep(layers, he=he)
        found = weak_initialisation(model, lambda model=model: model(inputs))
        assert [(f.practice, f.level, f.module) for f in found] == expected
    hidden = deep(20, he=False)[:-1](inputs)
    assert hidden.std(dim=0).mean() < 1e-6  # all examples look the same
    grown = deep(20, he=True)
    with torch.no_grad():
        for layer in grown:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3.0)
    assert len(weak_initialisation(grown, lambda: grown(inputs))) == 1
    with_norms = nn.Sequential(nn.LayerNorm(64), deep(20, he=False))
    assert weak_initialisation(with_norms, lambda: with_norms(inputs)) == []


def test_a_batch_of_one_and_a_head_of_zeros_say_nothing_of_initialisation() -> None:
    model = deep(20, he=False)
    assert weak_initialisation(model, lambda: model(torch.randn(1, 64))) == []
    model = deep(6, he=True)
    nn.init.zeros_(model[-1].weight)
    assert weak_initialisation(model, lambda: model(torch.randn(8, 64))) == []


def test_units_that_are_zero_for_the_whole_batch_are_found_and_those_of_a_sound_net_not() -> None:
    inputs = torch.randn(64, 64)
    model = deep(2, he=True)
    assert dead_relus(model, lambda: model(inputs)) == []
    with torch.no_grad():
        model[0].bias[:60] = -1e3  # one large step too many
    found = dead_relus(model, lambda: model(inputs))
    assert [(f.practice, f.level, f.module) for f in found] == [("T3", "warning", "1")]
    assert found[0].message.startswith("94% of its units")  # 60 of 64
    assert dead_relus(model, lambda: model(inputs), max_share=0.95) == []


def test_a_branch_that_begins_at_zero_and_a_batch_of_a_few_values_are_not_dead() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)  # as the last norm of a residual branch often begins
    assert dead_relus(model, lambda: model(torch.randn(64, 4))) == []
    nn.init.constant_(model[0].bias, -1.0)
    assert len(dead_relus(model, lambda: model(torch.randn(8, 4)))) == 1
    assert dead_relus(model, lambda: model(torch.randn(7, 4))) == []


def test_a_channel_is_dead_only_when_it_is_zero_at_every_place_and_in_every_call() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    images = -torch.ones(2, 3, 4, 4)
    images[0, 0, 1, 2] = 1.0  # the first channel lives at one place
    share = dead_relus(model, lambda: model(images.clone()), max_share=0.5)
    assert share[0].message.startswith("67%")
    assert dead_relus(model, lambda: (model(images.clone()), model(-images.clone())), max_share=0.0) == []


# --- false alarms ---

Make = Callable[[], PreTrainedConfig]
WIDE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 40}
IMAGE = {"image_size": 32, "patch_size": 8}
TEXT_MODELS: dict[str, Make] = {
    "bert": lambda: transformers.BertConfig(**WIDE),
    "distilbert": lambda: transformers.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=40),
    "deberta-v2": lambda: transformers.DebertaV2Config(**WIDE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "albert": lambda: transformers.AlbertConfig(**WIDE, embedding_size=16),
    "gpt2": lambda: transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=1
    ),
    "llama": lambda: transformers.LlamaConfig(**WIDE, pad_token_id=0),
    "modernbert": lambda: transformers.ModernBertConfig(
        **WIDE, pad_token_id=0, bos_token_id=1, eos_token_id=1, cls_token_id=1, sep_token_id=1
    ),
    "t5": lambda: transformers.T5Config(
        d_model=32, d_ff=32, d_kv=16, num_layers=2, num_heads=2, vocab_size=40, decoder_start_token_id=0
    ),
    "awd_lstm": lambda: AWDLSTMConfig(vocab_size=40, embedding_size=16, hidden_size=24, num_hidden_layers=2, pad_token_id=0),
}
IMAGE_MODELS: dict[str, Make] = {
    "resnet": lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic"),
    "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 2], num_stages=2),
    "vit": lambda: transformers.ViTConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, **IMAGE
    ),
    "swin": lambda: transformers.SwinConfig(embed_dim=16, depths=[2, 2], num_heads=[2, 2], image_size=32, window_size=4),
    "mobilenet_v2": lambda: transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25),
}


@pytest.mark.parametrize("name", [*TEXT_MODELS, *IMAGE_MODELS])
def test_well_known_architectures_with_our_own_optimizer_raise_no_warning(name: str) -> None:
    is_text = name in TEXT_MODELS
    auto = AutoModelForSequenceClassification if is_text else AutoModelForImageClassification
    model = auto.from_config((TEXT_MODELS | IMAGE_MODELS)[name]())
    train_mode(model)
    tokens = torch.cat([torch.randint(5, 40, (8, 11)), torch.ones(8, 1, dtype=torch.int64)], dim=1)  # T5 wants its end of text
    inputs: dict[str, Any] = {"input_ids": tokens} if is_text else {"pixel_values": torch.randn(4, 3, 32, 32)}
    groups = parameter_groups(layer_groups(model), lr=1e-3, layer_decay=0.9, weight_decay=0.01, no_decay=no_decay_names(model))
    findings = check_model(
        model,
        optimizer=adamw(groups),
        max_grad_norm=1.0,
        pretrained=True,
        forward=lambda: model(**inputs),
        targets=torch.tensor([0, 1, 1, 0]),
    )
    assert findings == []
    assert check_model(model) == []  # by structure alone
