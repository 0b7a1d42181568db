"""What two processes do together in one launch: `torchrun ... ranks_worker.py FOLDER TASK TASK ...`.

Each task writes FOLDER/TASK.RANK.json: what it returns, or the error it met. A task that hangs ends the launch after a while.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nlpbp.core.batch import CountedLoss

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from harness import Killed, at_step, die, train
from torch import nn
from torch.nn import functional as F

from nlpbp.core.batch import Batch
from nlpbp.core.errors import DataError
from nlpbp.core.schedules import constant
from nlpbp.data import columns
from nlpbp.data import parts as inputs
from nlpbp.runs import fit
from nlpbp.tasks import task_loss
from nlpbp.train.evaluate import predict
from nlpbp.train.loop import Accelerator, train_steps
from nlpbp.train.setup import start
from nlpbp.trainers import stages as training
from nlpbp.trainers import targets
from recipes import transformer_sentiment

RANK = int(os.environ.get("RANK", "0"))
SECONDS = 30  # a task may take: the launch shares two cores with others


def whole_run(folder: Path) -> Any:
    result = train(folder / "two")
    return {"metrics": result.metrics, "pid": os.getpid()}


def killed_and_again(folder: Path) -> Any:
    """End after step 8, go on at once in the same processes, and end again after step 11: the rest is for one process."""
    for step in (8, 11):
        restore = fit.log
        fit.log = at_step(step, die)
        try:
            train(folder / "saved-on-two")
        except Killed:
            pass
        finally:
            fit.log = restore
    return sorted(path.name for path in (folder / "saved-on-two" / "checkpoints").iterdir())


def resume_of_one(folder: Path) -> Any:
    train(folder / "saved-on-one")


def killed_on_three(folder: Path) -> Any:
    """Go on with what one process has saved, and end after step 11."""
    fit.log = at_step(11, die)
    with contextlib.suppress(Killed):
        train(folder / "shared", batch={"micro_batches": 6}, precision="fp32")


def killed_by_default(folder: Path) -> Any:
    """Begin without a number of micro-batches, and end before anything is saved."""
    restore = fit.log
    fit.log = at_step(2, die)
    try:
        train(folder / "default-on-two", batch={"micro_batches": None})
    except Killed:
        pass
    finally:
        fit.log = restore


def resume_of_one_by_default(folder: Path) -> Any:
    train(folder / "default-on-one", batch={"micro_batches": None})


def uneven(folder: Path) -> Any:
    """Note which examples each step of this process is made of."""
    seen: list[list[list[int]]] = []
    restore = training.train_steps

    def train_steps(model: Any, batches: Any, *args: Any, **options: Any) -> Any:
        def noted() -> Any:
            for window in batches:
                seen.append([batch.ids.tolist() for batch in window])
                yield window

        return restore(model, noted(), *args, **options)

    training.train_steps = train_steps
    try:
        train(folder / "uneven", data={"train": str(folder / "uneven.csv")}, batch={"size": 7})
    finally:
        training.train_steps = restore
    return seen


class Identity(nn.Module):
    """Answers each example with numbers that are made of its id."""

    def forward(self, x: torch.Tensor) -> Any:
        return type("Output", (), {"logits": torch.stack([x * 0.1, 1 - x * 0.1], dim=1)})


def seven(folder: Path) -> Any:
    plan = [np.array([i]) for i in (3, 0, 6, 1, 5, 2, 4)]
    made = predict(
        Identity(),
        plan,
        lambda ids: Batch({"x": torch.tensor(ids, dtype=torch.float64)}, None, torch.from_numpy(ids)),
        accelerator=start(seed=0, precision="fp32", threads=1),
    )
    return {"ids": made.ids.tolist(), "logits": made.logits.tolist()}


def tokens_batch(ids: list[int], *, masked: bool = False) -> Batch:
    """Examples of 1 to 5 tokens: the inputs and labels are functions of the id; `masked` hides every label."""
    rows = [(i, t) for i in ids for t in range(1 + i * 7 % 5)]
    inputs_ = torch.tensor([[np.sin(i + 3 * t), np.cos(2 * i - t), 1.0] for i, t in rows], dtype=torch.float64)
    labels = torch.tensor([-100 if masked else (i + t) % 2 for i, t in rows])
    return Batch({"input": inputs_}, labels, torch.tensor(ids))


def train_linear(accelerator: Accelerator, windows: list[list[Batch]]) -> Any:
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.3, 0.4, parameter.numel()).view_as(parameter))
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    losses = [
        step.loss
        for step in train_steps(
            prepared,
            windows,
            optimizer,
            accelerator=accelerator,
            loss_fn=CountedLoss(
                lambda model, batch: F.cross_entropy(model(**batch.inputs), batch.labels), lambda batch: len(batch.labels)
            ),
            schedule=constant(),
            total_steps=len(windows),
            max_grad_norm=0.5,
        )
    ]
    return {"losses": losses, "weights": [p.detach().flatten().tolist() for p in model.parameters()]}


STEPS = [list(range(10 * s, 10 * s + size)) for s, size in enumerate((16, 13, 11))]


def ragged(folder: Path) -> Any:
    accelerator = start(seed=0, precision="fp32", threads=1)
    found = {}
    for parts in (1, 2, 3, 4):
        world = parts * accelerator.num_processes
        windows = [[tokens_batch(ids[k::world]) for k in range(RANK, world, accelerator.num_processes)] for ids in STEPS]
        found[parts] = train_linear(accelerator, windows)
    return found


def masked_on_one(folder: Path) -> Any:
    """All labels of process 1 are masked; the loss is the product's own, the count is of labels that are not."""
    accelerator = start(seed=0, precision="fp32", threads=1)
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, 0.1)
    nn.init.zeros_(model.bias)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    batch = tokens_batch([1, 2, 3], masked=RANK == 1)
    batch = Batch({"input": batch.inputs["input"].float()}, batch.labels, batch.ids)
    steps = train_steps(
        prepared,
        [[batch]],
        optimizer,
        accelerator=accelerator,
        loss_fn=CountedLoss(
            lambda model, batch: task_loss(model(**batch.inputs), batch.labels, task="single_label"),
            lambda batch: int((batch.labels != -100).sum()),
        ),
        schedule=constant(),
        total_steps=1,
    )
    return {"losses": [s.loss for s in steps], "weights": model.weight.detach().flatten().tolist()}


