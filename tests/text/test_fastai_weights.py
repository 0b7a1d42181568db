from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from nlpbp.core.errors import CheckpointError, ConfigError, DataError
from nlpbp.text.fastai_weights import fastai_text, load_fastai, word_tokenizer
from nlpbp.text.recurrent import load_language_model
from nlpbp.text.tokenizer import frame_documents_, train_tokenizer
from nlpbp.text.transfer import use_vocabulary_

WORDS = ["xxunk", "xxpad", "xxbos", "xxeos", "xxmaj", "the", "film", "is", "dull", "\n", "n't", "was", ".", "xxfake", "xxfake"]
EMBEDDING, HIDDEN, LAYERS = 6, 10, 3
IDS = torch.tensor([[2, 4, 5, 6, 7, 8], [2, 5, 6, 11, 10, 12]])


class Saved:
    """What fastai has in memory: an embedding, a stack of plain LSTMs, a decoder that is tied."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        widths = [EMBEDDING, *[HIDDEN] * (LAYERS - 1), EMBEDDING]
        self.embedding = nn.Embedding(len(WORDS), EMBEDDING)
        self.layers = [nn.LSTM(widths[i], widths[i + 1], batch_first=True) for i in range(LAYERS)]
        self.bias = torch.randn(len(WORDS))

    def hidden(self, ids: Tensor) -> Tensor:
        outputs = self.embedding(ids)
        for layer in self.layers:
            outputs, _ = layer(outputs)
        return outputs

    def state(self) -> OrderedDict[str, Tensor]:
        """The names of fastai's state, in its order; `clone` because it saves a copy of each."""
        encoder = self.embedding.weight.detach()
        state = OrderedDict({"0.encoder.weight": encoder, "0.encoder_dp.emb.weight": encoder})
        for index, layer in enumerate(self.layers):
            parts = {name: value.detach() for name, value in layer.named_parameters()}
            state[f"0.rnns.{index}.weight_hh_l0_raw"] = parts.pop("weight_hh_l0")
            state |= {f"0.rnns.{index}.module.{name}": value for name, value in parts.items()}
        return state | {"1.decoder.weight": encoder, "1.decoder.bias": self.bias}


def encoder_alone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("0."): value for name, value in state.items() if name.startswith("0.")}


@pytest.fixture
def saved() -> Saved:
    return Saved()


def written(folder: Path, state: Any, words: Any = WORDS) -> Path:
    torch.save(state, folder / "lm.pth")
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    return folder / "lm.pth"


@torch.no_grad()
def test_hidden_states_and_logits_are_those_of_a_plain_stack_of_lstms(saved: Saved, tmp_path: Path) -> None:
    model, tokenizer = load_fastai(written(tmp_path, saved.state()))
    read = model.model(IDS)
    assert (read.last_hidden_state - saved.hidden(IDS)).abs().max() < 1e-5
    logits = saved.hidden(IDS) @ saved.embedding.weight.T + saved.bias
    assert (model(IDS).logits - logits).abs().max() < 1e-5
    assert (model.config.embedding_size, model.config.hidden_size, model.config.num_hidden_layers) == (EMBEDDING, HIDDEN, LAYERS)
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (1, 2, None)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.training
    assert tokenizer("the film is dull").input_ids == [2, 5, 6, 7, 8]


@pytest.mark.parametrize("form", ["with an optimizer", "encoder", "older", "half", "no bias"])
@torch.no_grad()
def test_the_other_files_that_fastai_writes_give_the_same(saved: Saved, tmp_path: Path, form: str) -> None:
    state: Any = saved.state()
    if form == "with an optimizer":
        state = {"model": state, "opt": {"state": [], "hypers": [{"lr": 0.1}]}}
    elif form == "encoder":
        state = encoder_alone(state)
    elif form == "older":  # the weights before they are dropped stood there twice
        state |= {f"0.rnns.{i}.module.weight_hh_l0": state[f"0.rnns.{i}.weight_hh_l0_raw"] for i in range(LAYERS)}
    elif form == "half":
        state = {name: value.half() for name, value in state.items()}
    else:
        del state["1.decoder.bias"]
    model, _ = load_fastai(written(tmp_path, state))
    assert (model.model(IDS).last_hidden_state - saved.hidden(IDS)).abs().max() < (1e-2 if form == "half" else 1e-5)
    if form == "encoder":
        assert not model.lm_head.bias.any()
    assert (model.lm_head.bias is None) == (form == "no bias")


