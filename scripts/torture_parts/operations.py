"""A kill at every file operation of a run: each save, each rotation, the resume itself, and the final export."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torture_parts import victims
from torture_parts.forks import in_parallel
from torture_parts.kills import killed_run
from torture_parts.victims import Claim, Torture
from torture_parts.watch import Watch

from nlpbp.runs import progress as saving
from nlpbp.train.checkpoint import NAME, find_fault

FEW = 4  # kinds of operation a scenario in the short form
SAVED = re.compile(r"rename checkpoints/(step-\d{8})\.tmp-\* -> checkpoints/\1")


@dataclass(frozen=True)
class Scenario:
    """A life of a run whose operations are tried one by one: what it starts from, and what it then does."""

    name: str
    begin: Path | None
    operations: tuple[str, ...]
    kill_at: tuple[int, ...]


def prove(torture: Torture) -> list[Claim]:
    """Kill at every operation (in the short form: at `FEW` kinds of each scenario), look at what is left, and go on."""
    config = torture.config(batch={"size": 32}, checkpoint={"save_steps": 3}, eval_steps=4)
    reference, _ = torture.reference(config, "operations-reference")
    scenarios = [
        _scenario(torture, config, "start", None),
        _scenario(torture, config, "resume", _killed_in_save(torture, config), until="open metrics.jsonl"),
        _scenario(torture, config, "second end", _killed_in_export(torture, config), since="write model.tmp"),
    ]
    tasks = [(index, k) for index, scenario in enumerate(scenarios) for k in scenario.kill_at]
    attempt = partial(_attempt, torture, config, reference, scenarios)
    found = in_parallel(attempt, tasks, jobs=torture.jobs, scratch=torture.scratch, title="kills at file operations")
    seeds = f"{torture.seed}/operations" if torture.short else "exhaustive"
    return [
        _no_checkpoint_is_lost(torture, config, scenarios, found, seeds),
        _the_next_start_ends_bit_identical(torture, config, reference, found, seeds),
        _the_model_is_complete_or_absent(torture, reference, found, seeds),
        _files_are_synced_before_they_are_named(scenarios[0].operations),
    ]


def _no_checkpoint_is_lost(
    torture: Torture, config: Any, scenarios: Sequence[Scenario], found: Sequence[dict[str, Any]], seeds: str
) -> Claim:
    lost = _failures(found, "lost")
    careless, points = _careless_control(torture, config)
    sizes = ", ".join(f"{len(scenario.kill_at)} of a {scenario.name}" for scenario in scenarios)
    return Claim(
        part="operations",
        text=f"a SIGKILL at a file operation loses no complete checkpoint ({sizes})",
        held=len(found) - len(lost),
        of=len(found),
        seeds=seeds,
        control=f"old checkpoint deleted before the new one is written: lost at {careless} of {points}",
        control_held=careless > 0,
        failures=lost,
        notes={"operations": {s.name: list(s.operations) for s in scenarios}, "left over": _left_over(found)},
    )


def _the_next_start_ends_bit_identical(
    torture: Torture, config: Any, reference: Path, found: Sequence[dict[str, Any]], seeds: str
) -> Claim:
    stuck = _failures(found, "stuck")
    forgotten = killed_run(torture, config, "operations-forgotten", at=9)
    torture.start(config, forgotten, before=victims.forget_optimizer)
    differing = victims.differing_files(forgotten, reference)
    return Claim(
        part="operations",
        text="the next start goes on from the newest complete checkpoint and ends bit-identical",
        held=len(found) - len(stuck),
        of=len(found),
        seeds=seeds,
        control=f"optimizer not restored: {len(differing)} files differ",
        control_held=bool(differing),
        failures=stuck,
    )


def _the_model_is_complete_or_absent(torture: Torture, reference: Path, found: Sequence[dict[str, Any]], seeds: str) -> Claim:
    half = _failures(found, "half")
    incomplete = _half_model(*_model_without_a_file(torture, reference))
    return Claim(
        part="operations",
        text="the exported model is complete or not there",
        held=len(found) - len(half),
        of=len(found),
        seeds=seeds,
        control=f"a file of it removed: {incomplete}",
        control_held=bool(incomplete),
        failures=half,
    )


def _files_are_synced_before_they_are_named(operations: Sequence[str]) -> Claim:
    num_saved = sum(1 for operation in operations if SAVED.fullmatch(operation))
    unsynced, without = unsynced_checkpoints(operations), unsynced_checkpoints(_without_fsync(operations))
    return Claim(
        part="operations",
        text="every file of a checkpoint is on the disk before it gets its name, the name before rotation",
        held=num_saved - len(unsynced),
        of=num_saved,
        seeds="exhaustive",
        control=f"fsync left out: {len(without)} of {num_saved} found",
        control_held=len(without) == num_saved,
        failures=tuple(unsynced),
    )


def _failures(found: Sequence[dict[str, Any]], kind: str) -> tuple[str, ...]:
    """List the attempts that failed in this way, each with where it was killed and what went wrong."""
    return tuple(attempt["where"] + attempt[kind] for attempt in found if attempt[kind])


def _scenario(torture: Torture, config: Any, name: str, begin: Path | None, *, since: str = "", until: str = "") -> Scenario:
    """Trace a life to its end and choose where to kill: from the first operation that begins with `since` up to `until`."""
    out = torture.scratch / f"operations-trace-{name.replace(' ', '-')}"
    operations = _trace(torture, config, out, begin)
    first = next(i for i, operation in enumerate(operations) if operation.startswith(since))
    last = next((i for i, operation in enumerate(operations) if operation == until), len(operations))
    every = range(first + 1, last + 1)
    return Scenario(name, begin, tuple(operations), tuple(_few(torture, operations, every) if torture.short else every))


def _few(torture: Torture, operations: Sequence[str], every: Sequence[int]) -> list[int]:
    """Choose some kinds of operation at random (numbers make no kind), and of each a random one."""
    kinds: dict[str, list[int]] = {}
    for k in every:
        kinds.setdefault(re.sub(r"\d+", "", operations[k - 1]), []).append(k)
    rng = random.Random(f"{torture.seed}/operations")
    one_each = [rng.choice(of_kind) for of_kind in kinds.values()]
    return sorted(rng.sample(one_each, min(len(one_each), FEW)))


def _trace(torture: Torture, config: Any, out: Path, begin: Path | None, *before: Callable[[], None]) -> list[str]:
    """Let a life run to its end and return its operations."""
    killed_at(torture, config, out, begin, 0, *before)
    return _operations_of(out)


def killed_at(torture: Torture, config: Any, out: Path, begin: Path | None, k: int, *before: Callable[[], None]) -> Any:
    """Start in a copy of `begin` and kill at operation `k`; `before` comes first in the child."""
    victims.remove(out)
    if begin is not None:
        shutil.copytree(begin, out)

    def watch() -> None:
        for action in before:
            action()
        Watch(out, out.with_name(f"{out.name}.trace"), kill_at=k).begin()

    return torture.start(config, out, before=watch)


def _operations_of(out: Path) -> list[str]:
    return out.with_name(f"{out.name}.trace").read_text(encoding="utf-8").splitlines()


def _attempt(
    torture: Torture, config: Any, reference: Path, scenarios: Sequence[Scenario], task: tuple[int, int]
) -> dict[str, Any]:
    """Kill once, judge what is left, go on to the end and judge that."""
    scenario, k = scenarios[task[0]], task[1]
    out = torture.scratch / f"operations-{task[0]}-{k}"
    end = killed_at(torture, config, out, scenario.begin, k)
    done = saved_steps(scenario.begin) + [int(m[1][5:]) for line in _operations_of(out)[:-1] if (m := SAVED.fullmatch(line))]
    finished = victims.is_finished(out)
    answer: dict[str, Any] = {
        "where": f"{scenario.name}, operation {k} ({scenario.operations[k - 1]}): ",
        "lost": "" if finished else lost_checkpoints(out, done),
        "half": _half_model(out, reference),
        "stuck": "" if end.killed else f"not killed but exit {end.code}: {end.last_line}",
    }
    if not finished:
        again = torture.start(config, out)
        if again.code != 0:
            answer["stuck"] = f"exit {again.code}: {again.last_line}"
        elif (step := victims.resumed_from(again)) != max(done, default=0):
            answer["stuck"] = f"went on from step {step} instead of {max(done, default=0)}"
    if not answer["stuck"] and (differing := victims.differing_files(out, reference)):
        answer["stuck"] = f"{', '.join(differing)} differ"
    answer["left"] = sorted({file.name for file in out.iterdir()} - {file.name for file in reference.iterdir()})
    if not any(answer[name] for name in ("lost", "half", "stuck")):
        victims.remove(out)
    return answer


def saved_steps(out: Path | None) -> list[int]:
    """List the steps of the folders that have a checkpoint's name."""
    root = out / "checkpoints" if out else None
    return sorted(int(path.name[5:]) for path in root.iterdir() if NAME.fullmatch(path.name)) if root and root.is_dir() else []


