"""What a report says, as plain data in the order of a reader's questions; `nlpbp.analysis.report` makes the page of it.

Every function takes a finished run and returns what one section shows, or nothing where the run has no such thing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nlpbp.analysis import plots
from nlpbp.analysis.metrics import MAIN_METRIC, higher_is_better
from nlpbp.analysis.run_folder import Record, RunFolder, at, finite, section

BASELINES = {
    "tfidf": "TF-IDF with a linear model",
    "majority": "the most frequent answer",
    "unigram": "token frequencies alone",
    "before": "the model before training",
}
METRICS = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "log_loss": "log loss, nats",
    "ece": "calibration error",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "spearman": "Spearman's correlation",
    "loss": "loss, nats a token",
}
LOSSES = ("log_loss", "loss")  # of an evaluation, in the units of the training loss
MAX_TEXT = 2000  # characters of an example that a page shows
MAX_MATRIX = 12  # labels whose confusions can be read from a drawing
SIGNIFICANT = 0.05  # of a slice's adjusted p


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place, and the number it stands for, if it is one: exact, for sorting."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a head; a column of numbers is one whose first number is not None."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Strip:
    """Where a value, its interval and other values stand on a common scale, in percent of its width."""

    value: float
    low: float
    high: float
    others: Sequence[float]


@dataclass(frozen=True)
class Score:
    """A metric with its interval, beside the baselines'; `numbers` are the value and those of the baselines."""

    name: str
    cells: Sequence[Cell]
    interval: str
    strip: Strip | None


