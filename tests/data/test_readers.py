"""What a file says is what the table holds; what a file cannot say is an error with its place."""

import csv
import decimal
import json
import os
import time

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.readers import Table, hub_splits, read_hub, read_table


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def failure(source, **options):
    with pytest.raises(DataError) as caught:
        read_table(source, **options)
    assert caught.value.code == 3
    return caught.value


# CSV: cells


def test_cells_that_look_like_something_else_stay_text(tmp_path):
    cells = ["NA", "null", "None", "nan", "007", "1e5", "", "TRUE", " padded ", "=1+1"]
    table = read_table(written(tmp_path, "a.csv", "text,label\n" + "".join(f"{cell},1\n" for cell in cells)))
    assert table.columns == {"text": cells, "label": ["1"] * len(cells)}
    assert table.rows == list(range(2, 12))
    assert table.notes == ()
    assert table.name == str(tmp_path / "a.csv")


def test_emoji_right_to_left_and_combining_characters_survive_every_format(tmp_path):
    text = "👩‍👩‍👧 שלום e\u0301 \u202e \u2028 日本語"
    paths = [
        written(tmp_path, "a.csv", f"text,label\n{text},1\n"),
        written(tmp_path, "a.tsv", f"text\tlabel\n{text}\t1\n"),
        written(tmp_path, "a.txt", f"{text}\n"),
        written(tmp_path, "a.json", json.dumps([{"text": text}])),
        written(tmp_path, "a.jsonl", json.dumps({"text": text}, ensure_ascii=False)),
    ]
    pyarrow.parquet.write_table(pyarrow.table({"text": [text]}), tmp_path / "a.parquet")
    for path in [*paths, tmp_path / "a.parquet"]:
        assert read_table(path).columns["text"] == [text]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\ncafé,1\n"),
        ("a.jsonl", '{"text": "café", "label": "1"}\n'),
        ("a.json", '{"text": ["café"], "label": ["1"]}'),
    ],
)
def test_a_byte_order_mark_is_read_and_removed(tmp_path, name, content, encoding):
    table = read_table(written(tmp_path, name, content.encode(encoding)))
    assert table.columns == {"text": ["café"], "label": ["1"]}