def not_finite(folder: Path, kind: str) -> Any:
    """Process 1 alone has a loss, or a gradient, that is not a number in step 5."""
    calls = {"loss": 0}
    restore_loss, restore_backward = targets.classifier_loss, Accelerator.backward

    def classifier_loss(**options: Any) -> Any:
        loss_fn = restore_loss(**options)

        def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
            calls["loss"] += 1
            return loss_fn(model, batch) * (float("nan") if RANK == 1 and kind == "loss" and calls["loss"] == 5 else 1.0)

        return loss

    def backward(self: Any, loss: torch.Tensor, **options: Any) -> None:
        restore_backward(self, loss * (float("nan") if RANK == 1 and kind == "gradient" and calls["loss"] == 5 else 1.0), **options)

    targets.classifier_loss, Accelerator.backward = classifier_loss, backward
    try:
        train(folder / f"not-finite-{kind}")
    finally:
        targets.classifier_loss, Accelerator.backward = restore_loss, restore_backward


def nan_loss(folder: Path) -> Any:
    not_finite(folder, "loss")


def nan_gradient(folder: Path) -> Any:
    not_finite(folder, "gradient")


def other_weights(folder: Path) -> Any:
    """Process 1 begins with other weights."""
    restore = transformer_sentiment.load_classifier

    def load_classifier(*args: Any, **options: Any) -> Any:
        model = restore(*args, **options)
        if RANK == 1:
            for parameter in model.parameters():
                parameter.data.add_(1.0)
        return model

    transformer_sentiment.load_classifier = load_classifier
    try:
        train(folder / "other-weights")
    finally:
        transformer_sentiment.load_classifier = restore


