"""README and documentation are true: their Python runs, their commands run in their seconds-long form, their flags exist."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlpbp.data.tiny import tiny_reviews, tiny_shapes
from recipes import RECIPES
from run_script import Done, run_script

ROOT = Path(__file__).parent.parent
DOCS = {str(path.relative_to(ROOT / "docs").with_suffix("")): path for path in sorted((ROOT / "docs").rglob("*.md"))}
PAGES = {name: path.read_text(encoding="utf-8") for name, path in {"README": ROOT / "README.md", **DOCS}.items()}
DEFAULT, RUNS = "transformer_sentiment", ("runs/transformer_sentiment-1", "runs/transformer_sentiment-2")
WITH_WARNINGS = ("audit", "check")  # whose exit code says whether there are any
INLINE = re.compile(r"`((?:nlpbp|python scripts/|accelerate launch|torchrun)[^`\n]* [^`\n]*)`")
OTHERS = {"pip", "pytest", "mkdocs", "python3", "for", "done", "ruff"}  # first words of lines that are not ours to try
FOREIGN = {
    *("--nproc_per_node", "--config_file", "--cpu", "--num_processes", "--machine_rank", "--main_process_ip"),  # of launchers
    *("--signals-to-handle", "--nnodes", "--rdzv_backend", "--rdzv_id", "--rdzv_endpoint", "--index-url", "--strict"),
    *("--gres", "--time", "--requeue", "--signal", "--nodes", "--ntasks-per-node", "--gpus-per-node"),  # of SLURM
    *("--no-build-isolation", "--no-deps", "--tiny", "--config", "--help", "--version", "--print-completion"),
}
PLACES = {"RECIPE": DEFAULT, "RUN": RUNS[0], "FOLDER": RUNS[0], "DATA": "reviews.csv", "PLAN": "plan.yaml", "CLEAN": "clean.csv"}
SMALL = {"--mlm.steps": "2", "--data.train_fraction": "0.5", "--model.size": "tiny"}
SMALL |= {"--lm.embeddings": "tiny:bert", "--distil": RUNS[0]}
RUN_BLOCKS = """
import contextlib, io, json, sys, traceback
found = {}
for name, block in json.load(open(sys.argv[1])).items():
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(block, name, "exec"), {"__name__": "__main__"})
        found[name] = [True, printed.getvalue()]
    except BaseException:
        found[name] = [False, traceback.format_exc()]
json.dump(found, open(sys.argv[2], "w"))
"""


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.S | re.M)


def lines_of(block: str) -> list[str]:
    """Return the commands of a block: continued lines in one, loops once, variables filled in, comments left out."""
    block = re.sub(r"\\\n\s*", "", block)
    values = {"seed": "0", **dict(re.findall(r'^\s*(\w+)="(.*)"$', block, flags=re.M))}
    lines = [line.split(" #")[0].strip() for line in block.splitlines()]
    for name, value in reversed(values.items()):
        lines = [line.replace(f"${name}", value) for line in lines]
    return [line for line in lines if line and not re.match(r"\w+=\"", line)]


def parsed(line: str) -> tuple[str, ...]:
    """Return the command of nlpbp that a line runs, and its arguments; nothing where it runs another program."""
    words = shlex.split(line)
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        words.pop(0)
    script = next((index for index, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word)), None)
    if script is not None:
        return (Path(words[script]).stem.replace("_", "-"), *words[script + 1 :])
    if "nlpbp" in words[:1] or words[:4] == ["accelerate", "launch", "-m", "nlpbp"]:
        return tuple(words[words.index("nlpbp") + 1 :])
    assert words[0] in OTHERS, f"what is {line!r}?"
    return ()


def commands() -> list[tuple[str, ...]]:
    """Return every command of nlpbp in README and docs, once."""
    found: dict[tuple[str, ...], None] = {}
    for page in PAGES.values():
        lines = [line for block in fenced(page, "sh") for line in lines_of(block)]
        lines += [line for line in INLINE.findall(page) if len(line.split()) > 2 or line.endswith(".py")]
        found |= dict.fromkeys(filter(None, map(parsed, lines)))
    return list(found)


def small(command: tuple[str, ...]) -> list[str]:
    """Return a command's arguments in their seconds-long form: tiny models, few steps, run folders that exist."""
    name, *rest = [re.sub(r"^[A-Z]+(?=$|/)", lambda found: PLACES.get(found[0], found[0]), word) for word in command]
    if name in ("finetune", "lr-find") and "--help" not in rest:
        return training(rest, sweeps=name == "lr-find")
    images = {"mirrored", "augmented"} & set(rest)
    known = iter(("runs/image_classifier-1",) if images else RUNS)
    rest = [next(known) if word.startswith("runs/") else word for word in rest]
    return [f"{RUNS[0]}/model" if word == "path/to/model" else word for word in rest]


