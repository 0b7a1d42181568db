"""Resuming from every step: of each schedule and each number of micro-batches, with dropout, within epochs and between them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torture_parts import victims
from torture_parts.forks import in_parallel
from torture_parts.victims import Claim, Torture

from nlpbp.train import loop

SCHEDULES = ("cosine", "linear")
MICRO_BATCHES = (1, 2, 4)
EVERY_STEP = {"save_steps": 1, "save_total_limit": 10_000}


def prove(torture: Torture) -> list[Claim]:
    """Run each cell of the matrix once, then once more from each of its checkpoints."""
    matrix = [(schedule, num) for schedule in SCHEDULES for num in MICRO_BATCHES]
    cells = [matrix[0], matrix[-1]] if torture.short else matrix
    run_cell = partial(_run_cell, torture)
    per_epoch = in_parallel(run_cell, cells, jobs=torture.jobs, scratch=torture.scratch, title="runs of the matrix")
    tasks = [(cell, step) for cell, num in zip(cells, per_epoch, strict=True) for step in _steps(torture, cell, num)]
    found = in_parallel(partial(_resume, torture), tasks, jobs=torture.jobs, scratch=torture.scratch, title="resumes")
    lapses: dict[str, Callable[[], None]] = {"optimizer not restored": victims.forget_optimizer, "dropout seeds": other_dropout}
    lapsed = in_parallel(
        partial(_resume_with_lapses, torture, lapses), cells, jobs=torture.jobs, scratch=torture.scratch, title="controls"
    )
    control = {name: sum(bool(differing[name]) for differing in lapsed) for name in lapses}
    boundaries = dict(zip(cells, per_epoch, strict=True))
    claims = []
    for text, at_boundary in (("within an epoch", False), ("between two epochs", True)):
        part = [
            (task, error) for task, error in zip(tasks, found, strict=True) if (task[1] % boundaries[task[0]] == 0) == at_boundary
        ]
        claims.append(
            Claim(
                part="resumes",
                text=f"resuming {text} ends bit-identical ({len(cells)} of schedule x micro-batches, dropout on)",
                held=sum(not error for _, error in part),
                of=len(part),
                seeds=f"run seed {torture.config().seed}; " + ("chosen steps" if torture.short else "every step"),
                control="; ".join(f"{name}: {num} of {len(cells)} runs differ" for name, num in control.items()),
                control_held=all(num == len(cells) for num in control.values()),
                failures=tuple(f"{cell} from step {step}: {error}" for (cell, step), error in part if error),
            )
        )
    return claims


def other_dropout() -> None:
    """Let a resume draw its dropout from other seeds."""

    def shifted(seed: int, *rest: int) -> int:
        return int(micro_seed(seed + 1, *rest))

    micro_seed = victims.replace_function(loop, "micro_seed", shifted)


def _config(torture: Torture, cell: tuple[str, int]) -> Any:
    schedule, num = cell
    return torture.config(optim={"schedule": schedule}, batch={"micro_batches": num}, checkpoint=EVERY_STEP)


def _folder(torture: Torture, cell: tuple[str, int]) -> Path:
    return torture.scratch / f"resumes-{cell[0]}-{cell[1]}"


def _run_cell(torture: Torture, cell: tuple[str, int]) -> int:
    """Run to the end but for the clean-up, so that a checkpoint of every step is left; return the steps of an epoch."""
    config = _config(torture, cell)
    end = torture.start(config, _folder(torture, cell), before=victims.kill_at_clean_up)
    steps = len(list((_folder(torture, cell) / "checkpoints").iterdir()))
    if not end.killed or steps % config.epochs:
        raise RuntimeError(f"{cell}: {steps} checkpoints were left, and exit {end.code}: {end.output[-1000:]}")
    return int(steps // config.epochs)


def _steps(torture: Torture, cell: tuple[str, int], per_epoch: int) -> list[int]:
    """Choose the steps to resume from: all of them, or in the short form one within an epoch and one at its end."""
    every = range(1, per_epoch * _config(torture, cell).epochs)
    return [per_epoch // 2, per_epoch] if torture.short else list(every)


def _resume(torture: Torture, task: tuple[tuple[str, int], int], before: Callable[[], None] | None = None) -> str:
    """Go on from one step, as if the run had ended right after its checkpoint; say what is not the same, or nothing."""
    cell, step = task
    reference = _folder(torture, cell)
    out = reference.with_name(f"{reference.name}-from-{step}{before.__name__ if before else ''}")
    copy_run(reference, out, newest=step)
    end = torture.start(_config(torture, cell), out, before=before)
    if end.code != 0:
        return f"exit {end.code}: {end.last_line}"
    if victims.resumed_from(end) != step:
        return f"went on from step {victims.resumed_from(end)}"
    differing = victims.differing_files(out, reference)
    victims.remove(out)
    return f"{', '.join(differing)} differ" if differing else ""


def _resume_with_lapses(torture: Torture, lapses: dict[str, Callable[[], None]], cell: tuple[str, int]) -> dict[str, str]:
    return {name: _resume(torture, (cell, 7), before) for name, before in lapses.items()}


def copy_run(source: Path, target: Path, *, newest: int) -> None:
    """Copy a run folder as it was after step `newest`, with that checkpoint and the one before it."""
    target.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name not in ("result.json", "predictions.parquet", ".lock"):
            shutil.copyfile(file, target / file.name)
    for step in range(max(1, newest - 1), newest + 1):
        name = f"step-{step:08d}"
        shutil.copytree(source / "checkpoints" / name, target / "checkpoints" / name)
