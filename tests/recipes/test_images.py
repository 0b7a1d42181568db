"""The recipes for images: what they learn, what each setting changes, and that they go the way of texts."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.packaged import packaged_digits
from nlpbp.data.tiny import tiny_shapes
from nlpbp.runs import fit
from nlpbp.runs.result import RunResult
from recipes import gru_classifier, image_classifier, image_transfer
from run_script import run_script


def train(out: Path, **changes: Any) -> RunResult:
    config = dataclasses.replace(image_classifier.tiny(), out=str(out), threads=1, precision="fp32", epochs=2)
    return image_classifier.run(dataclasses.replace(config, **changes))


def weights(result: RunResult) -> dict[str, torch.Tensor]:
    return load_file(result.out / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(tmp_path_factory.mktemp("plain") / "run")


MODEL, OPTIM = image_classifier.tiny().model, image_classifier.tiny().optim
CHANGES = {
    "stem": {"model": dataclasses.replace(MODEL, stem="three_3x3")},
    "norm": {"model": dataclasses.replace(MODEL, norm="group")},
    "no norm": {"model": dataclasses.replace(MODEL, norm="none")},
    "order": {"model": dataclasses.replace(MODEL, order="conv_relu_norm")},
    "downsample": {"model": dataclasses.replace(MODEL, downsample="max")},
    "residual": {"model": dataclasses.replace(MODEL, residual=False)},
    "zero_init": {"model": dataclasses.replace(MODEL, zero_init=False)},
    "init": {"model": dataclasses.replace(MODEL, init="lsuv")},
    "num_blocks": {"model": dataclasses.replace(MODEL, num_blocks=2)},
    "head_dropout": {"model": dataclasses.replace(MODEL, head_dropout=0.5)},
    "preset": {"augment": sections.ImageAugment(preset="side_on")},
    "mixup": {"augment": sections.ImageAugment(mix="mixup")},
    "cutmix": {"augment": sections.ImageAugment(mix="cutmix", alpha=1.0)},
    "similarity": {"optim": dataclasses.replace(OPTIM, similarity="low")},
    "layer_decay": {"optim": dataclasses.replace(OPTIM, layer_decay=0.5)},
    "norms": {"optim": dataclasses.replace(OPTIM, norms="frozen")},
    "ema": {"optim": dataclasses.replace(OPTIM, ema_decay=0.9)},
    "sgd": {"optim": dataclasses.replace(OPTIM, optimizer="sgd")},
    "focal": {"optim": dataclasses.replace(OPTIM, focal_gamma=2.0)},
    "size": {"data": sections.Images(train="tiny:shapes", size=12)},
    "balance": {"data": sections.Images(train="tiny:shapes", balanced_sampling=True)},
    "stage size": {"stages": (sections.ImageStage(size=6, epochs=1), sections.ImageStage(epochs=1))},
    "stage batch": {"stages": (sections.ImageStage(batch_size=32),)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_the_run(name: str, plain: RunResult, tmp_path: Path) -> None:
    changed = weights(train(tmp_path / "run", **CHANGES[name]))
    usual = weights(plain)
    same = changed.keys() == usual.keys() and all(
        changed[key].shape == usual[key].shape and changed[key].equal(usual[key]) for key in usual
    )
    assert not same


def test_nothing_else_changes_it(plain: RunResult, tmp_path: Path) -> None:
    again = weights(train(tmp_path / "run"))
    assert all(again[key].equal(value) for key, value in weights(plain).items())


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no effect without mixing"):
        train(tmp_path / "a", augment=sections.ImageAugment(alpha=1.0))
    with pytest.raises(ConfigError, match="no such packaged images"):
        train(tmp_path / "b", data=sections.Images(train="demo:digit"))
    with pytest.raises(DataError, match="no such column"):
        train(tmp_path / "d", data=sections.Images(train="tiny:shapes", image="picture"))
    with pytest.raises(ConfigError, match="out of range"):
        train(tmp_path / "c", data=sections.Images(train="tiny:shapes", size=2))


def few_digits(path: Path, *, labels: range, num: int) -> Path:
    """Write digits as files, a folder a label; so many of each."""
    digits = packaged_digits()
    for label in map(str, labels):
        rows = [row for row, each in enumerate(digits["label"]) if each == label][:num]
        (path / label).mkdir(parents=True)
        for row in rows:
            Image.fromarray(digits["image"][row]).save(path / label / f"{row}.png")
    return path


def test_a_net_that_has_seen_other_digits_learns_from_fewer(tmp_path: Path) -> None:
    """Pretrained on 0 to 4, then 16 images each of 5 to 9: better than the same net and steps from scratch, over three seeds."""
    general = few_digits(tmp_path / "general", labels=range(5), num=150)
    target = few_digits(tmp_path / "target", labels=range(5, 10), num=120)
    net = sections.ResidualNet(widths=(8, 16, 32), num_blocks=1)
    options: dict[str, Any] = {"threads": 1, "precision": "fp32", "augment": sections.ImageAugment()}
    data = sections.Images(train=str(general), test_share=0.0)
    before = dataclasses.replace(image_classifier.Config(), data=data, model=net, epochs=8, out=str(tmp_path / "net"), **options)
    assert image_classifier.run(before).metrics["validation"]["accuracy"] > 0.9
    few = sections.Images(train=str(target), test_share=0.1, validation_share=0.75, train_fraction=0.9)
    scores: dict[str, list[float]] = {"transfer": [], "scratch": [], "probe": []}
    for seed in range(3):
        transfer = dataclasses.replace(
            image_transfer.Config(),
            data=few,
            model=image_transfer.Model(str(tmp_path / "net")),
            batch=sections.ImageBatch(size=8),
            epochs=3,
            seed=seed,
            out=str(tmp_path / f"transfer-{seed}"),
            **options,
        )
        scratch = dataclasses.replace(
            image_classifier.Config(),
            data=few,
            model=net,
            batch=sections.ImageBatch(size=8),
            epochs=4,  # as many passes as both stages of the transfer
            seed=seed,
            out=str(tmp_path / f"scratch-{seed}"),
            **options,
        )
        result = image_transfer.run(transfer)
        scores["transfer"].append(result.metrics["validation"]["accuracy"] or 0.0)
        scores["probe"].append(result.baselines["probe"]["validation"]["accuracy"] or 0.0)
        scores["scratch"].append(image_classifier.run(scratch).metrics["validation"]["accuracy"] or 0.0)
    assert np.mean(scores["transfer"]) > np.mean(scores["scratch"]) + 0.03, scores
    assert np.mean(scores["probe"]) > 0.5, f"of five classes, by what the frozen net knows of others: {scores}"


def test_frozen_layers_and_frozen_norms_keep_their_statistics(tmp_path: Path) -> None:
    """T1: `.train()` would move the statistics of batch normalisation in layers that are frozen, and in all where the norms are."""
    pretrained = train(tmp_path / "net")
    before = weights(pretrained)

    def tuned(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        config = dataclasses.replace(image_transfer.tiny(), model=image_transfer.Model(str(pretrained.out)), threads=1)
        return weights(image_transfer.run(dataclasses.replace(config, out=str(tmp_path / name), epochs=1, **changes)))

    statistics = [name for name in before if "running" in name]
    assert len(statistics) > 4
    only_head = tuned("head", stages=(sections.ImageStage(train_last=1),))
    assert all(only_head[name].equal(before[name]) for name in before if not name.startswith("head"))
    assert not only_head["head.2.weight"].equal(before["head.2.weight"])
    optim = image_transfer.tiny().optim
    frozen = tuned("frozen", stages=(sections.ImageStage(),), optim=dataclasses.replace(optim, norms="frozen"))
    assert all(frozen[name].equal(before[name]) for name in statistics)
    assert not frozen["body.stem.0.0.weight"].equal(before["body.stem.0.0.weight"])
    moved = tuned("moved", stages=(sections.ImageStage(),))
    assert not any(moved[name].equal(before[name]) for name in statistics)


def saved(folder: Path, model: Any, processor: Any) -> str:
    torch.manual_seed(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


SIZE = {"height": 32, "width": 32}
PRETRAINED: dict[str, Any] = {
    "resnet": lambda: (
        ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=7)),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    ),
    "vit": lambda: (
        ViTForImageClassification(
            ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
        ),
        ViTImageProcessorPil(size=SIZE),
    ),
    "convnext": lambda: (
        ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_labels=4)),
        ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    ),
    "swin": lambda: (
        SwinForImageClassification(
            SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
        ),
        ViTImageProcessorPil(size=SIZE),
    ),
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_any_pretrained_classifier_is_tuned_group_by_group(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", *PRETRAINED[name]())
    config = dataclasses.replace(image_transfer.tiny(), model=image_transfer.Model(folder), threads=1, precision="fp32", epochs=1)
    result = image_transfer.run(dataclasses.replace(config, out=str(tmp_path / "run")))
    stages = json.loads((result.out / "result.json").read_text())["stages"]
    assert set(result.baselines) == {"majority", "pixels", "probe"}
    assert stages[0]["trained"] == ["head"]
    assert len(stages[1]["trained"]) >= 3, "the body is cut into groups"
    table = pq.read_table(result.out / "predictions.parquet").to_pydict()
    shapes = [Image.fromarray(pixels) for pixels in tiny_shapes()["image"][table["id"]]]
    for row, answer in enumerate(pipeline("image-classification", model=str(result.out / "model"))(shapes)):
        assert answer[0]["score"] == pytest.approx(table[f"probability_{answer[0]['label']}"][row], abs=1e-4)


def test_a_size_that_positions_do_not_allow_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", *PRETRAINED["vit"]())
    config = dataclasses.replace(image_transfer.tiny(), model=image_transfer.Model(folder), threads=1, out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="has positions for 32"):
        image_transfer.run(dataclasses.replace(config, stages=(sections.ImageStage(size=24),)))


def test_frozen_norms_and_sizes_go_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained = train(tmp_path / "net")
    stages = (sections.ImageStage(epochs=1, size=6, train_last=2), sections.ImageStage(epochs=1))
    config = dataclasses.replace(
        image_transfer.tiny(),
        model=image_transfer.Model(str(pretrained.out)),
        optim=dataclasses.replace(image_transfer.tiny().optim, norms="frozen"),
        augment=sections.ImageAugment(preset="side_on", mix="cutmix"),
        stages=stages,
        checkpoint=sections.Checkpoints(save_steps=4),
        threads=1,
    )
    whole = image_transfer.run(dataclasses.replace(config, out=str(tmp_path / "whole")))
    interrupted = dataclasses.replace(config, out=str(tmp_path / "run"))
    for step in (6, 18):

        def log(accelerator: Any, path: Path, record: Any, step: int = step, original: Any = fit.log) -> None:
            original(accelerator, path, record)
            if record["step"] == step and "split" not in record:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(fit, "log", log)
            image_transfer.run(interrupted)
    ended = image_transfer.run(interrupted)
    before, first, second = weights(pretrained), weights(whole), weights(ended)
    assert all(first[name].equal(second[name]) for name in first)
    assert all(first[name].equal(before[name]) for name in before if "running" in name)


def test_images_grow_from_stage_to_stage_and_the_score_is_of_the_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T2, with what trains and how many images a step as each stage says."""
    from nlpbp.trainers import stages as training

    seen: list[tuple[int, int, bool]] = []
    original = training.train_steps

    def noting(model: Any, batches: Any, *args: Any, **options: Any) -> Any:
        def noted(step: Any) -> Any:
            shape = step[0].inputs["pixel_values"].shape
            seen.append((shape[2], shape[0], next(model.parameters()).requires_grad))
            return step

        return original(model, map(noted, batches), *args, **options)

    monkeypatch.setattr(training, "train_steps", noting)
    stages = (
        sections.ImageStage(epochs=1, size=6, batch_size=64, train_last=1),
        sections.ImageStage(epochs=1, size=8, batch_size=48),
        sections.ImageStage(epochs=1),
    )
    result = train(tmp_path / "run", stages=stages, data=sections.Images(train="tiny:shapes", size=12))
    assert list(dict.fromkeys(seen)) == [(6, 64, False), (8, 48, True), (12, 16, True)]
    assert [stage["name"] for stage in json.loads((result.out / "result.json").read_text())["stages"]] == [
        "head, 6 pixels",
        "all layers, 8 pixels",
        "all layers",
    ]
    assert json.loads((result.out / "model" / "config.json").read_text())["image_size"] == 12


