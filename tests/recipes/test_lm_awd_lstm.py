"""What a language model may be started from, and texts that are shorter than a window."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from nlpbp.config.data import Texts
from nlpbp.core.errors import ConfigError
from nlpbp.data.corpus import load_corpus
from nlpbp.runs.result import RunResult
from nlpbp.text.tokenizer import train_tokenizer
from recipes import lm_awd_lstm

TINY = lm_awd_lstm.tiny()


def run(out: Path, *, cell: Any = "lstm", **lm: Any) -> RunResult:
    model, lm_section = dataclasses.replace(TINY.model, cell=cell), dataclasses.replace(TINY.lm, **lm)
    return lm_awd_lstm.run(dataclasses.replace(TINY, model=model, lm=lm_section, out=str(out), threads=1))


@pytest.fixture(scope="module")
def gru(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tmp_path_factory.mktemp("runs") / "gru", cell="gru", steps=2)


def test_a_corpus_shorter_than_a_window_is_one_window_a_pass(tmp_path: Path) -> None:
    result = run(tmp_path / "run", bptt=100_000, epochs=3)
    record = json.loads((result.out / "result.json").read_text())
    (stage,) = record["stages"]
    assert (stage["steps"], stage["items"]) == (3, 3 * (record["tokens"]["train"] - 1))


def test_the_cell_of_what_it_starts_from_is_kept(gru: RunResult, tmp_path: Path) -> None:
    result = run(tmp_path / "run", cell="lstm", init=str(gru.out), steps=2)
    assert json.loads((result.out / "model" / "config.json").read_text())["cell"] == "gru"
    assert result.baselines["before"]["validation"]["loss"] == pytest.approx(gru.metrics["validation"]["loss"], abs=1e-4)


def test_weights_of_another_cell_than_the_folder_says_are_refused(gru: RunResult, tmp_path: Path) -> None:
    folder = shutil.copytree(gru.out / "model", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "cell": "lstm"}))
    with pytest.raises(ConfigError, match="cannot be loaded") as error:
        run(tmp_path / "run", init=str(folder))
    assert error.value.column == "lm.init"
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_vocabulary_than_the_weights_is_refused(gru: RunResult, tmp_path: Path) -> None:
    folder = shutil.copytree(gru.out / "model", tmp_path / "model")
    train_tokenizer([" ".join(f"word{i} word{i}" for i in range(500))], kind="word").save_pretrained(folder)
    with pytest.raises(ConfigError, match="has 504 tokens, and the embedding is of") as error:
        run(tmp_path / "run", init=str(folder))
    assert error.value.column == "lm.init"


def test_weights_that_lack_a_layer_are_refused(gru: RunResult, tmp_path: Path) -> None:
    folder = shutil.copytree(gru.out / "model", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "layers.1" not in n}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack model\.layers\.1"):
        run(tmp_path / "run", init=str(folder))


def test_fields_make_one_text_with_medians_of_the_rows_to_train_on() -> None:
    rows = [{"title": f"film {i}", "date": "2024-02-29", "price": None if i % 4 == 0 else i} for i in range(1, 61)]
    corpus = load_corpus(Texts(train=rows, fields=("title", "date", "price"), validation_share=0.2, test_share=0.2))
    assert {"[weekday] thu" in text for part in corpus.parts.values() for text in part} == {True}
    trained_on = [price for price in corpus.tables["train"].columns["price"] if price is not None]
    median = float(np.median(trained_on))
    assert corpus.fields.statistics == {"price": median}
    written = next(text for text in corpus.train if "[price missing]" in text)
    assert f"[price] {median:g} [price missing]" in written
    assert [len(part) for part in corpus.parts.values()] == [len(table) for table in corpus.tables.values()]
    assert any(note.startswith("fields: ") for note in corpus.notes)
