"""Columns and labels are found, said, and never silently changed; what cannot be a label is an error with its place."""

import time

import numpy as np
import pandas
import pytest

from nlpbp.core.errors import ConfigError, DataError
from nlpbp.data.columns import Fields, empty_texts, infer_fields, read_examples
from nlpbp.data.readers import read_table

LONG = ["a quite long text number one", "another long text number two", "text number three", "the fourth long text"]


def csv_table(tmp_path, content, name="train.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode())
    return read_table(path)


def labelled(values, **columns):
    """A table with a text for each label."""
    return read_table([{"text": f"text {i}", "label": value} for i, value in enumerate(values)])


def cells(tmp_path, values, header="label"):
    """A CSV with a text for each label cell; record i stands in line i + 2."""
    return csv_table(tmp_path, f"text\t{header}\n" + "".join(f"text {i}\t{value}\n" for i, value in enumerate(values)), "a.tsv")


def failure(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert caught.value.code == 3
    return caught.value


# Which columns


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ({"text": LONG, "label": "abab"}, ["text"], "label"),
        ({"Label": "abab", "Sentence": LONG}, ["Sentence"], "Label"),
        ({"id": [5, 1, 9, 2], "Review Text": LONG, "Rating": [1, 2, 1, 2]}, ["Review Text"], "Rating"),
        ({"title": "wxyz", "body": LONG, "category": "abab"}, ["body"], "category"),
        ({"tweet_id": "5192", "airline_sentiment": "abab", "clean_text": LONG}, ["clean_text"], "airline_sentiment"),
        ({"sentence1": LONG, "sentence2": LONG[::-1], "label": [0, 1, 0, 1]}, ["sentence1", "sentence2"], "label"),
        ({"Hypothesis": LONG, "premise": LONG[:1] * 4, "gold_label": "abab"}, ["premise", "Hypothesis"], "gold_label"),
        ({"qid1": "5978", "question1": LONG, "question2": LONG, "is_dup": "0110"}, ["question1", "question2"], "is_dup"),
        ({"question": LONG, "passage": LONG, "answer": [True, False] * 2}, ["question", "passage"], "answer"),
        ({"question": LONG, "answer": ["yes", "no"] * 2}, ["question"], "answer"),
        ({"address": [f"http://a.example/quite/a/long/one/{i}" for i in range(4)], "w": LONG, "m": "abab"}, ["w"], "m"),
        ({"k": "abab", "b": LONG, "c": [0.25, 3.5, 1.0, 2.0]}, ["b"], "k"),
        ({"n": [1, 2, 3, 4], "b": LONG, "c": [0.25, 3.5, 1.0, 2.0]}, ["b"], "c"),
        ({"内容": ["这部电影很好看", "不好看的电影", "一般般吧我", "很喜欢这个"], "类": "好坏坏好"}, ["内容"], "类"),
        ({"text": LONG, "label": "abab", "label_text": "cdcd"}, ["text"], "label"),
        ({"#1 ID": "5978", "#1 String": LONG, "#2 String": LONG, "Quality": "0110"}, ["#1 String", "#2 String"], "Quality"),
        ({"created": ["2020-01-01", "2020-01-02"] * 2, "headline": LONG, "sarcastic": [1, 0, 0, 1]}, ["headline"], "sarcastic"),
        ({"day_seen": ["1/2/2020 08:15"] * 2 + ["3/2/2020 09:00"] * 2, "w": LONG, "m": "0110"}, ["w"], "m"),
        ({"lang": ["en", "de"] * 2, "text": LONG, "toxic": [1, 0, 0, 1]}, ["text"], "toxic"),
        ({"Text": LONG, "Language": ["en", "de"] * 2}, ["Text"], "Language"),
        ({"0": LONG, "1": [0, 1, 0, 1]}, ["0"], "1"),
    ],
)
def test_columns_are_found_by_name_and_then_by_content(columns, text, label):
    fields = infer_fields(read_table({name: list(values) for name, values in columns.items()}))
    assert (list(fields.text), fields.label) == (text, label)
    assert any(repr(label) in note for note in fields.notes)
    assert all(any(repr(name) in note for note in fields.notes) for name in text)


