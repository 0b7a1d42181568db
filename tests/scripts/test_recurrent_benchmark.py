from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlpbp.benchmarks import recurrent, recurrent_fastai, recurrent_worker, workers
from nlpbp.data.tiny import tiny_reviews
from nlpbp.text.awd_lstm import AWDLSTMForCausalLM
from nlpbp.text.recurrent import new_language_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXTS = tiny_reviews().columns["text"]
WORDS = ["xxunk", "xxpad", "xxbos", *sorted({word for text in TEXTS for word in text.split() if word.isalpha()})]
SAMPLE = np.arange(3, 43)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> recurrent.Bench:
    """A folder as both sides have prepared it, fastai's part made by hand."""
    folder = tmp_path_factory.mktemp("bench")
    bench = recurrent.Bench(folder, peer_python=sys.executable, short=True)
    prepared = bench.ask("ours", "prepare")
    assert (prepared["settings"]["documents"], prepared["settings"]["sizes"]) == (240, [16, 24, 2])
    ids = [np.array([2, *(WORDS.index(word) if word in WORDS else 0 for word in text.split())]) for text in TEXTS]
    np.save(folder / "tokens.npy", np.concatenate(ids).astype(np.int32))
    np.save(folder / "lengths.npy", np.array([len(text) for text in ids]))
    np.save(folder / "sample.npy", SAMPLE)
    (folder / "vocab.json").write_text(json.dumps(WORDS), encoding="utf-8")
    return bench


def served(bench: recurrent.Bench, mode: str, *pieces: str) -> Iterator[dict[str, Any]]:
    """What our worker answers when it is asked for these pieces, one after the other."""
    with bench.start("ours", mode) as process:
        for piece in pieces:
            workers.go(process, piece)
            yield workers.answer(process)


def test_our_texts_are_encoded_once_and_then_come_from_the_cache(bench: recurrent.Bench) -> None:
    words, subwords = served(bench, "texts", "words", "subwords")
    for told in (words, subwords):
        assert told["documents"] == 240
        assert list(told["parts"]) == ["vocabulary", "ids"]
        assert told["seconds"] == pytest.approx(sum(told["parts"].values()))
        assert told["second_time_seconds"] > 0
        assert told["peak_memory_mib"] > 100
    assert words["vocabulary"] <= len(WORDS)
    assert list(bench.folder.glob("nlpbp_cache/tokens/*"))


def test_our_language_model_trains_on_whole_windows_and_its_parts_are_all_of_a_step(bench: recurrent.Bench) -> None:
    first, block, _, every_token = served(bench, "language_model", "warm-up", "block", "block", "every_token")
    assert every_token["tokens"] == block["tokens"]
    assert (first["steps"], first["tokens"]) == (1, 8 * 12)
    assert (block["steps"], block["tokens"]) == (3, 3 * 8 * 12)
    assert list(block["parts"]) == ["data", "forward", "loss", "backward", "step"]
    assert all(seconds > 0 for seconds in block["parts"].values())
    assert block["loss"] < first["loss"]


def test_our_classifier_reads_the_sample_in_every_piece(bench: recurrent.Bench) -> None:
    pieces = ("warm-up", "unfrozen", "frozen", "predict", "predict_fp32", "unfrozen")
    longest, *others = served(bench, "classifier", *pieces)
    lengths = np.load(bench.folder / "lengths.npy")
    assert longest["tokens"] / longest["documents"] > lengths.mean()
    assert {(told["documents"], told["tokens"]) for told in others} == {(40, int(lengths[SAMPLE].sum()))}
    assert others[-1]["loss"] < others[0]["loss"]


