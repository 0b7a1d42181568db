"""What SECURITY.md promises: no code from files, nothing outside the run folder, no secrets in artefacts, no network."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from payloads import payloads

from nlpbp.cli import finetune, parsing
from nlpbp.cli import predict as predict_script
from nlpbp.config import files as config_files
from nlpbp.config.secrets import redact
from nlpbp.core.errors import CheckpointError, ConfigError, NlpbpError
from nlpbp.data.exports import FORMULA_STARTS, code_span, printable, spreadsheet_cell
from nlpbp.data.tiny import tiny_reviews
from nlpbp.inference import prediction_files
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import load_classifier, load_config, load_tokenizer
from nlpbp.train.checkpoint import find_fault, newest_checkpoint, write_checkpoint
from recipes import transformer_sentiment
from run_script import ROOT

MODULES = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
UNSAFE_YAML = {"unsafe_load", "full_load", "UnsafeLoader", "FullLoader"}
ATTRIBUTES = {"torch.load", "torch.hub.load", "torch.serialization.load", "yaml.load"} | {f"yaml.{name}" for name in UNSAFE_YAML}
CALLS = {"eval", "exec", "compile", "__import__"}
MUST_BE_FALSE = {"allow_pickle", "trust_remote_code", "shell"}
FOLDERS = ("nlpbp", "recipes", "scripts")
READS_FASTAI = "nlpbp/text/fastai_weights.py"  # the one place where torch.load stands: for weights alone, of a file the user names
ATTACKS = "torture_parts"  # makes the malicious files, and shows what others do with them
NASTY_LABELS = ("=1+1", "\x1b[2J", "<script>alert(1)</script>", "../../x", "@SUM(A1)", "a`b")


# --- the code itself ---


def dangers(source: str) -> list[str]:
    """Name what in a module could run code out of a file."""
    return [found for node in ast.walk(ast.parse(source)) for found in dangers_of(node)]


def dangers_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    if isinstance(node, ast.ImportFrom):
        module, names = node.module or "", [alias.name for alias in node.names]
        if module.split(".")[0] in MODULES:
            return [module]
        return [f"{module}.{name}" for name in names if f"{module}.{name}" in ATTRIBUTES]
    if isinstance(node, ast.Attribute):
        return [name] if (name := ast.unparse(node)) in ATTRIBUTES else []
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        wrong = [f"{name}={options[name]}" for name in MUST_BE_FALSE & options.keys() if options[name] != "False"]
        return wrong + ([name] if name in CALLS else [])
    return []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle.cloudpickle as c",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load",
        "f = torch.load",
        "yaml.load(text, yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "from yaml import UnsafeLoader",
        "np.load('x.npy', allow_pickle=True)",
        "np.load('x.npy', allow_pickle=flag)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=config.trust)",
        "eval('1')",
        "exec(code)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_the_lint_notices_what_it_forbids(source: str) -> None:
    assert dangers(source)


def test_the_lint_lets_harmless_code_pass() -> None:
    assert not dangers("import json\nmodel.eval()\nAuto.load(n, trust_remote_code=False)\nnp.load(f, allow_pickle=False)")


def test_no_module_can_run_code_from_a_file() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if ATTACKS not in path.parts]
    assert len(files) > 30
    found = {str(path.relative_to(ROOT)): dangers(path.read_text(encoding="utf-8")) for path in files}
    assert {file: names for file, names in found.items() if names} == {READS_FASTAI: ["torch.load"]}


def test_the_one_torch_load_reads_weights_only() -> None:
    nodes = list(ast.walk(ast.parse((ROOT / READS_FASTAI).read_text(encoding="utf-8"))))
    (call,) = (node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load")
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}["weights_only"] == "True"


def test_no_module_imports_pickle_not_even_one_that_makes_malicious_files() -> None:
    files = [path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    files.remove(ROOT / "tests" / "estimators" / "test_tools.py")  # reads what it wrote, as scikit-learn's processes do
    imports = (ast.Import, ast.ImportFrom)
    found = {path: [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, imports)] for path in files}
    assert [str(path.relative_to(ROOT)) for path, nodes in found.items() if any(map(dangers_of, nodes))] == []


# --- code in files ---

Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Script:
    """Run the body of a script as its command line would; return the exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(body: Callable[[Sequence[str]], None], *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            parsing.run_command(body, "script.py")
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def hidden_code(folder: Path, marker: Path, *, known: bool) -> Path:
    """Make a model folder whose config points to Python code beside it; `known`: its type is also one of transformers' own."""
    tiny_bert(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}}
    config |= {} if known else {"model_type": "evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass C: pass\nclass M: pass\n")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": [None, "evil.T"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_the_hidden_code_would_write_the_marker(tmp_path: Path) -> None:
    hidden_code(tmp_path / "model", tmp_path / "marker", known=False)
    subprocess.run([sys.executable, "evil.py"], cwd=tmp_path / "model", check=True)
    assert (tmp_path / "marker").exists()