def test_columns_that_are_given_are_not_guessed():
    table = read_table({"text": LONG, "label": list("abab"), "note": LONG[::-1], "stars": list("1212")})
    fields = infer_fields(table, text=("note",), label="stars")
    assert (fields.text, fields.label, fields.labels) == (("note",), "stars", ("1", "2"))
    assert infer_fields(table, text="note").text == ("note",)
    assert infer_fields(table, text=["note", "text"]).text == ("note", "text")


@pytest.mark.parametrize(
    ("given", "column", "near"),
    [({"text": ["tex"]}, "tex", "text"), ({"label": "lable"}, "lable", "label"), ({"text": ["text", "Text"]}, "Text", "text")],
)
def test_a_given_column_that_is_not_there_names_the_nearest(given, column, near):
    error = failure(infer_fields, labelled("ab"), **given)
    assert (error.file, error.column) == ("list", column)
    assert f"'{near}'" in error.hint.split("?")[0]
    assert "'label', 'text'" in error.hint


@pytest.mark.parametrize("text", [["a", "b", "c"], ["a", "a"], ["label"]])
def test_text_is_one_or_two_columns_and_not_the_label(text):
    table = read_table([{"a": "x", "b": "y", "c": "z", "label": 1}, {"a": "x", "b": "y", "c": "z", "label": 0}])
    with pytest.raises(ConfigError):
        infer_fields(table, text=text, label="label")


def test_tables_without_a_text_or_a_label_list_their_columns():
    for table in (read_table({"number": [1.5, 2.5], "label": [0, 1]}), read_table({"text": LONG, "other": LONG[::-1]})):
        error = failure(infer_fields, table)
        assert error.file == "dict"
        assert all(repr(name) in error.hint for name in table.columns)


def test_texts_inside_objects_are_hinted_at():
    error = failure(infer_fields, read_table([{"data": {"text": "good"}, "label": 1}, {"data": {"text": "bad"}, "label": 0}]))
    assert "objects" in error.hint
    assert error.hint.endswith("'data'")


def test_columns_that_could_both_be_the_label_are_an_error_that_names_them():
    error = failure(infer_fields, read_table({"text": LONG, "toxic": [0, 1, 1, 0], "threat": [1, 0, 1, 0]}))
    assert error.excerpt == "threat, toxic"


def test_names_and_zeros_and_ones_could_both_be_the_label():
    error = failure(infer_fields, read_table({"text": LONG, "toxic": [0, 1, 1, 0], "mood": list("abab")}))
    assert error.excerpt == "mood, toxic"


def test_other_columns_of_text_are_said():
    table = read_table({"id": list("5978"), "one": LONG, "two": [*LONG[1:], "short"], "title": list("wxyz"), "label": list("abab")})
    notes = [note for note in infer_fields(table, label="label").notes if note.startswith("not used")]
    assert notes == ["not used, though they may hold text too: 'one', 'two'"]
    assert not [note for note in infer_fields(table, text="one").notes if "hold text" in note]


def test_a_file_without_a_header_is_noticed(tmp_path):
    error = failure(
        infer_fields, csv_table(tmp_path, "ham\tgo there now\nham\twell then\nspam\twin a prize\nham\tok you\n", "a.tsv")
    )
    assert (error.file, error.row, error.column) == (str(tmp_path / "a.tsv"), 1, "ham")


def test_a_text_as_the_name_of_a_column_is_noticed(tmp_path):
    lines = [f"1,{text} and it goes on and on like this\n" for text in LONG]
    error = failure(infer_fields, csv_table(tmp_path, "".join(lines)), require_label=False)
    assert (error.file, error.row) == (str(tmp_path / "train.csv"), 1)
    assert error.column == lines[0][2:-1]
    assert infer_fields(csv_table(tmp_path, "".join(lines)), text=error.column, require_label=False).text == (error.column,)
    assert infer_fields(csv_table(tmp_path, "".join(["n,words\n", *lines])), require_label=False).text == ("words",)


def test_prediction_needs_no_label():
    fields = infer_fields(read_table({"text": LONG, "other": list("abab")}), require_label=False)
    assert (fields.label, fields.labels, fields.task) == (None, (), "single_label")
    fields = infer_fields(labelled([None, None]), require_label=False)
    assert fields.label is None
    fields = infer_fields(labelled([1, "one", "one"]), require_label=False)
    assert fields.label is None
    assert any("label" in note for note in fields.notes)
    assert infer_fields(labelled(["a", None, "b"]), require_label=False).labels == ("a", "b")
    assert infer_fields(labelled(["a", "a"]), require_label=False).labels == ("a",)