def test_a_step_of_one_image_left_over_joins_the_one_before(tmp_path: Path) -> None:
    shapes = tiny_shapes(num_examples=73)
    rows = {"image": shapes["image"], "label": shapes["label"]}
    # One column of maps of one pixel: batch normalisation over a single image would have nothing to go by.
    model = dataclasses.replace(MODEL, widths=(4, 4, 4, 4))
    data = sections.Images(train=rows, validation=rows, test_share=0.0)  # type: ignore[arg-type]
    result = train(tmp_path / "run", data=data, model=model, batch=sections.ImageBatch(size=8))
    stages = json.loads((result.out / "result.json").read_text())["stages"]
    assert stages[0]["items"] == 2 * 73


def test_wrong_images_stand_in_the_report_unless_nothing_of_the_data_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLPBP_REPORT", "on")
    shown, hidden = train(tmp_path / "a", epochs=1), train(tmp_path / "b", epochs=1, report=sections.Report(texts="none"))
    errors = json.loads((shown.out / "errors.json").read_text())
    (first, *_) = errors["most_confident"]
    image = Image.open(io.BytesIO(base64.b64decode(first["image"])))
    assert image.size == (96, 96)
    shapes = tiny_shapes()["image"]
    assert np.asarray(image)[::12, ::12].tolist() == shapes[first["id"]].tolist()
    page = (shown.out / "report.html").read_text()
    assert f'src="data:image/png;base64,{first["image"].replace("+", "&#43;")}"' in page or first["image"] in page
    assert {one["slice"] for one in errors["slices"]} <= {"brightness", "contrast", "label"}
    assert not [one for one in json.loads((hidden.out / "errors.json").read_text())["most_confident"] if "image" in one]
    assert "data:image" not in (hidden.out / "report.html").read_text()
    assert json.loads((shown.out / "audit.json").read_text())["findings"]