def test_a_byte_order_mark_is_removed_from_plain_text(tmp_path):
    assert read_table(written(tmp_path, "a.txt", "café\n".encode("utf-8-sig"))).columns == {"text": ["café"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_in_an_editor_and_breaks_inside_cells_are_kept(tmp_path, end):
    content = end.join(["text,label", f'"one{end}two",1', "u\u2028v,0", '"a ""b"", c",1', ""])
    table = read_table(written(tmp_path, "a.csv", content))
    assert table.columns["text"] == [f"one{end}two", "u\u2028v", 'a "b", c']
    assert table.rows == [2, 4, 5]


def test_a_text_of_10_megabytes_is_legal_and_quick(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\n" + "word " * 2_000_000 + ",1\nshort,0\n")
    limit = csv.field_size_limit()
    start = time.monotonic()
    assert [len(text) for text in read_table(path).columns["text"]] == [10_000_000, 5]
    assert time.monotonic() - start < 2
    assert csv.field_size_limit() == limit


# CSV: delimiters


@pytest.mark.parametrize(("delimiter", "shown"), [(";", "';'"), ("\t", "tab"), ("|", "'|'")])
def test_another_delimiter_is_found_and_said(tmp_path, delimiter, shown):
    content = f"text{delimiter}label\ngood, but long{delimiter}1\nbad, and short{delimiter}0\n"
    table = read_table(written(tmp_path, "a.csv", content))
    assert table.columns == {"text": ["good, but long", "bad, and short"], "label": ["1", "0"]}
    assert len(table.notes) == 1
    assert shown in table.notes[0]


def test_a_delimiter_that_is_given_is_not_sniffed(tmp_path):
    path = written(tmp_path, "a.csv", "te,xt\tlab,el\na\tb\n")
    assert read_table(path, delimiter="\\t").columns == {"te,xt": ["a"], "lab,el": ["b"]}
    assert read_table(written(tmp_path, "b.csv", "a:b\n1:2\n"), delimiter=":").columns == {"a": ["1"], "b": ["2"]}


def test_delimiters_in_the_texts_do_not_mislead(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\na; b; c,1\nd; e; f,0\n")
    assert list(read_table(path).columns) == ["text", "label"]


@pytest.mark.parametrize("delimiter", ["", "ab", '"', "\n"])
def test_a_delimiter_that_is_none_is_a_setting_error(tmp_path, delimiter):
    with pytest.raises(ConfigError):
        read_table(written(tmp_path, "a.csv", "text,label\na,1\n"), delimiter=delimiter)


def test_a_delimiter_for_another_format_is_a_setting_error(tmp_path):
    for source in (written(tmp_path, "a.jsonl", '{"a": 1}'), tmp_path, [{"a": 1}]):
        with pytest.raises(ConfigError):
            read_table(source, delimiter=";")


def test_quotes_in_an_unquoted_tsv_are_characters(tmp_path):
    content = 'text\tlabel\n"Hi," he said\t1\n"never closed\t0\nlast"\t1\n'
    table = read_table(written(tmp_path, "a.tsv", content))
    assert table.columns["text"] == ['"Hi," he said', '"never closed', 'last"']
    assert table.rows == [2, 3, 4]
    assert any("quot" in note for note in table.notes)


def test_quotes_in_a_quoted_tsv_are_quotes(tmp_path):
    table = read_table(written(tmp_path, "a.tsv", 'text\tlabel\n"one\ntwo\tthree"\t1\n"so"\t0\n'))
    assert table.columns["text"] == ["one\ntwo\tthree", "so"]
    error = failure(written(tmp_path, "b.tsv", 'text\tlabel\n"said ""no"""\t1\n"never closed\t0\nlast\t1\n'))
    assert error.row == 3


# CSV: what is wrong, and where


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('text,label\ngood,1\n"bad,0\nend,1\n', 3),
        ('text,label\n"a\nb",1\n"bad,0\n\nend,1\n', 4),
        ('text,label\n"two\nlines","never closed\nend,1\n', 3),
        ('text,label\n"bad,0\nfine,1\nsaid "no",1\n', 2),
        ('text,label\n"bad,0\nfine,1\n"good",1\n', 2),
        ('text,label\r\ngood,1\r\n"he said "hi" there",1\r\n', 3),
        ('text,label\rgood,1\r"bad,0', 3),
        ('"text,label\ngood,1\n', 1),
    ],
)
def test_a_quote_that_is_not_closed_is_told_where_it_opened(tmp_path, content, row):
    error = failure(written(tmp_path, "a.csv", content))
    assert (error.file, error.row) == (str(tmp_path / "a.csv"), row)


@pytest.mark.parametrize(
    ("content", "row", "seen"),
    [
        ("text,label\ngood,1\nwell, then,1\n", 3, "3"),
        ('text,label\n"a\nb",1\nshort\n', 4, "1"),
        ("text,label\n\n\nshort\n", 4, "1"),
    ],
)
def test_too_many_or_too_few_cells_are_counted(tmp_path, content, row, seen):
    error = failure(written(tmp_path, "a.csv", content))
    assert (error.file, error.row) == (str(tmp_path / "a.csv"), row)
    assert "2" in error.message
    assert seen in error.message


def test_a_double_name_in_the_header_is_an_error(tmp_path):
    error = failure(written(tmp_path, "a.csv", "text,label, text\na,1,b\n"))
    assert (error.row, error.column) == (1, "text")


def test_no_header_only_a_header_and_an_empty_file_are_three_errors(tmp_path):
    contents = ["\ngood,1\n", "text,\ngood,1\n", ",label\ngood,1\n", "text,label\n", "text,label\n\n", "", " \n\n"]
    errors = [failure(written(tmp_path, "a.csv", content)) for content in contents]
    missing, only, empty = errors[:3], errors[3:5], errors[5:]
    messages = [{error.message for error in group} for group in (missing, only, empty)]
    assert [len(group) for group in messages] == [1, 1, 1]
    assert len(set.union(*messages)) == 3
    assert all(error.file == str(tmp_path / "a.csv") for error in errors)


def test_row_numbers_that_pandas_wrote_are_left_out_and_said(tmp_path):
    pandas.DataFrame({"text": ["a", "b"], "label": [1, 0]}).to_csv(tmp_path / "a.csv")
    table = read_table(tmp_path / "a.csv")
    assert table.columns == {"text": ["a", "b"], "label": ["1", "0"]}
    assert len(table.notes) == 1


def test_blank_lines_between_records_are_said(tmp_path):
    table = read_table(written(tmp_path, "a.csv", "text,label\na,1\n\nb,0\n"))
    assert (table.rows, len(table.notes)) == ([2, 4], 1)


@pytest.mark.parametrize(("first", "delimiter"), [("sep=;", ";"), ('"sep=|"', "|"), ("SEP=\t", "\t"), ("sep=:", ":")])
def test_the_line_that_tells_excel_the_delimiter_is_no_header(tmp_path, first, delimiter):
    content = "\r\n".join([first, f"text{delimiter}label", f'"a, b"{delimiter}1', f"b{delimiter}0", ""])
    table = read_table(written(tmp_path, "a.csv", content))
    assert (table.columns, table.rows) == ({"text": ["a, b", "b"], "label": ["1", "0"]}, [3, 4])
    assert len(table.notes) == 1
    assert failure(written(tmp_path, "a.csv", f"{first}\n")).message == failure(written(tmp_path, "b.csv", "")).message
    assert failure(written(tmp_path, "a.csv", f"{first}\ntext{delimiter}text\na{delimiter}b\n")).row == 2


@pytest.mark.parametrize("header", ["text;label;;", "text;label"])
def test_empty_columns_without_a_name_at_the_end_are_left_out_and_said(tmp_path, header):
    table = read_table(written(tmp_path, "a.csv", f"{header}\na;1;;\n\nb;0;;\n"))
    assert (table.columns, table.rows) == ({"text": ["a", "b"], "label": ["1", "0"]}, [2, 4])
    assert any("columns without a name" in note and note.endswith(" 2") for note in table.notes)


@pytest.mark.parametrize("content", ["text,label,\na,1,\nb,0,c\n", "text,label\na,1,\nb,0\n", "text,,label\na,,1\n"])
def test_a_column_without_a_name_that_holds_something_or_is_not_at_every_end_is_an_error(tmp_path, content):
    failure(written(tmp_path, "a.csv", content))


def test_another_delimiter_than_the_known_ones_is_hinted_at(tmp_path):
    assert "'delimiter'" in failure(written(tmp_path, "a.csv", "text^label\ngood, but long^1\n")).hint
    assert "'delimiter'" not in failure(written(tmp_path, "a.csv", "text,label\ngood, but long,1\n")).hint
    assert "space" in failure(written(tmp_path, "a.csv", 'label, text\n1, "good, but long"\n')).hint


# Bytes


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl", "a.json"])
def test_bytes_that_are_not_utf8_are_told_with_line_and_offset(tmp_path, name):
    raw = b'{"text": "ok"}\r\n{"text": "un caf\xe9 noir"}\n'
    error = failure(written(tmp_path, name, raw))
    assert (error.file, error.row) == (str(tmp_path / name), 2)
    assert f"byte {raw.index(0xE9)} " in error.message
    assert "cp1252" in error.hint


def test_the_offset_counts_from_the_start_of_the_file(tmp_path):
    raw = b"\xef\xbb\xbftext,label\ncaf\xe9,1\n"
    error = failure(written(tmp_path, "a.csv", raw))
    assert (error.row, f"byte {raw.index(0xE9)} " in error.message) == (2, True)


def test_the_encoding_of_another_script_is_among_the_two_likely_ones(tmp_path):
    russian = "text,label\nЭто очень хороший фильм,1\n"
    japanese = "text,label\nとても良い映画でした,1\n"
    assert "cp1251" in failure(written(tmp_path, "a.csv", russian.encode("cp1251"))).hint
    assert "shift_jis" in failure(written(tmp_path, "b.csv", japanese.encode("shift_jis"))).hint


def test_a_cut_utf16_file_is_an_error(tmp_path):
    assert failure(written(tmp_path, "a.csv", "text,label\na,1\n".encode("utf-16")[:-1])).row is not None


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl", "a.json"])
def test_a_nul_byte_is_told_with_its_line(tmp_path, name):
    error = failure(written(tmp_path, name, b"text,label\nfine,1\nhalf\x00way,0\n"))
    assert (error.file, error.row) == (str(tmp_path / name), 3)


def test_utf16_without_a_mark_is_recognised(tmp_path):
    error = failure(written(tmp_path, "a.csv", "text,label\na,1\n".encode("utf-16-le")))
    assert "UTF-16" in error.hint


# JSON


def test_json_values_keep_their_types(tmp_path):
    lines = '{"a": 1, "b": "007", "c": [1], "d": null, "e": true}\n{"a": 2.5, "b": "NA"}\n'
    assert read_table(written(tmp_path, "a.jsonl", lines)).columns == {
        "a": [1, 2.5],
        "b": ["007", "NA"],
        "c": [[1], None],
        "d": [None, None],
        "e": [True, None],
    }


def test_json_lines_count_as_in_an_editor(tmp_path):
    lines = '{"text": "u\u2028v"}\r\n\r\n{"text": "w\x85"}\r\n'
    table = read_table(written(tmp_path, "a.ndjson", lines))
    assert (table.columns["text"], table.rows, len(table.notes)) == (["u\u2028v", "w\x85"], [1, 3], 1)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "cut',
        "[1, 2]",
        '"text"',
        "text",
        '{"text": "a", "text": "b"}',
        '{"text": "\\ud83d"}',
        '{"text": ["fine", "\\ude00"]}',
        "[" * 100_000,
        '{"text": ' + "9" * 5_000 + "}",
        '{"text": {"en": "now an object"}}',
    ],
)
def test_a_broken_json_line_is_told_with_its_line(tmp_path, line):
    error = failure(written(tmp_path, "a.jsonl", f'{{"text": "fine"}}\n\n{line}\n'))
    assert (error.file, error.row) == (str(tmp_path / "a.jsonl"), 3)


