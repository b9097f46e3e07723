"""Draw the picture of the page that the README shows: ``python tools/page_picture.py [docs/images/page.png]``.

It starts ``nextscale serve`` with the bundled models, opens the page in a headless Chromium (Debian's package; needs
``pip install playwright``), draws what ``BEFORE`` and ``LAST`` say, and keeps the screenshot in 256 colours.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect, sync_playwright

BEFORE = [("a red heart", 1), ("a strawberry, noto", 1), ("a rocket, openmoji", 2), ("a cat, noto", 1)]
LAST = ("a smiling face", 3)
"""Words and seed: four pictures of each are drawn, the last ones are shown large."""
SIZE = {"width": 1280, "height": 800}
PATIENCE = 300_000
"""Milliseconds."""


def draw(page: Any, words: str, seed: int) -> None:
    """Four pictures."""
    page.fill("#prompt", words)
    page.fill("[name=n]", "4")
    page.fill("[name=seed]", str(seed))
    page.click("#draw")
    expect(page.locator("#status")).to_have_text("All 4 pictures are done.")
    expect(page.locator("#stop")).to_be_hidden()


def screenshot(url: str) -> bytes:
    """The page after all drawings."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.locator("#starters button").first.wait_for()
        for words, seed in [*BEFORE, LAST]:
            draw(page, words, seed)
        expect(page.locator("#scale")).to_have_text("step 6 of 6")
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)
        taken: bytes = page.screenshot()
        browser.close()
    return taken


def main() -> None:
    """Start, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("to", type=Path, nargs="?", default=Path("docs/images/page.png"))
    parser.add_argument("--url", help="a server that runs already")
    given = parser.parse_args()
    server = None
    if given.url is None:
        command = [sys.executable, "-m", "nextscale", "serve", "--port", "0", "--dtype", "float32", "--device", "cpu"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        given.url = server.stdout.readline().split()[-1]
    try:
        taken = screenshot(given.url)
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    with Image.open(io.BytesIO(taken)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(given.to, optimize=True)
    print(f"{given.to}: {given.to.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