def test_a_model_folder_with_code_is_refused_without_running_or_asking(script: Script, tmp_path: Path) -> None:
    folder = hidden_code(tmp_path / "model", tmp_path / "marker", known=False)
    code, printed, errors = script(finetune.finetune, "--tiny", "--model.name", str(folder), stdin="y\n" * 9)
    assert code == 2
    assert "custom code" in errors
    assert "[y/N]" not in printed + errors
    assert not (tmp_path / "marker").exists()


def test_of_a_known_model_type_the_code_beside_it_is_left_alone(tmp_path: Path) -> None:
    folder = hidden_code(tmp_path / "model", tmp_path / "marker", known=True)
    try:
        tokenizer = load_tokenizer(str(folder))
        config = load_config(str(folder), task="single_label", labels=["a", "b"])
        load_classifier(str(folder), config=config, tokenizer=tokenizer)
    except ConfigError:
        pass  # refused is as good
    assert not (tmp_path / "marker").exists()


def test_predict_does_not_take_its_texts_for_an_answer(script: Script, tmp_path: Path) -> None:
    hidden_code(tmp_path / "run" / "model", tmp_path / "marker", known=False)
    code, printed, errors = script(predict_script.answer, "run", stdin="y\n" * 9)
    assert code == 2
    assert "[y/N]" not in printed + errors
    assert not (tmp_path / "marker").exists()


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payload = payloads(marker)["os.system"]
    model = tiny_bert(tmp_path / "model")
    (model / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "special_tokens_map.pkl"):
        (model / name).write_bytes(payload)
    config = load_config(str(model), task="single_label", labels=["a", "b"])
    with pytest.raises(ConfigError):
        load_classifier(str(model), config=config, tokenizer=load_tokenizer(str(model)))
    torch.save({"weight": torch.ones(1)}, model / "pytorch_model.bin")  # a harmless one is not read either
    with pytest.raises(ConfigError):
        load_classifier(str(model), config=config, tokenizer=load_tokenizer(str(model)))
    (model / "model.safetensors").write_bytes(payload)
    with pytest.raises(NlpbpError):
        load_classifier(str(model), config=config, tokenizer=load_tokenizer(str(model)))
    for data in ("reviews.csv", "reviews.json", "reviews.jsonl", "reviews.parquet", "reviews.pkl"):
        (tmp_path / data).write_bytes(payload)
        with pytest.raises(NlpbpError):
            transformer_sentiment.run(tiny(tmp_path / "run", train=str(tmp_path / data)))
    assert not marker.exists()
    subprocess.run([sys.executable, "-m", "pickle", model / "model.safetensors"], check=True)
    assert marker.exists()  # the control: it does what the readers above did not


