from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig, GPT2Config

from nlpbp.core.regularize import ByteDropout, scale_dropouts, use_byte_dropout


def test_one_multiplier_scales_every_dropout_in_its_own_ratio() -> None:
    config = BertConfig(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, classifier_dropout=0.4)
    assert scale_dropouts(config, 0.5) == {
        "hidden_dropout_prob": 0.05,
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": 0.2,
    }
    assert (config.hidden_dropout_prob, config.classifier_dropout) == (0.05, 0.2)
    assert len(scale_dropouts(DistilBertConfig(), 2.0)) == 4
    assert set(scale_dropouts(GPT2Config(), 2.0)) >= {"attn_pdrop", "embd_pdrop", "resid_pdrop"}


@pytest.mark.parametrize("scale", [-1.0, 10.0])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        scale_dropouts(BertConfig(), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_byte_dropout_drops_its_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    dropped = ByteDropout(p)(torch.ones(400, 1001, dtype=dtype))
    zeros = (dropped == 0).double().mean().item()
    assert zeros == pytest.approx(p, abs=4 * (p * (1 - p) / dropped.numel()) ** 0.5)
    assert dropped.max().item() == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)


def test_byte_dropout_has_no_pattern_along_its_random_words() -> None:
    torch.manual_seed(1)
    kept = ByteDropout(0.5)(torch.ones(4 * 50_000)).ne(0).double().view(-1, 4)
    assert kept.mean(dim=0).tolist() == pytest.approx([0.5] * 4, abs=0.01)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_byte_dropout_repeats_with_the_seed_and_passes_the_gradient_it_passed_forward() -> None:
    layer, x = ByteDropout(0.3), torch.ones(64, 64, requires_grad=True)
    torch.manual_seed(5)
    first = layer(x)
    torch.manual_seed(5)
    assert torch.equal(first, layer(x))
    torch.manual_seed(6)
    assert not torch.equal(first, layer(x))
    first.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, first.detach())


def test_byte_dropout_does_nothing_in_evaluation() -> None:
    x = torch.ones(8)
    assert torch.equal(ByteDropout(0.5).eval()(x), x)


def test_byte_dropout_takes_the_place_of_every_dropout_of_a_model_and_leaves_its_weights() -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    model = AutoModelForSequenceClassification.from_config(config)
    names = list(model.state_dict())
    assert use_byte_dropout(model) > 5
    assert not [m for m in model.modules() if type(m) is nn.Dropout]
    assert list(model.state_dict()) == names
