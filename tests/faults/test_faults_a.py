"""Faults of the process: kills, signals, full disks, lost terminals, clocks, locales, paths.

Kills are real: the run is a forked process and SIGKILL ends it. What is compared afterwards are the bytes of the final weights,
the log and the predictions with those of a run that nothing disturbed.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import stat
import time
from pathlib import Path

import harness
import psutil
import pytest
from harness import Forks, artefacts, at_step, digest, killed_run, newest, save_small, saved_steps, snapshot, steps_of, train

from nlpbp.core.errors import EXIT_PREEMPTED, CheckpointError, ConfigError
from nlpbp.runs import fit
from nlpbp.train import tracking
from nlpbp.train.checkpoint import find_fault
from nlpbp.train.signals import EXIT_INTERRUPTED, Stopped

KILLED = -signal.SIGKILL


def good_steps(root: Path) -> list[int]:
    """The steps of the checkpoints that verify."""
    return sorted(int(path.name[5:]) for path in root.glob("step-????????") if find_fault(path) is None)


@pytest.mark.fault("A1")
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_at_a_random_step_goes_on_bit_for_bit(
    forks: Forks, whole: Path, total_steps: int, tmp_path: Path, seed: int
) -> None:
    step = random.Random(seed).randint(1, total_steps - 1)
    assert forks.run("train_killed", out=tmp_path / "run", step=step).code == KILLED
    saved = max([0, *saved_steps(tmp_path / "run")])
    assert step - saved <= 3
    assert forks.run("train_to_the_end", out=tmp_path / "run").code == 0
    assert artefacts(tmp_path / "run") == artefacts(whole)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.fault("A1")
def test_another_seed_would_show(forks: Forks, whole: Path, tmp_path: Path) -> None:
    assert forks.run("train_to_the_end", out=tmp_path / "run", seed=1).code == 0
    changed = {name for name, data in artefacts(tmp_path / "run").items() if data != artefacts(whole)[name]}
    assert changed == set(harness.ARTEFACTS)


def check_after_a_killed_save(root: Path) -> int:
    """Return the step that a resume would use: the one before or the new one, with its tensors and without leftovers."""
    assert len(good_steps(root)) >= 2  # A4: also while the oldest is removed
    found = newest(root)
    assert found is not None
    assert found.step in (2, 3)
    assert found.tensors("model.safetensors")["w"].unique().tolist() == [found.step]
    assert not list(root.glob("*.tmp-*"))
    assert not list(root.glob(".trash-*"))
    assert not found.rejected
    save_small(root, 4)
    assert newest(root).step == 4
    return found.step


@pytest.mark.fault("A2")
@pytest.mark.parametrize(
    ("operation", "name", "when", "resumed"),
    [
        ("mkdir", "step-00000003.tmp", "after", 2),
        ("save_file", "model.safetensors", "half after", 2),
        ("save_file", "optim.safetensors", "before", 2),
        ("save_file", "optim.safetensors", "half after", 2),
        ("open w", "state.json", "before", 2),
        ("open w", "state.json", "after", 2),
        ("fsync", "model.safetensors", "before", 2),
        ("fsync", "state.json", "after", 2),
        ("open w", "MANIFEST.json", "before", 2),
        ("open w", "MANIFEST.json", "after", 2),
        ("fsync", "MANIFEST.json", "after", 2),
        ("rename", "step-00000003.tmp", "before", 2),
        ("rename", "step-00000003.tmp", "after", 3),
        ("rename", "step-00000001", "before", 3),
        ("rename", "step-00000001", "after", 3),
        ("rmdir", ".trash", "before", 3),
    ],
)
def test_a_save_killed_at_a_named_point_loses_nothing(
    forks: Forks, tmp_path: Path, operation: str, name: str, when: str, resumed: int
) -> None:
    root = tmp_path / "checkpoints"
    assert forks.run("save_killed_at", root=root, operation=operation, name=name, when=when).code == KILLED
    assert check_after_a_killed_save(root) == resumed


@pytest.mark.fault("A3")
def test_a_save_killed_at_any_file_operation_loses_nothing(forks: Forks, tmp_path: Path) -> None:
    resumed = []
    for number in range(1, 200):
        root = tmp_path / str(number)
        ended = forks.run("save_killed", root=root, number=number)
        if ended.code == 0:
            break
        assert ended.code == KILLED, ended.output
        resumed.append(check_after_a_killed_save(root))
    assert ended.code == 0, "the save has more operations than were tried"
    assert len(resumed) > 25
    assert resumed == sorted(resumed)  # the new one counts from one operation on, and stays
    assert set(resumed) == {2, 3}


@pytest.mark.fault("A4")
@pytest.mark.parametrize("when", ["before", "after"])
def test_two_good_checkpoints_are_left_by_a_kill_while_the_oldest_goes(forks: Forks, tmp_path: Path, when: str) -> None:
    root = tmp_path / "checkpoints"
    assert forks.run("save_killed_at", root=root, operation="rename", name="step-00000001", when=when).code == KILLED
    assert good_steps(root)[-2:] == [2, 3]
    for step in (4, 5):
        save_small(root, step)
    assert good_steps(root) == [4, 5]


@pytest.mark.fault("A5")
@pytest.mark.parametrize("name", ["newest_checkpoint", "truncate_jsonl", "set_full_state", "set_full_optimizer_state"])
def test_a_kill_while_loading_changes_no_checkpoint(
    forks: Forks, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / "run"
    killed_run(monkeypatch, out, step=8)
    before = snapshot(out / "checkpoints")
    assert forks.run("train_killed_while_loading", out=out, name=name).code == KILLED
    assert snapshot(out / "checkpoints") == before
    train(out)
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("A5")
def test_a_search_killed_at_any_file_operation_loses_nothing(forks: Forks, tmp_path: Path) -> None:
    for number in range(1, 60):
        root = tmp_path / str(number)
        save_small(root, 1)
        damaged = save_small(root, 2)
        (damaged / "state.json").write_text("{}")
        code = forks.run("load_killed", root=root, number=number).code
        assert newest(root).step == 1
        if code == 0:
            break
    assert code == 0
    assert number > 5


@pytest.mark.fault("A6")
def test_a_model_that_is_written_over_another_is_complete_or_not_there(forks: Forks, whole: Path, tmp_path: Path) -> None:
    wanted = set(snapshot(whole / "model"))
    for number in range(1, 200):
        folder = tmp_path / str(number) / "model"
        shutil.copytree(whole / "model", folder)
        ended = forks.run("export_killed", folder=folder, source=whole / "model", number=number)
        assert ended.code in (0, KILLED), ended.output
        assert not folder.exists() or set(snapshot(folder)) == wanted, f"half a model after operation {number}"
        if ended.code == 0:
            break
    assert ended.code == 0


@pytest.mark.fault("A6")
@pytest.mark.parametrize("name", ["save_model", "write_result", "clean_up"])
def test_a_run_killed_at_its_end_can_be_finished_or_is(forks: Forks, whole: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    assert forks.run("train_killed_at_the_end", out=out, name=name).code == KILLED
    if not (out / "result.json").exists():
        train(out)
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("A7")
def test_ten_kills_in_one_run_change_nothing(forks: Forks, whole: Path, total_steps: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps = [3 + round(index * (total_steps - 5) / 9) for index in range(10)]
    for step in steps:
        assert forks.run("train_killed", out=out, step=step).code == KILLED
    assert forks.run("train_to_the_end", out=out).code == 0
    assert artefacts(out) == artefacts(whole)


def recorded_save(root: Path) -> list[tuple[str, str]]:
    """The file operations of a third save, without reading, as they were done."""
    save_small(root, 1)
    save_small(root, 2)
    events: list[tuple[str, str]] = []
    with harness.file_operations(lambda *given: None, after=lambda *given: events.append(given)):
        save_small(root, 3)
    reading = ("open", "open r", "open rb")
    return [(operation, str(Path(path).relative_to(root))) for operation, path in events if operation not in reading]


@pytest.mark.fault("A8")
def test_nothing_gets_its_name_before_it_is_on_the_disk(tmp_path: Path) -> None:
    events = recorded_save(tmp_path)
    renames = [(path, place) for place, (operation, path) in enumerate(events) if operation == "rename"]
    rename = next(place for path, place in renames if path.startswith("step-00000003.tmp"))
    folder = events[rename][1]
    written = {
        "model.safetensors": "save_file",
        "optim.safetensors": "save_file",
        "state.json": "open w",
        "MANIFEST.json": "open w",
    }
    synced = {}
    for name, operation in written.items():
        synced[name] = events.index(("fsync", f"{folder}/{name}"))
        assert events.index((operation, f"{folder}/{name}")) < synced[name] < rename
    manifest = events.index(("open w", f"{folder}/MANIFEST.json"))
    assert all(place < manifest for name, place in synced.items() if name != "MANIFEST.json")
    assert synced["MANIFEST.json"] < events.index(("fsync", folder)) < rename
    after = events.index(("fsync", "."), rename)
    removal = dict(renames)["step-00000001"]
    assert rename < after < removal  # the old one goes when the new one is sure to stay


@pytest.mark.fault("A8")
def test_whatever_was_not_synchronised_may_be_lost(tmp_path: Path) -> None:
    """Cut the power after each operation: files that were not synchronised are empty then."""
    events = recorded_save(tmp_path / "record")
    final = snapshot(tmp_path / "record" / "step-00000003")
    for number in range(1, len(events) + 1):
        past, root = events[:number], tmp_path / str(number)
        save_small(root, 1)
        save_small(root, 2)
        renamed = [path for operation, path in past if operation == "rename" and ".tmp-" in path]
        target = root / ("step-00000003" if renamed else "step-00000003.tmp-0")
        for operation, path in past:
            name = Path(path).name
            if operation in ("save_file", "open w"):
                target.mkdir(exist_ok=True)
                (target / name).write_bytes(b"")
            elif operation == "fsync" and name in final:
                (target / name).write_bytes(final[name])
        assert newest(root).step == (3 if renamed else 2)


@pytest.mark.fault("A9")
@pytest.mark.parametrize("seed", range(3))
def test_sigterm_saves_and_leaves_with_75(forks: Forks, whole: Path, total_steps: int, tmp_path: Path, seed: int) -> None:
    step = random.Random(seed).randint(1, total_steps - 1)
    ended = forks.run("train_signalled", out=tmp_path / "run", step=step, numbers=[signal.SIGTERM])
    assert (ended.code, ended.error["type"]) == (EXIT_PREEMPTED, "Stopped")
    assert saved_steps(tmp_path / "run")[-1] == step
    assert steps_of(tmp_path / "run")[-1]["step"] == step
    assert forks.run("train_to_the_end", out=tmp_path / "run").code == 0
    assert artefacts(tmp_path / "run") == artefacts(whole)


@pytest.mark.fault("A10")
@pytest.mark.parametrize("seconds", [0.0, 0.002, 0.005, 0.01, 0.02, 9.0])
def test_a_grace_period_that_is_too_short_leaves_the_old_or_the_new(forks: Forks, tmp_path: Path, seconds: float) -> None:
    out = tmp_path / "run"
    ended = forks.run("train_terminated", out=out, step=8, seconds=seconds)
    assert ended.code in (KILLED, EXIT_PREEMPTED)
    assert saved_steps(out)[-1] in (6, 8)
    assert good_steps(out / "checkpoints") == saved_steps(out)
    if seconds == 9.0:
        assert (ended.code, saved_steps(out)[-1]) == (EXIT_PREEMPTED, 8)


@pytest.mark.fault("A11")
def test_sigterm_during_the_save_is_ignored(forks: Forks, tmp_path: Path) -> None:
    ended = forks.run("train_signalled_while_saving", out=tmp_path / "run", step=7)
    assert (ended.code, ended.error["type"]) == (EXIT_PREEMPTED, "Stopped")
    assert "files saved after the first signal: 2" in ended.output  # one checkpoint, whole
    assert good_steps(tmp_path / "run" / "checkpoints") == [6, 7]


@pytest.mark.fault("A11")
def test_a_second_sigterm_is_ignored(forks: Forks, tmp_path: Path) -> None:
    ended = forks.run("train_signalled", out=tmp_path / "run", step=7, numbers=[signal.SIGTERM] * 3)
    assert ended.code == EXIT_PREEMPTED
    assert good_steps(tmp_path / "run" / "checkpoints") == [6, 7]


@pytest.mark.fault("A12")
def test_sigint_once_saves_and_twice_ends_at_once(forks: Forks, whole: Path, tmp_path: Path) -> None:
    once = forks.run("train_signalled", out=tmp_path / "once", step=7, numbers=[signal.SIGINT])
    assert (once.code, once.error["type"]) == (EXIT_INTERRUPTED, "Stopped")
    assert saved_steps(tmp_path / "once") == [6, 7]
    twice = forks.run("train_signalled", out=tmp_path / "twice", step=7, numbers=[signal.SIGINT, signal.SIGINT])
    assert (twice.code, twice.error) == (EXIT_INTERRUPTED, {})
    assert good_steps(tmp_path / "twice" / "checkpoints") == [3, 6]
    train(tmp_path / "twice")
    assert artefacts(tmp_path / "twice") == artefacts(whole)


@pytest.mark.fault("A13")
@pytest.mark.parametrize(
    ("number", "job", "asked"), [("SIGUSR1", "4711", True), ("SIGUSR1", None, False), ("SIGTERM", "4711", False)]
)
def test_slurms_warning_saves_and_requeues_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, job: str | None, asked: bool
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setattr(fit, "log", at_step(4, lambda: [os.kill(os.getpid(), getattr(signal, number))] * 2))
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "run")
    assert stopped.value.code == EXIT_PREEMPTED
    assert saved_steps(tmp_path / "run")[-1] == 4
    log = tmp_path / "asked"
    assert (log.read_text() if log.exists() else "") == ("requeue 4711\n" if asked else "")


@pytest.mark.fault("A14")
@pytest.mark.parametrize("kind", ["pipe", "closed", "terminal"])
def test_a_run_that_nobody_reads_goes_on(forks: Forks, whole: Path, tmp_path: Path, kind: str) -> None:
    ended = forks.run("train_without_output", out=tmp_path / "run", step=5, kind=kind)
    assert ended.code == 0, ended.output or ended.error
    assert artefacts(tmp_path / "run") == artefacts(whole)


@pytest.mark.fault("A15")
def test_memory_that_runs_out_once_halves_the_micro_batches_of_the_same_steps(forks: Forks, whole: Path, tmp_path: Path) -> None:
    ended = forks.run("train_short_of_memory", out=tmp_path / "run", step=6, forever=False)
    assert ended.code == 0, ended.output
    steps, undisturbed = steps_of(tmp_path / "run"), steps_of(whole)
    assert [step["num_items"] for step in steps] == [step["num_items"] for step in undisturbed]
    assert {step["num_micro_batches"] for step in steps[:5]} == {2}
    assert {step["num_micro_batches"] for step in steps[5:]} >= {4}
    assert [step["loss"] for step in steps[:5]] == [step["loss"] for step in undisturbed[:5]]


@pytest.mark.fault("A15")
def test_memory_that_never_suffices_is_an_error_with_the_last_checkpoint_kept(forks: Forks, tmp_path: Path) -> None:
    ended = forks.run("train_short_of_memory", out=tmp_path / "run", step=6, forever=True, timeout=20.0)
    assert (ended.code, ended.error.get("type")) == (5, "NumericError"), ended.output[-2000:]
    assert good_steps(tmp_path / "run" / "checkpoints") == [3]


@pytest.mark.fault("A16")
def test_there_is_no_worker_that_could_be_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are made in the training process itself: the system can only kill the run, which is A1."""
    seen: list[list[psutil.Process]] = []
    before = psutil.Process().children()
    monkeypatch.setattr(fit, "log", at_step(5, lambda: seen.append(psutil.Process().children())))
    train(tmp_path / "run", epochs=1)
    assert seen == [before]


