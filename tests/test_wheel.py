"""The wheel carries what a user imports, and nothing of the tree is needed to run a recipe."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import nlpbp

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and a source distribution."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("nlpbp-*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel alone is installed into."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def installed(site: Path, *arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the installed program."""
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [str(site / "bin" / "nlpbp"), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_the_wheel_holds_the_two_packages_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"nlpbp", "recipes"}
    assert {"nlpbp/py.typed", "nlpbp/cli/main.py", "nlpbp/benchmarks/recurrent_fastai.py"} <= set(names)
    assert {f"nlpbp/report/templates/{name}" for name in ("report.html.j2", "page.css", "table.js")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_installed_wheel_imports_recipes_and_runs_the_tiny_form(site: Path, tmp_path: Path) -> None:
    script = "import recipes, nlpbp; print(recipes.__file__, nlpbp.__file__)"
    script += (
        "; import dataclasses; from recipes import transformer_sentiment as t; t.run(dataclasses.replace(t.tiny(), threads=1))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].count(str(site)) == 2
    assert (tmp_path / "runs" / "transformer_sentiment-1" / "result.json").is_file()


def test_the_installed_program_trains_answers_and_tells_its_versions(site: Path, tmp_path: Path) -> None:
    done = installed(site, "finetune", "--tiny", "--threads", "1", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = installed(site, "predict", "run", cwd=tmp_path, stdin="a wonderful film\nthe plot was dull\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    done = installed(site, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"nlpbp {nlpbp.__version__}")
    done = installed(site, "predict", "--help", cwd=tmp_path)
    assert done.stdout.startswith("usage: nlpbp predict ")


def test_the_installed_benchmark_starts_its_workers(site: Path, tmp_path: Path) -> None:
    done = installed(site, "benchmark", "recurrent", "--short", "--out", "x.json", cwd=tmp_path)
    assert "1 threads" in done.stdout, done.stderr  # our worker has prepared its part
    is_there = importlib.util.find_spec("fastai") is not None
    assert done.returncode == (0 if is_there else 2), done.stderr
    assert is_there or "cannot import fastai" in done.stderr  # the peer's has answered too


def test_an_index_would_take_the_wheel_and_the_source(built: Path) -> None:
    files = [str(file) for file in built.glob("nlpbp-*")]
    assert sorted(Path(file).suffix for file in files) == [".gz", ".whl"]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr
