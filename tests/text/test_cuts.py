"""Windows read all of a long text, head and tail its ends; a short text stays as it is, token for token."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from nlpbp.data.windows import means_of_windows, of_windows
from nlpbp.text.batches import encode
from nlpbp.text.tiny import tiny_bert

SHORT = "so dull"
WORDS = ["this", "film", "is", "wonderful", "from", "start", "to", "end", "and", "i", "would", "say", "so", "again"]  # 14
ENDLESS = "this " + "film " * 5000 + "end"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(tiny_bert(tmp_path_factory.mktemp("tiny") / "bert"))


def words(encoded, index, tokenizer):
    return tokenizer.decode(encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]]).split()


def test_windows_overlap_and_reach_the_end(tokenizer):
    encoded = encode([SHORT, " ".join(WORDS), SHORT], tokenizer=tokenizer, max_length=8, cut="windows")
    assert encoded.owners.tolist() == [0, 1, 1, 1, 1, 2]
    read = [words(encoded, row, tokenizer)[1:-1] for row in (1, 2, 3, 4)]
    assert read == [WORDS[:6], WORDS[3:9], WORDS[6:12], WORDS[9:14]]
    assert all(words(encoded, row, tokenizer)[0] == "[CLS]" and words(encoded, row, tokenizer)[-1] == "[SEP]" for row in range(6))
    assert len(encoded.truncated) == 0
    assert tokenizer.backend_tokenizer.truncation is None


def test_what_lies_beyond_the_last_window_is_counted(tokenizer):
    encoded = encode([SHORT, ENDLESS], tokenizer=tokenizer, max_length=8, cut="windows")
    assert (encoded.owners.tolist(), encoded.truncated.tolist(), encoded.clipped.tolist()) == ([0] + [1] * 16, [1], [1])


def test_a_tail_is_the_end(tokenizer):
    encoded = encode([" ".join(WORDS), SHORT, ENDLESS], tokenizer=tokenizer, max_length=8, cut="tail")
    assert words(encoded, 0, tokenizer) == ["[CLS]", *WORDS[-6:], "[SEP]"]
    assert words(encoded, 2, tokenizer) == ["[CLS]", *["film"] * 5, "end", "[SEP]"]
    assert encoded.truncated.tolist() == [0, 2]


def test_head_and_tail_meet_in_the_middle(tokenizer):
    encoded = encode([" ".join(WORDS), SHORT, ENDLESS], tokenizer=tokenizer, max_length=8, cut="head_tail")
    assert words(encoded, 0, tokenizer) == ["[CLS]", WORDS[0], *WORDS[-5:], "[SEP]"]
    assert words(encoded, 2, tokenizer) == ["[CLS]", "this", *["film"] * 4, "end", "[SEP]"]


@pytest.mark.parametrize("cut", ["tail", "head_tail", "windows"])
def test_a_text_that_is_read_whole_is_what_it_was(tokenizer, cut, tmp_path):
    texts = [SHORT, " ".join(WORDS), "", "again " * 5]
    plain = encode(texts, tokenizer=tokenizer, max_length=16)
    made = encode(texts, tokenizer=tokenizer, max_length=16, cut=cut, cache=tmp_path)
    cached = encode(texts, tokenizer=tokenizer, max_length=16, cut=cut, cache=tmp_path)
    for encoded in (made, cached):
        assert encoded.tokens.tolist() == plain.tokens.tolist()
        assert encoded.offsets.tolist() == plain.offsets.tolist()
        assert (encoded.owners is None) == (cut != "windows")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("cut", ["head_tail", "windows"])
def test_pairs_have_no_two_ends(tokenizer, cut):
    with pytest.raises(ValueError, match=cut):
        encode([SHORT], [SHORT], tokenizer=tokenizer, max_length=8, cut=cut)


def test_means_are_of_each_texts_own_windows():
    owners = np.array([0, 1, 1, 2])
    made = means_of_windows(np.array([[1.0], [2.0], [4.0], [7.0]], dtype=np.float32), owners)
    assert (made.dtype, made.tolist()) == (np.float32, [[1.0], [3.0], [7.0]])
    assert of_windows(["a", "b", "c"], owners) == ["a", "b", "b", "c"]