def test_a_picture_that_is_no_base64_does_not_get_into_the_page(plain: RunResult, tmp_path: Path) -> None:
    from nlpbp.evaluation.run_folder import read_run
    from nlpbp.report.results import wrong_answers

    errors = json.loads((plain.out / "errors.json").read_text())
    run = dataclasses.replace(read_run(plain.out), errors=errors)
    assert wrong_answers(run)[0]["image"]
    errors["most_confident"][0]["image"] = '" onerror="alert(1)'
    with pytest.raises(ValueError, match="base64"):
        wrong_answers(run)


def test_copies_stand_in_one_part_and_the_audit_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLPBP_REPORT", "on")
    shapes = tiny_shapes(num_examples=60)
    rows = {"image": np.concatenate([shapes["image"], shapes["image"]]), "label": [*shapes["label"], *shapes["label"][:59], "lies"]}
    result = train(tmp_path / "run", data=sections.Images(train=rows), epochs=1)  # type: ignore[arg-type]
    findings = {one["id"]: one for one in json.loads((result.out / "audit.json").read_text())["findings"]}
    assert findings["exact_duplicates"]["count"] > 30
    assert findings["leaks"]["count"] == 0
    assert findings["conflicting_labels"]["count"] == 2
    assert "8 x 8 pixels" in findings["image_sizes"]["message"]


