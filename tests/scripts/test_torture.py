"""The short form holds every claim, and each check can fail."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torture
from torture_parts import damage, forks, kills, operations, victims, watch

SCRIPTS = Path(__file__).parents[2] / "scripts"
ASSETS = Path(__file__).parents[1] / "assets" / "malicious"
KILLS = 2  # the short form itself has 20


@pytest.fixture(scope="module")
def short_form(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    out = tmp_path_factory.mktemp("torture") / "out.json"
    command = [sys.executable, str(SCRIPTS / "torture.py"), "--short", "--kills", str(KILLS), "--jobs", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env={**os.environ, "TMPDIR": str(out.parent)})
    assert out.exists(), done.stderr
    assert [file.name for file in out.parent.iterdir()] == ["out.json"]
    return done, json.loads(out.read_text(encoding="utf-8"))


def test_every_claim_holds_beside_a_control_that_fails(short_form: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, record = short_form
    broken = {claim["text"]: claim["failures"] for claim in record["claims"] if not claim["ok"]}
    assert broken == {}
    assert (record["ok"], done.returncode) == (True, 0)
    assert {claim["part"] for claim in record["claims"]} == set(torture.PARTS)
    assert {claim["recipe"] for claim in record["claims"]} == set(torture.RECIPES)
    for claim in record["claims"]:
        assert claim["control_held"], claim["control"]
        assert claim["seeds"]
        assert claim["of"] > 0


def test_the_counts_are_those_that_were_asked_for(short_form: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    claims = short_form[1]["claims"]
    assert next(claim["of"] for claim in claims if claim["part"] == "kills") == KILLS
    assert next(claim["of"] for claim in claims if claim["part"] == "damage") == damage.NUM_FLIPS == 1000
    assert sum(claims[0]["notes"]["moments"].values()) == KILLS


def test_the_table_names_each_claim_with_its_count(short_form: tuple[subprocess.CompletedProcess[str], dict[str, Any]]) -> None:
    done, record = short_form
    for claim in record["claims"]:
        assert f"{claim['held']:,} of {claim['of']:,}  {claim['text']}" in done.stdout


def test_a_claim_that_does_not_hold_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    claim = {"recipe": "r", "part": "p", "text": "it holds", "held": 1, "of": 2, "ok": False, "control": "c", "seeds": "0"}
    monkeypatch.setattr(torture, "prepare", lambda scratch: None)
    monkeypatch.setattr(torture, "prove", lambda *given: [claim])
    with pytest.raises(SystemExit) as left:
        torture.torture([])
    assert left.value.code == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "of", "control_held", "ok"), [(2, 2, True, True), (1, 2, True, False), (2, 2, False, False), (0, 0, True, False)]
)
def test_a_claim_needs_every_case_at_least_one_and_its_control(held: int, of: int, control_held: bool, ok: bool) -> None:
    claim = victims.Claim(part="p", text="t", held=held, of=of, seeds="0", control="c", control_held=control_held)
    assert claim.ok is ok


def run_folder(folder: Path) -> Path:
    for name in (*victims.FILES, "checkpoints/step-00000003/model.safetensors", "checkpoints/step-00000003/optim.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "result.json").write_text(json.dumps({"metrics": 1, "train_seconds": len(str(folder))}))
    return folder


@pytest.mark.parametrize("name", [*victims.FILES, "checkpoints/step-00000003/optim.safetensors"])
def test_one_other_byte_in_a_file_of_the_run_is_a_difference(tmp_path: Path, name: str) -> None:
    one, other = run_folder(tmp_path / "one"), run_folder(tmp_path / "the other")
    assert victims.differing_files(one, other) == []
    (one / name).write_bytes((one / name).read_bytes() + b"!")
    assert len(victims.differing_files(one, other)) == 1
    (one / name).unlink()
    assert len(victims.differing_files(one, other)) == 1


def test_times_may_differ_and_scores_may_not(tmp_path: Path) -> None:
    one, other = run_folder(tmp_path / "one"), run_folder(tmp_path / "the other")
    (one / "result.json").write_text(json.dumps({"metrics": 2}))
    assert victims.differing_files(one, other) == ["result.json"]


def test_a_checkpoint_that_is_gone_or_half_there_is_lost(tmp_path: Path) -> None:
    import torch

    from nlpbp.train.checkpoint import write_checkpoint

    root = tmp_path / "checkpoints"
    for step in (3, 6, 9):
        write_checkpoint(root, step=step, tensors={"model.safetensors": {"w": torch.ones(2)}}, files={}, state={}, identity={})
    assert operations.saved_steps(tmp_path) == [6, 9]
    assert operations.lost_checkpoints(tmp_path, [3, 6, 9]) == ""
    assert "the newest, of step 12, is gone" in operations.lost_checkpoints(tmp_path, [3, 6, 9, 12])
    (root / "step-00000006" / "state.json").write_text("{")
    assert "damaged" in operations.lost_checkpoints(tmp_path, [3, 6, 9])


def test_a_child_tells_how_it_ended(tmp_path: Path) -> None:
    from nlpbp.core.errors import DataError

    def fail_as_users_do() -> None:
        raise DataError("an empty cell")

    def fail_as_programmers_do() -> None:
        raise KeyError("no such key")

    def kill_myself() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    ends = [
        forks.run_forked(work, output=tmp_path / "output")
        for work in (lambda: sys.stdout.write("done\n"), fail_as_users_do, fail_as_programmers_do, kill_myself)
    ]
    assert [end.code for end in ends] == [0, 3, forks.UNTYPED, -9]
    assert [end.last_line for end in ends[:3]] == ["done", "DataError: an empty cell", "KeyError: 'no such key'"]
    assert ends[3].killed
    assert forks.run_forked(signal.pause, output=tmp_path / "output", kill_after=0.1).killed


def test_results_of_parallel_work_come_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    assert forks.in_parallel(lambda n: n * n, range(7), jobs=3, scratch=tmp_path, title="squares") == [0, 1, 4, 9, 16, 25, 36]


def traced(folder: Path, work: Any, *, kill_at: int = 0) -> tuple[forks.End, list[str]]:
    folder.mkdir(exist_ok=True)
    trace = folder.with_name("trace")

    def watched() -> None:
        watch.Watch(folder, trace, kill_at=kill_at).begin()
        work()

    return forks.run_forked(watched, output=folder.with_name("output")), trace.read_text().splitlines()


def every_operation(folder: Path) -> Iterator[None]:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("0123456789")
    with (folder / "sub" / "a.txt").open() as file:
        os.fsync(file.fileno())
    os.link(folder / "sub" / "a.txt", folder / "b.txt")
    os.replace(folder / "b.txt", folder / "c.txt")
    import shutil

    shutil.rmtree(folder / "sub")
    yield


def test_every_file_operation_is_seen_and_each_can_be_the_last(tmp_path: Path) -> None:
    end, seen = traced(tmp_path / "run", lambda: list(every_operation(tmp_path / "run")))
    assert end.code == 0, end.output
    assert seen == [
        "mkdir sub",
        "open sub/a.txt",
        "write sub/a.txt",
        "half sub/a.txt",
        "fsync sub/a.txt",
        "link sub/a.txt -> b.txt",
        "rename b.txt -> c.txt",
        "remove sub/a.txt",
        "rmdir sub",
    ]
    end, seen = traced(tmp_path / "other", lambda: list(every_operation(tmp_path / "other")), kill_at=4)
    assert end.killed
    assert seen[-1] == "half sub/a.txt"
    assert (tmp_path / "other" / "sub" / "a.txt").read_text() == "01234"


def test_kills_are_shared_out_whole() -> None:
    assert kills._shares(10, parts=4) == [2, 3, 2, 3]


def test_payloads_are_small_literal_files_that_a_text_explains() -> None:
    explained = (ASSETS / "README.txt").read_text(encoding="utf-8")
    for file in ASSETS.iterdir():
        assert file.stat().st_size < 2000
        assert file.name == "README.txt" or file.name in explained


@pytest.mark.parametrize("module", [torture, operations])
def test_the_examples_in_docstrings_run(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--kills", "0"], "--kills"), (["--out", "nowhere/x.json"], "nowhere"), (["--only", "x"], "--only")]
)
def test_a_mistake_in_the_command_is_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        torture.parse(arguments)
    assert left.value.code == 2
    assert named in capsys.readouterr().err
