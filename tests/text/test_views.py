"""Windows read all of a long text, head and tail its ends; a short text stays as it is, token for token."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from nlpbp.text.batches import encode
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.views import encode_head_tail, encode_windows, mean_by_text

SHORT = "so dull"
WORDS = ["this", "film", "is", "wonderful", "from", "start", "to", "end", "and", "i", "would", "say", "so", "again"]  # 14


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(tiny_bert(tmp_path_factory.mktemp("tiny") / "bert"))


def words(encoded, index, tokenizer):
    return tokenizer.decode(encoded.tokens[encoded.offsets[index] : encoded.offsets[index + 1]]).split()


def test_windows_overlap_and_reach_the_end(tokenizer):
    encoded, owners = encode_windows([SHORT, " ".join(WORDS), SHORT], tokenizer=tokenizer, max_length=8, stride=4)
    assert owners.tolist() == [0, 1, 1, 1, 2]
    assert [words(encoded, row, tokenizer)[1:-1] for row in (1, 2, 3)] == [WORDS[:6], WORDS[4:10], WORDS[8:14]]
    assert all(words(encoded, row, tokenizer)[0::7] == ["[CLS]", "[SEP]"] for row in (1, 2, 3))
    assert tokenizer.backend_tokenizer.truncation is None


@pytest.mark.parametrize("stride", [0, 7])
def test_windows_with_gaps_are_refused(tokenizer, stride):
    with pytest.raises(ValueError, match="1 to 6"):
        encode_windows([SHORT], tokenizer=tokenizer, max_length=8, stride=stride)


def test_head_and_tail_meet_in_the_middle(tokenizer):
    encoded = encode_head_tail([" ".join(WORDS), SHORT], tokenizer=tokenizer, max_length=8)
    assert words(encoded, 0, tokenizer) == ["[CLS]", WORDS[0], *WORDS[-5:], "[SEP]"]
    endless = "this " + "film " * 5000 + "end"
    assert words(encode_head_tail([endless], tokenizer=tokenizer, max_length=8), 0, tokenizer)[1:-1][::4] == ["this", "film"]
    assert words(encode_head_tail([endless], tokenizer=tokenizer, max_length=8), 0, tokenizer)[-2] == "end"


def test_a_text_that_is_read_whole_is_what_it_was(tokenizer):
    texts = [SHORT, " ".join(WORDS), "", "again " * 5]
    plain = encode(texts, tokenizer=tokenizer, max_length=16)
    windows, owners = encode_windows(texts, tokenizer=tokenizer, max_length=16)
    ends = encode_head_tail(texts, tokenizer=tokenizer, max_length=16)
    assert owners.tolist() == [0, 1, 2, 3]
    assert plain.tokens.tolist() == windows.tokens.tolist() == ends.tokens.tolist()
    assert plain.offsets.tolist() == windows.offsets.tolist() == ends.offsets.tolist()


def test_means_are_of_each_texts_own_windows():
    outputs = np.array([[1.0], [2.0], [4.0], [7.0]], dtype=np.float32)
    made = mean_by_text(outputs, np.array([0, 1, 1, 2]))
    assert (made.dtype, made.tolist()) == (np.float32, [[1.0], [3.0], [7.0]])
    assert mean_by_text(np.array([1.0, 3.0]), np.array([0, 0])).tolist() == [2.0]