@torch.no_grad()
def test_what_was_loaded_is_saved_and_loaded_as_any_model_is(saved: Saved, tmp_path: Path) -> None:
    model, tokenizer = load_fastai(written(tmp_path, saved.state()), backwards=True)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert again.config.backwards
    text = "The film wasn't dull."
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text).input_ids == tokenizer(text).input_ids


def test_a_recipe_starts_from_it(saved: Saved, tmp_path: Path) -> None:
    model, tokenizer = load_language_model(str(written(tmp_path, saved.state())), dropout=0.5)
    assert (model.config.weight_dropout, tokenizer.bos_token) == (0.1, "xxbos")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    _, again = load_language_model(str(tmp_path / "model"), dropout=0.5)
    assert again("the film").input_ids == [2, 5, 6]


@torch.no_grad()
def test_its_words_and_its_special_tokens_go_over_to_another_vocabulary(saved: Saved, tmp_path: Path) -> None:
    model, old = load_fastai(written(tmp_path, saved.state()))
    new = train_tokenizer(["the film", "the film", "a play", "a play"], kind="word")
    use_vocabulary_(model, old, new)
    rows, before = model.model.embed_tokens.weight, saved.embedding.weight
    for token, index in (("<unk>", 0), ("<pad>", 1), ("<s>", 2), ("the", 5), ("film", 6)):
        assert torch.equal(rows[new.convert_tokens_to_ids(token)], before[index])
    assert torch.allclose(rows[new.convert_tokens_to_ids("play")], before.mean(dim=0))


@pytest.mark.parametrize("name", ["lm.json", "lm.txt", "vocab.json", "vocab.txt"])
def test_the_vocabulary_is_found_beside_the_weights(saved: Saved, tmp_path: Path, name: str) -> None:
    words = [word.replace("\n", "line") for word in WORDS]
    torch.save(saved.state(), tmp_path / "lm.pth")
    (tmp_path / name).write_text(json.dumps(words) if name.endswith("json") else "\n".join(words) + "\n", encoding="utf-8")
    _, tokenizer = load_fastai(tmp_path / "lm.pth")
    assert tokenizer.convert_ids_to_tokens([0, 9]) == ["xxunk", "line"]
    assert len(tokenizer) == len(WORDS)


@pytest.mark.parametrize("given", [True, False])
def test_a_pickled_vocabulary_is_refused_with_the_line_that_exports_it(saved: Saved, tmp_path: Path, given: bool) -> None:
    torch.save(saved.state(), tmp_path / "lm.pth")
    (tmp_path / "vocab.pkl").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(ConfigError) as error:
        load_fastai(tmp_path / "lm.pth", tmp_path / "vocab.pkl" if given else None)
    assert error.value.file == str(tmp_path / "vocab.pkl")
    assert 'json.dump(list(learn.dls.vocab), open("vocab.json", "w"))' in str(error.value.hint)


def test_no_vocabulary_at_all_is_said(saved: Saved, tmp_path: Path) -> None:
    torch.save(saved.state(), tmp_path / "lm.pth")
    with pytest.raises(ConfigError, match=r"no vocabulary beside it \(lm.json or vocab.json\)"):
        load_fastai(tmp_path / "lm.pth")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (WORDS[:-1], "has 14 tokens, the embedding in .* has 15"),
        ([*WORDS[:-1], "the"], "token 14 is a duplicate of token 5 .found: 'the'"),
        (["<unk>", *WORDS[1:]], "lacks xxunk"),
        ([WORDS, ["neg", "pos"]], "not a list of tokens.*a classifier: learn.dls.vocab"),
        ({"the": 1}, "not a list of tokens"),
    ],
)
def test_a_vocabulary_of_another_model_is_an_error(saved: Saved, tmp_path: Path, words: Any, named: str) -> None:
    with pytest.raises(DataError, match=named):
        load_fastai(written(tmp_path, saved.state(), words))