def test_an_image_that_is_broken_is_named_before_training(tmp_path: Path) -> None:
    folder = few_digits(tmp_path / "digits", labels=range(2), num=20)
    whole = next((folder / "1").iterdir())
    whole.write_bytes(whole.read_bytes()[:60])
    with pytest.raises(DataError, match="image") as error:
        train(tmp_path / "run", data=sections.Images(train=str(folder)))
    assert whole.name in str(error.value)


def test_several_labels_and_groups_come_from_a_table(tmp_path: Path) -> None:
    folder = few_digits(tmp_path / "digits", labels=range(4), num=24)
    files = sorted(folder.glob("*/*.png"))
    parity = {"0": "even|round", "1": "odd", "2": "even", "3": "odd|round"}
    lines = [f"{file.relative_to(folder)},{parity[file.parent.name]},{index % 12}" for index, file in enumerate(files)]
    (folder / "list.csv").write_text("file,label,writer\n" + "\n".join(lines) + "\n")
    data = sections.Images(train=str(folder / "list.csv"), group="writer", slices=("writer",), validation_share=0.3)
    result = train(tmp_path / "run", data=data, epochs=4)
    assert result.task == "multi_label"
    assert set(json.loads((result.out / "result.json").read_text())["data"]["labels"]) == {"even", "odd", "round"}