def test_a_pickle_in_a_checkpoint_is_refused_even_with_a_right_hash(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    given: dict[str, Any] = {"files": {}, "state": {}, "identity": {}, "tensors": {"model.safetensors": {"w": torch.ones(1)}}}
    path = write_checkpoint(tmp_path / "checkpoints", step=1, **given)
    (path / "model.safetensors").write_bytes(payloads(marker)["os.system"])
    assert find_fault(path)
    with pytest.raises(CheckpointError):
        newest_checkpoint(tmp_path / "checkpoints", identity={})
    hidden = tmp_path / "hidden.safetensors"
    hidden.write_bytes(payloads(marker)["os.system"])
    other = write_checkpoint(tmp_path / "others", step=1, **{**given, "files": {"optim.safetensors": hidden}})
    found = newest_checkpoint(tmp_path / "others", identity={})
    assert found is not None
    assert found.path == other
    with pytest.raises(Exception, match=r"(?i)header"):
        found.tensors("optim.safetensors")
    assert not marker.exists()


def test_a_header_of_a_safetensors_file_cannot_ask_for_all_memory(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    config = load_config(str(model), task="single_label", labels=["a", "b"])
    with pytest.raises(NlpbpError):
        load_classifier(str(model), config=config, tokenizer=load_tokenizer(str(model)))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch marker']",
        "epochs: !!python/object/apply:pathlib.Path.touch [marker]",
        "model: {name: !!python/name:os.system }",
        "optim: {_target_: os.system}",
        "model: {auto_map: {AutoConfig: evil.C}}",
    ],
)
def test_a_config_is_plain_data(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        config_files.load(transformer_sentiment.Config, Path("config.yaml"))
    assert not Path("marker").exists()


# --- a run on hostile names ---


def tiny(out: Path, **data: Any) -> transformer_sentiment.Config:
    base = transformer_sentiment.tiny()
    return dataclasses.replace(base, data=dataclasses.replace(base.data, **data), out=str(out), threads=1, epochs=1)


@pytest.fixture(scope="module", autouse=True)
def reports() -> Iterator[None]:
    """Let runs leave their report, which most tests do without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NLPBP_REPORT", raising=False)
        yield


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on labels and columns that mean mischief; return the folder that the run folder `run` lies in."""
    place = tmp_path_factory.mktemp("nasty")
    texts = tiny_reviews(num_examples=120).columns["text"]
    rows = [{"the\ntext": f"{text} \x1b]0;x\x07", "label": NASTY_LABELS[i % len(NASTY_LABELS)]} for i, text in enumerate(texts)]
    (place / "=data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "new\x1b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    with (place / "printed.txt").open("w") as file, contextlib.redirect_stdout(file), contextlib.chdir(place):
        transformer_sentiment.run(tiny(Path("run"), train="=data.jsonl", task="single_label"))
    return place


def test_nothing_leaves_the_run_folder(nasty: Path) -> None:
    assert {path.name for path in nasty.iterdir()} == {"=data.jsonl", "new\x1b.jsonl", "run", "printed.txt"}
    files = {str(path.relative_to(nasty / "run")) for path in (nasty / "run").rglob("*") if path.is_file()}
    model = {
        f"model/{name}" for name in ("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    assert files == {
        ".lock",
        "audit.json",
        "calibration.json",
        "config.yaml",
        "environment.json",
        "errors.json",
        "test_uses.json",
        "metrics.jsonl",
        "predictions.parquet",
        "probe.json",
        "report.html",
        "result.json",
        *model,
    }


def test_what_is_printed_commands_no_terminal(nasty: Path, script: Script) -> None:
    texts = [(nasty / "printed.txt").read_text()]
    data, run = str(nasty / "new\x1b.jsonl"), str(nasty / "run")
    for arguments in ((run, "--data", data), (run, "--data", data, "--out", "a\x1b[2Jb.csv"), (run, "--data", "missing\x1b.csv")):
        texts += map(str, script(predict_script.answer, *arguments))
    code, *printed = script(finetune.finetune, "--tiny", "--data.train", data, "--data.label", "\x1b[2J")
    assert code == 3
    assert "\\x1b[2J" in printed[1]
    for text in (*texts, *printed):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.sub(r"\r(predicting|tokenizing|training)?|\x1b\[A", "", text))


def test_json_and_parquet_keep_the_labels_and_the_card_holds_them_as_code(nasty: Path) -> None:
    assert set(json.loads((nasty / "run/result.json").read_text())["data"]["labels"]) == set(NASTY_LABELS)
    config = json.loads((nasty / "run/model/config.json").read_text())
    assert set(config["id2label"].values()) == set(NASTY_LABELS)
    assert set(pq.read_table(nasty / "run/predictions.parquet").to_pydict()["label"]) <= set(NASTY_LABELS)
    card = (nasty / "run/model/README.md").read_text()
    assert "`<script>alert(1)</script>`" in card
    assert "`` a`b ``" in card
    assert "\x1b" not in card


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_spreadsheet_runs_no_cell(suffix: str, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "reference": ["=data.csv:2", "new.csv:3", "new.csv:4"],
        "label": ["-1", "\tx", "+cmd|' /C calc'!A0"],
        "prediction": [["=1+1", "b"], ["a", "=b"], []],
        "probability_=1+1": [-0.5, 1e-7, 1.0],
    }
    path = tmp_path / f"predictions{suffix}"
    prediction_files.write_predictions(columns, path)
    if suffix == ".parquet":
        assert pq.read_table(path).to_pydict() == columns
        return
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {name: [row[name] for row in rows] for name in columns} == columns
        return
    with path.open(newline="") as file:
        cells = list(csv.reader(file, delimiter="\t" if suffix == ".tsv" else ","))
    assert cells == [
        ["reference", "label", "prediction", "probability_=1+1"],
        ["'=data.csv:2", "-1", "'=1+1|b", "-0.5"],
        ["new.csv:3", "'\tx", "a|=b", "1e-07"],
        ["new.csv:4", "'+cmd|' /C calc'!A0", "", "1.0"],
    ]


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_every_beginning_of_a_formula_gets_an_apostrophe(start: str) -> None:
    assert spreadsheet_cell(f"{start}A1") == f"'{start}A1"


@pytest.mark.parametrize("value", ["-1", "+2.5", "-.5e-3", "fine", "", 3, -3, -0.5, None, True])
def test_numbers_and_harmless_texts_stay(value: Any) -> None:
    assert spreadsheet_cell(value) == value
    assert type(spreadsheet_cell(value)) is type(value)


def test_printable_and_code_keep_text_in_its_place() -> None:
    assert printable("\x1b[2J\x00\x9b\u202e") == "\\x1b[2J\\x00\\x9b\\u202e"
    assert printable("two\nlines, ä, 漢") == "two\nlines, ä, 漢"
    assert code_span("``") == "``` `` ```"
    assert "\n" not in code_span("a\n# b")


# --- secrets ---

TOKENS = {
    "HF_TOKEN": "hf_" + "A1b2" * 9,
    "AWS_ACCESS_KEY_ID": "AKIA" + "ABCDEFGH12345678",
    "MY_API_KEY": "correct-horse/battery staple",
    "DATABASE_PASSWORD": "hunter2hunter2",
    "CLIENT_SECRET": "a'b\"c\\d: {e}",
}
FORMED = ("hf_" + "z" * 34, "AKIA0123456789ABCDEF", "sk-proj-" + "Ab3_" * 10, "ghp_" + "x1" * 18)


@pytest.fixture
def secret_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, str]]:
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN")  # it would be sent to a hub; by its form it is found without
    yield TOKENS


