"""Planted faults are found, with recall and precision; clean data give no warning; repairs touch what they say and nothing else."""

from __future__ import annotations

import datetime
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpbp.audit import repair
from nlpbp.audit import texts as audit_texts
from nlpbp.audit.audit import audit, audit_lines, audit_record
from nlpbp.audit.copies import conflicting_labels, exact_duplicates, leaks, near_conflicting_labels, near_duplicates
from nlpbp.audit.duplicates import jaccard, minhash, near_pairs, split_words, word_shingles
from nlpbp.audit.effect import effect_of_copies
from nlpbp.audit.label_errors import label_error_candidates, out_of_fold, rank_labels, tfidf_features
from nlpbp.audit.labels import class_balance, label_errors, label_names
from nlpbp.audit.languages import language_mix
from nlpbp.audit.parts import adversarial_validation, group_leakage, time_leakage
from nlpbp.audit.rows import AuditFinding, Rows, rows_of
from nlpbp.audit.texts import encoding_trouble, main_script, missing_values, repair_text, script_mix, text_lengths
from nlpbp.core.errors import ConfigError
from nlpbp.data.columns import infer_fields
from nlpbp.data.readers import read_table

GOOD, BAD = (["joy", "warm", "clever", "moving", "bright"], ["dull", "noisy", "clumsy", "tedious", "grey"])


def made(num: int, *, seed: int = 0, num_words: int = 25) -> list[dict[str, Any]]:
    """Reviews of random words with a few that tell the label, all distinct."""
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(800)]
    records = []
    for index in range(num):
        text = rng.choices(words, k=num_words - 6) + rng.choices((BAD, GOOD)[index % 2], k=5) + rng.choices((GOOD, BAD)[index % 2])
        rng.shuffle(text)
        records.append({"text": " ".join(text), "label": ("neg", "pos")[index % 2]})
    return records


def part(records: Sequence[dict[str, Any]], name: str = "train", *, like: Rows | None = None) -> Rows:
    return rows_of(read_table(list(records)), fields=like.fields if like else None, part=name)


def texts(*cells: Any) -> Rows:
    return rows_of(read_table([{"text": cell} for cell in cells]))


def by_id(findings: Sequence[AuditFinding]) -> dict[str, AuditFinding]:
    return {finding.id: finding for finding in findings}


def test_clean_data_give_no_warning() -> None:
    train = part(made(400))
    findings = audit([train, part(made(100, seed=1), "validation", like=train), part(made(100, seed=2), "test", like=train)])
    assert len({finding.id for finding in findings}) == len(findings) == 18
    assert [str(finding) for finding in findings if finding.level == "warning"] == []


def test_near_duplicates_that_were_planted_are_found_and_nothing_else() -> None:
    rng = random.Random(3)
    records = made(1000, num_words=40)
    planted = rng.sample(range(1000), 200)
    for source in planted:  # one word changed, as in a corrected copy
        words = records[source]["text"].split()
        words[rng.randrange(40)] = "other"
        records.append({**records[source], "text": " ".join(words)})
    found = near_duplicates([part(records)])
    hits = {row for row in found.rows if row >= 1000}
    assert len(hits) >= 0.95 * 200
    assert found.rows.keys() == hits  # the earlier one of two is kept
    assert all(
        found.rows[1000 + place].startswith(f"nearly list:{source + 1} ")
        for place, source in enumerate(planted)
        if 1000 + place in hits
    )


def test_signatures_agree_as_often_as_sets_overlap() -> None:
    words = split_words([" ".join(f"w{n}" for n in range(start, start + 400)) for start in range(0, 400, 40)])
    shingles = word_shingles(words)
    signatures = minhash(shingles, num_hashes=512)
    pairs = np.array([[0, other] for other in range(1, 10)])
    guessed = (signatures[0] == signatures[1:]).mean(axis=1)
    np.testing.assert_allclose(guessed, jaccard(shingles, pairs), atol=0.07)  # three standard errors of 512 hashes
    assert signatures.dtype == np.uint32


def test_many_copies_of_one_text_are_compared_with_the_first_and_not_all_with_all() -> None:
    base = " ".join(f"w{n}" for n in range(60))
    pairs = near_pairs(split_words([f"{base} {n} {n}" for n in range(2000)])).indices
    assert {first for first, _ in pairs.tolist()} >= {0}
    assert set(pairs[pairs[:, 0] == 0, 1].tolist()) == set(range(1, 2000))
    assert len(pairs) < 2000 * 60


