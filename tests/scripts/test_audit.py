"""`scripts/audit.py`: what it prints and writes, its exit codes, and that the data stay as they were."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlpbp.cli import audit, parsing

Run = Callable[..., tuple[int, str, str]]
WORDS = [f"w{number}" for number in range(97)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the script in this process; return its exit code and what it printed to the two outputs."""

    def run_script(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["audit.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            parsing.run_command(audit.audit, "audit.py")
        return int(ended.value.code or 0), *capsys.readouterr()

    return run_script


def text(number: int) -> str:
    return " ".join(WORDS[(number * 31 + place * (number % 13 + 1)) % 97] for place in range(12)) + f" n{number}"


def written(path: Path, numbers: range, *, more: tuple[tuple[str, str], ...] = ()) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [(text(number), ("neg", "pos")[number % 2]) for number in numbers]
        csv.writer(file).writerows([("text", "label"), *rows, *more])
    return path


def test_a_leak_is_printed_with_its_places_and_written(tmp_path: Path, run: Run) -> None:
    train = written(tmp_path / "train.csv", range(60))
    test = written(tmp_path / "test.csv", range(60, 70), more=((text(4), "neg"),))
    code, out, err = run(train, "--test", test, "--json", tmp_path / "audit.json", "--html", tmp_path / "audit.html")
    assert code == 1
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "1 of 11 test texts (9.1 %) stand in training too" in page and "default-src &#39;none&#39;" in page.replace("'", "&#39;")
    assert "warning leaks: 1 of 11 test texts (9.1 %) stand in training too" in out
    assert f"    test.csv:12 = train.csv:6: {text(4)}\n" in out
    assert "train 60, test 11 rows" in err
    record = json.loads((tmp_path / "audit.json").read_text())
    assert (record["source"], record["rows"], record["parts"]) == (str(train), 71, {"train": 60, "test": 11})
    (leak,) = [finding for finding in record["findings"] if finding["id"] == "leaks"]
    assert set(leak) == {"id", "title", "level", "was_looked_at", "count", "share", "message", "fix", "examples", "details"}
    assert (leak["level"], leak["count"], leak["examples"][0]["reference"]) == ("warning", 1, "test.csv:12 = train.csv:6")


def test_clean_data_end_in_0_and_a_missing_label_is_counted_where_training_would_stop(tmp_path: Path, run: Run) -> None:
    code, out, _ = run(written(tmp_path / "a.csv", range(60)))
    assert (code, out.splitlines()[-1].split(",")[0]) == (0, "warnings: 0")
    code, out, _ = run(written(tmp_path / "b.csv", range(60), more=(("so good", ""),)))
    assert code == 1
    assert "warning missing_values: label: empty 1" in out
    assert "    b.csv:62: label: empty\n" in out


def test_a_plan_writes_a_copy_and_a_log_and_leaves_the_data(tmp_path: Path, run: Run) -> None:
    train = written(tmp_path / "train.csv", range(60), more=((text(0), "neg"), ("cafÃ© and more", "pos")))
    before = train.read_bytes()
    (tmp_path / "plan.json").write_text('["exact_duplicates", "encoding"]')
    _, out, _ = run(train, "--fix", tmp_path / "plan.json", "--out", tmp_path / "clean.csv")
    assert "61 of 62 training rows written to" in out
    assert "1 dropped, 1 changed" in out
    assert train.read_bytes() == before
    rows = list(csv.reader((tmp_path / "clean.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 62
    assert rows[-1] == ["café and more", "pos"]
    log = [json.loads(line) for line in (tmp_path / "clean.csv.log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["reference"], line["action"], line["finding"]) for line in log] == [
        ("train.csv:62", "dropped", "exact_duplicates"),
        ("train.csv:63", "changed", "encoding"),
    ]
    assert log[0]["reason"] == "equal to train.csv:2"


def test_the_test_part_is_never_filtered_and_the_data_never_overwritten(tmp_path: Path, run: Run) -> None:
    train = written(tmp_path / "train.csv", range(20))
    plan = tmp_path / "plan.yaml"
    plan.write_text("test: [leaks]\n")
    code, out, err = run(train, "--fix", plan, "--out", tmp_path / "clean.csv")
    assert (code, out) == (2, "")
    assert "never for 'test'" in err
    plan.write_text("[leaks]\n")
    code, _, err = run(train, "--fix", plan, "--out", train)
    assert code == 2
    assert "the data itself" in err
    assert run(train, "--fix", plan)[0] == 2
    assert not (tmp_path / "clean.csv").exists()


def test_data_that_cannot_be_read_are_an_error_with_its_code(tmp_path: Path, run: Run) -> None:
    code, out, err = run(tmp_path / "missing.csv")
    assert (code, out, err[:7]) == (3, "", "error: ")
    other = written(tmp_path / "other.csv", range(5))
    other.write_text(other.read_text().replace("text,label", "body,label", 1))
    code, out, err = run(written(tmp_path / "train.csv", range(20)), "--test", other)
    assert (code, out) == (3, "")
    assert "other.csv, column 'text'" in err


def test_a_doubtful_task_is_told_as_in_training_and_can_be_named(tmp_path: Path, run: Run) -> None:
    stars = tmp_path / "stars.csv"
    stars.write_text("text,stars\n" + "".join(f"{text(number)},{number % 5 + 1}\n" for number in range(60)))
    _, _, err = run(stars)
    assert "task: single_label" in err and "warning: 'stars' holds 5 different whole numbers" in err
    _, _, err = run(stars, "--task", "ordinal")
    assert "task: " not in err and "whole numbers" not in err


def test_images_are_looked_at_too(tmp_path: Path, run: Run) -> None:
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 255, (8, 90 if number == 3 else 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    shutil.copy(tmp_path / "photos" / "cat" / "0.png", tmp_path / "photos" / "dog" / "copy.png")
    code, out, _ = run(tmp_path / "photos", "--images", "--html", tmp_path / "audit.html", "--json", tmp_path / "audit.json")
    assert code == 1
    assert "images equal to an earlier one of their part: train 1 of 9" in out
    assert "\n    dog/copy.png = cat/0.png\n" in out
    assert "dog/copy.png: the same image is 'cat' and 'dog'\n" in out
    assert "cat/3.png: 90 x 8 pixels" in out
    assert "a plan" not in out
    assert "90 x 8 pixels" in (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert run(tmp_path / "photos", "--images", "--fix", "plan.yaml", "--out", "clean.csv")[0] == 2
    code, _, error = run(tmp_path / "photos")
    assert (code, "a folder without .txt files" in error) == (3, True)
