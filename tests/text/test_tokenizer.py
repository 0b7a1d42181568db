"""Tokenizers of one's own: what training saw is what a loaded one sees, in every script."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nlpbp.text.batches import encode
from nlpbp.text.tokenizer import Kind, frame_documents_, measure_coverage, train_tokenizer

TEXTS = ["A good film, said Anna.", "a bad film<br /><br />said Bob", "Good film! Bad film?", "映画が好き 映画が好き"]
STRANGE = ["", " ", "👩‍👩‍👧 ok", "映画", "ÄÖÜ naïve", "a<br/>b", "\u202eabc", "tab\tand\nline", "x" * 3000]


@pytest.mark.parametrize("kind", ["subword", "word"])
def test_a_saved_tokenizer_reads_as_it_did(tmp_path: Path, kind: Kind) -> None:
    tokenizer = train_tokenizer(TEXTS, kind=kind, vocab_size=400)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, *STRANGE]:
        assert loaded(text).input_ids == tokenizer(text).input_ids
        assert loaded(text).input_ids[:1] == [2]
        assert loaded(text).input_ids[-1:] == [3]
    assert loaded("a", "b").input_ids.count(3) == 2
    assert (loaded.unk_token_id, loaded.pad_token_id) == (0, 1)


def test_subwords_keep_case_and_know_every_text() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=400)
    for text in STRANGE[2:7]:
        ids = tokenizer(text).input_ids
        assert 0 not in ids
    assert tokenizer.decode(tokenizer("Good FILM").input_ids, skip_special_tokens=True).strip() == "Good FILM"
    assert tokenizer("a<br /><br />b").input_ids == tokenizer("a\nb").input_ids


def test_words_are_in_lower_case_and_rare_ones_unknown() -> None:
    tokenizer = train_tokenizer(TEXTS, kind="word")
    assert tokenizer("GOOD film").input_ids == tokenizer("good Film").input_ids
    assert tokenizer.convert_ids_to_tokens(tokenizer("anna film").input_ids) == ["<s>", "<unk>", "film", "</s>"]
    prompt = "good film"
    more = tokenizer.decode(tokenizer("bad film", add_special_tokens=False).input_ids)
    assert prompt + more == "good film bad film"  # what pipeline("text-generation") does


@pytest.mark.parametrize("kind", ["subword", "word"])
def test_a_vocabulary_has_the_size_asked_for(kind: Kind) -> None:
    texts = [f"word{i} word{i}" for i in range(1000)]
    assert len(train_tokenizer(texts, kind=kind, vocab_size=500)) == 500


def test_a_prompt_stays_open_and_a_document_does_not() -> None:
    tokenizer = train_tokenizer(TEXTS, kind="word")
    frame_documents_(tokenizer, end=False)
    assert 3 not in tokenizer("good film").input_ids
    frame_documents_(tokenizer)
    assert tokenizer("good film").input_ids[-1] == 3


def test_coverage_counts_words_and_unknown_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, kind="word")
    texts = ["good film", "anna said so !"]
    coverage = measure_coverage(texts, encode(texts, tokenizer=tokenizer, max_length=100), tokenizer)
    assert (coverage.tokens_per_word, coverage.unknown_share) == (1.0, 0.5)  # anna, so and "!" of six
