"""AWD-LSTM models: read in parts as at once, blind to padding and neighbours, dropouts as in the paper, at home in transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, Trainer, TrainingArguments

from nlpbp.core.init import init_recurrent_
from nlpbp.core.pooling import Pooling
from nlpbp.text.awd_lstm import (
    LANGUAGE_MODEL_DROPOUTS,
    AWDLSTMConfig,
    AWDLSTMForCausalLM,
    AWDLSTMForSequenceClassification,
    AWDLSTMModel,
)
from nlpbp.text.awd_lstm import classifier as classifier_module

CELLS: list[dict[str, Any]] = [{"cell": "lstm"}, {"cell": "gru"}, {"cell": "rnn"}, {"cell": "rnn", "nonlinearity": "relu"}]
WORDS = torch.tensor([[5, 6, 7, 8, 9], [9, 3, 4, 2, 6]])
NONE = {f"{name}_dropout": 0.0 for name in ("embed", "input", "hidden", "weight", "output", "head")}


def small(**changes: Any) -> AWDLSTMConfig:
    options = {"vocab_size": 12, "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 2, "pad_token_id": 1, "num_labels": 3}
    return AWDLSTMConfig(**{**options, "bos_token_id": 2, "eos_token_id": 3, "head_size": 16, **changes})


def classifier(**changes: Any) -> AWDLSTMForSequenceClassification:
    torch.manual_seed(0)
    return AWDLSTMForSequenceClassification(small(**changes)).eval()


def language_model(**changes: Any) -> AWDLSTMForCausalLM:
    torch.manual_seed(0)
    return AWDLSTMForCausalLM(small(**changes)).eval()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification])
def test_a_saved_model_loads_bit_for_bit_and_keeps_its_ties(tmp_path: Path, cell: dict[str, Any], auto: Any) -> None:
    torch.manual_seed(0)
    model = auto.from_config(small(**cell))
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    if auto is AutoModelForCausalLM:
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        loaded.resize_token_embeddings(15)
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert loaded(WORDS).logits.shape == (2, 5, 15)


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_begin_as_written(cell: dict[str, Any]) -> None:
    model = classifier(**cell, recurrent_init="identity" if "nonlinearity" in cell else "orthogonal")
    gates = {"lstm": 4, "gru": 3}.get(cell["cell"], 1)
    for layer in model.model.layers:
        for gate in layer.weight_hh_l0.chunk(gates):
            eye = torch.eye(len(gate))
            assert torch.allclose(gate if "nonlinearity" in cell else gate @ gate.T, eye, atol=1e-5)
        assert torch.equal(layer.bias_hh_l0, torch.zeros_like(layer.bias_hh_l0))
        if cell["cell"] == "lstm":
            assert [gate.mean().item() for gate in layer.bias_ih_l0.chunk(4)] == [0.0, 1.0, 0.0, 0.0]
    assert model.model.embed_tokens.weight.abs().max() <= 0.1
    assert torch.equal(model.model.embed_tokens.weight[1], torch.zeros(6))
    assert torch.equal(model.classifier.dense.bias, torch.zeros(16))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cells_with_gates_begin_as_torchs_own(cell: str) -> None:
    for layer in classifier(cell=cell, hidden_size=64).model.layers:
        bound = layer.hidden_size**-0.5
        for parameter in layer.parameters():
            assert 0.5 * bound < parameter.abs().max() <= bound
    rnn, named = classifier(cell="rnn"), classifier(cell="rnn", recurrent_init="orthogonal")
    assert all(torch.equal(one, other) for one, other in zip(rnn.parameters(), named.parameters(), strict=True))


def test_cells_have_parameters_in_the_ratio_of_their_gates() -> None:
    counts = [sum(p.numel() for p in AWDLSTMModel(small(cell=cell)).layers.parameters()) for cell in ("rnn", "gru", "lstm")]
    assert [count / counts[0] for count in counts] == [1.0, 3.0, 4.0]


@pytest.mark.parametrize("cell", CELLS)
def test_reading_in_two_parts_is_reading_at_once(cell: dict[str, Any]) -> None:
    model = language_model(**cell)
    whole = model(WORDS)
    first = model(WORDS[:, :2])
    second = model(WORDS[:, 2:], state=first.state)
    assert torch.allclose(torch.cat([first.logits, second.logits], dim=1), whole.logits, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(second.state, whole.state, strict=True))
    assert len(whole.state) == (4 if cell["cell"] == "lstm" else 2)


def test_a_state_of_another_number_of_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="a state of 3 tensors"):
        language_model()(WORDS, state=(torch.zeros(2, 8),) * 3)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("backwards", [False, True])
def test_padding_and_neighbours_change_no_answer(cell: dict[str, Any], side: str, backwards: bool) -> None:
    model = classifier(**cell, backwards=backwards, chunk_length=3)
    alone = torch.cat([model(words.unsqueeze(0)).logits for words in (WORDS[0], WORDS[1, :3])])
    pads = torch.full((9,), 1)
    rows = [(pads, WORDS[0]), (torch.full((11,), 1), WORDS[1, :3])]
    padded = torch.stack([torch.cat([p, w] if side == "left" else [w, p]) for p, w in rows])
    mask = torch.stack(
        [torch.cat([t.new_zeros(len(p)), t.new_ones(len(w))] if side == "left" else [t.new_ones(len(w)), t.new_zeros(len(p))])
         for t, (p, w) in ((WORDS, row) for row in rows)]
    )  # fmt: skip
    assert torch.allclose(model(padded, attention_mask=mask).logits, alone, atol=1e-5)


def test_without_a_mask_every_token_counts() -> None:
    model = classifier()
    padded = torch.cat([WORDS, torch.ones_like(WORDS)], dim=1)
    assert not torch.allclose(model(padded).logits, model(padded, attention_mask=padded != 1).logits, atol=1e-4)


@pytest.mark.parametrize("pooled_length", [100, 2])
def test_chunks_change_no_answer_in_evaluation(pooled_length: int) -> None:
    torch.manual_seed(1)
    words = torch.randint(4, 12, (3, 17))
    answers = [classifier(chunk_length=size, pooled_length=pooled_length)(words).logits for size in (100, 5, 1)]
    assert all(torch.allclose(answer, answers[0], atol=1e-5) for answer in answers)


def test_the_gradient_is_cut_between_chunks() -> None:
    def first_word_gradient(chunk_length: int) -> float:
        model = classifier(chunk_length=chunk_length, **NONE)
        embedded = model.model.embed_tokens(WORDS[:1]).detach().requires_grad_()
        state, hidden = None, None
        masks = None
        for start in range(0, 5, chunk_length):
            hidden, state = model.model.read(embedded[:, start : start + chunk_length], state, masks=masks)
            state = tuple(part.detach() for part in state)
        assert hidden is not None
        hidden[-1][:, -1].sum().backward()
        return embedded.grad[0, 0].abs().sum().item()  # type: ignore[index]

    assert first_word_gradient(5) > 0.0
    assert first_word_gradient(2) == 0.0


def test_each_chunk_has_dropout_masks_of_its_own() -> None:
    model = classifier(chunk_length=2, **{**NONE, "input_dropout": 0.5}).train()
    nn.init.ones_(model.model.embed_tokens.weight)
    seen: list[torch.Tensor] = []
    read = model.model.read
    model.model.read = lambda chunk, *state, **masks: (seen.append(chunk), read(chunk, *state, **masks))[1]  # type: ignore[assignment, method-assign]
    torch.manual_seed(0)
    model(WORDS)
    assert [len(chunk[0]) for chunk in seen] == [2, 2, 1]
    assert all((chunk == chunk[:, :1]).all() for chunk in seen)  # the same at all time steps of a chunk
    assert not torch.equal(seen[0][:, 0], seen[1][:, 0])


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_an_answer_depends_on_its_text_alone(norm: str) -> None:
    model = classifier(head_norm=norm).train()
    for _ in range(3):
        model(torch.randint(4, 12, (8, 5)))
    model.eval()
    assert torch.allclose(model(WORDS).logits[0], model(WORDS[:1]).logits[0], atol=1e-6)
    model.train()
    torch.manual_seed(0)
    together = model(WORDS).logits[0]
    torch.manual_seed(0)
    assert not torch.allclose(together, model(WORDS.flip(1)).logits[0], atol=1e-3)  # training is another thing


def test_a_text_alone_trains_by_the_statistics_of_those_before() -> None:
    model = classifier(head_norm="batch", **NONE).train()
    model(torch.randint(4, 12, (8, 5)))
    alone = model(WORDS[:1]).logits
    alone.sum().backward()
    assert torch.allclose(alone, model.eval()(WORDS[:1]).logits, atol=1e-6)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(2)(torch.ones(1, 2))


def test_empty_and_one_token_documents_have_an_answer() -> None:
    logits = classifier()(WORDS, attention_mask=torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])).logits
    assert logits.isfinite().all()
    assert torch.allclose(logits[1], classifier()(WORDS[1:, :1]).logits[0], atol=1e-6)


def test_backwards_reads_from_the_end() -> None:
    forwards, backwards = classifier(), classifier(backwards=True)
    assert torch.allclose(backwards(WORDS).logits, forwards(WORDS.flip(1)).logits, atol=1e-6)


def test_embeddings_can_be_given_and_other_arguments_are_accepted() -> None:
    model = classifier()
    embedded = model.model.embed_tokens(WORDS)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(WORDS, token_type_ids=WORDS, use_cache=True).logits)
    outputs = model(WORDS, labels=torch.tensor([0, 2]), output_hidden_states=True, return_dict=False)
    assert outputs[0].shape == ()
    assert outputs[1].shape == (2, 3)
    body = AWDLSTMModel(small())
    assert [h.shape[-1] for h in body(WORDS, output_hidden_states=True).hidden_states] == [6, 8, 6]


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 2])),
        ("multi_label_classification", torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])),
        ("regression", torch.tensor([0.5, 2.0])),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_reach_every_parameter(problem: Any, labels: torch.Tensor, cell: dict[str, Any]) -> None:
    model = classifier(problem_type=problem, num_labels=1 if problem == "regression" else 3, **cell, **NONE).train()
    # A ReLU may rest: the words are many enough for each unit to be awake once.
    torch.manual_seed(3)
    words = torch.randint(4, 12, (2, 40))
    model(words, labels=labels).loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_a_value_range_bounds_what_a_regression_answers() -> None:
    model = classifier(problem_type="regression", num_labels=1, value_range=[1.0, 5.0])
    nn.init.constant_(model.classifier.out_proj.bias, 50.0)
    assert ((model(WORDS).logits >= 1.0) & (model(WORDS).logits <= 5.0)).all()


def test_evaluation_is_a_plain_lstm_with_the_raw_weights() -> None:
    body = AWDLSTMModel(small(num_hidden_layers=1)).eval()
    plain = nn.LSTM(6, 6, batch_first=True)
    plain.load_state_dict(body.layers[0].state_dict())  # the names are nn.LSTM's own
    assert torch.equal(body(WORDS).last_hidden_state, plain(body.embed_tokens(WORDS))[0])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_weight_drop_leaves_the_first_step_and_stops_gradients_where_it_dropped(precision: torch.dtype) -> None:
    body = AWDLSTMModel(small(num_hidden_layers=1, **{**NONE, "weight_dropout": 0.5})).train()
    embedded = body.embed_tokens(WORDS)
    torch.manual_seed(1)
    masks = body.draw_masks(embedded)
    assert masks is not None
    weight = body.layers[0].weight_hh_l0
    with warnings.catch_warnings(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != torch.float32):
        warnings.simplefilter("error")
        hidden, _ = body.read(embedded, None, masks=masks)
        plain, _ = body.read(embedded, None, masks=None)
    assert torch.equal(hidden[-1][:, 0], plain[-1][:, 0])
    assert not torch.equal(hidden[-1][:, 2], plain[-1][:, 2])
    hidden[-1].float().square().sum().backward()
    dropped = masks.weights[0] == 0.0
    assert 0.3 < dropped.float().mean() < 0.7
    assert (weight.grad[dropped] == 0.0).all()
    assert (weight.grad[~dropped] != 0.0).float().mean() > 0.9


def test_dropout_masks_are_constant_in_time_and_words_drop_as_a_whole() -> None:
    torch.manual_seed(0)
    body = AWDLSTMModel(small(**{**NONE, "embed_dropout": 0.5, "input_dropout": 0.5})).train()
    masks = body.draw_masks(body.embed_tokens(WORDS))
    assert masks is not None
    assert masks.embed is not None
    assert set(masks.embed.tolist()) == {0.0, 2.0}
    same = torch.ones(2, 5, 6)
    dropped = body.drop_words(same, WORDS, masks)
    rows = dropped.sum(dim=2) > 0
    assert torch.equal(rows, masks.embed[WORDS] > 0)  # the same word is dropped wherever it stands
    shown = dropped[0][rows[0]]
    assert (shown == shown[0]).all()  # one mask for all time steps


def test_no_dropout_is_evaluation_and_the_ratio_is_kept() -> None:
    model = classifier(**NONE)
    assert torch.equal(model(WORDS).logits, model.train()(WORDS).logits)
    half = LANGUAGE_MODEL_DROPOUTS.scaled(0.5)
    assert (half.embed, half.input, half.hidden, half.weight, half.output) == (0.01, 0.125, 0.075, 0.1, 0.05)


def test_frozen_layers_drop_nothing() -> None:
    from nlpbp.core.freezing import freeze_to, train_mode
    from nlpbp.core.groups import layer_groups

    model = classifier()
    groups = layer_groups(model)
    assert [group.name for group in groups] == ["embeddings", "block.0", "block.1", "head"]
    freeze_to(groups, train_last=2)
    train_mode(model)
    masks = model.model.draw_masks(model.model.embed_tokens(WORDS))
    assert masks is not None
    assert masks.embed is None
    assert [mask is None for mask in masks.layers] == [True, True, False]
    assert [mask is None for mask in masks.weights] == [True, False]


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True}])
@pytest.mark.parametrize("cell", CELLS)
def test_generation_with_a_state_is_generation_that_reads_all_again(cell: dict[str, Any], options: dict[str, Any]) -> None:
    model = language_model(**cell)
    nn.init.normal_(model.model.embed_tokens.weight)

    class Forgetful(AWDLSTMForCausalLM):
        def prepare_inputs_for_generation(self, input_ids: Any, **given: Any) -> dict[str, Any]:
            return {"input_ids": input_ids}

    forgetful = Forgetful(model.config).eval()
    forgetful.load_state_dict(model.state_dict())
    written = []
    for one in (model, forgetful):
        torch.manual_seed(4)
        written.append(one.generate(WORDS, max_new_tokens=6, pad_token_id=1, eos_token_id=None, **options))
    assert torch.equal(*written)
    assert written[0].shape == (2, 11)


def test_the_loss_of_a_stream_is_that_of_the_logits() -> None:
    model = language_model()
    shifted = torch.cat([WORDS[:, 1:], torch.full((2, 1), -100)], dim=1)
    assert torch.allclose(model(WORDS, shift_labels=shifted).loss, model(WORDS, labels=WORDS).loss, atol=1e-6)


def test_bf16_loads_and_answers(tmp_path: Path) -> None:
    classifier().save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert model(WORDS).logits.dtype == torch.bfloat16
    assert torch.allclose(model(WORDS).logits.float(), classifier()(WORDS).logits, atol=0.05)


def test_a_checkpoint_of_another_cell_is_refused(tmp_path: Path) -> None:
    classifier(cell="lstm").save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, config=small(cell="gru"))


def test_it_trains_under_transformers_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AWDLSTMForSequenceClassification(small(num_labels=2, **NONE))
    rows = [{"input_ids": torch.tensor([5, 4 + i % 2, 6]), "labels": i % 2} for i in range(32)]
    options = TrainingArguments(
        str(tmp_path), max_steps=30, learning_rate=3e-2, per_device_train_batch_size=8, report_to="none", save_strategy="no",
        use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(model, options, train_dataset=rows).train()  # type: ignore[arg-type]
    model.eval()
    answers = model(torch.stack([row["input_ids"] for row in rows[:2]])).logits.argmax(-1)
    assert answers.tolist() == [0, 1]


def test_tanh_keeps_a_state_within_one_and_relu_does_not() -> None:
    def last_state(nonlinearity: str) -> float:
        rnn = nn.RNN(1, 4, nonlinearity=nonlinearity, batch_first=True)
        with torch.no_grad():
            nn.init.eye_(rnn.weight_hh_l0).mul_(1.2)
            return rnn(torch.ones(1, 2000, 1))[1].abs().max().item()

    torch.manual_seed(0)
    assert last_state("tanh") <= 1.0
    assert not last_state("relu") < float("inf")


def test_tanh_trains_at_a_rate_at_which_relu_diverges() -> None:
    def last_loss(nonlinearity: str, lr: float) -> float:
        torch.manual_seed(0)
        embedding, rnn, decoder = nn.Embedding(8, 32), nn.RNN(32, 32, nonlinearity=nonlinearity, batch_first=True), nn.Linear(32, 8)
        init_recurrent_(rnn)
        optimizer = torch.optim.SGD([*embedding.parameters(), *rnn.parameters(), *decoder.parameters()], lr=lr)
        loss = torch.tensor(0.0)
        for _ in range(40):
            words = (torch.randint(8, (8, 1)) + 3 * torch.arange(41)) % 8  # the next one follows from this one
            loss = F.cross_entropy(decoder(rnn(embedding(words[:, :-1]))[0]).flatten(0, 1), words[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert last_loss("relu", 0.1) < 0.2
    assert last_loss("tanh", 3.0) < 0.2
    assert not last_loss("relu", 1.0) < 2.0  # what a guess among 8 costs, or not a number


def test_a_document_of_a_megabyte_has_an_answer_and_only_what_is_pooled_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(embedding_size=2, hidden_size=2, chunk_length=1000, pooled_length=1500)
    words = torch.randint(4, 12, (1, 200_000))  # tokens, of five letters each
    kept: list[int] = []
    original = classifier_module.pool

    def keep(hidden: torch.Tensor, mask: torch.Tensor, *, kind: Pooling) -> torch.Tensor:
        kept.append(hidden.shape[1])
        return original(hidden, mask, kind=kind)

    monkeypatch.setattr(classifier_module, "pool", keep)
    with torch.inference_mode():
        whole = model(words).logits
        assert whole.isfinite().all()
        assert kept == [2000]
        # Two texts in a batch, of which the longer one decides how much is read before anything is pooled.
        mask = torch.ones(2, 200_000)
        mask[1, 3_000:] = 0
        both = model(words.expand(2, -1), attention_mask=mask).logits
        assert torch.allclose(both[0], whole[0], atol=1e-5)
        assert torch.allclose(both[1], model(words[:, :3_000]).logits[0], atol=1e-5)


def test_a_range_with_a_margin_reaches_the_values_at_its_ends() -> None:
    """A sigmoid never gets to its ends: where the targets are 1 to 5, a range of 0.5 to 5.5 fits them sooner."""

    def error(value_range: list[float]) -> float:
        model = classifier(problem_type="regression", num_labels=1, value_range=value_range, **NONE)
        nn.init.normal_(model.model.embed_tokens.weight)  # or the frozen body tells the texts apart by a thousandth
        optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.01)
        targets = torch.tensor([1.0, 5.0])
        for _ in range(100):
            optimizer.zero_grad()
            model(WORDS, labels=targets).loss.backward()
            optimizer.step()
        return (model(WORDS).logits.squeeze(-1) - targets).abs().max().item()

    assert error([0.5, 5.5]) < 0.5 * error([1.0, 5.0])
