"""Faults of the data: each ends in an error with file, row and column, or in the right table."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from harness import Forks, artefacts, at_step, killed_run, train

from nlpbp.audit.copies import leaks, near_leaks
from nlpbp.audit.rows import rows_of
from nlpbp.config.data import Data
from nlpbp.core.errors import CheckpointError, DataError
from nlpbp.data.columns import infer_fields, read_examples
from nlpbp.data.parts import load_inputs
from nlpbp.data.readers import Table, read_table
from nlpbp.data.splits import split_examples
from nlpbp.data.tiny import tiny_reviews
from nlpbp.runs import fit
from nlpbp.text.batches import encode
from nlpbp.text.tiny import tiny_bert
from nlpbp.text.transformer import load_tokenizer


def written(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def failure(call: Any, *arguments: Any, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert caught.value.code == 3
    return caught.value


def place(error: DataError) -> tuple[str | None, int | None, str | None]:
    return error.file, error.row, error.column


def examples_of(path: Path, **given: Any) -> Any:
    table = read_table(path)
    return read_examples(table, infer_fields(table, **given))


def reviews_csv(path: Path, *, num_examples: int = 60, seed: int = 0, more: str = "") -> Path:
    rows = tiny_reviews(num_examples=num_examples, seed=seed).columns
    lines = [f"{text},{label}\n" for text, label in zip(rows["text"], rows["label"], strict=True)]
    return written(path.parent, path.name, "text,label\n" + "".join(lines) + more)


def made_texts(num: int, *, num_words: int = 25) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices([f"w{number}" for number in range(500)], k=num_words)) for _ in range(num)]


GOOD = "text,label\nso good,pos\nso bad,neg\nfine,pos\n"


@pytest.mark.fault("D1")
def test_a_label_column_that_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", GOOD)
    error = failure(examples_of, path, label="lable")
    assert (error.file, error.column) == (str(path), "lable")
    assert "'label'" in str(error.hint)
    path = written(
        tmp_path, "b.csv", "text,other\n" + "".join(f"the long text number {i},another long one {9 - i}\n" for i in range(4))
    )
    assert failure(examples_of, path).file == str(path)
    assert len(examples_of(written(tmp_path, "c.csv", GOOD), label="label")) == 3


@pytest.mark.fault("D2")
def test_a_text_column_that_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", GOOD)
    error = failure(examples_of, path, text=("txet",))
    assert (error.file, error.column) == (str(path), "txet")
    assert "'text'" in str(error.hint)
    path = written(tmp_path, "b.csv", "number,label\n1.5,1\n2.5,0\n")
    assert failure(examples_of, path).file == str(path)


@pytest.mark.fault("D3")
@pytest.mark.parametrize("cell", ["", "  "])
def test_a_label_that_is_missing(tmp_path: Path, cell: str) -> None:
    path = written(tmp_path, "a.csv", f"text,label\nso good,pos\nso bad,{cell}\nfine,neg\n")
    assert place(failure(examples_of, path)) == (str(path), 3, "label")
    assert place(failure(load_inputs, Data(train=str(path)))) == (str(path), 3, "label")


@pytest.mark.fault("D4")
@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_text_that_is_missing(value: Any) -> None:
    frame = pandas.DataFrame({"text": ["so good", value, "so bad"], "label": [1, 0, 0]})
    table = read_table(frame)
    assert place(failure(read_examples, table, infer_fields(table))) == ("DataFrame", 2, "text")


@pytest.mark.fault("D5")
def test_texts_that_read_like_nothing(tmp_path: Path) -> None:
    cells = ["NA", "null", "None", "nan", "NaN", "N/A", "#N/A", "-"]
    path = written(tmp_path, "a.csv", "text,label\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells)))
    assert examples_of(path, text=("text",), label="label").texts == cells


@pytest.mark.fault("D6")
def test_texts_that_look_like_numbers(tmp_path: Path) -> None:
    cells = ["007", "1e5", "3.10", "+1", "0x10", "1_000", "TRUE"]
    path = written(tmp_path, "a.csv", "text,label\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells)))
    assert examples_of(path, text=("text",), label="label").texts == cells
    path = written(tmp_path, "a.jsonl", '{"text": 1e5, "label": 0}\n{"text": 3.10, "label": 1}\n')
    assert examples_of(path, text=("text",), label="label").texts == ["1e5", "3.10"]


@pytest.mark.fault("D7")
def test_labels_of_mixed_types(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label\nso good,1\nso bad,0\nfine,positive\n")
    error = failure(examples_of, path)
    assert place(error) == (str(path), 4, "label")
    assert "row 2" in error.message
    path = written(tmp_path, "a.jsonl", '{"text": "so good", "label": 1}\n{"text": "so bad", "label": "positive"}\n')
    error = failure(examples_of, path)
    assert place(error) == (str(path), 2, "label")
    assert "row 1" in error.message


@pytest.mark.fault("D8")
def test_labels_that_differ_in_case_and_white_space(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\na,pos\nb,"Pos "\nc,neg\nd,pos\n')
    fields = infer_fields(read_table(path))
    assert fields.labels == ("Pos ", "neg", "pos")
    assert any("'Pos ', 'pos'" in note for note in fields.notes)
    assert not any("case" in note for note in infer_fields(read_table(written(tmp_path, "b.csv", GOOD))).notes)


@pytest.mark.fault("D9")
def test_an_unknown_label_in_the_evaluation_data(tmp_path: Path) -> None:
    train_file = reviews_csv(tmp_path / "train.csv")
    for name in ("validation", "test"):
        path = written(tmp_path, f"{name}.csv", "text,label\nso good,pos\nso bad,positive\n")
        error = failure(load_inputs, Data(train=str(train_file), **{name: str(path)}))
        assert place(error) == (str(path), 3, "label")
        assert "'neg', 'pos'" in str(error.hint)


@pytest.mark.fault("D10")
def test_one_class_in_the_training_data(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label\nso good,pos\nfine,pos\ngreat,pos\n")
    with pytest.raises(DataError) as error:
        train(tmp_path / "run", data={"train": str(path)})
    assert (error.value.code, error.value.file, error.value.column) == (3, str(path), "label")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("D11")
def test_a_class_with_one_example(tmp_path: Path) -> None:
    rows = tiny_reviews(num_examples=60).columns
    rows["label"][7] = "mixed"
    inputs = load_inputs(Data(train={"text": rows["text"], "label": rows["label"]}))
    assert any("'mixed'" in note for note in inputs.notes)
    ids = inputs.fields.labels.index("mixed")
    assert (inputs.train.examples.targets == ids).sum() == 1  # it is trained on, and nothing fails
    assert (inputs.validation.examples.targets == ids).sum() == 0


@pytest.mark.fault("D12")
def test_classes_1000_to_1(tmp_path: Path) -> None:
    rows = {"text": [f"film no {i}" for i in range(1002)], "label": ["a"] * 1001 + ["b"]}
    inputs = load_inputs(Data(train=rows))
    assert any("1001 to 1" in note for note in inputs.notes)
    rows = tiny_reviews(num_examples=80).columns
    rows["label"] = ["pos" if i == 3 else "neg" for i in range(80)]
    assert "macro_f1" in train(tmp_path / "run", data={"train": rows}, epochs=1).metrics["validation"]


@pytest.mark.fault("D13")
def test_training_texts_in_the_test_data(tmp_path: Path) -> None:
    train_file = reviews_csv(tmp_path / "train.csv")
    rows = read_table(train_file).columns
    copies = "".join(f"{rows['text'][i]},{rows['label'][i]}\n" for i in (0, 5, 9))
    test_file = reviews_csv(tmp_path / "test.csv", num_examples=10, seed=7, more=copies)
    data = {"train": str(train_file), "validation": str(reviews_csv(tmp_path / "v.csv", num_examples=10, seed=8))}
    (note,) = [note for note in load_inputs(Data(**data, test=str(test_file))).notes if note.startswith("warning")]
    assert "3 test texts" in note
    for line, copy in ((2, 12), (7, 13), (11, 14)):
        assert f"train.csv:{line} = test.csv:{copy}" in note
    clean = reviews_csv(tmp_path / "clean.csv", num_examples=10, seed=7)
    assert not [note for note in load_inputs(Data(**data, test=str(clean))).notes if note.startswith("warning")]


@pytest.mark.fault("D13")
def test_copies_never_stand_in_two_parts_that_are_cut(tmp_path: Path) -> None:
    rows = tiny_reviews(num_examples=60).columns
    table = Table("list", {name: values * 2 for name, values in rows.items()}, list(range(1, 121)))
    examples = read_examples(table, infer_fields(table))
    parts = split_examples(examples, validation_share=0.2, test_share=0.2, seed=0)
    texts = [{examples.texts[i] for i in part} for part in parts]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


@pytest.mark.fault("D14")
def test_training_texts_in_the_test_data_slightly_changed(tmp_path: Path) -> None:
    texts = made_texts(40)
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(texts[:30])]
    changed = [f"Well, {texts[3]}", texts[8].upper().replace(" ", "  "), texts[20].rsplit(" ", 1)[0]]
    train = rows_of(read_table(rows))
    test = rows_of(read_table([{"text": text, "label": 0} for text in (*texts[30:], *changed)]), fields=train.fields, part="test")
    exact, near = leaks([train, test]), near_leaks([train, test])
    assert (exact.count, near.count, near.level) == (1, 2, "warning")  # case and white space alone make no other text
    assert near.rows.keys() | exact.rows.keys() == {3, 8, 20}
    assert "list:11 ~ list:4" in near.examples[0].reference
    clean = rows_of(read_table([{"text": text, "label": 0} for text in texts[30:]]), fields=train.fields, part="test")
    assert (leaks([train, clean]).level, near_leaks([train, clean]).level) == ("fine", "fine")


@pytest.mark.fault("D15")
def test_one_text_with_two_labels(tmp_path: Path) -> None:
    rows = tiny_reviews(num_examples=60).columns
    more = f"{rows['text'][4]},{'pos' if rows['label'][4] == 'neg' else 'neg'}\n"
    path = reviews_csv(tmp_path / "a.csv", more=more)
    notes = [note for note in load_inputs(Data(train=str(path))).notes if "a.csv:6" in note]
    assert notes
    assert "a.csv:62" in notes[0]
    clean = reviews_csv(tmp_path / "b.csv", more=f"{rows['text'][4]},{rows['label'][4]}\n")
    assert not [note for note in load_inputs(Data(train=str(clean))).notes if "b.csv:6" in note]


@pytest.mark.fault("D16")
def test_a_text_of_10_megabytes(tmp_path: Path) -> None:
    text = "wonderful film " * 700_000
    tokenizer = load_tokenizer(str(tiny_bert(tmp_path / "bert")))
    encode(["warm"], tokenizer=tokenizer, max_length=32)
    started = time.perf_counter()
    encoded = encode(["short", text], tokenizer=tokenizer, max_length=32)
    assert time.perf_counter() - started < 1.0  # about 0.02 s; without the cut 12 s
    assert encoded.lengths.tolist() == [3, 32]
    assert encoded.clipped.tolist() == [1]
    path = written(tmp_path, "a.csv", f"text,label\nshort,0\n{text},1\n")
    assert len(read_table(path).columns["text"][1]) == len(text)


@pytest.mark.fault("D17")
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_a_nul_byte(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, b"text,label\nfine,1\nhalf\x00way,0\n")
    assert place(failure(read_table, path)) == (str(path), 3, None)


@pytest.mark.fault("D18")
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    raw = b"text,label\nok,1\nun caf\xe9 noir,0\n"
    path = written(tmp_path, name, raw)
    error = failure(read_table, path)
    assert place(error) == (str(path), 3, None)
    assert f"byte {raw.index(0xE9)}" in error.message
    assert "cp1252" in str(error.hint)
    assert " or " in str(error.hint)


@pytest.mark.fault("D19")
def test_utf16(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-32", "utf-8"):
        path = written(tmp_path, f"{encoding}.csv", "text,label\ncafé,1\n".encode(encoding))
        assert read_table(path).columns == {"text": ["café"], "label": ["1"]}
    path = written(tmp_path, "none.csv", "text,label\na,1\n".encode("utf-16-le"))  # without its mark
    error = failure(read_table, path)
    assert error.file == str(path)
    assert "UTF-16" in str(error.hint)
    path = written(tmp_path, "cut.csv", "text,label\ncafé,1\n".encode("utf-16")[:-1])
    assert failure(read_table, path).file == str(path)


@pytest.mark.fault("D20")
@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text,label\na,1\n"), ("a.jsonl", '{"text": "a", "label": "1"}\n'), ("a.txt", "a\n")]
)
def test_a_byte_order_mark(tmp_path: Path, name: str, content: str) -> None:
    with_mark = read_table(written(tmp_path, name, content.encode("utf-8-sig"))).columns
    assert with_mark == read_table(written(tmp_path, name, content)).columns
    assert with_mark["text"] == ["a"]


@pytest.mark.fault("D21")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    path = written(tmp_path, "a.csv", end.join(["text,label", "one\u2028line\x0b\x0c\x85,1", f'"two{end}lines",0', "last,1", ""]))
    table = read_table(path)
    assert table.columns["text"] == ["one\u2028line\x0b\x0c\x85", f"two{end}lines", "last"]
    assert table.rows == [2, 3, 5]
    lines = end.join(['{"text": "one\u2028line"}', '{"text": "two"}', ""])
    assert read_table(written(tmp_path, "a.jsonl", lines)).rows == [1, 2]
    assert read_table(written(tmp_path, "a.txt", f"one\u2028line{end}two{end}")).columns["text"] == ["one\u2028line", "two"]


@pytest.mark.fault("D22")
def test_characters_of_every_kind(tmp_path: Path) -> None:
    text = "👩‍👩‍👧 שלום e\u0301 \u202eright\u202c 日本語"
    for name, content in (
        ("a.csv", f"text,label\n{text},1\n"),
        ("a.jsonl", json.dumps({"text": text, "label": "1"})),
        ("a.txt", text),
    ):
        assert read_table(written(tmp_path, name, content)).columns["text"] == [text]
    path = written(tmp_path, "b.jsonl", '{"text": "fine"}\n{"text": "half \\ud83d"}\n')
    assert place(failure(read_table, path)) == (str(path), 2, "text")
    table = read_table({"text": ["fine", "half \ud83d"], "label": [0, 1]})
    assert place(failure(read_examples, table, infer_fields(table))) == ("dict", 2, "text")


@pytest.mark.fault("D23")
def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\n"two\nlines",1\nfine,0\n"never closed,1\nx,0\ny,1\n')
    assert place(failure(read_table, path)) == (str(path), 5, None)


@pytest.mark.fault("D24")
@pytest.mark.parametrize(("line", "seen"), [("well, then,1", "3"), ("alone", "1")])
def test_too_many_or_too_few_cells(tmp_path: Path, line: str, seen: str) -> None:
    path = written(tmp_path, "a.csv", f"text,label\nfine,1\n{line}\nlast,0\n")
    error = failure(read_table, path)
    assert place(error) == (str(path), 3, None)
    assert "2" in error.message
    assert seen in error.message


@pytest.mark.fault("D25")
def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label,text\na,1,b\n")
    assert place(failure(read_table, path)) == (str(path), 1, "text")
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n')
    assert failure(read_table, path).row == 2
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"]), tmp_path / "a.parquet")
    assert failure(read_table, tmp_path / "a.parquet").column == "a"


@pytest.mark.fault("D26")
def test_no_header_only_a_header_and_an_empty_file(tmp_path: Path) -> None:
    contents = {"none.csv": "\na,1\n", "only.csv": "text,label\n", "empty.csv": ""}
    errors = [failure(read_table, written(tmp_path, name, content)) for name, content in contents.items()]
    assert len({error.message for error in errors}) == 3
    assert [error.file for error in errors] == [str(tmp_path / name) for name in contents]
    table = read_table(written(tmp_path, "data.tsv", "ham\tgo there now\nham\twell then\nspam\twin a prize\nham\tok you\n"))
    assert failure(infer_fields, table).row == 1


@pytest.mark.fault("D27")
@pytest.mark.parametrize(("delimiter", "shown"), [(";", "';'"), ("\t", "tab"), ("|", "'|'"), (",", None)])
def test_another_delimiter(tmp_path: Path, delimiter: str, shown: str | None) -> None:
    path = written(tmp_path, "a.csv", f'text{delimiter}label\n"good, but long"{delimiter}1\nbad{delimiter}0\n')
    table = read_table(path)
    assert table.columns == {"text": ["good, but long", "bad"], "label": ["1", "0"]}
    assert [shown in note for note in table.notes] == ([True] if shown else [])


@pytest.mark.fault("D28")
@pytest.mark.parametrize("line", ['{"text": "cut', "[1, 2]", "text", "[" * 100_000, '{"text": ' + "9" * 5000 + "}"])
def test_a_broken_line_of_json(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "fine"}\n' * 2000 + f"{line}\n")
    assert place(failure(read_table, path)) == (str(path), 2001, None)


@pytest.mark.fault("D29")
def test_records_that_change_their_shape(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n{"text": {"en": "c"}, "label": 0}\n')
    error = failure(read_table, path)
    assert place(error) == (str(path), 3, "text")
    assert "row 1" in error.message
    path = written(tmp_path, "b.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n{"text": "c", "label": 0}\n')
    assert place(failure(examples_of, path)) == (str(path), 2, "label")


@pytest.mark.fault("D30")
@pytest.mark.parametrize("damage", ["cut", "magic", "middle", "empty"])
def test_a_parquet_file_that_is_cut_or_is_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 100}), path)
    raw = path.read_bytes()
    assert len(read_table(path)) == 100
    changed = {"cut": raw[:-20], "magic": b"text" + raw[4:], "middle": raw[:-40] + b"\xff" * 32 + raw[-8:], "empty": b""}
    path.write_bytes(changed[damage])
    error = failure(read_table, path)
    assert error.file == str(path)
    assert "PAR1" in error.message or damage not in ("cut", "magic")


@pytest.mark.fault("D31")
@pytest.mark.parametrize("name", ["a.csv.gz", "a.gz", "a.zst", "a.csv.zip", "a.csv"])
def test_compressed_files_are_refused_before_they_are_opened(tmp_path: Path, name: str) -> None:
    bomb = gzip.compress(b"text,label\n" + b"a" * 50_000_000 + b",1\n", compresslevel=1)
    path = written(tmp_path, name, bomb[: len(bomb) // 2])
    started = time.perf_counter()
    assert failure(read_table, path).file == str(path)
    assert time.perf_counter() - started < 1.0


@pytest.mark.fault("D32")
def test_a_file_larger_than_memory_is_an_error_that_names_it(forks: Forks, tmp_path: Path) -> None:
    """A table is held in memory: there is no reader that streams."""
    line = b"a good film, and a long one at that;1\nso bad a film that I left;0\n"
    small, large = written(tmp_path, "small.csv", b"text;label\n" + line * 100), tmp_path / "large.csv"
    with large.open("wb") as file:
        file.write(b"text;label\n")
        for _ in range(120):
            file.write(line * 16_000)  # a megabyte
    assert forks.run("read_within", path=small, megabytes=60).code == 0
    ended = forks.run("read_within", path=large, megabytes=60)
    assert (ended.code, ended.error.get("type"), ended.error.get("file")) == (3, "DataError", str(large)), ended.output[-500:]


@pytest.mark.fault("D33")
def test_data_that_changed_between_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = reviews_csv(tmp_path / "a.csv", num_examples=120)
    killed_run(monkeypatch, tmp_path / "run", step=7, data={"train": str(path)})
    content = path.read_text()
    path.write_text(content.replace("no 5,", "no 5 indeed,"))
    with pytest.raises(CheckpointError) as error:
        train(tmp_path / "run", data={"train": str(path)})
    assert (error.value.code, error.value.column) == (4, "data")
    train(tmp_path / "run", data={"train": str(path), "allow_change": True})
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.fault("D34")
def test_data_that_are_replaced_during_training_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are read once, before the first step."""
    path = reviews_csv(tmp_path / "a.csv", num_examples=120)
    train(tmp_path / "quiet", data={"train": str(path)})
    monkeypatch.setattr(fit, "log", at_step(3, lambda: path.write_text(GOOD)))
    train(tmp_path / "run", data={"train": str(path)})
    assert path.read_text() == GOOD
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "quiet")


