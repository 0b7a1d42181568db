"""Faults of a checkpoint's content: whatever was changed is noticed, set aside and never loaded."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import artefacts, killed_run, newest, save_small, snapshot, train
from payloads import payloads
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from nlpbp.core.errors import CheckpointError, ConfigError
from nlpbp.data import columns
from nlpbp.text.tiny import tiny_bert
from nlpbp.train import checkpoint
from nlpbp.train.checkpoint import find_fault
from nlpbp.trainers import optimizers as optimize

FILES = ("MANIFEST.json", "model.safetensors", "optim.safetensors", "state.json")
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two good checkpoints, of steps 1 and 2."""
    save_small(tmp_path / "checkpoints", 1)
    save_small(tmp_path / "checkpoints", 2)
    return tmp_path / "checkpoints"


def sign(folder: Path, *, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """Make the manifest fit the files, as whoever tampers with them would."""
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(manifest)
    manifest["digest"] = checkpoint._digest(manifest)
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def check_set_aside(root: Path, *, step: int = 1) -> None:
    """The newest is not used but kept under another name, and the one before is taken."""
    names = {path.name for path in root.iterdir()}
    found = newest(root)
    assert found.step == step
    assert found.tensors("model.safetensors")["w"].unique().tolist() == [step]
    assert len(found.rejected) == 1
    assert len(list(root.iterdir())) == len(names)
    assert [path for path in root.iterdir() if ".rejected-" in path.name]


def failure(call: Any, *arguments: Any, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    assert caught.value.code == 4
    return caught.value


@pytest.mark.fault("F1")
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_at_every_hundredth(root: Path, name: str) -> None:
    folder = root / "step-00000002"
    assert find_fault(folder) is None
    data = (folder / name).read_bytes()
    for percent in range(100):
        (folder / name).write_bytes(data[: len(data) * percent // 100])
        assert find_fault(folder) is not None, f"{name} cut at {percent} %"
    check_set_aside(root)


@pytest.mark.fault("F2")
def test_a_thousand_flipped_bits(root: Path) -> None:
    folder = root / "step-00000002"
    whole = {name: (folder / name).read_bytes() for name in FILES}
    ends = dict(zip(FILES, itertools.accumulate(len(whole[name]) for name in FILES), strict=True))
    rng = random.Random(0)
    detected = 0
    for _ in range(1000):
        position = rng.randrange(ends[FILES[-1]])
        name = next(name for name in FILES if position < ends[name])
        data = whole[name]
        changed = bytearray(data)
        changed[position - ends[name]] ^= 1 << rng.randrange(8)  # counted from the end of the file
        (folder / name).write_bytes(changed)
        try:
            detected += find_fault(folder) is not None
        except CheckpointError:  # a newer format, which is refused by name
            detected += 1
        (folder / name).write_bytes(data)
    assert detected == 1000
    assert find_fault(folder) is None
    data = bytearray(whole["model.safetensors"])
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    check_set_aside(root)


@pytest.mark.fault("F3")
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(root: Path, name: str) -> None:
    (root / "step-00000002" / name).unlink()
    check_set_aside(root)


@pytest.mark.fault("F3")
def test_nothing_left_that_verifies_is_an_error_that_names_each(root: Path) -> None:
    for step in (1, 2):
        (root / f"step-0000000{step}" / "optim.safetensors").unlink()
    error = failure(newest, root)
    assert error.file == str(root)
    assert all(f"step-0000000{step}: missing optim.safetensors" in str(error) for step in (1, 2))
    again = failure(newest, root)  # they have other names now; that is no reason to start over
    assert all(f"step-0000000{step}.rejected-" in str(again) for step in (1, 2))
    save_small(root, 3)
    assert newest(root).step == 3


@pytest.mark.fault("F4")
def test_an_extra_file_is_left_alone(root: Path) -> None:
    (root / "step-00000002" / "notes.txt").write_text("mine")
    assert newest(root).step == 2
    assert (root / "step-00000002" / "notes.txt").exists()


@pytest.mark.fault("F4")
@pytest.mark.parametrize("name", FILES)
def test_a_renamed_file(root: Path, name: str) -> None:
    (root / "step-00000002" / name).rename(root / "step-00000002" / f"{name}.bak")
    check_set_aside(root)


@pytest.mark.fault("F5")
@pytest.mark.parametrize("name", FILES)
def test_files_of_two_runs(root: Path, tmp_path: Path, name: str) -> None:
    other = save_small(tmp_path / "other", 7, identity={"data": "xyz"})
    shutil.copyfile(other / name, root / "step-00000002" / name)
    check_set_aside(root)


@pytest.mark.fault("F5")
def test_a_checkpoint_of_another_run_is_refused(root: Path) -> None:
    error = failure(newest, root, identity={"data": "xyz"})
    assert (error.file, error.column) == (str(root / "step-00000002"), "data")
    assert newest(root).step == 2


@pytest.mark.fault("F6")
def test_a_newer_format(root: Path) -> None:
    sign(root / "step-00000002", change=lambda manifest: manifest.update(format_version=2, nlpbp_version="9.9"))
    before = snapshot(root)
    error = failure(newest, root)
    assert error.file == str(root / "step-00000002")
    assert "9.9" in str(error)
    assert snapshot(root) == before


@pytest.mark.fault("F7")
@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_format_there_ever_was_still_loads(tmp_path: Path, version: str) -> None:
    shutil.copytree(GOLDEN / version, tmp_path / "checkpoints")
    found = newest(tmp_path / "checkpoints")
    assert (found.step, found.state) == (7, {"step": 7})
    assert found.tensors("model.safetensors")["w"].tolist() == [[7.0] * 4] * 8
    assert found.tensors("optim.safetensors")["exp_avg/b"].tolist() == [3.5] * 4


@pytest.mark.fault("F7")
def test_this_format_is_among_the_old_ones() -> None:
    assert {f"format-{version}" for version in range(1, checkpoint.FORMAT_VERSION + 1)} == {path.name for path in GOLDEN.iterdir()}


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed after step 8, with a model folder of its own beside it."""
    tiny_bert(tmp_path / "bert")
    killed_run(monkeypatch, tmp_path / "run", step=8, model={"name": str(tmp_path / "bert")})
    return tmp_path


def go_on(killed: Path, **changes: Any) -> None:
    before = snapshot(killed / "run" / "checkpoints")
    try:
        train(killed / "run", model={"name": str(killed / "bert")}, **changes)
    finally:
        if not (killed / "run" / "result.json").exists():
            assert snapshot(killed / "run" / "checkpoints") == before


@pytest.mark.fault("F8")
def test_another_architecture(killed: Path) -> None:
    config = BertConfig.from_pretrained(killed / "bert")
    config.intermediate_size = 48
    BertForSequenceClassification(config).save_pretrained(killed / "bert")
    error = failure(go_on, killed)
    assert error.file == str(killed / "run" / "checkpoints" / "step-00000006")
    assert "(64, 32) saved, (48, 32) here" in str(error)


@pytest.mark.fault("F8")
def test_the_same_architecture_goes_on(killed: Path, whole: Path) -> None:
    go_on(killed)
    assert artefacts(killed / "run") == artefacts(whole)


@pytest.mark.fault("F9")
def test_another_order_of_labels(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = columns.sort_names
    monkeypatch.setattr(columns, "sort_names", lambda names: tuple(reversed(original(names))))
    assert failure(go_on, killed, data={"allow_change": True}).column == "labels"
    assert failure(go_on, killed).column in ("data", "labels")


@pytest.mark.fault("F10")
def test_another_tokenizer_of_the_same_size(killed: Path) -> None:
    tokenizer = json.loads((killed / "bert" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["dull"], vocabulary["funny"] = vocabulary["funny"], vocabulary["dull"]
    (killed / "bert" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert failure(go_on, killed).column == "tokenizer"


@pytest.mark.fault("F11")
@pytest.mark.parametrize("kind", ["empty folder", "empty file", "other folder", "empty files", "wrong name"])
def test_what_only_has_the_name_of_a_checkpoint(root: Path, kind: str) -> None:
    path = root / ("step-99" if kind == "wrong name" else "step-00000099")
    if kind == "empty file":
        path.touch()
    else:
        path.mkdir()
    if kind == "other folder":
        (path / "photo.jpg").write_bytes(b"x")
    if kind == "empty files":
        for name in FILES:
            (path / name).touch()
    if kind == "wrong name":
        assert newest(root).step == 2
        assert path.exists()
    else:
        check_set_aside(root, step=2)


@pytest.mark.fault("F12")
def test_a_link_to_a_checkpoint_elsewhere(root: Path, tmp_path: Path) -> None:
    elsewhere = save_small(tmp_path / "elsewhere", 9)
    (root / "step-00000009").symlink_to(elsewhere)
    before = snapshot(tmp_path / "elsewhere")
    check_set_aside(root, step=2)
    assert snapshot(tmp_path / "elsewhere") == before


@pytest.mark.fault("F12")
def test_a_link_to_a_file_elsewhere_and_a_name_that_climbs_out(root: Path, tmp_path: Path) -> None:
    folder = root / "step-00000002"
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    check_set_aside(root)
    folder = save_small(root, 3)
    shutil.copyfile(folder / "state.json", tmp_path / "state.json")

    def climb(manifest: dict[str, Any]) -> None:
        manifest["files"]["../../state.json"] = manifest["files"]["state.json"]

    sign(folder, change=climb)
    check_set_aside(root)


@pytest.mark.fault("F13")
def test_an_optimizer_of_another_type(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "adamw", lambda groups, **options: torch.optim.SGD(groups, lr=0.1))
    assert failure(go_on, killed).column == "optimizer"


@pytest.mark.fault("F14")
@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ["os.system", "torch.save"])
def test_a_signed_pickle_under_a_trusted_name_is_refused_and_not_run(killed: Path, marker: Path, name: str, kind: str) -> None:
    folder = killed / "run" / "checkpoints" / "step-00000006"
    (folder / name).write_bytes(payloads(marker)[kind])
    sign(folder)
    assert find_fault(folder) is None  # the hashes say nothing about whoever made them
    failure(train, killed / "run", model={"name": str(killed / "bert")})


@pytest.mark.fault("F14")
@pytest.mark.parametrize("content", ["[]", "{}", '{"step": "x"}', '{"step": 6, "surprise": 1}', "7"])
def test_a_signed_state_of_another_shape_is_refused(killed: Path, content: str) -> None:
    folder = killed / "run" / "checkpoints" / "step-00000006"
    (folder / "state.json").write_text(content)
    sign(folder)
    failure(train, killed / "run", model={"name": str(killed / "bert")})


@pytest.mark.fault("F15")
@pytest.mark.parametrize("kind", ["weights", "payload"])
def test_weights_in_the_old_format_are_not_loaded(tmp_path: Path, marker: Path, kind: str) -> None:
    """There is no setting yet that names such a file, so none is read."""
    folder = tiny_bert(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if kind == "weights":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(payloads(marker)["torch.save"])
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
    assert error.value.code == 2
    assert str(folder) in str(error.value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    train(tmp_path / "run", model={"name": str(folder)}, epochs=1)