def test_a_change_of_shape_names_the_column_and_both_lines(tmp_path):
    error = failure(written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": null}\n{"text": {"en": "b"}}\n'))
    assert (error.row, error.column) == (3, "text")
    assert "row 1" in error.message


def test_whole_surrogate_pairs_are_characters(tmp_path):
    assert read_table(written(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}')).columns["text"] == ["😀"]


@pytest.mark.parametrize(
    ("content", "num_notes"),
    [
        ('[{"text": "a", "label": 1}, {"text": "b"}]', 0),
        ('{"data": [{"text": "a", "label": 1}, {"text": "b"}]}', 0),
        ('{"version": 2, "data": [{"text": "a", "label": 1}, {"text": "b"}]}', 1),
        ('{"text": ["a", "b"], "label": [1, null]}', 0),
        ('{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": null}}', 0),
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', 1),
        ('{"rows": [{"text": "a", "label": 1}, {"text": "b"}]}', 0),
        ('{"meta": {"lang": "en"}, "examples": [{"text": "a", "label": 1}, {"text": "b"}]}', 1),
    ],
)
def test_json_comes_in_several_forms(tmp_path, content, num_notes):
    table = read_table(written(tmp_path, "a.json", content))
    assert table.columns == {"text": ["a", "b"], "label": [1, None]}
    assert (table.rows, len(table.notes)) == ([1, 2], num_notes)


def test_json_keyed_by_record_is_told_from_json_keyed_by_column(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [1, 0, 1]})
    expected = {"text": ["a", "b", "c"], "label": [1, 0, 1]}
    for index in (range(3), ["x", "y", "z"]):
        path = written(tmp_path, "a.json", frame.set_index(pandas.Index(index)).to_json(orient="index"))
        assert read_table(path).columns == expected
        assert len(read_table(path).notes) == 1
    assert read_table(written(tmp_path, "b.json", frame.to_json())).columns == expected
    wide = frame.assign(a=1, b=2, c=3)
    assert list(read_table(written(tmp_path, "c.json", wide.to_json())).columns) == list(wide)


def test_a_column_of_objects_beside_others_is_a_column(tmp_path):
    content = '{"text": ["a", "b"], "meta": [{"id": 1}, {"id": 2}]}'
    assert read_table(written(tmp_path, "a.json", content)).columns["text"] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('[{"text": "a"},\n {"text": }]', 2),
        ('[{"text": "a"}, 7]', 2),
        ('[{"text": "a"}, {"text": "\\ud83d"}]', 2),
        ('{"text": ["a", "b"], "label": [1]}', None),
        ('{"train": [{"text": "a"}], "test": [{"text": "a"}]}', None),
        ('{"text": "a"}', None),
        ("7", None),
        ("[]", None),
        ('{"text": []}', None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_json_in_no_form_is_an_error(tmp_path, content, row):
    error = failure(written(tmp_path, "a.json", content))
    assert (error.file, error.row) == (str(tmp_path / "a.json"), row)


# Parquet


def test_parquet_keeps_types_and_takes_class_names_from_its_metadata(tmp_path):
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [["x"], [], None]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    read = read_table(tmp_path / "a.parquet")
    assert read.columns == {"text": ["a", "b", "c"], "label": ["pos", "neg", None], "tags": [["x"], [], None]}
    assert (read.rows, len(read.notes)) == ([1, 2, 3], 1)


def test_decimals_are_numbers_that_keep_their_digits(tmp_path):
    values = [decimal.Decimal("0.10"), None, decimal.Decimal("12345678901234567890.25")]
    pyarrow.parquet.write_table(pyarrow.table({"price": pyarrow.array(values, pyarrow.decimal128(30, 2))}), tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", pandas.DataFrame({"price": values})):
        price = read_table(source).columns["price"]
        assert price == [0.1, None, 12345678901234567890.25]
        assert (price[0].spelled, price[2].spelled) == ("0.10", "12345678901234567890.25")


@pytest.mark.parametrize("damage", ["cut", "magic", "middle", "empty", "tiny"])
def test_a_damaged_parquet_file_is_told(tmp_path, damage):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 100}), path)
    raw = path.read_bytes()
    damaged = {
        "cut": raw[:-20],
        "magic": b"text" + raw[4:],
        "middle": raw[:-40] + b"\xff" * 32 + raw[-8:],
        "empty": b"",
        "tiny": b"PAR1",
    }
    path.write_bytes(damaged[damage])
    error = failure(path)
    assert error.file == str(path)
    if damage in ("cut", "magic"):
        assert "PAR1" in error.message
        assert repr(damaged[damage][:4] if damage == "magic" else damaged[damage][-4:]) in error.message


