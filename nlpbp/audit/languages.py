"""The languages of a sample of texts, by py3langid (practice D3), which the extra `audit` installs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from nlpbp.audit.rows import AuditFinding, Rows, counted, examples_of, level_of, nothing

SAMPLE = 2000  # texts of all parts: about a second
LOOKED_AT = 500  # characters
MIN_LETTERS = 60  # minimum letters of a text for language identification: "so dull" is classified as Italian
MIN_PROBABILITY = 0.95


def language_mix(parts: Sequence[Rows], *, seed: int = 0) -> AuditFinding:
    """Count a sample of the texts by language; the finding is rows that are not in the majority language.

    Texts that are too short, or that py3langid is not confident about, are left out. Without the package the finding says how to
    install it.
    """
    name, title = "languages", "languages"
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return nothing(name, title, "pip install 'nlpbp[audit]' to identify languages with the same script")
    order = np.random.default_rng(seed).permutation(sum(map(len, parts)))
    drawn = (_place(parts, int(number)) for number in order)
    places = sorted(islice((place for place in drawn if _letters(*place) >= MIN_LETTERS), SAMPLE), key=lambda p: (p[0].part, p[1]))
    if not places:
        return nothing(name, title, f"no text has the {MIN_LETTERS} letters that are needed to identify its language")
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    told = [identifier.classify(part.texts[index][:LOOKED_AT]) for part, index in places]
    sure = [(place, language) for place, (language, share) in zip(places, told, strict=True) if share >= MIN_PROBABILITY]
    counts = Counter(language for _, language in sure)
    most = counts.most_common(1)[0][0] if counts else ""
    others = [place for place, language in sure if language != most]
    share, unsure = len(others) / max(1, len(sure)), len(told) - len(sure)
    return AuditFinding(
        id=name,
        title=title,
        level=level_of(len(others), share, most="note"),
        count=len(others),
        share=share,
        message=f"of {len(told):,} texts: {counted(counts)}" + (f", unsure {unsure:,}" if unsure else ""),
        fix="check that the model knows these languages, and look at the score of each (--data.slices)",
        examples=examples_of([(part.references[index], part.texts[index]) for part, index in others]),
        details=dict(counts),
    )


def _place(parts: Sequence[Rows], number: int) -> tuple[Rows, int]:
    for part in parts:
        if number < len(part):
            return part, number
        number -= len(part)
    raise IndexError(number)


def _letters(part: Rows, index: int) -> int:
    return sum(map(str.isalpha, part.texts[index][:LOOKED_AT]))
