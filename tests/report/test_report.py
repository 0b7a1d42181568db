"""The report: everything is in it, its numbers are the run's, and nothing from data runs, loads or leads away."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlpbp.core.errors import ConfigError
from nlpbp.evaluation.run_folder import read_run
from nlpbp.report import against
from nlpbp.report import page as report
from nlpbp.report import results as report_results
from nlpbp.report.cells import MAX_TEXT
from nlpbp.report.page import comparison_report, run_report
from report_pages import PAYLOADS, Page, dangers, make_language_model_run, make_run

SECTIONS = ["verdict", "findings", "scores", "errors", "slices", "confusion", "calibration", "data", "audit", "settings"]
SECTIONS += ["stages", "training", "rates", "evaluations", "cost"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "whole", texts=("a dull plot, yet a fine film", "dull"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return run_report(folder, defaults={"optim": {"lr": 1e-4, "max_grad_norm": 1.0}})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_report(make_run(tmp_path_factory.mktemp("runs") / "hostile", labels=PAYLOADS[:12], texts=PAYLOADS, names=PAYLOADS))


def test_every_section_is_there_and_the_contents_lead_to_it(folder: Path, page: str) -> None:
    config = (folder / "config.yaml").read_text().replace("max_grad_norm: 1.0", "schedule: constant")
    (folder.parent / "noted").mkdir()
    for file in folder.iterdir():
        (folder.parent / "noted" / file.name).write_bytes(file.read_bytes())
    (folder.parent / "noted" / "config.yaml").write_text(config)  # there is something to find in this one
    noted = Page(run_report(folder.parent / "noted"))
    assert noted.sections() == SECTIONS
    assert noted.links() == [f"#{name}" for name in SECTIONS]
    assert Page(page).sections() == [name for name in SECTIONS if name != "findings"]


def test_its_numbers_are_those_of_the_result(folder: Path, page: str) -> None:
    result = json.loads((folder / "result.json").read_text())
    exact = {float(a["data-number"]) for _, a in Page(page).elements if a.get("data-number")}
    wanted = {value for metrics in result["metrics"].values() for value in metrics.values()}
    wanted |= {value for kind in result["baselines"].values() for metrics in kind.values() for value in metrics.values()}
    wanted |= {result[name] for name in ("num_parameters", "train_seconds", "samples_per_second", "peak_rss_mib", "steps")}
    assert wanted <= exact
    text = Page(page).text
    assert "On 40 test examples, 95.0% of the answers are right (95 % interval 90.0% to 99.0%)." in text
    assert "Better than TF-IDF with a linear model: accuracy 0.950 against 0.801, +0.149 [+0.099, +0.189]." in text
    assert "Better than the most frequent answer: accuracy 0.950 against 0.500" in text
    assert "0.9000 to 0.9900" in text


def test_the_verdict_follows_the_interval(tmp_path: Path) -> None:
    for num_wrong, is_better in ((2, True), (8, None), (12, False)):
        run = read_run(make_run(tmp_path / str(num_wrong), wrong=range(num_wrong)))
        assert against.is_better(run.result) is is_better
        (line,) = [line for line in report_results.verdict(run) if "TF-IDF" in line]
        assert line.startswith({True: "Better than", None: "No better than", False: "Worse than"}[is_better])


def test_a_setting_that_differs_from_the_default_comes_first(page: str) -> None:
    text = Page(page).text
    assert text.index("What differs from the recipe's defaults") < text.index("optim.lr") < text.index("All other settings")
    assert text.index("All other settings") < text.index("optim.max_grad_norm")


@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_what_would_run_is_shown_as_text_and_stays_inert(hostile: str, number: int) -> None:
    assert len(PAYLOADS) == 40
    payload = report._visible(PAYLOADS[number])
    assert payload in Page(hostile).text


def test_nothing_on_a_page_of_hostile_names_runs_loads_or_leads_away(hostile: str, page: str) -> None:
    assert dangers(hostile) == dangers(page) == []
    # as many of our own elements, whatever the names are: none came from them
    assert {tag for tag, _ in Page(hostile).elements} <= {tag for tag, _ in Page(page).elements} | {"li"}
    hostile.encode("utf-8")
    assert not [c for c in hostile if not c.isprintable() and c not in report.KEPT]
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("payload", PAYLOADS[::5])
def test_the_watch_notices_what_is_not_escaped(page: str, payload: str) -> None:
    assert dangers(page.replace("a dull plot", "<script>x</script>", 1))
    assert dangers(page.replace("</main>", "<a href='https://example.org'>x</a></main>"))
    if payload.startswith("<") and "__xss" in payload:
        assert dangers(page.replace("</main>", f"{payload}</main>"))


def test_a_dollar_sign_makes_no_formula_of_a_label(tmp_path: Path) -> None:
    labels = ["$\\alpha$", "a $1 & b <2>"]
    text = Page(run_report(make_run(tmp_path / "run", labels=labels))).text
    assert all(text.count(label) > 2 for label in labels)  # in the drawing too


def test_words_keep_their_weight_and_what_was_not_read_is_told_apart() -> None:
    found = report_results.pieces("bad, not bad at all", [("bad", -0.2), ("not", 0.4), ("bad", 0.1), ("zebra", 9.0)][:3], cut=12)
    assert [(piece.text, piece.weight) for piece in found if piece.weight] == [("bad", -0.5), ("not", 1.0), ("bad", 0.25)]
    assert "".join(piece.text for piece in found) == "bad, not bad at all"
    assert "".join(piece.text for piece in found if not piece.was_read) == " at all"
    assert len("".join(piece.text for piece in report_results.pieces("x" * 10_000, []))) == MAX_TEXT


def test_a_language_model_has_a_report_too(tmp_path: Path) -> None:
    page = run_report(make_language_model_run(tmp_path / "run"))
    assert dangers(page) == []
    assert "On 40 test texts, the perplexity is 12.2 (95 % interval 11 to 13.5)." in Page(page).text
    assert "Better than token frequencies alone: loss 2.500 against 3.500, -1.000 [-1.100, -0.900]." in Page(page).text
    assert set(Page(page).sections()) == {"verdict", "scores", "data", "settings", "stages", "training", "evaluations", "cost"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("errors.json", '{"slices": [{"slice": "length"}]}'),
        ("calibration.json", '{"temperature": "hot"}'),
        ("audit.json", '{"findings": [3]}'),
        ("result.json", '{"task": "single_label"}'),
        ("predictions.parquet", "PAR1"),
        ("lr_finder_1.json", "{}"),
        ("metrics.jsonl", "[" * 100_000 + "\n"),
        ("config.yaml", "a: [\n"),
    ],
)
def test_a_file_that_is_damaged_is_named(tmp_path: Path, name: str, content: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match=r"lr_finder_\*" if "finder" in name and content == "{}" else name.replace(".", r"\.")):
        run_report(run)


def test_a_run_that_is_not_finished_has_no_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "result.json").unlink()
    with pytest.raises(ConfigError, match="no finished run"):
        run_report(run)


def test_two_runs_are_compared_example_by_example(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, wrong=wrong) for name, wrong in (("a", range(12)), ("b", (0, 39)))]
    found, page = comparison_report(*runs, settings=["--optim.lr was 1 and is 2"])
    assert (found.lost, found.gained) == ([139], [100 + row for row in range(1, 12)])
    assert found.p_value == pytest.approx(2 * (1 + 12) / 2**12)  # 1 of 12 flips, exact and two-sided
    accuracy = found.metrics["accuracy"]
    assert (accuracy.first, accuracy.second, accuracy.change) == pytest.approx((0.7, 0.95, 0.25))
    assert accuracy.interval is not None
    assert 0.05 < accuracy.interval[0] < 0.25 < accuracy.interval[1] < 0.45
    assert found.better == 2
    assert found.verdict.startswith("The second run is better: accuracy 0.7 and 0.95 on the same 40 test examples")
    assert dangers(page) == []
    assert "--optim.lr was 1 and is 2" in Page(page).text
    back, _ = comparison_report(*reversed(runs))
    assert (back.better, back.gained) == (1, [139])


OTHER_TASKS = {
    "regression": ("rmse", [1.0, 2.0, 4.0], [1.5, 2.5, 3.5], [1.0, 2.0, 4.5]),
    "multi_label": ("micro_f1", [["a"], ["a", "b"], []], [["a"], ["b"], []], [["a"], ["a", "b"], ["b"]]),
}


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_other_tasks_have_reports_and_are_compared(tmp_path: Path, task: str) -> None:
    metric, targets, *answers = OTHER_TASKS[task]
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for run, answer in zip(runs, answers, strict=True):
        columns = {"id": [0, 1, 2], "reference": ["x"] * 3, "label": targets, "prediction": answer}
        if task == "multi_label":
            columns |= {f"probability_{label}": [float(label in each) for each in answer] for label in "ab"}
        pq.write_table(pa.table(columns), run / "predictions.parquet")
        result = json.loads((run / "result.json").read_text())
        result |= {"task": task, "metrics": {"test": {metric: 0.5}}, "intervals": {"test": {metric: [0.4, 0.6]}}}
        result |= {"baselines": {"tfidf": {"test": {metric: 0.3}}}}
        result["data"] |= {"labels": ["a", "b"] if task == "multi_label" else []}
        (run / "result.json").write_text(json.dumps(result))
    better = task == "multi_label"  # there a higher value is
    line = "Better than" if better else "Worse than"
    words = {"rmse": "root mean squared error", "micro_f1": "micro F1"}[metric]
    assert f"{line} TF-IDF with a linear model: {words} 0.500 against 0.300" in Page(run_report(runs[0])).text
    found, page = comparison_report(*runs)
    expected = {"rmse": (0.5, (0.25 / 3) ** 0.5), "micro_f1": (0.8, 6 / 7)}[metric]  # by hand
    assert (found.metrics[metric].first, found.metrics[metric].second) == pytest.approx(expected)
    assert (found.gained, found.lost) == (([1], [2]) if task == "multi_label" else ([], []))
    assert dangers(page) == []


def test_runs_that_cannot_be_told_apart_are_not(tmp_path: Path) -> None:
    found, _ = comparison_report(make_run(tmp_path / "a", wrong=(0, 1)), make_run(tmp_path / "b", wrong=(2, 3, 4)))
    assert found.better is None
    assert found.verdict.startswith("The two runs cannot be told apart")
    same, _ = comparison_report(tmp_path / "a", tmp_path / "a")
    assert (same.better, same.p_value, same.metrics["accuracy"].interval) == (None, 1.0, (0.0, 0.0))
    assert same.verdict == "No difference: the answers agree on all 40 test examples."


def test_the_better_of_two_worthless_runs_is_not_all_that_is_said(tmp_path: Path) -> None:
    found, page = comparison_report(make_run(tmp_path / "a", wrong=range(24)), make_run(tmp_path / "b", wrong=range(14)))
    assert found.better == 2
    assert found.verdict.endswith("Both are worse than the baseline TF-IDF with a linear model.")  # the second beats a constant
    assert found.verdict in Page(page).text
    unclear, _ = comparison_report(make_run(tmp_path / "c", wrong=range(8)), tmp_path / "b")
    assert unclear.verdict.endswith("Neither is better than the baseline TF-IDF with a linear model by more than luck.")
    fine, _ = comparison_report(make_run(tmp_path / "d", wrong=(0,)), make_run(tmp_path / "e", wrong=(1,)))
    assert "baseline" not in fine.verdict


def test_runs_of_other_data_are_not_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match="same data: 00aa11bb22cc33dd and ff"):
        comparison_report(run, make_run(tmp_path / "b", fingerprint="ff"))
    with pytest.raises(ConfigError, match="same labels"):
        comparison_report(run, make_run(tmp_path / "c", labels=("neg", "other")))
    with pytest.raises(ConfigError, match="same task"):
        comparison_report(run, make_language_model_run(tmp_path / "d"))
    with pytest.raises(ConfigError, match="no predictions"):
        comparison_report(tmp_path / "d", tmp_path / "d")


def test_hostile_names_are_inert_on_a_page_that_compares(tmp_path: Path) -> None:
    options = {"labels": PAYLOADS[:12], "texts": PAYLOADS, "names": PAYLOADS}
    runs = [make_run(tmp_path / name, wrong=wrong, **options) for name, wrong in (("a", range(20)), ("b", (39,)))]
    page = comparison_report(*runs, settings=list(PAYLOADS))[1]
    assert dangers(page) == []
    assert all(report._visible(payload) in Page(page).text for payload in PAYLOADS)
