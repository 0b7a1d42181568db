"""`scripts/check.py` on saved models and on runs: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification, ResNetConfig

from nlpbp.cli import check, parsing
from nlpbp.text.awd_lstm import AWDLSTMConfig, AWDLSTMForCausalLM, AWDLSTMForSequenceClassification
from nlpbp.text.tiny import tiny_bert, tiny_gpt
from recipes import transformer_sentiment

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the script in this process; return its exit code and what it printed to the two outputs."""

    def run_script(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["check.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            parsing.run_command(check.check, "check.py")
        return int(ended.value.code or 0), *capsys.readouterr()

    return run_script


def test_saved_models_of_every_kind_are_loaded_and_sound(tmp_path: Path, run: Run) -> None:
    tiny_bert(tmp_path / "bert")
    tiny_gpt(tmp_path / "gpt")
    config = AWDLSTMConfig(vocab_size=20, embedding_size=4, hidden_size=6, num_hidden_layers=2)
    AWDLSTMForCausalLM(config).save_pretrained(tmp_path / "lm")
    images = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    AutoModelForImageClassification.from_config(images).save_pretrained(tmp_path / "resnet")
    for name in ("bert", "gpt", "lm", "resnet"):
        assert run(tmp_path / name) == (0, "warnings: 0, notes: 0\n", "")


def test_a_note_is_printed_and_written_and_the_exit_code_stays_0(tmp_path: Path, run: Run) -> None:
    torch.manual_seed(0)
    options = {"cell": "rnn", "nonlinearity": "relu", "recurrent_init": "default"}
    config = AWDLSTMConfig(vocab_size=20, embedding_size=16, num_hidden_layers=1, **options)
    AWDLSTMForSequenceClassification(config).save_pretrained(tmp_path / "model")
    code, out, _ = run(tmp_path / "model", "--json", tmp_path / "found.json")
    assert code == 0
    assert out.startswith("note L5, model.layers.0: ")
    assert out.endswith("\nwarnings: 0, notes: 1\n")
    (written,) = json.loads((tmp_path / "found.json").read_text())
    assert (written["practice"], written["level"], written["module"]) == ("L5", "note", "model.layers.0")
    assert "init_recurrent_" in written["fix"]


def test_a_run_is_checked_and_a_fault_in_its_settings_makes_the_exit_code_1(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "run"
    transformer_sentiment.run(dataclasses.replace(transformer_sentiment.tiny(), out=str(folder), epochs=6))
    code, out, err = run(folder)
    assert (code, err, "warning " in out) == (0, "", False), out
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= {"train": "\x1b[2Ja.csv", "test": "\x1b[2Ja.csv"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    code, out, err = run(folder, "--json", tmp_path / "found.json")
    assert (code, err) == (1, "")
    assert "warning D2, config.yaml: data.test: train and test are the same data (\\x1b[2Ja.csv)" in out
    assert "\x1b" not in out + (tmp_path / "found.json").read_text()


def test_a_run_that_is_under_way_has_no_model_yet(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.yaml").write_text("optim: {schedule: constant}\n")
    code, out, _ = run(tmp_path)
    assert (code, out.splitlines()[-1]) == (0, "warnings: 0, notes: 1")


def test_what_is_neither_and_what_is_damaged_is_an_error_with_its_exit_code(tmp_path: Path, run: Run) -> None:
    tiny_bert(tmp_path / "bert")
    (tmp_path / "bert/model.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "config.yaml").write_text("a: [")
    for folder, words in (
        (tmp_path / "missing", "neither a run nor a model"),
        (tmp_path / "bert", "cannot be loaded"),
        (tmp_path, "yaml"),
    ):
        code, out, err = run(folder)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert words in err


@pytest.mark.parametrize("architectures", [5, [5], ["\x1b[2J"], [], None])
def test_a_config_that_names_no_architecture_gives_the_bare_body_or_an_error(
    tmp_path: Path, run: Run, architectures: object
) -> None:
    tiny_bert(tmp_path / "bert")
    file = tmp_path / "bert/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": architectures}))
    code, out, err = run(tmp_path / "bert")
    assert (code, out) == (0, "warnings: 0, notes: 0\n") or (code, err[:7]) == (2, "error: ")


def test_findings_that_cannot_be_written_are_an_error_after_they_were_printed(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    code, out, err = run(tmp_path, "--json", tmp_path / "nowhere" / "found.json")
    assert (code, out) == (2, "warnings: 0, notes: 0\n")
    assert "--json: " in err
