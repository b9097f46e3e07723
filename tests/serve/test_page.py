"""The page in a real headless Chromium, before a real server process that draws with the bundled models."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
pytest.importorskip("fastapi", reason="nextscale serve needs nextscale[serve]")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(not os.path.exists(CHROMIUM), reason=f"no Chromium at {CHROMIUM}")
PATIENCE = 60  # seconds that a drawing may take on a busy machine; a start may take four times as long


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a server process that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "nextscale", "serve", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 4 * PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < end, "the server does not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, loaded; an error of its scripts fails the test."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    here, errors = context.new_page(), []
    here.on("pageerror", lambda error: errors.append(str(error)))
    here.goto(address)
    here.locator("#model option").first.wait_for(state="attached")
    yield here
    context.close()
    assert not errors


def drawn(page: Any) -> None:
    sync_api.expect(page.locator("#status")).to_have_text("Done.", timeout=PATIENCE * 1000)


def test_pictures_are_drawn_kept_and_told_by_their_recipe(page: Any, tmp_path: Path) -> None:
    """Price, drawing, slider, gallery after a reload, settings of a picture, download and its recipe, repeat."""
    expect = sync_api.expect
    page.fill("#prompt", "grinning face")
    page.fill("[name=n]", "2")
    page.fill("[name=seed]", "7")
    expect(page.locator("#cost")).to_contain_text("2 pictures of 64x64")
    page.press("#prompt", "Enter")
    drawn(page)
    expect(page.locator("#gallery img")).to_have_count(2)
    page.locator("#scales").press("Home")
    expect(page.locator("#scale")).to_contain_text("1 of")

    page.reload()
    expect(page.locator("#gallery img")).to_have_count(2)
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#gallery button").first.click()
    seed = page.input_value("[name=seed]")
    assert seed in ("7", "8")
    assert page.input_value("#prompt") == "grinning face"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "picture.png")
    page.fill("#prompt", "")
    page.set_input_files("#file", tmp_path / "picture.png")
    expect(page.locator("#caption")).to_contain_text(f"seed {seed}")
    page.click("#repeat")
    drawn(page)
    expect(page.locator("#gallery img")).to_have_count(3)


def test_a_picture_is_painted_by_keys(page: Any) -> None:
    """The brush moves and paints by keys, and the edit stands beside its original."""
    page.fill("#prompt", "grinning face")
    page.fill("[name=n]", "1")
    page.click("#draw")
    drawn(page)
    page.click("#paint")
    brush = page.locator("#brush")
    for key in ("+", "ArrowRight", " "):
        brush.press(key)
    page.click("#painting .first")
    sync_api.expect(page.locator("#before")).to_be_visible(timeout=PATIENCE * 1000)


def test_a_lost_connection_is_one_sentence(page: Any) -> None:
    """A server that is gone leaves the settings, and a sentence."""
    page.fill("#prompt", "grinning face")
    page.route("**/v1/images/**", lambda route: route.abort())
    page.click("#draw")
    sync_api.expect(page.locator("#trouble")).to_contain_text("The server does not answer")
    assert page.input_value("#prompt") == "grinning face"


def test_two_models_draw_the_same_seed_side_by_side(page: Any) -> None:
    """Each model has its own sheet, and both drew the one seed that the page chose."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.fill("#prompt", "grinning face")
    page.fill("[name=n]", "1")
    page.click("summary >> nth=0")
    page.select_option("#other", "model emoji")
    page.click("#draw")
    drawn(page)
    assert page.locator(".sheet h2").all_text_contents() == ["emoji-m-var", "emoji"]
    told = [image.get_attribute("alt").split("seed ")[1].split(",")[0] for image in page.locator(".sheet img").all()]
    assert len(told) == 2
    assert told[0] == told[1]
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, "a phone scrolls sideways"
