"""The layout: imports point down only, without circles, and no function or file does too much."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("nlpbp.core",),
    ("nlpbp.config",),
    ("nlpbp.data",),
    ("nlpbp.evaluation", "nlpbp.train", "nlpbp.text", "nlpbp.vision"),
    ("nlpbp.tasks",),
    ("nlpbp.audit", "nlpbp.checks"),
    ("nlpbp.report",),
    ("nlpbp.runs",),
    ("nlpbp.modalities",),
    ("nlpbp.trainers",),
    ("nlpbp.inference",),
    ("recipes",),
    ("nlpbp.cli", "nlpbp.estimators", "nlpbp.benchmarks"),
    ("nlpbp.__main__",),
    ("scripts",),
)
"""From the bottom up: a package imports from lower layers only, never from its neighbours in the same one."""

MAX_FILE, MAX_BODY, MAX_ARGUMENTS = 400, 50, 10
SOURCES = [file for folder in ("nlpbp", "recipes", "scripts") for file in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> tuple[int, str] | None:
    """Return the layer and the package of a module; None for the top package and for what is not ours."""
    found = [
        (number, package)
        for number, packages in enumerate(LAYERS)
        for package in packages
        if module == package or module.startswith(f"{package}.")
    ]
    return found[0] if found else None


def imports_of(tree: ast.AST) -> set[str]:
    """Return every module that may be imported, `from package import module` included."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names if layer_of(f"{module}.{alias.name}")}
    return found


def broken_rule(path: Path, imported: str) -> str | None:
    """Say which rule `path` breaks by importing `imported`."""
    here, there = layer_of(module_of(path)), layer_of(imported)
    target = imported.split(".")[0]
    if here and there and here[1] != there[1] and there[0] >= here[0]:
        return f"{here[1]} must not import {there[1]}"
    if here and here[1] == "recipes" and target == "recipes" and imported not in ("recipes", module_of(path)):
        return "a recipe does not import another recipe"
    if here and here[0] < layer_number("recipes") and target == "tyro":
        return "the library knows nothing of command lines"
    third_party = target not in sys.stdlib_module_names and target not in ("nlpbp", "torch", "")
    if here and here[1] == "nlpbp.core" and third_party:
        return "core needs torch and the standard library only"
    return None


def layer_number(package: str) -> int:
    return next(number for number, packages in enumerate(LAYERS) if package in packages)


def functions_of(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each function with its number of arguments and the lines of its body without the docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            first = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            num_arguments = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
            yield node.name, num_arguments, (node.end_lineno or 0) - first[0].lineno + 1


def oversized(source: str) -> list[str]:
    """Name what is too large in a file."""
    tree = ast.parse(source)
    found = [f"{source.count(chr(10))} lines"] if source.count("\n") > MAX_FILE else []
    for name, num_arguments, num_lines in functions_of(tree):
        found += [f"{name} takes {num_arguments} arguments"] if num_arguments > MAX_ARGUMENTS else []
        found += [f"the body of {name} has {num_lines} lines"] if num_lines > MAX_BODY else []
    return found


@pytest.mark.parametrize(
    ("path", "imported"),
    [
        ("nlpbp/text/x.py", "nlpbp.train.loop"),
        ("nlpbp/core/x.py", "numpy"),
        ("nlpbp/data/x.py", "nlpbp.text"),
        ("nlpbp/vision/x.py", "nlpbp.text"),
        ("nlpbp/text/x.py", "nlpbp.vision.images"),
        ("nlpbp/tasks/x.py", "nlpbp.runs.fit"),
        ("nlpbp/modalities/x.py", "nlpbp.trainers.stages"),
        ("nlpbp/runs/report.py", "recipes"),
        ("nlpbp/trainers/x.py", "tyro"),
        ("recipes/a.py", "recipes.b"),
        ("recipes/a.py", "nlpbp.cli.parsing"),
    ],
)
def test_the_rules_notice_what_they_forbid(path: str, imported: str) -> None:
    assert broken_rule(Path(path), imported)


def test_the_sizes_notice_what_they_forbid() -> None:
    arguments = ", ".join(f"a{number}" for number in range(MAX_ARGUMENTS + 1))
    body = "    a = 1\n" * (MAX_BODY + 1)
    assert oversized(f"def wide({arguments}):\n    pass\n") == ["wide takes 11 arguments"]
    assert oversized(f'def long():\n    """Doc."""\n{body}') == ["the body of long has 51 lines"]
    assert oversized("a = 1\n" * (MAX_FILE + 1)) == ["401 lines"]


def test_imports_point_down() -> None:
    broken = [
        f"{file.relative_to(ROOT)} imports {name}: {rule}"
        for file in SOURCES
        for name in sorted(imports_of(ast.parse(file.read_text(encoding="utf-8"))))
        if (rule := broken_rule(file.relative_to(ROOT), name))
    ]
    assert len(SOURCES) > 100
    assert not broken


def test_every_package_has_a_layer() -> None:
    packages = {module_of(file.relative_to(ROOT).parent) for file in SOURCES} - {"nlpbp"}
    assert not [package for package in packages if layer_of(package) is None]


def test_modules_of_a_package_import_each_other_without_a_circle() -> None:
    graph = {}
    names = {module_of(file.relative_to(ROOT)) for file in SOURCES}
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = imports_of(tree) | {
            f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        graph[module_of(file.relative_to(ROOT))] = {name for name in found if name in names}
    graph["nlpbp"] = set()  # it imports the estimators when they are asked for, and for type checkers
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join([*above[above.index(module) :], module])}"
        if module not in done:
            for other in sorted(graph[module] - {module}):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_bodies_and_arguments_are_of_a_readable_size(file: Path) -> None:
    assert not oversized(file.read_text(encoding="utf-8"))


def test_importing_the_top_package_loads_no_torch() -> None:
    code = "import sys, nlpbp, recipes; assert not {'torch', 'numpy', 'sklearn', 'nlpbp.estimators'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
