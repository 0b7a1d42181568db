"""A recurrent net that begins with the token embeddings of a transformer, and its tokenizer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import nlpbp.text  # noqa: F401
from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.modalities.pretrained import model_path
from nlpbp.text.recurrent import load_embeddings
from recipes import lm_awd_lstm, ulmfit

BERT = "tiny:bert"


def test_they_are_the_models_own_scaled_and_without_what_all_have_in_common() -> None:
    found = load_embeddings(model_path(BERT))
    own = AutoModel.from_pretrained(model_path(BERT)).get_input_embeddings().weight.detach()[: len(found.weight)]
    pad = found.tokenizer.pad_token_id
    others = torch.arange(len(own)) != pad
    ratio = (own - own.mean(dim=0))[others] / found.weight[others]
    torch.testing.assert_close(ratio, torch.full_like(ratio, ratio.flatten()[0].item()), rtol=1e-3, atol=1e-3)
    assert found.weight[others].std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert not found.weight[pad].any()
    ids = found.tokenizer("a good film").input_ids
    assert found.tokenizer.convert_ids_to_tokens(ids)[:: len(ids) - 1] == [found.tokenizer.cls_token, found.tokenizer.sep_token]


@pytest.mark.parametrize("skip", [True, False])
def test_a_classifier_begins_with_them_with_a_language_model_or_without(tmp_path: Path, skip: bool) -> None:
    tiny = ulmfit.tiny()
    lm = ulmfit.Transfer(skip=True, embeddings=BERT) if skip else dataclasses.replace(tiny.lm, embeddings=BERT, lr=1e-9)
    stages = (sections.Stage(epochs=1, lr=1e-9),)  # it stays where it begins
    config = dataclasses.replace(tiny, lm=lm, stages=stages, tokenizer=sections.Tokenizer(), threads=1, out=str(tmp_path / "run"))
    ulmfit.run(config)
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    begun = load_embeddings(model_path(BERT)).weight
    assert torch.allclose(saved["model.embed_tokens.weight"], begun, atol=1e-4)
    assert not torch.allclose(begun, torch.zeros_like(begun), atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(model_path(BERT)).get_vocab()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.embedding_size == begun.shape[1]
    answers = pipeline("text-classification", model=str(tmp_path / "run" / "model"))(["a good film", "a bad film"])
    assert len(answers) == 2


def test_a_language_model_begins_with_them_and_is_a_start_for_a_classifier(tmp_path: Path) -> None:
    tiny = lm_awd_lstm.tiny()
    lm = dataclasses.replace(tiny.lm, embeddings=BERT)
    config = dataclasses.replace(tiny, lm=lm, tokenizer=sections.Tokenizer(), threads=1, out=str(tmp_path / "lm"))
    first = lm_awd_lstm.run(config)
    scratch = lm_awd_lstm.run(dataclasses.replace(config, lm=tiny.lm, tokenizer=tiny.tokenizer, out=str(tmp_path / "scratch")))
    assert first.metrics["validation"]["loss"] != scratch.metrics["validation"]["loss"]
    tied = load_file(tmp_path / "lm" / "model" / "model.safetensors")
    assert "lm_head.weight" not in tied  # one matrix reads and writes
    after = dataclasses.replace(
        ulmfit.tiny(), lm=ulmfit.Transfer(init=str(tmp_path / "lm"), steps=0), tokenizer=sections.Tokenizer()
    )
    ulmfit.run(dataclasses.replace(after, threads=1, out=str(tmp_path / "run")))
    width = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))["embedding_size"]
    assert width == load_embeddings(model_path(BERT)).weight.shape[1]


@pytest.mark.parametrize(
    ("lm", "tokenizer", "named"),
    [
        ({"embeddings": BERT, "init": "some/run"}, {}, "lm.init"),
        ({"embeddings": BERT}, {"kind": "word"}, "tokenizer.kind"),
        ({"embeddings": "no/where/at/all"}, {}, "config.json"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, lm: dict[str, str], tokenizer: dict[str, str], named: str) -> None:
    config = dataclasses.replace(
        ulmfit.tiny(),
        lm=dataclasses.replace(ulmfit.tiny().lm, **lm),  # type: ignore[arg-type]
        tokenizer=sections.Tokenizer(**tokenizer),  # type: ignore[arg-type]
        out=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match=named):
        ulmfit.run(config)


def test_a_model_without_token_embeddings_is_refused(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    folder = tmp_path / "vit"
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16)
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path(BERT)).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"lm\.embeddings.*no token embeddings"):
        load_embeddings(str(folder))
