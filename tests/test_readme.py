"""The README is true: its Python runs, its commands run (in their seconds-long form), its table names what exists."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nlpbp.cli import parsing
from nlpbp.data.tiny import tiny_reviews
from run_script import run_script

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
COMMANDS = [line.strip().split("  #")[0] for line in re.findall(r"^    (?=\S)(.*)$", README, flags=re.M) if "import" not in line]
OF_IMAGES = ("T3", "N7", "N8", "N9", "X2", "X3")
OF_ULMFIT = ("L5", "A4", "N4", "N5", "N6", "N10")
TINY_CSV = "".join(f"{text},{label}\n" for text, label in zip(*tiny_reviews().columns.values(), strict=True))
TINY_CSV = f"{','.join(tiny_reviews().columns)}\n{TINY_CSV}"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| [A-Z]\d+ .*$", README, flags=re.M)]


@pytest.mark.parametrize("block", BLOCKS, ids=["recipe", "pieces", "plain loop", "recurrent"])
def test_the_python_blocks_run(block: str, tmp_path: Path) -> None:
    small = block.replace(
        "transformer_sentiment.Config(", 'transformer_sentiment.Config(model=transformer_sentiment.Model("tiny:bert"), '
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", small], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_commands_run_in_their_tiny_form(tmp_path: Path) -> None:
    found = {word for command in COMMANDS for word in re.findall(r"scripts/(\w+)\.py", command)}
    assert found == {"finetune", "predict", "lr_find", "check", "audit", "report"}
    assert run_script("finetune", "--tiny", cwd=tmp_path, launcher=[]).returncode == 0
    (tmp_path / "new.csv").write_text("text\na wonderful film\nthe plot was dull\n")
    (command,) = [command for command in COMMANDS if "predict" in command]
    done = run_script("predict", *shlex.split(command)[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 3
    (command,) = [command for command in COMMANDS if "check.py" in command]
    done = run_script("check", *shlex.split(command)[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    shutil.copytree(tmp_path / "runs" / "transformer_sentiment-1", tmp_path / "runs" / "transformer_sentiment-2")
    (command,) = [command for command in COMMANDS if "report.py" in command]
    done = run_script("report", *shlex.split(command)[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "comparison.html").exists()
    (command,) = [command for command in COMMANDS if "lr_find" in command]
    (tmp_path / "reviews.csv").write_text(TINY_CSV)
    done = run_script("lr_find", "--tiny", *shlex.split(command)[2:], "--finder.orders", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "rate" / "lr_finder_1.svg").exists()
    (command,) = [command for command in COMMANDS if "audit.py" in command]
    done = run_script("audit", *shlex.split(command)[2:], cwd=tmp_path)
    assert "label" in done.stdout, done.stderr


def test_the_stages_of_the_yaml_run(tmp_path: Path) -> None:
    block, of_images = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    (tmp_path / "reviews.csv").write_text(TINY_CSV)
    (tmp_path / "config.yaml").write_text(f"model: {{name: 'tiny:bert'}}\ndata: {{train: reviews.csv, max_length: 64}}\n{block}")
    done = run_script("finetune", "--config", "config.yaml", "--finder.orders", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stage 3: all layers" in done.stdout
    small = "data: {train: 'tiny:shapes', size: 128}\nmodel: {widths: [2, 4], num_blocks: 1}\n"
    (tmp_path / "images.yaml").write_text(small + of_images)
    done = run_script("finetune", "image_classifier", "--config", "images.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stage 1: all layers, 64 pixels" in done.stdout


def helptext(recipe: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        parsing.parse_config(importlib.import_module(f"recipes.{recipe}"), ["--help"], program="finetune.py")
    return capsys.readouterr().out


def test_every_flag_that_the_readme_names_exists(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    recipes = ("transformer_sentiment", "ulmfit", "lm_awd_lstm", "lm_transformer", "image_classifier", "image_transfer")
    helptexts = {name: helptext(name, capsys) for name in recipes}
    named = [(first_word(line.split("finetune.py")[1]), line.split("finetune.py")[1]) for line in COMMANDS if "finetune.py" in line]
    flags = [(recipe, flag) for recipe, rest in named for flag in re.findall(r"--[a-z_.]+", rest) if flag != "--help"]
    flags += [(recipe_of(row[0]), row[3].strip("`")) for row in ROWS if row[3]]
    assert len(flags) > 15
    assert not [(recipe, flag) for recipe, flag in flags if flag not in helptexts[recipe]]


def recipe_of(practice: str) -> str:
    return "ulmfit" if practice in OF_ULMFIT else "image_classifier" if practice in OF_IMAGES else "transformer_sentiment"


def first_word(arguments: str) -> str:
    word = (arguments.split() or [""])[0].strip("`")
    return word if word and not word.startswith("-") and word.islower() else "transformer_sentiment"


def test_the_table_has_the_33_practices_and_names_what_exists() -> None:
    ids = [row[0] for row in ROWS]
    assert len(ids) == len(set(ids)) == 33
    for row in ROWS:
        if row[1] == "planned":
            assert row[2:] == ["", "", ""]
            continue
        assert (ROOT / row[2].strip("`")).is_file()
        assert (ROOT / row[4].strip("`")).is_file()


def test_the_map_names_what_exists() -> None:
    section = README.split("## Where things are")[1].split("##")[0]
    paths = re.findall(r"`((?:scripts|recipes|nlpbp)/[\w./]*)`", section)
    assert len(paths) > 8
    assert not [path for path in paths if not (ROOT / path).exists()]
