"""What a tokenizer does not know of some texts: the commonest pieces, their script, and models that were made for it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from nlpbp.text.batches import truncating

MAX_TEXTS, MAX_TOKENS = 500, 512  # that are looked at, and of each
MULTILINGUAL = ("FacebookAI/xlm-roberta-base", "intfloat/multilingual-e5-small")
SCRIPTS: dict[str, tuple[str, str | None]] = {  # by the first word of a letter's Unicode name: its own name, a model of the hub
    "CJK": ("Chinese", "google-bert/bert-base-chinese"),
    "HIRAGANA": ("Japanese", None),
    "KATAKANA": ("Japanese", None),
    "HANGUL": ("Korean", "klue/bert-base"),
    "CYRILLIC": ("Cyrillic", "DeepPavlov/rubert-base-cased"),
    "ARABIC": ("Arabic", "aubmindlab/bert-base-arabertv02"),
    "GREEK": ("Greek", "nlpaueb/bert-base-greek-uncased-v1"),
    "DEVANAGARI": ("Devanagari", "google/muril-base-cased"),
    "HEBREW": ("Hebrew", None),
    "THAI": ("Thai", None),
    "LATIN": ("Latin", None),
}


def unknown_pieces(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, num: int = 5) -> list[str]:
    """Return the commonest words or characters of (the first of) these texts that are unknown tokens, the commonest first.

    >>> from nlpbp.text.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["a film", "a film"], kind="word")
    >>> unknown_pieces(["a фильм", "a фильм", "the film"], tokenizer)
    ['фильм', 'the']
    """
    counts: Counter[str] = Counter()
    with truncating(tokenizer, max_length=MAX_TOKENS) as backend:
        for text in texts[:MAX_TEXTS]:
            encoding = backend.encode(text)
            for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                if index == tokenizer.unk_token_id and start < end:
                    counts[text[start:end]] += 1
    return [piece for piece, _ in counts.most_common(num)]


def script_of(pieces: Iterable[str]) -> str | None:
    """Return the script that most letters of these pieces are of, as `SCRIPTS` has it; None for others, and for no letters.

    A Japanese text is known by its kana, however few they are among Chinese characters.

    >>> script_of(["不错", "很"]), script_of(["とても", "映画"]), script_of(["фильм"]), script_of(["!", "7"])
    ('CJK', 'HIRAGANA', 'CYRILLIC', None)
    """
    names = [unicodedata.name(letter, "").partition(" ")[0] for piece in pieces for letter in piece if letter.isalpha()]
    counts = Counter(name for name in names if name in SCRIPTS)
    kana = [name for name in ("HIRAGANA", "KATAKANA") if counts[name]]
    return kana[0] if kana else max(counts, key=lambda name: counts[name], default=None)


def fitting_models(script: str | None) -> str:
    """Name models of the hub that were made for a script, or for many; of Latin and unknown scripts the many.

    >>> fitting_models("CJK")
    'google-bert/bert-base-chinese, FacebookAI/xlm-roberta-base or intfloat/multilingual-e5-small'
    """
    own = SCRIPTS[script][1] if script in SCRIPTS else None
    *names, last = [own, *MULTILINGUAL] if own else MULTILINGUAL
    return f"{', '.join(names)} or {last}"
