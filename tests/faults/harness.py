"""What the injections share: a run of seconds, ways to end it, and the file operations of a save made visible."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from nlpbp.config.run import Batch, Checkpoints
from nlpbp.runs import fit
from nlpbp.runs.result import RunResult
from nlpbp.train import checkpoint, weights
from recipes import transformer_sentiment

HERE = Path(__file__).parent
ARTEFACTS = ("model/model.safetensors", "metrics.jsonl", "predictions.parquet")


class Killed(BaseException):
    """Ends a run as a kill does: nothing of the product catches it."""


def die() -> None:
    raise Killed


def config(out: Path | str, **changes: Any) -> transformer_sentiment.Config:
    """The seconds-long run: two epochs, two micro-batches a step, a checkpoint every three steps, one thread.

    Fields of sections are given as `data={"train": path}`.
    """
    made = transformer_sentiment.tiny()
    made = dataclasses.replace(made, epochs=2, batch=Batch(size=16, micro_batches=2), checkpoint=Checkpoints(save_steps=3))
    for name, value in changes.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(made, name), **value)
        made = dataclasses.replace(made, **{name: value})
    return dataclasses.replace(made, out=str(out), threads=1)


def train(out: Path | str, **changes: Any) -> RunResult:
    return transformer_sentiment.run(config(out, **changes))


def at_step(number: int, action: Callable[[], None]) -> Callable[..., None]:
    """Make a replacement of the log that does `action` when it has written the record of step `number`."""
    original = fit.log

    def log(accelerator: Any, path: Path, record: Mapping[str, Any]) -> None:
        original(accelerator, path, record)
        if record["step"] == number and "split" not in record:
            action()

    return log


def killed_run(patch: Any, out: Path, *, step: int, **changes: Any) -> None:
    """Train into `out` and end as a kill does, after `step`; `patch` is pytest's monkeypatch."""
    with patch.context() as inner, contextlib.suppress(Killed):
        inner.setattr(fit, "log", at_step(step, die))
        train(out, **changes)
        raise AssertionError(f"the run never came to step {step}")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def artefacts(out: Path) -> dict[str, str]:
    """The digests of what a run leaves: equal for equal bytes, and short in a report of a test that failed."""
    return {name: digest(out / name) for name in ARTEFACTS}


def steps_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "split" not in line]


def saved_steps(out: Path) -> list[int]:
    """The steps of the checkpoints under `out` that have the name of one."""
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-????????"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def save_small(root: Path, step: int, *, identity: Mapping[str, str] | None = None) -> Path:
    """Write a checkpoint of a few hundred bytes whose tensors hold the number of its step."""
    content = {"w": torch.full((8, 4), float(step)), "b": torch.full((4,), float(step))}
    moments = {f"{kind}/{name}": tensor * 0.5 for name, tensor in content.items() for kind in ("exp_avg", "exp_avg_sq")}
    return checkpoint.write_checkpoint(
        root,
        step=step,
        tensors={"model.safetensors": content, "optim.safetensors": moments},
        files={},
        state={"step": step},
        identity=dict(identity or {"data": "abc"}),
    )


def newest(root: Path, *, identity: Mapping[str, str] | None = None) -> checkpoint.Checkpoint | None:
    return checkpoint.newest_checkpoint(root, identity=dict({"data": "abc"} if identity is None else identity))


Event = Callable[[str, str], None]  # (operation, path), called before the operation


@contextlib.contextmanager
def file_operations(before: Event, *, after: Event | None = None) -> Iterator[None]:
    """Call `before` (and `after`) around every file operation of this process that a save makes, in their order.

    A file that safetensors writes is one operation, "save_file"; its own writing cannot be cut from here.
    """
    places: list[tuple[Any, str]] = [(os, name) for name in ("mkdir", "open", "fsync", "link", "rename", "replace", "unlink")]
    places += [(os, "rmdir"), (io, "open"), (weights, "save_file")]
    originals = [getattr(owner, name) for owner, name in places]

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            given = args[1] if name == "save_file" else args[0]
            path = os.readlink(f"/proc/self/fd/{given}") if isinstance(given, int) else str(given)
            if options.get("dir_fd") is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{options['dir_fd']}"), path)
            shown = name if name != "open" or original is not io_open else f"open {options.get('mode', (*args, 'r')[1])}"
            before(shown, path)
            result = original(*args, **options)
            if after is not None:
                after(shown, path)
            return result

        return call

    io_open = io.open
    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, wrapped(name, original))
    try:
        yield
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


@dataclasses.dataclass
class Child:
    """A forked process that ended: its exit code (negative: the signal), what it printed and the error it met."""

    pid: int
    code: int
    output: str
    error: dict[str, Any]


class Forks:
    """A process that has imported everything once and forks for each job: a fresh process in milliseconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, "-W", "error", str(HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, do: str, **args: Any) -> tuple[int, Path]:
        """Start a function of `children.py` and return its process id, and the file of its output."""
        self.count += 1
        log = self.folder / f"child-{self.count}.log"
        pid = self._ask({"do": do, "args": {key: str(v) if isinstance(v, Path) else v for key, v in args.items()}, "log": str(log)})
        return pid, log

    def wait(self, pid: int, log: Path, *, timeout: float = 60.0) -> Child:
        code = self._ask({"wait": pid, "timeout": timeout})
        error = Path(f"{log}.error")
        return Child(
            pid,
            code,
            log.read_text(encoding="utf-8", errors="replace"),
            json.loads(error.read_text(encoding="utf-8") or "{}") if error.exists() else {},
        )

    def run(self, do: str, *, timeout: float = 60.0, **args: Any) -> Child:
        return self.wait(*self.start(do, **args), timeout=timeout)

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(20)
        self.server.stdout.close()

    def _ask(self, question: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def wait_for(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)
