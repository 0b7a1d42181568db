"""Answer for new texts or images with a finished run, or with the mean of several.

nlpbp predict runs/transformer_sentiment-1 --data new.csv --out predictions.csv
echo "a joy from start to end" | nlpbp predict runs/transformer_sentiment-1
nlpbp predict runs/forward runs/backward --data new.csv
nlpbp predict runs/restarts --snapshots --data new.csv
nlpbp predict runs/transformer_sentiment-1 --data labelled.csv --views windows head_tail
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlpbp.cli.parsing import known_recipes
from nlpbp.modalities import view_names, views_in_words

if TYPE_CHECKING:
    from nlpbp.data.columns import Examples
    from nlpbp.inference.trained import Classifier


def make_parser(program: str) -> argparse.ArgumentParser:
    """Declare the flags."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=program,
        description="Answer for new texts or images with a finished run, or with the mean of several.",
    )
    parser.add_argument("run", nargs="+", help="a run folder, or a model folder; of several the mean probabilities or values count")
    parser.add_argument("--snapshots", action="store_true", help="the mean of the models that the one run kept after its cycles")
    parser.add_argument(
        "--data",
        help="a file with texts, or a folder or file of images, as for training (default: standard input, a text or a path a line)",
    )
    parser.add_argument("--out", help="a .csv, .tsv, .jsonl or .parquet file to write (default: standard output)")
    parser.add_argument(
        "--text", nargs="+", default=[], help="the column of texts or images, two for a pair (default: as in training)"
    )
    parser.add_argument("--label", help="a column to score against (default: as in training, where it is there)")
    parser.add_argument(
        "--views",
        nargs="+",
        choices=view_names(),
        default=[],
        help=f"also answer for other views and take the mean: {views_in_words()}; "
        "passes with dropout; says what that costs and, on labelled data, brings",
    )
    parser.add_argument(
        "--fit_weights", help="a labelled file to fit the weights of models and views on: validation data, never test"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all physical cores)")
    return parser


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(program)
    given = parser.parse_args(arguments)
    if given.threads is not None and given.threads < 1:
        parser.error("--threads must be 1 or more")
    if given.snapshots and len(given.run) > 1:
        parser.error("--snapshots are of one run")
    if given.fit_weights and not (given.views or given.snapshots or len(given.run) > 1):
        parser.error("--fit_weights needs several runs, --snapshots or --views")
    return given


def answer(arguments: Sequence[str], program: str = "nlpbp predict") -> None:
    """Load, read, predict, write, score."""
    given = parse(arguments, program)
    known_recipes()
    from nlpbp.data.exports import printable
    from nlpbp.inference import predict, prediction_files, trained
    from nlpbp.train.setup import start

    if given.out:
        prediction_files.check_predictions_file(Path(given.out))
    accelerator = start(seed=0, precision="fp32", threads=given.threads)
    if given.snapshots:
        classifiers = trained.load_snapshots(given.run[0], accelerator=accelerator)
    else:
        classifiers = trained.load_runs(given.run, accelerator=accelerator)
    classifier = trained.combined(classifiers)
    piped = b"" if given.data else sys.stdin.buffer.read()
    table = predict.read_data(classifiers, given.data, piped=piped, column=given.text)
    notes: list[str] = []
    examples = predict.read_texts(classifier, table, text=given.text, label=given.label, notes=notes)
    print(*map(printable, notes), sep="\n", end="\n" if notes else "", file=sys.stderr)
    weights = predict.member_weights(len(classifiers), len(given.views))
    if given.fit_weights:
        labelled = data_to_fit_on(given, classifiers, classifier, examples)
        weights = predict.fitted_weights(classifiers, labelled, views=given.views, accelerator=accelerator)
        shares = zip(predict.member_names(len(classifiers), given.views), weights.tolist(), strict=True)
        print("weights: " + ", ".join(f"{name} {share:.2f}" for name, share in shares), file=sys.stderr)
    members, factor = predict.outputs_of_members(classifiers, examples, views=given.views, accelerator=accelerator)
    outputs = predict.average_members(members, weights=weights)
    if len(members) > 1:
        print(predict.gain_line(classifier, examples, members[0], outputs, factor=factor), file=sys.stderr)
    write(predict.predictions(classifier, examples, outputs), out=given.out)
    if examples.targets is not None:
        print("\n".join(predict.score_examples(classifier, examples, outputs)), file=sys.stdout if given.out else sys.stderr)
        count_test_use(given.run, examples, by=program)


def data_to_fit_on(
    given: argparse.Namespace, classifiers: Sequence[Classifier], classifier: Classifier, examples: Examples
) -> Examples:
    """Read the labelled data that weights are fitted on.

    Raises `ConfigError` for the test set of a run that answers; a warning where they are the examples that are then scored.
    """
    from nlpbp.core.errors import ConfigError, escape
    from nlpbp.data.splits import text_keys
    from nlpbp.inference import predict
    from nlpbp.runs.held_out import is_test_part

    rows = predict.read_data(classifiers, given.fit_weights, column=given.text, split="validation")
    labelled = predict.read_texts(classifier, rows, text=given.text, label=given.label)
    for run in given.run:
        if is_test_part(Path(run), labelled):
            raise ConfigError(
                f"holds the test set of {escape(run, limit=None)}: its score would be of what was chosen by it",
                column="fit_weights",
                hint="give the validation data",
            )
    if set(text_keys(labelled)) == set(text_keys(examples)):
        print("warning: the weights are fitted on what is scored, which flatters them", file=sys.stderr)
    return labelled


def write(columns: dict[str, list[Any]], *, out: str | None) -> None:
    """Write predictions to a file, or print a line for each."""
    from nlpbp.core.errors import escape
    from nlpbp.inference.prediction_files import write_predictions

    if out:
        write_predictions(columns, Path(out))
        print(f"{len(columns['prediction']):,} predictions written to {escape(out, limit=None)}")
        return
    for values in zip(*(columns[name] for name in columns if name not in ("id", "reference")), strict=True):
        print(*(f"{value:.4f}" if isinstance(value, float) else escape(str(value), limit=None) for value in values), sep="\t")


def count_test_use(runs: Sequence[str], examples: Examples, *, by: str) -> None:
    """Count the scoring for each run whose test set these examples are, and say how many there have been."""
    from nlpbp.core.errors import escape
    from nlpbp.runs.held_out import add_test_use

    for run in runs:
        if uses := add_test_use(Path(run), examples, by=by):
            print(
                f"the test set of {escape(run, limit=None)} has now been scored {uses} times; do not choose by it",
                file=sys.stderr,
            )
