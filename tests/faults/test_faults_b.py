"""Faults of several processes: two gloo processes on this machine, as few launches as possible, each for many rows.

What two processes do is in `ranks_worker.py`; here it is compared with one process, or with the error that both must raise.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks_worker
from harness import Forks, artefacts, killed_run, newest, saved_steps, snapshot, steps_of, train
from safetensors.numpy import load_file

from nlpbp.core.errors import DistributedError
from nlpbp.data.order import steps_per_epoch, training_plan
from nlpbp.data.tiny import tiny_reviews
from nlpbp.tasks import task_metrics
from nlpbp.train.checkpoint import find_fault
from nlpbp.train.setup import start
from run_script import ROOT, TWO_PROCESSES

HERE = Path(__file__).parent
FIRST = ["whole_run", "killed_and_again", "resume_of_one", "uneven", "seven", "ragged", "nan_loss", "nan_gradient", "other_weights"]
FIRST += ["killed_by_default", "resume_of_one_by_default"]
FIRST += ["masked_on_one", "sigterm_to_one", "other_labels", "other_data", "other_length", "bad_row", "sigterm_to_launcher"]


@dataclass(frozen=True)
class Launch:
    """A launch that has ended."""

    folder: Path
    code: int
    stderr: str
    ended: float

    def of(self, task: str) -> list[dict[str, Any]]:
        """What each process found in a task; a process that never came to it hung before."""
        files = [self.folder / f"{task}.{rank}.json" for rank in (0, 1)]
        return [json.loads(file.read_text()) if file.exists() else {"error": "never begun or never ended"} for file in files]

    def results(self, task: str) -> list[Any]:
        found = self.of(task)
        assert all("result" in one for one in found), found
        return [one["result"] for one in found]


def write_reviews(path: Path, *, num_examples: int, change: str = "") -> None:
    rows = tiny_reviews(num_examples=num_examples).columns
    rows["text"][3] += change
    path.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in zip(rows["text"], rows["label"], strict=True)))


def launch(folder: Path, tasks: list[str], *, processes: int = 2, **env: str) -> Launch:
    launcher = [*TWO_PROCESSES[:-1], str(processes)]
    command = [sys.executable, "-W", "ignore", *launcher, str(HERE / "ranks_worker.py"), str(folder), *tasks]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return Launch(folder, done.returncode, done.stderr, time.time())


@pytest.fixture(scope="module")
def first(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The launch of all that does not end its processes; the usual port is taken, and named by the environment."""
    folder = tmp_path_factory.mktemp("first")
    write_reviews(folder / "uneven.csv", num_examples=61)
    write_reviews(folder / "reviews-0.csv", num_examples=60)
    write_reviews(folder / "reviews-1.csv", num_examples=60, change="!")
    with pytest.MonkeyPatch.context() as patch:
        killed_run(patch, folder / "saved-on-one", step=8)
        killed_run(patch, folder / "default-on-one", step=8, batch={"micro_batches": None})
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has taken it: as good
            taken.bind(("127.0.0.1", 29500))
            taken.listen()
        return launch(folder, FIRST, MASTER_PORT="29500", MASTER_ADDR="127.0.0.1")


@pytest.mark.fault("B1")
def test_two_processes_do_what_one_does_with_two_micro_batches(first: Launch, whole: Path) -> None:
    first.results("whole_run")
    assert artefacts(first.folder / "two") == artefacts(whole)