def test_parquet_with_a_double_name_or_without_records_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"]), path)
    assert failure(path).column == "a"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], "string")}), path)
    assert failure(path).file == str(path)


# Texts and folders


def test_a_text_file_has_one_text_a_line(tmp_path):
    table = read_table(written(tmp_path, "a.txt", "one, two\n\nthree\u2028four"), text_column="sentence")
    assert table.columns == {"sentence": ["one, two", "", "three\u2028four"]}
    assert table.rows == [1, 2, 3]


def folder_of_texts(root):
    for label, name in [("pos", "10"), ("neg", "2"), ("pos", "9"), ("neg", "1")]:
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{name}.txt").write_text(f"{label} {name}\nend\n")
    return root


def test_a_folder_has_one_sub_folder_for_each_label(tmp_path):
    table = read_table(str(folder_of_texts(tmp_path / "films")))
    assert table.columns == {
        "text": ["neg 1\nend", "neg 2\nend", "pos 10\nend", "pos 9\nend"],
        "label": ["neg", "neg", "pos", "pos"],
    }
    assert table.files == ["films/neg/1.txt", "films/neg/2.txt", "films/pos/10.txt", "films/pos/9.txt"]
    assert table.rows == [1, 1, 1, 1]
    assert table.notes == ()


def test_the_order_of_a_folder_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    root = folder_of_texts(tmp_path / "films")
    expected = read_table(root)
    listed = type(root).iterdir
    monkeypatch.setattr(type(root), "iterdir", lambda path: iter(sorted(listed(path), reverse=True)))
    assert read_table(root) == expected


