"""Every recipe that trains goes on after a kill as if nothing had happened, bit for bit. A new recipe joins by being in RECIPES."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

from nlpbp.config.models import MaskedLM
from nlpbp.config.optim import Cycles, Finder, Stage
from nlpbp.config.run import Batch, Checkpoints
from nlpbp.core.errors import CheckpointError, ConfigError, NumericError
from nlpbp.runs import fit
from nlpbp.runs import lr_finder as finder
from nlpbp.runs import progress as saving
from nlpbp.train import loop
from nlpbp.train.signals import Stopped
from nlpbp.trainers import stages
from recipes import RECIPES, gru_classifier, lm_awd_lstm, transformer_sentiment, ulmfit

ARTEFACTS = ("model/model.safetensors", "metrics.jsonl", "predictions.parquet", "language_model/model.safetensors")


class Killed(BaseException):
    """Ends a run as a kill does: nothing of the product catches it."""


@pytest.fixture(scope="module", autouse=True)
def small_runs_are_not_spared() -> Iterator[None]:
    """Evaluate and save at the end of each epoch, as runs do that are longer than these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "MIN_TO_CHOOSE", 0)
        patch.setattr(fit, "WORTH_SAVING", 0.0)
        yield


@pytest.fixture(scope="module", params=[name for name in RECIPES if name != "transformers_trainer"])  # which does not resume
def recipe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(RECIPES[request.param][0])


@pytest.fixture(scope="module", params=["transformer_sentiment", "ulmfit"])
def one_of_each(request: pytest.FixtureRequest) -> ModuleType:
    """A recipe with one stage, and one with several: for what no recipe decides for itself."""
    return importlib.import_module(RECIPES[request.param][0])


@pytest.fixture(scope="module")
def undisturbed(one_of_each: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(one_of_each, out)
    return out


def train(recipe: ModuleType, out: Path, **changes: Any) -> None:
    config = recipe.tiny()
    batch = dataclasses.replace(config.batch, micro_batches=4)
    short = {"epochs": 2} if hasattr(config, "epochs") else {}
    config = dataclasses.replace(config, out=str(out), threads=1, **short)
    recipe.run(dataclasses.replace(config, **{"batch": batch, "checkpoint": Checkpoints(save_steps=3), **changes}))


AVERAGED = {
    "lm": dataclasses.replace(ulmfit.tiny().lm, swa_start=0.4),
    "optim": dataclasses.replace(ulmfit.tiny().optim, swa_start=0.4),
}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "averaged"
    train(ulmfit, out, **AVERAGED)
    return out


def at_step(number: int, action: Callable[[], None]) -> Callable[..., None]:
    """Make a replacement of the log that does `action` when it is given the record of step `number`."""
    original = fit.log

    def log(accelerator: Any, path: Path, record: Mapping[str, Any]) -> None:
        original(accelerator, path, record)
        if record["step"] == number and "split" not in record:
            action()

    return log


def die() -> None:
    raise Killed


def artefacts(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ARTEFACTS if (out / name).exists()}


def num_steps(out: Path) -> int:
    return sum("split" not in line for line in metrics(out))


def ends_of_epochs(out: Path) -> list[int]:
    return [line["step"] for line in metrics(out) if "split" in line]


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(recipe, out)
    return out


@pytest.mark.parametrize(
    "place", ["first step", "step 4", "end of the first epoch", "start of the second", "last stage", "last step"]
)
def test_a_killed_run_goes_on_bit_for_bit(
    recipe: ModuleType,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    total = num_steps(uninterrupted)
    ends = ends_of_epochs(uninterrupted)
    epoch = ends[0]
    places = {"end of the first epoch": epoch, "start of the second": epoch + 1, "last stage": ends[-2] + 1, "last step": total}
    step = {"first step": 1, "step 4": 4, **places}[place]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(step, die))
        train(recipe, tmp_path / "run")
    capsys.readouterr()
    train(recipe, tmp_path / "run")
    first = capsys.readouterr().out.splitlines()[0]
    saved = max(s for s in (*range(0, step, 3), *ends) if s < step)
    assert (first == f"resumed from step {saved} of {total}") if saved else ("resumed" not in first), first
    assert artefacts(tmp_path / "run") == artefacts(uninterrupted)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_chain_of_kills_ends_in_the_same_result(
    recipe: ModuleType, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 5, 8, 14, 20):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(fit, "log", at_step(step, die))
            train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(uninterrupted)


def test_a_pooled_head_that_began_at_the_probe_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = transformer_sentiment.tiny()
    optim = dataclasses.replace(tiny.optim, probe="always", swa_start=0.4)
    changes: dict[str, Any] = {"optim": optim, "model": dataclasses.replace(tiny.model, pooling="mean")}
    train(transformer_sentiment, tmp_path / "whole", **changes)
    for step in (1, 12):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(fit, "log", at_step(step, die))
            train(transformer_sentiment, tmp_path / "run", **changes)
    capsys.readouterr()
    train(transformer_sentiment, tmp_path / "run", **changes)
    assert capsys.readouterr().out.startswith("resumed from step ")
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


def test_a_run_that_decides_by_a_sample_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataclasses.replace(transformer_sentiment.tiny().data, eval_sample=9)
    sampled: dict[str, Any] = {"data": data, "eval_steps": 5}
    train(transformer_sentiment, tmp_path / "whole", **sampled)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(12, die))
        train(transformer_sentiment, tmp_path / "run", **sampled)
    train(transformer_sentiment, tmp_path / "run", **sampled)
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


