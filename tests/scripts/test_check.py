"""`scripts/check.py` on saved models and on runs: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification, ResNetConfig

import check
from nlpbp.core.errors import ConfigError
from nlpbp.text.awd_lstm import AWDLSTMConfig, AWDLSTMForCausalLM, AWDLSTMForSequenceClassification
from nlpbp.text.tiny import tiny_bert, tiny_gpt
from run_script import run_script


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        check.check(arguments)
    return int(ended.value.code or 0), capsys.readouterr().out


def test_saved_models_of_every_kind_are_loaded_and_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bert(tmp_path / "bert")
    tiny_gpt(tmp_path / "gpt")
    config = AWDLSTMConfig(vocab_size=20, embedding_size=4, hidden_size=6, num_hidden_layers=2)
    AWDLSTMForCausalLM(config).save_pretrained(tmp_path / "lm")
    images = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    AutoModelForImageClassification.from_config(images).save_pretrained(tmp_path / "resnet")
    for name in ("bert", "gpt", "lm", "resnet"):
        assert run(capsys, str(tmp_path / name)) == (0, "warnings: 0, notes: 0\n")


def test_a_note_is_printed_and_written_and_the_exit_code_stays_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config = AWDLSTMConfig(vocab_size=20, embedding_size=16, num_hidden_layers=1, cell="rnn", nonlinearity="relu", recurrent_init="default")
    AWDLSTMForSequenceClassification(config).save_pretrained(tmp_path / "model")
    code, out = run(capsys, str(tmp_path / "model"), "--json", str(tmp_path / "found.json"))
    assert code == 0
    assert out.startswith("note L5, model.layers.0: ")
    assert out.endswith("\nwarnings: 0, notes: 1\n")
    (written,) = json.loads((tmp_path / "found.json").read_text())
    assert {key: written[key] for key in ("practice", "level", "module")} == {"practice": "L5", "level": "note", "module": "model.layers.0"}
    assert "init_recurrent_" in written["fix"]


def test_a_run_is_checked_as_it_ends_and_a_fault_in_its_settings_makes_the_exit_code_1(tmp_path: Path) -> None:
    assert run_script("finetune", "--tiny", "--epochs", "6", "--out", "run", "--threads", "1", cwd=tmp_path).returncode == 0
    done = run_script("check", "run", cwd=tmp_path)
    assert "D2" not in done.stdout
    assert done.stderr == ""
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    config["data"] |= {"train": "\x1b[2Ja.csv", "test": "\x1b[2Ja.csv"}
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    done = run_script("check", "run", "--json", "found.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "warning D2, config.yaml: data.test: train and test are the same data (\\x1b[2Ja.csv)" in done.stdout
    assert "\x1b" not in done.stdout + (tmp_path / "found.json").read_text()


def test_a_run_that_is_under_way_has_no_model_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("optim: {schedule: constant}\n")
    code, out = run(capsys, str(tmp_path))
    assert (code, out.splitlines()[-1]) == (0, "warnings: 0, notes: 1")


def test_what_is_neither_and_what_is_damaged_is_an_error_with_its_exit_code(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "bert")
    (tmp_path / "bert/model.safetensors").write_bytes(b"\x00" * 20)
    for folder, named in (("missing", "missing holds neither"), ("bert", "bert cannot be loaded")):
        done = run_script("check", folder, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {named}"), done.stderr
    done = run_script("check", ".", "--json", "nowhere/found.json", cwd=tmp_path)
    assert done.returncode == 2


def test_findings_that_cannot_be_written_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ConfigError, match="--json"):
        check.check([str(tmp_path), "--json", str(tmp_path / "nowhere" / "found.json")])
    assert "warnings: 0" in capsys.readouterr().out
