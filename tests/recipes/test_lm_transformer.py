"""Adapters instead of all weights: they train, what is saved is a plain model, and without peft there is a way out."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nlpbp.config.models import Lora
from nlpbp.core.errors import ConfigError
from nlpbp.runs.folder import CACHE
from nlpbp.runs.result import RunResult
from nlpbp.text.tiny import tiny_gpt
from nlpbp.trainers import language_model
from recipes import lm_transformer


def run(out: Path) -> RunResult:
    return lm_transformer.run(dataclasses.replace(lm_transformer.tiny(), lora=Lora(rank=4), out=str(out), threads=1, epochs=1))


def test_adapters_are_merged_into_a_plain_model_with_the_score_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    original = language_model.score

    def score(job: Any, model: Any, *given: Any, **options: Any) -> Any:
        asked.append((job, given, options))
        return original(job, model, *given, **options)

    monkeypatch.setattr(language_model, "score", score)
    result = run(tmp_path / "run")
    assert result.metrics["validation"]["loss"] < result.baselines["before"]["validation"]["loss"]
    job, given, options = asked[-1]
    loaded = AutoModelForCausalLM.from_pretrained(result.out / "model")
    assert original(job, loaded, *given, **options)[0]["loss"] == pytest.approx(result.metrics["test"]["loss"], abs=1e-6)
    before = load_file(tiny_gpt(CACHE / "tiny-gpt") / "model.safetensors")
    after = load_file(result.out / "model" / "model.safetensors")
    moved = {name for name in after if not after[name].equal(before[name])}
    assert (after.keys(), len(moved)) == (before.keys(), 8)  # of each of 2 layers four matrices
    assert all(name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) for name in moved)


def test_without_peft_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'nlpbp\[lora\]'") as error:
        run(tmp_path / "run")
    assert error.value.column == "lora.rank"
    assert not (tmp_path / "run").exists()
