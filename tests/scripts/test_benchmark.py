from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nlpbp.benchmarks import images, transformer, transformer_worker
from nlpbp.data.order import training_plan
from nlpbp.data.tiny import tiny_reviews
from nlpbp.text.batches import Encoded, encode
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import load_tokenizer

SCRIPTS = Path(__file__).parents[2] / "scripts"
SYSTEMS = ["ours", "defaults", "best"]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the whole benchmark writes and prints in its short form."""
    out = tmp_path_factory.mktemp("benchmark") / "result.json"
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "transformer", "--short", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in out.parent.iterdir()] == ["result.json"]
    return json.loads(out.read_text(encoding="utf-8")), done.stdout


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """The sentences that the short form trains on."""
    table = tiny_reviews()
    train, _ = transformer_worker.split(table.columns["text"], table.columns["label"])
    tokenizer = load_tokenizer(str(tiny_bert(tmp_path_factory.mktemp("model") / "bert")))
    return encode([table.columns["text"][index] for index in train], tokenizer=tokenizer, max_length=32)


def test_the_file_has_ratios_the_machine_and_raw_figures(short_run: tuple[dict[str, Any], str]) -> None:
    result, _ = short_run
    assert list(result) == ["ratios", "machine", "settings", "speed", "trainings", "time_to_accuracy"]
    for name in ("samples_per_second", "seconds_to_accuracy", "peak_memory"):
        assert list(result["ratios"][name]) == ["defaults", "best"]
    assert list(result["machine"]) == ["cpu", "threads", "precision", "torch", "transformers"]
    steps = result["settings"].pop("steps_per_epoch")
    assert (steps["defaults"], steps["best"]) == (12, 12)
    assert abs(steps["ours"] - 12) <= 2
    assert result["settings"] | {"data": ""} == {
        "short": True,
        "data": "",
        "train": 180,
        "held_out": 60,
        "epochs": 2,
        "batch_size": 16,
    }
    assert result["ratios"] == transformer.ratios(result["speed"]["blocks"], result["trainings"])
    assert result["ratios"]["samples_per_second"]["best"] == pytest.approx(np.median(result["speed"]["block_ratios"]["best"]))


@pytest.mark.parametrize("system", ["defaults", "best"])
def test_trainer_trains_on_sixteen_sentences_a_step_but_for_the_last_of_an_epoch(
    short_run: tuple[dict[str, Any], str], system: str
) -> None:
    blocks = short_run[0]["speed"]["blocks"][system]
    assert [block["steps"] for block in blocks] == [5, 8, 11, 14, 17]  # after a warm-up of 2
    assert [block["samples"] for block in blocks] == [48, 48, 48, 16 * 2 + 180 % 16, 48]  # step 12 ends the epoch


def test_ours_trains_on_the_sentences_of_its_plan(short_run: tuple[dict[str, Any], str], encoded: Encoded) -> None:
    blocks = short_run[0]["speed"]["blocks"]["ours"]
    steps = [step[0] for step in training_plan(encoded.padded_lengths, size=16, num_micro_batches=1, epochs=2, seed=0)]
    for index, block in enumerate(blocks):
        mine = steps[2 + 3 * index : 5 + 3 * index]
        assert block["samples"] == sum(map(len, mine))
        assert block["tokens"] == sum(encoded.lengths[step].sum() for step in mine)
        assert block["padded_tokens"] == sum(encoded.padded_lengths[step].max() * len(step) for step in mine)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_whole_training_sees_every_sentence_once_an_epoch(
    short_run: tuple[dict[str, Any], str], encoded: Encoded, system: str
) -> None:
    (training,) = short_run[0]["trainings"][system]
    assert (training["seed"], training["samples"], training["tokens"]) == (0, 2 * 180, 2 * encoded.lengths.sum())
    assert training["padded_tokens"] >= training["tokens"]
    assert [point["epoch"] for point in training["curve"]] == pytest.approx([part / 4 for part in range(1, 9)], abs=0.1)
    assert [point["seconds"] for point in training["curve"]] == sorted(point["seconds"] for point in training["curve"])
    assert training["curve"][-1]["seconds"] == training["seconds"]
    assert training["curve"][-1]["accuracy"] == training["accuracy"]
    low, high = training["interval"]
    assert low <= training["accuracy"] <= high
    assert training["peak_memory_mib"] > 100


def test_every_block_and_every_evaluation_is_told(short_run: tuple[dict[str, Any], str]) -> None:
    lines = short_run[1].splitlines()
    for system in SYSTEMS:
        assert sum(f", {system}: " in line for line in lines if line.startswith("block ")) == 5
        assert sum(line.startswith(f"{system}, seed 0, epoch ") for line in lines) == 8
    assert sum("times as many sentences a second as Trainer" in line for line in lines) == 2


def block(seconds: float, samples: int) -> dict[str, Any]:
    return {"seconds": seconds, "samples": samples}


def training(accuracies: list[float], *, interval: list[float], seconds: float, memory: float) -> dict[str, Any]:
    """A training evaluated at equal distances."""
    curve = [
        {"seconds": seconds * (index + 1) / len(accuracies), "accuracy": accuracy} for index, accuracy in enumerate(accuracies)
    ]
    return {
        "seed": 0,
        "seconds": seconds,
        "accuracy": accuracies[-1],
        "interval": interval,
        "peak_memory_mib": memory,
        "curve": curve,
    }


def test_ratios_are_medians_over_pairs_of_blocks_and_over_seeds() -> None:
    speed = {
        "ours": [block(1.0, 100), block(1.0, 90), block(2.0, 100)],  # 100, 90 and 50 a second
        "defaults": [block(1.0, 25), block(1.0, 30), block(1.0, 10)],  # 4, 3 and 5 times
        "best": [block(1.0, 100), block(1.0, 100), block(1.0, 100)],  # 1, 0.9 and 0.5 times
    }
    ours = training([0.5, 0.8, 0.9, 0.85], interval=[0.8, 0.9], seconds=40.0, memory=600.0)
    slow = training([0.6, 0.7, 0.82], interval=[0.79, 0.85], seconds=120.0, memory=1200.0)
    good = training([0.94, 0.95], interval=[0.92, 0.98], seconds=100.0, memory=400.0)
    trainings = {"ours": [ours] * 3, "defaults": [slow] * 3, "best": [good] * 3}
    measured = transformer.ratios(speed, trainings)
    assert measured == {
        "samples_per_second": {"defaults": 4.0, "best": 0.9},
        "seconds_to_accuracy": {"defaults": 120.0 / 30.0, "best": 50.0 / 30.0},  # to 0.82, the last of the defaults
        "peak_memory": {"defaults": 0.5, "best": 1.5},
    }
    words = transformer.in_words(measured, transformer.times(trainings))
    assert words[0] == "ours trains 4.00 times as many sentences a second as Trainer's defaults"
    name = "Trainer's defaults"
    assert words[1] == f"to the accuracy that {name} end with: ours 30.0 s, {name} 120.0 s; the other's time is 4.00 times ours"


def test_the_time_to_an_accuracy_is_taken_by_one_rule_for_both_sides() -> None:
    one = training([0.5, 0.8, 0.9, 0.85], interval=[0.8, 0.9], seconds=40.0, memory=600.0)
    other = training([0.6, 0.8, 0.82], interval=[0.79, 0.85], seconds=120.0, memory=1200.0)
    found = transformer.time_to_accuracy(one, other, level=0.8)
    assert found == {"seed": 0, "level": 0.8, "ours_seconds": 20.0, "theirs_seconds": 80.0, "ratio": 4.0}
    exchanged = transformer.time_to_accuracy(other, one, level=0.8)
    assert (exchanged["ours_seconds"], exchanged["theirs_seconds"], exchanged["ratio"]) == (80.0, 20.0, 0.25)
    assert transformer.time_to_accuracy(one, one, level=0.8)["ratio"] == 1.0  # nobody is ahead of an equal
    never = transformer.time_to_accuracy(other, one, level=0.9)
    assert (never["ours_seconds"], never["theirs_seconds"], never["ratio"]) == (None, 30.0, None)


def test_a_run_that_is_interrupted_leaves_what_it_has_measured(tmp_path: Path) -> None:
    speed = {system: [block(1.0, samples)] for system, samples in (("ours", 30), ("defaults", 10), ("best", 20))}
    transformer.write(tmp_path / "out.json", {"machine": {}}, speed, {system: [] for system in SYSTEMS})
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["ratios"]["samples_per_second"] == {"defaults": 3.0, "best": 1.5}
    assert result["ratios"]["seconds_to_accuracy"] == result["ratios"]["peak_memory"] == {"defaults": None, "best": None}
    assert result["speed"]["samples_per_second"] == {"ours": 30.0, "defaults": 10.0, "best": 20.0}


def test_the_clock_stands_still_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(transformer_worker.time, "perf_counter", lambda: now[0])

    class Model(nn.Module):
        def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
            now[0] += 1.0  # a second a step

    seen = []

    def pause(watch: transformer_worker.Watch, model: nn.Module) -> bool:
        now[0] += 100.0
        seen.append(watch.counts())
        return watch.steps < 4

    watch, model = transformer_worker.Watch([2, 4], pause), Model()
    watch.begin(model)
    inputs = {"input_ids": torch.zeros(2, 5), "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])}
    goes_on = [model(**inputs) or watch.step_done() for _ in range(4)]
    assert goes_on == [True, True, True, False]
    assert seen == [
        {"seconds": 2.0, "samples": 4, "tokens": 14, "padded_tokens": 20},
        {"seconds": 4.0, "samples": 8, "tokens": 28, "padded_tokens": 40},
    ]


def test_the_split_holds_out_a_quarter_of_each_class_whatever_the_order() -> None:
    table = tiny_reviews(num_examples=80)
    texts, labels = table.columns["text"], table.columns["label"]
    train, held_out = transformer_worker.split(texts, labels)
    assert sorted([*train, *held_out]) == list(range(80))
    assert Counter(labels[index] for index in held_out) == {"neg": 10, "pos": 10}
    _, reversed_held_out = transformer_worker.split(texts[::-1], labels[::-1])
    assert {texts[index] for index in held_out} == {texts[::-1][index] for index in reversed_held_out}


def test_a_worker_that_fails_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended too early"):
        transformer.train_whole(tmp_path, "ours", seed=0, num_held_out=1)  # nothing is prepared in this folder


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "NAME"),
        (["transformer"], "--out"),
        (["transformer", "--out", "x.json", "--seeds", "0"], "--seeds"),
        (["transformer", "--out", "nowhere/x.json"], "nowhere"),
    ],
)
def test_a_mistake_in_the_command_is_named(tmp_path: Path, arguments: list[str], named: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark.py"), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert named in done.stderr


def test_the_benchmark_of_images_measures_every_part(tmp_path: Path) -> None:
    images.run(tmp_path / "images.json", short=True)
    record = json.loads((tmp_path / "images.json").read_text())
    ((size, found),) = record["sizes"].items()
    assert size == "8"
    assert found["seconds_a_step"].keys() == {"plain", "ours", "ours with views", "batches", "batches with views"}
    assert 0.0 < found["share_of_batches"] < 1.0
    assert record["formats"].keys() == {"fp32", "bf16"} and record["decoding"] > 0
