"""What a run leaves behind: scores with intervals beside baselines, predictions, the model and its card."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from nlpbp import __version__
from nlpbp.analysis.intervals import bootstrap_intervals
from nlpbp.analysis.metrics import MAIN_METRIC, decide, task_metrics, tune_thresholds
from nlpbp.analysis.report_cells import BASELINES
from nlpbp.core.errors import ConfigError
from nlpbp.data.columns import Examples, Fields
from nlpbp.data.exports import code_span
from nlpbp.data.fields import pack_fields
from nlpbp.train.weights import full_state
from recipes.common.fit import Metrics, clean_up
from recipes.common.folder import Run, write_text
from recipes.common.inputs import Inputs, Part, targets_of
from recipes.common.looks import begin_looks
from recipes.common.medium import Medium
from recipes.common.report import leave_report
from recipes.common.saving import Progress
from recipes.common.secrets import redact

Array = np.ndarray[Any, Any]
Intervals = Mapping[str, list[float] | None]


@dataclass(frozen=True)
class RunResult:
    """What a finished run found; `out` is its folder. `metrics`, `intervals` and `baselines` are as in `result.json`."""

    recipe: str
    out: Path
    task: str
    metrics: dict[str, Metrics]
    intervals: dict[str, Intervals]
    baselines: dict[str, dict[str, Metrics]]
    num_parameters: int
    train_seconds: float
    samples_per_second: float
    peak_rss_mib: float


def finish(
    run: Run,
    inputs: Inputs,
    progress: Progress,
    *,
    model: nn.Module,
    medium: Medium,
    outputs: Mapping[str, Array],
    records: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    push_to_hub: str | None = None,
) -> RunResult:
    """Score `outputs` (by part) beside the baselines, write everything into the run folder, print the closing table.

    `records` are more to write, by the name of the file: those of `recipes.common.diagnosis`.

    Call it in every process, with the weights to keep in `model`; the main process does the work.
    """
    state = full_state(model)
    answer: list[RunResult | None] = [None]
    if run.accelerator.is_main_process:
        thresholds = decision_thresholds(inputs, outputs["validation"])
        metrics, intervals = score(inputs, outputs, thresholds=thresholds)
        result = RunResult(
            recipe=run.recipe,
            out=run.out,
            task=inputs.fields.task,
            metrics=metrics,
            intervals=intervals,
            baselines=score_baselines(inputs, *medium.linear_baseline()),
            num_parameters=sum(p.numel() for p in model.parameters()),
            train_seconds=sum(stage["seconds"] for stage in progress.stages),
            samples_per_second=samples_per_second(progress),
            peak_rss_mib=peak_rss_mib(),
        )
        plain = run.accelerator.unwrap_model(model)
        plain.config.decision_thresholds = None if thresholds is None else thresholds.tolist()
        medium.save(plain, state, run.out / "model", model_card(result, inputs=inputs, medium=medium))
        if inputs.test is not None:
            begin_looks(run.out, inputs.test.examples, by=run.recipe)
        for name, record in records.items():
            write_text(run.out / name, json.dumps(redact(dict(record)), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write_result(result, inputs=inputs, progress=progress, outputs=outputs, thresholds=thresholds)
        announce(run, result, progress)
        leave_report(run)
        answer = [result]
    broadcast_object_list(answer)
    clean_up(run)
    assert answer[0] is not None, "the main process has sent its result"
    if push_to_hub is not None and run.accelerator.is_main_process:
        run.say(f"sent to {upload(run.out / 'model', push_to_hub)}")
    return answer[0]


def samples_per_second(progress: Progress) -> float:
    """Return how many examples a second the last model trained on: those of its own stages, not of a language model's before it."""
    own = [stage for stage in progress.stages if stage["metric"] == progress.stages[-1]["metric"]]
    return float(sum(stage["items"] for stage in own) / max(1e-9, sum(stage["seconds"] for stage in own)))


def announce(run: Run, result: RunResult, progress: Progress) -> None:
    """Print the closing table, and where everything is."""
    clipped, skipped = (sum(stage[name] for stage in progress.stages) for name in ("clipped", "skipped"))
    lines = [f"gradient clipped in {clipped / max(1, progress.step):.0%} of steps"]
    lines[0] += f", {skipped} steps skipped after fp16 overflow" if skipped else ""
    lines += [f"model: {run.out / 'model'}", f"result: {run.out / 'result.json'}"]
    run.say(f"\n{closing_table(result)}\n\n" + "\n".join(lines))