@pytest.fixture
def of_fastai(tmp_path: Path) -> tuple[Path, AWDLSTMForCausalLM]:
    """A folder as fastai leaves it, with a model and its outputs over two windows, and that model as ours."""
    options = {"vocab_size": 20, "embedding_size": 6, "hidden_size": 10, "num_hidden_layers": 2, "pad_token_id": 1}
    model = new_language_model(options, dropout=1.0, seed=0).eval()
    state = {
        "0.encoder.weight": model.lm_head.weight,
        "1.decoder.weight": model.lm_head.weight,
        "1.decoder.bias": model.lm_head.bias,
    }
    for index, layer in enumerate(model.model.layers):
        for name, value in layer.named_parameters():
            raw = f"{name}_raw" if name == "weight_hh_l0" else f"module.{name}"
            state[f"0.rnns.{index}.{raw}"] = value
    (tmp_path / "models").mkdir()
    torch.save({name: value.detach() for name, value in state.items()}, tmp_path / "models" / "lm.pth")
    words = ["xxunk", "xxpad", "xxbos", *map(str, range(17))]
    (tmp_path / "models" / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    tokens = torch.randint(2, 20, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens, output_hidden_states=True)
    arrays = {
        f"layer{2 * window + index}": hidden[:, 4 * window : 4 * window + 4]
        for window in range(2)
        for index, hidden in enumerate(whole.hidden_states[1:])
    }
    decoded = torch.cat(whole.logits.chunk(2, dim=1))
    np.savez(tmp_path / "interop.npz", tokens=tokens, decoded=decoded, **arrays)
    return tmp_path, model


def test_a_model_that_computes_the_same_passes_with_its_state_carried_on(of_fastai: tuple[Path, AWDLSTMForCausalLM]) -> None:
    folder, _ = of_fastai
    difference = recurrent_worker.max_difference(folder)
    assert difference < 1e-6
    recurrent.check_interop(difference)


@pytest.mark.parametrize("name", ["layer0", "layer3", "decoded"])
def test_a_model_that_computes_something_else_ends_the_benchmark(of_fastai: tuple[Path, AWDLSTMForCausalLM], name: str) -> None:
    folder, _ = of_fastai
    arrays = dict(np.load(folder / "interop.npz"))
    arrays[name].flat[5] += 2e-5
    np.savez(folder / "interop.npz", **arrays)
    difference = recurrent_worker.max_difference(folder)
    assert difference == pytest.approx(2e-5, rel=0.1)
    with pytest.raises(RuntimeError, match="1e-05 is the limit"):
        recurrent.check_interop(difference)
    with pytest.raises(RuntimeError, match="nan"):
        recurrent.check_interop(float("nan"))


def test_a_sample_falls_into_batches_of_fastais_and_has_the_lengths_of_all_texts() -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 0.6, 25_000).astype(np.int64)
    sample = recurrent_fastai.sample_documents(lengths, size=64, num_batches=5)
    assert len(set(sample.tolist())) == len(sample) == 320
    assert lengths[sample].mean() == pytest.approx(lengths.mean(), rel=0.1)
    assert (np.diff(lengths[sample]) <= 0).all()  # sorted again by itself it is cut in the same places
    chunk = np.random.default_rng(0).permutation(25_000)[:3200]
    whole = np.sort(lengths[chunk])[::-1].reshape(50, 64)
    assert [batch.tolist() in whole.tolist() for batch in lengths[sample].reshape(5, 64)] == [True] * 5
    first = recurrent_fastai.first_batch(lengths, size=64)
    assert len(set(first.tolist())) == 64
    assert lengths[first[0]] == lengths.max()
    assert lengths[first].min() >= np.quantile(lengths, 0.95)


def told(unit: str, number: int, seconds: float, *, memory: float = 100.0, **more: Any) -> dict[str, Any]:
    return {unit: number, "seconds": seconds, "peak_memory_mib": memory, **more}


