from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from run_script import TWO_PROCESSES, run_script

SHORT = ["--finder.num_steps", "80", "--finder.orders", "2", "--finder.start", "1e-5", "--threads", "1"]


@pytest.mark.parametrize("recipe", ["transformer_sentiment", "gru_classifier", "lm_awd_lstm", "lm_transformer"])
def test_the_script_sweeps_draws_suggests_and_trains_nothing(recipe: str, tmp_path: Path) -> None:
    done = run_script("lr_find", recipe, "--tiny", "--out", "found", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "found" / "lr_finder_1.json").read_text())
    assert set(record["suggestions"]) == {"steepest", "valley", "min_div_10"}
    assert all(1e-6 < rate < 1.0 for rate in record["suggestions"].values())
    assert len(record["curves"]) == 2
    drawing = (tmp_path / "found" / "lr_finder_1.svg").read_text()
    assert drawing.startswith("<?xml") and "valley" in drawing
    assert "valley" in done.stdout and "lr_finder_1.svg" in done.stdout
    assert not (tmp_path / "found" / "model").exists()
    assert not (tmp_path / "found" / "checkpoints").exists()


def test_a_later_stage_is_swept_when_the_ones_before_it_are_trained(tmp_path: Path) -> None:
    done = run_script("lr_find", "ulmfit", "--tiny", "--stage", "2", "--out", "found", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "found" / "lr_finder_2.json").read_text())
    assert record["name"] == "head"
    assert json.loads((tmp_path / "found" / "lr_finder_1.json").read_text())["name"] == "language model"
    assert not (tmp_path / "found" / "lr_finder_3.json").exists()


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    found = {}
    for name, launcher in (("one", None), ("two", TWO_PROCESSES)):
        arguments = ["--tiny", "--out", name, "--precision", "fp32", "--batch.micro_batches", "2", "--dropout.scale", "0", *SHORT]
        done = run_script("lr_find", "transformer_sentiment", *arguments, cwd=tmp_path, launcher=launcher)
        if launcher is None:
            assert done.returncode == 0, done.stderr
        found[name] = json.loads((tmp_path / name / "lr_finder_1.json").read_text())
    assert found["one"]["curves"][0]["losses"] == pytest.approx(found["two"]["curves"][0]["losses"], abs=1e-6)
    assert found["one"]["suggestions"] == pytest.approx(found["two"]["suggestions"], rel=1e-3)


def test_labels_that_cannot_be_learned_get_no_suggestion_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    rows = "".join(f"the film number {i} was as it was,{'yes' if (i * 7) % 13 < 6 else 'no'}\n" for i in range(400))
    (tmp_path / "coin.csv").write_text(f"text,label\n{rows}")
    arguments = ["--tiny", "--data.train", "coin.csv", "--out", "found", *SHORT, "--finder.end", "1e-4"]
    done = run_script("lr_find", "transformer_sentiment", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "no suggestion" in done.stderr and "--finder.start" in done.stderr
    assert json.loads((tmp_path / "found" / "lr_finder_1.json").read_text())["suggestions"] == {}


def test_a_stage_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    done = run_script("lr_find", "--tiny", "--stage", "two", cwd=tmp_path)
    assert (done.returncode, "counted from 1" in done.stderr) == (2, True)


def test_two_processes_train_frozen_stages_with_a_cache_to_the_weights_of_one(tmp_path: Path) -> None:
    stages = "stages: [{epochs: 3, lr: 0.02, train_last: 2, cache_frozen: true}, {epochs: 1, lr: 0.01}]"
    settings = "{data: {train: 'tiny:reviews', max_length: 32}, model: {name: 'tiny:bert'}, dropout: {scale: 0.0}"
    (tmp_path / "c.yaml").write_text(f"{settings}, batch: {{size: 16, micro_batches: 2}}, precision: fp32, threads: 1, {stages}}}")
    weights = {}
    for name, launcher in (("one", None), ("two", TWO_PROCESSES)):
        done = run_script("finetune", "--config", "c.yaml", "--out", name, cwd=tmp_path, launcher=launcher)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    assert all((weights["one"][name] - weights["two"][name]).abs().max() < 1e-4 for name in weights["one"])
