"""The report in a browser, which must be there: `pytest -m browser -n 0 tests/report/test_report_browser.py`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.image import imread

from nlpbp.report.page import audit_page, run_report
from report_pages import PAYLOADS, make_run

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000")
DARK = "--blink-settings=preferredColorScheme=0"


AUDIT = {
    "source": "a" * 200,
    "parts": {"train": 320},
    "findings": [
        {
            "id": "encoding",
            "title": payload,
            "level": level,
            "count": 3,
            "share": 0.5,
            "message": payload,
            "fix": payload,
            "examples": [{"reference": payload, "excerpt": payload}],
        }
        for payload in PAYLOADS
        for level in ("warning", "fine")
    ],
}


def browse(page: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser without a window; a machine without one fails, for the test was asked for by name."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert browser, f"install one of {', '.join(BROWSERS)}"
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, f"file://{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(shown: str, folder: Path) -> list[str]:
    """Return what the page writes to the browser's console: errors and warnings of its own, of its script and of its policy."""
    lines = browse(shown, folder, "--dump-dom", "--enable-logging=stderr", "--v=0").stderr.splitlines()
    return [line for line in lines if ":CONSOLE" in line]


def requests(shown: str, folder: Path) -> set[str]:
    """Return the addresses that a browser asks for when it opens a page, beside the page itself and its own services'."""
    log = folder / "net.json"
    browse(shown, folder, "--dump-dom", f"--log-net-log={log}", "--disable-background-networking", "--disable-sync")
    found = re.findall(r'"url":"([^"]+)"', log.read_text(encoding="utf-8", errors="replace"))
    return {url for url in found if not url.startswith(("file:", "data:", "chrome")) and "google" not in url}


def with_script(page: str, script: str) -> str:
    """Take the policy away and let a script of the test run at the end."""
    return re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", f"<script>{script}</script></body>")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run_report(make_run(tmp_path_factory.mktemp("runs") / "friendly"))


def test_no_payload_runs(tmp_path: Path) -> None:
    payloads = [payload.replace("window.__xss=1", "document.title=666") for payload in PAYLOADS]
    run = make_run(tmp_path / "hostile", labels=payloads[:12], texts=payloads, names=payloads)
    page = run_report(run)
    assert "<title>hostile</title>" in browse(page, tmp_path, "--dump-dom").stdout
    assert "<title>hostile</title>" in browse(with_script(page, ""), tmp_path, "--dump-dom").stdout  # nor without the policy
    careless = with_script(page, "").replace("</main>", "<img src=x onerror=document.title=666></main>")
    assert "<title>666</title>" in browse(careless, tmp_path, "--dump-dom").stdout


def test_the_policy_lets_the_one_script_run_and_no_other(page: str, tmp_path: Path) -> None:
    def complaints(shown: str) -> list[str]:
        lines = browse(shown, tmp_path, "--dump-dom", "--enable-logging=stderr").stderr.splitlines()
        return [line for line in lines if "Content Security Policy" in line]

    assert complaints(page) == []
    assert complaints(page.replace('"use strict"', '"use  strict"'))
    assert complaints(page.replace("</main>", "<script>document.title=666</script></main>"))


def test_nothing_is_written_to_the_console_and_no_request_leaves(page: str, tmp_path: Path) -> None:
    payloads = list(PAYLOADS)
    hostile = run_report(make_run(tmp_path / "hostile", labels=payloads[:12], texts=payloads, names=payloads))
    for shown in (page, hostile, audit_page(AUDIT)):
        assert console(shown, tmp_path) == []
        assert requests(shown, tmp_path) == set()
    careless = with_script(page, "console.error('lost')").replace("</main>", "<img src=http://127.0.0.1:9/x.png></main>")
    assert any("lost" in line for line in console(careless, tmp_path))
    assert requests(careless, tmp_path) == {"http://127.0.0.1:9/x.png"}


def test_a_click_on_the_head_sorts_a_table_by_number(page: str, tmp_path: Path) -> None:
    click = "document.querySelectorAll('#scores table')[0].querySelectorAll('th button')[1].click();"
    found = browse(with_script(page, click), tmp_path, "--dump-dom").stdout
    values = [float(value) for value in re.findall(r'class="n strong" data-number="([\d.]+)"', found)]
    assert values[:4] == sorted(values[:4])
    assert values[4:] != sorted(values[4:])  # the other table stays as it was
    found = browse(with_script(page, 2 * click), tmp_path, "--dump-dom").stdout
    assert [float(v) for v in re.findall(r'class="n strong" data-number="([\d.]+)"', found)][:4] == sorted(values[:4], reverse=True)


def test_it_is_light_or_dark_and_fits_a_phone(page: str, tmp_path: Path) -> None:
    corners = []
    for name, flags in (("light", ()), ("dark", (DARK,))):
        file = tmp_path / f"{name}.png"
        browse(page, tmp_path, "--window-size=1100,1400", f"--screenshot={file}", *flags)
        corners.append(imread(file)[3, 3, :3].mean())
    assert corners[0] > 0.9
    assert corners[1] < 0.2
    measure = "document.title = document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for shown in (page, audit_page(AUDIT)):
        found = browse(with_script(shown, measure), tmp_path, "--dump-dom", "--window-size=500,900").stdout
        assert "<title>0</title>" in found  # nothing stands out at the side
