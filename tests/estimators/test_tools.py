"""Estimators inside scikit-learn's tools, copied, pickled, saved, loaded, and shown."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from nlpbp import ImageClassifier, TextClassifier, TextRegressor
from nlpbp.core.errors import ConfigError
from nlpbp.estimators.display import fitted_html
from nlpbp.estimators.kept import KeptRun, free_folder
from recipes import transformer_sentiment

Reviews = tuple[list[str], list[str]]


def shout(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


# --- scikit-learn's tools ---


def test_scores_of_cross_validation_are_those_of_fits_by_hand(reviews: Reviews, tiny: dict[str, Any]) -> None:
    texts, labels = np.array(reviews[0], dtype=object), np.array(reviews[1])
    scores = cross_val_score(TextClassifier(**tiny), texts, labels, cv=[(np.arange(60), np.arange(60, 120))])
    assert scores.tolist() == [TextClassifier(**tiny).fit(texts[:60], labels[:60]).score(texts[60:], labels[60:])]


def test_a_grid_is_searched_in_a_pipeline(reviews: Reviews, tiny: dict[str, Any]) -> None:
    steps = Pipeline([("shout", FunctionTransformer(shout)), ("model", TextClassifier(**tiny))])
    search = GridSearchCV(steps, {"model__lr": [1e-9, 0.01], "model__epochs": [4]}, cv=2).fit(*reviews)
    assert search.best_params_ == {"model__lr": 0.01, "model__epochs": 4}
    assert search.score(*reviews) > 0.9
    assert search.best_estimator_["model"].predict(shout(reviews[0])).tolist() == search.predict(reviews[0]).tolist()


def test_other_processes_fit_and_send_back_what_they_have_fitted(reviews: Reviews, tiny: dict[str, Any]) -> None:
    done = cross_validate(TextClassifier(**tiny), *reviews, cv=2, n_jobs=2, return_estimator=True)
    here = TextClassifier(**tiny)
    assert [one.predict(reviews[0]).shape for one in done["estimator"]] == [(120,), (120,)]
    assert len({one.run_.path for one in done["estimator"]}) == 2
    assert np.array_equal(done["estimator"][0].predict_proba(reviews[0]), here.fit(*half(reviews)).predict_proba(reviews[0]))


def half(reviews: Reviews) -> tuple[list[str], list[str]]:
    from sklearn.model_selection import StratifiedKFold

    train, _ = next(StratifiedKFold(2).split(*reviews))
    return [reviews[0][index] for index in train], [reviews[1][index] for index in train]


def test_a_clone_has_the_settings_and_nothing_that_was_learned(fitted: TextClassifier) -> None:
    other = clone(fitted)
    assert other.get_params() == fitted.get_params()
    assert not hasattr(other, "run_")
    assert other.set_params(epochs=9).get_params()["epochs"] == 9
    assert repr(fitted).startswith("TextClassifier(batch_size=8, config={'optim.layer_decay': 1.0, 'threads': 1},")


# --- copies, pickles, folders ---


def test_copies_share_a_folder_that_goes_with_the_last(reviews: Reviews, tiny: dict[str, Any]) -> None:
    first = TextClassifier(**(tiny | {"epochs": 1})).fit(*reviews)
    expected, folder = first.predict_proba(reviews[0]), first.run_.path
    second = copy.deepcopy(first)
    assert second.run_.path == folder
    del first
    gc.collect()
    assert np.array_equal(second.predict_proba(reviews[0]), expected)
    assert folder.is_dir()
    second.fit(*reviews)
    gc.collect()
    assert not folder.exists() and not folder.parent.exists()
    assert second.run_.path.is_dir()


def test_a_pickle_needs_no_folder(fitted: TextClassifier, reviews: Reviews, tmp_path: Path) -> None:
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    restored = joblib.load(tmp_path / "fitted.joblib")
    assert restored.run_.path != fitted.run_.path
    assert np.array_equal(restored.predict_proba(reviews[0]), fitted.predict_proba(reviews[0]))
    assert restored.report().html == fitted.report().html
    files = [{file.relative_to(run.path) for file in run.path.rglob("*")} for run in (restored.run_, fitted.run_)]
    assert files[0] == files[1] - {Path(".lock")}


def test_a_child_process_does_not_remove_the_folder() -> None:
    run = KeptRun.temporary()
    child = os.fork()
    if child == 0:
        run.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert run.path.is_dir()
    run.remove()
    assert not run.path.exists()


def test_every_fit_has_a_run_folder_of_its_own(reviews: Reviews, tiny: dict[str, Any], tmp_path: Path) -> None:
    asked = tiny | {"epochs": 1, "config": {"threads": 1, "out": str(tmp_path / "mine")}}
    estimator = TextClassifier(**asked).fit(*reviews)
    assert estimator.run_.path == tmp_path / "mine"
    assert clone(estimator).fit(*reviews).run_.path == tmp_path / "mine-2"
    del estimator
    gc.collect()
    assert (tmp_path / "mine" / "result.json").is_file()
    assert free_folder(str(tmp_path / "mine")) == tmp_path / "mine-3"


def test_a_saved_estimator_is_a_run_folder_and_a_model_folder(fitted: TextClassifier, reviews: Reviews, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "saved")
    expected = fitted.predict(reviews[0]).tolist()
    classify = pipeline("text-classification", model=str(folder / "model"))
    assert [answer["label"] for answer in classify(reviews[0])] == expected
    AutoModelForSequenceClassification.from_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(folder / "model")
    assert (folder / "report.html").is_file()
    for source in (folder, folder / "model"):
        loaded = TextClassifier.load(source)
        assert np.array_equal(loaded.predict_proba(reviews[0]), fitted.predict_proba(reviews[0]))
        assert loaded.predict(reviews[0]).tolist() == expected
    with pytest.raises(ConfigError, match=r"folder: .* already holds something. Fix: name a new folder"):
        fitted.save(folder)
    with pytest.raises(ConfigError, match="a model folder has no report"):
        TextClassifier.load(folder / "model").report()


def test_a_loaded_estimator_knows_its_classes_and_trains_as_before(reviews: Reviews, tiny: dict[str, Any], tmp_path: Path) -> None:
    texts, labels = reviews[0], [10 if label == "pos" else 9 for label in reviews[1]]
    first = TextClassifier(**(tiny | {"epochs": 2}), random_state=5).fit(texts, labels)
    loaded = TextClassifier.load(first.save(tmp_path / "saved"))
    assert loaded.classes_.tolist() == [9, 10]
    assert loaded.predict(texts).tolist() == first.predict(texts).tolist()
    again = clone(loaded).set_params(verbose=False).fit(texts, labels)
    assert np.array_equal(again.predict_proba(texts), first.predict_proba(texts))


def test_any_finished_run_is_loaded(tmp_path: Path, reviews: Reviews) -> None:
    config = dataclasses.replace(transformer_sentiment.tiny(), epochs=1, threads=1, out=str(tmp_path / "run"))
    transformer_sentiment.run(config)
    loaded = TextClassifier.load(tmp_path / "run")
    assert loaded.classes_.tolist() == ["neg", "pos"]
    assert loaded.config == dataclasses.replace(
        config, out=None, data=dataclasses.replace(config.data, train="demo:rotten_tomatoes")
    )
    for wrong, said in ((TextRegressor, "load it with TextClassifier"), (ImageClassifier, "load it with TextClassifier")):
        with pytest.raises(ConfigError, match=said):
            wrong.load(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds no finished model"):
        TextClassifier.load(tmp_path)
    (tmp_path / "run" / "estimator.json").write_text("{")
    with pytest.raises(ConfigError, match=r"estimator.json: cannot be read"):
        TextClassifier.load(tmp_path / "run")


# --- what is seen ---


def test_nothing_is_printed_unless_it_is_asked_for(
    reviews: Reviews, tiny: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    texts, labels = reviews[0], [f"{label}{index % 2}" for index, label in enumerate(reviews[1])]  # four, the model has two
    quiet = TextClassifier(**(tiny | {"epochs": 1})).fit(texts, labels)
    quiet.predict(texts)
    assert capfd.readouterr() == ("", "")
    loud = TextClassifier(**(tiny | {"epochs": 1, "verbose": True})).fit(texts, labels)
    out, err = capfd.readouterr()
    assert "split: train 108, validation 12" in out and "training" in err
    assert np.array_equal(loud.predict_proba(texts), quiet.predict_proba(texts))


def test_warnings_of_a_quiet_run_are_heard() -> None:
    import warnings

    from nlpbp.estimators.surroundings import undisturbed

    with pytest.warns(UserWarning, match="heed me"), undisturbed(verbose=False):
        warnings.warn("heed me", stacklevel=1)


def test_a_notebook_shows_the_verdict_the_scores_and_the_report(fitted: TextClassifier) -> None:
    shown = fitted._repr_mimebundle_()
    page = shown["text/html"]
    assert page == fitted._repr_html_()
    assert "On 12 validation examples, 100.0% of the answers are right (95 % interval" in page
    assert "the most frequent answer" in page and "TF-IDF" in page
    assert f'href="file://{fitted.run_.path.resolve()}/report.html"' in page
    assert shown["text/plain"] == repr(fitted)
    report = fitted.report()
    advice = fitted.run_.result()["advice"]
    assert fitted.advice_ == [f"{one['message']}. {one['fix'][0].upper()}{one['fix'][1:]}." for one in advice]
    assert not hasattr(TextClassifier(), "advice_")
    assert Path(report) == report.path == fitted.run_.path / "report.html"
    assert report.html.lower().startswith("<!doctype html>")
    assert report._repr_html_().startswith("<iframe srcdoc=") and "<script" not in report._repr_html_()


def test_before_fit_a_notebook_shows_scikit_learns_diagram() -> None:
    assert "sk-top-container" in TextClassifier()._repr_html_()


def test_what_is_shown_is_escaped(fitted: TextClassifier, tmp_path: Path) -> None:
    folder = tmp_path / "<b>"
    shutil.copytree(fitted.run_.path, folder)
    result = json.loads((folder / "result.json").read_text())
    bad = "<script>alert(1)</script>"
    result["baselines"] = {bad: result["baselines"]["majority"]}
    for kind in ("metrics", "intervals"):
        result[kind]["validation"][bad] = result[kind]["validation"]["accuracy"]
    result["advice"] = [{"practice": "D4", "level": "note", "module": "result.json", "message": bad, "fix": "remove it"}]
    (folder / "result.json").write_text(json.dumps(result))
    assert TextClassifier.load(folder).advice_ == [f"{bad}. Remove it."]
    page = fitted_html(repr(TextClassifier(model="<i>")), folder)
    assert "<script" not in page and "<b>" not in page and "<i>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


def test_a_folder_that_has_gone_is_told_but_not_in_a_notebook(reviews: Reviews, tiny: dict[str, Any], tmp_path: Path) -> None:
    estimator = TextClassifier(**(tiny | {"epochs": 1})).fit(*reviews)
    shutil.rmtree(estimator.run_.path)
    assert "sk-top-container" in estimator._repr_html_()
    for keep in (lambda: estimator.save(tmp_path / "saved"), lambda: joblib.dump(estimator, tmp_path / "pickled")):
        with pytest.raises(ConfigError, match="the folder of the fit has gone"):
            keep()