def test_texts_without_words_or_spaces_are_compared_too() -> None:
    chinese = "这部电影从头到尾都是一种享受演员们的表演非常出色故事感人至深"
    pairs = near_pairs(split_words(["", "?!", "", chinese, chinese[:-1] + "浅", "!!"]))
    assert pairs.indices.tolist() == [[3, 4]]
    assert len(near_pairs(split_words([]))) == len(near_pairs(split_words(["", ""]))) == 0


def test_empty_texts_are_copies_of_nothing_and_pairs_are_compared_for_equality_only() -> None:
    assert exact_duplicates([texts("so good", "", "", None, None)]).count == 0
    premise = " ".join(f"w{n}" for n in range(30))
    pairs = [
        {"premise": premise, "hypothesis": f"it is {word}", "label": label} for word, label in (("so", 1), ("not", 0), ("so", 0))
    ]
    rows = part(pairs)
    assert rows.fields.text == ("premise", "hypothesis")
    assert (near_conflicting_labels([rows]).count, near_duplicates([rows]).count) == (0, 0)
    assert conflicting_labels([rows]).rows.keys() == {0, 2}


def test_leaks_are_counted_in_the_part_they_flatter_and_dropped_from_training() -> None:
    train = part(made(100))
    test = part([*made(17, seed=1), *made(100)[:3]], "test", like=train)
    found = leaks([train, test])
    assert (found.level, found.count, found.details["counts"]) == ("warning", 3, {"test": 3})
    assert found.share == pytest.approx(3 / 20)
    assert found.rows == {row: f"stands in test as list:{18 + row}" for row in range(3)}


def unlearnable(num: int, *, seed: int) -> list[dict[str, Any]]:
    """Texts without a word that tells the label: who is right about them has seen them."""
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(3000)]
    return [{"text": " ".join(rng.choices(words, k=25)), "label": rng.choice(["neg", "pos"])} for _ in range(num)]


def test_what_leaks_do_to_the_score_is_measured() -> None:
    known = unlearnable(600, seed=0)
    train = part(known)
    near = [{**record, "text": f"{record['text']} indeed"} for record in known[100:150]]
    test = part([*unlearnable(200, seed=1), *known[:50], *near], "test", like=train)
    found = effect_of_copies([train, part(unlearnable(100, seed=2), "validation", like=train), test])
    assert set(found.details) == {"test"}  # validation has no copies
    of_test = found.details["test"]
    assert (of_test["rows"], of_test["copies"], found.level) == (300, 100, "warning")
    assert of_test["without_copies"] == pytest.approx(0.5, abs=0.1)  # chance
    assert of_test["effect"] == pytest.approx((1.0 - of_test["without_copies"]) / 3, abs=0.02)  # a third is known by heart
    assert found.message.startswith("accuracy of a linear model: test ") and "100 copies (+1" in found.message


def test_copies_within_training_flatter_a_random_cut_of_it() -> None:
    known = unlearnable(300, seed=0)
    alone = effect_of_copies([part([*known, *known[:150]])]).details["train"]
    assert (alone["rows"], alone["copies"]) == (450, 300)
    assert alone["effect"] > 0.1
    assert effect_of_copies([part(known)]).level == "fine"
    learnable = made(400)  # easy with and without copies
    easy = effect_of_copies([part([*learnable, *learnable[:100]])])
    assert (easy.level, "within chance" in easy.message) == ("note", True)


def test_conflicts_of_equal_and_of_near_texts_are_told_apart() -> None:
    records = made(60)
    same = {**records[4], "label": "pos"}
    near = {"text": f"{records[10]['text']} indeed", "label": "pos"}
    rows = part([*records, same, near])
    equal, close = conflicting_labels([rows]), near_conflicting_labels([rows])
    assert (equal.rows.keys(), close.rows.keys()) == ({4, 60}, {10, 61})
    assert (equal.level, close.level) == ("warning", "note")


def test_flipped_labels_are_found_at_the_number_planted() -> None:
    records = made(1000)
    flipped = set(random.Random(5).sample(range(1000), 50))
    for row in flipped:
        records[row]["label"] = {"neg": "pos", "pos": "neg"}[records[row]["label"]]
    rows = part(records)
    labels = np.array([label == "pos" for label in rows.labels or ()], dtype=np.int64)
    probabilities = out_of_fold(tfidf_features(split_words(rows.texts)), labels, num_labels=2)
    assert len(flipped & set(rank_labels(probabilities, labels)[:50].tolist())) >= 0.7 * 50
    found = label_errors([rows]).rows.keys()
    assert len(flipped & found) >= 0.6 * 50
    assert len(flipped & found) >= 0.9 * len(found)  # precision
    clean = label_errors([part(made(1000))])
    assert len(clean.rows) < 0.02 * 1000


