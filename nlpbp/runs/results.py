"""What a run leaves behind: scores with intervals beside baselines, predictions, the model and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate.utils import broadcast_object_list
from torch import nn

from nlpbp import __version__
from nlpbp.config import BasicSettings
from nlpbp.config.secrets import redact
from nlpbp.data.fields import pack_fields
from nlpbp.data.modality import Modality
from nlpbp.data.parts import Inputs, targets_of
from nlpbp.report.against import against_sentences
from nlpbp.runs.advice import advise, closing_lines
from nlpbp.runs.cards import closing_table, model_card
from nlpbp.runs.facts import classifier_facts, facts_of
from nlpbp.runs.fit import Metrics, clean_up
from nlpbp.runs.folder import Run, write_text
from nlpbp.runs.held_out import begin_test_uses
from nlpbp.runs.predictions import decision_thresholds, prediction_table
from nlpbp.runs.progress import Progress
from nlpbp.runs.report import leave_report
from nlpbp.runs.result import Array, Intervals, RunResult, peak_rss_mib, samples_per_second
from nlpbp.tasks import bootstrap_intervals, task_metrics
from nlpbp.tasks.baselines import constant_baseline
from nlpbp.tasks.differences import Answers, against_record, paired_differences
from nlpbp.tasks.task import get_task
from nlpbp.train.weights import full_state


def finish(
    run: Run[BasicSettings],
    inputs: Inputs,
    progress: Progress,
    *,
    model: nn.Module,
    modality: Modality,
    outputs: Mapping[str, Array],
    records: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> RunResult:
    """Score `outputs` (by part) beside the baselines, write everything into the run folder, print the closing table.

    `records` are more to write, by the name of the file: those of `nlpbp.runs.diagnosis`.

    Call it in every process, with the weights to keep in `model`; the main process does the work.
    """
    state = full_state(model)
    answer: list[RunResult | None] = [None]
    if run.accelerator.is_main_process:
        thresholds = decision_thresholds(inputs, outputs["validation"])
        metrics, intervals = score(inputs, outputs, thresholds=thresholds)
        baselines = baseline_answers(inputs, modality.baselines())
        result = RunResult(
            recipe=run.recipe,
            out=run.out,
            task=inputs.fields.task,
            metrics=metrics,
            intervals=intervals,
            baselines=score_baselines(inputs, baselines),
            num_parameters=sum(p.numel() for p in model.parameters()),
            train_seconds=sum(stage["seconds"] for stage in progress.stages),
            samples_per_second=samples_per_second(progress),
            peak_rss_mib=peak_rss_mib(),
            against=compare_with_baselines(inputs, outputs, baselines, thresholds=thresholds),
        )
        more = classifier_facts(inputs, modality, Answers(outputs["validation"], thresholds), baselines)
        result = replace(result, advice=advise(replace(facts_of(run, result, progress), **more)))
        plain = run.accelerator.unwrap_model(model)
        plain.config.decision_thresholds = None if thresholds is None else thresholds.tolist()
        plain.config.nlpbp_task = inputs.fields.task
        modality.save(plain, state, run.out / "model", model_card(result, inputs=inputs, modality=modality))
        if inputs.test is not None:
            begin_test_uses(run.out, inputs.test.examples, by=run.recipe)
        for name, record in records.items():
            write_text(run.out / name, json.dumps(redact(dict(record)), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write_result(result, inputs=inputs, progress=progress, outputs=outputs, thresholds=thresholds)
        close(run, result, progress, warning=getattr(inputs.fields, "task_warning", ""))
        answer = [result]
    broadcast_object_list(answer)
    clean_up(run)
    assert answer[0] is not None, "the main process has sent its result"
    return answer[0]


def close(run: Run[Any], result: RunResult, progress: Progress, *, warning: str = "") -> None:
    """Print the closing table and where everything is, leave the report, and say last what the scores mean.

    `warning` is one of the task that was trained, if there is any.
    """
    announce(run, result, progress)
    leave_report(run)
    said = against_sentences(vars(result))
    run.say("\n" + "\n".join(closing_lines(vars(result), said, result.advice, out=str(run.out), warning=warning)))


def announce(run: Run[Any], result: RunResult, progress: Progress) -> None:
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
        "against": dict(result.against),
        "advice": [asdict(one) for one in result.advice],
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


def baseline_answers(inputs: Inputs, linear: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Answers]]:
    """Return by name and part what the best constant answer and linear models answer, from the outputs of these.

    They are decided as the model's outputs are: thresholds are tuned on the validation set.
    """
    task, num_labels, parts = get_task(inputs.fields.task), len(inputs.fields.labels), inputs.scored
    train_targets = targets_of(inputs.train)
    constant = {
        name: constant_baseline(task.name, train_targets, num_examples=len(part), num_labels=num_labels)
        for name, part in parts.items()
    }
    outputs = {task.constant_name: constant, **linear}
    thresholds = {kind: decision_thresholds(inputs, by_part["validation"]) for kind, by_part in outputs.items()}
    return {kind: {name: Answers(by_part[name], thresholds[kind]) for name in parts} for kind, by_part in outputs.items()}


def score_baselines(inputs: Inputs, baselines: Mapping[str, Mapping[str, Answers]]) -> dict[str, dict[str, Metrics]]:
    """Measure what baselines answer, by name and part, on the same parts as the model."""
    return {
        kind: {
            name: task_metrics(inputs.fields.task, targets_of(part), by_part[name].outputs, thresholds=by_part[name].thresholds)
            for name, part in inputs.scored.items()
        }
        for kind, by_part in baselines.items()
    }


def compare_with_baselines(
    inputs: Inputs, outputs: Mapping[str, Array], baselines: Mapping[str, Mapping[str, Answers]], *, thresholds: Array | None
) -> dict[str, dict[str, Any]]:
    """Say by baseline how the model's main score of the last part does beside it, as `result.json` has it."""
    name, part = list(inputs.scored.items())[-1]
    others, main = {kind: by_part[name] for kind, by_part in baselines.items()}, get_task(inputs.fields.task).main
    found = paired_differences(inputs.fields.task, targets_of(part), Answers(outputs[name], thresholds), others)
    return {kind: against_record(main, differences[main.name]) for kind, differences in found.items()}


def write_result(
    result: RunResult, *, inputs: Inputs, progress: Progress, outputs: Mapping[str, Array], thresholds: Array | None
) -> None:
    """Write `result.json` and `predictions.parquet` (of the test set, or without one of the validation set)."""
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
    if inputs.fields.target_type == "continuous":
        return {}
    labels = range(len(inputs.labels))
    counts = {
        name: [int((targets == label).sum() if targets.ndim == 1 else targets[:, label].sum()) for label in labels]
        for name, part in {"train": inputs.train, **inputs.scored}.items()
        for targets in [targets_of(part)]
    }
    return {name: dict(zip(inputs.labels, numbers, strict=True)) for name, numbers in counts.items()}
