"""A recurrent net learns what a trained model answers, on texts with labels and without."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError
from nlpbp.core.losses import LossOptions, cross_entropy
from nlpbp.data.tiny import tiny_reviews
from nlpbp.runs.result import RunResult
from recipes import transformer_sentiment, ulmfit

TABLE = tiny_reviews()
ROWS = [{"text": text, "label": label} for text, label in zip(TABLE.columns["text"], TABLE.columns["label"], strict=True)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("teacher") / "run"
    result = transformer_sentiment.run(dataclasses.replace(transformer_sentiment.tiny(), threads=1, out=str(out)))
    assert result.metrics["validation"]["accuracy"] > 0.9  # type: ignore[operator]
    return result


def student(out: Path, train: Any, **changes: Any) -> RunResult:
    tiny = ulmfit.tiny()
    data = dataclasses.replace(
        tiny.data, train=train, test={"text": TABLE.columns["text"][:60], "label": TABLE.columns["label"][:60]}
    )
    given = {"lm": ulmfit.Transfer(skip=True), "stages": (sections.Stage(epochs=8, lr=3e-2),), **changes}
    return ulmfit.run(dataclasses.replace(tiny, data=data, threads=1, out=str(out), **given))


def test_it_learns_the_teachers_answers_and_not_the_labels(tmp_path: Path, teacher: RunResult) -> None:
    labels = {row["label"] for row in ROWS}
    draw = random.Random(0)
    rows = [{**row, "label": draw.choice(sorted(labels))} for row in ROWS[60:]]
    taught = student(tmp_path / "taught", rows, distil=str(teacher.out))
    plain = student(tmp_path / "plain", rows)
    assert taught.metrics["test"]["accuracy"] > 0.85  # type: ignore[operator]
    assert plain.metrics["test"]["accuracy"] < 0.7  # type: ignore[operator]
    assert taught.baselines["teacher"]["test"]["accuracy"] > 0.9  # type: ignore[operator]
    assert "teacher" not in plain.baselines


def test_texts_without_labels_are_learned_too(tmp_path: Path, teacher: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    unlabelled = tmp_path / "more.jsonl"
    unlabelled.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in ROWS[80:]), encoding="utf-8")
    few = ROWS[60:80]
    lm = ulmfit.Transfer(skip=True, unlabelled=str(unlabelled))
    more = student(tmp_path / "more", few, distil=str(teacher.out), lm=lm)
    assert "160 of them without labels" in capsys.readouterr().out
    alone = student(tmp_path / "alone", few, distil=str(teacher.out))
    assert more.metrics["test"]["accuracy"] > alone.metrics["test"]["accuracy"] + 0.1  # type: ignore[operator]
    assert json.loads((more.out / "result.json").read_text(encoding="utf-8"))["stages"][0]["items"] > 160 * 7


def test_a_run_that_goes_on_does_not_ask_the_teacher_again(
    tmp_path: Path, teacher: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nlpbp.inference import distillation
    from nlpbp.runs import fit

    whole = student(tmp_path / "whole", ROWS[60:], distil=str(teacher.out))

    class Killed(BaseException):
        pass

    def killed(*given: Any, **more: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(fit, "_evaluate", killed)
        with pytest.raises(Killed):
            student(tmp_path / "killed", ROWS[60:], distil=str(teacher.out), checkpoint=sections.Checkpoints(save_steps=3))
    monkeypatch.setattr(distillation, "load_run", killed)
    again = student(tmp_path / "killed", ROWS[60:], distil=str(teacher.out), checkpoint=sections.Checkpoints(save_steps=3))
    one, other = ((result.out / "model" / "model.safetensors").read_bytes() for result in (whole, again))
    assert one == other
    with pytest.raises(Killed):  # another run does ask
        student(tmp_path / "another", ROWS[60:], distil=str(teacher.out))


@pytest.mark.parametrize(
    ("rows", "changes", "named"),
    [
        ([{"text": row["text"], "label": f"{row['label']}!"} for row in ROWS[60:]], {}, "trained for the same labels"),
        (ROWS[60:], {"optim": dataclasses.replace(ulmfit.Config().optim, focal_gamma=2.0)}, r"optim\.focal_gamma"),
        ([{"text": row["text"], "text_b": row["text"], "label": row["label"]} for row in ROWS[60:]], {}, "one text each"),
    ],
)
def test_what_cannot_be_taught_is_named(tmp_path: Path, teacher: RunResult, rows: Any, changes: dict[str, Any], named: str) -> None:
    tiny = ulmfit.tiny()
    text = [name for name in rows[0] if name.startswith("text")]
    data = dataclasses.replace(tiny.data, train=rows, text=tuple(text), label="label")
    config = dataclasses.replace(tiny, data=data, lm=ulmfit.Transfer(skip=True), distil=str(teacher.out), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=named):
        ulmfit.run(dataclasses.replace(config, **changes))


def test_cross_entropy_of_probabilities_is_that_of_labels_where_they_are_sure() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert torch.allclose(cross_entropy(logits, F.one_hot(labels, 3).float()), cross_entropy(logits, labels))
    even = torch.full((5, 3), 1 / 3)
    assert not torch.allclose(cross_entropy(logits, even), cross_entropy(logits, labels), atol=1e-3)
    with pytest.raises(ValueError, match="no focal loss"):
        cross_entropy(logits, even, LossOptions(focal_gamma=2.0))
    assert np.isfinite(cross_entropy(logits * 1e4, even).item())
