"""The run folder: what a failed start takes back, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nlpbp.config import files as config_files
from nlpbp.core.errors import DataError
from recipes import transformer_sentiment


def fail(out: Path) -> None:
    config = transformer_sentiment.tiny()
    data = dataclasses.replace(config.data, train="missing.csv")
    with pytest.raises(DataError):
        transformer_sentiment.run(dataclasses.replace(config, data=data, out=str(out), threads=1))


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(tmp_path: Path) -> None:
    fail(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_config_that_the_user_wrote_into_the_folder_stays(tmp_path: Path) -> None:
    config = transformer_sentiment.tiny()
    config_files.save(
        dataclasses.replace(config, data=dataclasses.replace(config.data, train="missing.csv")), tmp_path / "config.yaml"
    )
    fail(tmp_path)
    assert config_files.load(transformer_sentiment.Config, tmp_path / "config.yaml").data.train == "missing.csv"