# Which task


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        (["pos", "neg", "pos"], "single_label", ("neg", "pos")),
        ([1, 0, 10, 9], "single_label", ("0", "1", "9", "10")),
        ([-1, 1], "single_label", ("-1", "1")),
        ([True, False], "single_label", ("false", "true")),
        ([1.0, 2.0, 5.0], "single_label", ("1", "2", "5")),
        ([0.5, 2.0], "regression", ()),
        (list(range(20)), "regression", ()),
        (list(range(20)) * 2, "single_label", tuple(map(str, range(20)))),
        ([["a", "b"], [], ["b"]], "multi_label", ("a", "b")),
        ([[2, 10], [1]], "multi_label", ("1", "2", "10")),
    ],
)
def test_typed_labels_tell_their_task(values, task, labels):
    fields = infer_fields(labelled(values))
    assert (fields.task, fields.labels, fields.separator) == (task, labels, None)


@pytest.mark.parametrize(
    ("values", "task", "labels", "separator"),
    [
        (["1", "10", "9"], "single_label", ("1", "9", "10"), None),
        (["01", "1", "1"], "single_label", ("01", "1"), None),
        (["1.0", "2.0"], "single_label", ("1.0", "2.0"), None),
        (["3.5", "4", "1e2"], "regression", (), None),
        ([str(i * 3) for i in range(30)], "regression", (), None),
        (["True", "False"], "single_label", ("False", "True"), None),
        (["NA", "nan", "None"], "single_label", ("NA", "None", "nan"), None),
        (["war|love", "love", "war", ""], "multi_label", ("love", "war"), "|"),
        (["war; love", "love", "war"], "multi_label", ("love", "war"), ";"),
        (["war,love", "love", "war"], "multi_label", ("love", "war"), ","),
        (["2;3", "3", "10;2"], "multi_label", ("2", "3", "10"), ";"),
        (["['a', 'b c']", "[]", '["a"]'], "multi_label", ("a", "b c"), None),
        (["('a', 'b c')", "()", "('a',)"], "multi_label", ("a", "b c"), None),
        (["{'a', 'b c'}", "set()", "{'a'}"], "multi_label", ("a", "b c"), None),
        (["{a,b}", "{}", "{a}"], "multi_label", ("a", "b"), None),
        ([r'["caf\u00e9"]', "[]", "[1]"], "multi_label", ("1", "café"), None),
        (["(a)", "(b)", "(a)"], "single_label", ("(a)", "(b)"), None),
        (["Sci, Tech", "Sci, Tech", "World"], "single_label", ("Sci, Tech", "World"), None),
        (["N/A; see the notes, and then the other notes", "no"], "single_label", None, None),
    ],
)
def test_label_cells_tell_their_task(tmp_path, values, task, labels, separator):
    fields = infer_fields(cells(tmp_path, values))
    assert (fields.task, fields.separator) == (task, separator)
    assert labels is None or fields.labels == labels


def test_a_plural_name_makes_rare_combinations_multi_label(tmp_path):
    fields = infer_fields(cells(tmp_path, ["a|b", "c"], header="tags"))
    assert (fields.task, fields.labels) == ("multi_label", ("a", "b", "c"))
    assert infer_fields(cells(tmp_path, ["a", "c"], header="tags")).task == "single_label"


def test_a_given_task_is_taken(tmp_path):
    assert infer_fields(cells(tmp_path, ["1", "2", "3"]), task="regression").task == "regression"
    assert infer_fields(cells(tmp_path, ["0.5", "1.5"]), task="single_label").labels == ("0.5", "1.5")
    assert infer_fields(cells(tmp_path, ["1", "other"]), task="single_label").labels == ("1", "other")
    assert infer_fields(cells(tmp_path, ["a|b", "c"]), task="single_label").labels == ("a|b", "c")
    fields = infer_fields(cells(tmp_path, ["a|b", "c"]), task="multi_label")
    assert (fields.labels, fields.separator) == (("a", "b", "c"), "|")
    assert infer_fields(labelled([1, 2]), task="multi_label").labels == ("1", "2")


def test_a_task_that_does_not_exist_is_a_setting_error():
    with pytest.raises(ConfigError):
        infer_fields(labelled("ab"), task="regresion")


