"""Findings on single texts: missing, broken, unusually long, or in another script."""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlpbp.audit.duplicates import Words, split_words
from nlpbp.audit.rows import AuditFinding, Rows, all_rows, counted, examples_of, level_of, num_rows, percent

try:
    from ftfy import fix_encoding
except ImportError:
    fix_encoding = None  # type: ignore[assignment]

LOST = {"missing", "empty", "white space"}  # what a label must not be
NA_WORDS = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing"}
FENCE = 3.0  # interquartile ranges beyond the quartiles: Tukey's outer fence, on the logarithm of the length

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]")
TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(\s[^<>]*)?/?>")
ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")

# The first code points of the blocks of the most common scripts; characters between blocks count as the block before.
SCRIPTS = (
    (0x0041, "Latin"),
    (0x0370, "Greek"),
    (0x0400, "Cyrillic"),
    (0x0530, "Armenian"),
    (0x0590, "Hebrew"),
    (0x0600, "Arabic"),
    (0x0780, "other"),
    (0x0900, "Devanagari"),
    (0x0980, "Bengali"),
    (0x0A00, "other"),
    (0x0B80, "Tamil"),
    (0x0C00, "other"),
    (0x0E00, "Thai"),
    (0x0E80, "other"),
    (0x10A0, "Georgian"),
    (0x1100, "Hangul"),
    (0x1200, "Ethiopic"),
    (0x1380, "other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, "other"),
    (0x3040, "Han and kana"),
    (0x3130, "Hangul"),
    (0x3190, "Han and kana"),
    (0xA000, "other"),
    (0xAC00, "Hangul"),
    (0xD7B0, "other"),
    (0xF900, "Han and kana"),
    (0xFB00, "Latin"),
    (0xFB1D, "Hebrew"),
    (0xFB50, "Arabic"),
    (0xFF00, "Latin"),
    (0xFF66, "Han and kana"),
    (0xFFA0, "other"),
    (0x20000, "Han and kana"),
)
SCRIPT_STARTS = [start for start, _ in SCRIPTS]


def missing_values(parts: Sequence[Rows]) -> AuditFinding:
    """Find missing texts and labels, and distinguish None, "", white space and words such as NA.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> cells = ["so good", "", None, " ", "N/A"]
    >>> print(missing_values([rows_of(Table("list", {"text": cells, "label": [1, 0, 1, 0, 1]}, [1, 2, 3, 4, 5]))]).message)
    text: empty 1, missing 1, white space 1, reads as missing 1
    """
    found: dict[str, Counter[str]] = {}
    places, is_refused = [], False
    for part in parts:
        columns = [*part.fields.text, *([part.fields.label] if part.labels is not None and part.fields.label else [])]
        for column in columns:
            kinds = [_missing_kind(value) for value in part.table.columns[column]]
            found.setdefault(column, Counter()).update(kind for kind in kinds if kind)
            places += [(part, index, column, kind) for index, kind in enumerate(kinds) if kind]
            refused = _refused_kinds(part, column)
            is_refused = is_refused or not refused.isdisjoint(kinds)
    count = len({(part.part, index) for part, index, _, _ in places})
    share = count / max(1, num_rows(parts))
    message = "; ".join(f"{column}: {counted(kinds)}" for column, kinds in found.items() if kinds)
    return AuditFinding(
        id="missing_values",
        title="missing and empty values",
        level="warning" if is_refused else level_of(count, share, most="note" if parts[0].fields.kinds else "warning"),
        count=count,
        share=share,
        message=message or "no text or label is missing",
        fix=f"fill them in, or remove the rows; {_what_training_does(parts[0])}",
        examples=examples_of((part.references[index], f"{column}: {kind}") for part, index, column, kind in places),
        details={column: dict(kinds) for column, kinds in found.items()},
    )


def _refused_kinds(part: Rows, column: str) -> set[str]:
    """Describe what training does with missing values; in composed fields they are marked."""
    if column == part.fields.label:
        return {"missing"} if part.fields.target_type == "multilabel-indicator" else LOST
    return set() if part.fields.kinds else {"missing"}


def _what_training_does(train: Rows) -> str:
    if train.fields.kinds:
        return "fields that are missing are marked in the text, and a missing label stops training"
    if train.labels is None:
        return "a language model is not trained on empty texts, and stops at missing ones"
    return "training stops at a missing text or label, warns of empty texts, and keeps what only reads as missing"


def _missing_kind(value: Any) -> str:
    if value is None or value != value:
        return "missing"
    if not isinstance(value, str):
        return ""
    stripped = value.strip()
    if stripped:
        return "reads as missing" if len(stripped) < 8 and stripped.casefold() in NA_WORDS else ""
    return "white space" if value else "empty"


def text_lengths(parts: Sequence[Rows], *, max_words: int | None = 256, words: Words | None = None) -> AuditFinding:
    """Find texts of unusual length, and the share of words lost by truncation to `max_words` (None: no truncation).

    Unusual means beyond the outer fence of Tukey (1977) on the logarithms: three interquartile ranges from the quartiles. A word is
    about 1.3 word pieces in English, and more in other languages.
    """
    words = words or split_words([text for part in parts for text in part.texts])
    lengths = words.lengths
    positive = np.log(lengths[lengths > 0]) if lengths.any() else np.zeros(1)
    low, middle, high = np.quantile(positive, [0.25, 0.5, 0.75])
    fence = FENCE * max(high - low, np.log(2))  # for texts of about equal length: eight times longer is unusual
    outliers = np.flatnonzero((lengths > np.exp(high + fence)) | ((lengths > 0) & (lengths < np.exp(low - fence))))
    beyond = np.maximum(0, lengths - (lengths.max(initial=0) if max_words is None else max_words))
    num_cut, lost = int((beyond > 0).sum()), int(beyond.sum())
    share = len(outliers) / max(1, len(words))
    places = list(all_rows(parts)) if len(outliers) else []
    shown = ((i, places[i]) for i in outliers[np.argsort(-lengths[outliers], kind="stable")])
    cut = "" if max_words is None else f"; a cut at {max_words} words shortens {percent(num_cut / max(1, len(words)))} of the texts"
    return AuditFinding(
        id="text_lengths",
        title="lengths of texts",
        level="note" if len(outliers) or num_cut else "fine",
        count=len(outliers),
        share=share,
        message=f"{len(outliers):,} texts are unusually long or short (median {np.exp(middle):.0f} words){cut}"
        + (f" and loses {percent(lost / max(1, int(lengths.sum())))} of all words" if lost else ""),
        fix="check whether the longest are really single texts"
        + ("" if max_words is None else "; raise --data.max_length if the important part comes late"),
        examples=examples_of((part.references[index], f"words: {lengths[i]:,}") for i, (part, index) in shown),
        details={
            "quantiles": {f"{q:g}": float(np.quantile(lengths, q)) if len(lengths) else 0.0 for q in (0, 0.25, 0.5, 0.75, 0.95, 1)},
            "max_words": max_words,
            "cut_texts": num_cut,
            "lost_words": lost,
        },
    )


def encoding_trouble(parts: Sequence[Rows]) -> AuditFinding:
    """Find remains of a wrong encoding or a web page in texts: mojibake, replacement and control characters, tags, entities.

    `rows` are the training rows that `repair_text` changes.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> texts = ["cafÃ© au lait", "salt &amp; pepper", "café"]
    >>> encoding_trouble([rows_of(Table("list", {"text": texts}, [1, 2, 3]))]).message
    'mojibake 1, entities 1'
    """
    counts: Counter[str] = Counter()
    places: list[tuple[Rows, int, str]] = []
    repaired: dict[int, str] = {}
    for part, index in all_rows(parts):
        text = part.texts[index]
        kinds = [name for name, shows in TROUBLES.items() if shows(text)]
        if kinds:
            counts.update(kinds)
            places.append((part, index, ", ".join(kinds)))
            if part is parts[0] and (whole := repair_text(text)) != text:
                gone = [kind for kind in kinds if not TROUBLES[kind](whole)]
                repaired[index] = f"encoding repaired: {', '.join(gone) or 'in part'}"
    share = len(places) / max(1, num_rows(parts))
    spoilt = sum(any(name in kinds for name in ("mojibake", "replacement", "control")) for _, _, kinds in places)
    return AuditFinding(
        id="encoding",
        title="encoding and markup",
        level="warning" if level_of(spoilt, spoilt / max(1, num_rows(parts))) == "warning" else "note" if places else "fine",
        count=len(places),
        share=share,
        message=(counted(counts) or "no trace of a wrong encoding or of markup")
        + ("; pip install 'nlpbp[audit]' finds mojibake too" if fix_encoding is None else ""),
        fix="read the source with its own encoding; in a plan `encoding` repairs mojibake, entities, composed letters, no tags",
        examples=examples_of((part.references[index], f"{kinds}: {part.texts[index]}") for part, index, kinds in places),
        details=dict(counts),
        rows=repaired,
    )


def repair_text(text: str) -> str:
    """Undo mojibake (with the extra `audit`), replace HTML entities, and normalise to NFC; change nothing else.

    >>> repair_text("cafÃ© &amp; cre\u0300me"), repair_text("SÃO PAULO")
    ('café & crème', 'SÃO PAULO')
    """
    if text.isascii() and "&" not in text:
        return text
    return unicodedata.normalize("NFC", ENTITY.sub(lambda found: html.unescape(found[0]), without_mojibake(text)))


def without_mojibake(text: str) -> str:
    """Undo mojibake with ftfy (the extra `audit`); without the package, return the text unchanged.

    >>> without_mojibake("cafÃ©"), without_mojibake("DÃ©jÃ\\xa0 vu"), without_mojibake("MARQUÉ…")
    ('café', 'Déjà vu', 'MARQUÉ…')
    """
    if text.isascii() or fix_encoding is None:
        return text
    return fix_encoding(text)


TROUBLES: dict[str, Callable[[str], bool]] = {
    "mojibake": lambda text: without_mojibake(text) != text,
    "replacement": lambda text: "\ufffd" in text,
    "control": lambda text: not text.isprintable() and CONTROL.search(text) is not None,
    "tags": lambda text: "<" in text and TAG.search(text) is not None,
    "entities": lambda text: "&" in text and ENTITY.search(text) is not None,
    "not composed": lambda text: not unicodedata.is_normalized("NFC", text),
}


def script_mix(parts: Sequence[Rows]) -> AuditFinding:
    """Count texts by the script of most of their letters; the finding is rows that are not in the majority script.

    >>> from nlpbp.audit.rows import rows_of
    >>> from nlpbp.data.readers import Table
    >>> script_mix([rows_of(Table("list", {"text": ["so good", "so bad", "очень хорошо"]}, [1, 2, 3]))]).message
    'Latin 2, Cyrillic 1'
    """
    scripts = [main_script(part.texts[index]) for part, index in all_rows(parts)]
    counts = Counter(script for script in scripts if script)
    most = counts.most_common(1)[0][0] if counts else ""
    others = [place for place, script in zip(all_rows(parts), scripts, strict=True) if script not in ("", most)]
    without = len(scripts) - sum(counts.values())
    return AuditFinding(
        id="scripts",
        title="languages by their script",
        level="note" if others else "fine",
        count=len(others),
        share=len(others) / max(1, len(scripts)),
        message=counted(counts) + (f", without a letter {without:,}" if without else ""),
        fix="check that the model's tokenizer knows these scripts, and look at the score of each",
        examples=examples_of((part.references[index], part.texts[index]) for part, index in others),
        details=dict(counts),
    )


def main_script(text: str) -> str:
    """Return the script of most letters among the first 1,000 characters, "" without letters.

    >>> main_script("Привет, world"), main_script("東京へ行く"), main_script("42!")
    ('Cyrillic', 'Han and kana', '')
    """
    start = text[:1000]
    if start.isascii():
        return "Latin" if any(map(str.isalpha, start)) else ""
    letters = Counter(SCRIPTS[bisect_right(SCRIPT_STARTS, ord(c)) - 1][1] for c in start if c.isalpha())
    return letters.most_common(1)[0][0] if letters else ""
