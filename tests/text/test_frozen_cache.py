"""Answers of frozen layers that are kept: the same training in less time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    T5Config,
)

from nlpbp.core.batch import Batch
from nlpbp.core.freezing import freeze_to, train_mode
from nlpbp.core.groups import layer_groups
from nlpbp.tasks import classifier_loss
from nlpbp.text.awd_lstm import AWDLSTMConfig, AWDLSTMForSequenceClassification
from nlpbp.text.frozen_cache import frozen_cache

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
CONFIGS: list[PreTrainedConfig] = [
    BertConfig(**SMALL),
    DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=16, vocab_size=30),
    ElectraConfig(**SMALL, embedding_size=8),
    ModernBertConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
]


def make_batch(ids: list[int]) -> Batch:
    rows = [[1 + (i * 7 + place) % 29 for place in range(3 + i % 4)] for i in ids]
    width = max(map(len, rows))
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return Batch(
        {"input_ids": inputs, "attention_mask": (inputs > 0).long()}, torch.tensor([i % 2 for i in ids]), torch.tensor(ids)
    )


def trained(model: nn.Module, *, train_last: int, cached: bool) -> tuple[nn.Module, list[int]]:
    """Train three epochs in other batches each, and count the frozen blocks' forward passes in each."""
    model = copy.deepcopy(model)
    groups = layer_groups(model)
    freeze_to(groups, train_last=train_last)
    loss_fn = classifier_loss(task="single_label")
    loss_fn = frozen_cache(model, train_last=train_last).loss_fn(loss_fn) if cached else loss_fn
    blocks = next(child for child in model.modules() if isinstance(child, nn.ModuleList))
    calls = [0]
    first = blocks[0]
    first.register_forward_pre_hook(lambda *_: calls.__setitem__(-1, calls[-1] + 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in ([[0, 1, 2, 3], [4, 5, 6]], [[3, 4, 5, 6], [0, 1, 2]], [[6, 0, 3], [1, 2, 4, 5]]):
        calls.append(0)
        for number, ids in enumerate(epoch):
            torch.manual_seed(number)
            train_mode(model)
            loss_fn(model, make_batch(ids)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model, calls[1:]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("train_last", [1, 2, 3])
def test_a_transformer_trains_to_the_same_weights_and_its_frozen_blocks_run_in_the_first_epoch_alone(
    config: PreTrainedConfig, train_last: int
) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    plain, _ = trained(model, train_last=train_last, cached=False)
    kept, calls = trained(model, train_last=train_last, cached=True)
    assert calls[0] == 2
    if layer_groups(model)[-1].name == "head":
        assert calls[2] == 2, "a replaced forward is still called: what is inside it is not"
    for (name, mine), theirs in zip(kept.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5), name


def test_what_is_inside_a_frozen_block_is_not_computed_again() -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[0])
    freeze_to(layer_groups(model), train_last=1)
    loss_fn = frozen_cache(model, train_last=1).loss_fn(classifier_loss(task="single_label"))
    calls = []
    model.bert.encoder.layer[1].output.dense.register_forward_hook(lambda *_: calls.append(1))
    train_mode(model)
    for _ in range(4):
        loss_fn(model, make_batch([0, 1, 2]))
    assert len(calls) == 2, "once to keep it, once to check it"


def test_a_recurrent_classifier_reads_a_text_once_while_its_head_alone_trains() -> None:
    torch.manual_seed(0)
    model = AWDLSTMForSequenceClassification(
        AWDLSTMConfig(vocab_size=30, embedding_size=8, hidden_size=12, num_hidden_layers=2, pad_token_id=0, num_labels=2)
    )
    plain, _ = trained(model, train_last=1, cached=False)
    kept, _ = trained(model, train_last=1, cached=True)
    for mine, theirs in zip(kept.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    freeze_to(layer_groups(model), train_last=1)
    loss_fn = frozen_cache(model, train_last=1).loss_fn(classifier_loss(task="single_label"))
    calls = []
    model.model.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    train_mode(model)
    for ids in ([0, 1], [2, 3], [3, 0, 1, 2]):
        loss_fn(model, make_batch(ids))
    assert len(calls) == 2


def test_where_nothing_is_frozen_or_blocks_hand_on_more_there_is_no_cache() -> None:
    model = AutoModelForSequenceClassification.from_config(CONFIGS[0])
    with pytest.raises(ValueError, match="no block"):
        frozen_cache(model, train_last=None)
    with pytest.raises(ValueError, match="no block"):
        frozen_cache(model, train_last=4)
    t5 = AutoModelForSequenceClassification.from_config(
        T5Config(
            d_model=16,
            d_ff=16,
            d_kv=8,
            num_layers=2,
            num_heads=2,
            vocab_size=30,
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=0,
        )
    )
    freeze_to(layer_groups(t5), train_last=1)
    batch = make_batch([0, 1])
    batch.inputs["input_ids"][:, -1] = 2
    with pytest.raises(ValueError, match="hidden states"):
        frozen_cache(t5, train_last=1).loss_fn(classifier_loss(task="single_label"))(t5, batch)


def test_frozen_layers_that_are_not_deterministic_raise_an_error() -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(CONFIGS[0])
    freeze_to(layer_groups(model), train_last=1)
    loss_fn = frozen_cache(model, train_last=1).loss_fn(classifier_loss(task="single_label"))
    model.train()  # dropout is on in the frozen layers, too
    loss_fn(model, make_batch([0, 1, 2]))
    with pytest.raises(ValueError, match="not deterministic"):
        loss_fn(model, make_batch([0, 1, 2]))