def test_a_fold_is_answered_by_a_model_of_the_others() -> None:
    labels = np.random.default_rng(0).integers(2, size=300)  # nothing to learn: an answer from memory would be right
    features = tfidf_features(split_words([record["text"] for record in made(300)]))
    probabilities = out_of_fold(features, labels, num_labels=2)
    assert 0.4 < (probabilities.argmax(axis=1) == labels).mean() < 0.6
    assert sorted(rank_labels(probabilities, labels).tolist()) == list(range(300))
    assert set(label_error_candidates(probabilities, labels).tolist()) < set(range(300))
    with pytest.raises(ValueError, match="5 rows of each"):
        out_of_fold(features, np.array([0] * 296 + [1] * 4), num_labels=2)


def test_kinds_of_missing_values_are_told_apart_and_only_what_training_refuses_is_a_warning() -> None:
    found = missing_values([texts("so good", None, float("nan"), "", " \t", "N/A", "null and void", "none")])
    assert found.details["text"] == {"missing": 2, "empty": 1, "white space": 1, "reads as missing": 2}
    assert (found.level, found.count) == ("warning", 6)
    assert missing_values([part([*made(200), {"text": "n/a", "label": "pos"}])]).level == "note"
    assert missing_values([part([*made(200), {"text": "so good", "label": " "}])]).level == "warning"


def test_every_trace_of_a_wrong_encoding_is_counted_by_kind() -> None:
    planted = {
        "mojibake": ["cafÃ© crÃ¨me", "itâ€™s fine", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "cafÃƒÂ© crÃƒÂ¨me", "caf√© cr√®me"],
        "replacement": ["caf\ufffd"],
        "control": ["bell\x07", "zero\u200bwidth"],
        "tags": ["a<br />b", "<b>bold</b>"],
        "entities": ["salt &amp; pepper", "&#39;"],
        "not composed": ["cafe\u0301"],
    }
    clean = [
        "café crème",
        "SÃO PAULO",
        "Âge d'or « Â »",
        "a < b && c > d",
        "R&D; and",
        "line\nbreak\ttab",
        "привет",
        "<3",
        "IL Y MARQUÉ…",
    ]
    found = encoding_trouble([texts(*(text for cells in planted.values() for text in cells), *clean)])
    assert found.details == {kind: len(cells) for kind, cells in planted.items()}
    assert found.level == "warning"
    assert encoding_trouble([texts(*clean)]).level == "fine"


