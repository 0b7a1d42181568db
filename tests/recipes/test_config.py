from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest

from nlpbp.config.data import Data
from nlpbp.config.files import asdict, load, save
from nlpbp.config.limits import LIMITS, _numbers, check_limits
from nlpbp.core.errors import ConfigError
from recipes import RECIPES
from recipes.transformer_sentiment import Config


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(Config, path)


def test_a_path_is_saved_as_text_and_data_in_memory_as_a_note() -> None:
    record = {"text": "good", "label": 1}
    given = {"path": Path("a.csv"), "records": (record,) * 100, "names": ("a", "b")}
    saved = {name: asdict(Data(train=value))["train"] for name, value in given.items()}  # type: ignore[arg-type]
    assert saved == {"path": "a.csv", "records": "<tuple given in memory>", "names": ["a", "b"]}


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    assert read(tmp_path, "epochs: 7\noptim: {lr: 1e-5}\n") == dataclasses.replace(
        Config(), epochs=7, optim=dataclasses.replace(Config().optim, lr=1e-5)
    )


@pytest.mark.parametrize(
    ("text", "row", "column", "named"),
    [
        ("epoch: 3", None, "epoch", "epochs"),
        ("data: {trian: a.csv}", None, "data.trian", "train"),
        ("epochs: three", None, "epochs", "int"),
        ("epochs: true", None, "epochs", "int"),
        ("epochs: 1.5", None, "epochs", "int"),
        ("optim: {lr: 0.1x}", None, "optim.lr", "float"),
        ("optim: {betas: [0.9]}", None, "optim.betas", "tuple"),
        ("precision: bf17", None, "precision", "bf16"),
        ("seed: 1\nseed: 2", 2, None, "row 1"),
        ("optim: [", 1, None, "YAML"),
        ("- epochs", None, None, "mapping"),
        ("out: !!python/object/apply:os.system ['touch marker']", 1, None, "YAML"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_place(
    tmp_path: Path, text: str, row: int | None, column: str | None, named: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert (error.value.row, error.value.column) == (row, column)
    assert named in str(error.value)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("number", ["1e-5", "1E-5", "1.0e-5", "0.00001", "1.e-5"])
def test_numbers_are_numbers_however_they_are_written(tmp_path: Path, number: str) -> None:
    assert read(tmp_path, f"optim: {{lr: {number}}}").optim.lr == 1e-5


def test_data_in_memory_is_noted_in_the_file(tmp_path: Path) -> None:
    config = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, train=[{"text": "a", "label": 1}]))
    save(config, tmp_path / "config.yaml")
    assert load(Config, tmp_path / "config.yaml").data.train == "<list given in memory>"


CONFIGS = [importlib.import_module(module).Config() for module, _ in RECIPES.values()]


def changed(name: str, value: Any) -> Any:
    """Return the config of a recipe that has the setting, with `value` in its place."""
    section, _, field = name.rpartition(".")
    config = next(config for config in CONFIGS if has_setting(config, section, field))
    if not section:
        return dataclasses.replace(config, **{field: value})
    before = getattr(config, section)
    if isinstance(before, tuple):
        return dataclasses.replace(config, **{section: (*before[:-1], dataclasses.replace(before[-1], **{field: value}))})
    value = (value, 0.9) if isinstance(getattr(before, field), tuple) else value
    return dataclasses.replace(config, **{section: dataclasses.replace(before, **{field: value})})


def has_setting(config: Any, section: str, field: str) -> bool:
    found = getattr(config, section, None) if section else config
    found = found[0] if isinstance(found, tuple) else found
    return dataclasses.is_dataclass(found) and field in {f.name for f in dataclasses.fields(found)}


@pytest.mark.parametrize("name", list(LIMITS))
def test_every_number_has_a_range_that_is_checked(name: str) -> None:
    low, high, _ = LIMITS[name]
    for value in (low - 1 if low == int(low) else low / 2, high + 1 if high < 1e308 else float("nan")):
        with pytest.raises(ConfigError) as error:
            check_limits(changed(name, value))
        assert error.value.column == name


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_of_the_config_has_a_range(config: Any) -> None:
    check_limits(config)
    assert {name for name, _ in _numbers(config, prefix="")} <= set(LIMITS)