def sigterm_to_one(folder: Path) -> Any:
    restore = fit.log
    fit.log = at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM) if RANK == 1 else None)
    try:
        train(folder / "sigterm-to-one")
    finally:
        fit.log = restore


def sigterm_to_launcher(folder: Path) -> Any:
    restore = fit.log
    fit.log = at_step(5, lambda: os.kill(os.getppid(), signal.SIGTERM) if RANK == 0 else time.sleep(0.5))
    try:
        train(folder / "sigterm-to-launcher", checkpoint={"save_steps": None})
    finally:
        fit.log = restore


def other_labels(folder: Path) -> Any:
    """Process 1 puts the labels in another order."""
    restore = columns.sort_names
    if RANK == 1:
        columns.sort_names = lambda names: tuple(reversed(restore(names)))
    try:
        train(folder / "other-labels", epochs=1)
    finally:
        columns.sort_names = restore


def other_data(folder: Path) -> Any:
    """Process 1 finds one character of one text changed."""
    train(folder / "other-data", data={"train": str(folder / f"reviews-{RANK}.csv")}, epochs=1)


def bad_row(folder: Path) -> Any:
    """Process 1 alone meets a row that cannot be read."""
    restore = inputs.read_source

    def read_source(*args: Any, **options: Any) -> Any:
        if RANK == 1:
            raise DataError("a bad row", file="reviews.csv", row=17, column="text")
        return restore(*args, **options)

    inputs.read_source = read_source
    try:
        train(folder / "bad-row", epochs=1)
    finally:
        inputs.read_source = restore


def other_length(folder: Path) -> Any:
    """Process 1 has one step fewer."""
    accelerator = start(seed=0, precision="fp32", threads=1)
    train_linear(accelerator, [[tokens_batch([1, 2])]] * (4 - RANK))


def killed_in_a_step(folder: Path) -> Any:
    restore = Accelerator.backward
    calls = {"micro": 0}

    def backward(self: Any, loss: torch.Tensor, **options: Any) -> None:
        calls["micro"] += 1
        if RANK == 1 and calls["micro"] == 8:
            (folder / "killed-at").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        restore(self, loss, **options)

    Accelerator.backward = backward
    train(folder / "killed-in-a-step")


def hang(folder: Path) -> Any:
    fit.log = at_step(5, lambda: time.sleep(600) if RANK == 1 else None)
    (folder / f"hang-started.{RANK}").write_text(str(time.time()))
    train(folder / "hang")


def perform(folder: Path, name: str, task: Callable[[Path], Any]) -> None:
    def too_long() -> None:
        (folder / f"{name}.{RANK}.json").write_text(json.dumps({"error": "Hang", "code": None}))
        os._exit(9)

    watch = threading.Timer(SECONDS, too_long)  # a signal would not reach a process that waits in gloo
    watch.daemon = True
    watch.start()
    try:
        found = {"result": task(folder)}
    except Exception as error:
        found = {"error": type(error).__name__, "text": str(error)}
        found |= {key: getattr(error, key, None) for key in ("code", "file", "row", "column")}
    watch.cancel()
    (folder / f"{name}.{RANK}.json").write_text(json.dumps(found))
    if task is hang:
        os._exit(found.get("code") or 1)  # as the script would: the launcher then ends the one that hangs


def write_threads(path: Path) -> None:
    path.write_text(json.dumps([name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]))


def main() -> None:
    folder = Path(sys.argv[1])
    atexit.register(write_threads, folder / f"threads.{RANK}.json")  # first in, so last out
    sys.stdout = open(folder / f"stdout.{RANK}", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    for name in sys.argv[2:]:
        perform(folder, name, globals()[name])


if __name__ == "__main__":
    main()
