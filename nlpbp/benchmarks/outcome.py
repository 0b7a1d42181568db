"""The benchmark `outcome`: how good a result is with the labels that a user has, nlpbp's default beside what else there is.

Every system gets the same labels, and no others: what it needs for validation it takes from them. Every system answers for the same
test texts, in a process of its own, with as many threads. What is measured is written line by line, so that a benchmark that was
stopped goes on: a cell that is finished is never done again, one that failed is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from nlpbp.benchmarks.outcome_data import SETS, Prepared, prepare
from nlpbp.benchmarks.outcome_table import SYSTEMS, Key, cells_of, tables
from nlpbp.benchmarks.workers import ENVIRONMENT, HERE, Record, cpu_name, say
from nlpbp.config import Data
from nlpbp.core.errors import ConfigError, DataError

SIZES = ("16", "64", "500", "2000", "all")
MOST = {"setfit": 500}
"""The most labels that a system is made for; SetFit learns from pairs, whose number grows with the square of that of labels."""
KINDS = ("run", "set", "cell", "failure")  # of records
HOURS = ("setfit", "500")  # system and size of the cells that come last
SETFIT = "setfit==1.2.*"
TRY = "tiny"  # the set of the short form


@dataclass(frozen=True)
class Grid:
    """What is measured: every combination, but for sizes that a set has not or a system is not made for."""

    sets: tuple[str, ...] = tuple(name for name in SETS if name != TRY)
    sizes: tuple[str, ...] = SIZES
    systems: tuple[str, ...] = tuple(SYSTEMS)
    num_seeds: int = 3
    threads: int = os.cpu_count() or 1

    @staticmethod
    def short() -> Grid:
        """Two systems on tiny data: tries the path, measures nothing."""
        return Grid(sets=(TRY,), sizes=("16", "64"), systems=("tfidf", "probe"), num_seeds=1, threads=1)

    def cells(self) -> Iterator[Key]:
        """Yield the cells, a seed after the other; SetFit with many labels, which takes hours, comes last."""
        found = [
            (name, size, system, seed)
            for seed in range(self.num_seeds)
            for name in self.sets
            for size in self.sizes
            for system in self.systems
            if system not in MOST or (size != "all" and int(size) <= MOST[system])
        ]
        yield from sorted(found, key=lambda key: (key[2], key[1]) == HOURS)


def run(out: Path, grid: Grid, *, data: Path | None = None, setfit_python: str | None = None, show: bool = False) -> None:
    """Do what is missing of the grid, append it to `out`, and print the tables of everything that stands there."""
    if show:
        say(tables(read(out)))
        return
    records = read(out) if out.exists() else []
    folder = data or out.with_name(f"{out.stem}_data")
    append(out, records, {"kind": "run", "machine": machine(grid.threads)})
    finished = {key for key, record in cells_of(records).items() if record["kind"] == "cell"}
    sets: dict[str, Prepared | str] = {}
    for name, size, system, seed in grid.cells():
        if (name, size, system, seed) in finished:
            continue
        if name not in sets:
            sets[name] = prepared_or_reason(name, folder)
        prepared = sets[name]
        about = {"set": name, "size": size, "system": system, "seed": seed, "threads": grid.threads}
        if isinstance(prepared, str):
            record = {"kind": "failure", **about, "seconds": 0.0, "reason": prepared}
        else:
            append_set(out, records, prepared)
            num_labels = prepared.size(size)
            if num_labels is None:
                continue  # the set has not so many: "all" stands for what it has
            record = measure(prepared, about | {"num_labels": num_labels}, python=python_of(system, out, setfit_python))
        append(out, records, record)
        say(f"{name}, {size} labels, {SYSTEMS[system]}, seed {seed}: {record.get('reason', 'done')} ({record['seconds']:.0f} s)")
    say(f"\n{tables(records)}")
    say(f"\neverything measured is in {out}; --show prints these tables again")


def prepared_or_reason(name: str, folder: Path) -> Prepared | str:
    """Return a set, or why it cannot be had: the others are measured all the same."""
    try:
        return prepare(name, folder)
    except ConfigError as error:
        return str(error)


def machine(threads: int) -> Record:
    """Describe the machine."""
    libraries = {name: version(name) for name in ("torch", "transformers", "scikit-learn")}
    return {"cpu": cpu_name(), "threads": threads, **libraries}


def read(out: Path) -> list[Record]:
    """Read a file of the benchmark; a last line that was being written when it was stopped is cut off.

    Raises `DataError` with the line for anything else that is not a record of its own.
    """
    if not out.is_file():
        raise ConfigError("there is no such file to show", file=str(out), hint="leave out --show: the benchmark writes it")
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        out.write_bytes(whole)
    records = []
    for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["kind"] not in KINDS:
                raise ValueError(f"of the kind {record['kind']}")
        except (ValueError, TypeError, KeyError) as error:
            hint = "name another --out: this one is not a file of the benchmark `outcome`"
            raise DataError(f"not a record: {error}", file=str(out), row=number, hint=hint) from error
        records.append(record)
    return records


def append(out: Path, records: list[Record], record: Record) -> None:
    """Add a record to the file and to what is known of it."""
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    records.append(record)


def append_set(out: Path, records: list[Record], prepared: Prepared) -> None:
    """Add what the tables need of a set, if it is not there; `ConfigError` if another test set of its name is."""
    record = {
        "kind": "set",
        "name": prepared.name,
        "task": prepared.task,
        "unit": SETS[prepared.name].unit,
        "model": Path(prepared.model).name,
        "labels": prepared.labels,
        "targets": prepared.test_targets,
    }
    there = [one for one in records if one["kind"] == "set" and one["name"] == prepared.name]
    if not there:
        append(out, records, record)
    elif there[0] != record:
        hint = "name another --out, or the --data folder that it was measured with"
        raise ConfigError(f"{prepared.name} has another test set than what is measured there", file=str(out), hint=hint)


def measure(prepared: Prepared, about: Record, *, python: str | Path) -> Record:
    """Let a system do its cell in a process of its own; return what it answered and the seconds, or why it failed."""
    texts, targets = prepared.draw(about["num_labels"], seed=about["seed"])
    cell = {
        "system": about["system"],
        "seed": about["seed"],
        "threads": about["threads"],
        "task": prepared.task,
        "model": model_of(prepared, about["system"]),
        "max_length": Data().max_length,
        "labels": prepared.labels,
        "train_texts": texts,
        "train_targets": targets,
        "test_texts": prepared.test_texts,
    }
    threads = {f"{name}_NUM_THREADS": str(about["threads"]) for name in ("OMP", "MKL", "OPENBLAS", "RAYON")}
    worker = HERE / ("outcome_setfit.py" if about["system"] == "setfit" else "outcome_worker.py")
    with tempfile.TemporaryDirectory(prefix="nlpbp-benchmark-") as name:
        folder = Path(name)
        (folder / "cell.json").write_text(json.dumps(cell), encoding="utf-8")
        started = time.monotonic()
        try:
            done = subprocess.run(
                [str(python), str(worker), str(folder)],
                capture_output=True,
                text=True,
                env=os.environ | ENVIRONMENT | threads | {"TOKENIZERS_PARALLELISM": "true", "TQDM_DISABLE": "1"},
                check=False,
            )
            problem = reason_of(done.returncode, done.stderr)
        except OSError as error:
            problem = str(error)
        seconds = round(time.monotonic() - started, 1)
        answers = folder / "answers.json"
        if not answers.is_file():
            return {"kind": "failure", **about, "seconds": seconds, "reason": problem}
        return {"kind": "cell", **about, "seconds": seconds, **json.loads(answers.read_text(encoding="utf-8"))}


def reason_of(code: int, stderr: str) -> str:
    """Say in a line why a process left no answers: what it said last, or the signal that ended it.

    >>> reason_of(1, "Traceback ...\\nModuleNotFoundError: No module named 'setfit'\\n"), reason_of(-9, "a warning")
    ("ModuleNotFoundError: No module named 'setfit'", 'ended by SIGKILL, as for lack of memory')
    """
    if code < 0:
        return f"ended by {signal.Signals(-code).name}{', as for lack of memory' if -code == signal.SIGKILL else ''}"
    lines = stderr.strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {code}"


def model_of(prepared: Prepared, system: str) -> str:
    """Return the model's name; SetFit, which knows nothing of ours, gets its folder."""
    if system != "setfit":
        return prepared.model
    from nlpbp.modalities.pretrained import model_path

    return str(model_path(prepared.model))


def python_of(system: str, out: Path, setfit_python: str | None) -> str | Path:
    """Return the interpreter of a system: this one, but for SetFit, whose environment is made beside `out` if none is given."""
    if system != "setfit":
        return sys.executable
    if setfit_python is not None:
        return setfit_python
    folder = out.with_name(f"{out.stem}_setfit")
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        say(f"SetFit gets an environment of its own, {folder}")
        venv.create(folder, with_pip=True, clear=True)
        pins = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers")]
        done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", SETFIT, *pins], capture_output=True, text=True)
        if done.returncode:
            say(f"SetFit cannot be installed: {done.stderr.strip()}")  # its cells fail, and say that there is no setfit
        else:
            (folder / "complete").touch()
    return python