@pytest.mark.fault("B1")
def test_other_micro_batches_would_show(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", batch={"micro_batches": 1})
    assert artefacts(tmp_path / "run")["model/model.safetensors"] != artefacts(whole)["model/model.safetensors"]


@pytest.mark.fault("B2")
def test_a_launcher_that_starts_one_process_is_noticed_by_what_it_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of `accelerate launch --cpu --num_processes 2`: a port to meet at, and nobody to meet."""
    for name, value in {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError) as error:
        train(tmp_path / "run")
    assert error.value.code == 6
    assert not any(tmp_path.iterdir())


@pytest.mark.fault("B2")
@pytest.mark.slow
def test_a_launcher_that_starts_one_process_is_noticed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    script = [str(ROOT / "scripts" / "finetune.py"), "--tiny"]
    done = subprocess.run([*command, *script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1  # the launcher turns every code into 1
    assert "returned non-zero exit status 6" in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.fault("B3")
@pytest.mark.parametrize("variables", [{f"ACCELERATE_USE_{kind}": "true"} for kind in ("FSDP", "DEEPSPEED")])
def test_a_process_that_should_have_company_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    start(seed=0, precision="fp32", threads=1)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError) as error:
        train(tmp_path / "run")
    assert error.value.code == 6
    assert not any(tmp_path.iterdir())


@pytest.mark.fault("B3")
@pytest.mark.slow
def test_two_unjoined_processes_write_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    script = [str(ROOT / "scripts" / "finetune.py"), "--tiny"]
    done = subprocess.run([*command, *script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.fault("B4")
def test_a_killed_process_ends_the_others_soon_and_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    ended = launch(tmp_path, ["killed_in_a_step"])
    assert ended.code != 0
    assert ended.ended - float((tmp_path / "killed-at").read_text()) < 15
    assert "local_rank: 1" in ended.stderr  # the launcher names who died, and of what
    assert f"exitcode  : -{signal.SIGKILL}" in ended.stderr
    out = tmp_path / "killed-in-a-step"
    assert saved_steps(out) == [3, 6]
    train(out)
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("B5")
def test_the_bad_row_of_one_process_is_the_error_of_all(first: Launch) -> None:
    for found in first.of("bad_row"):
        assert (found["error"], found.get("code")) == ("DataError", 3), found
        assert (found["file"], found["row"], found["column"]) == ("reviews.csv", 17, "text")


@pytest.mark.fault("B6")
@pytest.mark.slow
def test_a_process_that_hangs_is_an_error_after_the_time_that_was_set(whole: Path, tmp_path: Path) -> None:
    """The one that waits ends with its error; the launcher gives the other 30 seconds before it is killed."""
    ended = launch(tmp_path, ["hang"], NLPBP_TIMEOUT="8")
    assert ended.code != 0
    assert ended.of("hang")[0].get("code") == 6, ended.of("hang")
    begun = float((tmp_path / "hang-started.0").read_text())
    assert 8 < (tmp_path / "hang.0.json").stat().st_mtime - begun < 25
    assert saved_steps(tmp_path / "hang") == [3]


@pytest.mark.fault("B7")
def test_every_example_is_seen_once_by_one_of_two_processes(first: Launch) -> None:
    zero, one = first.results("uneven")
    assert len(zero) == len(one)
    windows = [a + b for a, b in zip(zero, one, strict=True)]
    assert {len(window) for window in windows} == {2}
    half = len(windows) // 2
    num_train = max(i for window in windows for part in window for i in part) + 1
    for epoch in (windows[:half], windows[half:]):
        assert sorted(i for window in epoch for part in window for i in part) == list(range(num_train))
    assert num_train % 2 or num_train % 7  # it does not divide


@pytest.mark.fault("B7")
@pytest.mark.parametrize("world_size", [2, 3])
def test_every_process_does_as_many_steps(world_size: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 101)
    plan = {"size": 8, "num_micro_batches": world_size * 2, "epochs": 2, "seed": 0, "world_size": world_size}
    shares = [list(training_plan(lengths, rank=rank, **plan)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    seen = sorted(int(i) for share in shares for step in share for part in step for i in part)
    assert seen == sorted([*range(101)] * 2)
    assert len(shares[0]) == 2 * steps_per_epoch(lengths, size=8, min_size=world_size * 2)


@pytest.mark.fault("B8")
def test_data_that_end_sooner_on_one_process_end_the_training_of_all(first: Launch) -> None:
    zero, one = first.of("other_length")
    assert zero.get("code") == one.get("code") == 6, (zero, one)


@pytest.mark.fault("B9")
def test_another_order_of_labels_on_one_process_is_an_error_of_all(first: Launch) -> None:
    for found in first.of("other_labels"):
        assert (found.get("error"), found.get("code")) == ("DistributedError", 6), found
    assert not (first.folder / "other-labels").exists()


@pytest.mark.fault("B10")
def test_other_data_on_one_process_are_an_error_of_all(first: Launch) -> None:
    for found in first.of("other_data"):
        assert (found.get("error"), found.get("code")) == ("DistributedError", 6), found
    assert not (first.folder / "other-data").exists()


@pytest.mark.fault("B11")
def test_the_first_processes_weights_are_everyones(first: Launch, whole: Path) -> None:
    first.results("other_weights")
    assert artefacts(first.folder / "other-weights") == artefacts(whole)


@pytest.mark.fault("B12")
def test_seven_examples_are_scored_once_each_on_two_processes(first: Launch) -> None:
    for found in first.results("seven"):
        assert found["ids"] == list(range(7))
        wanted = np.array([[i * 0.1, 1 - i * 0.1] for i in range(7)])
        assert np.abs(np.array(found["logits"]) - wanted).max() < 1e-6
        targets = np.array([0, 1, 0, 1, 1, 0, 0])
        metrics = task_metrics("single_label", targets, np.array(found["logits"]))
        assert metrics["accuracy"] == pytest.approx(task_metrics("single_label", targets, wanted)["accuracy"], abs=1e-12)
        doubled = task_metrics("single_label", np.append(targets, 1), np.vstack([found["logits"], found["logits"][3:4]]))
        assert doubled["accuracy"] != metrics["accuracy"]  # an example counted twice would show


@pytest.mark.fault("B12")
def test_a_runs_metrics_are_those_of_one_process(first: Launch, whole: Path) -> None:
    wanted = json.loads((whole / "result.json").read_text())["metrics"]
    for found in first.results("whole_run"):
        for part, metrics in wanted.items():
            assert found["metrics"][part] == pytest.approx(metrics, abs=1e-12)


@pytest.mark.fault("B13")
def test_the_rates_are_those_of_one_process(first: Launch, whole: Path) -> None:
    assert [step["lr"] for step in steps_of(first.folder / "two")] == [step["lr"] for step in steps_of(whole)]


@pytest.mark.fault("B14")
def test_accumulation_on_two_processes_weighs_every_token_alike(first: Launch) -> None:
    wanted = one_big_batch()
    for found in first.results("ragged"):
        for parts in found.values():
            assert parts["losses"] == pytest.approx(wanted["losses"], abs=1e-6)
            for a, b in zip(parts["weights"], wanted["weights"], strict=True):
                assert a == pytest.approx(b, abs=1e-6)


def one_big_batch() -> Any:
    windows = [[ranks_worker.tokens_batch(ids)] for ids in ranks_worker.STEPS]
    return ranks_worker.train_linear(start(seed=0, precision="fp32", threads=1), windows)


@pytest.mark.fault("B15")
def test_labels_that_are_all_masked_on_one_process_leave_the_others_alone(first: Launch) -> None:
    zero, one = first.results("masked_on_one")
    assert zero == one
    assert all(np.isfinite(zero["losses"]))
    assert all(np.isfinite(zero["weights"]))
    assert zero["weights"] != [pytest.approx(0.1)] * 6


@pytest.mark.fault("B16")
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_on_one_process_stops_all_at_the_same_step(first: Launch, kind: str) -> None:
    found = first.of(f"nan_{kind}")
    assert {(one.get("error"), one.get("code")) for one in found} == {("NumericError", 5)}, found
    assert all("step 5" in one["text"] for one in found)
    assert saved_steps(first.folder / f"not-finite-{kind}") == [3]
    if kind == "loss":
        assert found[0]["text"] == found[1]["text"]  # with the examples of the other process


@pytest.mark.fault("B17")
def test_sigterm_to_one_process_saves_the_same_step_in_all(first: Launch) -> None:
    assert [(one.get("error"), one.get("code")) for one in first.of("sigterm_to_one")] == [("Stopped", 75)] * 2
    assert saved_steps(first.folder / "sigterm-to-one")[-1] in (5, 6)


@pytest.mark.fault("B17")
def test_sigterm_to_the_launcher_saves_and_can_go_on(first: Launch, whole: Path, tmp_path: Path) -> None:
    assert first.code != 0
    assert [(one.get("error"), one.get("code")) for one in first.of("sigterm_to_launcher")] == [("Stopped", 75)] * 2
    (saved,) = saved_steps(first.folder / "sigterm-to-launcher")
    assert saved >= 5
    out = shutil.copytree(first.folder / "sigterm-to-launcher", tmp_path / "run")
    train(out)
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("B18")
def test_a_kill_before_the_manifest_leaves_the_checkpoint_before(forks: Forks, tmp_path: Path) -> None:
    """One process writes the whole checkpoint, whatever their number: there are no shards of others that could be missing."""
    root = tmp_path / "checkpoints"
    ended = forks.run("save_killed_at", root=root, operation="open w", name="MANIFEST.json", when="before")
    assert ended.code == -signal.SIGKILL
    (left,) = root.glob("*.tmp-*")
    assert set(snapshot(left)) == {"model.safetensors", "optim.safetensors", "state.json"}
    assert find_fault(left) is not None
    assert newest(root).step == 2


@pytest.mark.fault("B19")
def test_saved_on_one_process_and_resumed_on_two(first: Launch, whole: Path) -> None:
    first.results("resume_of_one")
    assert "resumed from step 6" in (first.folder / "stdout.0").read_text()
    assert artefacts(first.folder / "saved-on-one") == artefacts(whole)


@pytest.mark.fault("B19")
def test_saved_on_two_processes_and_resumed_on_one(
    first: Launch, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(first.folder / "saved-on-two", tmp_path / "run")
    train(out)
    assert "resumed from step 9" in capsys.readouterr().out
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("B19")
def test_begun_on_two_processes_a_step_keeps_its_two_parts_on_one(first: Launch, whole: Path, tmp_path: Path) -> None:
    first.results("killed_by_default")
    out = shutil.copytree(first.folder / "default-on-two", tmp_path / "run")
    assert len(steps_of(out)) == 2
    train(out, batch={"micro_batches": None})
    assert artefacts(out) == artefacts(whole)


@pytest.mark.fault("B19")
def test_begun_on_one_process_a_step_of_one_part_cannot_be_shared_by_two(first: Launch, tmp_path: Path) -> None:
    for found in first.of("resume_of_one_by_default"):
        assert (found.get("error"), found.get("code"), found.get("column")) == ("ConfigError", 2, "batch.micro_batches"), found
    assert saved_steps(first.folder / "default-on-one") == [3, 6]
    out = shutil.copytree(first.folder / "default-on-one", tmp_path / "run")
    train(out, batch={"micro_batches": None})  # on one it goes on
    train(tmp_path / "undisturbed", batch={"micro_batches": 1})
    assert artefacts(out) == artefacts(tmp_path / "undisturbed")


@pytest.mark.fault("B19")
def test_three_processes_go_on_with_a_run_of_one_and_give_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    six: dict[str, Any] = {"batch": {"micro_batches": 6}, "precision": "fp32"}
    train(tmp_path / "alone", **six)
    killed_run(monkeypatch, tmp_path / "shared", step=5, **six)
    ended = launch(tmp_path, ["killed_on_three"], processes=3)
    assert ended.code == 0, ended.stderr
    ended.results("killed_on_three")
    for rank in (0, 1, 2):  # a thread of gloo that outlived the run would now and then abort the end of Python
        threads = json.loads((tmp_path / f"threads.{rank}.json").read_text())
        assert threads and not any("gloo" in name for name in threads), threads
    assert "resumed from step 3" in (tmp_path / "stdout.0").read_text()
    assert saved_steps(tmp_path / "shared") == [6, 9]
    train(tmp_path / "shared", **six)
    one, three = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "shared"))
    assert one.keys() == three.keys()
    assert max(float(abs(one[name] - three[name]).max()) for name in one) < 1e-6  # sums of three are taken in another order


@pytest.mark.fault("B20")
def test_a_checkpoint_can_be_loaded_as_soon_as_it_is_saved(first: Launch) -> None:
    for found in first.results("killed_and_again"):
        assert found == ["step-00000006", "step-00000009"]  # it went on from step 6 at once, in the same processes


@pytest.mark.fault("B21")
def test_a_port_that_is_taken_and_a_stale_one_do_not_matter(first: Launch) -> None:
    assert all(one["metrics"]["test"] for one in first.results("whole_run"))
    assert "EADDRINUSE" not in first.stderr


@pytest.mark.fault("B22")
@pytest.mark.slow
def test_a_host_name_that_does_not_resolve_does_not_matter(whole: Path, tmp_path: Path) -> None:
    """Two processes in a name space of their own, without network and with a name that nobody knows."""
    script = 'hostname no-such-host; ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"'
    prefix = ["unshare", "--uts", "--net", "sh", "-c", script, "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no name spaces of our own here")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    worker = f"{sys.executable} -W ignore {HERE / 'ranks_worker.py'} {tmp_path} whole_run"
    both = f"RANK=1 LOCAL_RANK=1 {worker} & RANK=0 LOCAL_RANK=0 {worker}; code=$?; wait; exit $code"
    environment.pop("GLOO_SOCKET_IFNAME", None)
    done = subprocess.run([*prefix, "sh", "-c", both], env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Launch(tmp_path, 0, done.stderr, 0.0).results("whole_run")) == 2
    assert artefacts(tmp_path / "two") == artefacts(whole)


@pytest.mark.fault("B23")
def test_only_the_first_process_prints_and_writes(first: Launch, whole: Path) -> None:
    assert (first.folder / "stdout.1").read_text() == ""
    assert "writing to" in (first.folder / "stdout.0").read_text()
    assert snapshot(first.folder / "two").keys() == snapshot(whole).keys()
