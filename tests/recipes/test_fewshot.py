"""Few labels: texts of a class move together and those of different classes apart, also where nobody looked at them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

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
from nlpbp.text.transformer import load_config, load_tokenizer, with_pooling
from nlpbp.trainers.contrastive import PairLoop, suggest_fewshot
from recipes import fewshot

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


def test_processes_share_the_pairs_of_one() -> None:
    tokenizer = load_tokenizer(model_path("tiny:bert"))
    texts = EncodedTexts({"train": encode(FEW["text"], tokenizer=tokenizer, max_length=32)}, tokenizer, 32, "head")
    classes = group_by_class(np.arange(64) % 2)

    def ids(rank: int, world_size: int, num: int) -> list[list[int]]:
        place: Any = SimpleNamespace(process_index=rank, num_processes=world_size)
        nothing: Any = None
        loop = PairLoop(place, nothing, nothing, texts, classes, nothing, 10, size=8, max_grad_norm=None, seed=3)
        return [batch.ids.tolist() for batch in loop.batches(7, num)]

    alone = ids(0, 1, 4)
    assert [ids(0, 2, 4), ids(1, 2, 4)] == [alone[0::2], alone[1::2]]
    assert sorted(map(len, ids(0, 1, 99))) == [2] * 8, "a step is cut into single pairs at most"


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
    first, second = torch.zeros(2, 4, requires_grad=True), torch.ones(2, 4)
    loss = cosine_similarity_loss(first, second, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == 0.5
    assert first.grad is not None
    assert first.grad.isfinite().all()


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
