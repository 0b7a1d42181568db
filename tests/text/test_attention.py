from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig

from nlpbp.text.attention import _attention, register_attention

MASKS = {
    "none": None,
    "boolean": torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, None, None, :].expand(2, 1, 6, 6),
    "added": torch.tensor([[0.0] * 6, [0.0] * 4 + [float("-inf")] * 2])[:, None, None, :].expand(2, 1, 6, 6),
}


def attend(mask: Tensor | None, dropout: float, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 6, 8).to(dtype)
    torch.seed()
    return _attention(nn.Identity(), query, key, value, mask, dropout=dropout, is_causal=False)[0]


def test_with_a_dropout_that_drops_nothing_it_answers_as_sdpa_does() -> None:
    for mask in MASKS.values():
        assert torch.allclose(attend(mask, dropout=1e-9), attend(mask, dropout=0.0), atol=1e-6)
        difference = attend(mask, dropout=1e-9, dtype=torch.bfloat16) - attend(mask, dropout=0.0)
        assert difference.abs().max() < 0.05


def test_dropout_keeps_the_mean_of_what_it_answers() -> None:
    for mask in MASKS.values():
        drawn = torch.stack([attend(mask, dropout=0.3) for _ in range(1000)])
        deviation = drawn.std(dim=0)
        assert deviation.max() > 0.1
        error = (drawn.mean(dim=0) - attend(mask, dropout=0.0)).abs()
        assert (error <= 5 * deviation / 1000**0.5 + 1e-6).all()


def test_a_model_answers_the_same_in_evaluation_and_does_not_remember_the_name() -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
    inputs = {"input_ids": torch.randint(0, 20, (2, 6)), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    expected = model(**inputs).logits
    model.set_attn_implementation(register_attention())
    assert torch.equal(model(**inputs).logits, expected)
    assert not torch.equal(model.train()(**inputs).logits, expected)
    assert "sdpa_byte_dropout" not in model.config.to_json_string()
