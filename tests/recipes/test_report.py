"""Every finished run leaves its report, and a report that cannot be made costs the run nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nlpbp.audit.rows import rows_of
from nlpbp.cli import report as script
from nlpbp.config.data import Texts
from nlpbp.config.run import Report
from nlpbp.core.errors import ConfigError
from nlpbp.data.readers import read_table
from nlpbp.runs import report
from nlpbp.runs.audit import drawn
from nlpbp.runs.report import write_comparison, write_report
from recipes import lm_awd_lstm, lm_transformer, transformer_sentiment
from report_pages import Page, dangers
from run_script import run_script


@pytest.fixture(scope="module", autouse=True)
def reports() -> Iterator[None]:
    """Let runs leave their report, which most tests do without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NLPBP_REPORT", raising=False)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    transformer_sentiment.run(dataclasses.replace(transformer_sentiment.tiny(), epochs=1, threads=1, out=str(out)))
    return out


def test_a_run_leaves_a_report_that_says_what_its_result_says(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    result = json.loads((run / "result.json").read_text())
    numbers = {float(a["data-number"]) for _, a in Page(page).elements if a.get("data-number")}
    assert set(result["metrics"]["test"].values()) <= numbers
    assert dangers(page) == []
    balance = result["data"]["balance"]
    assert {part: sum(counts.values()) for part, counts in balance.items()} == result["data"]["examples"]
    text = Page(page).text  # the tiny form's own choices differ from the defaults
    assert text.index("data.max_length") < text.index("All other settings") < text.index("data.task")


def test_the_script_makes_it_again_and_compares(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "report.html").read_text(encoding="utf-8")
    done = run_script("report", str(run), "--out", "again.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == before
    monkeypatch.chdir(tmp_path)
    script.report([str(run), str(run)])
    assert "No difference: the answers agree on all" in capsys.readouterr().out
    assert (tmp_path / "comparison.html").is_file()
    with pytest.raises(ConfigError, match=r"has no config\.yaml"):
        script.report([str(tmp_path)])
    with pytest.raises(ConfigError, match="cannot be written"):
        script.report([str(run), "--out", "nowhere/page.html"])


def test_settings_that_differ_are_named(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("result.json", "predictions.parquet", "metrics.jsonl"):
        (other / name).write_bytes((run / name).read_bytes())
    (other / "config.yaml").write_text((run / "config.yaml").read_text().replace("lr: 0.01", "lr: 0.02"))
    found, settings = write_comparison(run, other, out=tmp_path / "page.html")
    assert settings == ["--optim.lr was 0.01 and is 0.02"]
    assert found.better is None


def test_a_report_that_fails_is_told_and_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path, **options: Any) -> None:
        raise RuntimeError("no ink")

    out, config = tmp_path / "run", lm_awd_lstm.tiny()
    with monkeypatch.context() as patched:
        patched.setattr(report, "write_report", fail)
        result = lm_awd_lstm.run(dataclasses.replace(config, lm=dataclasses.replace(config.lm, epochs=1), threads=1, out=str(out)))
    assert "the report could not be made (RuntimeError: no ink)" in capsys.readouterr().out
    assert (out / "result.json").is_file()
    assert not (out / "report.html").exists()
    page = write_report(out).read_text(encoding="utf-8")  # and later it can be made
    assert f"the perplexity is {result.metrics['test']['perplexity']:.3g}" in Page(page).text


@pytest.mark.parametrize(("recipe", "texts"), [(lm_awd_lstm, "held_out"), (lm_awd_lstm, "all"), (lm_transformer, "none")])
def test_a_language_model_run_audits_its_texts_and_says_what_it_looked_at(recipe: Any, texts: Any, tmp_path: Path) -> None:
    rows = [{"text": f"quokka {i} of {3 * i} went to sea and {i % 7} came home", "stars": i % 5} for i in range(200)]
    rows += [*rows[:20], {"text": ""}, {"text": " "}, *({"text": f"cafÃ© number {i}"} for i in range(5))]
    data = Texts(train=rows, text=("text",), validation_share=0.1, test_share=0.1)
    recipe.run(dataclasses.replace(recipe.tiny(), data=data, report=Report(texts=texts), threads=1, out=str(tmp_path / "run")))
    record = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    assert sum(record["parts"].values()) == 227  # with the empty ones, which are left out of training
    found = {finding["id"]: finding for finding in record["findings"]}
    assert found["missing_values"]["details"] == {"text": {"empty": 1, "white space": 1}}
    assert sum(found["exact_duplicates"]["details"].values()) + sum(found["leaks"]["details"]["counts"].values()) == 20
    assert found["encoding"]["details"] == {"mojibake": 5}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    text = Page(page).text
    assert "audit" in Page(page).sections()
    assert dangers(page) == []
    assert found["encoding"]["message"] in text
    assert "Rows: train 18" in text and "No problem found: " in text
    assert "one text with several labels (there are no labels)" in text
    assert ("quokka" in page) == (texts == "all")


def test_a_part_of_many_rows_is_drawn_with_all_its_copies() -> None:
    records = [{"text": f"text {i // 2} is here"} for i in range(2000)]
    parts = [rows_of(read_table(records)), rows_of(read_table(records[::2]), part="test")]
    kept, share = drawn(parts, max_rows=600)
    assert share == 0.2
    assert 140 < len(kept[1]) < 260
    assert len(kept[0]) == 2 * len(kept[1])  # each with its copy
    assert set(kept[0].texts) == set(kept[1].texts)
    assert drawn(parts, max_characters=sum(len(text) for part in parts for text in part.texts)) == (parts, 1.0)
    assert drawn(parts, max_characters=5_000)[1] < 0.2
