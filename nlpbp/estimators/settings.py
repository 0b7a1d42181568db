"""From an estimator's arguments to the `Config` of a recipe."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from nlpbp.config import files as config_files
from nlpbp.config.data import Data, Images
from nlpbp.config.limits import check_limits
from nlpbp.core.errors import ConfigError, escape
from nlpbp.data.decoding import nearest
from recipes import RECIPES

SETTINGS = {
    "model": "model.name",
    "epochs": "epochs",
    "lr": "optim.lr",
    "batch_size": "batch.size",
    "max_length": "data.max_length",
    "image_size": "data.size",
    "random_state": "seed",
}
"""Each argument of an estimator that stands for one setting of a recipe, and that setting."""
NO_TEST = {"data.test_share": 0.0}  # what is to be measured beyond validation, cross-validation measures

Source = type[Data] | type[Images]


def recipe_and_config(arguments: Mapping[str, Any], *, default: str, source: Source) -> tuple[str, Any]:
    """Return the name of the recipe and its config that an estimator's `arguments` ask for; `default` is a recipe's name.

    `source` is the section that the recipe's data have. Raises `ConfigError`, naming the argument, for what cannot be.

    >>> name, config = recipe_and_config({"config": {"threads": 1}, "lr": 0.1}, default="gru_classifier", source=Data)
    >>> name, config.threads, config.optim.lr, config.data.test_share
    ('gru_classifier', 1, 0.1, 0.0)
    """
    given = arguments.get("config")
    name = _recipe_name(arguments.get("recipe"), given, default=default, source=source)
    config: Any = given
    if not _is_config(given):
        config = _with_settings(_module(name).Config(), NO_TEST | {**_without_data(_mapping(given))}, recipe=name)
    chosen = {argument: value for argument in SETTINGS if (value := _plain(argument, arguments.get(argument))) is not None}
    for argument, value in chosen.items():
        config = _with_argument(config, argument, value, recipe=name)
    try:
        check_limits(config)
    except ConfigError as error:
        raise in_arguments(error) from error
    return name, config


def in_arguments(error: ConfigError) -> ConfigError:
    """Return the error of a recipe's setting, which has the name of a flag, under the name of an estimator's argument.

    >>> print(in_arguments(ConfigError("0 is out of range", column="optim.lr")))
    lr: 0 is out of range
    >>> print(in_arguments(ConfigError("0 is out of range", column="threads")))
    config={'threads': ...}: 0 is out of range
    """
    if error.column is None:
        return error
    argument = next((one for one, setting in SETTINGS.items() if setting == error.column), None)
    name = argument or f"config={{'{escape(error.column)}': ...}}"
    return ConfigError(f"{name}: {error.message}", file=error.file, row=error.row, excerpt=error.excerpt, hint=error.hint)


def _recipe_name(recipe: Any, config: Any, *, default: str, source: Source) -> str:
    names = [one for one in RECIPES if _reads(one, source)]
    if recipe is not None and recipe not in RECIPES:
        excerpt = escape(str(recipe))
        raise ConfigError(f"recipe: there is no recipe '{excerpt}'", hint=nearest(str(recipe), names, kind="recipe"))
    of_config = next((one for one in RECIPES if _is_config(config) and isinstance(config, _module(one).Config)), None)
    if _is_config(config) and of_config is None:
        raise ConfigError(f"config: {type(config).__name__} is no recipe's Config", hint="give recipes.NAME.Config(...), or a dict")
    if recipe is not None and of_config is not None and recipe != of_config:
        raise ConfigError(f"recipe: {recipe}, and config is one of {of_config}", hint="leave recipe out")
    name = str(recipe or of_config or default)
    if name not in names:
        kind = "labelled images" if source is Images else "labelled texts"
        raise ConfigError(f"recipe: {name} is not trained on {kind}", hint=nearest(name, names, kind="recipe"))
    return name


def _module(name: str) -> Any:
    return importlib.import_module(RECIPES[name][0])


def _reads(name: str, source: Source) -> bool:
    return isinstance(_module(name).Config().data, source)


def _is_config(config: Any) -> bool:
    return dataclasses.is_dataclass(config) and not isinstance(config, type)


def _mapping(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        hint = "give a dict such as {'data.max_length': 64}, or a recipe's Config"
        raise ConfigError(f"config: a {type(config).__name__} is no config", hint=hint)
    return dict(config)


def _without_data(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("data.train", "data.validation", "data.label"):
        if name in settings:
            raise ConfigError(f"config: {name} is what fit gets as X, y, X_val and y_val", hint=f"leave {name} out")
    return settings


def _with_settings(config: Any, settings: Mapping[str, Any], *, recipe: str) -> Any:
    try:
        plain = {str(name): _number(value) for name, value in settings.items()}
        return config_files.replaced(config, plain)
    except ConfigError as error:
        message = f"config: {error.message}" + (f", found {error.excerpt!r}" if error.excerpt is not None else "")
        raise ConfigError(f"{message} (recipe {recipe})", hint=error.hint) from error


def _with_argument(config: Any, argument: str, value: Any, *, recipe: str) -> Any:
    """Set what one argument of the estimator stands for, or say that this recipe has no such setting."""
    setting, section = SETTINGS[argument], config
    for name in setting.split("."):
        if not hasattr(section, name):
            hint = f"leave {argument} out; what {recipe} has, config={{'NAME': value}} sets"
            if argument == "epochs" and hasattr(config, "stages"):
                hint = "it trains in stages: config={'stages': [{'epochs': 2, 'lr': 1e-3}]}, and leave epochs out"
            raise ConfigError(f"{argument}: the recipe {recipe} has no setting {setting}", hint=hint)
        section = getattr(section, name)
    try:
        return config_files.replaced(config, {setting: value})
    except ConfigError as error:
        raise ConfigError(f"{argument}: {error.message}", excerpt=repr(value), hint=error.hint) from error


def _plain(argument: str, value: Any) -> Any:
    if argument == "random_state" and isinstance(value, np.random.RandomState):
        return int(check_random_state(value).randint(2**31 - 1))
    return _number(value)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value  # a grid's values may be NumPy's
