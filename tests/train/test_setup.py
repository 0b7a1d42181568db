"""The number format of a run: what was asked for, else the one that this processor was measured to be faster in."""

from __future__ import annotations

import pytest
import torch

from nlpbp.config.run import Precision
from nlpbp.train import setup
from nlpbp.train.setup import precision_of, start


@pytest.mark.parametrize(("speedup", "chosen"), [(0.5, "fp32"), (1.1, "fp32"), (2.5, "bf16")])
def test_bf16_is_chosen_where_it_is_measured_to_be_faster(speedup: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(setup, "bf16_speedup", lambda: speedup)
    assert precision_of(start(seed=0)) == chosen


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_was_asked_for_is_not_measured(wanted: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "bf16_speedup", lambda: pytest.fail("nothing was to be measured"))
    assert precision_of(start(seed=0, precision=wanted)) == wanted


def test_a_processor_without_the_instructions_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = setup.bf16_speedup.__wrapped__
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert measure() == 0.0
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert measure() > 0.0