def test_ratings_are_classes_and_the_note_names_the_other_way():
    fields = infer_fields(read_table({"review": LONG, "stars": [1, 3, 5, 3]}))
    assert (fields.task, fields.labels) == ("single_label", ("1", "3", "5"))
    assert any("regression" in note for note in fields.notes)


def test_missing_numbers_of_a_frame_do_not_turn_classes_into_amounts():
    table = read_table(pandas.DataFrame({"text": ["a", "b", "c"], "label": [1, None, 0]}))
    assert infer_fields(table, require_label=False).labels == ("0", "1")


# Labels that are none


@pytest.mark.parametrize(
    ("values", "first", "second"),
    [
        ([1, "positive"], 1, 2),
        (["a", "b", True], 1, 3),
        ([1, 2, True], 1, 3),
        (["a", "b", {"c": 1}], None, 3),
        ([1, b"x"], None, 2),
    ],
)
def test_labels_of_mixed_types_name_both_rows(values, first, second):
    table = read_table({"text": LONG[: len(values)], "label": values})
    error = failure(infer_fields, table)
    assert (error.file, error.row, error.column) == ("dict", second, "label")
    assert first is None or f"row {first} " in error.message


def test_label_cells_of_mixed_types_name_both_lines(tmp_path):
    error = failure(infer_fields, cells(tmp_path, ["1", "0", "positive"]))
    assert (error.row, error.column, error.excerpt) == (4, "label", "positive")
    assert "row 2 " in error.message
    assert failure(infer_fields, cells(tmp_path, ["pos", "neg", "0"])).row == 4


@pytest.mark.parametrize("values", [["a", "", "b"], ["a", "  ", "b"], ["1", "", "2"], ["1.5", "", "2"]])
def test_a_missing_label_is_told_with_its_line(tmp_path, values):
    table = cells(tmp_path, values)
    error = failure(infer_fields, table)
    assert (error.file, error.row, error.column) == (str(tmp_path / "a.tsv"), 3, "label")
    with pytest.raises(DataError) as caught:
        read_examples(table, infer_fields(cells(tmp_path, [values[0], values[2]])))
    assert caught.value.row == 3


@pytest.mark.parametrize("values", [["a", None, "b"], [[], None, ["a"]], [1, float("nan"), 2], [None, None]])
def test_a_missing_value_is_told_with_its_record(values):
    error = failure(infer_fields, labelled(values))
    assert (error.row, error.column) == (1 if values[0] is None else 2, "label")


@pytest.mark.parametrize("values", [["pos", "pos"], [1, 1], [0.5, 0.5], [["a"], ["a"]], [[], []]])
def test_labels_that_are_all_the_same_are_an_error_before_training(values):
    error = failure(infer_fields, labelled(values))
    assert (error.file, error.column) == ("list", "label")


def test_thousands_of_classes_that_occur_once_are_no_classes():
    error = failure(infer_fields, labelled([f"name {i}" for i in range(1500)]))
    assert error.column == "label"
    assert "regression" in error.hint
    assert len(infer_fields(labelled([f"name {i % 1200}" for i in range(3600)])).labels) == 1200


def test_nearly_equal_labels_are_said_and_kept_apart():
    fields = infer_fields(labelled(["pos", "Pos ", "neg", "pos", "neg"]))
    assert fields.labels == ("Pos ", "neg", "pos")
    assert any("'Pos ', 'pos'" in note for note in fields.notes)


def test_classes_are_counted():
    assert "classes: 'neg' 1, 'pos' 2" in infer_fields(labelled(["pos", "neg", "pos"])).notes
    many = infer_fields(labelled([i % 15 for i in range(60)])).notes
    assert any(note.startswith("classes: '0' 4") and note.endswith(" and 5 more") for note in many)


def test_rare_and_imbalanced_classes_are_said():
    notes = " ".join(infer_fields(labelled(["a"] * 1000 + ["b"])).notes)
    assert "'b'" in notes
    assert "1000 to 1" in notes
    assert "macro-F1" in notes


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (["a;b", "b;c", "a;;c"], 4),
        (["a;b", "a", "b;"], 4),
        (["a|b", "|b", "a"], 3),
        (["['a', 'b']", "['a' 'b']", "['b']"], 3),
        (["['a', 'b']", "a", "['b']"], 3),
    ],
)
def test_a_malformed_multi_label_cell_is_told_with_its_line(tmp_path, values, row):
    table = cells(tmp_path, values)
    error = failure(infer_fields, table, task="multi_label") if values[0][0] == "[" else failure(infer_fields, table)
    assert (error.row, error.column, error.excerpt) == (row, "label", values[row - 2])