def test_what_a_folder_holds_besides_is_said(tmp_path):
    root = folder_of_texts(tmp_path / "films")
    (root / "README.txt").write_text("about")
    (root / "unused").mkdir()
    (root / ".hidden").write_text("x")
    table = read_table(root)
    assert len(table) == 4
    assert "2" in table.notes[0]


def test_a_folder_of_one_level_has_texts_only(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert read_table(tmp_path).columns == {"text": ["a", "b"]}


def test_a_folder_without_texts_is_an_error_that_says_what_it_holds(tmp_path):
    written(tmp_path, "train.csv", "text,label\n")
    error = failure(tmp_path)
    assert error.file == str(tmp_path)
    assert "train.csv" in error.hint


def test_a_folder_of_folders_of_labels_says_to_go_one_level_down(tmp_path):
    folder_of_texts(tmp_path / "films" / "train")
    folder_of_texts(tmp_path / "films" / "test")
    assert str(tmp_path / "films" / "test") in failure(tmp_path / "films").hint


# What cannot be opened


def test_a_missing_file_names_the_nearest(tmp_path):
    written(tmp_path, "reviews.csv", "text,label\n")
    error = failure(tmp_path / "review.csv")
    assert error.file == str(tmp_path / "review.csv")
    assert "'reviews.csv'" in error.hint.split("?")[0]
    assert failure(tmp_path / "nowhere" / "a.csv").file == str(tmp_path / "nowhere" / "a.csv")


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv.gz", "a"])
def test_an_unknown_suffix_lists_the_known(tmp_path, name):
    error = failure(written(tmp_path, name, "x"))
    assert ".parquet" in error.hint


def test_what_is_no_path_is_not_taken_for_one(tmp_path, monkeypatch):
    folder_of_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "empty" in failure("").message
    assert len(read_table(".")) == 4
    assert "download" in failure("https://example.org/a.csv").hint


def test_a_pipe_a_loop_and_an_unreadable_file_are_errors_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "memory.csv").symlink_to("/proc/self/mem")  # a regular file whose reading fails, even for root
    for name in ("pipe.csv", "loop.csv", "memory.csv", "a" * 300 + ".csv", "a\x00.csv", "pipe.csv/a.csv"):
        assert failure(tmp_path / name).file == str(tmp_path / name)