def lost_checkpoints(out: Path, done: Sequence[int]) -> str:
    """Say what is missing of the checkpoints that were complete (`done`): the newest, a second one, or a part of any."""
    named = saved_steps(out)
    faults = {step: find_fault(out / "checkpoints" / f"step-{step:08d}") for step in named}
    good = [step for step in named if faults[step] is None]
    if len(good) < len(named):
        return f"a damaged checkpoint under its final name: {faults}"
    if done and max(done) not in good:
        return f"the newest, of step {max(done)}, is gone; there are {good}"
    return f"only {good} of {list(done)} are left" if len(good) < min(2, len(done)) else ""


def _half_model(out: Path, reference: Path) -> str:
    """Say how a model folder that is there differs from the complete one."""
    if not (out / "model").is_dir():
        return ""
    there, wanted = ({f.name: f.read_bytes() for f in (folder / "model").iterdir()} for folder in (out, reference))
    return ", ".join(sorted(f"{name} is not complete" for name in wanted if there.get(name) != wanted[name]))


def _model_without_a_file(torture: Torture, reference: Path) -> tuple[Path, Path]:
    out = torture.scratch / "operations-half-model"
    shutil.copytree(reference, out)
    (out / "model" / "model.safetensors").unlink()
    return out, reference


def _left_over(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Count the files that an uninterrupted run would not have left, by name."""
    names = [name for answer in found for name in answer["left"]]
    return {name: names.count(name) for name in sorted(set(names))}


def _killed_in_save(torture: Torture, config: Any) -> Path:
    """Return a run that was killed amid its third save, with what that leaves behind."""
    return _killed_before(torture, config, "operations-in-save", lambda line: line.startswith("write checkpoints/step-00000009"))


def _killed_in_export(torture: Torture, config: Any) -> Path:
    """Return a run that was killed when its model was in place and its result not yet."""
    return _killed_before(torture, config, "operations-in-export", lambda line: line.startswith("open result.json"))


def _killed_before(torture: Torture, config: Any, name: str, chosen: Callable[[str], bool]) -> Path:
    out = torture.scratch / name
    operations = _trace(torture, config, out, None)
    k = next(i for i, operation in enumerate(operations, 1) if chosen(operation))
    killed_at(torture, config, out, None, k)
    return out


def delete_first() -> None:
    """Let a save delete what is there before it writes, as some tools do."""

    def careless(root: Path, **given: Any) -> Path:
        shutil.rmtree(root, ignore_errors=True)
        return write(root, **given)

    write = victims.replace_function(saving, "write_checkpoint", careless)


def _careless_control(torture: Torture, config: Any) -> tuple[int, int]:
    """Kill in the second save of a run that deletes first; return at how many points a checkpoint was lost, of how many."""
    out = torture.scratch / "operations-careless"
    operations = _trace(torture, config, out, None, delete_first)
    first, second = [k for k, operation in enumerate(operations, 1) if SAVED.fullmatch(operation)][:2]
    points = range(first + (second - first) // 2, second, 3)
    lost = 0
    for k in points:
        killed_at(torture, config, out, None, k, delete_first)
        done = [int(m[1][5:]) for line in _operations_of(out)[:-1] if (m := SAVED.fullmatch(line))]
        lost += bool(lost_checkpoints(out, done))
    return lost, len(points)


def unsynced_checkpoints(operations: Sequence[str]) -> list[str]:
    """Name the checkpoints that a power cut could have left with a name and without their content.

    >>> save = "rename checkpoints/step-00000001.tmp-* -> checkpoints/step-00000001"
    >>> unsynced_checkpoints(["write checkpoints/step-00000001.tmp-*/a", save])
    ['step-00000001: a, its folder, its name']
    """
    found = []
    for index, operation in enumerate(operations):
        if match := SAVED.fullmatch(operation):
            late = _late(operations[:index], folder=f"checkpoints/{match[1]}.tmp-*")
            late += [] if list(operations[index + 1 : index + 2]) == ["fsync checkpoints"] else ["its name"]
            found += [f"{match[1]}: {', '.join(late)}"] if late else []
    return found


def _late(operations: Sequence[str], *, folder: str) -> list[str]:
    """Name the files in `folder` that were written after they were last synced, or never synced; and the folder itself."""
    written: dict[str, int] = {}
    synced: dict[str, int] = {}
    for index, operation in enumerate(operations):
        kind, _, path = operation.partition(" ")
        if kind == "fsync":
            synced[path] = index
        elif (target := path.rpartition(" -> ")[2]).startswith(f"{folder}/"):
            written[target] = index
    late = [path.rpartition("/")[2] for path, index in written.items() if synced.get(path, -1) < index]
    return late + (["its folder"] if synced.get(folder, -1) < max(written.values()) else [])


def _without_fsync(operations: Sequence[str]) -> list[str]:
    return [operation for operation in operations if not operation.startswith("fsync")]