@pytest.mark.parametrize("item", [None, "", ["a"], {"a": 1}])
def test_a_list_of_no_labels_is_told_with_its_record(item):
    error = failure(infer_fields, labelled([["a"], ["a", item], []]))
    assert (error.row, error.column) == (2, "label")


def test_a_decimal_comma_is_not_guessed(tmp_path):
    error = failure(infer_fields, cells(tmp_path, ["3", "3,5", "5,3", "2,5"]))
    assert (error.row, error.excerpt) == (3, "3,5")
    assert infer_fields(cells(tmp_path, ["3", "3,5", "5,3", "2,5"]), task="multi_label").labels == ("2", "3", "5")


@pytest.mark.parametrize("form", ["{}%", "${},250.50", "{},000", "{} €", "1.{},5"])
def test_amounts_that_are_not_plain_numbers_are_no_classes(tmp_path, form):
    values = [form.format(number) for number in range(100, 130)]
    error = failure(infer_fields, cells(tmp_path, values))
    assert (error.row, error.column, error.excerpt) == (2, "label", values[0])
    assert len(infer_fields(cells(tmp_path, values), task="single_label").labels) == 30
    assert failure(infer_fields, cells(tmp_path, [f"{i},{i + 300}" for i in range(9)])).row == 2
    few = cells(tmp_path, [form.format(number) for number in (100, 120)] * 9)
    assert failure(infer_fields, few).row == 2 if "," in form else infer_fields(few).task == "single_label"


@pytest.mark.parametrize("value", ["high", "nan", "inf", "1e999", "1e300", "3,5", True, [1.0]])
def test_what_is_no_finite_number_cannot_be_predicted_as_one(value):
    table = read_table({"text": ["a", "b", "c"], "label": [1.5, 2.5, value]})
    fields = Fields(("text",), "label", "regression", (), None, ())
    error = failure(read_examples, table, fields)
    assert (error.row, error.column) == (3, "label")


# Examples


def test_examples_carry_texts_targets_and_places(tmp_path):
    table = csv_table(tmp_path, 'text,label\n"one\ntwo",pos\nthree,neg\n')
    examples = read_examples(table, infer_fields(table))
    assert examples.texts == ["one\ntwo", "three"]
    assert examples.pairs is None
    assert examples.targets.dtype == np.int64
    assert examples.targets.tolist() == [1, 0]
    assert examples.references == ["train.csv:2", "train.csv:4"]
    assert (examples.source, len(examples)) == (str(tmp_path / "train.csv"), 2)


def test_multi_label_targets_are_zeros_and_ones(tmp_path):
    table = cells(tmp_path, ["b|a", "", "c|b|b", "a"])
    targets = read_examples(table, infer_fields(table)).targets
    assert targets.dtype == np.float32
    assert targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_regression_targets_are_numbers(tmp_path):
    table = cells(tmp_path, ["1.5", " 2", "-3e-1"])
    targets = read_examples(table, infer_fields(table)).targets
    assert targets.dtype == np.float32
    assert targets.tolist() == [1.5, 2.0, np.float32(-0.3)]


def test_pairs_are_read_together():
    table = read_table({"premise": LONG, "hypothesis": LONG[::-1], "label": [0, 1, 0, 1]})
    examples = read_examples(table, infer_fields(table))
    assert (examples.texts, examples.pairs) == (LONG, LONG[::-1])


def test_a_selection_keeps_everything_in_step():
    table = read_table({"premise": LONG, "hypothesis": LONG[::-1], "label": [0, 1, 2, 1]})
    examples = read_examples(table, infer_fields(table)).select(np.array([2, 0]))
    assert examples.texts == [LONG[2], LONG[0]]
    assert examples.pairs == [LONG[1], LONG[3]]
    assert examples.targets.tolist() == [2, 0]
    assert examples.references == ["dict:3", "dict:1"]