def measured() -> dict[str, Any]:
    """Records in which ours is 2, 3, 4, 5 and 6 times as fast, in the order of the ratios, and fp32 prediction 1.5 times."""

    def documents(times: int) -> dict[str, Any]:
        return {"ours": [told("documents", 10 * times, 1.0, memory=300.0)], "fastai": [told("documents", 20, 2.0, memory=1200.0)]}

    steps = {"steps": 2, "parts": {"forward": 1.0, "backward": 3.0}}
    return {
        "texts": {
            "words": {
                "ours": [told("documents", 100, 1.0, second_time_seconds=0.25)],
                "fastai": [told("documents", 100, 6.0)],
            },
            "subwords": {"ours": [told("documents", 100, 3.0)]},
        },
        "language_model": {
            "warm-up": {"ours": [told("tokens", 1, 9.0)], "fastai": [told("tokens", 1, 1.0, memory=400.0)]},
            "block": {
                "ours": [told("tokens", 100 * times, 1.0, **steps) for times in (1, 2, 7)],
                "fastai": [told("tokens", 100, 1.0, **steps)] * 3,
            },
            "every_token": {"ours": [told("tokens", 150, 1.0, **steps)] * 3},
        },
        "breakdown": {"ours": {"forward": 0.5, "backward": 1.5}, "fastai": {"forward": 2.0}},
        "classifier": {
            "unfrozen": documents(3),
            "frozen": documents(4),
            "predict": documents(5),
            "predict_fp32": {"ours": [told("documents", 15, 1.0)]},
        },
    }


def test_ratios_are_medians_over_pairs_of_blocks_and_peaks_of_whole_processes() -> None:
    record = measured()
    ratios = recurrent.ratios(record)
    assert ratios == {
        "lm_tokens_per_second": 2.0,
        "lm_tokens_per_second_same_loss": 1.5,
        "classifier_documents_per_second": {"unfrozen": 3.0, "frozen": 4.0},
        "predict_documents_per_second": 5.0,
        "text_preparation": 6.0,
        "peak_memory": {"language_model": 0.25, "classifier": 0.25},
    }
    words = recurrent.in_words(ratios, record)
    assert words[0] == (
        "ours trains the language model on 2.00 times as many tokens a second as fastai (1.50 with its loss, over every token)"
    )
    assert words[3] == "ours predicts 5.00 times as many documents a second as fastai (1.50 in fp32)"
    assert words[4] == (
        "fastai takes 6.00 times as long as ours to turn the texts into ids "
        "(6.0 s, ours 1.0 s, with the cache 0.2 s; byte pairs 3.0 s)"
    )
    assert words[7] == "a step of the language model, ours: forward 0.50 s, backward 1.50 s"


def test_what_is_not_measured_yet_is_none() -> None:
    record = measured()
    del record["classifier"]
    ratios = recurrent.ratios(record)
    assert ratios["lm_tokens_per_second"] == 2.0
    assert ratios["classifier_documents_per_second"] == {"unfrozen": None, "frozen": None}
    assert ratios["peak_memory"] == {"language_model": 0.25, "classifier": None}
    assert recurrent.ratios({})["text_preparation"] is None


@pytest.mark.skipif(importlib.util.find_spec("fastai") is not None, reason="fastai is installed here")
def test_a_python_without_fastai_is_an_error_that_names_the_commands(tmp_path: Path) -> None:
    done = benchmark("recurrent", "--short", "--out", "x.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install -c constraints.txt '.[bench]'" in done.stderr
    assert "pip install --no-deps fastai==2.8.12" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_peers_worker_needs_nothing_of_ours_but_the_file_beside_it(tmp_path: Path) -> None:
    for name in ("recurrent_fastai.py", "workers.py"):
        shutil.copy(recurrent_fastai.__file__.replace("recurrent_fastai.py", name), tmp_path)
    (tmp_path / "nlpbp.py").write_text("raise ImportError('nlpbp is not installed here')\n")
    (tmp_path / "fastai.py").write_text("raise ImportError('nor is fastai')\n")
    command = [sys.executable, str(tmp_path / "recurrent_fastai.py"), str(tmp_path), "interop"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"missing": "nor is fastai"}), done.stderr
    shutil.copy(recurrent_worker.__file__, tmp_path)  # ours does need nlpbp: the control
    command[1] = str(tmp_path / "recurrent_worker.py")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "nlpbp is not installed here" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["recurrent"], "--out"),
        (["recurrent", "--out", "nowhere/x.json"], "nowhere"),
        (["recurrent", "--out", "x.json", "--peer-python", "no/such/python"], "no/such/python"),
    ],
)
def test_a_mistake_in_the_command_is_named(tmp_path: Path, arguments: list[str], named: str) -> None:
    done = benchmark(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert named in done.stderr


def benchmark(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
