"""The documentation holds together: the site builds, links and anchors lead somewhere, and what it names exists."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MAX_README = 150  # lines
AVOIDED = ("medium", "floors", "house words", "shelf", "validation part", "test part", "training part")
PRACTICE = re.compile(
    r"^\| (?P<id>[A-Z]\d+) \| .*? \| `(?P<where>[^`]+)` \| `[^`]+` \| `(?P<test>[^`]+)` \| \[.*\]\((?P<page>[^)]+)\) \|$", re.M
)


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not broken_links(page, text_of(page))


def test_a_broken_link_is_noticed() -> None:
    page = ROOT / "README.md"
    text = "[a](docs/nothing.md) [b](docs/scale.md#nothing) [c](docs/scale.md) [d](docs/scale.md#slurm) [e](https://example.com)"
    assert broken_links(page, text) == ["docs/nothing.md", "docs/scale.md#nothing"]


def test_every_page_can_be_reached_from_the_overview_and_the_site() -> None:
    docs, site = ROOT / "docs", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    overviews = [docs / "index.md", docs / "benchmarks" / "index.md"]
    linked = {(page.parent / link).resolve() for page in overviews for link in LINK.findall(page.read_text(encoding="utf-8"))}
    pages = set(docs.rglob("*.md"))
    assert not pages - linked - {docs / "index.md"}
    assert not [page for page in pages if f" {page.relative_to(docs)}\n" not in site]


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    # Not with --quiet, which also silences what --strict counts.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"index.html", "practices.html", "quickstart.ipynb", "images"} <= {path.name for path in tmp_path.iterdir()}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(https?://(?!squidfunk)[^"]+)"', page)  # but for the theme's own mention


def test_the_readme_is_short_and_its_picture_small() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= MAX_README
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert (ROOT / picture).stat().st_size < 150_000


def test_the_table_has_the_33_practices_and_names_what_exists() -> None:
    page = ROOT / "docs" / "practices.md"
    rows = [match.groupdict() for match in PRACTICE.finditer(page.read_text(encoding="utf-8"))]
    assert len({row["id"] for row in rows}) == len(rows) == 33
    for row in rows:
        assert (ROOT / row["where"]).is_file(), row
        assert (ROOT / row["test"]).is_file(), row
        text = (page.parent / row["page"].partition("#")[0]).read_text(encoding="utf-8")
        assert re.search(rf"\b{row['id']}\b", text), row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:scripts|recipes|nlpbp|tests|docs)/[\w./-]*)`", text_of(page))
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_layers_of_contributing_are_those_that_are_tested() -> None:
    table = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.M)
    written = {int(number): tuple(re.findall(r"`([\w.]+)`", packages)) for number, packages in table}
    spec = importlib.util.spec_from_file_location("layers", ROOT / "tests" / "test_layers.py")
    assert spec is not None
    assert spec.loader is not None
    layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layers)
    assert written == dict(enumerate(layers.LAYERS, start=1))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "SECURITY.md"], ids=lambda page: page.name)
def test_pages_use_the_terms_of_the_field(page: Path) -> None:
    text = text_of(page).lower()
    assert not [word for word in AVOIDED if re.search(rf"\b{word}s?\b", text)]
