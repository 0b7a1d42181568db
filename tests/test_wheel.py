"""The wheel carries what a user imports, and nothing of the tree is needed to run a recipe."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("nlpbp-*.whl")
    return built


def test_the_wheel_holds_the_two_packages_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"nlpbp", "recipes"}
    assert "nlpbp/py.typed" in names
    assert {f"nlpbp/report/templates/{name}" for name in ("report.html.j2", "page.css", "table.js")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_installed_wheel_imports_recipes_and_runs_the_tiny_form(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    script = "import recipes, nlpbp; print(recipes.__file__, nlpbp.__file__)"
    script += (
        "; import dataclasses; from recipes import transformer_sentiment as t; t.run(dataclasses.replace(t.tiny(), threads=1))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].count(str(site)) == 2
    assert (tmp_path / "runs" / "transformer_sentiment-1" / "result.json").is_file()