def training(rest: list[str], *, sweeps: bool) -> list[str]:
    """Return the arguments of a training or a sweep with its tiny model."""
    recipe = [rest.pop(0)] if rest and not rest[0].startswith("-") else []
    given = [list(group) for group in re.findall(r"(--\S+)((?: (?!--)\S+)*)", " ".join(rest))]
    flags = {flag: values.split() for flag, values in given if flag not in ("--model.name", "--tiny", "--out")}
    flags |= {flag: [value] for flag, value in SMALL.items() if flag in flags}
    flags["--threads"] = ["1"]
    if flags.get("--data.train") == ["demo:imdb"]:
        flags["--data.train"] = ["reviews.csv"]
    if "--lm.embeddings" in flags:
        flags["--tokenizer.kind"] = ["None"]  # a tiny run names one, and these bring their own
    if sweeps or flags.get("--optim.lr") == ["auto"] or flags.get("--config") == ["stages.yaml"]:
        flags |= {"--finder.num_sweeps": ["1"], "--finder.num_steps": ["40"]}
    if recipe in ([], ["image_classifier"], ["image_transfer"]) and not {"--config", "--cycles.num_cycles"} & set(flags):
        flags["--epochs"] = ["1"]
    start = [] if "--config" in flags else ["--tiny"]
    return [*recipe, *start, *(word for flag, values in flags.items() for word in (flag, *values))]


