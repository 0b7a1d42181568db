"""Faults of security: nothing in a file runs, nothing leaves the run folder, nothing is fetched, nothing commands a terminal."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from harness import Forks, artefacts, killed_run, train
from packaging.version import Version
from payloads import KINDS, careless, payloads

from nlpbp.config.files import load
from nlpbp.core.errors import ConfigError, DataError, NlpbpError
from nlpbp.data.readers import read_table
from nlpbp.data.tiny import tiny_reviews
from nlpbp.inference import prediction_files
from nlpbp.modalities import encoding
from nlpbp.report.page import run_report
from nlpbp.text.tiny import tiny_bert
from recipes import transformer_sentiment
from report_pages import PAYLOADS, Page, dangers, make_run
from run_script import ROOT


@pytest.mark.fault("G1")
def test_the_gallery_is_dangerous(tmp_path: Path) -> None:
    readers = []
    for kind in KINDS:
        (tmp_path / kind).write_bytes(payloads(tmp_path / f"{kind}.proof")[kind])
        readers.append(subprocess.Popen([sys.executable, "-c", careless(kind), tmp_path / kind], stderr=subprocess.DEVNULL))
    for reader in readers:
        reader.wait(60)
    assert [kind for kind in KINDS if not (tmp_path / f"{kind}.proof").exists()] == []


@pytest.mark.fault("G1")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.json", "a.jsonl", "a.parquet"])
def test_a_pickle_in_a_data_file(tmp_path: Path, marker: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(payloads(marker)[kind])
    try:
        read_table(tmp_path / name)
    except DataError as error:
        assert error.file == str(tmp_path / name)


@pytest.mark.fault("G1")
@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_in_a_config_file(tmp_path: Path, marker: Path, kind: str) -> None:
    (tmp_path / "config.yaml").write_bytes(payloads(marker)[kind])
    with pytest.raises(ConfigError) as error:
        load(transformer_sentiment.Config, tmp_path / "config.yaml")
    assert (error.value.code, error.value.file) == (2, str(tmp_path / "config.yaml"))


@pytest.mark.fault("G1")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pickle_in_a_model_folder(tmp_path: Path, marker: Path, name: str, kind: str) -> None:
    folder = tiny_bert(tmp_path / "bert")
    (folder / name).write_bytes(payloads(marker)[kind])
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
    assert error.value.code == 2
    assert str(folder) in str(error.value)


@pytest.mark.fault("G1")
def test_pickles_beside_a_model_are_left_alone(whole: Path, tmp_path: Path, marker: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    names = ["training_args.bin", "pytorch_model.bin", "optimizer.pt", "vocab.pkl", "model.pkl", "evil.py"]
    for name, payload in zip(names, payloads(marker).values(), strict=True):
        (folder / name).write_bytes(payload)
    train(tmp_path / "run", model={"name": str(folder)})
    assert artefacts(tmp_path / "run")["model/model.safetensors"] == artefacts(whole)["model/model.safetensors"]


@pytest.mark.fault("G1")
def test_pickles_in_the_cache_are_made_anew(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CACHE", tmp_path / "cache")
    train(tmp_path / "first", epochs=1)
    files = sorted((tmp_path / "cache" / "tokens").iterdir())
    assert len(files) == 3
    gallery = list(payloads(marker).values())
    for number in (0, 1):
        for file, payload in zip(files, gallery[3 * number :], strict=False):
            file.write_bytes(payload)
        train(tmp_path / f"again-{number}", epochs=1)
        assert artefacts(tmp_path / "first") == artefacts(tmp_path / f"again-{number}")


@pytest.mark.fault("G1")
@pytest.mark.parametrize("name", ["environment.json", "config.yaml", "metrics.jsonl", "best.safetensors"])
def test_a_pickle_in_an_unfinished_run(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    killed_run(monkeypatch, tmp_path / "run", step=8)
    (tmp_path / "run" / name).write_bytes(payloads(marker)["os.system"])
    try:
        train(tmp_path / "run")
    except NlpbpError as error:
        assert error.code in (2, 4)


@pytest.mark.fault("G2")
def test_nothing_is_tried_again_unsafely(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    original = torch.load

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(options.get("weights_only", True))
        return original(*args, **options)

    monkeypatch.setattr(torch, "load", noted)
    folder = tiny_bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(payloads(marker)["torch.save"])
    with pytest.raises(ConfigError):
        train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
    assert all(asked)


@pytest.mark.fault("G2")
def test_the_code_never_unpickles() -> None:
    for file in [path for folder in ("nlpbp", "recipes", "scripts") for path in (ROOT / folder).rglob("*.py")]:
        if "torture" not in str(file):  # it makes such files, to prove that they are refused
            code = file.read_text(encoding="utf-8")
            assert not re.search(r"^\s*(import|from) (pickle|joblib|dill|cloudpickle)|weights_only\s*=\s*False", code, re.M), file


@pytest.mark.fault("G3")
@pytest.mark.parametrize(
    "text",
    [
        "epochs: !!python/object/apply:os.system [\"touch '{marker}'\"]\n",
        "!!python/object/new:os.system [\"touch '{marker}'\"]\n",
        "epochs: !!python/name:os.system\n",
        "out: !!python/object/apply:subprocess.check_output [['touch', '{marker}']]\n",
    ],
)
def test_a_yaml_tag_that_calls_python(tmp_path: Path, marker: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text.format(marker=marker))
    with pytest.raises(ConfigError) as error:
        load(transformer_sentiment.Config, tmp_path / "config.yaml")
    assert (error.value.code, error.value.file, error.value.row) == (2, str(tmp_path / "config.yaml"), 1)


@pytest.mark.fault("G4")
@pytest.mark.parametrize("key", ["_target_", "_instantiator", "class_path", "__class__"])
def test_a_config_that_names_a_class_to_build(tmp_path: Path, marker: Path, key: str) -> None:
    (tmp_path / "config.yaml").write_text(f"model:\n  {key}: os.system\n  args: [\"touch '{marker}'\"]\n")
    with pytest.raises(ConfigError) as error:
        load(transformer_sentiment.Config, tmp_path / "config.yaml")
    assert (error.value.code, error.value.column) == (2, f"model.{key}")
    folder = tiny_bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    config[key] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    try:
        train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
    except ConfigError as error:
        assert (error.code, key) == (2, "__class__")  # the others are keys that nobody reads


def with_code(folder: Path, marker: Path, *, known: bool) -> Path:
    tiny_bert(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    config["model_type"] = "bert" if known else "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["evil.Config", "evil.Config"]}
    if not known:
        tokenizer["tokenizer_class"] = "EvilTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.fault("G5")
def test_code_in_a_model_folder_is_refused_without_asking(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *given: "y")
    folder = with_code(tmp_path / "bert", marker, known=False)
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
    assert error.value.code == 2
    assert str(folder) in str(error.value)


@pytest.mark.fault("G5")
def test_code_beside_a_model_of_a_known_type_is_left_alone(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *given: "y")
    try:
        train(tmp_path / "run", model={"name": str(with_code(tmp_path / "bert", marker, known=True))}, epochs=1)
    except ConfigError as error:
        assert error.code == 2


NAMES = ["../../climbed", "/tmp/nlpbp-absolute", "CON", "x" * 300, "..", "a\\b", "a:b", "$(touch x)"]


@pytest.mark.fault("G6")
def test_labels_that_look_like_paths_stay_labels(tmp_path: Path) -> None:
    rows = tiny_reviews(num_examples=96).columns
    rows["label"] = [NAMES[i % len(NAMES)] for i in range(96)]
    (tmp_path / "here").mkdir()
    result = train(tmp_path / "here" / "run", data={"train": rows}, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["run"]
    assert not Path("/tmp/nlpbp-absolute").exists()
    names = {path.name for path in result.out.rglob("*")}
    assert not names & {*NAMES, "climbed", "x"}
    saved = json.loads((result.out / "model" / "config.json").read_text())
    assert set(saved["id2label"].values()) == set(NAMES)


@pytest.mark.fault("G6")
@pytest.mark.parametrize("name", ["nul\0inside", "x" * 300, ""])
def test_folders_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    if not name:
        result = train("", epochs=1)  # no name: a numbered folder
        assert result.out.parts[0] == "runs"
        return
    with pytest.raises(ConfigError) as error:
        train(f"{tmp_path}/{name}", epochs=1)
    assert (error.value.code, error.value.column) == (2, "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.fault("G6")
@pytest.mark.parametrize("name", ["nul\0inside.csv", "x" * 300 + ".csv", "../missing.csv"])
def test_data_files_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as error:
        train(tmp_path / "run", data={"train": f"{tmp_path}/{name}"})
    assert error.value.file == f"{tmp_path}/{name}"
    assert "\0" not in str(error.value)


@pytest.mark.fault("G6")
@pytest.mark.parametrize("name", ["nul\0inside", "./" + "x" * 300, "../missing", "/"])
def test_model_folders_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", model={"name": f"{tmp_path}/{name}" if name != "/" else name})
    assert error.value.code == 2


@pytest.mark.fault("G7")
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.7z", "a.csv", "a.parquet"])
def test_archives_are_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner.txt").write_text("x")
    path = tmp_path / "here" / name
    path.parent.mkdir()
    if ".tar" in name:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(tmp_path / "inner.txt", "../climbed.txt")
            archive.add(tmp_path / "inner.txt", "/tmp/nlpbp-absolute")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../climbed.txt", "x")
            for number in range(1000):
                archive.writestr(f"{number}.txt", "x")
    with pytest.raises(DataError) as data_error:
        read_table(path)
    assert data_error.value.file == str(path)
    with pytest.raises(ConfigError):
        train(tmp_path / "run", model={"name": str(path)})
    assert {entry.name for entry in tmp_path.iterdir()} == {"inner.txt", "here"}
    assert not Path("/tmp/nlpbp-absolute").exists()


@pytest.mark.fault("G8")
def test_a_report_of_hostile_texts_labels_and_names_is_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NLPBP_REPORT", raising=False)
    column, label, file = (
        '<svg onload="window.__xss=1">',
        "<script>window.__xss=1</script>",
        "<img src=x onerror=window.__xss=1>.csv",
    )
    rows = tiny_reviews(num_examples=80).columns
    labels = [label if each == "pos" else "]]>$\\frac$<b>" for each in rows["label"]]
    with (tmp_path / file).open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([[column, "label"], *zip(rows["text"], labels, strict=True)])
    train(tmp_path / "run", data={"train": str(tmp_path / file), "text": (column,)}, epochs=1)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert dangers(page) == []
    assert all(name in Page(page).text for name in (column, label, file))


@pytest.mark.fault("G8")
def test_a_report_of_files_that_hold_forty_payloads_is_inert(tmp_path: Path) -> None:
    page = run_report(make_run(tmp_path / "run", labels=PAYLOADS[12:24], texts=PAYLOADS, names=PAYLOADS))
    assert len(PAYLOADS) == 40
    assert dangers(page) == []
    assert dangers(page.replace("</main>", f"{PAYLOADS[0]}</main>"))


@pytest.mark.fault("G9")
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_formulas_do_not_run_in_a_spreadsheet(tmp_path: Path, suffix: str) -> None:
    nasty = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")']
    columns = {"id": list(range(7)), "label": nasty, "prediction": nasty, "tags": [["=1", "b"]] * 7, "value": [-0.5] * 7}
    prediction_files.write_predictions(columns, tmp_path / f"a{suffix}")
    with (tmp_path / f"a{suffix}").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t" if suffix == ".tsv" else ","))
    for row in rows[1:]:
        assert not [cell for cell in row[:4] if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert row[4] == "-0.5"
    prediction_files.write_predictions(columns, tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["label"] == "=1+1"


ESCAPES = ("\x1b", "\x07", "\x9b", "\x08")


@pytest.mark.fault("G10")
def test_texts_and_names_command_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = tiny_reviews(num_examples=80).columns
    rows["text"] = [f"\x1b[2J{text}\x07" for text in rows["text"]]
    rows["label"] = [f"\x1b]0;{label}\x07" if index else f"\x1b]0;{label} \x07" for index, label in enumerate(rows["label"])]
    columns = {"\x1b[31mtext": rows["text"], "label": rows["label"]}
    test = {"\x1b[31mtext": [*rows["text"][:3], "a film", "a plot"], "label": [*rows["label"][1:3], *rows["label"][1:4]]}
    train(tmp_path / "\x1b[2Jrun", data={"train": columns, "test": test}, epochs=1)
    printed = "".join(capfd.readouterr())
    assert "split: train" in printed
    assert not [escape for escape in ESCAPES if escape in printed.replace("\x1b[A", "")]


@pytest.mark.fault("G10")
def test_errors_command_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2Ja.csv"
    for content in ("text,label\n\x1b[2Jx,1,2\n", "\x1b[2Jtext,label,\x1b[2Jtext\na,1,2\n", 'text,label\n"\x1b[2Jx,1\n'):
        path.write_text(content)
        with pytest.raises(DataError) as error:
            read_table(path)
        assert not [escape for escape in ESCAPES if escape in str(error.value)]


@pytest.mark.fault("G11")
def test_secrets_are_in_nothing_that_a_run_writes_or_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    token, key, password = "hf_" + "AbCdEfGhIj" * 3 + "KlMn", "AKIA" + "ABCDEFGHIJKLMNOP", "correct horse battery"
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("MY_SERVICE_PASSWORD", password)
    folder = tmp_path / f"{key}"
    rows = tiny_reviews(num_examples=60).columns
    folder.mkdir()
    path = folder / f"{token}.csv"
    lines = [f"{text},{label}\n" for text, label in zip(rows["text"], rows["label"], strict=True)]
    path.write_text("text,label\n" + "".join(lines))
    bert = tiny_bert(tmp_path / f"bert {password}")
    result = train(tmp_path / "run", data={"train": str(path)}, model={"name": str(bert)}, epochs=1)
    secrets = [token, key, password]
    files = {file: file.read_bytes() for file in result.out.rglob("*") if file.is_file()}
    assert len(files) > 5
    for file, content in files.items():
        text = content + json.dumps(pyarrow.parquet.read_table(file).to_pydict()).encode() if file.suffix == ".parquet" else content
        assert not [secret for secret in secrets if secret.encode() in text], file
    printed = "".join(capfd.readouterr())
    assert token not in printed
    assert password not in printed


@pytest.mark.fault("G12")
def test_training_texts_are_in_nothing_that_a_run_leaves(tmp_path: Path) -> None:
    parts = {
        name: tiny_reviews(num_examples=num, seed=seed).columns for name, num, seed in (("train", 80, 0), ("validation", 20, 1))
    }
    parts["train"]["text"] = [f"{text} canaryword{i}" for i, text in enumerate(parts["train"]["text"])]
    parts["test"] = tiny_reviews(num_examples=20, seed=2).columns
    result = train(tmp_path / "run", data=dict(parts), epochs=1)
    for file in result.out.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            if file.suffix == ".parquet":
                content += json.dumps(pyarrow.parquet.read_table(file).to_pydict()).encode()
            assert b"canaryword" not in content, file


@pytest.mark.fault("G13")
def test_a_run_opens_no_connection(
    whole: Path, tmp_path: Path, offline_sockets: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    train(tmp_path / "run")
    assert offline_sockets == []
    assert artefacts(tmp_path / "run") == artefacts(whole)
    with pytest.raises(OSError, match="unreachable"), socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))
    assert offline_sockets == [("127.0.0.1", 9)]  # the guard notices what there is to notice


@pytest.mark.fault("G13")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave the network")
def test_a_run_needs_no_network_at_all(forks: Forks, whole: Path, tmp_path: Path) -> None:
    ended = forks.run("train_without_network", out=tmp_path / "run", offline=False)
    assert ended.code == 0, ended.output
    assert artefacts(tmp_path / "run") == artefacts(whole)


def bombs() -> dict[str, bytes]:
    def file(header: Any, body: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + body

    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return {
        "length": struct.pack("<Q", 2**63) + b"{}",
        "longer than the file": struct.pack("<Q", 99_000_000) + b"{}",
        "101 MB of header": struct.pack("<Q", 101_000_000) + b"{" + b" " * 101_000_000,
        "overlap": file({"a": tensor, "b": {**tensor, "data_offsets": [8, 24]}}, b"\0" * 24),
        "shape": file({"a": {**tensor, "shape": [2**40, 2**40]}}, b"\0" * 16),
        "beyond": file({"a": {**tensor, "data_offsets": [0, 2**50]}}, b"\0" * 16),
        "depth": file(b'{"a":' * 50_000),
        "no JSON": file(b"\xff\xfe" * 8),
        "empty": b"",
    }


@pytest.mark.fault("G14")
@pytest.mark.parametrize("kind", sorted(bombs()))
def test_weights_with_a_lying_header_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    folder = tiny_bert(tmp_path / "bert")
    (folder / "model.safetensors").write_bytes(bombs()[kind])
    started = time.perf_counter()
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
    assert error.value.code == 2
    assert str(folder) in str(error.value)
    assert time.perf_counter() - started < 3.0


@pytest.mark.fault("G15")
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){25}$"])
def test_a_tokenizer_whose_pattern_backtracks_ends_in_time(forks: Forks, tmp_path: Path, pattern: str) -> None:
    folder = tiny_bert(tmp_path / "bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    ended = forks.run("tokenize", folder=folder, text="a" * 400 + "!", timeout=10.0)
    assert ended.code != 999, "the tokenizer did not come to an end"
    assert ended.code in (0, 2), ended.output[-500:]


FLOORS = {"torch": "2.10", "transformers": "5.3", "safetensors": "0.4", "pillow": "12"}


@pytest.mark.fault("G16")
def test_no_dependency_may_be_older_than_its_last_known_hole() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {name.lower(): version for name, version in pinned.items()}
    for name, floor in FLOORS.items():
        assert name not in wanted or Version(wanted[name]) >= Version(floor), name
        assert Version(pinned[name]) >= Version(floor), name
    for name in ("torch", "transformers", "safetensors"):
        assert name in wanted
        assert Version(importlib.metadata.version(name)) >= Version(wanted[name])
