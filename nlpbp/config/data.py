"""Config sections: where examples come from, and how texts become tokens."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from nlpbp.core.task import TASKS, target_type

if TYPE_CHECKING:
    Task = str
    ImageTask = str
else:  # the choices on the command line are those of the one table
    Task = Literal[("auto", *TASKS)]
    ImageTask = Literal[("auto", *(name for name in TASKS if target_type(name) != "continuous"))]


Cut = Literal["head", "tail", "head_tail", "windows"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the texts and labels come from."""

    train: str = "demo:rotten_tomatoes"
    """A .csv, .tsv, .json, .jsonl or .parquet file, a folder with a sub-folder of .txt files for each label, a hub id
    (`imdb`, or `glue:sst2` with its configuration), `demo:rotten_tomatoes` or `demo:imdb` (packaged). From Python also a
    pandas frame, a list of dicts or a dict of lists."""
    validation: str | None = None
    """Validation set, which chooses the best weights. Default: the hub's own split, else split off the training data."""
    test: str | None = None
    """Test set, scored once at the end. Default: the hub's own split, else split off the training data."""
    text: tuple[str, ...] = ()
    """Text column, or two for pairs of texts. Default: found by name and content, and printed."""
    fields: tuple[str, ...] = ()
    """Columns that are joined to one text, instead of a text column: texts, numbers and dates, recognised by content and printed.
    Dates are expanded (practice X1); missing values are marked, and missing numbers are the training median (practice D7)."""
    label: str | None = None
    """Label column, which is to be predicted. Default: found by name and content, and printed."""
    task: Task = "auto"
    """Task. auto infers it from the values of the label column, and prints why; ordinal (ordered classes such as 1 to 5 stars) is
    never inferred."""
    label_order: tuple[str, ...] = ()
    """All labels from the lowest to the highest, for the task ordinal. Default: numeric order; names need an order."""
    delimiter: str | None = None
    """Delimiter of a .csv file. Default: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Fraction of the data for the validation set, if none is given."""
    test_share: float = 0.1
    """Fraction of the data for the test set, if none is given; 0 for no test set."""
    group: str | None = None
    """Split by this column, an author or a patient for instance: all rows of a group are in one set (practice D2)."""
    time: str | None = None
    """Split by this column of dates or numbers: the latest rows are the test set, those before them the validation set."""
    slices: tuple[str, ...] = ()
    """Columns to slice the error analysis by, a source or a product for instance (errors.json and the report)."""
    value_range: tuple[float, float] | None = None
    """For regression: the lowest and the highest possible value. Predictions are bounded to this range plus 5 % on either side by a
    scaled sigmoid (practice A3)."""
    balanced_sampling: bool = False
    """Class-balanced sampling: every class is drawn equally often. The length of an epoch does not change."""
    fraction: float = 1.0
    """Fraction of the whole dataset, for a quick trial: each part is sampled after the split, stratified, and smaller samples are
    subsets of larger ones. Scores on different test sets cannot be compared; train_fraction leaves the test set as it is."""
    train_fraction: float = 1.0
    """Train on this fraction of the training set, stratified; smaller samples are subsets of larger ones (practice D1)."""
    eval_sample: int | None = None
    """Evaluate on a stratified sample of about so many validation examples while a classifier trains, to choose the best weights
    and to stop early. The final scores, calibration and thresholds use all. Default: all."""
    max_length: int = 256
    """Maximum tokens per text; longer texts are truncated, and counted in the log."""
    truncation: Cut = "head"
    """What is kept of longer texts: the head; the tail; head_tail, a quarter from the head and the rest from the tail; or windows:
    all of it in windows that overlap by half. Each window is a training example, and predictions are averaged over windows."""
    allow_unknown: bool = False
    """Train although the tokenizer does not know more than a fifth of the tokens, which it cannot tell apart. Without it such a run
    stops before it trains, and says which models would fit."""
    allow_change: bool = False
    """Resume an unfinished run although its data have changed; the result then mixes both."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Where the images and labels come from."""

    train: str = "demo:digits"
    """A folder with a sub-folder of images for each label, a .csv, .tsv, .json, .jsonl or .parquet file with paths of images (from
    the file's own folder on), a hub id, or `demo:digits` (scikit-learn's, 1,797 of 8 x 8 pixels). From Python also a pandas
    frame, a `Dataset`, a list of dicts or a dict of lists or arrays, whose images are paths, bytes, Pillow images or arrays."""
    validation: str | None = None
    """Validation set, which chooses the best weights. Default: the hub's own split, else split off the training data."""
    test: str | None = None
    """Test set, scored once at the end. Default: the hub's own split, else split off the training data."""
    image: str | None = None
    """Image column. Default: found by name and content, and printed."""
    label: str | None = None
    """Label column, which is to be predicted. Default: found by name and content, and printed."""
    task: ImageTask = "auto"
    """Task. auto infers it from the values of the label column, and prints why."""
    label_order: tuple[str, ...] = ()
    """All labels from the lowest to the highest, for the task ordinal. Default: numeric order; names need an order."""
    delimiter: str | None = None
    """Delimiter of a .csv file. Default: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Fraction of the data for the validation set, if none is given; images with equal bytes stay together."""
    test_share: float = 0.1
    """Fraction of the data for the test set, if none is given; 0 for no test set."""
    group: str | None = None
    """Split by this column, a patient or a camera for instance: all rows of a group are in one set (practice D2)."""
    time: str | None = None
    """Split by this column of dates or numbers: the latest rows are the test set, those before them the validation set."""
    slices: tuple[str, ...] = ()
    """Columns to slice the error analysis by, a camera or a place for instance (errors.json and the report)."""
    balanced_sampling: bool = False
    """Class-balanced sampling: every class is drawn equally often. The length of an epoch does not change."""
    fraction: float = 1.0
    """Fraction of the whole dataset, for a quick trial: each part is sampled after the split, stratified, and smaller samples are
    subsets of larger ones. Scores on different test sets cannot be compared; train_fraction leaves the test set as it is."""
    train_fraction: float = 1.0
    """Train on this fraction of the training set, stratified; smaller samples are subsets of larger ones (practice D1)."""
    eval_sample: int | None = None
    """Evaluate on a stratified sample of about so many validation examples while a classifier trains, to choose the best weights
    and to stop early. The final scores, calibration and thresholds use all. Default: all."""
    size: int | None = None
    """Height and width in pixels that images are resized to. Default: that of the pretrained model; else that of the images, if all
    are squares of one size of at most 64 pixels, or 64."""
    max_pixels: int = 50_000_000
    """An image with more pixels is an error, found before it is decoded: a file of a few kB can claim terabytes."""
    allow_change: bool = False
    """Resume an unfinished run although its data have changed; the result then mixes both."""

    @property
    def text(self) -> tuple[str, ...]:
        """The column by which rows are told apart: of images the digest of their pixels."""
        return ("image",)

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that make one example together: images never do."""
        return ()

    @property
    def value_range(self) -> None:
        """The range of a number to predict: none, for images have labels."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Where the texts of a language model come from; labels are ignored."""

    train: str = "demo:imdb"
    """A file or folder as for a classifier, a .txt file with a document a line, a folder of .txt files with a document each, a
    hub id, `demo:imdb` or `demo:rotten_tomatoes` (packaged). From Python also a pandas frame, a list of dicts, a dict of lists."""
    validation: str | None = None
    """Validation set, which chooses the best weights. Default: the hub's own split, else split off the training texts."""
    test: str | None = None
    """Test set, scored once at the end. Default: the hub's own split, else split off the training texts."""
    text: tuple[str, ...] = ()
    """Text column. Default: found by name and content, and printed."""
    fields: tuple[str, ...] = ()
    """Columns that are joined to one text, instead of a text column, as for a classifier that is to start from this model."""
    delimiter: str | None = None
    """Delimiter of a .csv file. Default: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.05
    """Fraction of the texts for the validation set, if none is given."""
    test_share: float = 0.05
    """Fraction of the texts for the test set, if none is given; 0 for no test set."""
    fraction: float = 1.0
    """Fraction of the whole dataset, for a quick trial: each part is sampled after the split. Smaller samples are subsets of larger
    ones; scores on different test sets cannot be compared, and train_fraction leaves the test set as it is."""
    train_fraction: float = 1.0
    """Train on this fraction of the training texts; smaller samples are subsets of larger ones (practice D1)."""
    allow_change: bool = False
    """Resume an unfinished run although its texts have changed; the result then mixes both."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer that is trained on the training texts, and cached for the next run on them."""

    kind: Literal["subword", "word"] | None = None
    """subword: byte pairs, with case and without unknown words; word: whole words in lower case. Default: the tokenizer of
    --lm.init if there is one, else subword."""
    vocab_size: int = 16_000
    """Maximum vocabulary size."""
