"""What the estimators share: a recipe's run as `fit`, its model's answers, and a folder to keep them in."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import warnings
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from nlpbp.checks.run import stored_advice
from nlpbp.config import files as config_files
from nlpbp.core.errors import ConfigError, DataError, NlpbpError, escape
from nlpbp.data.columns import Examples
from nlpbp.estimators.display import Report, fitted_html
from nlpbp.estimators.inputs import Columns, name_of, same_length
from nlpbp.estimators.kept import KeptRun, free_folder
from nlpbp.estimators.settings import Source, in_arguments, recipe_and_config
from nlpbp.estimators.surroundings import undisturbed
from nlpbp.estimators.targets import Target
from nlpbp.evaluation.run_folder import read_result
from nlpbp.inference import predict
from nlpbp.inference.trained import Classifier
from nlpbp.runs.advice import in_words
from nlpbp.runs.report import REPORT, write_report
from nlpbp.train.setup import start
from nlpbp.train.signals import EXIT_INTERRUPTED, Stopped
from recipes import RECIPES, default_settings

Array = np.ndarray[Any, Any]
RECORD = "estimator.json"  # beside the run's files: which estimator it was, and the classes in the caller's types
LABEL_NAMES = ("label", "target", "y", "labels of y")


class Estimator(BaseEstimator):
    """A recipe with scikit-learn's words. `run_` is what `fit` leaves: the run folder at `run_.path`."""

    _kind: ClassVar[str]  # of examples, as in `nlpbp.modalities.MODALITIES`
    _recipe: ClassVar[str]
    _source: ClassVar[Source]
    recipe: str | None
    config: Any
    verbose: bool
    run_: KeptRun

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None) -> Self:
        """Train on X [n] and y [n], and return the estimator.

        The weights of the evaluation that scores best on X_val, y_val are kept; left out, `data.validation_share` of X is cut off
        for that, as the recipe does. No part is kept for a test, unless config says so. Raises `NlpbpError` (a `ValueError`),
        naming the argument and the fix, for what cannot be trained on.
        """
        recipe, config = recipe_and_config(self.get_params(deep=False), default=self._recipe, source=self._source)
        columns = self._columns(X, "X", tuple(config.data.text))
        target = self._read_target(y, config.data.task, "y")
        same_length(columns, target.cells)
        label = next(name for name in (name_of(y), *LABEL_NAMES) if name and name not in columns)
        data = self._data(config.data, columns, label)
        if (X_val is None) != (y_val is None):
            missing = "y_val" if y_val is None else "X_val"
            raise DataError(f"{missing} is missing", hint="give both X_val and y_val, or neither")
        validation = None
        if X_val is not None:
            others = self._read_target(y_val, target.task, "y_val")
            validation = as_named(self._columns(X_val, "X_val", tuple(data.text)), tuple(columns), "X_val")
            same_length(validation, others.cells, names=("X_val", "y_val"))
            validation = {**validation, label: others.cells}
        parts = {"train": {**columns, label: target.cells}} | ({"validation": validation} if validation else {})
        data = dataclasses.replace(data, label=label, task=target.task, **parts)
        self.run_ = trained(recipe, dataclasses.replace(config, data=data), verbose=bool(self.verbose))
        self._know_classes(target.classes)
        self._write_record(self.run_.path)
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the run into a new folder, and return its path.

        `load` and `nlpbp predict FOLDER` read it; FOLDER/model is what `from_pretrained` and `pipeline` of transformers load.
        Raises `ConfigError` where there is something already.
        """
        check_is_fitted(self, "run_")
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"folder: {escape(str(path), limit=None)} already holds something", hint="name a new folder")
        self._make_report()
        temporary = path.with_name(f"{path.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        self.run_.copy_to(temporary)
        self._write_record(temporary)
        if path.exists():
            path.rmdir()
        temporary.rename(path)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the fitted estimator that `save` wrote, or that a finished run folder or a model folder makes.

        Its settings are those of the run. The model is read now; `save` and pickles read the folder again. Raises `ConfigError`
        for a folder without a model, and for a model of another kind.
        """
        kept = KeptRun(Path(folder))
        with undisturbed(verbose=False):
            classifier = kept.classifier(start(seed=0, precision="fp32"))
        cls._refuse(classifier, escape(str(folder), limit=None))
        estimator = cls(**_settings_of(kept))
        estimator.run_ = kept
        estimator._know_classes(_recorded_classes(kept.path))
        return estimator

    @property
    def advice_(self) -> list[str]:
        """What the run suggests to do next, the first thing first; nothing where it found nothing to repair."""
        check_is_fitted(self, "run_")
        return [in_words(one) for one in stored_advice(self.run_.result())]

    def report(self) -> Report:
        """Return the run's report: `.path` and `.html`; in a notebook it shows itself. It is made when it is first asked for.

        Raises `ConfigError` where the estimator comes from a model folder, which has no run to tell of.
        """
        check_is_fitted(self, "run_")
        if not self.run_.is_run:
            raise ConfigError("a model folder has no report", hint="load the run folder")
        self._make_report()
        return Report(self.run_.path / REPORT, self.run_)

    def _make_report(self) -> None:
        if self.run_.is_run and not (self.run_.path / REPORT).is_file():
            with undisturbed():
                defaults = default_settings(read_result(self.run_.path).get("recipe"))
                write_report(self.run_.path, defaults=defaults)

    def _html_repr(self) -> str:
        """Show the verdict and the scores once there are some; scikit-learn's diagram before."""
        run = getattr(self, "run_", None)
        if run is None or not run.is_run:
            return str(super()._html_repr())
        try:
            self._make_report()
            return fitted_html(repr(self), run.path)
        except NlpbpError:  # the folder has gone, or is damaged: showing an estimator raises nothing
            return str(super()._html_repr())

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.two_d_array = False
        return tags

    def _outputs(self, X: Any) -> tuple[Classifier, Examples, Array]:
        """Return the model, what it read, and its answers: probabilities [n, labels] in its own order, or values [n]."""
        check_is_fitted(self, "run_")
        with undisturbed(verbose=bool(self.verbose)):
            threads = self.run_.threads or worker_threads()
            accelerator = start(seed=0, precision="fp32", threads=threads)
            classifier = self.run_.classifier(accelerator)
            examples = self._examples(classifier, X)
            try:
                return classifier, examples, predict.predict_outputs(classifier, examples, accelerator=accelerator)
            finally:
                classifier.reader.contents.clear()

    def _labels(self) -> tuple[str, ...]:
        """Return the names of the model's classes, in its own order."""
        with undisturbed(verbose=bool(self.verbose)):
            return self.run_.classifier(start(seed=0, precision="fp32")).fields.labels

    def _write_record(self, folder: Path) -> None:
        classes = getattr(self, "classes_", None)
        record = {"estimator": type(self).__name__, "classes": None if classes is None else classes.tolist()}
        (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")

    # What the kinds of estimators differ in.

    def _columns(self, X: Any, argument: str, names: tuple[str, ...]) -> Columns:
        raise NotImplementedError

    def _data(self, data: Any, columns: Columns, label: str) -> Any:
        raise NotImplementedError

    def _read_target(self, y: Any, task: str, argument: str) -> Target:
        raise NotImplementedError

    def _examples(self, classifier: Classifier, X: Any) -> Examples:
        raise NotImplementedError

    def _know_classes(self, classes: Array | None) -> None:
        """Keep the classes in the caller's types; None where they are not known."""

    @classmethod
    def _refuse(cls, classifier: Classifier, folder: str) -> None:
        """Raise `ConfigError` for a model of another kind."""
        raise NotImplementedError


def trained(recipe: str, config: Any, *, verbose: bool) -> KeptRun:
    """Run a recipe into a folder of its own, a temporary one unless the config names one, and return what it left.

    Raises what the recipe raises; a run that was interrupted raises `KeyboardInterrupt`, and one that was asked to end
    `SystemExit`, so that a grid search ends too.
    """
    resume = getattr(config, "resume", "never")
    if resume not in ("auto", "never"):  # a run that is to go on
        kept = KeptRun(Path(resume))
    else:
        kept = KeptRun(free_folder(config.out)) if config.out else KeptRun.temporary()
        config = dataclasses.replace(config, out=str(kept.path))
    config = dataclasses.replace(config, threads=config.threads or worker_threads())
    module = importlib.import_module(RECIPES[recipe][0])
    try:
        with undisturbed(verbose=verbose, report=not kept.is_temporary):
            module.run(config)
    except Stopped as error:
        kept.remove()
        if error.code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt from error
        if error.code:
            raise SystemExit(error.code) from error
        raise
    except ConfigError as error:
        kept.remove()
        raise in_arguments(error) from error
    except DataError as error:
        kept.remove()
        if error.file != "dict":  # what the reader calls data in memory
            raise
        where = "X and y" if config.data.validation is None else "X and y, or X_val and y_val"
        raise DataError(
            error.message, file=where, row=error.row, column=error.column, excerpt=error.excerpt, hint=error.hint
        ) from error
    except BaseException:
        kept.remove()
        raise
    return kept


def worker_threads() -> int | None:
    """Return how many threads this process should use if it is one of several that joblib has started, else None.

    >>> worker_threads()
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if parent_process() is not None and limit.isdecimal() and int(limit) > 0 else None


def as_named(columns: Columns, names: tuple[str, ...], argument: str) -> Columns:
    """Return columns under the names of training: by name where they have them, else by position.

    Raises `DataError` where there are more or fewer.

    >>> as_named({"b": ["y"], "a": ["x"]}, ("a", "b"), "X"), as_named({"text": ["x"]}, ("review",), "X")
    ({'a': ['x'], 'b': ['y']}, {'review': ['x']})
    """
    if set(names) <= set(columns):
        return {name: columns[name] for name in names}
    if len(names) != len(columns):
        raise DataError(
            f"{argument}: {len(columns)} column{'s' if len(columns) != 1 else ''}, and the model was trained on {len(names)}",
            excerpt=", ".join(columns),
            hint=f"give {', '.join(names)}",
        )
    return dict(zip(names, columns.values(), strict=True))


def _settings_of(kept: KeptRun) -> dict[str, Any]:
    """Return the arguments that train as the run was trained; data given in memory are not in its config."""
    recipe = kept.result().get("recipe") if kept.is_run else None
    if recipe not in RECIPES:
        return {}
    config_class = importlib.import_module(RECIPES[recipe][0]).Config
    try:
        config: Any = config_files.load(config_class, kept.path / "config.yaml")
    except ConfigError as error:
        warnings.warn(f"the run's settings are not known: {error}", stacklevel=3)
        return {}
    data = dataclasses.replace(config.data, train=type(config.data)().train, validation=None, test=None)
    changes = {"data": data, "out": None, "resume": type(config)().resume, "push_to_hub": None}
    return {"config": dataclasses.replace(config, **{name: value for name, value in changes.items() if hasattr(config, name)})}


def _recorded_classes(folder: Path) -> Array | None:
    """Return the classes that `save` has written, None where there are none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read: {escape(str(error))}", file=str(folder / RECORD), hint="remove it") from error
    classes = record.get("classes") if isinstance(record, dict) else None
    if not isinstance(classes, list) or not all(isinstance(one, str | int | float) for one in classes):
        return None
    return np.array(classes)
