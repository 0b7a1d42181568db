from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nlpbp.core.errors import CheckpointError
from nlpbp.train.checkpoint import MANIFEST, _digest, find_fault, newest_checkpoint, write_checkpoint

IDENTITY = {"data": "abc", "labels": "[]"}


def write(root: Path, step: int, **changes: Any) -> Path:
    tensors = {"model.safetensors": {"w": torch.full((3,), float(step))}, "optim.safetensors": {"exp_avg/w": torch.ones(3)}}
    given: dict[str, Any] = {"tensors": tensors, "files": {}, "state": {"best": step}, "identity": IDENTITY, **changes}
    return write_checkpoint(root, step=step, **given)


def test_the_newest_by_step_is_found_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (9, 10):
        os.utime(write(tmp_path, step), (1e9 - step, 1e9 - step))
    found = newest_checkpoint(tmp_path, identity=IDENTITY)
    assert found is not None
    assert (found.step, found.state, found.tensors("model.safetensors")["w"].tolist()) == (10, {"best": 10}, [10.0] * 3)


def test_no_folder_and_an_empty_one_mean_a_new_run(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none", identity=IDENTITY) is None
    assert newest_checkpoint(tmp_path, identity=IDENTITY) is None


@pytest.mark.parametrize("keep", [0, 2, 3])
def test_never_fewer_than_two_are_kept(tmp_path: Path, keep: int) -> None:
    for step in range(1, 6):
        write(tmp_path, step, keep=keep)
    assert len(list(tmp_path.glob("step-*"))) == max(2, keep)


def test_a_damaged_one_does_not_count_among_those_kept(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (write(tmp_path, 2) / "state.json").write_text("{}")
    write(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000002", "step-00000003"]


def test_every_flipped_bit_of_a_small_checkpoint_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    assert find_fault(path) is None
    for file in path.iterdir():
        data = file.read_bytes()
        for position in range(0, len(data), 7):
            file.write_bytes(data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :])
            assert find_fault(path) is not None, (file.name, position)
        file.write_bytes(data)
    assert find_fault(path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json", MANIFEST])
def test_a_missing_or_short_file_sets_a_checkpoint_aside(tmp_path: Path, name: str) -> None:
    write(tmp_path, 1)
    newer = write(tmp_path, 2)
    data = (newer / name).read_bytes()
    (newer / name).write_bytes(data[: len(data) // 2])
    found = newest_checkpoint(tmp_path, identity=IDENTITY)
    assert found is not None
    assert found.step == 1
    assert len(found.rejected) == 1
    assert [path.name[:21] for path in tmp_path.iterdir() if "rejected" in path.name] == ["step-00000002.rejected"[:21]]


def test_when_none_verifies_each_is_named_with_its_reason(tmp_path: Path) -> None:
    for step in (1, 2):
        (write(tmp_path, step) / "optim.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002: missing.*step-00000001: missing"):
        newest_checkpoint(tmp_path, identity=IDENTITY)


def test_what_belongs_to_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="labels was") as error:
        newest_checkpoint(tmp_path, identity={**IDENTITY, "labels": '["a"]'})
    assert (error.value.code, error.value.column) == (4, "labels")


def test_a_newer_format_is_named_and_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    manifest = json.loads((path / MANIFEST).read_text()) | {"format_version": 2}
    (path / MANIFEST).write_text(json.dumps(manifest | {"digest": _digest(manifest)}))
    with pytest.raises(CheckpointError, match="format 2"):
        newest_checkpoint(tmp_path, identity=IDENTITY)
    assert path.is_dir()


def test_a_link_to_somewhere_else_is_refused(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", 1)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "step-00000001").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="link"):
        newest_checkpoint(tmp_path / "here", identity=IDENTITY)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match="w is not finite after step 2"):
        write(tmp_path, 2, tensors={"model.safetensors": {"w": torch.tensor([1.0, float("nan")])}})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_save_that_fails_leaves_nothing_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        write(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert find_fault(tmp_path / "step-00000001") is None


def test_leftovers_of_an_interrupted_save_are_removed(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    shutil.copytree(path, tmp_path / "step-00000002.tmp-0000")
    shutil.copytree(path, tmp_path / ".trash-0000-step-00000000")
    assert newest_checkpoint(tmp_path, identity=IDENTITY) is not None
    assert [found.name for found in tmp_path.iterdir()] == ["step-00000001"]


def test_a_file_is_on_the_disk_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename, opened = os.fsync, os.rename, os.open
    names: dict[int, str] = {}

    def remember(path: Any, *given: Any, **options: Any) -> int:
        descriptor = opened(path, *given, **options)
        names[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(os, "open", remember)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append(names[descriptor].split(".tmp")[0]), fsync(descriptor))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    write(tmp_path, 1)
    assert events[: events.index("rename")] == ["model.safetensors", "optim.safetensors", "state.json", MANIFEST, "step-00000001"]
    assert events[events.index("rename") + 1] == tmp_path.name