def training_record(result: RunResult, progress: Progress) -> dict[str, Any]:
    """Return what `result.json` says of any training: scores, baselines, cost and stages."""
    return {
        "recipe": result.recipe,
        "task": result.task,
        "metrics": result.metrics,
        "intervals": result.intervals,
        "baselines": result.baselines,
        "num_parameters": result.num_parameters,
        "train_seconds": round(result.train_seconds, 3),
        "samples_per_second": round(result.samples_per_second, 3),
        "peak_rss_mib": round(result.peak_rss_mib, 1),
        "steps": progress.step,
        "best_step": progress.best_step,
        "clipped_share": round(sum(stage["clipped"] for stage in progress.stages) / max(1, progress.step), 4),
        "skipped_steps": sum(stage["skipped"] for stage in progress.stages),
        "stages": progress.stages,
        "nlpbp_version": __version__,
    }


def decision_thresholds(inputs: Inputs, outputs: Array) -> Array | None:
    """Tune multi-label thresholds on the validation part, and on it alone."""
    return tune_thresholds(targets_of(inputs.validation), outputs) if inputs.fields.task == "multi_label" else None


def save_model(model: Any, preprocessor: Any, state: dict[str, Any], *, folder: Path, card: str) -> None:
    """Write a folder that `from_pretrained` and `pipeline` load, with the tokenizer or image processor: complete, or not there."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, state_dict=state)
    preprocessor.save_pretrained(temporary)
    write_text(temporary / "README.md", card)
    trash = folder.with_name(f".trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():  # of an end that was interrupted before its result was written
        folder.rename(trash)
    temporary.rename(folder)
    shutil.rmtree(trash, ignore_errors=True)


def upload(folder: Path, repo: str) -> str:
    """Send a model folder to the hub; return its address there. Raises `ConfigError` when the hub refuses or is out of reach."""
    try:
        api = HfApi()
        name = api.create_repo(repo, exist_ok=True).repo_id
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload model")
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ConfigError(
            f"the model stays in {folder}: {repo} did not take it ({error})",
            column="push_to_hub",
            hint="log in with `hf auth login`",
        ) from error
    return name


def score(
    inputs: Inputs, outputs: Mapping[str, Array], *, thresholds: Array | None
) -> tuple[dict[str, Metrics], dict[str, Intervals]]:
    """Measure `outputs` (by part) and bootstrap 95 % intervals over the examples of the part."""
    metrics: dict[str, Metrics] = {}
    intervals: dict[str, Intervals] = {}
    for name, part in inputs.scored.items():
        given = (inputs.fields.task, targets_of(part), outputs[name])
        metrics[name] = task_metrics(*given, thresholds=thresholds)
        intervals[name] = bootstrap_intervals(*given, thresholds=thresholds)
    return metrics, intervals


def score_baselines(inputs: Inputs, linear: str, linear_outputs: Mapping[str, Array]) -> dict[str, dict[str, Metrics]]:
    """Measure what needs no model, the most frequent answer, and a linear model's outputs, on the same parts."""
    from nlpbp.analysis.baselines import majority_baseline  # scikit-learn: a second that `--help` need not wait

    task, num_labels, parts = inputs.fields.task, len(inputs.fields.labels), inputs.scored
    train_targets = targets_of(inputs.train)
    majority = {
        name: majority_baseline(task, train_targets, num_examples=len(part), num_labels=num_labels) for name, part in parts.items()
    }
    return {
        kind: {name: _baseline_metrics(task, parts, by_part, name) for name in parts}
        for kind, by_part in (("majority", majority), (linear, linear_outputs))
    }


def _baseline_metrics(task: str, parts: Mapping[str, Part], outputs: Mapping[str, Array], name: str) -> Metrics:
    """Score a baseline as the model is scored: multi-label thresholds are tuned on the validation part."""
    thresholds = tune_thresholds(targets_of(parts["validation"]), outputs["validation"]) if task == "multi_label" else None
    return task_metrics(task, targets_of(parts[name]), outputs[name], thresholds=thresholds)


def prediction_table(
    examples: Examples, ids: Array, outputs: Array, fields: Fields, *, thresholds: Array | None
) -> dict[str, list[Any]]:
    """Make the columns id, reference, label (where known), prediction, and one probability a label."""
    columns: dict[str, list[Any]] = {"id": ids.tolist(), "reference": redact(list(examples.references))}
    if examples.targets is not None:
        columns["label"] = answer_names(examples.targets, fields)
    columns["prediction"] = answer_names(decide(fields.task, outputs, thresholds), fields)
    for index, label in enumerate(fields.labels):
        columns[f"probability_{label}"] = outputs[:, index].astype(float).tolist()
    return columns


def answer_names(decisions: Array, fields: Fields) -> list[Any]:
    """Turn decisions, or targets, into what a reader calls them: a label each, a list of labels, or a number."""
    if fields.task == "regression":
        return [float(value) for value in decisions]
    if fields.task == "multi_label":
        return [[label for label, holds in zip(fields.labels, row, strict=True) if holds] for row in decisions]
    return [fields.labels[index] for index in decisions]


