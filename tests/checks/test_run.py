"""Each rule on runs finds its planted fault in a run's files, and says nothing of the repaired ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nlpbp.checks.run import (
    check_run,
    clipped_every_step,
    constant_rate,
    no_test_part,
    not_better_than_baseline,
    overfit,
    plain_cell_without_clipping,
    same_data_for_two_parts,
)
from nlpbp.core.errors import ConfigError


def found(findings: list[Any]) -> list[tuple[str, str, str]]:
    return [(finding.practice, finding.level, finding.module) for finding in findings]


def test_one_file_for_two_parts_is_found_by_name_by_path_and_by_content(tmp_path: Path) -> None:
    for name, text in (("a.csv", "text,label\n"), ("b.csv", "text,label\nx,1\n"), ("copy.csv", "text,label\n")):
        (tmp_path / name).write_text(text)
    a, b, copy = (str(tmp_path / name) for name in ("a.csv", "b.csv", "copy.csv"))
    for other in (a, f"{tmp_path}/./a.csv", copy):
        data = {"train": a, "validation": None, "test": other}
        assert found(same_data_for_two_parts({"data": data})) == [("D2", "warning", "config.yaml: data.test")]
    data = {"train": a, "validation": b, "test": b}
    assert "chosen by the test" in same_data_for_two_parts({"data": data})[0].message
    assert len(same_data_for_two_parts({"data": {"train": a, "validation": a, "test": a}})) == 3
    assert same_data_for_two_parts({"data": {"train": a, "validation": b, "test": None}}) == []


@pytest.mark.parametrize("source", ["imdb", "glue:sst2", "demo:imdb", "tiny:reviews", None, 3, "x" * 5000])
def test_sources_that_hold_several_parts_are_left_alone(source: Any) -> None:
    assert same_data_for_two_parts({"data": {"train": source, "validation": source, "test": source}}) == []


def test_a_folder_given_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    data = {"train": str(tmp_path / "texts"), "test": f"{tmp_path}/texts/"}
    assert len(same_data_for_two_parts({"data": data})) == 1


def test_a_score_of_the_part_that_chose_the_weights_is_a_note() -> None:
    assert found(no_test_part({"metrics": {"validation": {"accuracy": 0.9}}})) == [("D2", "note", "result.json: metrics")]
    assert no_test_part({"metrics": {"validation": {}, "test": {}}}) == []
    assert no_test_part({}) == []


def scores(task: str, metric: str, score: float, interval: list[float] | None, **baselines: float) -> dict[str, Any]:
    return {
        "task": task,
        "metrics": {"test": {metric: score}},
        "intervals": {"test": {metric: interval}},
        "baselines": {kind: {"test": {metric: value}} for kind, value in baselines.items()},
    }


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (scores("single_label", "accuracy", 0.8, [0.75, 0.85], tfidf=0.7, majority=0.5), []),
        (scores("single_label", "accuracy", 0.8, [0.75, 0.85], tfidf=0.76, majority=0.5), ["may be luck"]),
        (scores("single_label", "accuracy", 0.8, [0.75, 0.85], tfidf=0.9, majority=0.81), ["is worse", "may be luck"]),
        (scores("single_label", "accuracy", 0.5, None, majority=0.5), ["is not better"]),
        (scores("single_label", "accuracy", 0.5, None, majority=0.4), []),
        (scores("regression", "rmse", 1.0, [0.9, 1.1], tfidf=1.2), []),
        (scores("regression", "rmse", 1.0, [0.9, 1.1], tfidf=1.05), ["may be luck"]),
        (scores("regression", "rmse", 1.0, [0.9, 1.1], tfidf=0.5), ["is worse"]),
        (scores("language_model", "loss", 4.0, [3.9, 4.1], unigram=6.0), []),
        (scores("language_model", "loss", 7.0, [6.9, 7.1], unigram=6.0), ["is worse"]),
        (scores("ranking", "ndcg", 0.1, None, tfidf=0.5), []),
        ({"task": "single_label", "metrics": {"test": {"accuracy": None}}}, []),
    ],
)
def test_a_result_that_does_not_beat_a_baseline_is_told_so(result: dict[str, Any], said: list[str]) -> None:
    findings = not_better_than_baseline(result)
    assert found(findings) == [("D4", "warning", "result.json: metrics.test")] * len(said)
    assert all(words in finding.message for words, finding in zip(said, findings, strict=True))


def test_a_baseline_as_good_as_a_perfect_score_is_a_note() -> None:
    for result in (
        scores("single_label", "accuracy", 1.0, [1.0, 1.0], tfidf=1.0),
        scores("regression", "rmse", 0.0, None, tfidf=0.0),
    ):
        assert found(not_better_than_baseline(result)) == [("D4", "note", "result.json: metrics.test")]


def test_a_baseline_of_one_part_is_not_compared_with_another() -> None:
    result = scores("language_model", "loss", 7.0, None)
    assert not_better_than_baseline(result | {"baselines": {"before": {"validation": {"loss": 6.0}}}}) == []


def test_clipping_in_more_than_nine_of_ten_steps_is_a_note() -> None:
    def steps(clipped: int, total: int) -> list[dict[str, Any]]:
        return [{"step": i + 1, "clipped": i < clipped, "grad_norm": 4.0} for i in range(total)]

    assert found(clipped_every_step(steps(19, 20))) == [("N3", "note", "metrics.jsonl")]
    assert "95% of 20 steps; its median norm was 4" in clipped_every_step(steps(19, 20))[0].message
    for records in (steps(18, 20), steps(19, 19), []):
        assert clipped_every_step(records) == []


def test_a_rate_that_never_falls_is_a_note_unless_weights_are_averaged() -> None:
    assert found(constant_rate({"optim": {"schedule": "constant", "swa_start": 1.0}})) == [
        ("L3", "note", "config.yaml: optim.schedule")
    ]
    assert found(constant_rate({"lm": {"schedule": "constant"}})) == [("L3", "note", "config.yaml: lm.schedule")]
    for optim in ({"schedule": "constant", "swa_start": 0.75}, {"schedule": "cosine"}, {}):
        assert constant_rate({"optim": optim}) == []


def test_a_plain_cell_that_trained_without_clipping_is_found() -> None:
    config = {"model": {"cell": "rnn"}, "optim": {"max_grad_norm": None}, "lm": {"max_grad_norm": 0.25}}
    assert found(plain_cell_without_clipping(config)) == [("N3", "warning", "config.yaml: optim.max_grad_norm")]
    assert plain_cell_without_clipping(config | {"model": {"cell": "gru"}}) == []
    assert plain_cell_without_clipping(config | {"optim": {"max_grad_norm": 1.0}}) == []
    skipped = {"model": {"cell": "rnn"}, "lm": {"max_grad_norm": None, "skip": True}}
    assert plain_cell_without_clipping(skipped) == []


@pytest.mark.parametrize(
    ("train", "validation", "fires"),
    [
        (0.1, [0.5, 0.4, 0.6], True),
        (0.1, [0.5, 0.4, 0.41], False),  # hardly above its lowest
        (0.5, [0.5, 0.4, 0.6], False),  # training data are not known by heart
        (0.1, [0.6], False),
        (0.1, [0.7, 0.6, 0.5], False),
    ],
)
def test_overfitting_is_a_training_loss_far_below_a_validation_loss_that_rose(
    train: float, validation: list[float], fires: bool
) -> None:
    records: list[dict[str, Any]] = []
    for epoch, loss in enumerate(validation):
        records += [{"step": 10 * epoch + i, "loss": train if epoch else 0.9} for i in range(1, 11)]
        records.append({"step": 10 * epoch + 10, "split": "validation", "accuracy": 0.8, "log_loss": loss})
    assert found(overfit(records)) == ([("N2", "note", "metrics.jsonl")] if fires else [])


def test_a_run_folder_is_read_whole_and_half_a_last_line_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {train: a.csv, test: a.csv}\noptim: {schedule: constant}\n")
    (tmp_path / "result.json").write_text(json.dumps(scores("single_label", "accuracy", 0.5, [0.4, 0.6], majority=0.5)))
    (tmp_path / "metrics.jsonl").write_text(
        "".join(f'{{"step": {i}, "clipped": true}}\n' for i in range(1, 31)) + '{"step": 31, "cl'
    )
    assert [(f.practice, f.level) for f in check_run(tmp_path)] == [
        ("D2", "warning"),
        ("D4", "warning"),
        ("N3", "note"),
        ("L3", "note"),
    ]
    (tmp_path / "result.json").unlink()  # under way
    assert [f.practice for f in check_run(tmp_path)] == ["D2", "N3", "L3"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "just words"),
        ("config.yaml", "a: !!python/object/apply:os.system ['true']"),
        ("result.json", "{"),
        ("result.json", "[]"),
        ("result.json", "[" * 100_000),
        ("metrics.jsonl", "not json\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert check_run(tmp_path) == []
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=file):
        check_run(tmp_path)


@pytest.mark.parametrize("file", ["config.yaml", "result.json"])
def test_values_of_the_wrong_kind_are_not_asked_about(tmp_path: Path, file: str) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    wrong = dict.fromkeys(("data", "optim", "lm", "model", "metrics", "intervals", "baselines", "task"), 3)
    (tmp_path / file).write_text(json.dumps(wrong))
    assert check_run(tmp_path) == []


def test_what_is_no_run_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has no config"):
        check_run(tmp_path)
