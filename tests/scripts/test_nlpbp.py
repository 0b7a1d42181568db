"""The program `nlpbp`: its commands, its versions, how it is started, and what a shell completes."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nlpbp.cli import completion
from nlpbp.cli.commands import COMMANDS
from nlpbp.cli.parsing import parse_config
from recipes import RECIPES
from run_script import ROOT

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
NO_TORCH = "import sys; from nlpbp.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules, 'yaml' in sys.modules)"


def nlpbp(*arguments: str, cwd: Path, start: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [*(start or [sys.executable, "-m", "nlpbp"]), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["finetun"], ["--print-completion", "csh"]])
def test_what_needs_no_library_imports_none(arguments: list[str], tmp_path: Path) -> None:
    done = nlpbp(*arguments, cwd=tmp_path, start=[sys.executable, "-c", NO_TORCH])
    assert done.stdout.splitlines()[-1] == "False False"


def test_help_has_a_line_on_each_command(tmp_path: Path) -> None:
    done = nlpbp("--help", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert all(f"  {name:<12}{line}" in lines for name, (_, _, line) in COMMANDS.items())
    assert "python -m nlpbp --print-completion bash > ~/.local/share/bash-completion/completions/nlpbp" in done.stdout


def test_every_module_of_a_command_has_one(tmp_path: Path) -> None:
    for name, (module, function, _) in COMMANDS.items():
        assert callable(getattr(importlib.import_module(module), function)), name


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_names_the_program_as_it_was_called(command: str, tmp_path: Path) -> None:
    done = nlpbp(command, "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout.startswith(f"usage: python -m nlpbp {command} ")) == (0, True), done.stdout


def test_versions_are_those_of_the_libraries(tmp_path: Path) -> None:
    import accelerate
    import datasets
    import tokenizers
    import torch
    import transformers

    import nlpbp as package

    names = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
    found = (torch, transformers, accelerate, datasets, tokenizers)
    expected = [f"nlpbp {package.__version__}", f"Python {sys.version.split()[0]}"]
    expected += [f"{name} {library.__version__}" for name, library in zip(names, found, strict=True)]
    assert nlpbp("--version", cwd=tmp_path).stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["finetun"], "error: there is no command 'finetun'. Fix: did you mean finetune?"),
        (["lr_fnd"], "did you mean lr-find?"),
        (["--verson"], "there is no flag '--verson'. Fix: did you mean --version?"),
        (["xyz"], "known: finetune, predict"),
        ([], "usage: python -m nlpbp COMMAND"),
        (["--print-completion"], "give one of bash, zsh, fish"),
        (["--print-completion", "csh"], "got 'csh'"),
        (["finetune", "transformer_sentimant"], "did you mean transformer_sentiment?"),
        (["finetune", "--tiny", "--epochs", "0"], "1 or more"),
    ],
)
def test_a_mistake_is_exit_2_and_says_what_was_meant(arguments: list[str], named: str, tmp_path: Path) -> None:
    done = nlpbp(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("launcher", [[sys.executable], ACCELERATE])
def test_it_runs_as_a_module_and_under_accelerate(launcher: list[str], tmp_path: Path) -> None:
    start = [*launcher, "-m", "nlpbp"]
    done = nlpbp("finetune", "--tiny", "--epochs", "1", "--threads", "1", "--out", "run", cwd=tmp_path, start=start)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["test"]


# --- completion ---


@pytest.mark.parametrize("name", RECIPES)
def test_the_flags_that_are_completed_are_those_of_the_recipe(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    recipe = importlib.import_module(RECIPES[name][0])
    with pytest.raises(SystemExit):
        parse_config(recipe, ["--help"], program="nlpbp finetune")
    out = capsys.readouterr().out  # in one column; explanations stand further in
    rows = re.findall(r"^[ │|] {1,2}(?:-h, )?(--[\w.]+)(?:, (--[\w.]+))?", out, flags=re.M)
    listed = {flag for row in rows for flag in row if flag}
    assert len(listed) > 30
    assert {flag for flag in completion.recipe_flags(recipe) if flag not in ("--tiny", "--config")} == listed


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        (folder / shell).write_text(completion.completion(shell), encoding="utf-8")
    return folder


COMPLETED = [
    (["fi"], "finetune"),
    (["finetune", ""], " ".join(RECIPES)),
    (["finetune", "ulm"], "ulmfit"),
    (["finetune", "--data.tru"], "--data.truncation"),
    (["finetune", "ulmfit", "--tiny", "--lm.ini"], "--lm.init"),
    (["finetune", "transformer_sentiment", "--lm.ini"], ""),
    (["finetune", "transformer-sentiment", "--data.tru"], "--data.truncation"),
    (["finetune", "--tiny", "--data.truncation", "win"], "windows"),
    (["finetune", "--data.train", ""], ""),  # where bash itself offers files
    (["finetune", "--stage"], "--stages.0.epochs"),
    (["lr-find", "--stage"], "--stage --stages.0.epochs"),
    (["predict", "runs/a", "--snap"], "--snapshots"),
    (["benchmark", "rec"], "recurrent"),
    (["benchmark", "recurrent", "--peer"], "--peer-python"),
    (["--ver"], "--version"),
]


@pytest.mark.parametrize(("words", "expected"), COMPLETED, ids=lambda given: " ".join(given) if isinstance(given, list) else "")
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_recipes_and_flags(words: list[str], expected: str, script: Path, tmp_path: Path) -> None:
    asked = f"""source {script / "bash"}
        complete -p nlpbp || exit 1
        COMP_WORDS=(nlpbp "$@"); COMP_CWORD=$#
        _nlpbp
        echo "${{COMPREPLY[*]}}" """
    done = subprocess.run(
        ["bash", "--norc", "-c", asked, "bash", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    registered, found = done.stdout.splitlines()
    assert registered == "complete -o default -F _nlpbp nlpbp"
    assert found == expected if "--stage" not in words else found.startswith(expected)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes_the_same(script: Path) -> None:
    asked = f"""compdef() {{ }}; compadd() {{ print -r -- "$@" }}; _files() {{ print files }}; source {script / "zsh"}
        words=(nlpbp finetune ''); CURRENT=3; _nlpbp; words=(nlpbp finetune --data.tr); _nlpbp"""
    done = subprocess.run(["zsh", "-f", "-c", asked], capture_output=True, text=True, check=True)
    recipes, flags = done.stdout.splitlines()
    assert recipes.split() == ["--", *RECIPES]
    assert "--data.train" in flags.split()


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_the_same(script: Path) -> None:
    asked = f"source {script / 'fish'}; complete -C 'nlpbp finetune ulm'; complete -C 'nlpbp finetune --data.tru'"
    done = subprocess.run(["fish", "--no-config", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ulmfit", "--data.truncation"]