def test_a_repair_changes_what_is_broken_and_leaves_what_is_not() -> None:
    for broken, whole in (
        ("cafÃ© &lt;3", "café <3"),
        ("itâ€™s", "it’s"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("cafÃƒÂ©", "café"),
        ("cafe\u0301", "café"),
    ):
        assert repair_text(broken) == whole
        assert repair_text(whole) == whole
    assert repair_text("AT&T &unknown; <br /> Â » \x07") == "AT&T &unknown; <br /> Â » \x07"


def test_scripts_are_counted_by_text() -> None:
    assert script_mix([texts("so good", "é bom", "добро", "すごく良い", "정말 좋다", "हिन्दी", "123")]).details == {
        "Latin": 2,
        "Cyrillic": 1,
        "Han and kana": 1,
        "Hangul": 1,
        "Devanagari": 1,
    }
    assert [main_script(text) for text in ("Ελλάδα", "שלום", "مرحبا", "สวัสดี", "ﬁn", "😀")] == [
        *("Greek", "Hebrew", "Arabic", "Thai", "Latin", "")
    ]


def test_outliers_and_the_words_that_a_cut_loses_are_counted() -> None:
    found = text_lengths([texts(*["a b c d e f g h"] * 20, "a " * 1000)], max_words=500)
    assert (found.count, found.details["cut_texts"], found.details["lost_words"]) == (1, 1, 500)
    assert found.examples[0].reference == "list:21"
    assert text_lengths([texts("", None)]).level == "fine"


def test_a_model_that_reads_whole_texts_cuts_none() -> None:
    found = text_lengths([texts(*["a b c d e f g h"] * 20, "a " * 1000)], max_words=None)
    assert (found.count, found.details["cut_texts"], found.details["max_words"]) == (1, 0, None)
    assert "cut" not in found.message and "max_length" not in found.fix


def test_fields_of_one_text_are_no_pair_and_may_have_gaps() -> None:
    records = [{**record, "price": index % 7 or None} for index, record in enumerate(made(60))]
    table = read_table([*records, {**records[4], "text": f"{records[4]['text']} indeed"}])
    rows = rows_of(table, fields=infer_fields(table, compose=("text", "price"), label="label"))
    assert near_duplicates([rows]).rows.keys() == {60}
    found = missing_values([rows])
    assert (found.details["price"], found.level) == ({"missing": 9}, "note")
    assert "marked" in found.fix


def test_names_of_one_class_are_found_and_others_left_alone() -> None:
    def pairs(*names: str) -> dict[tuple[str, str], str]:
        rows = part([{"text": f"so good {i}", "label": name} for i, name in enumerate(names * 2)])
        return {(a, b): why for a, b, why in label_names([rows]).details["pairs"]}

    assert pairs("Positive", "positive ", "neg") == {("Positive", "positive "): "spelling"}
    assert pairs("neg", "negative", "pos") == {("neg", "negative"): "abbreviation"}
    assert pairs("negative", "negatve") == {("negative", "negatve"): "misspelling"}
    assert pairs("class 1", "class 11", "world", "word", "art", "a", "ab", "category_10", "category_12") == {}


def test_a_class_that_training_lacks_is_a_warning_and_imbalance_a_note() -> None:
    train = part(made(60))
    assert class_balance([train]).level == "fine"
    test = part([*made(10, seed=1), {"text": "so so", "label": "mixed"}], "test", like=train)
    found = class_balance([train, test])
    assert (found.level, found.count) == ("warning", 1)
    assert "'mixed'" in found.message
    assert class_balance([part([*made(60)[1::2], made(1)[0]])]).level == "note"


def test_time_and_groups_that_both_parts_share_are_leaks() -> None:
    def dated(days: range, users: range, seed: int) -> list[dict[str, Any]]:
        start = datetime.date(2020, 1, 1)
        return [
            {**record, "posted": str(start + datetime.timedelta(days=days[i % len(days)])), "user_id": f"u{users[i % len(users)]}"}
            for i, record in enumerate(made(60, seed=seed))
        ]

    train = part(dated(range(100), range(20), 0))
    late = part(dated(range(100, 130), range(20, 30), 1), "test", like=train)
    early = part(dated(range(40, 130), range(15, 25), 2), "test", like=train)
    assert (time_leakage([train, late]).level, group_leakage([train, late]).level) == ("fine", "fine")
    time, groups = time_leakage([train, early]), group_leakage([train, early])
    assert (time.level, time.details["column"]) == ("warning", "posted")
    assert (groups.level, groups.count, groups.details["column"]) == ("warning", 30, "user_id")
    assert (time_leakage([train]).level, group_leakage([train]).level) == ("note", "note")


def test_parts_are_told_apart_only_where_they_differ() -> None:
    train, same = part(made(400)), part(made(200, seed=1), "test")
    assert 0.4 < adversarial_validation([train, same]).details["test"]["auc"] < 0.6
    other = part([{**record, "text": f"{record['text']} rotated"} for record in made(200, seed=1)], "test")
    found = adversarial_validation([train, other])
    assert (found.level, found.details["test"]["words"][0]) == ("warning", "rotated")
    assert found.details["test"]["auc"] > 0.9


@pytest.mark.parametrize("label", [0.5, ["a", "b"], None])
def test_amounts_several_labels_and_no_labels_are_audited_too(label: Any) -> None:
    records = [
        {**record, "label": label if i else ["a"] if isinstance(label, list) else label and 1.5}
        for i, record in enumerate(made(60))
    ]
    rows = part(records)
    found = by_id(audit([rows]))
    assert found["label_errors"].level == found["class_balance"].level == "fine"
    json.dumps(audit_record([rows], list(found.values())))


def test_what_is_printed_and_written_cannot_command_a_terminal() -> None:
    records = [*made(30), {"text": "cafÃ© \x1b[2J", "label": "pos\x1b[1m"}]
    table = read_table(records)
    table.columns["text"][0] = "half \ud800"  # the readers refuse it; a frame can hold one
    rows = rows_of(table)
    findings = audit([rows])
    written = json.dumps(audit_record([rows], findings), ensure_ascii=False)
    assert not {"\x1b", "\ud800"} & set("".join(audit_lines(findings)))
    assert "\x1b" not in json.dumps([example for finding in json.loads(written)["findings"] for example in finding["examples"]])


def planted() -> tuple[Rows, list[AuditFinding]]:
    """30 good rows; then a copy, a near copy, a conflict, mojibake; the test set has the row at 7."""
    good = made(30)
    near = {**good[2], "text": f"{good[2]['text']} indeed"}
    more = [good[0], near, {**good[5], "label": "neg"}, {"text": "cafÃ© au lait", "label": "pos"}]
    train = part([*good, *more])
    return train, audit([train, part([good[7], *made(5, seed=9)], "test", like=train)])


@pytest.mark.parametrize(
    ("plan", "gone"),
    [
        (["exact_duplicates"], {30}),
        (["near_duplicates"], {31}),
        (["conflicting_labels"], {5, 32}),
        (["leaks", "exact_duplicates"], {7, 30}),  # 32 is a copy with another label
        (["encoding"], set()),
    ],
)
def test_a_plan_drops_what_it_names_and_logs_each_row(plan: list[str], gone: set[int]) -> None:
    train, findings = planted()
    before = list(train.table.columns["text"])
    table, log = repair.clean(train, findings, plan)
    assert table.rows == [row + 1 for row in range(34) if row not in gone]
    assert {change.reference for change in log if change.action == "dropped"} == {f"list:{row + 1}" for row in gone}
    assert all(change.reason and change.finding in plan for change in log)
    assert ("café au lait" in table.columns["text"]) == ("encoding" in plan)
    assert train.table.columns["text"] == before


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("test: [leaks]", "never for 'test'"),
        ("{train: [leaks], validation: [leaks]}", "never for 'validation'"),
        ("[leak]", "did you mean 'leaks'"),
        ("[class_balance]", "for information only"),
        ("[]", "a list of findings"),
        ("leaks", "a list of findings"),
        ("[!!python/name:os.system]", "cannot be read"),
        ("[1]", "a list of findings"),
    ],
)
def test_a_plan_for_other_parts_or_of_other_words_is_refused(tmp_path: Path, plan: str, words: str) -> None:
    (tmp_path / "plan.yaml").write_text(plan)
    with pytest.raises(ConfigError, match=words):
        repair.read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize("suffix", repair.SUFFIXES)
