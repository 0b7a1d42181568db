"""A head on pooled states, for any family of encoders and decoders: padding changes nothing, and transformers loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    FunnelConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    pipeline,
)

from nlpbp.core.groups import layer_groups
from nlpbp.core.layers import output_layer
from nlpbp.core.pooling import Pooling
from nlpbp.data.packaged import packaged_model
from nlpbp.text.batches import collate, encode
from nlpbp.text.pooled import PooledConfig, PooledForSequenceClassification, pooled_config, sentence_pooling
from nlpbp.text.states import HeadInputs
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import faster, load_classifier, load_config, load_tokenizer, with_pooling

WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}
SMALL = WIDE | {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ONE_HEAD = SMALL | {"num_key_value_heads": 1, "head_dim": 8}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
XLNET = {"vocab_size": 64, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16, "pad_token_id": 0} | ENDS
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "pad_token_id": 0} | ENDS
DISTILBERT = {"vocab_size": 64, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16, "pad_token_id": 0}
MODERNBERT = SMALL | {"cls_token_id": 1, "sep_token_id": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": SMALL | {"embedding_size": 16},
    "bart": BART | ENDS,
    "bert": SMALL,
    "deberta-v2": SMALL,
    "distilbert": DISTILBERT,
    "electra": SMALL | {"embedding_size": 16},
    "gemma3_text": ONE_HEAD,
    "gpt2": GPT2,
    "llama": ONE_HEAD,
    "longformer": SMALL | {"attention_window": 4, "sep_token_id": 2},
    "modernbert": MODERNBERT,
    "mpnet": SMALL,
    "qwen3": ONE_HEAD,
    "roberta": SMALL,
    "t5": T5 | {"pad_token_id": 0, "eos_token_id": 2},
    "xlnet": XLNET,
}
KINDS: tuple[Pooling, ...] = ("first", "mean", "max", "concat", "last")
ROWS = [[5, 6, 7, 8, 9, 10, 2], [5, 6, 7, 2]]


def config_of(family: str) -> PreTrainedConfig:
    config = AutoConfig.for_model(family, **FAMILIES[family], num_labels=3)
    config.name_or_path = f"{family} with random weights"
    return config


def padded(rows: list[list[int]], *, extra: int = 0) -> dict[str, torch.Tensor]:
    width = max(map(len, rows)) + extra
    made = [row + [0] * (width - len(row)) for row in rows]
    return {"input_ids": torch.tensor(made), "attention_mask": (torch.tensor(made) > 0).long()}


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_answer_and_transformers_loads_the_saved_model(family: str, tmp_path: Path) -> None:
    for kind in KINDS:
        torch.manual_seed(0)
        model = PooledForSequenceClassification(pooled_config(config_of(family), pooling=kind)).eval()
        with torch.no_grad():
            together, alone = model(**padded(ROWS)).logits, [model(**padded([row])).logits[0] for row in ROWS]
            more = model(**padded(ROWS, extra=5)).logits
        torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together, more, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), "no weight is missing, left over or of another shape"
    with torch.no_grad():
        assert torch.equal(again.eval()(**padded(ROWS)).logits, together)


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "xlnet"])
def test_the_layer_groups_are_those_of_the_body_and_a_head(family: str) -> None:
    model = PooledForSequenceClassification(pooled_config(config_of(family), pooling="mean"))
    assert [group.name for group in layer_groups(model)] == ["embeddings", "block.0", "block.1", "head"]


def test_a_pooler_that_no_answer_depends_on_is_taken_off() -> None:
    model = PooledForSequenceClassification(pooled_config(config_of("bert"), pooling="mean"))
    model(**padded(ROWS), labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["bart", "bert", "distilbert", "gpt2", "modernbert", "qwen3", "roberta", "t5", "xlnet"])
def test_the_state_that_a_familys_own_head_reads_is_found(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config_of(family)).eval()
    reads = HeadInputs(model, poolings=("mean",))
    with torch.no_grad():
        logits, both = model(**padded(ROWS)).logits, reads(**padded(ROWS)).logits
    own, mean = both.split(reads.widths, dim=1)
    torch.testing.assert_close(output_layer(model, num_outputs=3)(own), logits, atol=1e-5, rtol=1e-4)
    pooled = with_pooling(model, "mean").eval()
    with torch.no_grad():
        torch.testing.assert_close(pooled.classifier(mean), pooled(**padded(ROWS)).logits, atol=1e-5, rtol=1e-4)


def test_states_that_are_fewer_than_the_tokens_cannot_be_pooled() -> None:
    config = FunnelConfig(vocab_size=64, d_model=16, block_sizes=[1, 1], n_head=2, d_head=8, d_inner=16, num_labels=3)
    reads = HeadInputs(AutoModelForSequenceClassification.from_config(config).eval(), poolings=("mean",))
    with pytest.raises(ValueError, match="not one for each token"), torch.no_grad():
        reads(**padded(ROWS, extra=1))


def test_token_types_reach_the_body() -> None:
    model = PooledForSequenceClassification(pooled_config(config_of("bert"), pooling="mean")).eval()
    with torch.no_grad():
        one, two = (model(**padded(ROWS), token_type_ids=torch.full((2, 7), kind)).logits for kind in (0, 1))
    assert not torch.allclose(one, two)


def test_a_sentence_encoder_says_how_it_pools_in_either_form(tmp_path: Path) -> None:
    assert sentence_pooling(str(packaged_model())) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    for written, wanted in (
        ({"pooling_mode": "cls"}, "first"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, None),
        ({"pooling_mode": "weightedmean"}, None),
    ):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(written))
        assert sentence_pooling(str(tmp_path)) == wanted
    (tmp_path / "modules.json").write_text("[")
    assert sentence_pooling(str(tmp_path)) is None


def test_a_model_without_a_pooling_module_is_no_sentence_encoder(tmp_path: Path) -> None:
    assert sentence_pooling(str(tiny_bert(tmp_path / "bert"))) is None


def test_settings_of_a_sentence_encoder_without_modules_stand_for_the_mean(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert sentence_pooling(str(tmp_path)) == "mean"
    (tmp_path / "modules.json").write_text("[]")
    assert sentence_pooling(str(tmp_path)) is None


def test_a_loaded_pooled_classifier_has_the_bodys_weights_and_a_new_head(tmp_path: Path) -> None:
    name = str(tiny_bert(tmp_path / "bert"))
    tokenizer, config = load_tokenizer(name), load_config(name, task="single_label", labels=("a", "b", "c"), dropout_scale=0.5)
    model = faster(load_classifier(name, config=config, tokenizer=tokenizer, pooling="mean"))
    assert isinstance(model, PooledForSequenceClassification)
    assert model.config.head_dropout == model.config.text_config.hidden_dropout_prob == 0.05
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    plain = AutoModel.from_pretrained(name).state_dict()
    for key, value in model.body.state_dict().items():
        assert torch.equal(value, plain[key])
    assert str(tmp_path) not in json.dumps(model.config.to_dict())


def test_the_saved_model_can_be_loaded_for_other_labels(tmp_path: Path) -> None:
    name = str(tiny_bert(tmp_path / "bert"))
    tokenizer = load_tokenizer(name)
    config = load_config(name, task="single_label", labels=("a", "b", "c"))
    first = load_classifier(name, config=config, tokenizer=tokenizer, pooling="max")
    first.save_pretrained(tmp_path / "first")
    again = str(tmp_path / "first")
    second = load_classifier(again, config=load_config(again, task="single_label", labels=("x", "y")), tokenizer=tokenizer)
    assert second.config.pooling == "max"
    assert second.classifier.out_features == 2
    other = load_classifier(
        again, config=load_config(again, task="single_label", labels=("x", "y")), tokenizer=tokenizer, pooling="concat"
    )
    assert other.classifier.in_features == 3 * 32
    assert torch.equal(other.body.embeddings.word_embeddings.weight, first.body.embeddings.word_embeddings.weight)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer that puts no token at the ends of a text, as those of decoders."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {letter: 3 + index for index, letter in enumerate("abcdefgh")}
    backend = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_text_without_a_token_has_the_answer_of_the_end_of_text(family: str) -> None:
    tokenizer, kinds = byte_tokenizer(), ("mean", "last", "concat")
    encoded = encode(["", "ab", "</s>"], tokenizer=tokenizer, max_length=8)
    assert encoded.lengths.min() == 1
    for kind in kinds:
        model = PooledForSequenceClassification(pooled_config(config_of(family), pooling=kind)).eval()
        with torch.no_grad():
            alone = model(**collate(encoded, torch.tensor([0]).numpy(), tokenizer=tokenizer).inputs).logits
            among = model(**collate(encoded, torch.arange(2).numpy(), tokenizer=tokenizer).inputs).logits
        assert alone.isfinite().all()
        torch.testing.assert_close(alone[0], among[0], atol=1e-5, rtol=1e-4)


def test_pipeline_answers_as_the_model(tmp_path: Path) -> None:
    name = str(tiny_bert(tmp_path / "bert"))
    tokenizer, config = load_tokenizer(name), load_config(name, task="single_label", labels=("no", "yes"))
    model = load_classifier(name, config=config, tokenizer=tokenizer, pooling="mean").eval()
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    texts = ["a superb lamp", "a dull and broken kettle, again", ""]
    encoded = encode(texts, tokenizer=tokenizer, max_length=32)
    with torch.no_grad():
        wanted = model(**collate(encoded, torch.arange(3).numpy(), tokenizer=tokenizer).inputs).logits.softmax(dim=1)
    classify = pipeline("text-classification", model=str(tmp_path / "saved"))
    for batch_size in (1, 3):
        answers = classify(texts, batch_size=batch_size, top_k=None)
        found = [[{one["label"]: one["score"] for one in answer}[label] for label in ("no", "yes")] for answer in answers]
        torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-5, rtol=1e-4)


def test_a_config_of_its_own_survives_a_round_trip(tmp_path: Path) -> None:
    config = PooledConfig(text_config=BertConfig(**SMALL), pooling="last", head_dropout=0.25)
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(again, PooledConfig)
    assert (again.pooling, again.head_dropout, again.get_text_config().hidden_size) == ("last", 0.25, 16)
