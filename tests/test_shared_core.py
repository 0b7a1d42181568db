"""Texts and images drive the same code: one loop, one finder, one freezing, one checkpoint protocol, one report."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from nlpbp import config as sections
from nlpbp.runs import fit
from recipes import image_transfer, transformer_sentiment

SHARED = {
    "the training loop": ("nlpbp.trainers.stages", "train_steps"),
    "the rate finder": ("nlpbp.runs.lr_finder", "find_rate"),
    "freezing": ("nlpbp.trainers.stages", "freeze_to"),
    "layer groups": ("nlpbp.trainers.classifier", "layer_groups"),
    "the optimizer": ("nlpbp.trainers.optimizers", "adamw"),
    "checkpoints": ("nlpbp.runs.progress", "write_checkpoint"),
    "evaluation": ("nlpbp.trainers.classifier", "predict"),
    "calibration": ("nlpbp.trainers.classifier", "calibration_record"),
    "errors": ("nlpbp.runs.diagnosis", "error_slices"),
    "the report": ("nlpbp.report.page", "run_report"),
}


def test_texts_and_images_go_through_the_same_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLPBP_REPORT", "on")
    monkeypatch.setattr(fit, "WORTH_SAVING", 0.0)  # so that runs of seconds save checkpoints too
    called: dict[str, set[str]] = {name: set() for name in SHARED}
    kind = ""

    def counted(name: str, original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            called[name].add(kind)
            return original(*args, **options)

        return call

    for name, (module, function) in SHARED.items():
        owner = importlib.import_module(module)
        monkeypatch.setattr(owner, function, counted(name, getattr(owner, function)))
    finder = sections.Finder(num_steps=40, num_sweeps=1, start=1e-4)
    kind = "texts"
    text = transformer_sentiment.tiny()
    stages = (sections.Stage(epochs=1, train_last=1, lr="auto"), sections.Stage(epochs=1))
    text = dataclasses.replace(text, out=str(tmp_path / "texts"), stages=stages, finder=finder, threads=1)
    of_texts = transformer_sentiment.run(text)
    kind = "images"
    image = image_transfer.tiny()
    image_stages = (sections.ImageStage(epochs=1, train_last=1, lr="auto"), sections.ImageStage(epochs=1))
    longer = dataclasses.replace(finder, num_steps=120)  # a head on a net of random weights learns slowly
    image = dataclasses.replace(image, out=str(tmp_path / "images"), stages=image_stages, finder=longer, threads=1)
    of_images = image_transfer.run(image)
    assert called == {name: {"texts", "images"} for name in SHARED}
    files = [{path.name for path in result.out.iterdir()} for result in (of_texts, of_images)]
    assert files[0] - {"probe.json"} == files[1]  # a probe is of a pretrained text model
    records = [json.loads((result.out / "result.json").read_text()) for result in (of_texts, of_images)]
    assert records[0].keys() == records[1].keys()
