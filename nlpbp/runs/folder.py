"""The run folder: made once, by the main process, for one run at a time; an unfinished run in it goes on."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm  # in a notebook it draws itself as one

from nlpbp.config import files as config_files
from nlpbp.config.run import BasicSettings, Precision
from nlpbp.config.secrets import redact
from nlpbp.core.errors import ConfigError, DistributedError, NlpbpError, escape
from nlpbp.data.exports import printable
from nlpbp.train.setup import describe, precision_of, start

S = TypeVar("S", bound=BasicSettings, covariant=True)  # what a function needs of a run's settings, it says in its `Run[...]`

C = TypeVar("C", bound=BasicSettings)

CACHE = Path(os.environ.get("NLPBP_CACHE", Path.home() / ".cache" / "nlpbp"))
ENVIRONMENT = "environment.json"  # what exact repetition depends on beside the config: threads, precision, torch, processes


@dataclass
class Run(Generic[S]):
    """A run under way: its settings, what it computes on, and the folder that everything it writes goes into."""

    recipe: str
    settings: S
    out: Path
    accelerator: Accelerator
    held: list[str] | None = None  # lines of a run that goes on, until it is known from where
    first_num_processes: int = 1  # that the run was begun with: a step is cut into so many parts, unless it is told otherwise

    def say(self, text: str) -> None:
        """Print a line, once, without disturbing a progress bar."""
        if self.held is not None:
            self.held.append(text)
        elif self.accelerator.is_main_process:
            try:
                encoding = sys.stdout.encoding or "utf-8"  # a terminal without some letter gets its number
                tqdm.write(printable(redact(text)).encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
                sys.stdout.flush()
            except OSError:  # whoever read the output has gone; the run goes on
                sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def release(self, first: str | None) -> None:
        """Print `first`, then the lines that were held back; from now on print at once."""
        lines, self.held = [*([first] if first else []), *(self.held or [])], None
        for line in lines:
            self.say(line)


@contextmanager
def open_run(recipe: str, config: C) -> Iterator[Run[C]]:
    """Start accelerate, make the run folder or go on in it, hold its lock, and save the config into it.

    Raises `ConfigError` when the folder holds a finished run or one of other settings, or when another process works in it.
    """
    out = _wanted_folder(config)
    before = _read_environment(out / ENVIRONMENT) if out and config.resume != "never" else {}
    threads = config.threads or before.get("threads")
    precision = before.get("precision", "auto") if config.precision == "auto" else config.precision
    accelerator = start(seed=config.seed, precision=precision, threads=threads, track=config.track)
    answer: list[Any] = [_claim(recipe, out, config) if accelerator.is_main_process else None]
    broadcast_object_list(answer)
    if isinstance(answer[0], NlpbpError):
        raise answer[0]
    run = Run(
        recipe,
        config,
        Path(answer[0]),
        accelerator,
        held=[] if (Path(answer[0]) / "checkpoints").is_dir() else None,
        first_num_processes=before.get("processes", accelerator.num_processes),
    )
    # A config that stands there without what a run writes beside it is the user's own, and is not taken back.
    lock, is_ours = None, (run.out / ENVIRONMENT).exists() or not (run.out / "config.yaml").exists()
    if accelerator.is_main_process:
        lock = _lock(run.out)
        config_files.save(config, run.out / "config.yaml")
        _write_environment(run)
    if config.track is not None:
        accelerator.project_configuration.logging_dir = str(run.out)
        accelerator.init_trackers("nlpbp", config={"recipe": recipe})
    run.say(f"{recipe} on {describe(accelerator)}; writing to {run.out}")
    try:
        yield run
    except RuntimeError as error:
        if accelerator.num_processes > 1 and any(
            words in str(error) for words in ("Timed out", "timed out", "Connection closed", "Connection reset")
        ):
            raise DistributedError(
                f"another process has gone or hangs: {str(error).splitlines()[0]}", hint="see its own message"
            ) from error
        raise
    finally:
        if lock is not None:
            if is_ours:
                _remove_if_nothing_happened(run.out)
            lock.close()
        if config.track is not None:
            accelerator.end_training()


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _wanted_folder(config: BasicSettings) -> Path | None:
    if config.resume in ("auto", "never"):
        return Path(config.out) if config.out else None
    folder = Path(config.resume)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} holds no run to go on with", column="resume", hint="give a run folder, auto or never")
    if config.out and Path(config.out).resolve() != folder.resolve():
        raise ConfigError(f"--resume {folder} and --out {config.out} name two folders", column="resume", hint="leave --out away")
    return folder


def _write_environment(run: Run[Any]) -> None:
    data = {"threads": torch.get_num_threads(), "precision": precision_of(run.accelerator), "torch": torch.__version__}
    data["processes"] = run.first_num_processes
    before = _read_environment(run.out / ENVIRONMENT)
    changed = [name for name in data if name in before and before[name] != data[name]]
    if changed:
        run.say(f"warning: not the same {', '.join(changed)} as before: last bits may differ from an uninterrupted run's")
    temporary = run.out / f"{ENVIRONMENT}.tmp"
    temporary.write_text(json.dumps(data), encoding="utf-8")
    os.replace(temporary, run.out / ENVIRONMENT)


def _read_environment(path: Path) -> dict[str, Any]:
    """Return what the file says that can be true; a file that is missing or damaged says nothing."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: value for name, value in data.items() if _can_be_true(name, value)} if isinstance(data, dict) else {}


def _can_be_true(name: str, value: Any) -> bool:
    if name in ("threads", "processes"):
        return isinstance(value, int) and value > 0
    return isinstance(value, str) and (name != "precision" or value in get_args(Precision))


def _remove_if_nothing_happened(folder: Path) -> None:
    """Take back the folder of a run that ended before its first step, so that the repaired command can use it."""
    if folder.is_dir() and {file.name for file in folder.iterdir()} <= {
        "config.yaml",
        "config.yaml.tmp",
        ".lock",
        ENVIRONMENT,
        f"{ENVIRONMENT}.tmp",
        "audit.json",
        "probe.json",
    }:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _claim(recipe: str, out: Path | None, config: BasicSettings) -> str | NlpbpError:
    """Return the folder to write to, made and free of other runs; or the error, to be raised in every process."""
    try:
        folder = out or _next_folder(recipe)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file", column="out", hint="name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder).close()
        if (folder / "config.yaml").exists():
            _refuse_other_run(folder, config)
    except NlpbpError as error:
        return error
    except (OSError, ValueError) as error:
        return ConfigError(
            f"{escape(str(out or 'runs'), limit=None)} cannot be written: {escape(str(error))}",
            column="out",
            hint="name a folder you may write to",
        )
    return str(folder)


def _refuse_other_run(folder: Path, config: BasicSettings) -> None:
    """Let only an unfinished run of the same settings go on."""
    other = "name another folder with --out, or remove it"
    if (folder / "result.json").exists():
        raise ConfigError(f"{folder} already holds a finished run", column="out", hint=other)
    if config.resume == "never":
        raise ConfigError(f"{folder} holds an unfinished run, and --resume is never", column="out", hint=other)
    saved = config_files.load(type(config), folder / "config.yaml")
    changed = config_files.differences(config_files.asdict(saved), config_files.asdict(config))
    if changed:
        raise ConfigError(
            f"{folder} already holds an unfinished run of other settings: {'; '.join(changed)}", column="out", hint=other
        )


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
        holder = lock.read().strip()
        lock.close()
        raise ConfigError(f"another run (process {holder}) works in {folder}", column="out", hint="wait for it") from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
