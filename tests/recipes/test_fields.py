"""Each practice is switched by a field: turning it changes the run, and leaving it alone repeats it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from nlpbp.config.optim import Cycles, Stage
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.readers import read_table
from nlpbp.inference import predict, trained
from nlpbp.runs.result import RunResult
from nlpbp.train.setup import start

TRANSFORMER_FIELDS = {
    "optim.lr": 3e-3,
    "optim.head_lr": 2e-2,
    "optim.layer_decay": 0.5,
    "optim.similarity": "high",
    "optim.optimizer": "sgd",
    "optim.betas": (0.8, 0.9),
    "optim.eps": 1e-3,
    "optim.weight_decay": 0.5,
    "optim.schedule": "warm_restarts",
    "optim.warmup_ratio": 0.5,
    "optim.max_grad_norm": 0.1,
    "optim.label_smoothing": 0.2,
    "optim.focal_gamma": 2.0,
    "optim.class_weights": "auto",
    "optim.swa_start": 0.3,
    "optim.ema_decay": 0.5,
    "data.balanced_sampling": True,
    "data.train_fraction": 0.5,
    "data.max_length": 8,
    "dropout.scale": 3.0,
    "batch.size": 8,
    "stages": (Stage(train_last=1),),
    "augment.policy": "sentiment",
    "augment.mixup": 0.3,
    "data.fields": ("text",),
}
RECURRENT_FIELDS = {
    "optim.lr": 1e-2,
    "optim.similarity": "low",
    "optim.group_ratio": 2.6,
    "optim.optimizer": "sgd",
    "optim.schedule": "slanted_triangular",
    "optim.momentum": (0.9, 0.5),
    "optim.weight_decay": 0.5,
    "optim.max_grad_norm": 0.1,
    "optim.label_smoothing": 0.2,
    "optim.focal_gamma": 2.0,
    "optim.class_weights": "auto",
    "optim.swa_start": 0.3,
    "optim.ema_decay": 0.5,
    "data.balanced_sampling": True,
    "dropout.scale": 2.0,
    "augment.policy": "topic",
    "model.cell": "lstm",
    "model.recurrent_init": "identity",
    "model.pooling": "mean",
    "stages": (Stage(epochs=1, lr=3e-2, train_last=1),),
}
LANGUAGE_MODEL_FIELDS = {
    "lm.lr": 5e-3,
    "lm.layer_decay": 0.5,
    "lm.optimizer": "sgd",
    "lm.schedule": "flat_cosine",
    "lm.momentum": (0.9, 0.5),
    "lm.weight_decay": 0.5,
    "lm.max_grad_norm": 0.01,
    "lm.ar_alpha": 20.0,
    "lm.tar_beta": 20.0,
    "lm.dropout": 1.5,
    "lm.random_bptt": True,
    "lm.sampled_softmax": 20,
    "lm.swa_start": 0.3,
    "lm.ema_decay": 0.5,
}
CAUSAL_FIELDS = {
    "optim.lr": 3e-3,
    "optim.layer_decay": 0.5,
    "optim.similarity": "high",
    "optim.optimizer": "sgd",
    "optim.schedule": "one_cycle",
    "optim.warmup_ratio": 0.5,
    "optim.weight_decay": 0.5,
    "optim.ema_decay": 0.5,
}
TRAINER_FIELDS = {
    "optim.lr": 3e-3,
    "optim.head_lr": 2e-2,
    "optim.similarity": "low",
    "optim.optimizer": "sgd",
    "optim.schedule": "linear",
    "optim.max_grad_norm": 0.1,
    "optim.label_smoothing": 0.2,
    "dropout.scale": 3.0,
    "stages": (Stage(epochs=1, train_last=1),),
}
CASES = [
    *(("transformer_sentiment", name, value) for name, value in TRANSFORMER_FIELDS.items()),
    *(("gru_classifier", name, value) for name, value in RECURRENT_FIELDS.items()),
    *(("lm_awd_lstm", name, value) for name, value in LANGUAGE_MODEL_FIELDS.items()),
    *(("lm_transformer", name, value) for name, value in CAUSAL_FIELDS.items()),
    *(("transformers_trainer", name, value) for name, value in TRAINER_FIELDS.items()),
]


def short(recipe: ModuleType) -> Any:
    """Return a config that trains a few steps, on labels of which one is rarer than the other."""
    config = recipe.tiny()
    if recipe.NAME == "lm_transformer":
        return dataclasses.replace(config, steps=12, eval_steps=12)
    if recipe.NAME == "transformers_trainer":
        return dataclasses.replace(config, stages=(Stage(epochs=1),))
    if hasattr(config, "lm"):
        return dataclasses.replace(config, lm=dataclasses.replace(config.lm, steps=12), eval_steps=12)
    data = dataclasses.replace(config.data, train=rows())
    stages = {"epochs": 1} if hasattr(config, "epochs") else {"stages": (Stage(epochs=1, lr=3e-2),)}
    return dataclasses.replace(config, data=data, **stages)


def rows() -> list[dict[str, str]]:
    from nlpbp.data.tiny import tiny_reviews

    table = tiny_reviews().columns
    pairs = list(zip(table["text"], table["label"], strict=True))
    return [{"text": text, "label": label} for index, (text, label) in enumerate(pairs) if label == "pos" or index % 3]


def changed(config: Any, name: str, value: Any) -> Any:
    """Return the config with one dotted field replaced."""
    section, _, rest = name.partition(".")
    new = changed(getattr(config, section), rest, value) if rest else value
    return dataclasses.replace(config, **{section: new})


def weights(recipe: ModuleType, config: Any, out: Path) -> str:
    """Train, and hash every weight but the classifier's own shape."""
    result = recipe.run(dataclasses.replace(config, out=str(out), threads=1, precision="fp32"))
    state = load_file(result.out / "model" / "model.safetensors")
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    names = sorted({name for name, _, _ in CASES})
    recipes = {name: importlib.import_module(f"recipes.{name}") for name in names}
    return {name: weights(recipe, short(recipe), tmp_path_factory.mktemp("runs") / name) for name, recipe in recipes.items()}