@dataclass(frozen=True)
class Drawing:
    """A drawing as SVG for a page, with what it shows."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Piece:
    """Some text, how much it spoke for the answer (-1 to 1, None: not known), and whether the model read it."""

    text: str
    weight: float | None
    was_read: bool


def verdict(run: RunFolder) -> list[str]:
    """Say how good the model is and whether that is more than a baseline does, then what else to know first.

    The first sentence is the headline.
    """
    metric = "perplexity" if run.task == "language_model" else MAIN_METRIC[run.task]
    value, interval = run.result["metrics"][run.part][metric], run.result["intervals"][run.part][metric]
    num = run.result["data"]["examples"][run.part]
    where = f"On {num:,} {run.part} {'texts' if run.task == 'language_model' else 'examples'}"
    if value is None:
        return [f"{where} the {words(metric)} is undefined."]
    held = f" (95 % interval {shown(metric, interval[0])} to {shown(metric, interval[1])})" if interval else ""
    measured = f"{shown(metric, value)} of the answers are right" if metric == "accuracy" else f"the {words(metric)} is {value:.3g}"
    said = [f"{where}, {measured}{held}."]
    said += [line for line in (_beside_baseline(run, metric, value, interval or [value, value]),) if line]
    return said + [line for line in (_kept(run), _calibrated(run), _worst_slice(run)) if line]


def is_better(run: RunFolder) -> bool | None:
    """Tell whether the model is better than its best baseline; None where the interval holds that one, or there is none."""
    metric = MAIN_METRIC[run.task]
    value, interval = (at(run.result, kind, run.part, metric) for kind in ("metrics", "intervals"))
    best = _best_baseline(run, metric)
    if value is None or best is None:
        return None
    sign = 1.0 if higher_is_better(metric) else -1.0
    low, high = sorted(sign * bound for bound in interval or [value, value])
    return None if low <= sign * best[1] <= high else sign * best[1] < low


def scores(run: RunFolder) -> dict[str, list[Score]]:
    """Return the scores of each part, the one that counts first."""
    parts = sorted(run.result["metrics"], key=lambda part: part != run.part)
    return {part: [_score(run, part, metric) for metric in run.result["metrics"][part]] for part in parts}


def baselines(run: RunFolder) -> list[str]:
    """Name the baselines, in the order of the cells of a score."""
    return [BASELINES.get(kind, kind) for kind in run.result["baselines"]]


def wrong_answers(run: RunFolder) -> list[dict[str, Any]]:
    """Return the errors that the model was surest of, their texts in pieces."""
    return [
        {
            "reference": str(error.get("reference") or f"example {error.get('id')}"),
            "label": words(error["label"]),
            "prediction": words(error["prediction"]),
            "probability": finite(error.get("probability")),
            "pieces": pieces(error.get("text") or "", error.get("attributions") or (), cut=error.get("truncated_at")),
            "hidden": max(0, len(error.get("text") or "") - MAX_TEXT),
        }
        for error in run.errors.get("most_confident", ())
    ]


def pieces(text: str, weights: Sequence[tuple[str, float]], *, cut: int | None = None) -> list[Piece]:
    """Cut a text where the weight of its words changes and where the model stopped reading; words it does not hold are passed over.

    >>> [(piece.text, piece.weight, piece.was_read) for piece in pieces("so bad, alas", [("bad", 0.5)], cut=7)]
    [('so ', None, True), ('bad', 1.0, True), (',', None, True), (' alas', None, False)]
    """
    most = max((abs(weight) for _, weight in weights), default=0.0) or 1.0
    end, spans = 0, list[tuple[int, int, float]]()
    for word, weight in weights:
        start = text.find(word, end) if word else -1
        if start >= 0:
            end = start + len(word)
            spans.append((start, end, weight / most))
    length = min(len(text), MAX_TEXT)
    edges = sorted({0, length, *(edge for start, end, _ in spans for edge in (start, end)), *([cut] if cut is not None else [])})
    found = []
    for start, end in pairwise(edges):
        if 0 <= start < end <= length:
            share = next((share for low, high, share in spans if low <= start < high), None)
            found.append(Piece(text[start:end], share, cut is None or end <= cut))
    return found


def slices(run: RunFolder) -> tuple[Drawing, Table] | None:
    """Return the groups of examples with their error rates, the worst first."""
    found = run.errors.get("slices", ())
    if not found:
        return None
    head = ("slice", "value", "examples", "errors", "error rate", "95 % interval", "lift", "adjusted p")
    rows = [
        [
            Cell(str(one["slice"])),
            Cell(str(one["value"])),
            number(one["count"]),
            number(one["errors"]),
            number(one["rate"], "{:.1%}"),
            Cell(f"{one['interval'][0]:.1%} to {one['interval'][1]:.1%}", one["interval"][0]),
            number(one["lift"], "{:.2f}"),
            number(one["p_adjusted"], "{:.2g}"),
        ]
        for one in found
    ]
    first = found[0]
    overall = first["rate"] / first["lift"] if first["lift"] else 0.0
    drawn = found[:12]
    svg = plots.slice_rates(
        [f"{one['slice']}: {one['value']}" for one in drawn],
        [one["rate"] for one in drawn],
        [(one["interval"][0], one["interval"][1]) for one in drawn],
        overall=overall,
    )
    return Drawing("Error rate of each group of examples, with its 95 % interval", plots.inline(svg)), Table(head, rows)


def confusions(run: RunFolder) -> tuple[Drawing | None, Table | None] | None:
    """Return which label was answered as which: a drawing where there are few labels, and the most frequent errors."""
    if run.task != "single_label" or not run.predictions:
        return None
    labels = [str(label) for label in run.result["data"]["labels"]]
    counts = Counter(zip(run.predictions["label"], run.predictions["prediction"], strict=True))
    drawing = None
    if len(labels) <= MAX_MATRIX:
        svg = plots.confusion_matrix([[counts[label, answer] for answer in labels] for label in labels], labels)
        drawing = Drawing(f"{run.part.capitalize()} examples: the label down, the answer across", plots.inline(svg))
    pairs = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]][:20]
    rows = [[Cell(str(label)), Cell(str(answer)), number(count)] for (label, answer), count in pairs]
    return drawing, Table(("label", "answer", "examples"), rows) if rows else None


def calibration(run: RunFolder) -> tuple[Drawing, Sequence[Table]] | None:
    """Return how far confidence can be believed, before and after one temperature, and accuracy where it answers only when sure."""
    found = run.calibration
    if not found:
        return None
    curves = {
        name: [(one["confidence"], one["accuracy"], one["count"]) for one in found["reliability"][key]]
        for name, key in (("as trained", "before"), (f"at temperature {found['temperature']:.2f}", "after"))
    }
    measures = Table(
        ("measure", "as trained", "at the temperature"),
        [
            [Cell(label), number(found["before"][name]), number(found["after"][name])]
            for name, label in (("ece", "calibration error"), ("brier", "Brier score"), ("log_loss", "log loss, nats"))
        ],
    )
    rows = [[number(one["coverage"], "{:.0%}"), number(one["accuracy"], "{:.1%}")] for one in found.get("selective", ())]
    tables = [measures, *([Table(("answered, the surest first", "of these right"), rows)] if rows else [])]
    caption = "On the dashed line, of answers given with 80 % confidence 80 % are right; large dots are many examples"
    return Drawing(caption, plots.inline(plots.reliability_diagram(curves))), tables


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
        labels = sorted({label for counts in balance.values() for label in counts}, key=lambda label: -_total(balance, label))
        rows = [[Cell(str(label)), *(_share(balance[part], label) for part in balance)] for label in labels]
        tables.append(Table(("label", *balance), rows))
    return tables


def audit(run: RunFolder) -> list[dict[str, Any]]:
    """Return what was found in the data, warnings first; what is in order is left out."""
    found = [
        {
            "level": words(finding["level"]),
            "title": words(finding["title"]),
            "count": number(finding["count"]).text,
            "share": number(finding.get("share"), "{:.1%}").text,
            "message": finding["message"],
            "fix": finding.get("fix") or "",
            "examples": [
                (one.get("reference") or "", (one.get("excerpt") or "")[:MAX_TEXT]) for one in finding.get("examples", ())
            ],
        }
        for finding in run.audit.get("findings", ())
        if finding["level"] != "fine"
    ]
    return sorted(found, key=lambda one: one["level"] != "warning")


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


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names.

    >>> flat({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def number(value: float | None, form: str | None = None) -> Cell:
    """Show a number, whole ones with thousands; a missing one is a dash.

    >>> number(12345).text, number(0.123456).text, number(None).text
    ('12,345', '0.1235', '–')
    """
    if value is None:
        return Cell("–")
    return Cell((form or ("{:,}" if isinstance(value, int) else "{:.4g}")).format(value), float(value))


def words(value: Any) -> str:
    """Show any plain value: a metric by its name in words, a list by its items, None as a dash.

    >>> words(["a", 1]), words(None), words("macro_f1")
    ('a, 1', '–', 'macro F1')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(item, Mapping) for item in value) else ", ").join(map(words, value)) or "none"
    return METRICS.get(value, value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def shown(metric: str, value: float) -> str:
    """Show a metric's value in a sentence: accuracy in percent."""
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.3g}"


