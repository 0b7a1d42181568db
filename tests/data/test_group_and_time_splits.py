"""No group stands in two parts, nothing later is trained on than tested, and both reach a run by their flags."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpbp.config.data import Data
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Examples
from nlpbp.data.fields import read_moments
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import Table
from nlpbp.data.splits import split_groups, split_time
from nlpbp.runs.held_out import add_test_use, begin_test_uses


def examples_of(targets: Any, texts: list[str] | None = None) -> Examples:
    texts = texts or [f"text {i}" for i in range(len(targets))]
    return Examples("a.csv", texts, None, np.asarray(targets), [f"a.csv:{i + 2}" for i in range(len(targets))])


def parts_of(groups: list[Any], targets: Any, texts: list[str] | None = None, seed: int = 0) -> list[Any]:
    parts = split_groups(examples_of(targets, texts), groups, validation_share=0.1, test_share=0.2, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    return list(parts)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_stands_in_one_part_and_shares_are_nearly_met(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(100, size=1000).tolist()
    train, validation, test = parts_of(groups, np.arange(1000) % 3, seed=seed)
    sets = [{groups[i] for i in part} for part in (train, validation, test)]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert len(validation) == pytest.approx(100, abs=15) and len(test) == pytest.approx(200, abs=15)


def test_groups_that_share_a_text_stay_together_and_rows_without_a_group_are_alone() -> None:
    texts = [f"text {i}" for i in range(40)]
    texts[1], texts[9] = "the  SAME", "the same"
    groups: list[Any] = [i // 4 for i in range(36)] + [None, "", None, ""]
    apart = set()
    for seed in range(20):
        parts = parts_of(groups, np.arange(40) % 2, texts, seed)
        home = {int(i): number for number, part in enumerate(parts) for i in part}
        assert len({home[i] for i in (*range(4), *range(8, 12))}) == 1
        apart.add(len({home[i] for i in (36, 37, 38, 39)}))
    assert max(apart) > 1


def test_every_class_stays_to_be_trained_on_and_three_groups_make_three_parts() -> None:
    groups = [i // 10 for i in range(100)]
    targets = np.array([2 if i < 10 else i % 2 for i in range(100)])  # one group alone has class 2
    for seed in range(10):
        assert set(targets[parts_of(groups, targets, seed=seed)[0]]) == {0, 1, 2}
    assert [len(part) for part in parts_of([i // 10 for i in range(30)], np.arange(30) % 2)] == [10, 10, 10]


def test_too_few_groups_are_told_with_the_fix() -> None:
    with pytest.raises(DataError, match="2 groups are too few for a validation set") as error:
        parts_of([i // 10 for i in range(20)], np.arange(20) % 2)
    assert "finer group" in str(error.value)


def test_the_latest_are_the_test_and_a_moment_is_never_cut() -> None:
    times = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 4)).tolist()
    train, validation, test = split_time(examples_of(np.zeros(200)), times, validation_share=0.1, test_share=0.1)
    moments = [{times[i] for i in part} for part in (train, validation, test)]
    assert max(moments[0]) < min(moments[1]) and max(moments[1]) < min(moments[2])
    assert [len(train), len(validation), len(test)] == [160, 20, 20]
    none = split_time(examples_of(np.zeros(200)), times, validation_share=0.1, test_share=0.0)
    assert [len(part) for part in none] == [180, 20, 0]
    with pytest.raises(DataError, match="too few"):
        split_time(examples_of(np.zeros(4)), [1, 1, 1, 2], validation_share=0.2, test_share=0.2)


def test_moments_are_dates_or_numbers_and_each_row_has_one() -> None:
    table = Table("a.csv", {"at": ["2024-03-01", ""], "n": ["1", "2"], "who": ["a", "b"]}, [2, 3])
    assert read_moments(table, "n") == [1.0, 2.0]
    with pytest.raises(DataError) as error:
        read_moments(table, "at")
    assert (error.value.row, error.value.column) == (3, "at")
    with pytest.raises(DataError, match="not a column of dates"):
        read_moments(table, "who")


def rows(num: int = 120, *, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "text": f"film {i} is {'good' if i % 2 else 'bad'}",
            "label": "np"[i % 2],
            "who": f"u{i % 20}",
            "at": f"2024-{1 + i % 12:02}-01",
        }
        for i in range(first, first + num)
    ]


def test_the_flags_cut_a_runs_data() -> None:
    by_group = load_inputs(Data(train=rows(), group="who"))
    who = [{rows()[i]["who"] for i in part.ids} for part in (by_group.train, *by_group.scored.values())]
    assert sum(map(len, who)) == 20
    by_time = load_inputs(Data(train=rows(), time="at"))
    assert [len(part) for part in by_time.scored.values()] == [20, 20]  # a month has ten rows, and a share of 0.1 is twelve
    assert max(rows()[i]["at"] for i in by_time.train.ids) < min(rows()[i]["at"] for i in by_time.validation.ids)
    coarse = rows()
    for index, row in enumerate(coarse):
        row["who"] = None if index < 5 else "one" if index < 80 else "two" if index < 140 else "three"
    notes = load_inputs(Data(train=coarse, group="who")).notes
    assert "warning: 5 rows have no 'who', and each is treated as a group of its own" in notes
    assert any("set is" in note and "stay together" in note for note in notes), notes
    assert not any("stay together" in note for note in (*by_group.notes, *by_time.notes))
    shared = load_inputs(Data(train=rows(), test=rows(40, first=200), group="who"))
    assert "warning: 20 groups of 'who' are in the test data too" in shared.notes
    torn = load_inputs(Data(train=rows(), validation=rows(20, first=200), test=rows(40, first=210)))
    assert any(note.startswith("warning: 10 test texts are in the validation set too") for note in torn.notes)


@pytest.mark.parametrize(
    ("wrong", "column"),
    [
        ({"group": "who", "time": "at"}, "data.time"),
        ({"group": "who", "validation": rows(20, first=200), "test": rows(20, first=300)}, "data.group"),
        ({"validation": rows(20, first=200), "test": rows(20, first=200)[::-1]}, "data.test"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any], column: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_inputs(Data(train=rows(), **wrong))
    assert error.value.column == column


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError) as error:
        load_inputs(Data(train=rows(), group="whom"))
    assert (error.value.column, "who" in str(error.value)) == ("whom", True)


def test_uses_of_the_test_part_are_counted_and_of_other_texts_are_not(tmp_path: Path) -> None:
    part = examples_of([0, 1, 0], ["a", "b", "c"])
    assert add_test_use(tmp_path, part, by="predict.py") is None
    begin_test_uses(tmp_path, part, by="a recipe")
    assert add_test_use(tmp_path, part.select([2, 0, 1]), by="predict.py") == 2
    assert add_test_use(tmp_path, part.select([0, 1]), by="predict.py") is None
    assert add_test_use(tmp_path, part, by="predict.py") == 3
    assert json.loads((tmp_path / "test_uses.json").read_text())["uses"] == ["a recipe", "predict.py", "predict.py"]
    begin_test_uses(tmp_path, part, by="a recipe")
    assert add_test_use(tmp_path, dataclasses.replace(part), by="predict.py") == 2


def test_groups_are_drawn_so_that_each_part_has_its_share_of_every_class() -> None:
    rng = np.random.default_rng(0)
    sizes, rates = rng.integers(2, 12, size=120), rng.choice([0.05, 0.5, 0.95], size=120)
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    targets = np.array([int(rng.random() < rates[group]) for group in groups])
    texts = [f"text {index}" for index in range(len(groups))]
    examples = Examples("list", texts, None, targets, texts)
    for seed in range(10):
        parts = split_groups(examples, groups, validation_share=0.15, test_share=0.15, seed=seed)
        for part in parts[1:]:
            assert len(part) == pytest.approx(0.15 * len(groups), abs=20)
            assert targets[part].mean() == pytest.approx(targets.mean(), abs=0.06)
        assert not {groups[i] for i in parts[0]} & {groups[i] for part in parts[1:] for i in part}


def test_uses_that_the_version_before_counted_go_on_being_counted(tmp_path: Path) -> None:
    part = Examples("list", ["a", "b", "c"], None, None, ["list:1", "list:2", "list:3"])
    begin_test_uses(tmp_path, part, by="a recipe")
    kept = json.loads((tmp_path / "test_uses.json").read_text())
    (tmp_path / "test_uses.json").unlink()
    (tmp_path / "looks.json").write_text(json.dumps({"test": kept["test"], "looks": kept["uses"]}))
    assert add_test_use(tmp_path, part, by="predict.py") == 2
    assert add_test_use(tmp_path, part, by="predict.py") == 3
