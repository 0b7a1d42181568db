from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from nlpbp.cli import finetune, parsing
from nlpbp.data.tiny import tiny_reviews
from recipes import RECIPES
from run_script import ROOT, TWO_PROCESSES, run_script


def test_help_lists_the_recipes(tmp_path: Path) -> None:
    done = run_script("finetune", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout and line in done.stdout for name, (_, line) in RECIPES.items())


@pytest.mark.parametrize("name", ["transformer_sentiment", "transformer-sentiment"])
def test_help_of_a_recipe_explains_its_flags(tmp_path: Path, name: str) -> None:
    done = run_script("finetune", name, "--help", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 0
    for flag in (
        "--data.train",
        "--data.train_fraction",
        "--optim.lr",
        "--dropout.scale",
        "--out",
        "--seed",
        "--threads",
        "--precision",
    ):
        assert flag in done.stdout


def test_help_does_not_wait_for_what_only_a_finished_run_needs() -> None:
    command = "import sys; from recipes import transformer_sentiment; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["transformer_sentimant"], 2, "transformer_sentiment"),
        (["--data.trian", "x.csv"], 2, "--data.train"),
        (["--precision", "bf17"], 2, "did you mean bf16?"),
        (["--optim.schedule=cosin"], 2, "did you mean cosine?"),
        (["--tny"], 2, "did you mean --tiny?"),
        (["--config"], 2, "--config: a value is missing"),
        (["--tiny", "--config", "a.yaml"], 2, "--tiny and --config"),
        (["--tiny", "--track", "tensorbord"], 2, "did you mean 'tensorboard'?"),
        (["--tiny", "--data.delimiter", ";"], 2, "--data.delimiter"),
        (["--tiny", "--epochs", "0"], 2, "1 or more"),
        (["--tiny", "--data.max_length", "65"], 2, "64"),
        (["--tiny", "--batch.micro_batches", "17"], 2, "--batch.micro_batches"),
        (["--tiny", "--model.name", "./missing"], 2, "./missing"),
        (["--tiny", "--model.name", "nobody/nothing"], 2, "no network"),
        (["--tiny", "--data.train", "missing.csv"], 3, "missing.csv"),
        (["--tiny", "--data.train", "nobody/nothing"], 3, "no network"),
        (["--config", "missing.yaml"], 2, "missing.yaml"),
    ],
)
def test_a_users_mistake_ends_in_one_message_and_its_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        parsing.run_command(finetune.finetune, "finetune.py")
    printed = capsys.readouterr()
    assert stopped.value.code == code
    assert named in printed.err + printed.out
    assert "Traceback" not in printed.err
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_mistake_reaches_the_shell_as_its_exit_code(tmp_path: Path) -> None:
    done = run_script("finetune", "--tiny", "--data.train", "missing.csv", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: missing.csv")


def test_a_config_file_repeats_a_run_and_flags_override_it(tmp_path: Path) -> None:
    assert run_script("finetune", "--tiny", "--out", "a", "--threads", "1", cwd=tmp_path).returncode == 0
    assert run_script("finetune", "--config", "a/config.yaml", "--out", "b", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a/model/model.safetensors").read_bytes() == (tmp_path / "b/model/model.safetensors").read_bytes()
    assert run_script("finetune", "--config=a/config.yaml", "--out", "c", "--seed", "5", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a/model/model.safetensors").read_bytes() != (tmp_path / "c/model/model.safetensors").read_bytes()


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    for number in (1, 2):
        done = run_script("finetune", "--tiny", "--epochs", "1", cwd=tmp_path)
        assert (tmp_path / f"runs/transformer_sentiment-{number}/result.json").exists(), done.stderr


def test_predict_answers_for_a_file_and_for_standard_input(tmp_path: Path) -> None:
    table = tiny_reviews(num_examples=20, seed=9)
    rows = zip(table.columns["text"], table.columns["label"], strict=True)
    (tmp_path / "new.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    assert run_script("finetune", "--tiny", "--out", "run", cwd=tmp_path).returncode == 0
    done = run_script("predict", "run", "--data", "new.csv", "--out", "predictions.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert [row["reference"] for row in predictions] == [f"new.csv:{line}" for line in range(2, 22)]
    right = [row["label"] == row["prediction"] for row in predictions]
    assert f"accuracy: {sum(right) / 20:.4f} [" in done.stdout
    for row in predictions:
        assert (float(row["probability_pos"]) > 0.5) == (row["prediction"] == "pos")
    piped = run_script("predict", "run", cwd=tmp_path, stdin="\n".join(table.columns["text"]) + "\n")
    assert [line.split("\t")[0] for line in piped.stdout.splitlines()] == [row["prediction"] for row in predictions]
    for out in ("nowhere/predictions.csv", "predictions.xlsx", "run"):
        done = run_script("predict", "run", "--data", "new.csv", "--out", out, cwd=tmp_path)
        assert (done.returncode, done.stderr.startswith("error: --out: ")) == (2, True), done.stderr
    nothing = run_script("predict", "run", cwd=tmp_path)
    assert (nothing.returncode, nothing.stderr) == (3, "error: standard input: there are no texts. Fix: give one text a line\n")
    latin = run_script("predict", "run", cwd=tmp_path, stdin="caf\udce9\n")
    assert (latin.returncode, latin.stderr.startswith("error: standard input, row 1: byte 3 is not UTF-8")) == (3, True)


def test_two_processes_do_what_one_does_with_two_micro_batches_bit_for_bit(tmp_path: Path) -> None:
    common = ["--tiny", "--threads", "1", "--batch.micro_batches", "2"]
    alone = run_script("finetune", *common, "--out", "one", cwd=tmp_path)
    both = run_script("finetune", *common, "--out", "two", cwd=tmp_path, processes=2)
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    assert "2 processes" in both.stdout
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    assert all((one[name] == two[name]).all() for name in one)
    for name in ("metrics.jsonl", "predictions.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    other = run_script("finetune", *common[:-1], "1", "--out", "control", cwd=tmp_path)
    assert other.returncode == 0
    control = load_file(tmp_path / "control" / "model" / "model.safetensors")
    assert any((one[name] != control[name]).any() for name in one)  # dropout masks follow the micro-batches


def unfinished(tmp_path: Path, name: str, *arguments: str, launcher: list[str]) -> None:
    """Start a run and stop it by SIGTERM once it has trained a few steps."""
    command = [sys.executable, *launcher, str(ROOT / "scripts" / "finetune.py"), *arguments, "--out", name]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = tmp_path / name / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and len(log.read_bytes().splitlines()) >= 6):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert not (tmp_path / name / "result.json").exists()
    assert list((tmp_path / name / "checkpoints").glob("step-*"))


def test_a_run_goes_on_with_another_number_of_processes_bit_for_bit(tmp_path: Path) -> None:
    common = ["--tiny", "--threads", "1", "--batch.micro_batches", "2", "--epochs", "20", "--data.eval_sample", "9"]
    assert run_script("finetune", *common, "--out", "whole", cwd=tmp_path).returncode == 0
    unfinished(tmp_path, "two-one", *common, launcher=TWO_PROCESSES)
    unfinished(tmp_path, "one-two", *common, launcher=[])
    for name, processes in (("two-one", 1), ("one-two", 2)):
        done = run_script("finetune", *common, "--out", name, cwd=tmp_path, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("resumed from step ")
        for file in ("model/model.safetensors", "metrics.jsonl", "predictions.parquet"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_two_processes_by_accelerate_launch(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--main_process_port", "0"]  # any that is free: other tests run beside this one
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = run_script("finetune", "--tiny", "--out", "run", cwd=tmp_path, launcher=launcher, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert json.loads((tmp_path / "run/result.json").read_text())["metrics"]["test"]


@pytest.mark.parametrize(
    ("launcher", "env"),
    [
        (["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"], {}),
        ([], {"ACCELERATE_USE_FSDP": "true"}),
    ],
)
def test_processes_that_do_not_see_each_other_are_an_error(tmp_path: Path, launcher: list[str], env: dict[str, str]) -> None:
    done = run_script("finetune", "--tiny", cwd=tmp_path, launcher=launcher, **env)
    assert done.returncode == (1 if launcher else 6)  # accelerate's launcher turns every code into 1
    assert "error: " in done.stderr
    assert not (tmp_path / "runs").exists()


def test_accelerate_launch_without_a_config_uses_all_cores(tmp_path: Path) -> None:
    import psutil

    done = run_script("finetune", "--tiny", "--epochs", "1", cwd=tmp_path, launcher=["-m", "accelerate.commands.launch"])
    assert done.returncode == 0, done.stderr
    cores = psutil.cpu_count(logical=False)
    assert f"{cores} thread{'s' if cores > 1 else ''} each" in done.stdout


def test_another_packages_recipes_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "__init__.py").touch()
    done = run_script("finetune", "--tiny", cwd=tmp_path, launcher=[], PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 2
    assert str(tmp_path / "recipes") in done.stderr


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_every_script_opens_with_its_command(script: Path) -> None:
    assert f"scripts/{script.name}" in script.read_text().split('"""')[1]
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["usage:", script.name])
