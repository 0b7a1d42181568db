"""The mean of weights instead of the last ones: it is what is saved, and where the rate stays high it is better."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nlpbp.runs import fit
from nlpbp.runs.result import RunResult
from recipes import lm_awd_lstm

CONSTANT = dataclasses.replace(lm_awd_lstm.tiny().lm, schedule="constant")


def run(out: Path, lm: Any = CONSTANT, **changes: Any) -> RunResult:
    return lm_awd_lstm.run(dataclasses.replace(lm_awd_lstm.tiny(), lm=lm, out=str(out), threads=1, precision="fp32", **changes))


def test_what_is_saved_is_the_mean_of_the_weights_after_the_given_share_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    original = fit.WeightAverage.update

    def update(self: Any, step: int) -> None:
        seen.append({name: p.detach().double().clone() for name, p in self._model.named_parameters()})
        original(self, step)

    monkeypatch.setattr(fit.WeightAverage, "update", update)
    result = run(tmp_path / "run", dataclasses.replace(CONSTANT, steps=10, swa_start=0.75), eval_steps=10)
    saved = load_file(result.out / "model" / "model.safetensors")
    assert len(seen) == 10
    for name, value in saved.items():
        by_hand = torch.stack([weights[name] for weights in seen[7:]]).mean(dim=0)
        assert torch.allclose(value.double(), by_hand, atol=1e-6)
        assert not torch.allclose(value.double(), seen[-1][name], atol=1e-6)


def test_a_language_model_under_a_high_constant_rate_scores_better_averaged(tmp_path: Path) -> None:
    noisy = dataclasses.replace(CONSTANT, batch_size=2, lr=0.1, epochs=2)
    last = run(tmp_path / "last", noisy)
    averaged = run(tmp_path / "averaged", dataclasses.replace(noisy, swa_start=0.75))
    for part in ("validation", "test"):
        assert averaged.metrics[part]["loss"] < last.metrics[part]["loss"] - 0.05
    assert losses(averaged) == losses(last)  # the training itself is the same


def losses(result: RunResult) -> list[float]:
    lines = map(json.loads, (result.out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "split" not in line]
