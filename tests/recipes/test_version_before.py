"""Run folders of version 0.1.0 load, predict and go on: settings had other names, and files as well."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlpbp.config.renamed import RENAMED
from nlpbp.runs import fit
from nlpbp.runs.held_out import add_test_use
from recipes import transformer_sentiment, ulmfit
from run_script import run_script


class Killed(Exception):
    """In place of a kill."""


def kill_at(step: int) -> Any:
    original = fit.log

    def log(accelerator: Any, path: Path, record: dict[str, Any]) -> None:
        original(accelerator, path, record)
        if record["step"] == step and "split" not in record:
            raise Killed

    return log


def age(folder: Path) -> list[str]:
    """Turn a run folder into one of 0.1.0; return the settings that had other names there."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    found = []
    for old, new in RENAMED.items():
        (*before, was), (*section, name) = old.split("."), new.split(".")
        at = config
        for word in section:
            at = at.get(word, {})
        if before == section and name in at:
            at[was] = at.pop(name)
            found.append(old)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    uses = folder / "test_uses.json"
    if uses.exists():
        kept = json.loads(uses.read_text())
        (folder / "looks.json").write_text(json.dumps({"test": kept["test"], "looks": kept["uses"]}))
        uses.unlink()
    model = folder / "model" / "config.json"
    if model.exists():
        saved = json.loads(model.read_text())
        del saved["nlpbp_task"]
        model.write_text(json.dumps(saved))
    return found


@pytest.mark.parametrize("recipe", [transformer_sentiment, ulmfit], ids=lambda recipe: recipe.NAME)
def test_an_unfinished_run_goes_on_bit_for_bit(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(recipe.tiny(), threads=1, precision="fp32")
    recipe.run(dataclasses.replace(config, out=str(tmp_path / "whole")))
    saved = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, save_steps=5), out=str(tmp_path / "run"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", kill_at(12))
        recipe.run(saved)
    renamed = age(tmp_path / "run")
    assert {"checkpoint.every_steps", "data.cut", "optim.focal"} <= set(renamed)
    done = run_script("finetune", recipe.NAME, "--resume", str(tmp_path / "run"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumed from step 10" in done.stdout
    assert done.stderr.count("data.cut is now data.truncation") == 1
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_a_finished_run_predicts_is_checked_and_has_a_report(tmp_path: Path) -> None:
    config = dataclasses.replace(transformer_sentiment.tiny(), threads=1, out=str(tmp_path / "run"))
    transformer_sentiment.run(config)
    (tmp_path / "new.csv").write_text("text\nthis film is wonderful\nthe plot was dull\n")
    before = run_script("predict", "run", "--data", "new.csv", cwd=tmp_path).stdout
    age(tmp_path / "run")
    assert run_script("predict", "run", "--data", "new.csv", cwd=tmp_path).stdout == before
    for command in ("check", "report"):
        done = run_script(command, "run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
    again = run_script("finetune", "--config", "run/config.yaml", "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model" / "model.safetensors"
    ).read_bytes()


def test_the_count_of_test_set_uses_goes_on(tmp_path: Path) -> None:
    from nlpbp.data.parts import load_inputs

    config = dataclasses.replace(transformer_sentiment.tiny(), threads=1, epochs=1, out=str(tmp_path / "run"))
    transformer_sentiment.run(config)
    test = load_inputs(config.data).test
    assert test is not None
    age(tmp_path / "run")
    assert add_test_use(tmp_path / "run", test.examples, by="me") == 2