def test_secrets_are_replaced_and_numbers_are_not(secret_environment: Mapping[str, str]) -> None:
    for secret in (*secret_environment.values(), *FORMED):
        assert redact(f"/data/{secret}/x") == "/data/[redacted]/x"
        assert redact({secret: [1, (secret,)]}) == {"[redacted]": [1, ("[redacted]",)]}
    numbers = {"seed": 12345678, "loss": 0.5, "none": None, "on": True}
    assert redact(numbers) == numbers


def test_short_values_places_and_plain_words_are_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setenv("KEY_FILE", str(tmp_path))
    monkeypatch.setenv("EMPTY_KEY", "")
    for text in ("true", str(tmp_path / "run"), "task-specific-fine-tuning-of-models", "hf_internal/tiny", "sk-learn"):
        assert redact(text) == text


def test_no_file_of_a_run_holds_a_secret(tmp_path: Path, secret_environment: Mapping[str, str]) -> None:
    place = tmp_path / "-".join([TOKENS["DATABASE_PASSWORD"], TOKENS["HF_TOKEN"], *FORMED[1:]])
    model = tiny_bert(place / TOKENS["MY_API_KEY"] / TOKENS["CLIENT_SECRET"])
    table = tiny_reviews(num_examples=80).columns
    rows = [f"{text},{label}" for text, label in zip(table["text"], table["label"], strict=True)]
    data = place / f"{TOKENS['AWS_ACCESS_KEY_ID']}.csv"
    data.write_text("text,label\n" + "\n".join(rows) + "\n")
    out = place / "run"
    config = tiny(out, train=str(data))
    transformer_sentiment.run(dataclasses.replace(config, model=dataclasses.replace(config.model, name=str(model))))
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"config.yaml", "result.json", "metrics.jsonl", "environment.json", "README.md"} <= {path.name for path in files}
    secrets = (*TOKENS.values(), *FORMED[1:])
    assert not [(str(path.relative_to(out)), secret) for path in files for secret in secrets if found(path, secret)]
    assert "[redacted]" in (out / "config.yaml").read_text()
    assert "[redacted]" in (out / "model" / "README.md").read_text()


