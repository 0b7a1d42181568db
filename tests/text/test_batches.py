from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from nlpbp.core.errors import ConfigError
from nlpbp.data.packaged import packaged_model
from nlpbp.text.batches import batched_steps, collate, encode
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import length_limit, load_classifier, load_config, load_tokenizer

TEXTS = ["the film is dull", "wonderful", "", "the plot was clever and the acting seems warm"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_bert(tmp_path_factory.mktemp("model") / "bert")))


def test_tokens_are_those_of_the_tokenizer_itself(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(TEXTS, tokenizer=tokenizer, max_length=6)
    expected = tokenizer(TEXTS, truncation=True, max_length=6)["input_ids"]
    assert [encoded.tokens[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)] == expected
    assert encoded.lengths.tolist() == [len(ids) for ids in expected]
    assert encoded.truncated.tolist() == [3]
    assert len(encoded) == 4


def test_the_longer_text_of_a_pair_is_cut_first_and_types_tell_them_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(TEXTS, TEXTS[::-1], tokenizer=tokenizer, max_length=10)
    expected = tokenizer(TEXTS, TEXTS[::-1], truncation=True, max_length=10)
    batch = collate(encoded, np.arange(4), tokenizer=tokenizer)
    padded = tokenizer.pad(expected, padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch.inputs[name].tolist() == padded[name].tolist()


def test_a_tokenizer_is_left_as_it_was(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.backend_tokenizer.enable_truncation(5)
    before = tokenizer.backend_tokenizer.to_str()
    encode(TEXTS, tokenizer=tokenizer, max_length=8)
    assert tokenizer.backend_tokenizer.to_str() == before
    tokenizer.backend_tokenizer.no_truncation()


def test_a_packaged_tokenizer_that_pads_and_truncates_no_longer_does() -> None:
    tokenizer = load_tokenizer(str(packaged_model()))
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == (None, None)
    assert len(tokenizer("a " * 300)["input_ids"]) == 302


def test_the_cache_is_by_content_and_a_damaged_file_is_made_again(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(TEXTS, tokenizer=tokenizer, max_length=8, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    again = encode(TEXTS, tokenizer=tokenizer, max_length=8, cache=tmp_path)
    assert again.tokens.tolist() == first.tokens.tolist()
    assert file.stat().st_mtime_ns == stamp
    for texts, max_length in ((TEXTS[:-1], 8), (TEXTS, 7), ([*TEXTS[:-1], "other"], 8)):
        encode(texts, tokenizer=tokenizer, max_length=max_length, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    file.write_bytes(file.read_bytes()[:-3])
    assert encode(TEXTS, tokenizer=tokenizer, max_length=8, cache=tmp_path).tokens.tolist() == first.tokens.tolist()


def test_a_cache_that_cannot_be_written_costs_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(encode(TEXTS, tokenizer=tokenizer, max_length=8, cache=Path(os.devnull) / "nowhere")) == 4


def test_a_text_of_ten_megabytes_is_clipped_before_tokenizing() -> None:
    tokenizer = load_tokenizer(str(packaged_model()))
    started = time.process_time()
    encoded = encode(["word " * 2_000_000], tokenizer=tokenizer, max_length=128)
    assert (encoded.clipped.tolist(), encoded.lengths.tolist()) == ([0], [128])
    assert time.process_time() - started < 5.0  # unclipped it takes more than ten


def test_batches_pad_on_the_right_and_carry_ids_and_labels(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(TEXTS, tokenizer=tokenizer, max_length=8)
    labels = np.array([0, 1, 1, 0])
    ((batch,),) = batched_steps([[np.array([3, 1])]], encoded, tokenizer=tokenizer, labels=labels)
    assert batch.ids.tolist() == [3, 1]
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 1]
    mask = batch.inputs["attention_mask"]
    assert mask.sum(dim=1).tolist() == encoded.lengths[[3, 1]].tolist()
    assert (mask[:, 0] == 1).all()
    assert (batch.inputs["input_ids"][mask == 0] == tokenizer.pad_token_id).all()


def test_a_model_knows_its_labels_and_how_much_it_reads(tmp_path: Path) -> None:
    name = str(tiny_bert(tmp_path / "bert"))
    tokenizer = load_tokenizer(name)
    config = load_config(name, task="multi_label", labels=["a", "b", "c"])
    assert length_limit(config, tokenizer) == 64
    model = load_classifier(name, config=config, tokenizer=tokenizer)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.problem_type == "multi_label_classification"
    assert model.classifier.out_features == 3


@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [
        (["bad", "good"], ["bad", "good"], True),
        (["bad", "good"], ["good", "bad"], False),
        (["bad", "good"], ["ham", "spam"], False),
        (["bad", "good"], ["ham", "maybe", "spam"], False),
        (["LABEL_0", "LABEL_1"], ["bad", "good"], True),
        ([f"class {n}" for n in range(12)], [f"class {n}" for n in range(12)], True),
    ],
)
def test_a_head_for_other_labels_is_begun_anew(tmp_path: Path, before: list[str], after: list[str], is_kept: bool) -> None:
    name = str(tiny_bert(tmp_path / "bert"))
    tokenizer = load_tokenizer(name)
    trained = load_classifier(name, config=load_config(name, task="single_label", labels=before), tokenizer=tokenizer)
    torch.nn.init.ones_(trained.classifier.bias)
    trained.save_pretrained(tmp_path / "trained")
    again = str(tmp_path / "trained")
    model = load_classifier(again, config=load_config(again, task="single_label", labels=after), tokenizer=tokenizer)
    assert torch.equal(model.classifier.weight, trained.classifier.weight) == is_kept
    assert bool(model.classifier.bias.any()) == is_kept
    assert torch.equal(model.bert.pooler.dense.weight, trained.bert.pooler.dense.weight)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_config(str(tmp_path), task="single_label", labels=["a", "b"])
