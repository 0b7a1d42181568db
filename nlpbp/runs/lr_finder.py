"""The rate `auto`: a sweep at the beginning of a stage, drawn and written into the run folder, and the rate that is taken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm  # in a notebook it draws itself as one

from nlpbp.config import RunSettings
from nlpbp.core.errors import EXIT_PREEMPTED, ConfigError, NlpbpError
from nlpbp.core.schedules import Schedule
from nlpbp.runs.folder import Run
from nlpbp.runs.progress import Learner, Stage
from nlpbp.train.lr_finder import Finding, MakeSweep, chosen, find_rate, try_rates

SWEPT = 1e-4  # what groups' rates are multiples of before a sweep has found the highest one
SWEEP = 1 << 20  # where a sweep's orders of the data stand among those of training: beyond them
VERIFIED = (1 / 3, 1.0, 3.0)  # multiples of the suggestion that are tried


class RateFound(NlpbpError):
    """The sweep that was asked for is done, and nothing else was; `record` is what its file holds."""

    code = EXIT_PREEMPTED

    def __init__(self, record: dict[str, Any], files: list[Path]) -> None:
        super().__init__("the sweep that was asked for is done", hint="take --finder.stop_after_stage away to train")
        self.record, self.files = record, files


def found_lr(
    run: Run[RunSettings],
    make_steps: MakeSweep,
    learner: Learner,
    *,
    stage: Stage,
    schedule: Schedule,
    chance: float = math.inf,
) -> float:
    """Sweep over learning rates, write `lr_finder_N.json` and `.svg` for the stage, and return the one to take.

    Raises `ConfigError` when the curve has no valley and does not diverge either: the range is then not the right one; and
    `RateFound` in place of returning, when the sweep was all that was asked for.
    """
    settings, is_quiet = run.settings.finder, not run.accelerator.is_main_process
    tries = 60 * len(VERIFIED) if settings.verify else 0
    total = settings.num_steps * settings.num_sweeps + tries
    with tqdm(total=total, desc="sweep", unit="step", dynamic_ncols=True, disable=is_quiet) as bar:
        found = find_rate(
            make_steps,
            model=learner.model,
            optimizer=learner.optimizer,
            accelerator=run.accelerator,
            start=settings.start,
            end=settings.end,
            num_steps=settings.num_steps,
            num_orders=settings.num_sweeps,
            chance=chance,
            on_step=bar.update,
        )
        taken = chosen(found, settings.suggestion)
        rate = None if taken is None else found.suggestions[taken]
        tried: dict[float, float] = {}
        if settings.verify and rate is not None:
            tried = _tried(run, make_steps, learner, around=rate, schedule=schedule, on_step=bar.update)
            rate = min(tried, key=lambda candidate: tried[candidate])
    record = {"stage": stage.index + 1, "name": stage.name, "settings": asdict(settings), "chosen": rate, **asdict(found)}
    record["tried"] = [{"rate": candidate, "loss": loss if loss < float("inf") else None} for candidate, loss in tried.items()]
    files = _write(run, found, record)
    for line in _lines(found, taken, rate, tried):
        run.say(line)
    if settings.stop_after_stage == stage.index + 1:
        raise RateFound(record, files)
    if rate is None:
        raise ConfigError(
            f"the sweep found no learning rate: {found.refused}",
            column="optim.lr",
            hint=f"look at {files[-1]}, give a learning rate, or another --finder.start and --finder.end",
        )
    return rate


def _tried(
    run: Run[Any],
    make_steps: MakeSweep,
    learner: Learner,
    *,
    around: float,
    schedule: Schedule,
    on_step: Callable[[], Any],
) -> dict[float, float]:
    """Train shortly at a suggestion and around it; return the loss of each."""
    rates = [around * factor for factor in VERIFIED]
    losses = try_rates(
        make_steps,
        rates,
        model=learner.model,
        optimizer=learner.optimizer,
        accelerator=run.accelerator,
        schedule=schedule,
        on_step=on_step,
    )
    return dict(zip(rates, losses, strict=True))


def _write(run: Run[Any], found: Finding, record: dict[str, Any]) -> list[Path]:
    files = [run.out / f"lr_finder_{record['stage']}.{kind}" for kind in ("json", "svg")]
    if run.accelerator.is_main_process:
        from nlpbp.report.plots import rate_curve

        files[0].write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
        curves = [(curve.rates, curve.losses) for curve in found.curves]
        title = f"stage {record['stage']}: {record['name']}"
        files[1].write_text(rate_curve(found.rates, found.smoothed, curves, found.suggestions, title=title), encoding="utf-8")
    return files


def _lines(found: Finding, suggestion: str | None, rate: float | None, tried: dict[float, float]) -> list[str]:
    """Say each suggestion with its interval over the orders, and which rate is taken."""
    if rate is None:
        return [f"sweep: no suggestion, for {found.refused}"]
    parts = [
        f"{name} {value:.1e} [{found.intervals[name][0]:.1e}, {found.intervals[name][1]:.1e}]"
        for name, value in found.suggestions.items()
    ]
    lines = [f"sweep: {', '.join(parts)}" + (f"; no valley, for {found.refused}" if found.refused else "")]
    if tried:
        lines.append("tried: " + ", ".join(f"{candidate:.1e} gives loss {loss:.3f}" for candidate, loss in tried.items()))
    return [*lines, f"rate: {rate:.1e} ({'tried' if tried else suggestion})"]