def found(path: Path, secret: str) -> bool:
    data = path.read_bytes()
    if path.suffix == ".parquet":
        data += json.dumps(pq.read_table(path).to_pydict(), ensure_ascii=False).encode()
    return secret.encode() in data or json.dumps(secret)[1:-1].encode() in data


def test_a_run_whose_config_holds_a_secret_goes_on(tmp_path: Path, secret_environment: Mapping[str, str]) -> None:
    config = tiny(tmp_path, train=f"{TOKENS['DATABASE_PASSWORD']}.csv")
    config_files.save(config, tmp_path / "config.yaml")
    saved = config_files.load(transformer_sentiment.Config, tmp_path / "config.yaml")
    assert saved.data.train == "[redacted].csv"
    assert not config_files.differences(config_files.asdict(saved), config_files.asdict(config))


# --- the network ---

NO_NETWORK = """
import os, runpy, socket, sys
tried = []
def refuse(name, original):
    def call(self, address, *rest):
        if self.family != socket.AF_UNIX:
            tried.append(address)
            raise OSError(f"network: {name} {address}")
        return original(self, address, *rest)
    return call
class Guarded(socket.socket):
    connect = refuse("connect", socket.socket.connect)
    connect_ex = refuse("connect_ex", socket.socket.connect_ex)
    sendto = refuse("sendto", socket.socket.sendto)
socket.socket = Guarded
def resolve(*given, **named):
    tried.append(given)
    raise OSError(f"network: getaddrinfo {given}")
socket.getaddrinfo = resolve
for line in sys.argv[1].split(";"):
    sys.argv = line.split()
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    print("tried", tried, file=sys.stderr)
"""


def without_network(*commands: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run commands one after the other in a process that has no network and is not told so."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    given = [sys.executable, "-c", NO_NETWORK, ";".join(commands)]
    return subprocess.run(given, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_training_and_answering_on_local_files_use_no_network(tmp_path: Path) -> None:
    table = tiny_reviews(num_examples=80).columns
    rows = [f"{text},{label}" for text, label in zip(table["text"], table["label"], strict=True)]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    tiny_bert(tmp_path / "bert")
    scripts = ROOT / "scripts"
    done = without_network(
        f"{scripts}/finetune.py --tiny --epochs 1 --data.train reviews.csv --model.name ./bert --out run",
        f"{scripts}/predict.py run --data reviews.csv --out answers.csv",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tried []") == 2
    assert (tmp_path / "answers.csv").exists()


def test_the_guard_notices_a_network_call(tmp_path: Path) -> None:
    (tmp_path / "call.py").write_text("import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))\n")
    done = without_network("call.py", cwd=tmp_path)
    assert "network: connect_ex" in done.stderr
    (tmp_path / "call.py").write_text("import urllib.request\nurllib.request.urlopen('http://localhost:9')\n")
    assert "network: getaddrinfo" in without_network("call.py", cwd=tmp_path).stderr