def run_command(name: str, *arguments: str, cwd: Path) -> Done:
    if not name.startswith("--"):
        return run_script(name.replace("-", "_"), *arguments, cwd=cwd)
    command = [sys.executable, "-m", "nlpbp", name, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@functools.cache
def done_in(place: Path, name: str, *arguments: str) -> Done:
    """Run a command in `place`; many have the same seconds-long form, which is run once."""
    out = place / "out" / str(len(list((place / "out").iterdir())))
    own = ("--threads", "1") if name == "predict" else ()
    own = ("--out", str(out)) if name in ("finetune", "lr-find") and "--help" not in arguments else own
    return run_command(name, *arguments, *own, cwd=place)


def write_csv(file: Path, columns: dict[str, list[str]]) -> None:
    rows = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write a small file under every name that the pages use."""
    table = tiny_reviews(num_examples=120).columns
    texts, labels = table["text"], table["label"]
    count = len(texts)
    whole = {"text": texts, "label": labels, "author": [f"author {n % 60}" for n in range(count)]}
    whole["date"] = [f"2024-{n % 12 + 1:02}-{n % 28 + 1:02}" for n in range(count)]
    write_csv(folder / "reviews.csv", whole)
    write_csv(folder / "stars.csv", {"text": texts, "stars": [str(n % 5 + 1) for n in range(count)]})
    write_csv(folder / "topics.csv", {"text": texts, "topics": [("film", "film;plot")[n % 2] for n in range(count)]})
    write_csv(folder / "prices.csv", {"text": texts, "price": [f"{1 + n % 40 / 10}" for n in range(count)]})
    write_csv(folder / "pairs.csv", {"premise": texts, "hypothesis": texts[::-1], "label": labels})
    titles = {"title": [text.split()[0] for text in texts], "body": texts, "date": whole["date"]}
    write_csv(folder / "listings.csv", {**titles, "price": [str(n) for n in range(count)], "label": labels})
    write_csv(folder / "more.csv", {"text": texts[:50]})
    write_csv(folder / "new.csv", {"text": texts[:3]})
    for name in ("labelled.csv", "later.csv", "validation.csv"):
        write_csv(folder / name, {"text": [f"{text} then" for text in texts[:40]], "label": labels[:40]})
    (folder / "plan.yaml").write_text(fenced(PAGES["audit"], "yaml")[0])
    small_model = "model: {name: 'tiny:bert'}\ndata: {max_length: 64}\n"
    (folder / "stages.yaml").write_text(small_model + fenced(PAGES["learning-rates"], "yaml")[0])
    shapes = tiny_shapes(num_examples=80)
    for index, (pixels, label) in enumerate(zip(shapes["image"], shapes["label"], strict=True)):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels)).save(folder / "photos" / label / f"{index}.png")
    for index, (text, label) in enumerate(zip(texts, labels, strict=True)):
        (folder / "texts" / label).mkdir(parents=True, exist_ok=True)
        (folder / "texts" / label / f"{index}.txt").write_text(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and finished runs under the names that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    write_data(folder)
    (folder / "out").mkdir()
    cycles = ["--optim.schedule", "warm_restarts", "--cycles.num_cycles", "2", "--cycles.snapshots"]
    runs = {
        RUNS[0]: [DEFAULT, *cycles],
        "runs/image_classifier-1": ["image_classifier", "--augment.preset", "side_on"],
        "runs/lm": ["lm_awd_lstm"],
    }
    for out, (recipe, *rest) in runs.items():
        done = run_script("finetune", recipe, "--tiny", "--threads", "1", "--out", out, *rest, cwd=folder)
        assert done.returncode == 0, done.stderr
    shutil.copytree(folder / RUNS[0], folder / RUNS[1])
    return folder


@pytest.mark.parametrize("command", [one for one in commands() if one[0] != "benchmark"], ids=" ".join)
def test_a_command_runs_in_its_seconds_long_form(command: tuple[str, ...], place: Path) -> None:
    (place / "clean.csv").unlink(missing_ok=True)
    done = done_in(place, command[0], *small(command))
    assert done.returncode in ((0, 1) if command[0] in WITH_WARNINGS else (0,)), done.stderr[-2000:]
    if "--out" in command and "." in command[command.index("--out") + 1]:
        assert (place / command[command.index("--out") + 1]).is_file()


def test_the_commands_are_many_and_of_every_kind() -> None:
    found = commands()
    assert len(found) > 40
    assert {command[0] for command in found} >= {"finetune", "predict", "audit", "lr-find", "check", "report", "benchmark"}
    mains = {next((word for word in command[1:2] if word in RECIPES), DEFAULT) for command in found if command[0] == "finetune"}
    assert mains == set(RECIPES) - {"transformers_trainer"}


def test_the_program_knows_every_command_of_the_pages(tmp_path: Path) -> None:
    listed = run_command("--help", cwd=tmp_path).stdout
    assert not [command[0] for command in commands() if not command[0].startswith("--") and command[0] not in listed]


@pytest.fixture(scope="module")
def blocks_done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, str]]:
    """Run all Python blocks, with the tiny model, in one process; return whether each ended well and what it printed."""
    folder = tmp_path_factory.mktemp("blocks")
    tiny = 'transformer_sentiment.Config(model=transformer_sentiment.Model("tiny:bert"), '
    blocks = {name: block.replace("transformer_sentiment.Config(", tiny) for name, block in BLOCKS.items()}
    blocks = {name: block.replace("demo:minilm", "tiny:bert") for name, block in blocks.items()}
    (folder / "blocks.json").write_text(json.dumps(blocks))
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", RUN_BLOCKS, "blocks.json", "done.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: tuple(one) for name, one in json.loads((folder / "done.json").read_text()).items()}


BLOCKS = {f"{name}-{n}": block for name, page in PAGES.items() for n, block in enumerate(fenced(page, "python"))}


@pytest.mark.parametrize("name", list(BLOCKS))
def test_a_python_block_runs_and_prints(name: str, blocks_done: dict[str, tuple[bool, str]]) -> None:
    good, printed = blocks_done[name]
    assert good, printed
    assert printed


def test_a_python_block_that_fails_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "blocks.json").write_text(json.dumps({"bad": "1 / 0", "good": "print(2)"}))
    subprocess.run([sys.executable, "-c", RUN_BLOCKS, "blocks.json", "done.json"], cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "done.json").read_text())
    assert found["good"] == [True, "2\n"]
    assert not found["bad"][0]
    assert "ZeroDivisionError" in found["bad"][1]


def test_the_stages_of_images_run(place: Path) -> None:
    (stages,) = fenced(PAGES["image-models"], "yaml")
    smaller = "data: {train: 'tiny:shapes', size: 128, sample: 0.2}\nmodel: {widths: [2, 4], num_blocks: 1}\n"
    (place / "images.yaml").write_text(smaller + stages)
    done = run_script("finetune", "image_classifier", "--config", "images.yaml", "--out", "runs/sizes", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "stage 1: all layers, 64 pixels" in done.stdout


@pytest.fixture(scope="module")
def helptexts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the help of recipes and of every other command."""
    folder = tmp_path_factory.mktemp("help")
    found = {}
    for name in (DEFAULT, "ulmfit", "image_classifier", "lm_transformer"):  # the others' flags are among these
        found[name] = run_script("finetune", name, "--help", cwd=folder, COLUMNS="200").stdout
    for name in ("predict", "audit", "check", "report", "lr_find"):
        found[name] = run_script(name, "--help", cwd=folder, COLUMNS="200").stdout
    for name in ("outcome", "transformer", "recurrent", "transfer", "finder", "images"):
        found[f"benchmark {name}"] = run_script("benchmark", name, "--help", cwd=folder, COLUMNS="200").stdout
    return found


def flags_in(text: str) -> set[str]:
    return {flag.rstrip(".-") for flag in re.findall(r"(?<![\w-])--[a-zA-Z][\w.-]*", text)}


def test_every_flag_that_a_page_names_exists(helptexts: dict[str, str]) -> None:
    known = FOREIGN | flags_in("\n".join(helptexts.values()))
    assert "--data.train" in known
    assert "--data.trian" not in known
    assert not [(name, flag) for name, page in PAGES.items() for flag in sorted(flags_in(page) - known)]


def test_the_flags_of_a_benchmark_are_its_own(helptexts: dict[str, str]) -> None:
    found = [command for command in commands() if command[0] == "benchmark"]
    assert {command[1] for command in found} == {"outcome", "transformer", "recurrent", "transfer", "finder", "images"}
    for _, name, *rest in found:
        assert flags_in(" ".join(rest)) <= flags_in(helptexts[f"benchmark {name}"])


def test_the_settings_of_a_practice_are_flags_of_its_recipe(helptexts: dict[str, str]) -> None:
    rows = re.findall(r"^\| ([A-Z]\d+) \| .*? \| `[\w/.]+` \| `(--[\w.]+)` \|", PAGES["practices"], flags=re.M)
    assert len(rows) == 33
    assert not [(practice, flag) for practice, flag in rows if flag not in flags_in(helptexts[recipe_of(practice)])]


def recipe_of(practice: str) -> str:
    if practice in ("L5", "A4", "N4", "N5", "N6", "N10"):
        return "ulmfit"
    return "image_classifier" if practice in ("T3", "N7", "N8", "N9", "X2", "X3") else DEFAULT
