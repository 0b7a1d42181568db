"""A language model's vocabulary changes to another: known rows are copied, others get the mean, ties hold."""

from __future__ import annotations

import torch

from nlpbp.text.awd_lstm import AWDLSTMConfig, AWDLSTMForCausalLM
from nlpbp.text.tokenizer import train_tokenizer
from nlpbp.text.transfer import use_vocabulary_


def test_known_rows_are_copied_and_new_ones_get_the_mean() -> None:
    old = train_tokenizer(["a good film", "a good film"], kind="word")
    new = train_tokenizer(["a long film", "a long film by me"], kind="word")
    torch.manual_seed(0)
    model = AWDLSTMForCausalLM(AWDLSTMConfig(vocab_size=len(old), embedding_size=4, hidden_size=5, num_hidden_layers=2))
    torch.nn.init.normal_(model.lm_head.bias)
    rows, bias = model.model.embed_tokens.weight.detach().clone(), model.lm_head.bias.detach().clone()
    found = use_vocabulary_(model, old, new)
    before, after = old.get_vocab(), new.get_vocab()
    assert (found.known, found.total) == (len(before.keys() & after.keys()), len(after))
    for token, index in after.items():
        known = token in before
        assert torch.equal(model.model.embed_tokens.weight[index], rows[before[token]] if known else rows.mean(dim=0))
        assert torch.equal(model.lm_head.bias[index], bias[before[token]] if known else bias.mean())
    assert "long" in after.keys() - before.keys()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.vocab_size == model.lm_head.out_features == len(new)
    assert model(torch.tensor([[2, 3]])).logits.shape == (1, 2, len(new))