@pytest.mark.fault("D35")
def test_a_folder_that_is_listed_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny_reviews(num_examples=40).columns
    for index, (text, label) in enumerate(zip(rows["text"], rows["label"], strict=True)):
        (tmp_path / "films" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / label / f"{index}.txt").write_text(text)
    before = load_inputs(Data(train=str(tmp_path / "films"))).fingerprint
    listed = Path.iterdir
    random = np.random.default_rng(0)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(random.permutation(np.array(list(listed(path)), dtype=object)).tolist()))
    assert load_inputs(Data(train=str(tmp_path / "films"))).fingerprint == before
    (tmp_path / "films" / "pos" / "1.txt").write_text("another text")
    assert load_inputs(Data(train=str(tmp_path / "films"))).fingerprint != before


@pytest.mark.fault("D36")
def test_what_cannot_be_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "memory.csv").symlink_to("/proc/self/mem")  # reading it fails, even for root
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "loop.csv", "memory.csv", "device.csv", "folder.csv", "missing.csv", "x" * 300 + ".csv"):
        started = time.perf_counter()
        assert failure(read_table, tmp_path / name).file == str(tmp_path / name)
        assert time.perf_counter() - started < 1.0


@pytest.mark.fault("D37")
@pytest.mark.parametrize(("cell", "task"), [("a;;b", "auto"), ("b;", "auto"), ("['a' 'b']", "multi_label")])
def test_a_malformed_cell_of_several_labels(tmp_path: Path, cell: str, task: str) -> None:
    cells = ["a;b", "b", "b;a"] if ";" in cell else ["['a', 'b']", "['b']", "[]"]
    path = written(tmp_path, "a.tsv", "text\ttags\n" + "".join(f"text {i}\t{c}\n" for i, c in enumerate([*cells, cell])))
    error = failure(examples_of, path, task=task)
    assert place(error) == (str(path), 5, "tags")
    assert error.excerpt == cell


@pytest.mark.fault("D37")
def test_an_unknown_name_in_a_cell_of_several_labels(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "tags"), ("x", "a;b"), ("y", "b"), ("z", "a")])
    fields = infer_fields(read_table(tmp_path / "a.csv"))
    path = written(tmp_path, "b.csv", "text,tags\nx,a\ny,a;c\n")
    assert place(failure(read_examples, read_table(path), fields)) == (str(path), 3, "tags")