def test_examples_of_a_folder_name_their_files(tmp_path):
    for label in ("neg", "pos"):
        (tmp_path / "films" / label).mkdir(parents=True)
        (tmp_path / "films" / label / "1.txt").write_text(f"a {label} text")
    table = read_table(tmp_path / "films")
    examples = read_examples(table, infer_fields(table))
    assert examples.references == ["films/neg/1.txt", "films/pos/1.txt"]
    error = failure(read_examples, table, Fields(("text",), "label", "single_label", ("neg", "bad"), None, ()))
    assert error.file == "films/pos/1.txt"


def test_numbers_as_texts_stay_as_json_wrote_them(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1e5}\n{"text": 10}\n{"text": 2.50}\n{"text": true}\n{"text": "007"}\n')
    table = read_table(tmp_path / "a.jsonl")
    fields = Fields(("text",), None, "single_label", (), None, ())
    assert read_examples(table, fields, require_label=False).texts == ["1e5", "10", "2.50", "true", "007"]


@pytest.mark.parametrize("value", [None, float("nan"), ["a", "b"], {"en": "a"}, b"a", "a\x00b", "a\ud83d"])
def test_a_text_that_is_none_is_told_with_its_record(value):
    table = read_table({"text": ["fine", value], "label": [0, 1]})
    error = failure(read_examples, table, infer_fields(table))
    assert (error.file, error.row, error.column) == ("dict", 2, "text")


def test_white_space_texts_are_kept_and_can_be_listed():
    table = read_table({"text": ["a", "", " \n", "b"], "label": [0, 1, 0, 1]})
    examples = read_examples(table, infer_fields(table))
    assert examples.texts == ["a", "", " \n", "b"]
    assert empty_texts(examples) == ["dict:2", "dict:3"]
    pairs = read_table({"text_a": [*LONG[:2], ""], "text_b": [LONG[0], "", LONG[1]], "label": [0, 1, 0]})
    assert empty_texts(read_examples(pairs, infer_fields(pairs))) == ["dict:2", "dict:3"]


# Other files with the same fields


def test_class_ids_mean_the_same_in_every_file(tmp_path):
    fields = infer_fields(cells(tmp_path, ["10", "9", "2"]))
    later = read_table({"text": ["a", "b"], "label": [10, 9.0]})
    assert read_examples(later, fields).targets.tolist() == [2, 1]


def test_an_unknown_label_is_told_with_its_line_and_the_nearest(tmp_path):
    fields = infer_fields(labelled(["pos", "neg"]))
    error = failure(read_examples, csv_table(tmp_path, "text,label\nfine,neg\nhm,Pos\n", "test.csv"), fields)
    assert (error.file, error.row, error.column, error.excerpt) == (str(tmp_path / "test.csv"), 3, "label", "Pos")
    assert "'pos'" in error.hint.split("?")[0]
    assert "'neg', 'pos'" in error.hint


def test_an_unknown_label_among_several_is_told_with_its_cell(tmp_path):
    fields = infer_fields(cells(tmp_path, ["a;b", "b;a", "a"]))
    error = failure(read_examples, cells(tmp_path, ["a", "a;z", "b"]), fields)
    assert (error.row, error.column, error.excerpt) == (3, "label", "a;z")


def test_a_list_where_one_label_was_is_an_error():
    fields = infer_fields(labelled(["pos", "neg"]))
    assert failure(read_examples, labelled([["pos"]]), fields).row == 1


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_column_missing_in_a_later_file_lists_what_is_there(column):
    fields = infer_fields(labelled("ab"))
    table = read_table([{{"text": "label", "label": "text"}[column]: "a", "extra": "b"}])
    error = failure(read_examples, table, fields)
    assert (error.file, error.column) == ("list", column)
    assert "'extra'" in error.hint


def test_prediction_takes_files_without_labels():
    fields = infer_fields(labelled("ab"))
    assert read_examples(read_table([{"text": "a"}]), fields, require_label=False).targets is None
    assert read_examples(labelled(["a", None]), fields, require_label=False).targets is None
    assert read_examples(labelled(["a", "b"]), fields, require_label=False).targets.tolist() == [0, 1]
    failure(read_examples, read_table([{"text": "a"}]), Fields(("text",), None, "single_label", (), None, ()))


def test_25_000_examples_take_less_than_a_second():
    table = read_table({"text": [f"{i} " + "so good " * 100 for i in range(25_000)], "label": [i % 2 for i in range(25_000)]})
    start = time.monotonic()
    assert len(read_examples(table, infer_fields(table))) == 25_000
    assert time.monotonic() - start < 2