@pytest.mark.parametrize("after", [1, 5])
def test_a_training_in_two_stages_goes_on_in_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], after: int
) -> None:
    original = transformer_sentiment.train_classifier

    def train_twice(*args: Any, plans: Sequence[Any], **options: Any) -> Any:
        return original(*args, plans=[*plans, *plans], **options)

    monkeypatch.setattr(transformer_sentiment, "train_classifier", train_twice)
    train(transformer_sentiment, tmp_path / "whole")
    total = num_steps(tmp_path / "whole")
    half = total // 2
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(half + after, die))
        train(transformer_sentiment, tmp_path / "run")
    capsys.readouterr()
    train(transformer_sentiment, tmp_path / "run")
    saved = max(s for s in (*range(0, half + after, 3), half) if s < half + after)
    assert capsys.readouterr().out.splitlines()[0] == f"resumed from step {saved} of {total}"
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


def test_a_restore_that_is_left_out_shows(
    recipe: ModuleType, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(8, die))
        train(recipe, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(saving, "set_full_optimizer_state", lambda *given: None)
        train(recipe, tmp_path / "run")
    assert artefacts(tmp_path / "run")["model/model.safetensors"] != artefacts(uninterrupted)["model/model.safetensors"]


@pytest.mark.parametrize("stage", ["language model", "head", "all layers"])
def test_a_mean_of_weights_goes_on_bit_for_bit(averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    step = max(line["step"] for line in metrics(averaged) if line.get("stage") == stage) - 1
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(step, die))
        train(ulmfit, tmp_path / "run", **AVERAGED)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert (newest / "average.safetensors").exists()
    train(ulmfit, tmp_path / "run", **AVERAGED)
    assert artefacts(tmp_path / "run") == artefacts(averaged)


def test_a_mean_of_weights_that_is_not_restored_shows(averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = num_steps(averaged)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(last, die))
        train(ulmfit, tmp_path / "run", **AVERAGED)
    with monkeypatch.context() as patch:
        original = saving._load
        patch.setattr(saving, "_load", lambda found, file, model: original(found, "model.safetensors", model))
        train(ulmfit, tmp_path / "run", **AVERAGED)
    assert artefacts(tmp_path / "run")["model/model.safetensors"] != artefacts(averaged)["model/model.safetensors"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_signal_saves_and_leaves_with_its_code(
    one_of_each: ModuleType, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(fit, "log", at_step(7, lambda: os.kill(os.getpid(), number)))
        train(one_of_each, tmp_path / "run")
    assert stopped.value.code == code
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["step-00000006", "step-00000007"]
    train(one_of_each, tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(undisturbed)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    one_of_each: ModuleType, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(8, die))
        train(one_of_each, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    capsys.readouterr()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(5, die))
        train(one_of_each, tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.startswith("resumed from step 3 of")
    assert "step-00000006" in printed
    assert [path for path in (tmp_path / "run" / "checkpoints").iterdir() if "rejected" in path.name]
    train(one_of_each, tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(undisturbed)


def test_when_no_checkpoint_verifies_the_run_does_not_start_over(
    one_of_each: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(8, die))
        train(one_of_each, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError) as error:
        train(one_of_each, tmp_path / "run")
    assert error.value.code == 4
    assert "missing state.json" in str(error.value)
    with pytest.raises(CheckpointError):
        train(one_of_each, tmp_path / "run")
    assert num_steps(tmp_path / "run") == 8


def test_changed_settings_are_shown_and_refused(one_of_each: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(8, die))
        train(one_of_each, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--seed was 0 and is 1") as error:
        train(one_of_each, tmp_path / "run", seed=1)
    assert error.value.code == 2
    with pytest.raises(ConfigError, match="never"):
        train(one_of_each, tmp_path / "run", resume="never")
    moved = shutil.copytree(tmp_path / "run", tmp_path / "moved")
    train(one_of_each, moved)  # another folder is not another run
    with pytest.raises(ConfigError, match="finished"):
        train(one_of_each, moved)


def test_changed_data_are_refused_unless_allowed(one_of_each: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nlpbp.data.tiny import tiny_reviews

    rows = tiny_reviews(num_examples=120).columns
    path = tmp_path / "reviews.csv"

    def write() -> None:
        path.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in zip(rows["text"], rows["label"], strict=True)))

    write()
    data = dataclasses.replace(one_of_each.tiny().data, train=str(path))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(7, die))
        train(one_of_each, tmp_path / "run", data=data)
    rows["text"][5] += " indeed"
    write()
    with pytest.raises(CheckpointError, match="data was"):
        train(one_of_each, tmp_path / "run", data=data)
    train(one_of_each, tmp_path / "run", data=dataclasses.replace(data, allow_change=True))
    assert (tmp_path / "run" / "result.json").exists()


def test_memory_that_runs_out_halves_the_micro_batches_and_the_plan_is_remembered(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(limit: int) -> Callable[..., Any]:
        def backward(self: Any, loss: Any, **options: Any) -> Any:
            if calls["micro"] > limit and not calls["failed"]:
                calls["failed"] = True
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            calls["micro"] += 1
            return original(self, loss, **options)

        return backward

    original = loop.Accelerator.backward
    calls: dict[str, Any] = {"micro": 0, "failed": False}
    with monkeypatch.context() as patch:
        patch.setattr(loop.Accelerator, "backward", failing(21))  # in the second micro-batch of step 6
        train(recipe, tmp_path / "split")
    assert "out of memory in step 6: going on with 8 micro-batches" in capsys.readouterr().out
    steps = [json.loads(line) for line in (tmp_path / "split" / "metrics.jsonl").read_text().splitlines()]
    assert [s["num_micro_batches"] for s in steps if "split" not in s] == [4] * 5 + [8] * (num_steps(tmp_path / "split") - 5)
    calls = {"micro": 0, "failed": False}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Accelerator, "backward", failing(21))
        patch.setattr(fit, "log", at_step(10, die))
        train(recipe, tmp_path / "killed")
    train(recipe, tmp_path / "killed")
    assert artefacts(tmp_path / "killed") == artefacts(tmp_path / "split")


def test_a_step_too_small_for_all_micro_batches_does_not_change_those_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = transformer_sentiment
    original = loop.Accelerator.backward

    def train_short_of_memory(out: Path) -> None:
        failed = False

        def backward(self: Any, loss: Any, **options: Any) -> Any:
            nonlocal failed
            if not failed:
                failed = True
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            return original(self, loss, **options)

        with monkeypatch.context() as patch:
            patch.setattr(loop.Accelerator, "backward", backward)
            train(recipe, out, batch=Batch(size=6, micro_batches=4), checkpoint=Checkpoints(save_steps=1))

    train_short_of_memory(tmp_path / "split")
    lines = [json.loads(line) for line in (tmp_path / "split" / "metrics.jsonl").read_text().splitlines()]
    parts = [line["num_micro_batches"] for line in lines if "split" not in line]
    step = next(i for i, (num, later) in enumerate(itertools.pairwise(parts), start=1) if num < later == 8)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(step + 1, die))
        train_short_of_memory(tmp_path / "killed")
    train(recipe, tmp_path / "killed", batch=Batch(size=6, micro_batches=4))
    assert artefacts(tmp_path / "killed") == artefacts(tmp_path / "split")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.Accelerator.backward
    calls = {"micro": 0}

    def backward(self: Any, loss: Any, **options: Any) -> Any:
        calls["micro"] += 1
        return original(self, loss * float("nan") if calls["micro"] == 30 else loss, **options)

    with (
        monkeypatch.context() as patch,
        pytest.raises(NumericError, match=r"step 8 .*(tiny:(reviews|shapes):\d+|row \d of the stream)") as error,
    ):
        patch.setattr(loop.Accelerator, "backward", backward)
        train(recipe, tmp_path / "run")
    assert error.value.code == 5
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()


SWEPT: dict[str, dict[str, Any]] = {
    "transformer_sentiment": {"stages": (Stage(epochs=1, lr=2e-2, train_last=1), Stage(epochs=1, lr="auto"))},
    "lm_awd_lstm": {"lm": dataclasses.replace(lm_awd_lstm.tiny().lm, lr="auto", epochs=1)},
}


@pytest.fixture(scope="module", params=list(SWEPT))
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, dict[str, Any], Path]:
    recipe, out = importlib.import_module(f"recipes.{request.param}"), tmp_path_factory.mktemp("runs") / "swept"
    options = {**SWEPT[request.param], "finder": Finder(num_steps=60, num_sweeps=2, start=1e-4)}
    train(recipe, out, **options)
    return recipe, options, out


@pytest.mark.parametrize("after", [0, 5])
def test_a_run_with_a_found_lr_goes_on_with_it_bit_for_bit(
    swept: tuple[ModuleType, dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    recipe, options, whole = swept
    first = min(line["step"] for line in metrics(whole) if line.get("stage", "training") != "head" and "split" not in line)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(first + after, die))
        train(recipe, tmp_path / "run", **options)
    sweeps = []
    original = finder.find_rate
    monkeypatch.setattr(finder, "find_rate", lambda *given, **options: sweeps.append(1) or original(*given, **options))
    train(recipe, tmp_path / "run", **options)
    assert artefacts(tmp_path / "run") == artefacts(whole)
    found = json.loads((tmp_path / "run" / "result.json").read_text())["stages"][-1]["lr"]
    assert 1e-4 < found < 1.0
    assert max(line["lr"] for line in metrics(whole) if "split" not in line and line["step"] >= first) == pytest.approx(
        found, rel=0.2
    )
    assert len(sweeps) == (after == 0), "a stage that was saved is not swept again"


STAGES = (
    Stage(epochs=2, lr=2e-2, train_last=1, cache_frozen=True),
    Stage(epochs=1, lr=1e-2, train_last=2, max_length=6, batch_size=24),
    Stage(epochs=1, lr=5e-3),
)


@pytest.mark.parametrize("place", [3, 17, 30, 38, 46])
def test_stages_of_a_transformer_go_on_bit_for_bit_but_for_a_cache_that_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    options = {"stages": STAGES, "precision": "fp32"}
    train(transformer_sentiment, tmp_path / "whole", **options)
    assert place < num_steps(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fit, "log", at_step(place, die))
        train(transformer_sentiment, tmp_path / "run", **options)
    train(transformer_sentiment, tmp_path / "run", **options)
    whole, again = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all((whole[name] - again[name]).abs().max() < 1e-5 for name in whole)
    steps = [line for line in metrics(tmp_path / "run") if "split" not in line]
    assert [line["stage"] for line in steps] == [line["stage"] for line in metrics(tmp_path / "whole") if "split" not in line]


def test_snapshots_of_a_run_that_was_killed_are_those_of_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optim = dataclasses.replace(transformer_sentiment.tiny().optim, schedule="warm_restarts")
    options = {"optim": optim, "cycles": Cycles(num_cycles=2, cycle_mult=1, snapshots=True)}
    train(transformer_sentiment, tmp_path / "whole", **options)
    half = num_steps(tmp_path / "whole") // 2
    for step in (half - 1, half, half + 1):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(fit, "log", at_step(step, die))
            train(transformer_sentiment, tmp_path / "run", **options)
    train(transformer_sentiment, tmp_path / "run", **options)
    for number in ("1", "2"):
        mine, theirs = (tmp_path / name / "snapshots" / number / "model.safetensors" for name in ("run", "whole"))
        assert mine.read_bytes() == theirs.read_bytes()


def test_windows_of_long_texts_go_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataclasses.replace(gru_classifier.tiny().data, max_length=12, truncation="windows")
    train(gru_classifier, tmp_path / "whole", data=data)
    total = num_steps(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(fit, "log", at_step(total // 2 + 1, die))
        with pytest.raises(Killed):
            train(gru_classifier, tmp_path / "killed", data=data)
    train(gru_classifier, tmp_path / "killed", data=data)
    assert artefacts(tmp_path / "killed") == artefacts(tmp_path / "whole")


def test_a_masked_language_model_before_the_classifier_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its first checkpoint, within it, after its last step, and in the classifier behind it."""
    settings = {"mlm": MaskedLM(steps=8)}
    train(transformer_sentiment, tmp_path / "whole", **settings)
    train(transformer_sentiment, tmp_path / "without")
    assert artefacts(tmp_path / "without")["model/model.safetensors"] != artefacts(tmp_path / "whole")["model/model.safetensors"]
    for place in (2, 5, 8, 11):
        out = tmp_path / f"killed-{place}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(fit, "log", at_step(place, die))
            train(transformer_sentiment, out, **settings)
        train(transformer_sentiment, out, **settings)
        assert artefacts(out) == artefacts(tmp_path / "whole")
