"""TF-IDF features of texts: words and word pairs, and character n-grams for languages without spaces."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

MAX_FEATURES = 100_000  # the most frequent ones are as good as all 366,000 of IMDb
MIN_TEXTS_TO_PRUNE = 100  # below, a word seen once is most of what there is
MAX_WORD_CHARACTERS = 10_000  # of a text: about 1,700 English words; the time grows with it
MAX_NGRAM_CHARACTERS = 1_000


def fit_vectorizers(texts: Sequence[str]) -> tuple[list[TfidfVectorizer], list[sparse.csr_matrix]]:
    """Return the vectorizers that found a vocabulary, and what each makes of these texts."""
    analyzers = ("word", "char") if _hardly_any_spaces(texts) else ("word",)
    tried = [_fit_vectorizer(analyzer, _cut(texts, analyzer)) for analyzer in analyzers]
    fitted = [pair for pair in tried if pair is not None]
    return [vectorizer for vectorizer, _ in fitted], [features for _, features in fitted]


def _fit_vectorizer(analyzer: str, texts: list[str]) -> tuple[TfidfVectorizer, sparse.csr_matrix] | None:
    for min_df in (2, 1) if len(texts) >= MIN_TEXTS_TO_PRUNE else (1,):
        vectorizer = _vectorizer(analyzer, min_df=min_df)
        try:
            return vectorizer, vectorizer.fit_transform(texts)  # in one pass: half the time of long texts
        except ValueError:  # scikit-learn's only way to say that no term is left
            continue
    return None


def _vectorizer(analyzer: str, *, min_df: int) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=analyzer,
        token_pattern=r"(?u)\b\w+\b" if analyzer == "word" else None,  # one-letter words count ("I", "a")
        ngram_range=(1, 2) if analyzer == "word" else (1, 3),
        min_df=min_df,
        max_features=MAX_FEATURES,
        sublinear_tf=True,
    )


def vectorized(vectorizers: list[TfidfVectorizer], texts: Sequence[str]) -> sparse.csr_matrix:
    """Return the features of other texts."""
    parts = [vectorizer.transform(_cut(texts, vectorizer.analyzer)) for vectorizer in vectorizers]
    return sparse.hstack(parts, format="csr")


def _cut(texts: Sequence[str], analyzer: str) -> list[str]:
    limit = MAX_WORD_CHARACTERS if analyzer == "word" else MAX_NGRAM_CHARACTERS
    return [text[:limit] for text in texts]


def _hardly_any_spaces(texts: Sequence[str]) -> bool:
    """Whether fewer than one character in twenty is a space: English has one in six, Chinese next to none."""
    cut = _cut(texts, "char")
    return sum(text.count(" ") for text in cut) < 0.05 * sum(len(text) for text in cut)
