"""peft's low-rank adapters around AWD-LSTM models: they alone train, and whichever way the loss is computed they are part of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from nlpbp.text.awd_lstm import AWDLSTMConfig, AWDLSTMForCausalLM, AWDLSTMForSequenceClassification

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning", "ignore:Model has `tie_word:UserWarning"
)

WORDS = torch.tensor([[5, 6, 7, 8, 9], [9, 3, 4, 2, 6]])
CLASSES, NEXT = {"labels": torch.tensor([0, 2])}, {"shift_labels": WORDS.roll(-1, dims=1)}


def adapted(kind: Any, target: Any) -> Any:
    torch.manual_seed(0)
    model = kind(AWDLSTMConfig(vocab_size=12, embedding_size=6, hidden_size=8, num_hidden_layers=2, num_labels=3, head_size=16))
    return get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=target))


@pytest.mark.parametrize(
    ("kind", "target", "given"),
    [
        (AWDLSTMForSequenceClassification, "all-linear", CLASSES),
        (AWDLSTMForSequenceClassification, ["embed_tokens"], CLASSES),
        (AWDLSTMForCausalLM, ["lm_head"], {"labels": WORDS}),
        (AWDLSTMForCausalLM, ["lm_head"], NEXT),
        (AWDLSTMForCausalLM, ["embed_tokens"], NEXT),
    ],
)
def test_adapters_train_and_nothing_else_does(kind: Any, target: Any, given: dict[str, torch.Tensor]) -> None:
    model = adapted(kind, target).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # one of an adapter's two matrices begins at 0, so in the first step only one of them moves
        optimizer.zero_grad()
        model(WORDS, **given).loss.backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    adapters = {name for name in before if "lora_" in name}
    assert moved == adapters
    assert len(adapters) == (4 if target == "all-linear" else 2)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == adapters


def test_the_loss_of_a_stream_is_that_of_the_adapted_logits() -> None:
    model = adapted(AWDLSTMForCausalLM, ["lm_head"]).eval()
    plain = model(WORDS, **NEXT).loss
    torch.nn.init.normal_(model.base_model.model.lm_head.lora_B.default.weight)
    loss = model(WORDS, **NEXT).loss
    logits = model(WORDS).logits.flatten(0, 1)
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, NEXT["shift_labels"].flatten()), atol=1e-6)
    assert not torch.allclose(loss, plain, atol=1e-3)


def test_recurrent_matrices_are_no_linear_layers() -> None:
    with pytest.raises(ValueError, match="LSTM"):
        adapted(AWDLSTMForCausalLM, ["layers.0"])
