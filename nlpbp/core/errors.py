"""Errors that a user can cause and fix: each names the place, the value and the fix.

A script turns an `NlpbpError` into one message and its `code` as the exit status, without a traceback.
"""

from __future__ import annotations

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the run was asked to stop, saved a checkpoint, and can be resumed
MAX_EXCERPT = 80  # characters


class NlpbpError(ValueError):
    """A problem with the input, described so that the reader can fix it.

    `file`, `row` and `column` say where (rows as a text editor counts lines, from 1), `excerpt` shows the value
    (cut and escaped, so that it cannot carry terminal commands), `hint` says what to do.

    >>> print(DataError("the label is missing", file="reviews.csv", row=7, column="label", hint="fill it in"))
    reviews.csv, row 7, column 'label': the label is missing. Fix: fill it in
    """

    code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        row: int | None = None,
        column: str | None = None,
        excerpt: object = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.row = row
        self.column = column
        self.excerpt = None if excerpt is None else escape(str(excerpt))
        self.hint = hint
        super().__init__(self._text())

    @staticmethod
    def _column_words(column: str) -> str:
        return f"column '{column}'"

    def _text(self) -> str:
        place = [
            None if self.file is None else escape(self.file, limit=None),
            None if self.row is None else f"row {self.row}",
            None if self.column is None else self._column_words(escape(self.column)),
        ]
        where = ", ".join(part for part in place if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.excerpt is not None:
            text += f" (found: '{self.excerpt}')"
        return f"{text}. Fix: {self.hint}" if self.hint else text


class ConfigError(NlpbpError):
    """A setting is invalid, contradicts another one, or is not possible on this machine; `column` is its dotted name."""

    code = 2

    @staticmethod
    def _column_words(column: str) -> str:
        return f"--{column}"


class DataError(NlpbpError):
    """A data file cannot be read in its format."""

    code = 3


class CheckpointError(NlpbpError):
    """A checkpoint or a model folder is incomplete, damaged or from another run."""

    code = 4


class NumericError(NlpbpError):
    """Training produced a number that is not finite; `example_ids` are the examples of the step or micro-batch."""

    code = 5
    example_ids: tuple[int, ...] = ()


class DistributedError(NlpbpError):
    """The processes of a run cannot communicate, or disagree."""

    code = 6


def escape(text: str, *, limit: int | None = MAX_EXCERPT) -> str:
    r"""Make `text` safe to print: control characters escaped, at most `limit` characters.

    >>> escape("a\x1b[2J")
    'a\\x1b[2J'
    """
    shown = text if limit is None or len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
