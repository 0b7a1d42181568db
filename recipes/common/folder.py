"""The run folder: made once, by the main process, for one run at a time."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from nlpbp.core.errors import ConfigError, NlpbpError
from nlpbp.train.setup import Precision, describe, start
from recipes.common import config as config_files

CACHE = Path(os.environ.get("NLPBP_CACHE", Path.home() / ".cache" / "nlpbp"))


@dataclass(frozen=True)
class Run:
    """A run under way: what it computes on, and the folder that everything it writes goes into."""

    recipe: str
    out: Path
    accelerator: Accelerator

    def say(self, text: str) -> None:
        """Print a line, once, without disturbing a progress bar."""
        if self.accelerator.is_main_process:
            try:
                tqdm.write(text, file=sys.stdout)
            except BrokenPipeError:  # whoever read the output has gone; the run goes on
                sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


@contextmanager
def open_run(
    recipe: str, config: Any, *, out: str | None, seed: int, precision: Precision, threads: int | None, track: str | None
) -> Iterator[Run]:
    """Start accelerate, make the run folder, hold its lock, and save the config into it.

    Raises `ConfigError` when the folder holds another run or another process works in it.
    """
    accelerator = start(seed=seed, precision=precision, threads=threads, track=track, out=out or "runs")
    answer: list[Any] = [_claim(recipe, out) if accelerator.is_main_process else None]
    broadcast_object_list(answer)
    if isinstance(answer[0], NlpbpError):
        raise answer[0]
    run = Run(recipe, Path(answer[0]), accelerator)
    if accelerator.is_main_process:
        lock = _lock(run.out)
        config_files.save(config, run.out / "config.yaml")
    if track is not None:
        accelerator.init_trackers("nlpbp", config={"recipe": recipe})
    run.say(f"{recipe} on {describe(accelerator)}; writing to {run.out}")
    try:
        yield run
    finally:
        if accelerator.is_main_process:
            _remove_if_nothing_happened(run.out)
            lock.close()
        if track is not None:
            accelerator.end_training()


def _remove_if_nothing_happened(folder: Path) -> None:
    """Take back the folder of a run that ended before its first step, so that the repaired command can use it."""
    if {file.name for file in folder.iterdir()} <= {"config.yaml", ".lock"}:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _claim(recipe: str, out: str | None) -> str | NlpbpError:
    """Return the folder to write to, made and empty of other runs; or the error, to be raised in every process."""
    try:
        folder = Path(out) if out else _next_folder(recipe)
        if folder.exists() and not folder.is_dir():
            return ConfigError(f"{folder} is a file", column="out", hint="name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "config.yaml").exists():
            return ConfigError(
                f"{folder} already holds another run", column="out", hint="name another folder with --out, or remove it"
            )
        _lock(folder).close()
    except NlpbpError as error:
        return error
    except OSError as error:
        return ConfigError(f"{out or 'runs'} cannot be written: {error}", column="out", hint="name a folder you may write to")
    return str(folder)


def _next_folder(recipe: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{recipe}-{number}").exists():
        number += 1
    return folder


def _lock(folder: Path) -> Any:
    """Take the folder's lock, which the system gives back however the process ends."""
    lock = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        raise ConfigError(
            f"another run (process {lock.read().strip()}) works in {folder}", column="out", hint="wait for it"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
