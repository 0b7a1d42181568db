"""Few labels: texts of a class move together and those of different classes apart, also where nobody looked at them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.core.losses import cosine_similarity_loss
from nlpbp.data.pairs import group_by_class
from nlpbp.data.parts import load_inputs
from nlpbp.data.tiny import tiny_reviews
from nlpbp.modalities.encoding import EncodedTexts
from nlpbp.modalities.pretrained import model_path
from nlpbp.runs.result import RunResult
from nlpbp.text.batches import encode
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import load_config, load_tokenizer, with_pooling
from nlpbp.trainers.contrastive import ContrastiveLoop, suggest_fewshot
from recipes import fewshot, transformer_sentiment

FEW, HELD_OUT = tiny_reviews(num_examples=64).columns, tiny_reviews(num_examples=60, seed=5).columns


def run(out: Path, train: Any = FEW, **changes: Any) -> RunResult:
    config = fewshot.tiny()
    given = {key: changes.pop(key) for key in list(changes) if key in {field.name for field in dataclasses.fields(sections.Data)}}
    data = dataclasses.replace(config.data, train=train, validation=HELD_OUT, test_share=0.0, **given)
    usual = {"data": data, "out": str(out), "threads": 1, "precision": "fp32", "report": sections.Report(audit=False)}
    usual |= {"steps": 60, "eval_steps": None}
    return fewshot.run(dataclasses.replace(config, **usual | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tmp_path_factory.mktemp("runs") / "few")


def separation(model: Any) -> float:
    """Return how much more alike held-out texts of one class are than those of two, by the cosine of their vectors."""
    tokenizer = AutoTokenizer.from_pretrained(model_path("tiny:bert"))
    inputs = tokenizer(HELD_OUT["text"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model.eval().body(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
    cosines, labels = vectors @ vectors.T, np.array(HELD_OUT["label"])
    same = torch.from_numpy(labels[:, None] == labels[None, :])
    return float(cosines[same].mean() - cosines[~same].mean())


def saved(result: RunResult) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(result.out / "model")


def untrained() -> Any:
    name = model_path("tiny:bert")
    config = load_config(name, task="single_label", labels=["neg", "pos"])
    return with_pooling(AutoModelForSequenceClassification.from_pretrained(name, config=config), "mean")


def test_texts_of_a_class_move_together_also_those_that_were_held_out(finished: RunResult, tmp_path: Path) -> None:
    before = separation(untrained())
    shuffled = FEW | {"label": np.random.default_rng(0).permutation(FEW["label"]).tolist()}
    by_chance = separation(saved(run(tmp_path / "shuffled", shuffled)))
    assert before < 0.1
    assert separation(saved(finished)) > 0.6
    assert by_chance < 0.2, "labels that say nothing teach nothing"


def test_at_a_rate_of_nearly_nothing_the_head_is_the_probe_of_the_model_as_it_was(tmp_path: Path) -> None:
    still = sections.Optim(lr=1e-12, layer_decay=1.0, weight_decay=0.0)
    result = run(tmp_path / "still", optim=still, steps=3)
    before = untrained().state_dict()
    assert all(
        torch.allclose(value, before[name], atol=1e-6) for name, value in saved(result).state_dict().items() if "body" in name
    )
    metrics, probe = result.metrics["validation"], result.baselines["probe"]["validation"]
    assert metrics["log_loss"] == pytest.approx(probe["log_loss"], abs=1e-3)


def test_the_answer_beats_the_probe_that_it_began_with(finished: RunResult) -> None:
    metrics, probe = finished.metrics["validation"], finished.baselines["probe"]["validation"]
    assert (metrics["accuracy"] or 0) >= (probe["accuracy"] or 0)
    assert (metrics["log_loss"] or 9) < (probe["log_loss"] or 0)


def test_processes_share_the_groups_of_one() -> None:
    tokenizer = load_tokenizer(model_path("tiny:bert"))
    texts = EncodedTexts({"train": encode(FEW["text"], tokenizer=tokenizer, max_length=32)}, tokenizer, 32, "head")
    classes = group_by_class(np.arange(64) % 2)

    def ids(rank: int, world_size: int, num: int) -> list[list[int]]:
        place: Any = SimpleNamespace(process_index=rank, num_processes=world_size)
        nothing: Any = None
        loop = ContrastiveLoop(place, nothing, nothing, texts, classes, nothing, 10, num_groups=8, max_grad_norm=None, seed=3)
        return [batch.ids.tolist() for batch in loop.batches(7, num)]

    alone = ids(0, 1, 4)
    assert [ids(0, 2, 4), ids(1, 2, 4)] == [alone[0::2], alone[1::2]]
    assert sorted(map(len, ids(0, 1, 99))) == [16] * 8, "a step is cut into single groups at most"


def test_several_labels_and_ordered_classes_have_pairs_too(tmp_path: Path) -> None:
    labels = [["good", "long"] if label == "pos" else ["bad"] for label in FEW["label"]]
    held_out = {"text": HELD_OUT["text"], "label": [["good", "long"] if one == "pos" else ["bad"] for one in HELD_OUT["label"]]}
    config = fewshot.tiny()
    for task, train, validation in (
        ("multi_label", FEW | {"label": labels}, held_out),
        ("ordinal", FEW | {"label": [4 if one == "pos" else 1 for one in FEW["label"]]}, None),
    ):
        data = dataclasses.replace(config.data, train=train, validation=validation, validation_share=0.3, test_share=0.0, task=task)
        result = fewshot.run(
            dataclasses.replace(config, data=data, out=str(tmp_path / task), threads=1, report=sections.Report(audit=False))
        )
        main = {"multi_label": "macro_f1", "ordinal": "mae"}[task]
        baseline = next(iter(result.baselines.values()))["validation"][main]
        value = result.metrics["validation"][main]
        assert value is not None
        assert baseline is not None
        assert (value > baseline) == (task == "multi_label")


def test_one_text_of_a_class_and_texts_without_a_word_give_finite_answers(tmp_path: Path) -> None:
    train = {"text": [*FEW["text"][:6], "", "  "], "label": [*FEW["label"][:6], "neg", "empty"]}
    result = run(tmp_path / "run", train, steps=6, task="single_label")
    assert all(value.isfinite().all() for value in load_file(result.out / "model" / "model.safetensors").values())
    assert all(value is None or np.isfinite(value) for value in result.metrics["validation"].values())


def test_a_vector_of_zeros_has_a_finite_loss_and_gradient() -> None:
    vectors = torch.cat([torch.zeros(2, 2, 4), torch.ones(2, 1, 4)], dim=1).requires_grad_()
    alike = torch.tensor([[True, True, False], [True, True, False], [False, False, True]]).expand(2, 3, 3)
    loss = cosine_similarity_loss(vectors, alike)
    loss.backward()
    assert loss.item() == 0.5, "the two zeros should be alike and are not; zero and one should not, and are not"
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def test_the_loss_of_a_group_is_that_of_its_pairs_one_by_one() -> None:
    torch.manual_seed(0)
    vectors, labels = torch.randn(2, 5, 3), torch.tensor([[0, 0, 1, 1, 2], [0, 0, 0, 0, 0]])
    alike = labels[:, :, None] == labels[:, None, :]
    wanted = []
    for group in range(2):
        kinds: dict[bool, list[float]] = {}
        for i in range(5):
            for j in range(i):
                same = bool(labels[group, i] == labels[group, j])
                cosine = float(torch.nn.functional.cosine_similarity(vectors[group, i], vectors[group, j], dim=0))
                kinds.setdefault(same, []).append((cosine - same) ** 2)
        wanted.append(np.mean([np.mean(errors) for errors in kinds.values()]))
    assert cosine_similarity_loss(vectors, alike).item() == pytest.approx(np.mean(wanted), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"optim": sections.Optim(lr="auto")}, "optim.lr"),
        ({"optim": sections.Optim(label_smoothing=0.1)}, "optim.label_smoothing"),
        ({"optim": sections.Optim(head_lr=0.1)}, "optim.head_lr"),
        ({"augment": sections.Augment(policy="topic")}, "augment"),
        ({"train": FEW | {"label": [i / 7 for i in range(64)]}, "task": "regression"}, "data.task"),
    ],
)
def test_what_has_no_meaning_here_is_refused(tmp_path: Path, changes: dict[str, Any], column: str) -> None:
    given = {"validation": None} if "train" in changes else {}
    config = fewshot.tiny()
    data = dataclasses.replace(config.data, **{key: changes.pop(key) for key in ("train", "task") if key in changes}, **given)
    with pytest.raises(ConfigError) as error:
        fewshot.run(dataclasses.replace(config, data=data, out=str(tmp_path / "run"), **changes))
    assert error.value.column == column
    assert "Fix: " in str(error.value)


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=r"class|label"):
        run(tmp_path / "run", FEW | {"label": ["neg"] * 64})


@pytest.mark.parametrize(("num", "said"), [(40, True), (100, True), (1000, False)])
def test_where_labels_are_few_the_recipe_for_few_is_named(num: int, said: bool) -> None:
    lines: list[str] = []
    inputs = load_inputs(sections.Data(train=tiny_reviews(num_examples=num).columns))
    listener: Any = SimpleNamespace(say=lines.append)
    suggest_fewshot(listener, inputs)
    assert [line for line in lines if "fewshot" in line] == lines
    assert bool(lines) == said
    numbers = tiny_reviews(num_examples=40).columns | {"label": [i / 7 for i in range(40)]}
    suggest_fewshot(listener, load_inputs(sections.Data(train=numbers)))
    assert bool(lines) == said, "a number to predict has no classes"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with a BERT of a few thousand weights that says of itself that it is a sentence encoder."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    tiny_bert(folder)
    AutoModel.from_pretrained(folder).save_pretrained(folder)  # without a head
    (folder / "sentence_bert_config.json").write_text("{}")
    return str(folder)


def default_run(out: Path, name: str, *, num: int = 64, recipe: Any = transformer_sentiment, **changes: Any) -> RunResult:
    data = sections.Data(train=tiny_reviews(num_examples=num).columns, validation=HELD_OUT, test_share=0.0, max_length=32)
    usual: dict[str, Any] = {"data": data, "threads": 1, "precision": "fp32", "report": sections.Report(audit=False)}
    return recipe.run(recipe.Config(**usual | {"model": recipe.Model(name=name), "out": str(out)} | changes))


def test_a_default_run_of_few_texts_is_that_of_this_recipe(encoder: str, tmp_path: Path) -> None:
    default, wanted = default_run(tmp_path / "default", encoder), default_run(tmp_path / "few", encoder, recipe=fewshot)
    mine, others = saved(default).state_dict(), saved(wanted).state_dict()
    assert all(torch.equal(value, others[name]) for name, value in mine.items())
    assert default.metrics == wanted.metrics
    assert [one.fix for one in default.advice if "epochs" in one.fix] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"contrastive": "never"},
        {"epochs": 2},
        {"optim": sections.Optim(label_smoothing=0.1)},
        {"num": 140},
        {"batch": sections.Batch(size=8)},
        {"name": "tiny:bert"},
    ],
)
def test_it_trains_on_each_text_where_texts_are_many_or_a_setting_says_so(
    encoder: str, changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = default_run(tmp_path / "run", **{"name": encoder} | changes)
    stages = json.loads((result.out / "result.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["training"]
    assert "pairs are learned from" not in capsys.readouterr().err