def write_result(
    result: RunResult, *, inputs: Inputs, progress: Progress, outputs: Mapping[str, Array], thresholds: Array | None
) -> None:
    """Write `result.json` and `predictions.parquet` (of the test part, or without one of the validation part)."""
    name, part = list(inputs.scored.items())[-1]
    table = prediction_table(part.examples, part.ids, outputs[name], inputs.fields, thresholds=thresholds)
    pq.write_table(pa.table(table), result.out / "predictions.parquet")
    record = training_record(result, progress) | {
        "data": {
            "fingerprint": inputs.fingerprint,
            "text": list(inputs.fields.text),
            "fields": pack_fields(inputs.fields.kinds, inputs.fields.statistics),
            "label": inputs.fields.label,
            "labels": list(inputs.fields.labels),
            "separator": inputs.fields.separator,
            "examples": {"train": len(inputs.train)} | {key: len(value) for key, value in inputs.scored.items()},
            "balance": label_balance(inputs),
        },
    }
    write_text(result.out / "result.json", json.dumps(redact(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def label_balance(inputs: Inputs) -> dict[str, dict[str, int]]:
    """Count how many examples of each part have each label; empty where a number is predicted."""
    if inputs.fields.task == "regression":
        return {}
    labels = range(len(inputs.labels))
    counts = {
        name: [int((targets == label).sum() if targets.ndim == 1 else targets[:, label].sum()) for label in labels]
        for name, part in {"train": inputs.train, **inputs.scored}.items()
        for targets in [targets_of(part)]
    }
    return {name: dict(zip(inputs.labels, numbers, strict=True)) for name, numbers in counts.items()}


def peak_rss_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def closing_table(result: RunResult) -> str:
    """Lay out the scores of the last part beside the baselines, one row a system."""
    part = "test" if "test" in result.metrics else "validation"
    metrics, intervals = result.metrics[part], result.intervals[part]
    header = [part, *metrics]
    rows = [[f"{result.recipe}", *(_with_interval(value, intervals[name]) for name, value in metrics.items())]]
    rows += [
        [f"{kind} baseline", *(_number(by_part[part][name]) for name in metrics)]
        for kind, by_part in result.baselines.items()
        if part in by_part
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _with_interval(value: float | None, interval: list[float] | None) -> str:
    return _number(value) if interval is None else f"{_number(value)} [{_number(interval[0])}, {_number(interval[1])}]"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def model_card(result: RunResult, *, inputs: Inputs, medium: Medium) -> str:
    """Write the model's README: what it is, on what it was trained and scored, and where it may fail."""
    part = "test" if "test" in result.metrics else "validation"
    baselines = list(reversed(result.baselines))
    lines = [
        f"| {name} | {_with_interval(value, result.intervals[part][name])} | "
        + " | ".join(_number(result.baselines[kind][part][name]) for kind in baselines)
        + " |"
        for name, value in result.metrics[part].items()
    ]
    base, labels = code_span(redact(medium.card.base_model)), ", ".join(map(code_span, inputs.fields.labels)) or "a number"
    sizes = ", ".join(f"{name} {len(p):,}" for name, p in {"train": inputs.train, **inputs.scored}.items())
    kind = "A text" if medium.kind == "text" else "An image"
    chosen = f"The weights are the best of the run by validation {MAIN_METRIC[result.task]}."
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"pipeline_tag: {medium.kind}-classification",
            "tags:",
            "- nlpbp",
            "---",
            "",
            f"# {result.recipe}",
            "",
            f"{kind} classifier ({result.task}) fine-tuned with nlpbp {__version__} from {base}. It answers {labels}.",
            "",
            "```python",
            *medium.card.usage,
            "```",
            "",
            *([medium.card.columns, ""] if medium.card.columns else []),
            "## How good it is",
            "",
            f"On {len(inputs.scored[part]):,} {part} examples, with 95 % bootstrap intervals over them:",
            "",
            f"| {part} | this model | {' | '.join(BASELINES[kind] for kind in baselines)} |",
            "|---" * (2 + len(baselines)) + "|",
            *lines,
            "",
            f"{chosen} The intervals do not cover the choice of random seed.",
            "",
            "## Data",
            "",
            f"Examples: {sizes}. Fingerprint of {medium.kind}s and labels: `{inputs.fingerprint}`.",
            "",
            "## Limits",
            "",
            medium.card.limits,
            "",
            "It was scored on data like its training data; on other sources, styles or times expect less, and measure before you",
            "rely on it. Its probabilities assume the training mix of labels.",
            "",
        ]
    )
