"""What forked processes do: train, save or read until something ends them. Each function is a job of `harness.Forks`."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pty
import resource
import signal
import sys
import termios
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import at_step, file_operations, newest, save_small, train
from tqdm import TqdmMonitorWarning

from nlpbp.data.columns import infer_fields, read_examples
from nlpbp.data.readers import read_table
from nlpbp.modalities import encoding, pretrained, texts
from nlpbp.runs import fit, model_folder, results
from nlpbp.runs import progress as saving
from nlpbp.train import weights
from nlpbp.train.loop import Accelerator

NOBODY = 65534


def say(what: Any) -> None:
    sys.stdout.write(f"{what}\n")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_to_the_end(out: str, **changes: Any) -> None:
    train(out, **changes)


def train_killed(out: str, step: int) -> None:
    fit.log = at_step(step, die)
    train(out)


def train_signalled(out: str, step: int, numbers: list[int]) -> None:
    """Send this process the signals, one after the other, when it has logged `step`."""
    fit.log = at_step(step, lambda: [os.kill(os.getpid(), number) for number in numbers])
    train(out)


def train_signalled_while_saving(out: str, step: int) -> None:
    """SIGTERM after `step`, and three more in the middle of the save that answers it."""
    original, calls = weights.save_file, []

    def save_file(*args: Any) -> None:
        original(*args)
        calls.append(args)
        os.kill(os.getpid(), signal.SIGTERM)

    def first() -> None:
        weights.save_file = save_file
        os.kill(os.getpid(), signal.SIGTERM)

    fit.log = at_step(step, first)
    try:
        train(out)
    finally:
        say(f"files saved after the first signal: {len(calls)}")


def train_terminated(out: str, step: int, seconds: float) -> None:
    """SIGTERM after `step`, and SIGKILL so many seconds later: a short grace period."""

    def both() -> None:
        timer = threading.Timer(seconds, die)
        timer.daemon = True
        timer.start()
        os.kill(os.getpid(), signal.SIGTERM)

    fit.log = at_step(step, both)
    train(out)


def train_killed_while_loading(out: str, name: str) -> None:
    setattr(saving, name, lambda *args, **options: die())
    train(out)


def train_pausing(out: str, step: int, go: str) -> None:
    def pause() -> None:
        while not Path(go).exists():
            time.sleep(0.01)

    fit.log = at_step(step, pause)
    train(out)


def train_without_output(out: str, step: int, kind: str) -> None:
    """Lose standard output at `step`: its reader goes, it is closed, or the terminal that controls this process hangs up."""
    if kind == "terminal":
        os.setsid()
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(slave, number)
        os.close(slave)
        fit.log = at_step(step, lambda: os.close(master))
    elif kind == "pipe":
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        fit.log = at_step(step, lambda: os.close(reader))
    else:
        fit.log = at_step(step, lambda: os.close(1))
    train(out)


def train_with_full_disk(out: str, step: int, limit: int) -> None:
    """From `step` on no file can grow beyond `limit` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    fit.log = at_step(step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    train(out)


def train_as_nobody(out: str, data: str) -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    train(out, data={"train": data})


def train_without_threads(out: str) -> None:
    """A user who may start no further process and no thread."""
    warnings.simplefilter("ignore", TqdmMonitorWarning)  # the bar's own thread: it says that it goes without
    train(f"{out}-before", epochs=1)  # root may be alone in being able to read, and so to import, what is installed
    pretrained.CACHE = encoding.CACHE = Path(out + "-cache")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        threading.Thread(target=say, args=("a thread was started",)).start()
    except RuntimeError:
        say("no thread can be started")
    train(out)


def train_short_of_memory(out: str, step: int, forever: bool) -> None:
    """Make torch's own allocator refuse a tensor in `step`, once or in every step from there on."""
    original, state = Accelerator.backward, {"armed": False, "calls": 0}

    def backward(self: Any, loss: Any, **options: Any) -> Any:
        if state["armed"] and (forever or not state["calls"]):
            state["calls"] += 1
            torch.empty(1 << 50)
        return original(self, loss, **options)

    Accelerator.backward = backward
    fit.log = at_step(step - 1, lambda: state.update(armed=True))
    train(out)


def count_operations(done: Callable[[], None], *, number: int) -> None:
    """Do it, and die before its file operation `number`, counted from 1."""
    count = 0

    def before(operation: str, path: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            die()

    with file_operations(before):
        done()


def save_killed(root: str, number: int) -> None:
    """Two checkpoints are there; the third dies before its file operation `number`."""
    save_small(Path(root), 1)
    save_small(Path(root), 2)
    count_operations(lambda: save_small(Path(root), 3), number=number)


def save_killed_at(root: str, operation: str, name: str, when: str) -> None:
    """As above, but die at the operation on the file of that name: before it, after it, or with half of the file written."""
    save_small(Path(root), 1)
    save_small(Path(root), 2)

    def at(moment: str) -> Callable[[str, str], None]:
        def happen(shown: str, path: str) -> None:
            if shown == operation and Path(path).name.startswith(name) and when in (moment, f"half {moment}"):
                if when.startswith("half"):
                    os.truncate(path, os.path.getsize(path) // 2)
                die()

        return happen

    with file_operations(at("before"), after=at("after")):
        save_small(Path(root), 3)


def load_killed(root: str, number: int) -> None:
    count_operations(lambda: newest(Path(root)), number=number)


def export_killed(folder: str, source: str, number: int) -> None:
    """Write the model of the run `source` again over the model in `folder`, and die before file operation `number`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    options = {"folder": Path(folder), "card": "a card"}
    count_operations(lambda: model_folder.save_model(model, tokenizer, model.state_dict(), **options), number=number)


def train_killed_at_the_end(out: str, name: str) -> None:
    """Die when the finished run calls `name`: while the model is written, before the result, before the cleaning up."""
    setattr(texts if name == "save_model" else results, name, lambda *args, **options: die())
    train(out)


def read_within(path: str, megabytes: int) -> None:
    """Read a table with so many megabytes of memory left."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    table = read_table(path)
    say(len(read_examples(table, infer_fields(table))))


def resume_unreadable(root: str, name: str) -> None:
    """Find the newest checkpoint on a disk that cannot read one file of checkpoint 2."""

    def before(operation: str, path: str) -> None:
        if path.endswith(f"step-00000002/{name}"):
            raise OSError(errno.EIO, "Input/output error", path)

    with file_operations(before):
        found = newest(Path(root))
    assert found is not None
    say(f"found step {found.step}")


def tokenize(folder: str, text: str) -> None:
    """Load a tokenizer and encode one text."""
    from nlpbp.text.batches import encode
    from nlpbp.text.transformer import load_tokenizer

    say(len(encode([text], tokenizer=load_tokenizer(folder), max_length=32)))


def without_network(*, offline: bool) -> None:
    """Leave for a name space without any network, not even the loopback; only root may."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "no name space of our own")
    if not offline:
        import datasets
        import huggingface_hub.constants

        os.environ.pop("HF_HUB_OFFLINE", None)
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = False


def train_without_network(out: str, offline: bool, **changes: Any) -> None:
    without_network(offline=offline)
    started = time.monotonic()
    try:
        train(out, **changes)
    finally:
        say(f"seconds: {time.monotonic() - started:.2f}")
