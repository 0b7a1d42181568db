"""What every recipe holds: its Config survives a file, its tiny form trains, and the saved model answers as the run did."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import typing
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from nlpbp.config import files as config_files
from nlpbp.core.errors import ConfigError
from nlpbp.data.tiny import tiny_shapes
from nlpbp.runs.result import RunResult
from nlpbp.tasks.task import metric_of
from recipes import RECIPES

BASELINES = {"language_model": ("unigram",)}


@pytest.fixture(scope="module", params=list(RECIPES))
def recipe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(RECIPES[request.param][0])


@pytest.fixture(scope="module")
def finished(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return recipe.run(dataclasses.replace(recipe.tiny(), out=str(out), threads=1))


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_config_comes_back_from_its_file(recipe: ModuleType, tmp_path: Path, suffix: str) -> None:
    for config in (recipe.Config(), recipe.tiny()):
        config_files.save(config, tmp_path / f"config{suffix}")
        assert config_files.load(recipe.Config, tmp_path / f"config{suffix}") == config


def test_every_field_is_explained(recipe: ModuleType) -> None:
    def undocumented(cls: type) -> list[str]:
        source = "".join(inspect.getsource(base) for base in cls.__mro__[:-1])
        return [f.name for f in dataclasses.fields(cls) if not re.search(rf"\n    {f.name}: [^\n]*\n    \"\"\"", source)]

    types = typing.get_type_hints(recipe.Config)
    sections = [types[f.name] for f in dataclasses.fields(recipe.Config) if f.default_factory is not dataclasses.MISSING]
    names = {f.name for f in dataclasses.fields(recipe.Config) if f.default_factory is not dataclasses.MISSING}
    assert sections
    assert set(undocumented(recipe.Config)) <= names
    assert [undocumented(section) for section in sections] == [[]] * len(sections)


def test_the_run_folder_holds_the_result(recipe: ModuleType, finished: RunResult) -> None:
    result = json.loads((finished.out / "result.json").read_text())
    wanted = {"recipe", "task", "num_parameters", "train_seconds", "samples_per_second", "peak_rss_mib"}
    assert wanted | {"metrics", "intervals", "baselines"} <= set(result)
    assert result["recipe"] == recipe.__name__.rpartition(".")[2]
    for part, metrics in result["metrics"].items():
        assert part in ("validation", "test")
        for name, value in metrics.items():
            low, high = result["intervals"][part][name]
            assert low <= high
            assert isinstance(value, float)
            baselines = {
                kind: by_part[part].keys() for kind, by_part in result["baselines"].items() if kind not in ("before", "probe")
            }
            linear = "pixels" if sees_images(finished) else "tfidf"
            assert baselines == dict.fromkeys(BASELINES.get(result["task"], ("majority", linear)), metrics.keys())
    if result["task"] == "language_model":
        assert result["metrics"]["test"]["perplexity"] < result["baselines"]["unigram"]["test"]["perplexity"]
    else:
        assert result["metrics"]["test"]["accuracy"] > result["baselines"]["majority"]["test"]["accuracy"]
    assert set(result["against"]) == set(result["baselines"]) - {"before"}
    assert result["against"].popitem()[1]["metric"] == metric_of(result["task"]).name
    if result["recipe"] == "image_classifier":  # a run in order is advised nothing
        assert result["advice"] == []
    assert sum(stage["steps"] for stage in result["stages"]) == result["steps"]
    assert config_files.load(recipe.Config, finished.out / "config.yaml").out == str(finished.out)


def test_metrics_hold_one_object_a_step_and_one_an_evaluation(finished: RunResult) -> None:
    lines = [json.loads(line) for line in (finished.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "split" not in line]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert {"step", "epoch", "loss", "lr", "grad_norm", "clipped"} <= steps[0].keys()
    evaluations = [line for line in lines if "split" in line]
    assert evaluations
    assert {"step", "split", metric_of(finished.task).name} <= evaluations[-1].keys()


def test_a_language_model_writes_and_knows_its_perplexity(finished: RunResult) -> None:
    if finished.task != "language_model":
        return
    folder = finished.out / "model"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.backend_tokenizer.truncation is None
    generate = pipeline("text-generation", model=str(folder))
    (written,) = generate("this film", max_new_tokens=5, do_sample=False)
    assert written["generated_text"].startswith("this film")
    assert len(written["generated_text"]) > len("this film")
    ids = tokenizer("this film is wonderful", return_tensors="pt").input_ids
    with torch.inference_mode():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert 0.0 < loss < np.log(len(tokenizer))


def sees_images(finished: RunResult) -> bool:
    return finished.recipe.startswith("image")


def test_an_image_model_repeats_its_predictions_in_a_pipeline(finished: RunResult) -> None:
    if not sees_images(finished):
        return
    table = pq.read_table(finished.out / "predictions.parquet").to_pydict()
    assert table["id"] == sorted(table["id"])
    shapes = [Image.fromarray(pixels) for pixels in tiny_shapes()["image"][table["id"]]]
    answers = pipeline("image-classification", model=str(finished.out / "model"))(shapes)
    assert [answer[0]["label"] for answer in answers] == table["prediction"]
    for row, answer in enumerate(answers):
        for one in answer:
            assert one["score"] == pytest.approx(table[f"probability_{one['label']}"][row], abs=1e-5)
    score = np.mean([a == b for a, b in zip(table["label"], table["prediction"], strict=True)])
    assert score == pytest.approx(finished.metrics["test"]["accuracy"])


def test_predictions_are_in_file_order_and_the_saved_model_repeats_them(finished: RunResult) -> None:
    if finished.task == "language_model" or sees_images(finished):
        return
    table = pq.read_table(finished.out / "predictions.parquet").to_pydict()
    assert table["id"] == sorted(table["id"])
    folder = finished.out / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.backend_tokenizer.truncation is None
    assert tokenizer.backend_tokenizer.padding is None
    from nlpbp.data.tiny import tiny_reviews

    texts = [tiny_reviews().columns["text"][index] for index in table["id"]]
    with torch.inference_mode():
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        probabilities = model(**inputs).logits.softmax(-1).numpy()
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    for index, label in enumerate(labels):
        assert np.allclose(probabilities[:, index], table[f"probability_{label}"], atol=1e-5)
    assert [labels[index] for index in probabilities.argmax(-1)] == table["prediction"]
    classify = pipeline("text-classification", model=str(folder))
    assert [answer["label"] for answer in classify(texts)] == table["prediction"]
    score = np.mean([a == b for a, b in zip(table["label"], table["prediction"], strict=True)])
    assert score == pytest.approx(finished.metrics["test"]["accuracy"])


def test_the_model_card_tells_the_score_the_data_and_the_limits(finished: RunResult) -> None:
    card = (finished.out / "model" / "README.md").read_text()
    fingerprint = json.loads((finished.out / "result.json").read_text())["data"]["fingerprint"]
    assert fingerprint in card
    shown = "{perplexity:.1f} a token [" if finished.task == "language_model" else "{accuracy:.3f} ["
    assert shown.format(**finished.metrics["test"]) in card
    config = json.loads((finished.out / "model" / "config.json").read_text())
    assert ("import nlpbp.text" in card) == (config["model_type"] in ("awd_lstm", "nlpbp_pooled"))
    assert ("import nlpbp.vision" in card) == (config["model_type"] == "nlpbp_residual")
    assert "## Limits" in card


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe: ModuleType, finished: RunResult) -> None:
    before = (finished.out / "result.json").read_bytes()
    with pytest.raises(ConfigError) as error:
        recipe.run(dataclasses.replace(recipe.tiny(), out=str(finished.out)))
    assert (error.value.code, error.value.column) == (2, "out")
    assert (finished.out / "result.json").read_bytes() == before


def test_the_same_seed_repeats_the_run_and_another_does_not(recipe: ModuleType, finished: RunResult, tmp_path: Path) -> None:
    def weights(seed: int) -> bytes:
        out = tmp_path / str(seed)
        recipe.run(dataclasses.replace(recipe.tiny(), out=str(out), threads=1, seed=seed))
        return (out / "model" / "model.safetensors").read_bytes()

    first = (finished.out / "model" / "model.safetensors").read_bytes()
    assert weights(0) == first
    assert weights(1) != first
