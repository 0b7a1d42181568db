"""The run that is tortured: a recipe's tiny form, what it leaves when nothing interrupts it, and how to compare with that."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torture_parts.forks import End, run_forked

from nlpbp.runs import fit, results
from nlpbp.runs import progress as saving
from nlpbp.runs.folder import Run

FILES = ("model/model.safetensors", "metrics.jsonl", "predictions.parquet")
"""What must be the same to the last bit; `result.json` too, but for the times in it, and the last checkpoint's `LAST`."""
LAST = ("model.safetensors", "optim.safetensors")
TIMES = ("train_seconds", "samples_per_second", "peak_rss_mib")


@dataclass(frozen=True)
class Claim:
    """What was promised, how often it held, and what shows that the check could have failed."""

    part: str
    text: str
    held: int
    of: int
    seeds: str
    control: str
    control_held: bool
    failures: tuple[str, ...] = ()
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it held every time, at least once, and its control shows that this means something."""
        return self.held == self.of > 0 and self.control_held


@dataclass(frozen=True)
class Torture:
    """What every part needs: the recipe, the folder to work in, how many processes to use, how much to do, which seed."""

    name: str
    recipe: ModuleType
    scratch: Path
    jobs: int
    short: bool
    seed: int
    num_kills: int

    def config(self, **changes: Any) -> Any:
        """Return the tiny config with one thread and frequent checkpoints; a dict changes fields of a section."""
        given = {"checkpoint": {"save_steps": 3}, "eval_steps": 5, "threads": 1, **changes}
        tiny = self.recipe.tiny()
        sections = {
            name: dataclasses.replace(getattr(tiny, name), **value) if isinstance(value, Mapping) else value
            for name, value in given.items()
        }
        return dataclasses.replace(tiny, **sections)

    def start(self, config: Any, out: Path, *, before: Callable[[], None] | None = None, **how: Any) -> End:
        """Start a run in `out`, or go on with the one in it, in a child; `before` is done in the child first."""

        def work() -> None:
            keep_last_state()
            if before is not None:
                before()
            self.recipe.run(dataclasses.replace(config, out=str(out)))

        return run_forked(work, output=out.with_name(f"{out.name}.log"), **how)

    def reference(self, config: Any, name: str) -> tuple[Path, End]:
        """Run `config` without interruption; return its folder."""
        out = self.scratch / name
        end = self.start(config, out)
        if end.code != 0:
            raise RuntimeError(f"the uninterrupted run of {self.name} failed:\n{end.output}")
        return out, end


def import_like(torture: Torture) -> None:
    """Run once in a child, and import here what that run imported, so that later children need not."""
    listing = torture.scratch / "modules.json"
    before = set(sys.modules)

    def run_and_tell() -> None:
        torture.recipe.run(dataclasses.replace(torture.config(), out=str(torture.scratch / "first")))
        listing.write_text(json.dumps(sorted(set(sys.modules) - before)), encoding="utf-8")

    end = run_forked(run_and_tell, output=torture.scratch / "first.log")
    if end.code != 0:
        raise RuntimeError(f"the tiny form of {torture.name} does not run:\n{end.output}")
    for module in json.loads(listing.read_text(encoding="utf-8")):
        with suppress(Exception):  # what was made at run time cannot be imported
            importlib.import_module(module)
    shutil.rmtree(torture.scratch / "first")
    gc.freeze()  # what is there stays: children need not look through it, nor copy the pages that this would mark


def differing_files(out: Path, reference: Path) -> list[str]:
    """Name the files of a finished run that are not what the reference left, bit for bit."""
    differing = [name for name in FILES if _bytes(out / name) != _bytes(reference / name)]
    differing += [] if _timeless(out) == _timeless(reference) else ["result.json"]
    here, there = _last_state(out), _last_state(reference)
    return differing + [f"{name} of the last checkpoint" for name in LAST if here.get(name) != there.get(name)]


def keep_last_state() -> None:
    """Note what the last checkpoint holds before it is removed: the exported weights may be those of an earlier, better step."""

    def note(run: Run[Any]) -> None:
        run.out.with_name(f"{run.out.name}.last").write_text(json.dumps(_last_state(run.out)), encoding="utf-8")
        clean_up(run)

    clean_up = replace_function(results, "clean_up", note)


def _last_state(out: Path) -> dict[str, str]:
    """Return the hashes of the last checkpoint, from the note or from the checkpoint itself."""
    note = out.with_name(f"{out.name}.last")
    if note.exists():
        noted: dict[str, str] = json.loads(note.read_text(encoding="utf-8"))
        return noted
    saved = sorted((out / "checkpoints").glob("step-????????"))
    contents = {name: _bytes(saved[-1] / name) for name in LAST} if saved else {}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items() if content is not None}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _timeless(out: Path) -> dict[str, Any] | None:
    content = _bytes(out / "result.json")
    if content is None:
        return None
    result = {name: value for name, value in json.loads(content).items() if name not in TIMES}
    stages = result.get("stages", [])
    return {**result, "stages": [{name: value for name, value in stage.items() if name != "seconds"} for stage in stages]}


def remove(out: Path) -> None:
    """Delete a run folder and the notes beside it."""
    shutil.rmtree(out, ignore_errors=True)
    for suffix in ("log", "last", "trace"):
        out.with_name(f"{out.name}.{suffix}").unlink(missing_ok=True)


def is_finished(out: Path) -> bool:
    """Whether a run has written its result, which is the last thing it writes."""
    return (out / "result.json").exists()


def resumed_from(end: End) -> int:
    """Return the step that a run said it went on from, 0 for none."""
    lines = [line for line in end.output.splitlines() if "resumed from step " in line]
    return int(lines[-1].split("resumed from step ")[1].split()[0]) if lines else 0


def kill_myself() -> None:
    """End this process as a power cut would: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def replace_function(module: Any, name: str, new: Any) -> Any:
    """Put another function in a module, in this process, and return the one that was there."""
    old = getattr(module, name)
    setattr(module, name, new)
    return old


def kill_at_log(number: int, *, after: bool = True) -> None:
    """Kill this process at its `number`-th line of the log: beside (almost) every step, and each evaluation."""
    count = 0

    def counted(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == number and not after:
            kill_myself()
        log(*given)
        if count == number:
            kill_myself()

    log = replace_function(fit, "log", counted)


def kill_at_clean_up() -> None:
    """Kill this process when all is written and the checkpoints are about to be removed."""
    replace_function(results, "clean_up", lambda run: kill_myself())


def forget_optimizer() -> None:
    """Let a resume leave the optimizer as new."""
    replace_function(saving, "set_full_optimizer_state", lambda *given: None)


def forget_weights() -> None:
    """Let a resume leave the weights as they were at the start."""
    replace_function(saving, "set_full_state", lambda *given: None)


def forget_log() -> None:
    """Let a resume leave the log longer than the checkpoint."""
    replace_function(saving, "truncate_jsonl", lambda *given, **named: None)