def test_a_vocabulary_that_is_no_json_is_an_error(saved: Saved, tmp_path: Path) -> None:
    file = written(tmp_path, saved.state())
    (tmp_path / "vocab.json").write_text("the film", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        load_fastai(file)


def changed(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    made = state | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"0__encoder__weight": None}, r"embedding \(encoder.weight\) cannot be found"),
        ({"0__rnns__1__module__bias_hh_l0": None}, "lacks rnns.1.module.bias_hh_l0"),
        ({"0__rnns__1__weight_hh_l0_raw": None}, "lacks rnns.1.weight_hh_l0_raw"),
        ({"0__rnns__0__module__weight_ih_l0_reverse": torch.zeros(2)}, "has rnns.0.module.weight_ih_l0_reverse"),
        ({"0__rnns__0__module__weight_ih_l0": torch.zeros(4 * HIDDEN, 7)}, r"weight_ih_l0 is \[40, 7\].* ask for \[40, 6\]"),
        ({"1__decoder__weight": torch.zeros(len(WORDS), EMBEDDING)}, "decoder.weight is not tied"),
    ],
)
def test_weights_of_something_else_are_an_error(
    saved: Saved, tmp_path: Path, changes: dict[str, Tensor | None], named: str
) -> None:
    with pytest.raises(CheckpointError, match=named) as error:
        load_fastai(written(tmp_path, changed(saved.state(), **changes)))
    assert error.value.hint


def test_a_classifier_of_fastais_is_an_error_that_names_save_encoder(saved: Saved, tmp_path: Path) -> None:
    state = {f"0.module.{name}": value for name, value in encoder_alone(saved.state()).items()}
    with pytest.raises(CheckpointError, match="save_encoder"):
        load_fastai(written(tmp_path, state | {"1.layers.0.2.weight": torch.zeros(50, 18)}))


class Call:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("content", [b"", b"weights", None])
def test_what_is_not_weights_alone_is_refused_and_runs_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = written(tmp_path, {"0.encoder.weight": Call(os.mkdir, str(tmp_path / "ran"))})
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match="more than weights, or is damaged"):
        load_fastai(file)
    assert not (tmp_path / "ran").exists()


def test_a_state_that_is_a_list_and_a_file_that_is_not_there_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not contain a model's state dict"):
        load_fastai(written(tmp_path, [torch.zeros(2)]))
    with pytest.raises(ConfigError, match="no such file"):
        load_fastai(tmp_path / "other.pth")


def test_a_document_begins_with_xxbos_and_has_no_end() -> None:
    tokenizer = word_tokenizer(WORDS)
    assert tokenizer("the film", "is dull").input_ids == [2, 5, 6, 2, 7, 8]
    frame_documents_(tokenizer, end=False)
    assert tokenizer("the film").input_ids == [2, 5, 6]
    assert tokenizer("xxfake").input_ids == [2, 0]  # which stands for no word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A good Film", "a good xxmaj film"),
        ("NOT so GREAT, I think", "xxup not so xxup great, i think"),
        ("McDonald went to L.A. in 1987", "mcdonald went to xxup l.a. in 1987"),
        ("so baaad!!!", "so b xxrep 3 a d xxrep 3 !"),
        ("very very good", "very very good"),
        ("very very very very good", "xxwrep 4 very good"),
        ("no no no", "xxwrep 3 no"),
        ("either/or #1", "either / or # 1"),
        ("one<br /><br />two   three", "one\n\ntwo three"),
        ("it&#39;s &lt;b&gt; caf&eacute;", "it&'s <b> café"),
        ("3 @.@ 5 well @-@ known <unk> ...", "3.5 well-known xxunk …"),
        ("", ""),
    ],
)
def test_fastais_rules_on_what_each_is_for(text: str, expected: str) -> None:
    assert fastai_text(text) == f"xxbos {expected}"
