"""Take the picture of a report that README.md shows: a run's report.html in a headless Chromium, as a small PNG.

accelerate launch scripts/finetune.py --out runs/picture
python scripts/report_picture.py runs/picture --out docs/images/report.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--blink-settings=preferredColorScheme=1",
)
NUM_COLOURS = 128  # of the palette: text and bars need few, and the file is a third as large
MAX_BYTES = 150_000


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="report_picture.py", description="Take a picture of the report of a finished run.")
    parser.add_argument("run", type=Path, help="a run folder with a report.html")
    parser.add_argument("--out", type=Path, required=True, help="the .png file to write")
    parser.add_argument("--width", type=int, default=1000, help="of the window, in pixels (default: 1000)")
    parser.add_argument("--height", type=int, default=900, help="of the window, in pixels; the page is cut there (default: 900)")
    return parser.parse_args(arguments)


def take_picture(page: Path, out: Path, *, width: int, height: int) -> None:
    """Open `page` in a browser of its own profile and write what its window shows, with a reduced palette."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"error: there is no browser. Fix: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        window = (f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={shot}")
        subprocess.run([browser, *FLAGS, *window, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(NUM_COLOURS).save(out, optimize=True)


def main(arguments: Sequence[str]) -> None:
    """Take the picture and say how large it is."""
    given = parse(arguments)
    page = given.run / "report.html"
    if not page.is_file():
        sys.exit(f"error: {page} is missing. Fix: name the folder of a finished run")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    take_picture(page, given.out, width=given.width, height=given.height)
    size = given.out.stat().st_size
    print(f"{given.out}: {size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"error: the picture has more than {MAX_BYTES:,} bytes. Fix: a smaller --width or --height")


if __name__ == "__main__":
    main(sys.argv[1:])
