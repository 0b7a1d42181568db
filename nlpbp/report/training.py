"""What a report says of how a model came about, as plain data: from which texts, by which settings, in which steps, at which cost.

Every function takes a finished run and returns what one section shows, or nothing where the run has no such thing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nlpbp.core.task import TASKS, target_type
from nlpbp.evaluation.run_folder import Record, RunFolder, at, finite, section
from nlpbp.report import plots
from nlpbp.report.cells import MAX_TEXT, Cell, Drawing, Table, flat, number, words

NO_ROWS = "adversarial_validation"  # counts parts, and its share is an area


def data(run: RunFolder) -> list[Table]:
    """Return how many examples each part has, and each label in them."""
    about, tokens = run.result["data"], section(run.result, "tokens")
    facts = {"source": at(run.config, "data", "train"), "text column": about.get("text"), "label column": about.get("label")}
    facts["fingerprint"] = about.get("fingerprint")
    sizes = [[Cell(name), number(num)] for name, num in about["examples"].items()]
    for row in sizes if tokens else ():
        row.append(number(tokens.get(row[0].text)))
    tables = [
        Table(("part", "texts", "tokens") if tokens else ("part", "examples"), sizes),
        Table(("what", "is"), [[Cell(name), Cell(words(value))] for name, value in facts.items() if value is not None]),
    ]
    balance = section(about, "balance") or _scored_balance(run)
    if balance:
        known = dict.fromkeys(label for counts in balance.values() for label in counts)
        labels = sorted(known, key=lambda label: -_total(balance, label))
        rows = [[Cell(str(label)), *(_share(balance[part], label) for part in balance)] for label in labels]
        tables.append(Table(("label", *balance), rows))
    return tables


def audit(record: Record) -> list[dict[str, Any]]:
    """Return what an audit found in the data, warnings first; what is in order is left out."""
    found = [
        {
            "level": words(finding["level"]),
            "title": words(finding["title"]),
            "count": number(finding["count"]).text if finding["count"] and finding["id"] != NO_ROWS else "",
            "share": number(finding.get("share"), "{:.1%}").text,
            "message": finding["message"],
            "fix": finding.get("fix") or "",
            "examples": [
                (one.get("reference") or "", (one.get("excerpt") or "")[:MAX_TEXT]) for one in finding.get("examples", ())
            ],
        }
        for finding in record.get("findings", ())
        if finding["level"] != "fine"
    ]
    return sorted(found, key=lambda one: one["level"] != "warning")


def looked_at(record: Record) -> dict[str, Any]:
    """Return which rows an audit looked at, what it found in order, and what it could not look at and why; nothing without one."""
    if not record:
        return {}
    fine = [finding for finding in record["findings"] if finding["level"] == "fine"]
    drawn = record.get("drawn_from") or {}
    return {
        "rows": ", ".join(
            f"{name} {num:,}" + (f" of {drawn[name]:,}" if name in drawn else "") for name, num in record["parts"].items()
        ),
        "is_drawn": bool(drawn),
        "fine": ", ".join(words(finding["title"]) for finding in fine if finding.get("was_looked_at", True)),
        "left_out": "; ".join(
            f"{words(finding['title'])} ({finding['message']})" for finding in fine if not finding.get("was_looked_at", True)
        ),
    }


def settings(run: RunFolder, defaults: Mapping[str, Any] | None) -> tuple[Table | None, Table]:
    """Return the settings that differ from the defaults, where those are known, and all others."""
    given = flat(run.config)
    usual = None if defaults is None else flat(defaults)
    changed = [name for name in given if usual is not None and name in usual and usual[name] != given[name]]
    rows = [[Cell(name), Cell(words(given[name])), Cell(words((usual or {})[name]))] for name in changed]
    others = [[Cell(name), Cell(words(value))] for name, value in given.items() if name not in changed]
    return Table(("setting", "here", "by default"), rows) if rows else None, Table(("setting", "value"), others)


def stages(run: RunFolder) -> Table:
    """Return what trained in each stage, how much of it, how fast and how long."""
    head = ("stage", "layers that trained", "parameters", "of all", "highest rate", "steps", "seconds", "items a second", "clipped")
    whole = run.result["num_parameters"]
    rows = []
    for stage, steps in zip(run.result["stages"], steps_of_stages(run), strict=True):
        rates = [step["lr"] for step in steps if finite(step.get("lr")) is not None]
        trained = stage.get("trained_parameters")
        rows.append(
            [
                Cell(str(stage["name"])),
                Cell(words(stage.get("trained"))),
                number(trained),
                number(None if trained is None else trained / max(1, whole), "{:.1%}"),
                number(max(rates, default=None), "{:.1e}"),
                number(stage["steps"]),
                number(stage["seconds"], "{:,.1f}"),
                number(stage["items"] / max(1e-9, stage["seconds"]), "{:,.0f}"),
                number(stage["clipped"] / max(1, stage["steps"]), "{:.0%}"),
            ]
        )
    return Table(head, rows)


def curves(run: RunFolder) -> list[Drawing]:
    """Draw the rate as it was applied, the losses of the stages that share a unit, and the gradient's norm."""
    steps = [record for record in run.records if "split" not in record and finite(record.get("loss")) is not None]
    if not steps:
        return []
    ends = stage_ends(run)
    rates = [(step["step"], step["lr"]) for step in steps if finite(step.get("lr")) is not None]
    drawings = [Drawing("Learning rate as it was applied", plots.applied_rates(*_columns(rates), stage_ends=ends))] if rates else []
    for name, first, last, kind in _units(run):
        inside = [(step["step"], step["loss"]) for step in steps if first < step["step"] <= last]
        scored = [
            (record["step"], loss)
            for record in run.records
            if "split" in record and first < record["step"] <= last and (loss := _scored_loss(record, kind)) is not None
        ]
        best = run.result.get("best_step")
        svg = plots.loss_curves(
            _columns(inside),
            _columns(scored),
            best_step=best if best and first < best <= last else None,
            stage_ends=[end for end in ends if first < end < last],
        )
        drawings.append(Drawing(f"Loss, {name}", svg))
    norms = [(step["step"], step["grad_norm"]) for step in steps if finite(step.get("grad_norm")) is not None]
    if norms:
        caption = f"Norm of the gradient; clipped in {run.result['clipped_share']:.0%} of the steps"
        drawings.append(Drawing(caption, plots.gradient_norms(*_columns(norms), bounds=_bounds(run), stage_ends=ends)))
    return [Drawing(drawing.caption, plots.inline(drawing.svg)) for drawing in drawings]