def test_a_pipe_or_a_loop_inside_a_folder_is_an_error_with_its_path(tmp_path):
    root = folder_of_texts(tmp_path / "films")
    os.mkfifo(root / "neg" / "pipe.txt")
    assert failure(root).file == str(root / "neg" / "pipe.txt")
    (root / "neg" / "pipe.txt").unlink()
    (root / "neg" / "loop.txt").symlink_to("loop.txt")
    assert failure(root).file == str(root / "neg" / "loop.txt")
    (root / "neg" / "loop.txt").unlink()
    (root / "neg" / "again").symlink_to(root)
    assert len(read_table(root)) == 4


# Python objects


def test_frames_lists_and_dicts_say_the_same():
    records = [{"text": "a", "label": 1}, {"text": "b", "label": None}]
    tables = [
        read_table(records),
        read_table({"text": ["a", "b"], "label": [1, None]}),
        read_table(pandas.DataFrame({"text": ["a", "b"], "label": pandas.array([1, None], dtype="Int64")}, index=[7, 7])),
    ]
    assert [table.name for table in tables] == ["list", "dict", "DataFrame"]
    for table in tables:
        assert table.columns == {"text": ["a", "b"], "label": [1, None]}
        assert table.rows == [1, 2]


def test_missing_values_of_a_frame_are_none_and_scalars_are_plain():
    frame = pandas.DataFrame(
        {
            "text": ["a", None],
            "score": [0.5, float("nan")],
            "day": [pandas.Timestamp("2020-01-01"), pandas.NaT],
            "kind": pandas.Categorical(["x", None]),
        }
    )
    columns = read_table(frame).columns
    assert [values[1] for values in columns.values()] == [None] * 4
    assert (type(columns["score"][0]), columns["kind"][0]) == (float, "x")