@pytest.mark.parametrize(("name", "field", "value"), CASES, ids=[f"{name}-{field}" for name, field, _ in CASES])
def test_turning_a_field_changes_the_run(name: str, field: str, value: Any, unchanged: dict[str, str], tmp_path: Path) -> None:
    recipe = importlib.import_module(f"recipes.{name}")
    config = short(recipe)
    assert changed(config, field, value) != config
    assert weights(recipe, changed(config, field, value), tmp_path / "run") != unchanged[name]


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_leaving_them_alone_repeats_it(name: str, unchanged: dict[str, str], tmp_path: Path) -> None:
    recipe = importlib.import_module(f"recipes.{name}")
    assert weights(recipe, short(recipe), tmp_path / "run") == unchanged[name]


def run_transformer(out: Path, **changes: Any) -> RunResult:
    from recipes import transformer_sentiment

    return transformer_sentiment.run(dataclasses.replace(transformer_sentiment.tiny(), out=str(out), threads=1, **changes))


def test_stages_say_what_trains_and_on_how_many_texts_a_step_and_hold_to_it(tmp_path: Path) -> None:
    stages = (
        Stage(epochs=1, lr=2e-2, train_last=1, cache_frozen=True),
        Stage(epochs=2, lr=1e-2, train_last=2, max_length=6, batch_size=40, cache_frozen=True),
        Stage(epochs=1, lr=5e-3),
    )
    result = run_transformer(tmp_path / "run", stages=stages)
    record = json.loads((result.out / "result.json").read_text())["stages"]
    assert [stage["name"] for stage in record] == ["head", "last 2 groups", "all layers"]
    assert record[0]["trained"] == ["head"]
    assert record[0]["trained_parameters"] < record[1]["trained_parameters"] < record[2]["trained_parameters"]
    assert record[2]["trained_parameters"] == result.num_parameters
    steps = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    sizes = {name: [step["num_items"] for step in steps if step.get("stage") == name] for name in ("head", "last 2 groups")}
    assert sum(sizes["head"]) / len(sizes["head"]) < 20 < 30 < sum(sizes["last 2 groups"]) / len(sizes["last 2 groups"])


def test_the_cache_of_frozen_layers_changes_the_time_and_not_the_result(tmp_path: Path) -> None:
    results = [
        run_transformer(
            tmp_path / str(cached), precision="fp32", stages=(Stage(epochs=3, lr=2e-2, train_last=2, cache_frozen=cached),)
        )
        for cached in (False, True)
    ]
    first, second = (load_file(result.out / "model" / "model.safetensors") for result in results)
    assert all((first[name] - second[name]).abs().max() < 1e-4 for name in first)
    with pytest.raises(ConfigError, match="no block") as error:
        run_transformer(tmp_path / "none", stages=(Stage(cache_frozen=True),))
    assert error.value.column == "stages.cache_frozen"


