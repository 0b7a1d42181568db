"""Run folders made by hand, texts that would run if a page let them, and what a browser would make of a page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

PAYLOADS = (
    "<script>window.__xss=1</script>",
    "</script><script>window.__xss=1</script>",
    "</style><script>window.__xss=1</script>",
    "</title><script>window.__xss=1</script>",
    "</svg><script>window.__xss=1</script>",
    "</text><script>window.__xss=1</script>",
    "]]><script>window.__xss=1</script>",
    "--><script>window.__xss=1</script>",
    "<!--<script>window.__xss=1</script>",
    "<![CDATA[<script>window.__xss=1</script>]]>",
    "<ScRiPt src=//evil.example/x.js></sCrIpT>",
    "<script/src=data:,window.__xss=1></script>",
    "<img src=x onerror=window.__xss=1>",
    "<img src='x' onerror='window.__xss=1'>",
    '"><img src=x onerror=window.__xss=1>',
    "'><img src=x onerror=window.__xss=1>",
    '" onmouseover="window.__xss=1',
    "' onfocus='window.__xss=1' autofocus='",
    "` onclick=window.__xss=1 `",
    "<svg onload=window.__xss=1>",
    "<svg><script>window.__xss=1</script></svg>",
    "<svg><animate onbegin=window.__xss=1 attributeName=x dur=1s>",
    "<svg><a xlink:href='javascript:window.__xss=1'><text>x</text></a></svg>",
    "<math><mtext></p><script>window.__xss=1</script>",
    "<body onload=window.__xss=1>",
    "<iframe src=javascript:window.__xss=1></iframe>",
    "<iframe srcdoc='<script>parent.__xss=1</script>'></iframe>",
    "<a href=javascript:window.__xss=1>x</a>",
    "<a href='java\tscript:window.__xss=1'>x</a>",
    "<form action=javascript:window.__xss=1><input type=submit></form>",
    "<details open ontoggle=window.__xss=1>",
    "<video><source onerror=window.__xss=1></video>",
    "<object data=javascript:window.__xss=1></object>",
    "<embed src=https://evil.example/x.svg>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<style>@import 'https://evil.example/x.css'</style>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "$\\frac{1}{0}$ \\input{x} $<script>window.__xss=1</script>$ &#60;script&#62;\x00\u202e\ud800",
)

ADDRESSES = ("src", "srcset", "srcdoc", "href", "xlink:href", "action", "data")


class Page(HTMLParser):
    """What is on a page: its elements with their attributes, its scripts, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def sections(self) -> list[str]:
        return [attributes["id"] or "" for tag, attributes in self.elements if tag == "section"]

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.elements if tag == "a"]