def _score(run: RunFolder, part: str, metric: str) -> Score:
    value, interval = run.result["metrics"][part][metric], at(run.result, "intervals", part, metric)
    others = [at(by_part, part, metric) for by_part in run.result["baselines"].values()]
    cells = [number(each, "{:.4f}") for each in (value, *others)]
    if value is None or not interval:
        return Score(words(metric), cells, "–", None)
    low, high = interval
    # A share of something stands on the scale from 0 to 1, anything else between the ends of what is shown.
    bounded = metric in ("accuracy", "macro_f1", "micro_f1", "ece")
    seen = [value, low, high, *(other for other in others if other is not None)]
    start, end = (0.0, 1.0) if bounded else (min(seen), max(seen))
    start, end = (start, end) if bounded else (start - 0.05 * (end - start), end + 0.05 * (end - start) or end + 1.0)
    place = [round(100 * (each - start) / ((end - start) or 1.0), 2) for each in seen]
    return Score(words(metric), cells, f"{low:.4f} to {high:.4f}", Strip(place[0], place[1], place[2], place[3:]))


def _best_baseline(run: RunFolder, metric: str) -> tuple[str, float] | None:
    found = [
        (kind, value)
        for kind, by_part in run.result["baselines"].items()
        if (value := finite(at(by_part, run.part, metric))) is not None
    ]
    direction = 1.0 if higher_is_better(metric) else -1.0
    return max(found, key=lambda one: direction * one[1], default=None)


def _beside_baseline(run: RunFolder, metric: str, value: float, interval: Sequence[float]) -> str:
    best = _best_baseline(run, metric)
    if best is None:
        return ""
    name, theirs = BASELINES.get(best[0], best[0]), shown(metric, best[1])
    better = is_better(run)
    if better is None:
        return (
            f"That cannot be told from the best baseline, {name} ({theirs}): the interval holds it, so the difference may be luck."
        )
    if not better:
        return f"That is worse than the best baseline, {name} ({theirs})."
    return f"That is better than the best baseline, {name} ({theirs}), by more than the luck of the examples."


def _kept(run: RunFolder) -> str:
    step, steps = run.result.get("best_step"), run.result.get("steps")
    if not step or not steps:
        return ""
    return f"The weights are those of step {step:,} of {steps:,}, the best on the validation part. Another seed would give others."


def _calibrated(run: RunFolder) -> str:
    before, after = (finite(at(run.calibration, when, "ece")) for when in ("before", "after"))
    if before is None or after is None:
        return ""
    return (
        f"Its confidence is off by {before:.1%} on average, and by {after:.1%} at temperature {run.calibration['temperature']:.2f}."
    )


def _worst_slice(run: RunFolder) -> str:
    worst = next((one for one in run.errors.get("slices", ()) if one["p_adjusted"] <= SIGNIFICANT and one["lift"] > 1), None)
    if worst is None:
        return ""
    where = f"where {worst['slice']} is {worst['value']}"
    return f"Errors are {worst['lift']:.1f} times as frequent {where}: {worst['rate']:.0%} of those answers are wrong."


def _scored_balance(run: RunFolder) -> dict[str, dict[str, int]]:
    labels = run.predictions.get("label", []) if run.task in ("single_label", "multi_label") else []
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


def _bounds(run: RunFolder) -> list[float]:
    found = {finite(at(run.config, name, "max_grad_norm")) for name in ("lm", "optim")}
    return sorted(bound for bound in found if bound is not None)
