"""Imports point down only: scripts, recipes, {train, text, vision, analysis}, data, core."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"core": 0, "data": 1, "train": 2, "text": 2, "vision": 2, "analysis": 2}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def broken_rule(path: Path, imported: str) -> str | None:
    """Say which rule `path` breaks by importing `imported`."""
    parts, target = path.parts, imported.split(".")
    if parts[0] == "nlpbp" and target[0] in ("recipes", "scripts", "tyro"):
        return "the library knows nothing of recipes and command lines"
    if parts[0] == "recipes" and target[0] in ("scripts", "tyro", "command_line"):
        return "recipes know nothing of command lines"
    if parts[0] == "recipes" and target[0] == "recipes" and target[1:2] not in ([], ["common"]):
        return "a recipe does not import another recipe"
    if parts[0] == "nlpbp" and target[0] == "nlpbp" and len(target) > 1 and len(parts) > 2:
        here, there = parts[1], target[1]
        if here != there and FLOORS[there] >= FLOORS[here]:
            return f"{here} must not import {there}"
    third_party = target[0] not in sys.stdlib_module_names and target[0] not in ("nlpbp", "torch", "")
    if parts[:2] == ("nlpbp", "core") and third_party:
        return "core needs torch and the standard library only"
    return None


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("nlpbp/text/x.py", "nlpbp.train.loop"),
        ("nlpbp/core/x.py", "numpy"),
        ("nlpbp/data/x.py", "nlpbp.text"),
        ("nlpbp/vision/x.py", "nlpbp.text"),
        ("recipes/a.py", "recipes.b"),
        ("nlpbp/train/x.py", "recipes.common"),
    ],
)
def test_the_rules_notice_what_they_forbid(path: str, imported: str) -> None:
    assert broken_rule(Path(path), imported)


def test_imports_point_down() -> None:
    files = [file for folder in ("nlpbp", "recipes", "scripts") for file in (ROOT / folder).rglob("*.py")]
    broken = [
        f"{file.relative_to(ROOT)} imports {name}: {rule}"
        for file in files
        for name in imports_of(file)
        if (rule := broken_rule(file.relative_to(ROOT), name))
    ]
    assert len(files) > 20
    assert not broken


def test_importing_the_top_package_loads_no_torch() -> None:
    import subprocess

    code = "import sys, nlpbp, recipes; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
