"""Model cards, and the closing table of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nlpbp import __version__
from nlpbp.config.secrets import redact
from nlpbp.data.corpus import Corpus
from nlpbp.data.exports import code_span
from nlpbp.data.modality import Modality
from nlpbp.data.parts import Inputs
from nlpbp.report.against import against_sentences
from nlpbp.report.cells import baseline_words
from nlpbp.runs.result import RunResult
from nlpbp.tasks import get_task

MAX_LABELS = 50  # that a card names


def language_model_card(result: RunResult, corpus: Corpus, *, base_model: str, import_line: bool) -> str:
    """Write the model's README: what it is, how to use it, how good it is and on what it was trained."""
    part = "test" if "test" in result.metrics else "validation"
    metrics, (low, high) = result.metrics[part], result.intervals[part]["perplexity"] or (math.nan, math.nan)
    sizes = ", ".join(f"{name} {len(texts):,}" for name, texts in corpus.parts.items())
    needs = ["import nlpbp.text  # makes transformers know awd_lstm"] if import_line else []
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            "- nlpbp",
            "---",
            "",
            f"# {result.recipe}",
            "",
            f"A language model trained with nlpbp {__version__} from {code_span(redact(base_model))}.",
            "",
            "```python",
            *needs,
            "from transformers import pipeline",
            'write = pipeline("text-generation", model="PATH/TO/THIS/FOLDER")',
            'write("This film", max_new_tokens=40, do_sample=True)',
            "```",
            "",
            "## How good it is",
            "",
            f"Perplexity on the {part} texts: {metrics['perplexity']:.1f} a token [{low:.1f}, {high:.1f}] (95 %, over windows);",
            f"knowing only how frequent each token is: {result.baselines['unigram'][part]['perplexity']:.1f}.",
            "",
            "## Data",
            "",
            f"Texts: {sizes}. Fingerprint: `{corpus.fingerprint}`.",
            "",
            "## Limits",
            "",
            "It continues texts like those it was trained on, and says what they say; it knows nothing else. Perplexities compare",
            "only between models with the same tokenizer.",
            "",
        ]
    )


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


def model_card(result: RunResult, *, inputs: Inputs, modality: Modality) -> str:
    """Write the model's README: what it is, on what it was trained and scored, and where it may fail."""
    base, labels = code_span(redact(modality.card.base_model)), _named(inputs.fields.labels) or "a number"
    sizes = ", ".join(f"{name} {len(p):,}" for name, p in {"train": inputs.train, **inputs.scored}.items())
    kind = f"{'An' if modality.kind[0] in 'aeiou' else 'A'} {modality.kind}"
    chosen = f"Of the run's evaluations on the validation set, the best by {get_task(result.task).main_metric} gave the weights."
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"pipeline_tag: {modality.kind}-classification",
            "tags:",
            "- nlpbp",
            "---",
            "",
            f"# {result.recipe}",
            "",
            f"{kind} classifier ({result.task}) fine-tuned with nlpbp {__version__} from {base}. It answers {labels}.",
            "",
            "```python",
            *modality.card.usage,
            "```",
            "",
            *([modality.card.columns, ""] if modality.card.columns else []),
            "## How good it is",
            "",
            *_scores(result, inputs),
            "",
            *[f"- {line[0].upper()}{line[1:]}." for line in against_sentences(vars(result))],
            "",
            f"{chosen} The intervals do not cover the choice of random seed.",
            "",
            "## Data",
            "",
            f"Examples: {sizes}. Fingerprint of {modality.kind}s and labels: `{inputs.fingerprint}`.",
            "",
            "## Limits",
            "",
            modality.card.limits,
            "",
            "It was scored on data like its training data; on other sources, styles or times expect less, and measure before you",
            "rely on it. Its probabilities assume the training mix of labels.",
            "",
        ]
    )


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(map(code_span, labels[:MAX_LABELS]))
    left = len(labels) - MAX_LABELS
    return f"{shown} and {left:,} more labels (in `config.json`)" if left > 0 else shown


def _scores(result: RunResult, inputs: Inputs) -> list[str]:
    """Lay out the scores of the last part beside the baselines, as Markdown."""
    part = "test" if "test" in result.metrics else "validation"
    baselines = list(reversed(result.baselines))
    lines = [
        f"| {name} | {_with_interval(value, result.intervals[part][name])} | "
        + " | ".join(_number(result.baselines[kind][part][name]) for kind in baselines)
        + " |"
        for name, value in result.metrics[part].items()
    ]
    return [
        f"On {len(inputs.scored[part]):,} {part} examples, with 95 % bootstrap intervals over them:",
        "",
        f"| {part} | this model | {' | '.join(baseline_words(result.task, kind) for kind in baselines)} |",
        "|---" * (2 + len(baselines)) + "|",
        *lines,
    ]
