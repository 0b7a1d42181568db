"""A finished run that an estimator answers with: its folder, for as long as anything refers to it, and the model once loaded."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from nlpbp.core.errors import ConfigError, escape
from nlpbp.evaluation.run_folder import Record, read_config, read_result
from nlpbp.inference.trained import Classifier, load_run

PREFIX = "nlpbp-"


class KeptRun:
    """A run folder, or a model folder, whose files never change.

    Copies share it. A temporary one is removed with the last object that refers to it; a pickle holds the files themselves, so
    that it can be sent to another process or machine.

    >>> import copy
    >>> run = KeptRun.temporary(); _ = (run.path / "a.txt").write_text("a")
    >>> copy.deepcopy(run) is run
    True
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._classifier: Classifier | None = None
        self._finalizer: Any = None

    @classmethod
    def temporary(cls) -> KeptRun:
        """Make an empty folder that lives as long as what refers to it."""
        top = tempfile.mkdtemp(prefix=PREFIX)
        run = cls(Path(top) / "run")
        run.path.mkdir()
        run._finalizer = weakref.finalize(run, _remove, top, os.getpid())
        return run

    @property
    def is_temporary(self) -> bool:
        """Tell whether the folder goes with this object."""
        return self._finalizer is not None

    @property
    def is_run(self) -> bool:
        """Tell a finished run from a model folder alone."""
        return (self.path / "config.yaml").is_file() and (self.path / "result.json").is_file()

    def result(self) -> Record:
        """Return what `result.json` says; nothing where only the model is there."""
        return read_result(self.path)

    @property
    def threads(self) -> int | None:
        """The CPU threads that the run was told to use."""
        threads = read_config(self.path).get("threads") if self.is_run else None
        return threads if isinstance(threads, int) and threads > 0 else None

    def classifier(self, accelerator: Accelerator) -> Classifier:
        """Return the model, loaded once."""
        if self._classifier is None:
            self._classifier = load_run(self.path, accelerator=accelerator)
        return self._classifier

    def remove(self) -> None:
        """Remove a temporary folder now; any other stays."""
        if self._finalizer is not None:
            self._finalizer()

    def copy_to(self, folder: Path) -> None:
        """Copy all files into a folder that is not there yet, or empty. Raises `ConfigError` where the run's own has gone."""
        self._refuse_gone()
        shutil.copytree(self.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))

    def __deepcopy__(self, memo: Any) -> KeptRun:
        return self

    def __copy__(self) -> KeptRun:
        return self

    def _refuse_gone(self) -> None:
        if not self.path.is_dir():
            raise ConfigError(f"the folder of the fit has gone: {escape(str(self.path), limit=None)}", hint="fit again")

    def __reduce__(self) -> tuple[Any, ...]:
        self._refuse_gone()
        files = sorted(file for file in self.path.rglob("*") if file.is_file() and file.name != ".lock")
        return _restored, ({file.relative_to(self.path).as_posix(): file.read_bytes() for file in files},)


def _restored(files: dict[str, bytes]) -> KeptRun:
    """Write the files of a pickled run into a temporary folder."""
    run = KeptRun.temporary()
    for name, content in files.items():
        file = run.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return run


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process has the object too, and not the folder
        shutil.rmtree(folder, ignore_errors=True)


def free_folder(wanted: str) -> Path:
    """Make and return the folder `wanted`, or where that is taken `wanted-2`, `wanted-3`, ...: each fit has its own."""
    number = 1
    while True:
        folder = Path(wanted if number == 1 else f"{wanted}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir() and not any(folder.iterdir()):
                return folder
            number += 1
        else:
            return folder
