"""Training with what belongs beside it: the log, evaluation, the best weights, early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from nlpbp.analysis.metrics import higher_is_better
from nlpbp.train.checkpoint import load_weights, save_weights
from nlpbp.train.loop import Step
from nlpbp.train.tracking import log
from recipes.common.folder import Run

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Fitted:
    """How training went; the model holds the weights of `best_step`."""

    steps: int
    best_step: int
    train_seconds: float  # in optimizer steps alone
    num_items: int
    clipped_share: float
    skipped_steps: int


def fit(
    run: Run,
    steps: Iterator[Step],
    *,
    model: nn.Module,
    evaluate: Callable[[], Metrics],
    metric: str,
    total_steps: int,
    steps_per_epoch: int,
    eval_steps: int | None = None,
    patience: int | None = None,
) -> Fitted:
    """Run through `steps`, evaluate every epoch (or every `eval_steps`), and leave the best weights in `model`.

    `patience` stops after that many evaluations in a row without a better `metric`. Saving the best weights is not tied to
    anything else: they go to a file of their own, which is removed at the end.
    """
    best_file = run.out / "best.safetensors"
    best: tuple[float, int] | None = None
    seconds, items, clipped, skipped, worse, done = 0.0, 0, 0, 0, 0, 0
    every = eval_steps or steps_per_epoch
    bar = tqdm(total=total_steps, desc="training", unit="step", dynamic_ncols=True, disable=not run.accelerator.is_main_process)
    with bar:
        started = time.perf_counter()
        for step in steps:
            seconds += time.perf_counter() - started
            items, clipped, skipped, done = items + step.num_items, clipped + step.clipped, skipped + step.skipped, step.step
            log(run.accelerator, run.out / "metrics.jsonl", {**asdict(step), "epoch": round(step.step / steps_per_epoch, 4)})
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            if step.step % every == 0 or step.step == total_steps:
                metrics = evaluate()
                log(run.accelerator, run.out / "metrics.jsonl", {"step": step.step, "split": "validation", **metrics})
                shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
                run.say(f"step {step.step} of {total_steps}, epoch {step.step / steps_per_epoch:.2f}: validation {shown}")
                score = _score(metrics[metric], metric)
                if best is None or score > best[0]:
                    best, worse = (score, step.step), 0
                    save_weights(model, best_file, is_main_process=run.accelerator.is_main_process)
                else:
                    worse += 1
                if patience is not None and worse >= patience:
                    run.say(f"stopping: {metric} has not improved in {worse} evaluations")
                    break
            started = time.perf_counter()
    best_step = done if best is None else best[1]
    if best_step != done:
        run.accelerator.wait_for_everyone()
        load_weights(model, best_file)
    _remove(run, best_file)
    return Fitted(done, best_step, seconds, items, clipped / max(1, done), skipped)


def _score(value: float | None, metric: str) -> float:
    """Turn a metric into a number of which more is better; one that is undefined is worst."""
    if value is None:
        return float("-inf")
    return value if higher_is_better(metric) else -value


def _remove(run: Run, path: Path) -> None:
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        path.unlink(missing_ok=True)
