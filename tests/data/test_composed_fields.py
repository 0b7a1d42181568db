"""Dates are taken apart, gaps are marked, and medians come from the training set: in the library, in a run, and on new data."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from nlpbp.config.optim import Stage
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import infer_fields, read_examples
from nlpbp.data.fields import compose_fields, expand_datetime, fit_statistics, infer_kinds, parse_date, unpack_fields
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import Table, read_table
from nlpbp.modalities.texts import tfidf
from nlpbp.runs.result import RunResult
from nlpbp.runs.results import baseline_answers, score_baselines
from recipes import gru_classifier


def part(value: Any, name: str) -> float:
    return float(expand_datetime([value], time=True)[name][0])


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        ("2024-02-29", "day_of_year", 60),
        ("2024-02-29", "month_end", 1),
        ("2023-02-28", "month_end", 1),
        ("2024-02-28", "month_end", 0),
        ("2020-12-31", "week", 53),
        ("2021-01-03", "week", 53),  # ISO 8601: that Sunday still belongs to the year before
        ("2021-01-04", "week", 1),
        ("2024-03-31", "quarter_end", 1),
        ("2024-05-31", "quarter_end", 0),
        ("2024-12-31", "year_end", 1),
        ("2024-01-01", "year_start", 1),
        ("2024-04-01", "quarter_start", 1),
        ("9999-12-31", "year_end", 1),
        (date(1970, 1, 2), "elapsed_days", 1),
        ("1969-12-31", "elapsed_days", -1),
        ("2024-03-31T12:00:00Z", "hour", 12),
        ("1970-01-02T01:00:00+01:00", "elapsed_days", 1),  # in UTC ...
        ("1970-01-02T00:30:00+01:00", "day", 2),  # ... and the day is that of its own zone
        (datetime(1970, 1, 1, 12, tzinfo=timezone(timedelta(hours=12))), "elapsed_days", 0),
        (np.datetime64("1970-01-03"), "elapsed_days", 2),
        (pd.Timestamp("2024-03-31 09:05"), "minute", 5),
    ],
)
def test_parts_of_dates(value: Any, name: str, expected: float) -> None:
    assert part(value, name) == expected


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan"), pd.NaT, np.datetime64("NaT"), "NA"])
def test_a_missing_date_is_not_a_number_in_every_column(missing: Any) -> None:
    parts = expand_datetime(["2024-02-29", missing])
    assert all(math.isnan(column[1]) and not math.isnan(column[0]) for column in parts.values())
    assert set(parts) == set(expand_datetime([missing]))


@pytest.mark.parametrize("value", ["2024-02-30", "soon", "3/4/2024", "20240331x", 17])
def test_what_is_no_date_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"not a date|day is out of range|day \d+ must be"):
        parse_date(value)


def kinds_of(values: list[Any]) -> tuple[str, str]:
    notes: list[str] = []
    kinds = infer_kinds(Table("a.csv", {"x": values}, list(range(2, 2 + len(values)))), ["x"], notes)
    return kinds["x"], " ".join(notes)


def test_columns_are_told_apart_by_their_content() -> None:
    assert kinds_of(["1", "2.5", "NA", ""])[0] == "number"
    assert kinds_of(["2024-01-01", "2024-01-02 10:00"])[0] == "date"
    assert kinds_of(["1.2.2024", "3.4.2024"])[0] == "date_day_first"
    assert kinds_of(["1/2/2024", "25/4/2024"])[0] == "date_day_first"
    assert kinds_of(["1/2/2024", "4/25/2024 9:30"])[0] == "date_month_first"
    assert kinds_of(["13/1/2024", "1/13/2024"])[0] == "text"
    assert kinds_of([True, False])[0] == "text"
    assert kinds_of([None, ""])[0] == "text"
    kind, said = kinds_of([*map(str, range(19)), "\x1b[2Jfree"])
    assert kind == "text"
    assert "a.csv, row 21: '\\x1b[2Jfree'" in said
    with pytest.raises(DataError, match="cannot be told apart") as error:
        kinds_of(["1/2/2024", "3/4/2024"])
    assert error.value.column == "x"


def test_a_number_that_is_missing_is_the_median_with_its_mark_and_never_looks_like_one_that_is_there() -> None:
    columns = {"price": [1, 2, 9, None, 2]}
    texts = compose_fields(columns, kinds={"price": "number"}, statistics=fit_statistics(columns, kinds={"price": "number"}))
    assert texts == ["[price] 1", "[price] 2", "[price] 9", "[price] 2 [price missing]", "[price] 2"]


def test_what_is_short_stands_before_a_text_that_may_be_cut_off() -> None:
    (text,) = compose_fields({"body": ["long"], "price": ["3"]}, kinds={"body": "text", "price": "number"}, statistics={})
    assert text == "[price] 3 [body] long"


def rows(target: str, *, num: int = 400, seed: int = 0) -> list[dict[str, Any]]:
    """Make rows whose words say nothing: the label is whether the day is a weekend, or whether the price is missing."""
    rng = random.Random(seed)
    made = []
    for number in range(num):
        is_true = number % 2 == 0
        day = date(2015, 1, 1) + timedelta(days=rng.randrange(3650))
        while target == "weekend" and (day.weekday() > 4) != is_true:
            day += timedelta(days=1)
        price = "" if target == "missing" and is_true else f"{rng.randrange(100, 999) / 10}"
        words = " ".join(rng.sample(["red", "blue", "round", "small", "heavy", "plain", "old", "new"], 3))
        made.append({"title": words, "date": day.isoformat(), "price": price, "label": "yes" if is_true else "no"})
    return made


def bag_of_words(given: list[dict[str, Any]], **data: Any) -> float:
    """Return the test accuracy of a linear model over words and pieces of words."""
    inputs = load_inputs(dataclasses.replace(gru_classifier.tiny().data, train=given, **data))
    return score_baselines(inputs, baseline_answers(inputs, {"tfidf": tfidf(inputs)}))["tfidf"]["test"]["accuracy"]


@pytest.fixture(scope="module")
def weekend(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    config, out = gru_classifier.tiny(), tmp_path_factory.mktemp("runs") / "weekend"
    data = dataclasses.replace(config.data, train=rows("weekend"), fields=("title", "date", "price"))
    stages = (Stage(epochs=4, lr=3e-2),)
    return gru_classifier.run(dataclasses.replace(config, data=data, stages=stages, out=str(out), threads=1, precision="fp32"))


def test_what_depends_on_the_weekday_is_learned_from_the_date_taken_apart_alone(weekend: RunResult) -> None:
    assert weekend.metrics["test"]["accuracy"] > 0.9
    assert weekend.baselines["tfidf"]["test"]["accuracy"] > 0.9
    as_text = [{"text": f"{row['title']} {row['date']}", "label": row["label"]} for row in rows("weekend")]
    assert bag_of_words(as_text) < 0.75


def test_what_depends_on_a_price_being_missing_is_learned_from_the_mark() -> None:
    assert bag_of_words(rows("missing"), fields=("title", "price")) == 1.0
    rng = random.Random(1)
    filled = [{**row, "price": row["price"] or f"{rng.randrange(100, 999) / 10}"} for row in rows("missing")]
    assert bag_of_words(filled, fields=("title", "price")) < 0.75


def test_new_rows_are_composed_as_in_training(weekend: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nlpbp.cli.predict import answer

    new = tmp_path / "new.jsonl"
    new.write_text("".join(json.dumps(row) + "\n" for row in rows("weekend", num=100, seed=5)))
    for name in ("run", "model"):  # a model folder alone knows its fields too
        run = weekend.out if name == "run" else weekend.out / "model"
        answer([str(run), "--data", str(new), "--out", str(tmp_path / f"{name}.parquet"), "--threads", "1"])
    tables = [pq.read_table(tmp_path / f"{name}.parquet").to_pydict() for name in ("run", "model")]
    assert tables[0]["prediction"] == tables[1]["prediction"]
    assert np.mean([a == b for a, b in zip(tables[0]["label"], tables[0]["prediction"], strict=True)]) > 0.9
    new.write_text(json.dumps({"title": "a", "date": "2024-03-31"}) + "\n")
    with pytest.raises(DataError) as error:
        answer([str(weekend.out), "--data", str(new), "--threads", "1"])
    assert error.value.column == "price"
    new.write_text(json.dumps({"title": "a", "date": "soon", "price": 1}) + "\n")
    with pytest.raises(DataError, match="not a date") as error:
        answer([str(weekend.out), "--data", str(new), "--threads", "1"])
    assert (error.value.row, error.value.column) == (1, "date")
    with pytest.raises(ConfigError, match="fields"):
        answer([str(weekend.out), "--data", str(new), "--text", "title", "--threads", "1"])
    assert "the columns `title`, `date`, `price`" in (weekend.out / "model" / "README.md").read_text()


def test_scoring_a_runs_own_test_part_again_is_counted(
    weekend: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nlpbp.cli.predict import answer

    own, new = rows("weekend"), tmp_path / "again.jsonl"
    ids = pq.read_table(weekend.out / "predictions.parquet")["id"].to_pylist()
    assert json.loads((weekend.out / "test_uses.json").read_text())["uses"] == ["gru_classifier"]
    new.write_text("".join(json.dumps(own[i]) + "\n" for i in reversed(ids)))
    answer([str(weekend.out), "--data", str(new), "--threads", "1"])
    assert json.loads((weekend.out / "test_uses.json").read_text())["uses"] == ["gru_classifier", "nlpbp predict"]
    assert "has now been scored 2 times" in capsys.readouterr().err
    fitted = ["--views", "dropout", "--fit_weights", str(new), "--threads", "1"]
    with pytest.raises(ConfigError, match="test set") as error:
        answer([str(weekend.out), "--data", str(new), *fitted])
    assert error.value.column == "fit_weights"
    new.write_text("".join(json.dumps(row) + "\n" for row in own[:50]))  # other rows are what to fit by
    answer([str(weekend.out), "--data", str(new), *fitted])
    assert "weights: as they are" in capsys.readouterr().err


def test_the_median_is_that_of_the_training_part() -> None:
    config = gru_classifier.tiny().data
    given = [{"title": f"t {i}", "price": str(i) if i % 3 else "", "label": "ab"[i % 2]} for i in range(100)]
    other = [{"title": f"u {i}", "price": "9999", "label": "ab"[i % 2]} for i in range(50)]
    inputs = load_inputs(dataclasses.replace(config, train=given, test=other, fields=("title", "price")))
    prices = [float(given[i]["price"]) for i in inputs.train.ids if given[i]["price"]]
    assert inputs.fields.statistics == {"price": float(np.median(prices))}
    gaps = [text for part in (inputs.train, inputs.validation) for text in part.examples.texts if "[price missing]" in text]
    assert len(gaps) == 34 and all(f"[price] {np.median(prices):g} [price missing]" in text for text in gaps)
    assert "fields: title (text), price (number)" in inputs.notes


@pytest.mark.parametrize(
    "wrong", [{"compose": ["a", "a"]}, {"compose": ["a", "y"], "label": "y"}, {"compose": ["a"], "text": ["b"]}]
)
def test_fields_that_contradict_each_other_are_told(wrong: dict[str, Any]) -> None:
    table = read_table([{"a": "so good", "b": "x", "y": "p"}, {"a": "so bad", "b": "y", "y": "n"}])
    with pytest.raises(ConfigError, match="fields are different columns"):
        infer_fields(table, **wrong)


def test_a_text_is_checked_as_everywhere() -> None:
    table = read_table([{"a": "so good", "y": "p"}, {"a": "so\x00bad", "y": "n"}])
    with pytest.raises(DataError, match="NUL"):
        read_examples(table, infer_fields(table, compose=["a"], label="y"))


@pytest.mark.parametrize(
    "damaged", [5, [{}], [{"name": "a", "kind": "number", "median": "x"}], [{"name": "a", "kind": "b", "median": None}]]
)
def test_a_damaged_model_config_is_told(damaged: Any) -> None:
    with pytest.raises(ConfigError):
        unpack_fields(damaged)


def test_a_zone_is_kept() -> None:
    assert parse_date("2024-03-31T12:00:00Z") == datetime(2024, 3, 31, 12, tzinfo=UTC)