def test_warm_restarts_come_back_to_their_peak_and_leave_a_snapshot_a_cycle(tmp_path: Path) -> None:
    from recipes import transformer_sentiment

    optim = dataclasses.replace(transformer_sentiment.tiny().optim, schedule="warm_restarts")
    cycles = Cycles(num_cycles=2, cycle_len=1, cycle_mult=2, cycle_decay=0.5, snapshots=True)
    result = run_transformer(tmp_path / "run", optim=optim, cycles=cycles)
    lines = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if "split" not in line]
    per_epoch = len(rates) // 3
    assert len(rates) % 3 == 0
    assert rates[0] > 0.9 * optim.lr and rates[per_epoch - 1] < 0.1 * optim.lr
    assert 0.45 * optim.lr < rates[per_epoch] < 0.5 * optim.lr
    assert sorted(folder.name for folder in (result.out / "snapshots").iterdir()) == ["1", "2"]
    last = load_file(result.out / "snapshots" / "2" / "model.safetensors")
    first = load_file(result.out / "snapshots" / "1" / "model.safetensors")
    assert any(not first[name].equal(last[name]) for name in last)
    accelerator = start(seed=0, precision="fp32", threads=1)
    snapshots = trained.load_snapshots(result.out, accelerator=accelerator)
    examples = predict.read_texts(snapshots[0], read_table([{"text": "a wonderful film"}, {"text": "dull"}]))
    each = [predict.predict_outputs(one, examples, accelerator=accelerator) for one in snapshots]
    assert abs(each[0] - each[1]).max() > 1e-4
    assert predict.mean_outputs(snapshots, examples, accelerator=accelerator) == pytest.approx((each[0] + each[1]) / 2, abs=1e-6)
    members, _ = predict.outputs_of_members(snapshots, examples, views=[], accelerator=accelerator)
    assert [member.tolist() for member in members] == [one.tolist() for one in each]
    with pytest.raises(ConfigError, match="no snapshots"):
        trained.load_snapshots(tmp_path, accelerator=accelerator)


def numbers(*, beyond: bool = False) -> list[dict[str, Any]]:
    words = ["dull", "weak", "fair", "good", "great", "superb"]
    made = [{"text": f"a {words[i % 6]} film number {i}", "label": float(i % 6) + 0.001 * (i % 7)} for i in range(240)]
    return [*made, {"text": "off the scale", "label": 99.0}] if beyond else made


@pytest.mark.parametrize("name", ["transformer_sentiment", "gru_classifier"])
def test_answers_stay_within_a_known_range_and_reach_its_ends(name: str, tmp_path: Path) -> None:
    recipe = importlib.import_module(f"recipes.{name}")
    data = dataclasses.replace(recipe.tiny().data, train=numbers(), label="label", value_range=(0.0, 5.1))
    result = recipe.run(dataclasses.replace(recipe.tiny(), data=data, out=str(tmp_path / "run"), threads=1))
    answers = pq.read_table(result.out / "predictions.parquet").to_pydict()
    assert all(-0.256 <= value <= 5.356 for value in answers["prediction"])
    assert result.metrics["test"]["mae"] < result.baselines["majority"]["test"]["mae"]
    classifier = trained.load_run(result.out, accelerator=start(seed=0, precision="fp32", threads=1))
    table = read_table([{"text": row["text"]} for row in numbers()])
    examples = predict.read_texts(classifier, table)
    again = predict.predict_outputs(classifier, examples, accelerator=start(seed=0, precision="fp32", threads=1))
    by_text = dict(zip(examples.texts, again.tolist(), strict=True))
    texts = [row["text"] for row in numbers()]
    assert [by_text[texts[i]] for i in answers["id"]] == pytest.approx(answers["prediction"], abs=1e-4)


