"""The word that decides gets the largest score, by either way of asking; what is not read gets none."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import nlpbp.text  # noqa: F401
from nlpbp.data.tiny import ENDINGS, OPENINGS, WORDS
from nlpbp.text.attribution import gradient_times_input, occlusion, reading_end, token_attributions
from nlpbp.text.batches import collate, encode
from nlpbp.text.tiny import tiny_bert

MAX_LENGTH = 24
FILLER = " ".join([*OPENINGS, *ENDINGS]).split()


def sentence(generator, *, answer):
    """Some words in any order, one of which says the answer: 0 for a bad word, 1 for a good one, 2 without either."""
    words = generator.choice(FILLER, size=generator.integers(3, 11)).tolist()
    if answer < 2:
        words.insert(generator.integers(len(words) + 1), WORDS[("neg", "pos")[answer]][generator.integers(2)])
    return " ".join(words), answer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(tiny_bert(tmp_path_factory.mktemp("tiny") / "bert"))


def untrained(kind, tokenizer, folder):
    if kind == "bert":
        return AutoModelForSequenceClassification.from_pretrained(tiny_bert(folder / "bert"), num_labels=2).eval()
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_size": 24, "num_hidden_layers": 2}
    config = AutoConfig.for_model("awd_lstm", vocab_size=len(tokenizer), pad_token_id=0, num_labels=3, **sizes)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    """A small model that has learned to tell good words, bad words and none apart, and is not so sure yet that no slope is left."""
    model = untrained("awd_lstm", tokenizer, None)
    generator = np.random.default_rng(0)
    rows = [sentence(generator, answer=number % 3) for number in range(150)]
    encoded = encode([text for text, _ in rows], tokenizer=tokenizer, max_length=MAX_LENGTH)
    labels = np.array([label for _, label in rows])
    batch = collate(encoded, np.arange(len(rows)), tokenizer=tokenizer, labels=labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(80):
        loss = F.cross_entropy(model(**batch.inputs).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            return model
    raise AssertionError(f"the model did not learn: {loss}")


def probabilities(texts, *, model, tokenizer):
    encoded = encode(texts, tokenizer=tokenizer, max_length=MAX_LENGTH)
    with torch.inference_mode():
        return model(**collate(encoded, np.arange(len(texts)), tokenizer=tokenizer).inputs).logits.softmax(-1).numpy()


@pytest.mark.parametrize("label", [0, 1])
def test_the_label_word_gets_the_largest_score(model, tokenizer, label):
    word = WORDS[("neg", "pos")[label]][0]
    text = f"every scene is {word} for the whole family"
    classify = partial(probabilities, model=model, tokenizer=tokenizer)
    by_occlusion = occlusion(text, classify=classify, label=label)
    by_gradient, end = token_attributions(text, model=model, tokenizer=tokenizer, label=label, max_length=MAX_LENGTH)
    assert [one for one, _ in by_occlusion] == [one for one, _ in by_gradient] == text.split()
    assert end is None
    assert max(by_occlusion, key=lambda pair: pair[1])[0] == word
    assert max(by_gradient, key=lambda pair: pair[1])[0] == word
    assert dict(by_occlusion)[word] > 0.5


@pytest.mark.parametrize("kind", ["bert", "awd_lstm"])
def test_a_token_scores_what_the_logit_gains_as_its_embedding_grows(kind, tokenizer, tmp_path):
    model = untrained(kind, tokenizer, tmp_path).double()
    inputs = collate(
        encode(["this film is wonderful", "so dull"], tokenizer=tokenizer, max_length=MAX_LENGTH), np.arange(2), tokenizer=tokenizer
    ).inputs
    scores = gradient_times_input(model, inputs, label=1)
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    for position in range(3):
        logits = []
        for step in (-1e-4, 1e-4):
            grown = embedded.detach().clone()
            grown[:, position] *= 1 + step
            with torch.no_grad():
                logits.append(model(inputs_embeds=grown, attention_mask=inputs["attention_mask"]).logits[:, 1])
        assert torch.allclose(scores[:, position].double(), (logits[1] - logits[0]) / 2e-4, rtol=1e-2, atol=1e-3)
    assert scores.abs().max() > 1e-4


def test_padding_scores_nothing_and_changes_nothing_and_the_model_is_left_alone(model, tokenizer):
    texts = ["so dull", "every scene is wonderful for the whole family"]
    encoded = encode(texts, tokenizer=tokenizer, max_length=MAX_LENGTH)
    both, alone = (collate(encoded, np.array(ids), tokenizer=tokenizer).inputs for ids in ([0, 1], [0]))
    model.train()
    scores = gradient_times_input(model, both, label=0)
    assert model.training
    model.eval()
    assert all(parameter.grad is None or not parameter.grad.isnan().any() for parameter in model.parameters())
    length = int(both["attention_mask"][0].sum())
    assert (scores[0, length:] == 0).all()
    assert torch.allclose(scores[0, :length], gradient_times_input(model, alone, label=0)[0, :length], atol=1e-5)


def test_what_is_cut_off_is_marked_and_not_scored(model, tokenizer):
    text = " ".join(["every scene is"] * 10 + ["wonderful"])
    end = reading_end(text, tokenizer=tokenizer, max_length=MAX_LENGTH)
    assert end == len(" ".join(text.split()[: MAX_LENGTH - 2]))
    classify = partial(probabilities, model=model, tokenizer=tokenizer)
    scores = occlusion(text, classify=classify, label=1, end=end)
    assert len(scores) == MAX_LENGTH - 2
    assert "wonderful" not in dict(scores)
    assert token_attributions(text, model=model, tokenizer=tokenizer, label=1, max_length=MAX_LENGTH)[1] == end
    assert tokenizer.backend_tokenizer.truncation is None


def test_many_words_are_left_out_in_so_many_pieces():
    calls = []

    def classify(texts):
        calls.append(texts)
        return np.array([[float("x" in text)] for text in texts])

    scores = occlusion("a b c d e x g h i j", classify=classify, label=0, max_pieces=4)
    assert scores == [("a b", 0.0), ("c d e", 0.0), ("x g h", 1.0), ("i j", 0.0)]
    assert calls[0][:2] == ["a b c d e x g h i j", "c d e x g h i j"]
    assert len(calls) == 1
    assert occlusion(" \n", classify=classify, label=0) == []
    assert [word for word, _ in occlusion("\u6620\u753b x", classify=classify, label=0)] == ["\u6620", "\u753b", "x"]
