from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nlpbp.cli.lr_find import lr_find
from nlpbp.core.errors import ConfigError
from run_script import run_script

SHORT = ["--finder.num_steps", "80", "--finder.num_sweeps", "2", "--finder.start", "1e-5", "--threads", "1"]


@pytest.mark.parametrize("recipe", ["transformer_sentiment", "gru_classifier", "lm_awd_lstm", "lm_transformer"])
def test_the_script_sweeps_draws_suggests_and_trains_nothing(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    lr_find([recipe, "--tiny", "--out", str(out), *SHORT])
    record = json.loads((out / "lr_finder_1.json").read_text())
    assert record["suggestions"]
    assert set(record["suggestions"]) - {"edge_div_10", "edge_div_30"} == (
        {"steepest", "valley", "min_div_10"} if record["refused"] is None else set()
    )
    assert all(1e-6 < rate < 1.0 for rate in record["suggestions"].values())
    assert len(record["curves"]) == 2
    drawing = (out / "lr_finder_1.svg").read_text()
    assert drawing.startswith("<?xml") and next(iter(record["suggestions"])).replace("_", " ") in drawing
    printed = capsys.readouterr().out
    assert next(iter(record["suggestions"])) in printed and "lr_finder_1.svg" in printed
    assert not (out / "model").exists()
    assert not (out / "checkpoints").exists()


def test_a_later_stage_is_swept_when_the_ones_before_it_are_trained(tmp_path: Path) -> None:
    out = tmp_path / "found"
    lr_find(["ulmfit", "--tiny", "--stage", "2", "--out", str(out), *SHORT])
    assert json.loads((out / "lr_finder_2.json").read_text())["name"] == "head"
    assert json.loads((out / "lr_finder_1.json").read_text())["name"] == "language model"
    assert not (out / "lr_finder_3.json").exists()


def test_the_best_of_three_rates_is_taken_after_short_trainings(tmp_path: Path) -> None:
    out = tmp_path / "found"
    lr_find(["transformer_sentiment", "--tiny", "--out", str(out), "--finder.verify", *SHORT])
    record = json.loads((out / "lr_finder_1.json").read_text())
    losses = {one["rate"]: one["loss"] for one in record["tried"]}
    suggested = record["suggestions"].get("edge_div_10") or record["suggestions"]["edge_div_30"]
    assert sorted(rate / suggested for rate in losses) == pytest.approx([1 / 3, 1.0, 3.0])
    assert record["chosen"] == min(losses, key=lambda rate: losses[rate])


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        arguments = ["--tiny", "--out", name, "--precision", "fp32", "--batch.micro_batches", "2", "--dropout.scale", "0", *SHORT]
        done = run_script("lr_find", "transformer_sentiment", *arguments, cwd=tmp_path, processes=processes)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((tmp_path / name / "lr_finder_1.json").read_text())
    assert found["one"]["curves"][0]["losses"] == pytest.approx(found["two"]["curves"][0]["losses"], abs=1e-6)
    assert found["one"]["suggestions"] == pytest.approx(found["two"]["suggestions"], rel=1e-3)


def test_labels_that_cannot_be_learned_get_no_suggestion_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    rows = [{"text": f"the film number {i} was as it was", "label": "yes" if (i * 7) % 13 < 6 else "no"} for i in range(400)]
    (tmp_path / "coin.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "found"
    given = ["--tiny", "--data.train", str(tmp_path / "coin.jsonl"), "--out", str(out), *SHORT, "--finder.end", "1e-4"]
    with pytest.raises(ConfigError, match="no suggestion") as error:
        lr_find(["transformer_sentiment", *given])
    assert "--finder.start" in str(error.value)
    assert json.loads((out / "lr_finder_1.json").read_text())["suggestions"] == {}


@pytest.mark.parametrize("stage", ["two", "0"])
def test_a_stage_that_there_is_not_is_an_error(stage: str) -> None:
    with pytest.raises(ConfigError, match="counted from 1") as error:
        lr_find(["--tiny", "--stage", stage])
    assert error.value.code == 2


def test_two_processes_train_frozen_stages_with_a_cache_to_the_weights_of_one(tmp_path: Path) -> None:
    stages = "stages: [{epochs: 3, lr: 0.02, train_last: 2, cache_frozen: true}, {epochs: 1, lr: 0.01}]"
    settings = "{data: {train: 'tiny:reviews', max_length: 32}, model: {name: 'tiny:bert'}, dropout: {scale: 0.0}"
    (tmp_path / "c.yaml").write_text(f"{settings}, batch: {{size: 16, micro_batches: 2}}, precision: fp32, threads: 1, {stages}}}")
    weights = {}
    for name, processes in (("one", 1), ("two", 2)):
        done = run_script("finetune", "--config", "c.yaml", "--out", name, cwd=tmp_path, processes=processes)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    assert all((weights["one"][name] - weights["two"][name]).abs().max() < 1e-4 for name in weights["one"])