def dangers(text: str) -> list[str]:
    """Say what on a page could run, load or lead away, beside the one script that its policy names."""
    page = Page(text)
    found = []
    for tag, attributes in page.elements:
        if tag in ("iframe", "object", "embed", "form", "base", "link", "img", "video", "math", "foreignobject", "animate"):
            found.append(f"<{tag}>")
        for name, value in attributes.items():
            outside = name in ("src", "srcdoc", "href", "xlink:href", "action", "data", "srcset") and not (value or "").startswith(
                "#"
            )
            if name.startswith("on") or outside or "javascript:" in (value or "").lower():
                found.append(f"<{tag} {name}={value!r}>")
    policies = [a.get("content") or "" for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    expected = ["default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-" + "".join(hashes) + "'"]
    if len(page.scripts) != 1 or policies != expected or sum(tag == "script" for tag, _ in page.elements) != 1:
        found.append(f"scripts {page.scripts} under {policies}")
    styles = "".join(re.findall(r"<style>.*?</style>", text, flags=re.DOTALL))
    if text.count("<style") != 1 or "url(" in styles or "@import" in styles:
        found.append("a style of others")
    return found


def make_run(
    folder: Path,
    *,
    labels: Sequence[str] = ("neg", "pos"),
    texts: Sequence[str] = ("a dull plot",),
    names: Sequence[str] = ("reviews.csv",),
    wrong: Sequence[int] = (0, 3),
    lr: float = 1e-3,
    fingerprint: str = "00aa11bb22cc33dd",
) -> Path:
    """Write the folder of a finished run of a classifier on 40 test examples; `texts` and `names` go where data put theirs.

    The examples `wrong` are answered wrongly: accuracy is 1 - len(wrong) / 40.
    """
    folder.mkdir(parents=True)
    labels, name = [str(label) for label in labels], names[0]
    num = 40
    targets = [row % len(labels) for row in range(num)]
    answers = [(target + (row in wrong)) % len(labels) for row, target in enumerate(targets)]
    probabilities = [[0.7 if k == answer else 0.3 / (len(labels) - 1) for k in range(len(labels))] for answer in answers]
    columns: dict[str, list[Any]] = {
        "id": list(range(100, 100 + num)),
        "reference": [_storable(f"{names[row % len(names)]}, row {row + 2}") for row in range(num)],
        "label": [_storable(labels[target]) for target in targets],
        "prediction": [_storable(labels[answer]) for answer in answers],
    }
    for index, label in enumerate(labels):
        columns[f"probability_{_storable(label)}"] = [row[index] for row in probabilities]
    pq.write_table(pa.table(columns), folder / "predictions.parquet")
    accuracy = 1 - len(wrong) / num
    metrics = {"accuracy": accuracy, "macro_f1": 0.912345678, "log_loss": 0.3512345678, "ece": 0.1112345678}
    intervals = {metric: [value - 0.05, min(1.0, value + 0.04)] for metric, value in metrics.items()}
    baselines = {"majority": {"accuracy": 0.5, "macro_f1": 0.33, "log_loss": 0.69, "ece": 0.01}}
    baselines["tfidf"] = {"accuracy": 0.8012345, "macro_f1": 0.79, "log_loss": 0.5, "ece": 0.07}
    stage = {"items": 640, "seconds": 4.0, "trained": ["head", name], "trained_parameters": 600, "lr": None, "metric": "accuracy"}
    stage |= {"best": 0.95, "clipped": 2, "skipped": 0, "steps": 20}
    result = {
        "recipe": "transformer_sentiment",
        "task": "single_label",
        "metrics": {"validation": metrics, "test": metrics},
        "intervals": {"validation": intervals, "test": intervals},
        "baselines": {kind: {"validation": scores, "test": scores} for kind, scores in baselines.items()},
        "num_parameters": 1200,
        "train_seconds": 8.125,
        "samples_per_second": 160.5,
        "peak_rss_mib": 512.5,
        "steps": 40,
        "best_step": 30,
        "clipped_share": 0.1,
        "skipped_steps": 0,
        "stages": [{"name": "head", **stage}, {"name": "all layers", **stage}],
        "nlpbp_version": "0.1.0",
        "data": {
            "fingerprint": fingerprint,
            "text": [texts[0]],
            "label": name,
            "labels": [_storable(label) for label in labels],
            "separator": None,
            "examples": {"train": 320, "validation": 40, "test": num},
            "balance": {"train": {_storable(label): 320 // len(labels) for label in labels}},
        },
    }
    _write(folder / "result.json", result)
    config = {"data": {"train": name, "text": [texts[0]]}, "optim": {"lr": lr, "max_grad_norm": 1.0}, "model": {"name": texts[0]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    _write(folder / "environment.json", {"threads": 2, "precision": "fp32", "torch": "2.13.0", "processes": 1})
    records = [
        {"step": step, "loss": 1 / step, "lr": lr * step / 40, "grad_norm": 3 / step, "clipped": step < 4, "stage": name}
        for step in range(1, 41)
    ]
    records += [{"step": step, "split": "validation", **metrics} for step in (20, 30, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curve = {"rates": [1e-5, 1e-4, 1e-3, 1e-2], "losses": [0.7, 0.6, 0.4, 0.9]}
    sweep = {"stage": 1, "name": name, "chosen": 1e-3, "curves": [curve], "rates": curve["rates"], "smoothed": curve["losses"]}
    _write(folder / "lr_finder_1.json", {**sweep, "suggestions": {"valley": 1e-3}, "refused": None})
    findings = [
        {"id": "copies", "title": text, "level": "warning", "count": 3, "share": 0.075, "message": text, "fix": text}
        | {"examples": [{"reference": names[0], "excerpt": text}], "details": {}}
        for text in texts
    ]
    _write(folder / "audit.json", {"source": name, "rows": 400, "parts": {"train": 320}, "findings": findings})
    bins = [{"confidence": 0.7, "accuracy": 0.95, "count": 40}, {"confidence": 0.9, "accuracy": None, "count": 0}]
    scores = {"ece": 0.1112, "brier": 0.2, "log_loss": 0.35}
    reliability = {"before": bins, "after": bins}
    selective = [{"coverage": 1.0, "accuracy": accuracy}, {"coverage": 0.5, "accuracy": 1.0}]
    _write(
        folder / "calibration.json",
        {"temperature": 0.5, "before": scores, "after": scores, "reliability": reliability, "selective": selective},
    )
    errors = [
        {"id": 100 + row, "reference": f"{name}, row {row + 2}", "text": text, "label": labels[0], "prediction": labels[1]}
        | {"probability": 0.987, "truncated_at": len(text) // 2, "attributions": [[word, -0.5] for word in text.split()]}
        for row, text in enumerate(texts)
    ]
    one = {"count": 10, "errors": 2, "rate": 0.2, "interval": [0.05, 0.5], "lift": 4.0, "p_adjusted": 0.01}
    slices = [{"slice": name, "value": text, **one} for text in texts[:12]]
    pairs = [{"label": labels[0], "prediction": labels[1], "count": 2}]
    _write(folder / "errors.json", {"part": "test", "most_confident": errors, "confused_pairs": pairs, "slices": slices})
    return folder


def make_language_model_run(folder: Path) -> Path:
    """Write the folder of a finished run of a language model."""
    make_run(folder)
    for name in ("predictions.parquet", "audit.json", "calibration.json", "errors.json", "lr_finder_1.json"):
        (folder / name).unlink()
    result = json.loads((folder / "result.json").read_text())
    metrics, intervals = {"loss": 2.5, "perplexity": 12.1825}, {"loss": [2.4, 2.6], "perplexity": [11.0, 13.5]}
    result |= {"task": "language_model", "metrics": {"test": metrics}, "intervals": {"test": intervals}, "tokens": {"test": 900}}
    result |= {"baselines": {"unigram": {"test": {"loss": 3.5, "perplexity": 33.1}}}, "recipe": "lm_awd_lstm"}
    result["stages"] = [{**result["stages"][0], "metric": "loss", "steps": 40}]
    result["data"] = {"fingerprint": "00", "examples": {"train": 320, "test": 40}}
    _write(folder / "result.json", result)
    records = [{"step": step, "loss": 4 / step, "lr": 0.1, "grad_norm": 0.1, "clipped": False} for step in range(1, 41)]
    records.append({"step": 40, "split": "validation", **metrics})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


def _storable(text: str) -> str:
    return text.replace("\ud800", "")  # Parquet holds no half of a surrogate pair
