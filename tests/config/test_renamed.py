"""Settings under their old names go on working, in flags and in files, and say so in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nlpbp.cli.parsing import parse_config
from nlpbp.config import files, renamed
from nlpbp.core.errors import ConfigError
from nlpbp.evaluation.run_folder import read_config
from recipes import transformer_sentiment
from recipes.transformer_sentiment import Config

TABLE = {
    "optim.rate": "optim.lr",
    "stages.max_words": "stages.max_length",
    "rounds": "epochs",
    "data.even": "data.balanced_sampling",
    "shuffling": "data",  # a whole section
    "gone": "gone_too",  # of other recipes
}
ORIGINAL = dict(renamed.RENAMED)
PARSED = "warning: --optim.rate is now --optim.lr; old names work until nlpbp 0.3\n"


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "RENAMED", TABLE)
    renamed._warn.cache_clear()


def parsed(*arguments: str) -> Config:
    return parse_config(transformer_sentiment, ["--tiny", *arguments], program="nlpbp finetune")


@pytest.mark.parametrize(
    ("arguments", "warning", "value"),
    [
        (["--optim.rate", "0.5"], PARSED, lambda config: config.optim.lr == 0.5),
        (["--optim.rate=0.5"], PARSED, lambda config: config.optim.lr == 0.5),
        (["--rounds", "7"], "--rounds is now --epochs;", lambda config: config.epochs == 7),
        (["--data.even"], "--data.even is now --data.balanced_sampling;", lambda config: config.data.balanced_sampling),
        (["--data.no-even"], "--data.even is now --data.balanced_sampling;", lambda config: not config.data.balanced_sampling),
        (
            ["--stages.0.max-words", "9"],
            "--stages.0.max_words is now --stages.0.max_length;",
            lambda c: c.stages[0].max_length == 9,
        ),
        (["--stages.0.max_words=9"], "--stages.0.max_words is now --stages.0.max_length;", lambda c: c.stages[0].max_length == 9),
        (["--shuffling.train", "a.csv"], "--shuffling.train is now --data.train;", lambda config: config.data.train == "a.csv"),
    ],
)
def test_an_old_flag_sets_the_new_one_and_warns_once(
    arguments: list[str], warning: str, value: Callable[[Config], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert value(parsed(*arguments))
    printed = capsys.readouterr().err
    assert warning in printed
    assert printed.count("\n") == printed.count("warning: ") == 1


def test_a_value_that_looks_like_an_old_name_stays(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("--out", "optim.rate").out == "optim.rate"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optim.rate", "0.5", "--optim.lr", "0.1"],
        ["--optim.lr=0.1", "--optim.rate=0.5"],
        ["--data.no_even", "--data.no-balanced-sampling"],
        ["--stages.0.max_length", "8", "--stages.0.max_words", "9"],
    ],
)
def test_both_names_are_an_error(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"is the old name of --.*, and both are given"):
        parsed(*arguments)


def test_a_name_that_a_recipe_still_has_is_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(renamed, "RENAMED", {"epochs": "patience"})
    assert parsed("--epochs", "7").epochs == 7
    assert capsys.readouterr().err == ""


def loaded(path: Path, text: str) -> Config:
    path.write_text(text, encoding="utf-8")
    return files.load(Config, path)


@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_an_old_file_is_read_with_one_line_that_names_each_old_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"rounds": 7, "optim": {"rate": 0.5, "head_lr": 0.1}, "stages": [{"max_words": 9}, {"epochs": 1, "max_words": 8}]}'
    config = loaded(tmp_path / name, text)
    assert (config.epochs, config.optim.lr, config.optim.head_lr) == (7, 0.5, 0.1)
    assert [stage.max_length for stage in config.stages] == [9, 8]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / name}: ")
    assert line.endswith("; old names work until nlpbp 0.3")
    for old, new in (("optim.rate", "optim.lr"), ("rounds", "epochs"), ("stages.max_words", "stages.max_length")):
        assert f"{old} is now {new}" in line
    files.load(Config, tmp_path / name)
    assert capsys.readouterr().err == ""  # a run that goes on reads it twice


def test_a_section_under_its_old_name_joins_the_new_one(tmp_path: Path) -> None:
    config = loaded(tmp_path / "config.yaml", "shuffling: {train: a.csv}\ndata: {max_length: 9, even: true}\n")
    assert (config.data.train, config.data.max_length, config.data.balanced_sampling) == ("a.csv", 9, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("optim: {rate: 0.5, lr: 0.5}", "optim.rate is the old name of optim.lr, and both are given"),
        ("rounds: 1\nepochs: 2", "rounds is the old name of epochs"),
        ("stages: [{max_words: 1}, {max_words: 2, max_length: 3}]", "stages.max_words is the old name"),
        ("data: {train: a.csv}\nshuffling: {train: b.csv}", "shuffling is the old name of data"),
        ("gone: 1", "unknown key gone"),
        ("optim: {rat: 0.5}", "unknown key optim.rat"),
        ("optim: 3", "optim must be"),
        ("stages: [3]", "stages must be"),
    ],
)
def test_a_file_with_both_names_or_neither_is_an_error(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        loaded(tmp_path / "config.yaml", text)


def test_a_finished_runs_settings_are_told_by_their_new_names(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("optim: {rate: 0.5}\n")
    assert read_config(tmp_path) == {"optim": {"lr": 0.5}}


def test_no_new_name_is_an_old_one_too() -> None:
    assert not set(ORIGINAL) & set(ORIGINAL.values())


def test_an_old_name_among_dotted_settings_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    assert files.replaced(Config(), {"optim.rate": 0.5, "seed": 3}).optim.lr == 0.5
    assert capfd.readouterr().err == "warning: optim.rate is now optim.lr; old names work until nlpbp 0.3\n"
    with pytest.raises(ConfigError, match="old name"):
        files.replaced(Config(), {"optim.rate": 0.5, "optim.lr": 0.4})


def test_a_folder_and_an_empty_file_are_told_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"did you mean .*config\.yaml"):
        files.load(Config, tmp_path)
    with pytest.raises(ConfigError, match="the file is empty"):
        files.load(Config, tmp_path / "config.yaml")