def test_a_cleaned_copy_reads_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    cells = ["=1+1", "007", "NA", 'a "quoted", text', "two\nlines", "tab\there", "1e5", "é 😀"]
    table = read_table([{"text": cell, "label": ("neg", "pos")[i % 2]} for i, cell in enumerate(cells)])
    repair.write_table(table, tmp_path / f"a{suffix}")
    assert read_table(tmp_path / f"a{suffix}").columns == table.columns
    assert infer_fields(read_table(tmp_path / f"a{suffix}"), text=("text",)).labels == ("neg", "pos")


def test_a_copy_never_replaces_the_data_and_nested_cells_are_no_csv(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    with pytest.raises(ConfigError, match="the data itself"):
        repair.check_clean_file(source, sources=[str(source)])
    with pytest.raises(ConfigError, match="jsonl"):
        repair.write_table(read_table([{"text": "so good", "tags": ["a", "b"]}]), tmp_path / "b.csv")


def test_languages_of_one_script_are_told_apart() -> None:
    english = "the film was long and we left the cinema before it had come to its end, number {}"
    german = "der Film war lang und wir haben das Kino verlassen, bevor er zu Ende war, Nummer {}"
    rows = texts(*[english.format(i) for i in range(40)], *[german.format(i) for i in range(3)], "so dull")
    found = language_mix([rows])
    assert (found.details, found.level, found.count) == ({"en": 40, "de": 3}, "note", 3)
    assert found.examples[0].excerpt.startswith("der Film")
    assert language_mix([texts(*[english.format(i) for i in range(40)])]).level == "fine"
    assert language_mix([texts("so dull", "so good")]).level == "fine"


def test_without_the_extra_the_audit_says_how_to_tell_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    assert "nlpbp[audit]" in language_mix([texts("so good")]).message


def test_without_the_extra_other_traces_are_found_and_mojibake_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_texts, "fix_encoding", None)
    found = encoding_trouble([texts("cafÃ©", "salt &amp; pepper")])
    assert found.details == {"entities": 1}
    assert "nlpbp[audit]" in found.message
    assert repair_text("cafÃ© &amp; more") == "cafÃ© & more"


def test_a_copy_with_another_label_is_counted_and_left_to_the_plan_for_conflicts() -> None:
    records = [{"text": "so good and long enough", "label": label} for label in ("pos", "pos", "neg")]
    rows = part(records)
    found = exact_duplicates([rows])
    assert (found.count, list(found.rows)) == (2, [1])
    assert list(conflicting_labels([rows]).rows) == [0, 1, 2]
