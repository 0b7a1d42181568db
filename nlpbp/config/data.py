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
    """Data to choose the best weights by. Left out: the hub's own split, else cut from the training data."""
    test: str | None = None
    """Data to score once, at the end. Left out: the hub's own split, else cut from the training data."""
    text: tuple[str, ...] = ()
    """The text column, or two for a pair. Left out: found by name and content, and printed."""
    fields: tuple[str, ...] = ()
    """Columns that make one text together, in place of a text column: texts, numbers and dates, told apart by content and printed.
    Dates are taken apart (practice X1), what is missing is marked, and missing numbers are the training median (practice D7)."""
    label: str | None = None
    """The column to predict. Left out: found by name and content, and printed."""
    task: Task = "auto"
    """What the label column holds; auto looks at its values and says what it found. ordinal, for ordered classes such as 1 to 5
    stars, is never found but has to be named."""
    label_order: tuple[str, ...] = ()
    """All labels from the lowest to the highest, for the task ordinal. Left out: labels that are numbers are in their order."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Share of the data to cut off for validation where none is given."""
    test_share: float = 0.1
    """Share of the data to cut off for the test where none is given; 0 for no test."""
    group: str | None = None
    """Cut the data by this column, an author or a patient for instance: no two parts have rows of one group (practice D2)."""
    time: str | None = None
    """Cut the data by this column of dates or numbers: the latest rows are the test, those before them the validation."""
    slices: tuple[str, ...] = ()
    """More columns to look for errors by, a source or a product for instance: errors.json and the report compare their values."""
    value_range: tuple[float, float] | None = None
    """Of a number to predict: the lowest and the highest that there is. The model then answers within it, a twentieth beyond either
    end (practice A3)."""
    balanced_sampling: bool = False
    """Draw every class equally often, rare examples several times an epoch, in an epoch as long as before."""
    sample: float = 1.0
    """Train on this share of the training set, stratified; a smaller sample is part of every larger one (practice D1)."""
    max_length: int = 256
    """Tokens a text at most; what lies beyond is cut off, and counted."""
    truncation: Cut = "head"
    """What is read of a text that is longer: its head; its tail; a quarter from the head and the rest from the tail; or all of
    it, in windows that share half of their tokens. Each is an example in training; a text's answer is the mean of its windows'."""
    allow_change: bool = False
    """Go on with an unfinished run although its data have changed; its result is then of neither data."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Where the images and labels come from."""

    train: str = "demo:digits"
    """A folder with a sub-folder of images for each label, a .csv, .tsv, .json, .jsonl or .parquet file with paths of images (from
    the file's own folder on), a hub id, or `demo:digits` (scikit-learn's, 1,797 of 8 x 8 pixels). From Python also a pandas
    frame, a `Dataset`, a list of dicts or a dict of lists or arrays, whose images are paths, bytes, Pillow images or arrays."""
    validation: str | None = None
    """Data to choose the best weights by. Left out: the hub's own split, else cut from the training data."""
    test: str | None = None
    """Data to score once, at the end. Left out: the hub's own split, else cut from the training data."""
    image: str | None = None
    """The column of the images. Left out: found by name and content, and printed."""
    label: str | None = None
    """The column to predict. Left out: found by name and content, and printed."""
    task: ImageTask = "auto"
    """What the label column holds; auto looks at its values and says what it found."""
    label_order: tuple[str, ...] = ()
    """All labels from the lowest to the highest, for the task ordinal. Left out: labels that are numbers are in their order."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.1
    """Share of the data to cut off for validation where none is given; images that are equal byte for byte stay together."""
    test_share: float = 0.1
    """Share of the data to cut off for the test where none is given; 0 for no test."""
    group: str | None = None
    """Cut the data by this column, a patient or a camera for instance: no two parts have rows of one group (practice D2)."""
    time: str | None = None
    """Cut the data by this column of dates or numbers: the latest rows are the test, those before them the validation."""
    slices: tuple[str, ...] = ()
    """More columns to look for errors by, a camera or a place for instance: errors.json and the report compare their values."""
    balanced_sampling: bool = False
    """Draw every class equally often, rare examples several times an epoch, in an epoch as long as before."""
    sample: float = 1.0
    """Train on this share of the training set, stratified; a smaller sample is part of every larger one (practice D1)."""
    size: int | None = None
    """Height and width, in pixels, that images are brought to. Left out: a pretrained model's own; else the images' own, if all are
    squares of one size of at most 64 pixels, or 64."""
    max_pixels: int = 50_000_000
    """An image with more pixels is an error, found before it is decoded: a file of a few kB can claim terabytes."""
    allow_change: bool = False
    """Go on with an unfinished run although its data have changed; its result is then of neither data."""

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
    """Where the texts of a language model come from; labels, if there are any, are not looked at."""

    train: str = "demo:imdb"
    """A file or folder as for a classifier, a .txt file with a document a line, a folder of .txt files with a document each, a
    hub id, `demo:imdb` or `demo:rotten_tomatoes` (packaged). From Python also a pandas frame, a list of dicts, a dict of lists."""
    validation: str | None = None
    """Texts to choose the best weights by. Left out: the hub's own split, else cut from the training texts."""
    test: str | None = None
    """Texts to score once, at the end. Left out: the hub's own split, else cut from the training texts."""
    text: tuple[str, ...] = ()
    """The text column. Left out: found by name and content, and printed."""
    fields: tuple[str, ...] = ()
    """Columns that make one text together, in place of a text column, as for a classifier that is to start from this model."""
    delimiter: str | None = None
    """Of a .csv file. Left out: found from its first lines, and printed if not a comma."""
    validation_share: float = 0.05
    """Share of the texts to cut off for validation where none are given."""
    test_share: float = 0.05
    """Share of the texts to cut off for the test where none are given; 0 for no test."""
    sample: float = 1.0
    """Train on this share of the training texts; a smaller sample is part of every larger one (practice D1)."""
    allow_change: bool = False
    """Go on with an unfinished run although its texts have changed; its result is then of neither."""


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer that is trained on the training texts; it is kept for the next run on them."""

    kind: Literal["subword", "word"] | None = None
    """subword: byte pairs, with case and without unknown words; word: whole words in lower case. Left out: the tokenizer of
    --lm.init where there is one, else subword."""
    vocab_size: int = 16_000
    """Tokens at most."""
