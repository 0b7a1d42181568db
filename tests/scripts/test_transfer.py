"""The benchmark of transfer: every method answers, what is measured already stands, and its figures are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpbp.benchmarks import transfer
from nlpbp.benchmarks.transfer import METHODS, Reviews, draw, summary

RUNS = [
    {"method": method, "budget": 40, "seed": seed, "accuracy": accuracy, "seconds": 1.0}
    for method, accuracies in (("with_lm", (0.7, 0.8)), ("tfidf", (0.6, 0.9)))
    for seed, accuracy in enumerate(accuracies)
]


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("transfer") / "transfer.json"
    transfer.run(out, num_seeds=1, short=True)
    return out, json.loads(out.read_text(encoding="utf-8"))


def test_every_method_is_measured_on_every_budget(short_run: tuple[Path, dict[str, Any]]) -> None:
    _, record = short_run
    assert {(run["method"], run["budget"]) for run in record["runs"]} == {(m, b) for m in METHODS for b in (40, 80)}
    assert all(0.0 <= run["accuracy"] <= 1.0 for run in record["runs"])
    assert record["language_model"]["validation"]["perplexity"] > 1.0
    assert list(record["summary"]) == ["40", "80"]


def test_what_is_measured_already_is_not_done_again(
    short_run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, record = short_run
    monkeypatch.setattr(transfer, "measure", lambda *given, **options: pytest.fail("measured again"))
    transfer.run(out, num_seeds=1, short=True)
    assert json.loads(out.read_text(encoding="utf-8")) == record
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**record, "settings": {}}))
    with pytest.raises(ValueError, match="other settings"):
        transfer.run(other, num_seeds=1, short=True)


def test_the_summary_pairs_by_seed() -> None:
    found = summary(RUNS)["40"]
    assert found["tfidf"]["mean"] == pytest.approx(0.75)
    assert found["tfidf"]["behind_with_lm"]["mean"] == pytest.approx(0.0)
    low, high = found["tfidf"]["behind_with_lm"]["interval"]
    assert (low, high) == pytest.approx((-1.2706, 1.2706), abs=1e-3)  # 12.706 x 0.1414 / sqrt(2)
    assert transfer.in_words(summary(RUNS))[1].endswith("the language model is ahead by 0.000 [-1.271, 1.271]")


def test_a_sample_is_balanced_and_follows_from_its_seed() -> None:
    train = Reviews([str(i) for i in range(100)], np.arange(100) % 2)
    drawn = draw(train, 20, seed=1)
    assert drawn.targets.sum() == 10
    assert drawn.texts == draw(train, 20, seed=1).texts != draw(train, 20, seed=2).texts
    assert all(int(text) % 2 == target for text, target in zip(drawn.texts, drawn.targets, strict=True))