def test_a_value_outside_the_range_is_named_with_its_row(tmp_path: Path) -> None:
    from recipes import transformer_sentiment

    data = dataclasses.replace(transformer_sentiment.tiny().data, train=numbers(beyond=True), label="label", value_range=(0.0, 5.1))
    with pytest.raises(DataError, match="99") as error:
        run_transformer(tmp_path / "run", data=data)
    assert "241" in str(error.value) or "240" in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "column"),
    [
        ("transformer_sentiment", {"cycles.snapshots": True}, "cycles"),
        ("gru_classifier", {"finder.num_sweeps": 7}, "finder"),
        ("gru_classifier", {"optim.lr": "auto", "finder.stop_after_stage": 9}, "finder.stop_after_stage"),
        ("gru_classifier", {"optim.lr": "auto", "finder.start": 0.5, "finder.end": 0.1}, "finder.start"),
        ("gru_classifier", {"optim.focal_gamma": 2.0, "optim.label_smoothing": 0.1}, "optim.focal_gamma"),
        ("gru_classifier", {"optim.asymmetric": (0.0, 4.0, 0.05)}, "optim.asymmetric"),
        ("gru_classifier", {"optim.asymmetric": (0.0, 4.0, 1.0)}, "optim.asymmetric"),
        ("gru_classifier", {"optim.asymmetric": (0.0, 4.0, 0.05), "optim.focal_gamma": 2.0}, "optim.focal_gamma"),
        ("gru_classifier", {"data.value_range": (5.0, 1.0)}, "data.value_range"),
        ("gru_classifier", {"data.value_range": (1.0, 5.0)}, "data.value_range"),
        ("transformer_sentiment", {"mlm.steps": 3, "optim.lr": "auto", "finder.stop_after_stage": 1}, "finder.stop_after_stage"),
        ("transformer_sentiment", {"stages": (Stage(max_length=900),)}, "stages.max_length"),
        (
            "transformer_sentiment",
            {"optim.schedule": "warm_restarts", "cycles.cycle_len": 1, "stages": (Stage(epochs=9),)},
            "cycles.cycle_len",
        ),
        ("lm_awd_lstm", {"model.pooling": "mean"}, "model.pooling"),
        ("lm_awd_lstm", {"lm.schedule": "warm_restarts", "cycles.snapshots": True}, "cycles.snapshots"),
        ("lm_transformer", {"optim.focal_gamma": 2.0}, "optim.focal_gamma"),
        ("lm_transformer", {"optim.head_lr": 1e-3}, "optim.head_lr"),
        ("transformers_trainer", {"data.balanced_sampling": True}, "data.balanced_sampling"),
        ("transformers_trainer", {"resume": "auto"}, "resume"),
        ("transformers_trainer", {"stages": (Stage(cache_frozen=True),)}, "stages.cache_frozen"),
    ],
)
def test_what_would_have_no_effect_is_an_error_that_names_it(
    name: str, changes: dict[str, Any], column: str, tmp_path: Path
) -> None:
    recipe = importlib.import_module(f"recipes.{name}")
    config = recipe.tiny()
    for field, value in changes.items():
        config = changed(config, field, value)
    with pytest.raises(ConfigError) as error:
        recipe.run(dataclasses.replace(config, out=str(tmp_path / "run"), threads=1))
    assert error.value.column == column


@pytest.mark.parametrize("name", ["label_smoothing", "focal_gamma"])
def test_what_is_for_labels_is_refused_for_numbers(name: str, tmp_path: Path) -> None:
    from recipes import transformer_sentiment

    tiny = transformer_sentiment.tiny()
    data = dataclasses.replace(tiny.data, train=numbers(), label="label")
    with pytest.raises(ConfigError) as error:
        run_transformer(tmp_path / "run", data=data, optim=dataclasses.replace(tiny.optim, **{name: 0.5}))
    assert error.value.column == f"optim.{name}"


def test_a_range_is_not_inherited_from_the_model_that_training_began_with(tmp_path: Path) -> None:
    from recipes import transformer_sentiment

    data = dataclasses.replace(transformer_sentiment.tiny().data, train=numbers(), label="label", value_range=(0.0, 5.1))
    first = run_transformer(tmp_path / "first", data=data, epochs=1)
    far = [{**row, "label": 100.0 + row["label"]} for row in numbers()]
    again = dataclasses.replace(data, train=far, value_range=None, allow_unknown=True)
    model = dataclasses.replace(transformer_sentiment.tiny().model, name=str(first.out / "model"))
    second = run_transformer(tmp_path / "second", data=again, model=model, epochs=1)
    assert json.loads((second.out / "model" / "config.json").read_text()).get("value_range") is None
    classifier = trained.load_run(second.out, accelerator=start(seed=0, precision="fp32", threads=1))
    examples = predict.read_texts(classifier, read_table([{"text": "a good film"}]))
    assert predict.predict_outputs(classifier, examples, accelerator=start(seed=0, precision="fp32", threads=1))[0] > 50.0