@pytest.mark.parametrize(
    "source",
    [
        [],
        {},
        {"text": []},
        {"text": ["a"], "label": [1, 2]},
        {"text": "a"},
        [1, 2],
        [("good", 1), ("bad", 0)],
        ["good", "bad"],
        7,
        pandas.DataFrame({"text": []}),
        pandas.DataFrame([[1, 2]], columns=["a", "a"]),
    ],
)
def test_python_objects_that_are_no_table_are_errors(source):
    failure(source)


def test_records_with_numpy_and_pandas_scalars_are_plain():
    records = [
        {"text": np.str_("a"), "label": np.int64(1), "tags": [np.int64(2)], "sure": np.bool_(True)},
        {"text": "b", "label": pandas.NA, "tags": (), "sure": float("nan")},
    ]
    table = read_table(records)
    assert table.columns == {"text": ["a", "b"], "label": [1, None], "tags": [[2], []], "sure": [True, None]}
    assert [type(values[0]) for values in table.columns.values()] == [str, int, list, bool]


def test_a_record_that_is_no_dict_is_not_called_json():
    error = failure([("good", 1), ("bad", 0)])
    assert error.row == 1
    assert "JSON" not in str(error)
    assert "dict" in error.hint


def test_a_data_set_in_memory_comes_with_class_names_and_its_splits_one_by_one():
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert read_table(dataset).columns == {"text": ["a", "b"], "label": ["pos", "neg"]}
    error = failure(datasets.DatasetDict({"train": dataset, "test": dataset}))
    assert (error.file, "data['train']" in error.hint) == ("DatasetDict", True)
    assert read_table({"text": dataset["text"], "label": dataset["label"]}).columns == {"text": ["a", "b"], "label": [1, 0]}


# The hub


def test_the_hub_without_network_fails_quickly(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    start = time.monotonic()
    for ask in (lambda: read_hub("no/such-data", split="train"), lambda: hub_splits("no/such-data")):
        with pytest.raises(DataError) as caught:
            ask()
        assert (caught.value.code, caught.value.file, caught.value.hint) == (3, "no/such-data", "give a local file")
        assert caught.value.message.startswith("no network")
    assert time.monotonic() - start < 2


def test_a_data_set_of_the_hub_comes_with_class_names(monkeypatch):
    import datasets

    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "tags": datasets.List(datasets.ClassLabel(names=["x", "y"])),
        }
    )
    content = {"sentence": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []]}
    asked = []

    def load_dataset(path, config, *, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_dict(content, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_hub("glue:sst2", split="train")
    assert asked == [("glue", "sst2", "train")]
    assert table.columns == {"sentence": ["a", "b"], "label": ["pos", None], "tags": [["x", "y"], []]}
    assert (table.name, table.rows) == ("glue:sst2[train]", [1, 2])


def test_a_data_set_that_the_hub_does_not_give_is_an_error(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("Unknown split 'dev'. Should be one of ['train'].")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError) as caught:
        read_hub("imdb", split="dev")
    assert caught.value.file == "imdb"
    assert "dev" in caught.value.message


def test_errors_carry_no_terminal_commands(tmp_path):
    error = failure(written(tmp_path, "a.csv", "text,label\n\x1b[2Jx,1,2\n"))
    assert "\x1b" not in str(error)


def test_reading_25_000_long_reviews_takes_seconds(tmp_path):
    review = "a good film, " * 100
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"{i} {review}", i % 2) for i in range(25_000))])
    start = time.monotonic()
    assert len(read_table(path)) == 25_000
    assert time.monotonic() - start < 5


def test_a_table_counts_its_records():
    assert len(Table("list", {"text": ["a", "b"]}, [1, 2])) == 2