def sweeps(run: RunFolder) -> list[Drawing]:
    """Draw what each sweep over rates found, and say what it chose."""
    drawings = []
    for found in run.sweeps:
        chosen = "no rate was found" if found["chosen"] is None else f"{found['chosen']:.1e} was taken"
        svg = plots.rate_curve(
            found["rates"],
            found["smoothed"],
            [(curve["rates"], curve["losses"]) for curve in found["curves"]],
            found["suggestions"],
            title="",
            size=plots.SMALL,
        )
        drawings.append(Drawing(f"Sweep of stage {found['stage']}, {found['name']}: {chosen}", plots.inline(svg)))
    return drawings


def evaluations(run: RunFolder) -> list[Table]:
    """Return every evaluation with its metrics, a table for each kind of them."""
    kinds: dict[tuple[str, ...], list[Record]] = {}
    for record in run.records:
        if "split" in record:
            kinds.setdefault(tuple(name for name in record if name not in ("step", "split")), []).append(record)
    return [
        Table(
            ("step", *map(words, names)),
            [[number(record["step"]), *(number(record[name], "{:.4f}") for name in names)] for record in records],
        )
        for names, records in kinds.items()
    ]


def cost(run: RunFolder) -> list[Table]:
    """Return what the run took, and on what it ran."""
    result = run.result
    took = [
        ("seconds of training", number(result["train_seconds"], "{:,.1f}")),
        ("examples a second", number(result["samples_per_second"], "{:,.1f}")),
        ("most memory, MiB", number(result["peak_rss_mib"], "{:,.0f}")),
        ("parameters", number(result["num_parameters"])),
        ("steps", number(result["steps"])),
        ("of these skipped after an fp16 overflow", number(result["skipped_steps"])),
    ]
    ran_on = {"nlpbp": result.get("nlpbp_version"), **run.environment}
    return [
        Table(("what", "how much"), [[Cell(name), cell] for name, cell in took]),
        Table(("what", "is"), [[Cell(name), Cell(words(value))] for name, value in ran_on.items()]),
    ]


def steps_of_stages(run: RunFolder) -> list[list[Record]]:
    """Return the records of steps of each stage."""
    edges = [0, *stage_ends(run, last=True)]
    steps = [record for record in run.records if "split" not in record]
    return [[step for step in steps if first < step["step"] <= last] for first, last in pairwise(edges)]


def stage_ends(run: RunFolder, *, last: bool = False) -> list[int]:
    """Return the number of the last step of each stage, without (or with) that of the last one."""
    total, ends = 0, []
    for stage in run.result["stages"]:
        total += stage["steps"]
        ends.append(total)
    return ends if last else ends[:-1]


def _scored_balance(run: RunFolder) -> dict[str, dict[str, int]]:
    labels = run.predictions.get("label", []) if run.task in TASKS and target_type(run.task) != "continuous" else []
    counts = Counter(label for each in labels for label in (each if isinstance(each, list) else [each]))
    return {run.part: dict(counts)} if counts else {}


def _total(balance: Record, label: str) -> int:
    return sum(counts.get(label, 0) for counts in balance.values())


def _share(counts: Mapping[str, int], label: str) -> Cell:
    num, total = counts.get(label, 0), sum(counts.values())
    return Cell(f"{num:,} ({num / max(1, total):.1%})", float(num))


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _units(run: RunFolder) -> list[tuple[str, int, int, str]]:
    """Return (name, step before it, last step, metric) for each run of stages that are scored by one metric."""
    found: list[tuple[str, int, int, str]] = []
    edges = [0, *stage_ends(run, last=True)]
    for stage, first, last in zip(run.result["stages"], edges[:-1], edges[1:], strict=True):
        if found and found[-1][3] == stage["metric"]:
            name, begin, _, metric = found[-1]
            found[-1] = (f"{name}, {stage['name']}", begin, last, metric)
        else:
            found.append((str(stage["name"]), first, last, str(stage["metric"])))
    return found


def _scored_loss(record: Record, metric: str) -> float | None:
    """Return an evaluation's loss where it is in the units of the training loss."""
    return finite(record.get("loss" if metric == "loss" else "log_loss"))


def _bounds(run: RunFolder) -> list[tuple[int, int, float]]:
    """Return (first step, last step, norm that gradients were clipped to); a language model's settings stand under `lm`."""
    found = []
    for _, before, last, metric in _units(run):
        name = "lm" if metric == "loss" and "lm" in run.config else "optim"
        if (bound := finite(at(run.config, name, "max_grad_norm"))) is not None:
            found.append((before + 1, last, bound))
    return found
