"""ULMFiT: each stage trains what it announces, the language model reaches the classifier, and parts can be left out or brought."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nlpbp import config as sections
from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.tiny import tiny_reviews
from nlpbp.runs.result import RunResult
from recipes import lm_awd_lstm, ulmfit
from run_script import run_script


def run(out: Path, **changes: Any) -> RunResult:
    return ulmfit.run(dataclasses.replace(ulmfit.tiny(), out=str(out), threads=1, **changes))


def stages_of(result: RunResult) -> list[dict[str, Any]]:
    return json.loads((result.out / "result.json").read_text())["stages"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tmp_path_factory.mktemp("ulmfit") / "run")


def test_each_stage_says_what_trains(finished: RunResult) -> None:
    stages = stages_of(finished)
    assert [stage["name"] for stage in stages] == ["language model", "head", "all layers"]
    assert stages[1]["trained"] == ["head"]
    assert stages[1]["trained_parameters"] < stages[2]["trained_parameters"] == finished.num_parameters
    assert [stage["metric"] for stage in stages] == ["loss", "accuracy", "accuracy"]


def test_the_head_stage_leaves_the_language_model_as_it_is_and_the_next_does_not(tmp_path: Path) -> None:
    only_head = run(tmp_path / "head", stages=(sections.Stage(epochs=1, lr=3e-2, train_last=1),))
    both = run(tmp_path / "both")
    encoder = load_file(only_head.out / "language_model" / "model.safetensors")
    for result, same in ((only_head, True), (both, False)):
        weights = load_file(result.out / "model" / "model.safetensors")
        common = [name for name in encoder if name.startswith("model.")]
        assert len(common) > 8
        assert all(encoder[name].equal(weights[name]) for name in common) is same


def test_a_frozen_layer_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nlpbp.trainers import classifier

    monkeypatch.setattr(classifier, "freeze", lambda groups, train_last: None)  # everything trains ...
    original = classifier.fit

    def announced_less(run: Any, steps: Any, learner: Any, *args: Any, **options: Any) -> Any:  # ... the head alone is announced
        def as_if_frozen(groups: Any) -> Any:
            return [dataclasses.replace(g, parameters=g.parameters if g.name == "head" else frozen(g)) for g in groups]

        def frozen(group: Any) -> Any:
            return tuple((name, p.detach()) for name, p in group.parameters)

        groups = as_if_frozen(learner.groups)
        return original(run, steps, dataclasses.replace(learner, groups=groups), *args, **options)

    monkeypatch.setattr(classifier, "fit", announced_less)
    with pytest.raises(AssertionError, match="frozen layer groups have changed"):
        run(tmp_path / "run", lm=ulmfit.Transfer(skip=True))


def test_the_language_model_can_be_left_out_or_brought(finished: RunResult, tmp_path: Path) -> None:
    scratch = run(tmp_path / "scratch", lm=ulmfit.Transfer(skip=True))
    assert [stage["name"] for stage in stages_of(scratch)] == ["head", "all layers"]
    assert not (scratch.out / "language_model").exists()
    lm = lm_awd_lstm.run(dataclasses.replace(lm_awd_lstm.tiny(), out=str(tmp_path / "lm"), threads=1))
    for init in (lm.out, lm.out / "model", finished.out / "language_model"):
        brought = run(tmp_path / f"from-{init.name}", lm=dataclasses.replace(ulmfit.tiny().lm, init=str(init), steps=3))
        assert stages_of(brought)[0]["steps"] == 3
    as_it_is = run(tmp_path / "as-it-is", lm=dataclasses.replace(ulmfit.tiny().lm, init=str(lm.out), steps=0))
    assert [stage["name"] for stage in stages_of(as_it_is)] == ["head", "all layers"]


def test_another_vocabulary_is_mapped(finished: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init = str(finished.out / "language_model")
    lm = dataclasses.replace(ulmfit.tiny().lm, init=init, steps=2)
    run(tmp_path / "run", lm=lm, tokenizer=sections.Tokenizer(kind="subword", vocab_size=320))
    assert "of 320 tokens are known to the language model" in capsys.readouterr().out


def test_pretraining_and_unlabelled_texts_come_first(tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("\n".join(tiny_reviews(num_examples=60, seed=5).columns["text"]))
    lm = dataclasses.replace(ulmfit.tiny().lm, pretrain_data=str(more), pretrain_steps=4, unlabelled=str(more), steps=5)
    stages = stages_of(run(tmp_path / "run", lm=lm))
    assert [(stage["name"], stage["steps"]) for stage in stages[:2]] == [("pretraining", 4), ("language model", 5)]


def test_contradictions_and_what_cannot_be_are_errors(tmp_path: Path, finished: RunResult) -> None:
    tiny = ulmfit.tiny().lm
    with pytest.raises(ConfigError) as error:
        run(tmp_path / "a", lm=dataclasses.replace(tiny, skip=True, init="x"))
    assert error.value.column == "lm.skip"
    with pytest.raises(ConfigError) as error:
        run(tmp_path / "b", lm=dataclasses.replace(tiny, pretrain_data="x", init="x"))
    assert error.value.column == "lm.init"
    with pytest.raises(ConfigError, match=r"no effect beside --lm\.steps 3"):
        run(tmp_path / "epochs", lm=dataclasses.replace(tiny, steps=3, epochs=2))
    with pytest.raises(ConfigError, match="none is given"):
        run(tmp_path / "steps", lm=dataclasses.replace(tiny, steps=0))
    with pytest.raises(ConfigError, match="5 layer groups cannot train"):
        run(tmp_path / "c", lm=ulmfit.Transfer(skip=True), stages=(sections.Stage(train_last=5),))
    with pytest.raises(ConfigError):  # a classifier is no language model
        run(tmp_path / "d", lm=dataclasses.replace(tiny, init=str(tmp_path)))
    with pytest.raises(DataError, match="too few for 9000 rows"):
        run(tmp_path / "e", lm=dataclasses.replace(tiny, batch_size=9000))


def test_every_stage_trains_in_the_precision_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nlpbp.trainers import classifier, language_model

    seen: list[tuple[str, torch.dtype]] = []
    for module in (language_model, classifier):

        def noting(run: Any, steps: Any, learner: Any, stage: Any, original: Any = module.fit, **options: Any) -> Any:
            layer = next(m for m in learner.model.modules() if isinstance(m, torch.nn.LSTM))
            hook = layer.register_forward_hook(lambda m, inputs, outputs: seen.append((stage.name, outputs[0].dtype)))
            ended = original(run, steps, learner, stage, **options)
            hook.remove()
            return ended

        monkeypatch.setattr(module, "fit", noting)
    run(tmp_path / "run", precision="bf16", lm=dataclasses.replace(ulmfit.tiny().lm, steps=2))
    assert dict(seen) == dict.fromkeys(("language model", "head", "all layers"), torch.bfloat16)


def test_two_processes_do_what_one_does_in_every_stage_bit_for_bit(tmp_path: Path) -> None:
    """The language model's rows, an odd number of them, go on from window to window on whichever process they are."""
    tiny = ulmfit.tiny()
    changes = {
        "lm": dataclasses.replace(tiny.lm, batch_size=7, random_bptt=True, swa_start=0.5),
        "optim": dataclasses.replace(tiny.optim, swa_start=0.5),
        "precision": "bf16",
    }
    for name, num in (("one", 2), ("control", 1)):
        run(tmp_path / name, batch=dataclasses.replace(tiny.batch, micro_batches=num), **changes)
    config = ["--config", str(tmp_path / "one" / "config.yaml"), "--out", "two"]
    both = run_script("finetune", "ulmfit", *config, cwd=tmp_path, processes=2)
    assert both.returncode == 0, both.stderr
    assert "2 processes" in both.stdout
    for name in ("language_model/model.safetensors", "model/model.safetensors", "metrics.jsonl", "predictions.parquet"):
        one, two, control = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two", "control"))
        assert one == two
        assert one != control  # dropout masks follow the micro-batches