@pytest.mark.fault("A17")
@pytest.mark.parametrize("share", [0.5, 1.5])  # of the weights: they do not fit, or the optimizer's moments do not
def test_a_disk_that_fills_up_in_a_save_leaves_the_checkpoint_before(
    forks: Forks, whole: Path, tmp_path: Path, share: float
) -> None:
    limit = int((whole / "model" / "model.safetensors").stat().st_size * share)
    ended = forks.run("train_with_full_disk", out=tmp_path / "run", step=4, limit=limit)
    assert (ended.code, ended.error.get("type")) == (EXIT_PREEMPTED, "Stopped"), ended.output
    assert " MB" in ended.error["text"]
    assert good_steps(tmp_path / "run" / "checkpoints") == [3]
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp-*"))
    train(tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(whole)


@pytest.mark.fault("A17")
def test_a_disk_that_fills_up_while_the_best_weights_are_kept_leaves_the_checkpoint_before(
    forks: Forks, whole: Path, total_steps: int, tmp_path: Path
) -> None:
    epoch = total_steps // 2
    limit = (whole / "model" / "model.safetensors").stat().st_size // 2
    ended = forks.run("train_with_full_disk", out=tmp_path / "run", step=epoch, limit=limit)
    assert (ended.code, ended.error.get("type")) == (EXIT_PREEMPTED, "Stopped"), ended.output
    train(tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(whole)


@pytest.mark.fault("A18")
def test_metrics_that_find_no_room_are_lost_and_told_once(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill() -> None:
        (tmp_path / "run" / "metrics.jsonl").unlink()
        (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")

    monkeypatch.setattr(fit, "log", at_step(5, fill))
    train(tmp_path / "run")
    assert digest(tmp_path / "run" / "model" / "model.safetensors") == artefacts(whole)["model/model.safetensors"]
    assert capsys.readouterr().err.count("metrics.jsonl") == 1


@pytest.mark.fault("A18")
def test_a_line_that_finds_no_room_is_an_error_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    tracking.append_jsonl(tmp_path / "metrics.jsonl", {"step": 1})


@pytest.mark.fault("A19")
@pytest.mark.parametrize("free", [100_000, 1 << 40])
def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    real = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type(real)(1 << 41, (1 << 41) - free, free))
    if free > 1 << 30:
        train(tmp_path / "run", epochs=1)
        return
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run")
    assert (error.value.code, error.value.column) == (2, "out")
    assert str(tmp_path / "run") in str(error.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.fault("A20")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_folder_that_may_not_be_written_to_is_told_before_the_data_are_read(forks: Forks, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    ended = forks.run("train_as_nobody", out=tmp_path / "run", data=str(tmp_path / "missing.csv"))
    assert (ended.code, ended.error["type"], ended.error["column"]) == (2, "ConfigError", "out")
    ended = forks.run("train_to_the_end", out=tmp_path / "run", data={"train": str(tmp_path / "missing.csv")})
    assert (ended.code, ended.error["type"]) == (3, "DataError")


@pytest.mark.fault("A21")
def test_a_file_in_place_of_the_run_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("kept")
    for out in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(ConfigError) as error:
            train(out)
        assert (error.value.code, error.value.column) == (2, "out")
        assert str(out) in str(error.value)
    assert (tmp_path / "run").read_text() == "kept"


@pytest.mark.fault("A21")
def test_a_run_folder_that_vanishes_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(fit, "log", at_step(7, lambda: shutil.rmtree(out)))
    with pytest.raises(CheckpointError) as error:
        train(out)
    assert (error.value.code, error.value.file) == (4, str(out))


@pytest.mark.fault("A22")
@pytest.mark.parametrize("operation", ["mkdir", "save_file", "open w", "fsync", "rename"])
def test_an_error_of_the_disk_is_a_failed_save(tmp_path: Path, operation: str) -> None:
    save_small(tmp_path, 1)
    save_small(tmp_path, 2)
    before = snapshot(tmp_path)

    def fail(shown: str, path: str) -> None:
        if shown == operation and "step-00000003" in path:
            raise OSError(errno.EIO, "Input/output error", path)

    with harness.file_operations(fail), pytest.raises(OSError, match="Input/output error"):
        save_small(tmp_path, 3)
    assert snapshot(tmp_path) == before
    save_small(tmp_path, 3)
    assert newest(tmp_path).step == 3


@pytest.mark.fault("A22")
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_a_checkpoint_that_cannot_be_read_is_not_used(forks: Forks, tmp_path: Path, name: str) -> None:
    save_small(tmp_path, 1)
    save_small(tmp_path, 2)
    ended = forks.run("resume_unreadable", root=tmp_path, name=name)
    assert ended.code == 0, ended.output
    assert "found step 1" in ended.output


@pytest.mark.fault("A22")
def test_a_run_whose_disk_fails_stops_with_the_checkpoint_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(shown: str, path: str) -> None:
        if shown == "fsync" and "step-00000006" in path:
            raise OSError(errno.EIO, "Input/output error", path)

    with harness.file_operations(fail), pytest.raises(Stopped) as stopped:
        train(tmp_path / "run")
    assert stopped.value.code == EXIT_PREEMPTED
    assert good_steps(tmp_path / "run" / "checkpoints") == [3]
    train(tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(whole)


@pytest.mark.fault("A23")
def test_a_clock_that_jumps_and_scrambled_file_times_change_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, shift = time.time, {"seconds": 0.0}
    monkeypatch.setattr(time, "time", lambda: real() + shift["seconds"])
    shift["seconds"] = 10 * 365 * 86400.0
    killed_run(monkeypatch, tmp_path / "run", step=8)
    for index, path in enumerate(sorted((tmp_path / "run" / "checkpoints").iterdir())):
        os.utime(path, (real() - index * 86400, real() - index * 86400))  # the newest looks oldest
    shift["seconds"] = -3600.0
    assert newest_step(tmp_path / "run") == 6
    train(tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(whole)


def newest_step(out: Path) -> int:
    return newest(out / "checkpoints", identity={}).step


@pytest.mark.fault("A24")
def test_a_second_run_in_the_folder_is_told_the_first_ones_process(forks: Forks, whole: Path, tmp_path: Path) -> None:
    out, go = tmp_path / "run", tmp_path / "go"
    pid, log = forks.start("train_pausing", out=out, step=4, go=go)
    harness.wait_for(lambda: (out / "metrics.jsonl").exists() and len(steps_of(out)) == 4)
    before = snapshot(out)
    with pytest.raises(ConfigError) as error:
        train(out)
    assert (error.value.code, error.value.column) == (2, "out")
    assert f"process {pid}" in str(error.value)
    assert snapshot(out) == before
    go.touch()
    assert forks.wait(pid, log).code == 0
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("A25")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without processes")
def test_a_run_needs_no_further_process_or_thread(forks: Forks, whole: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    ended = forks.run("train_without_threads", out=tmp_path / "open" / "run")
    assert "no thread can be started" in ended.output
    assert ended.code == 0, ended.output
    assert artefacts(tmp_path / "open" / "run") == artefacts(whole)


@pytest.mark.fault("A27")
@pytest.mark.parametrize(
    "name", ["with spaces", "'quotes\" and $HOME; `ls` %s {x}", "😀 Größe שלום", "x" * 200, "-dash", "line\nbreak"]
)
def test_paths_of_every_kind_work(tmp_path: Path, name: str) -> None:
    from nlpbp.data.tiny import tiny_reviews

    folder = tmp_path / name
    folder.mkdir()
    rows = tiny_reviews(num_examples=60).columns
    lines = [f"{text},{label}\n" for text, label in zip(rows["text"], rows["label"], strict=True)]
    (folder / f"{name}.csv").write_text("text,label\n" + "".join(lines))
    train(folder / "run", data={"train": str(folder / f"{name}.csv")}, epochs=1)
    assert json.loads((folder / "run" / "result.json").read_text())["metrics"]["test"]
    assert {path.name for path in tmp_path.iterdir()} == {name}