def test_a_sweep_cycles_and_snapshots_are_as_for_texts(tmp_path: Path) -> None:
    optim = dataclasses.replace(OPTIM, lr="auto", schedule="warm_restarts")
    cycles = sections.Cycles(num_cycles=2, snapshots=True)
    finder = sections.Finder(num_steps=40, num_sweeps=1, start=1e-4)
    result = train(tmp_path / "run", optim=optim, cycles=cycles, finder=finder, epochs=6)
    assert json.loads((result.out / "lr_finder_1.json").read_text())["chosen"]
    assert sorted(path.name for path in (result.out / "snapshots").iterdir()) == ["1", "2"]
    Image.fromarray(tiny_shapes()["image"][0]).save(tmp_path / "lies.png")
    done = run_script("predict", "run", "--snapshots", "--threads", "1", cwd=tmp_path, stdin="lies.png\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\t")[0] in ("lies", "stands")


def test_predictions_with_views_say_what_they_bring(tmp_path: Path) -> None:
    train(tmp_path / "run", augment=sections.ImageAugment(preset="digits"), epochs=4)
    for index, (pixels, label) in enumerate(zip(*tiny_shapes(num_examples=40, seed=3).values(), strict=True)):
        (tmp_path / "new" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "new" / label / f"{index}.png")
    common = ["run", "--data", "new", "--out", "new.csv", "--threads", "1"]
    done = run_script("predict", *common, "--views", "mirrored", "augmented", "--fit_weights", "new", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "times the time of one answer" in done.stderr and "weights: as they are" in done.stderr
    assert "warning: the weights are fitted on what is scored" in done.stderr
    lines = (tmp_path / "new.csv").read_text().splitlines()
    assert len(lines) == 41 and lines[1].startswith("0,lies/0.png,lies,")
    gru_classifier.run(dataclasses.replace(gru_classifier.tiny(), out=str(tmp_path / "texts"), threads=1))
    mixed = run_script("predict", "run", "texts", "--data", "new", "--threads", "1", cwd=tmp_path)
    assert mixed.returncode == 2 and "there is no mean of them" in mixed.stderr
    refused = run_script("predict", *common, "--views", "windows", cwd=tmp_path)
    assert refused.returncode == 2 and "windows is of texts" in refused.stderr


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Bit for bit, the statistics of batch normalisation too; one micro-batch for both is another training."""
    models = {}
    for name, processes, micro_batches in (("one", 1, 2), ("two", 2, 2), ("control", 1, 1)):
        arguments = ["--tiny", "--out", name, "--precision", "fp32", "--threads", "1", "--batch.micro_batches", str(micro_batches)]
        more = ["--augment.preset", "digits", "--epochs", "2"]
        done = run_script("finetune", "image_classifier", *arguments, *more, cwd=tmp_path, processes=processes)
        assert done.returncode == 0, done.stderr
        models[name] = (tmp_path / name / "model" / "model.safetensors").read_bytes()
    assert models["one"] == models["two"] != models["control"]


def test_the_packaged_digits_are_those_of_scikit_learn() -> None:
    digits = packaged_digits()
    ink, labels = load_digits(return_X_y=True)
    assert np.abs(digits["image"].reshape(-1, 64) * (16 / 255) - ink).max() < 0.04
    assert digits["label"] == [str(label) for label in labels]


def test_numbers_are_refused_and_what_is_not_seen_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    images = list(draw.integers(0, 255, (60, 8, 24, 3), dtype=np.uint8))
    config = dataclasses.replace(image_transfer.tiny(), threads=1, epochs=1, out=str(tmp_path / "run"))
    numbers: Any = {"image": images, "score": [0.1 * number for number in range(60)]}
    with pytest.raises(DataError, match="numbers are not predicted from images") as error:
        image_transfer.run(dataclasses.replace(config, data=sections.Images(train=numbers)))
    assert error.value.column == "score"
    names: Any = {"image": images, "label": ["a", "b"] * 30}
    image_transfer.run(dataclasses.replace(config, data=sections.Images(train=names), out=str(tmp_path / "other")))
    said = capsys.readouterr().out
    assert "images: grey, seen in 8 x 8 pixels; their colours are lost, for the net sees grey\n" in said
    assert "their middle squares alone are seen: 67% of the pixels are left out\n" in said
