"""A run says what it means: each piece of advice where its fault is and not where it is not, printed, kept and in the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlpbp.checks.run import check_run
from nlpbp.config.data import Data
from nlpbp.core.errors import ConfigError
from nlpbp.data.modality import Reading
from nlpbp.data.tiny import tiny_reviews
from nlpbp.report.against import against_sentences
from nlpbp.report.page import run_report
from nlpbp.runs import facts as gathering
from nlpbp.runs.advice import ADVICE, Facts, advise, closing_lines
from nlpbp.runs.facts import recipe_names
from nlpbp.runs.folder import CACHE
from nlpbp.runs.result import RunResult
from nlpbp.tasks.differences import Answers, against_record, paired_differences
from nlpbp.tasks.task import metric_of
from nlpbp.text.tiny import tiny_bert
from recipes import RECIPES, transformer_sentiment
from report_pages import Page

REVIEWS = tiny_reviews(num_examples=160).columns
CHINESE = [f"这部电影不错 很好看 谢谢 {text}" for text in REVIEWS["text"]]
READ = Reading(truncated=0.1, unknown=0.01, max_length=64, truncation="head", enough=48, limit=512)
SETTINGS = {
    "epochs": 3,
    "stages": [{"epochs": None}],
    "patience": None,
    "dropout.scale": 1.0,
    "optim.lr": None,
    "optim.class_weights": None,
    "data.balanced_sampling": False,
}


def beside(verdict: str, model: float = 0.8) -> dict[str, Any]:
    return {"metric": "accuracy", "model": model, "baseline": 0.7, "difference": 0.1, "interval": [0.0, 0.2], "verdict": verdict}


def evaluations(*scores: float) -> list[dict[str, Any]]:
    return [{"step": 10 * (index + 1), "split": "validation", "accuracy": score} for index, score in enumerate(scores)]


FINE = Facts(
    task="single_label",
    recipe="transformer_sentiment",
    recipes=("transformer_sentiment", "fewshot"),
    settings=SETTINGS,
    against={"majority": beside("better"), "tfidf": beside("better")},
    num_train=1000,
    num_per_class=500.0,
    spread=0.9,
    reading=READ,
    records=evaluations(0.7, 0.79, 0.8),
    standard_error=0.02,
)


def advised(**changes: Any) -> list[str]:
    """The sentences on a run that is fine but for `changes`."""
    return [f"{found.message}. Fix: {found.fix}" for found in advise(dataclasses.replace(FINE, **changes))]


def test_a_run_without_faults_is_advised_nothing_and_told_what_comes_next() -> None:
    assert advised() == []
    result = {"task": "single_label", "metrics": {"test": {}}, "against": FINE.against}
    assert closing_lines(result, ["better than a baseline"], [], out="runs/a")[-1] == "next: nlpbp predict runs/a --data new.csv"
    chosen_by = {**result, "metrics": {"validation": {}}}
    lines = closing_lines(chosen_by, ["better than a baseline"], [], out="runs/a", warning="the labels are odd")
    assert "which chose the weights" in lines[1]
    assert lines[-1] == "warning: the labels are odd"


def test_a_run_that_is_not_better_without_a_known_reason_is_sent_to_its_errors() -> None:
    result = {"task": "single_label", "metrics": {"test": {}}, "against": {"tfidf": beside("unclear")}}
    assert closing_lines(result, ["no better"], [], out="runs/a")[-1].startswith("next: read the errors in runs/a/report.html")
    perfect = {**result, "against": {"tfidf": beside("unclear", model=1.0)}}
    assert closing_lines(perfect, ["no better"], [], out="runs/a")[-1].startswith("next: nlpbp predict")
    language = {"task": "language_model", "recipe": "lm_awd_lstm", "metrics": {"test": {}}}
    assert "nlpbp finetune ulmfit --lm.init runs/a/model --lm.steps 0" in closing_lines(language, [], [], out="runs/a")[-1]


def test_answers_that_do_not_depend_on_the_text_are_told_with_the_answer() -> None:
    (said,) = advised(spread=0.03, only_answer="pos", never_answered=["neg"])  # which is not told twice
    assert "hardly depend on the text: they vary 3 % as much" in said
    assert "gets the answer pos. Fix: train longer (--epochs 6), or at another rate (--optim.lr auto)" in said
    (of_images,) = advised(spread=0.03, kind="image", settings=SETTINGS | {"optim.lr": "auto"})
    assert "--data.text" not in of_images and "--optim.lr" not in of_images


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (
            {},
            "100 % of the training texts are cut to their first 64 tokens. Fix: give --data.max_length 320, which holds nine",
        ),
        ({"limit": 128}, "--data.max_length 128, the most that this model reads; or --data.truncation tail, head_tail or windows"),
        ({"limit": 64}, "Fix: give --data.truncation tail, head_tail or windows"),
        ({"limit": None, "truncation": "tail"}, "their last 64 tokens. Fix: give --data.max_length 320, which"),
        ({"limit": 64, "is_pair": True}, "Fix: give --data.truncation tail, which"),
    ],
)
def test_texts_that_are_mostly_cut_are_told_with_a_length_that_holds_them(reading: dict[str, Any], said: str) -> None:
    cut = dataclasses.replace(READ, **{"truncated": 1.0, "enough": 320, **reading})
    assert said in advised(reading=cut)[0]
    assert advised(reading=dataclasses.replace(cut, truncated=0.5)) == []


def test_few_labels_name_the_recipe_for_them_where_it_can_be_typed() -> None:
    few: dict[str, Any] = {"num_train": 90, "num_per_class": 45.0, "against": {"tfidf": beside("unclear")}}
    assert advised(**few)[0].endswith("try the recipe for few: nlpbp finetune fewshot")
    assert "1,000 training examples, 8 of a label" in advised(**few | {"num_train": 1000, "num_per_class": 8.0})[0]
    for fine in (
        {"recipes": ("ulmfit",)},
        {"kind": "image"},
        {"recipe": "fewshot"},
        {"against": {"tfidf": beside("better")}},
        {"against": {"tfidf": beside("unclear", model=1.0)}},  # cannot be beaten
        {"num_train": 1000, "num_per_class": 500.0},
        {"num_per_class": None},  # a number
    ):
        assert advised(**few | fine) == []


def test_a_better_probe_is_started_from_where_there_is_a_setting_for_it() -> None:
    worse = {"probe": beside("worse")}
    assert advised(against=worse) == []
    with_probe = SETTINGS | {"optim.probe": "auto"}
    (said,) = advised(against=worse, settings=with_probe)
    assert said.endswith("Fix: start from it: --optim.probe always")
    (lost,) = advised(against=worse, settings=with_probe, num_train=90, recipes=())
    assert "began there and lost it" in lost
    assert advised(against={"probe": beside("unclear")}, settings=with_probe) == []


@pytest.mark.parametrize(
    ("scores", "settings", "said"),
    [
        ((0.6, 0.7, 0.75), SETTINGS, "train longer (--epochs 6)"),
        ((0.6, 0.75), SETTINGS | {"stages": [{"epochs": 1}, {"epochs": 4}]}, "train longer (--stages.1.epochs 8)"),
        ((0.6, 0.74, 0.75), SETTINGS, None),  # within the noise
        ((0.8, 0.7, 0.75), SETTINGS, None),  # not the best
        ((0.9, 1.0), SETTINGS, None),
        ((0.75,), SETTINGS, None),
    ],
)
def test_a_training_that_ended_while_improving_is_told_to_go_on(scores: Any, settings: Any, said: str | None) -> None:
    found = [one for one in advised(records=evaluations(*scores), settings=settings) if "still improving" in one]
    assert len(found) == (said is not None)
    assert not found or found[0].endswith(str(said))


def test_overfitting_is_told_with_fewer_epochs_and_more_dropout() -> None:
    (said,) = advised(records=evaluations(0.8, 0.78, 0.7))
    assert "was best at step 10 (0.8), and 0.7 at the end" in said
    assert "train less (--patience 1 or --epochs 1), or with more data or dropout (--dropout.scale 2)" in said
    steps = [{"step": step, "loss": 0.05} for step in range(1, 31)]
    losses = [record | {"log_loss": loss} for record, loss in zip(evaluations(0.8, 0.8, 0.8), (0.5, 0.4, 0.7), strict=True)]
    assert "the validation loss was 0.7, after 0.4" in advised(records=[*steps, *losses])[0]
    assert advised(records=evaluations(0.8, 0.78, 0.79)) == []


def test_labels_that_are_never_answered_are_named_with_what_the_task_allows() -> None:
    (said,) = advised(never_answered=["spam", "a", "b", "c", "d"])
    assert "given the label spam, a, b or 2 more, which some have" in said
    assert said.endswith("--optim.class_weights auto or --data.balanced_sampling")
    (several,) = advised(never_answered=["spam"], task="multi_label")
    assert "balanced" not in several
    assert (
        advised(never_answered=["spam"], settings=SETTINGS | {"optim.class_weights": "auto", "data.balanced_sampling": True}) == []
    )


def test_one_advice_leads_and_at_most_two_follow_on_the_terminal() -> None:
    cut = dataclasses.replace(READ, truncated=1.0, unknown=0.4, enough=320)
    found = advise(dataclasses.replace(FINE, spread=0.0, reading=cut, records=evaluations(0.6, 0.7, 0.75)))
    assert len(found) == 4 < len(ADVICE)
    lines = closing_lines({"task": "single_label", "metrics": {"test": {}}}, [], found, out="runs/a")
    assert [line.split(":")[0] for line in lines] == ["advice", "also", "also"]


def test_every_recipe_can_be_named() -> None:
    assert {module.rpartition(".")[2] for module, _ in RECIPES.values()} <= set(recipe_names())


@pytest.mark.parametrize(
    ("task", "targets", "good", "poor"),
    [
        ("multi_label", np.eye(2)[[0, 1] * 20], np.eye(2)[[0, 1] * 20], np.ones((40, 2))),
        ("regression", np.arange(40.0), np.arange(40.0) + 0.1, np.full(40, 19.5)),
        ("ordinal", np.arange(40) % 3, np.eye(3)[np.arange(40) % 3], np.eye(3)[np.zeros(40, dtype=int)]),
    ],
)
def test_every_task_is_better_in_its_own_direction(task: str, targets: Any, good: Any, poor: Any) -> None:
    main = metric_of(task)
    for ours, theirs, verdict in ((good, poor, "better"), (poor, good, "worse"), (good, good, "no better")):
        difference = paired_differences(task, targets, Answers(ours), {"tfidf": Answers(theirs)}, num_resamples=100)["tfidf"]
        (said,) = against_sentences({"task": task, "against": {"tfidf": against_record(main, difference[main.name])}})
        assert said.startswith(f"{verdict} than TF-IDF with a linear model: {main.words} ")


def test_the_difference_of_two_answers_is_surer_than_each_score() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, size=400)
    right = rng.random(400) < 0.7
    better = right | (rng.random(400) < 0.2)  # right wherever the other is, and more often
    one, two = (np.eye(2)[np.where(hits, targets, 1 - targets)] for hits in (right, better))
    found = paired_differences("single_label", targets, Answers(two), {"first": Answers(one)})["first"]["accuracy"]
    assert found.interval is not None and found.interval[0] > 0
    assert found.interval[1] - found.interval[0] < 0.06  # that of each accuracy is 0.09 wide
    assert (
        paired_differences("single_label", targets[:1], Answers(two[:1]), {"first": Answers(one[:1])})["first"]["accuracy"].interval
        is None
    )


def test_spread_and_labels_are_counted_on_what_was_answered() -> None:
    outputs = np.array([[0.2, 0.8], [0.4, 0.6]])
    assert gathering._spread(outputs) == pytest.approx(0.1)
    assert gathering._spread(np.array([3.0, 3.0])) == 0.0
    targets, decisions = np.array([0] * 5 + [1] * 5 + [2] * 4), np.zeros(14, dtype=int)
    assert gathering._never_answered(decisions, targets, ["a", "b", "c"]) == ["b"]  # of c there are too few to tell


# --- a run ---


def train(out: Path, **data: Any) -> RunResult:
    config = dataclasses.replace(transformer_sentiment.tiny(), epochs=1, threads=1, out=str(out))
    given = Data(**{"train": {"text": CHINESE, "label": REVIEWS["label"]}, "max_length": 16, **data})
    model = transformer_sentiment.Model(name=str(tiny_bert(CACHE / "tiny-bert")))  # under its own name it may not know words
    return transformer_sentiment.run(dataclasses.replace(config, data=given, model=model))


def test_a_tokenizer_that_does_not_know_the_texts_stops_the_run_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NLPBP_REPORT", raising=False)  # with an audit, which is taken back too
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run")
    said = str(error.value)
    assert "% of the training tokens" in said and "(they are mostly Chinese)" in said
    assert "谢谢" in said
    assert "--model.name google-bert/bert-base-chinese" in said and "nlpbp finetune ulmfit" in said
    assert "--data.allow_unknown" in said
    assert not (tmp_path / "run").exists()


def test_what_a_run_means_is_printed_last_kept_and_leads_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(tmp_path / "run", allow_unknown=True)
    lines = capsys.readouterr().out.strip().splitlines()
    kept = json.loads((result.out / "result.json").read_text(encoding="utf-8"))
    assert list(kept["against"]) == ["majority", "tfidf", "probe"]
    assert kept["against"]["tfidf"]["difference"] == pytest.approx(
        kept["metrics"]["test"]["accuracy"] - kept["baselines"]["tfidf"]["test"]["accuracy"]
    )
    names = [one["fix"] for one in kept["advice"]]
    assert any("--data.truncation" in fix for fix in names)
    assert any("ulmfit, whose tokenizer" in fix for fix in names)
    start = next(index for index, line in enumerate(lines) if line.startswith("advice: "))
    assert lines[start - 3 : start] == against_sentences(kept)
    assert lines[start].startswith(f"advice: {kept['advice'][0]['message']}. ")
    assert [finding.fix for finding in check_run(result.out)][: len(names)] == names
    page = Page(run_report(result.out))
    assert page.sections()[:3] == ["verdict", "findings", "scores"]
    assert kept["advice"][0]["message"] in page.text
    assert against_sentences(kept)[1][1:] in (result.out / "model" / "README.md").read_text(encoding="utf-8")
