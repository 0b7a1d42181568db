"""SIGKILL at random moments: the run goes on without a human, and ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torture_parts import victims
from torture_parts.forks import in_parallel
from torture_parts.victims import Claim, Torture

CHAIN_LENGTHS = (1, 2, 3, 5, 10)  # kills in one run, before it is left in peace
MOST_STARTS = 40  # of one run: a run that never ends is a failure, not a wait


def prove(torture: Torture) -> list[Claim]:
    """Kill `torture.num_kills` times, in chains, and compare every run with the uninterrupted one."""
    config = torture.config()
    reference, end = torture.reference(config, "kills-reference")
    num_lines = len((reference / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    shares = [share for share in _shares(torture.num_kills, parts=4 * torture.jobs) if share]
    chains = partial(_kill_chains, torture, config, reference, end.seconds, num_lines)
    found = in_parallel(chains, list(enumerate(shares)), jobs=torture.jobs, scratch=torture.scratch, title="random kills")
    runs = [run for part in found for run in part]
    kills, moments = sum(run["kills"] for run in runs), Counter(m for run in runs for m in run["moments"])
    stuck = [run["error"] for run in runs if run["error"]]
    different = [f"chain {run['chain']}: {', '.join(run['differing'])}" for run in runs if run["differing"] or run["error"]]
    helpless, forgotten = _stuck_control(torture, config), _difference_controls(torture, config, reference)
    seeds = f"{torture.seed}/kills/0..{len(shares) - 1}/*"
    notes = {"runs": len(runs), "starts": sum(run["starts"] for run in runs), "moments": dict(moments)}
    return [
        Claim(
            part="kills",
            text=f"after a SIGKILL at a random moment the next start goes on ({len(runs):,} runs, up to 10 kills each)",
            held=kills - len(stuck),
            of=kills,
            seeds=seeds,
            control=f"all checkpoints damaged: exit {helpless}",
            control_held=helpless == 4,
            failures=tuple(stuck),
            notes=notes,
        ),
        Claim(
            part="kills",
            text="and the run ends bit-identical to an uninterrupted one (weights, log, predictions, result)",
            held=len(runs) - len(different),
            of=len(runs),
            seeds=seeds,
            control="; ".join(f"{name}: {len(files)} files differ" for name, files in forgotten.items()),
            control_held=all(forgotten.values()),
            failures=tuple(different),
            notes={"controls": forgotten},
        ),
    ]


def _shares(total: int, *, parts: int) -> list[int]:
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _kill_chains(
    torture: Torture, config: Any, reference: Path, seconds: float, num_lines: int, share: tuple[int, int]
) -> list[dict[str, Any]]:
    """Kill until a share of the kills has hit, and return what became of each run."""
    number, wanted = share
    runs: list[dict[str, Any]] = []
    while (missing := wanted - sum(run["kills"] for run in runs)) > 0:
        rng = random.Random(f"{torture.seed}/kills/{number}/{len(runs)}")
        out = torture.scratch / f"kills-{number}-{len(runs)}"
        run = _kill_chain(torture, config, out, rng=rng, most=missing, seconds=seconds, num_lines=num_lines)
        run["chain"] = f"{number}/{len(runs)}"
        run["differing"] = victims.differing_files(out, reference)
        if not run["differing"]:
            victims.remove(out)
        runs.append(run)
    return runs


def _kill_chain(
    torture: Torture, config: Any, out: Path, *, rng: random.Random, most: int, seconds: float, num_lines: int
) -> dict[str, Any]:
    """Start one run, kill it, start it again ...: some kills at a step, some at a time, then none until it has finished."""
    planned = min(most, rng.choice(CHAIN_LENGTHS))
    run: dict[str, Any] = {"kills": 0, "starts": 0, "moments": [], "error": ""}
    while not victims.is_finished(out) and run["starts"] < MOST_STARTS:
        at_step, moment, after = rng.random() < 0.5, rng.random(), rng.random() < 0.5
        spare = run["kills"] >= planned
        how: dict[str, Any] = {}
        if not spare and at_step:
            # Small numbers more often: a chain should get somewhere between two kills, and not always to the end.
            how["before"] = partial(victims.kill_at_log, 1 + int(num_lines * moment**2), after=after)
        elif not spare:
            how["kill_after"] = seconds * moment
        end = torture.start(config, out, **how)
        run["starts"] += 1
        if end.killed:
            run["kills"] += 1
            run["moments"].append(_moment(out))
        elif end.code != 0:
            run["error"] = f"exit {end.code}: {end.last_line}"
            return run
    if not victims.is_finished(out):
        run["error"] = f"not finished after {run['starts']} starts"
    return run


def _moment(out: Path) -> str:
    """Say from what a kill left behind where it hit."""
    names = {file.name for file in out.iterdir()} if out.is_dir() else set()
    saved = [path.name for path in (out / "checkpoints").glob("*")] if "checkpoints" in names else []
    if "result.json" in names:
        return "after the result"
    if names & {"model", "model.tmp"}:
        return "writing the model and the result"
    if any(".tmp-" in name or name.startswith(".trash") for name in saved):
        return "saving a checkpoint"
    if "metrics.jsonl" not in names:
        return "before the first step"
    return "training, with a checkpoint" if saved else "training, before the first checkpoint"


def _stuck_control(torture: Torture, config: Any) -> int:
    """Damage every checkpoint of a killed run and return the exit code of the next start: this one needs a human."""
    out = killed_run(torture, config, "kills-stuck", at=12)
    for file in (out / "checkpoints").glob("step-*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    return torture.start(config, out).code


def _difference_controls(torture: Torture, config: Any, reference: Path) -> dict[str, list[str]]:
    """Name the files that differ with another seed, and after a resume that restores one thing less."""
    other = torture.scratch / "kills-other-seed"
    torture.start(replace(config, seed=config.seed + 1), other)
    controls = {"another seed": victims.differing_files(other, reference)}
    lapses: dict[str, Callable[[], None]] = {
        "optimizer not restored": victims.forget_optimizer,
        "weights not restored": victims.forget_weights,
        "log not cut": victims.forget_log,
    }
    for name, forget in lapses.items():
        out = killed_run(torture, config, f"kills-{forget.__name__}", at=12)
        torture.start(config, out, before=forget)
        controls[name] = victims.differing_files(out, reference)
    return controls


def killed_run(torture: Torture, config: Any, name: str, *, at: int) -> Path:
    """Return the folder of a run that was killed after its `at`-th line of the log, with two checkpoints in it."""
    out = torture.scratch / name
    end = torture.start(config, out, before=partial(victims.kill_at_log, at))
    if not end.killed or len(list((out / "checkpoints").glob("step-*/MANIFEST.json"))) < 2:
        raise RuntimeError(f"{name}: no run with two checkpoints was left behind ({json.dumps(end.output[-500:])})")
    return out
