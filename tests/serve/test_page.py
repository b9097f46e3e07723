"""The page in a real headless Chromium, before a real server process that draws with tiny models.

Between the two is a wire (``wire.py``), so that a test can lose the server or slow it down.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
pytest.importorskip("fastapi", reason="nextscale serve needs nextscale[serve]")

from tests.serve.conftest import Running, Start, paused  # noqa: E402
from tests.serve.wire import Wire  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed, so the page is not tested")
PATIENCE = 30_000
"""Milliseconds that anything may take on a busy machine."""
Open = Callable[..., Any]
EVIL = '<img src=x onerror="window.hit = 1"><script>window.hit = 1</script>'
WATCH = """
window.told = []; window.held = new Set();
const made = URL.createObjectURL, freed = URL.revokeObjectURL;
URL.createObjectURL = (blob) => { const url = made(blob); held.add(url); return url; };
URL.revokeObjectURL = (url) => { held.delete(url); freed(url); };
addEventListener("DOMContentLoaded", () => {
  const status = document.getElementById("status");
  new MutationObserver(() => told.push(status.textContent)).observe(status, { childList: true });
});
"""
"""Notes what the page tells a screen reader, and which addresses of blobs it holds."""


@pytest.fixture
def wire(server: Running) -> Iterator[Wire]:
    wire = Wire(int(server.url.rpartition(":")[2]))
    yield wire
    wire.cut()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        sync_api.expect.set_options(timeout=PATIENCE)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, wire: Wire) -> Iterator[Open]:
    """Opens the page in a browser that knows nothing of other tests; an error of its scripts fails the test."""
    contexts, errors = list[Any](), list[str]()

    def start(url: str = wire.url, ready: str = "#starters button", clock: bool = False, **settings: Any) -> Any:
        usual = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**usual, **settings})
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(WATCH)
        here = context.new_page()
        here.on("pageerror", lambda error: errors.append(str(error)))
        if clock:
            here.clock.install()
        here.goto(url)
        here.locator(ready).first.wait_for()
        return here

    yield start
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def page(open_page: Open) -> Any:
    return open_page()


def says(page: Any, place: str, text: str) -> None:
    sync_api.expect(page.locator(place)).to_contain_text(text)


def draw(page: Any, prompt: str = "grinning cat", seed: int | None = 7, n: int = 1) -> None:
    """Fill in, draw and wait."""
    page.fill("#prompt", prompt)
    page.fill("[name=n]", str(n))
    page.fill("[name=seed]", "" if seed is None else str(seed))
    page.click("#draw")
    says(page, "#status", "is done" if n == 1 else f"All {n} pictures are done")


def counts(page: Any, pictures: int) -> None:
    sync_api.expect(page.locator("#gallery img")).to_have_count(pictures)


def pixels(page: Any, place: str = "#large", grown: bool = True) -> Image.Image:
    """A picture as the page shows it, in its own pixels. grown: once it is at its last step."""
    if grown:
        sync_api.expect(page.locator("#scale")).to_have_text(re.compile(r"step (\d+) of \1$"))
    script = """async (image) => { const canvas = document.createElement("canvas"); await image.decode();
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      canvas.getContext("2d").drawImage(image, 0, 0); return canvas.toDataURL().split(",")[1]; }"""
    return Image.open(io.BytesIO(base64.b64decode(page.locator(place).evaluate(script)))).convert("RGB")


def download(page: Any, to: Path) -> Path:
    with page.expect_download() as found:
        page.click("#download")
    found.value.save_as(to)
    return to


def drop(page: Any, name: str, content: bytes) -> None:
    """Drop a file on the page, as a pointer does."""
    script = """([name, text]) => { const data = new DataTransfer();
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      data.items.add(new File([bytes], name, { type: "image/png" }));
      for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(
        new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
      return document.getElementById("drophere").hidden; }"""
    assert page.evaluate(script, [name, base64.b64encode(content).decode()]), "the sign that a picture may be dropped"


def carrying(recipe: dict[str, Any]) -> bytes:
    """A picture with a recipe."""
    text, file = PngInfo(), io.BytesIO()
    text.add_itxt("nextscale", json.dumps(recipe))
    Image.new("RGB", (16, 16)).save(file, "PNG", pnginfo=text)
    return file.getvalue()


def test_a_drawing_is_priced_told_and_seen_to_grow(open_page: Open) -> None:
    """Suggestions, the price, the reading of the words, the picture above the fold, its steps, what is told."""
    page = open_page(reduced_motion="no-preference")
    page.fill("#prompt", "gri")
    page.locator("#words option[value='grinning cat']").wait_for(state="attached")
    draw(page, n=2)
    says(page, "#cost", "2 pictures of 16 x 16")
    sync_api.expect(page.locator("#plan tr")).to_have_count(7)
    says(page, "#reading", "is drawn as face")
    box = page.locator("#frame").bounding_box()
    assert box["y"] + box["height"] < 800, "the picture is above the fold"
    assert box["width"] == box["height"] == 400, "16 pixels are enlarged 25 times, to half of the window"
    assert page.evaluate("getComputedStyle(document.getElementById('large')).imageRendering") == "pixelated"
    says(page, "#scale", "step 4 of 4")
    last = pixels(page)
    page.locator("#scales").press("Home")
    says(page, "#scale", "step 1 of 4")
    assert pixels(page, grown=False) != last
    page.click("#replay")
    says(page, "#scale", "step 4 of 4")
    assert pixels(page) == last
    told = page.evaluate("told")
    assert told[0] == "Drawing."
    assert told[-1] == "All 2 pictures are done."


def test_a_reload_finds_pictures_and_settings(page: Any, tmp_path: Path) -> None:
    """Gallery and settings survive; a click brings a picture's settings back, and its file tells them, too."""
    draw(page, n=2)
    page.fill("#prompt", "red apple")
    page.reload()
    counts(page, 2)
    page.locator("#starters button").first.wait_for()
    assert page.input_value("#prompt") == "red apple"
    page.locator("#gallery button").nth(1).click()
    assert [page.input_value(name) for name in ("#prompt", "[name=seed]", "[name=n]")] == ["grinning cat", "7", "1"]
    drawn = pixels(page)
    file = download(page, tmp_path / "drawn.png")
    page.fill("#prompt", "")
    page.set_input_files("#file", file)
    says(page, "#status", "settings of the picture are filled in")
    says(page, "#caption", "drawn by tiny, seed 7")
    assert page.input_value("#prompt") == "face"
    page.click("#repeat")
    counts(page, 3)
    says(page, "#status", "is done")
    assert pixels(page) == drawn
    page.click("#vary")
    counts(page, 4)
    says(page, "#status", "is done")
    assert pixels(page) != drawn


def test_draw_follows_the_plan_of_a_chosen_picture(page: Any, http: httpx.Client) -> None:
    """Draw and Repeat agree: size and sampling are the picture's until they are let go of, and the page says so."""
    body = {
        "prompt": "red apple",
        "seed": 3,
        "top_k": 2,
        "guidance_scale": 5,
        "methods": [{"name": "prefix", "count": 3}],
    }
    drawn = http.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"]
    drop(page, "drawn.png", base64.b64decode(drawn))
    says(page, "#held", "Size and sampling are those of the chosen picture.")
    assert page.locator("[name=top_k]").is_disabled()
    before = pixels(page)
    page.click("#draw")
    says(page, "#status", "is done")
    assert pixels(page) == before
    page.click("#release")
    assert not page.locator("#held").is_visible()
    page.click("#draw")
    counts(page, 2)
    says(page, "#status", "is done")
    assert pixels(page) != before


def test_a_drawing_is_stopped(page: Any, server: Running) -> None:
    """Stop ends it, also at the server; what is unfinished is not kept, and Draw works again."""
    page.fill("#prompt", "face")
    with paused(server.worker):
        page.click("#draw")
        says(page, "#status", "Drawing.")
        page.click("#stop")
        says(page, "#status", "Stopped. What is unfinished is not kept.")
        assert page.locator("#empty").is_visible()
    draw(page)
    counts(page, 1)


def test_nothing_to_draw_is_one_sentence(page: Any) -> None:
    """An empty field, a word that no class has, and a value that the server refuses; a starter draws at once."""
    page.click("#draw")
    says(page, "#trouble", "Nothing is typed yet: type what to draw, for example grinning cat.")
    page.fill("#prompt", "zzqq")
    says(page, "#reading", "no class is known for 'zzqq'")
    page.click("#draw")
    says(page, "#trouble", "no class is known for 'zzqq'")
    assert page.locator("#empty").is_visible()
    page.locator("#starters button").first.click()
    says(page, "#status", "pictures are done")
    assert page.locator("#trouble").text_content() == ""


def test_a_picture_is_painted_over(page: Any, tmp_path: Path) -> None:
    """By keys, by pointer with eraser and a fresh start, by a typed box; the edit stands beside its original, changed
    where it was painted alone. Its file says that it lacks the original.
    """
    draw(page)
    page.click("#paint")
    page.click("#painting .first")
    says(page, "#trouble", "Nothing is painted yet")
    brush, box = page.locator("#brush"), page.locator("#brush").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 200, steps=3)
    page.mouse.up()
    page.click("#wipe")
    for key in ("+", "ArrowRight", " ", "Backspace"):
        brush.press(key)
    page.click("#painting .first")
    says(page, "#trouble", "Nothing is painted yet")
    page.fill("#box", "1, 2, three, 4")
    page.click("#painting .first")
    says(page, "#trouble", "A box is four numbers, x, y, width and height; got 1, 2, three, 4.")
    page.fill("#box", "0, 0, 4, 16")
    page.click("#painting .first")
    says(page, "#status", "is done")
    assert page.locator("#before").is_visible()
    changed = ImageChops.difference(pixels(page, "#original"), pixels(page)).getbbox()
    assert changed is not None
    assert changed[2] <= 4, "only the left four columns were in the box"
    page.click("#repeat")
    says(page, "#status", "is done")
    drop(page, "edit.png", download(page, tmp_path / "edit.png").read_bytes())
    says(page, "#status", "painted into another one, which its file does not hold")
    assert page.locator("#repeat").is_disabled()
    assert page.locator("#vary").is_disabled()
    page.locator("#gallery button").last.click()
    page.click("#paint")
    brush.press(" ")
    page.click("#painting .first")
    says(page, "#status", "is done")
    counts(page, 4)


def test_a_picture_is_extended(page: Any) -> None:
    """By keys, with margins of other widths; what was there stays as it was, and the words say what comes around it."""
    draw(page)
    before = pixels(page)
    page.focus("#extend")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#extending [name=left]")).to_be_focused()
    sides = [page.locator(f"#extending [name={side}]") for side in ("left", "right", "top", "bottom")]
    assert [side.input_value() for side in sides] == ["4"] * 4, "a quarter of the picture"
    for side in sides:
        side.fill("0")
    page.keyboard.press("Enter")
    says(page, "#trouble", "No margin is given yet: type how many pixels to add on a side.")
    sides[0].fill("8")
    sides[3].fill("2")
    page.keyboard.press("Enter")
    says(page, "#status", "is done")
    after = pixels(page)
    assert after.size == (24, 18)
    assert after.crop((8, 0, 24, 16)) == before
    assert page.locator("#before").is_visible()
    counts(page, 2)
    page.click("#repeat")
    counts(page, 3)
    says(page, "#status", "is done")
    assert pixels(page) == after


def test_a_picture_is_removed(page: Any) -> None:
    """It asks, shows the next one, and what is gone stays gone."""
    draw(page, n=2)
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#remove")
    counts(page, 2)
    page.locator("#gallery button").first.click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.focus("#remove")
    page.keyboard.press("Enter")
    counts(page, 1)
    says(page, "#status", "The picture is removed.")
    sync_api.expect(page.locator("#gallery button")).to_be_focused()
    says(page, "#caption", "seed 7")
    page.reload()
    counts(page, 1)
    page.locator("#gallery button").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#remove")
    counts(page, 0)
    assert page.locator("#empty").is_visible()
    assert not page.locator("#clear").is_visible()
    sync_api.expect(page.locator("#prompt")).to_be_focused()


def test_the_file_of_an_edit_is_repeated_with_the_picture_that_was_edited(page: Any, tmp_path: Path) -> None:
    """And with its mask, where a brush made one; another picture is refused. From then on it is like any other edit."""
    draw(page)
    original = download(page, tmp_path / "original.png")
    page.click("#paint")
    for key in ("+", "+", "+", " "):
        page.locator("#brush").press(key)
    page.click("#painting .first")
    counts(page, 2)
    says(page, "#status", "is done")
    edited, file = pixels(page), download(page, tmp_path / "edit.png")
    with page.expect_download() as found:
        page.click("#downloadmask")
    found.value.save_as(mask := tmp_path / "mask.png")
    drop(page, "edit.png", file.read_bytes())
    says(page, "#status", "give that one to repeat it.")
    page.set_input_files("#given", file)
    page.set_input_files("#givenmask", mask)
    page.click("#giving button")
    says(page, "#trouble", "this is not the picture of the edit; expected one of the same pixels")
    page.set_input_files("#given", original)
    page.focus("#giving button")
    page.keyboard.press("Enter")
    counts(page, 3)
    says(page, "#status", "is done")
    assert pixels(page) == edited
    assert not page.locator("#giving").is_visible()
    page.click("#repeat")
    counts(page, 4)
    says(page, "#status", "is done")
    assert pixels(page) == edited
    page.click("#vary")
    counts(page, 5)
    says(page, "#status", "is done")
    assert pixels(page) != edited


def test_two_ways_draw_the_same_seeds_side_by_side(page: Any) -> None:
    """Another model, another style, the first steps: one thing differs, and the pair stands side by side."""
    page.locator("summary", has_text="Compare").click()
    page.select_option("#other", "prefix")
    page.fill("#count", "2")
    page.fill("#prompt", "face")
    page.fill("[name=n]", "2")
    page.click("#draw")
    says(page, "#status", "All 4 pictures are done")
    assert page.locator(".sheet h2").all_text_contents() == ["all steps", "the first 2"]
    alts = [image.get_attribute("alt") for image in page.locator("#sheets img").all()]
    assert alts[:2] == alts[2:], "the same seeds"
    says(page, "#originalcaption", "all steps")
    says(page, "#scale", "step 2 of 2")
    page.select_option("#model", "styles")
    page.select_option("#other", "style twemoji")
    page.select_option("[name=style]", "noto")
    page.fill("[name=n]", "1")
    page.click("#draw")
    says(page, "#status", "All 2 pictures are done")
    assert page.locator(".sheet h2").all_text_contents() == ["noto", "twemoji"]
    page.locator("#sheets button").first.click()
    says(page, "#originalcaption", "twemoji")
    original, picture = (
        page.locator(f"{name} .frame").bounding_box() for name in ("#before", "#pair figure:last-child")
    )
    assert picture["x"] < original["x"], "the first stays on the left"
    page.select_option("#other", "model tiny")
    page.select_option("[name=style]", "")
    page.click("#draw")
    says(page, "#status", "All 2 pictures are done")
    assert page.locator(".sheet h2").all_text_contents() == ["styles", "tiny"]
    page.select_option("#model", "free")
    page.fill("[name=size]", "24x16")
    draw(page, "animal")
    assert pixels(page).size == (24, 16), "the width comes first"


def test_the_gallery_has_a_bound_and_is_cleared(page: Any) -> None:
    """The newest 100 stay, on the page and in the browser; Clear asks, and removes all of them for good."""
    fill = """async () => { const open = indexedDB.open("nextscale"), blob = new Blob(["x"]), frames = [blob];
      await new Promise((go) => { open.onsuccess = go; });
      const change = open.result.transaction("pictures", "readwrite"), pictures = change.objectStore("pictures");
      for (let i = 0; i < 100; i += 1) pictures.add({ blob, frames, request: { model: "gone" }, about: `old ${i}` });
      await new Promise((go) => { change.oncomplete = go; }); open.result.close(); }"""
    page.evaluate(fill)
    page.reload()
    counts(page, 100)
    page.locator("#starters button").first.wait_for()
    page.locator("#gallery button").first.click()
    says(page, "#trouble", "gone drew this picture, and is not served here now: the settings stay as they are.")
    draw(page)
    counts(page, 100)
    alts = [image.get_attribute("alt") for image in page.locator("#gallery img").all()]
    assert alts[1] == "old 99"
    assert alts[-1] == "old 1"
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#clear")
    counts(page, 100)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#clear")
    counts(page, 0)
    page.reload()
    page.locator("#starters button").first.wait_for()
    counts(page, 0)


def test_addresses_of_blobs_are_released(page: Any) -> None:
    """However much is drawn and looked at, the page holds as many as it shows."""
    for seed in range(3):
        draw(page, seed=seed, n=2)
        page.locator("#scales").press("Home")
        page.click("#replay")
        says(page, "#scale", "step 4 of 4")
    shown = 'document.querySelectorAll(\'[src^="blob:"], [href^="blob:"]\').length'
    assert page.evaluate("held.size") == page.evaluate(shown)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#clear")
    counts(page, 0)
    assert page.evaluate("held.size") == page.evaluate(shown) <= 5


def test_a_lost_server_is_one_sentence_and_comes_back(page: Any, wire: Wire, server: Running) -> None:
    """A connection that breaks in the middle of a drawing leaves settings and gallery; its end is told."""
    draw(page)
    page.fill("#prompt", "red apple")
    with paused(server.worker):
        page.click("#draw")
        says(page, "#status", "Drawing.")
        wire.cut()
        says(page, "#trouble", "The server does not answer. Your pictures and settings are still here")
    assert page.input_value("#prompt") == "red apple"
    page.click("#draw")
    says(page, "#trouble", "The server does not answer")
    counts(page, 1)
    wire.mend()
    says(page, "#status", "The server is back: draw again.")
    draw(page, "red apple")
    counts(page, 2)


def test_a_slow_server_is_told(open_page: Open, wire: Wire) -> None:
    """Five seconds without news are said, and so are the steps that come late."""
    page = open_page(clock=True)
    wire.hold()
    try:
        page.fill("#prompt", "face")
        page.click("#draw")
        says(page, "#status", "Drawing.")
        page.clock.fast_forward(5_000)
        says(page, "#status", "Still drawing: the server is slow or has others to draw for.")
        page.clock.fast_forward(3_000)
    finally:
        wire.flow()
    says(page, "#status", "All 4 pictures are done.")
    assert any(text.startswith("Drawing: step ") for text in page.evaluate("told"))


def test_a_server_with_a_key_asks_for_it(open_page: Open, idle: Start) -> None:
    """A wrong key is one sentence; the right one lets the page go on, also after a reload."""
    page = open_page(idle(key="right").url, ready="#keyform")
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    says(page, "#trouble", "this server needs its key")
    page.fill("#key", "right")
    page.press("#key", "Enter")
    page.locator("#starters button").first.wait_for()
    assert not page.locator("#keyform").is_visible()
    assert page.locator("#trouble").text_content() == ""
    page.reload()
    page.locator("#starters button").first.wait_for()


def test_a_recipe_is_data(open_page: Open, http: httpx.Client) -> None:
    """HTML in a recipe is shown as text, by what the server says of it and even if the server said it as it is; where
    the page were to fail, the policy of the server stops it: the attack works in a browser told to ignore it.
    """
    page = open_page()
    drawn = http.post("/v1/images/generations", json={"prompt": "face", "seed": 1}).json()["data"][0]["b64_json"]
    with Image.open(io.BytesIO(base64.b64decode(drawn))) as picture:
        recipe = json.loads(picture.info["nextscale"])
    drop(page, "x.png", carrying({**recipe, "model": EVIL}))
    says(page, "#trouble", "<img src=x onerror=")
    drop(page, "x.png", carrying({**recipe, "plan": {**recipe["plan"], "rows": recipe["plan"]["rows"] * 300}}))
    says(page, "#trouble", "plan")
    told = http.post("/v1/recipe", files={"image": ("x.png", carrying(recipe), "image/png")}).json()
    evil = {**told, "model": EVIL, "size": EVIL, "warnings": [EVIL], "seeds": [EVIL]}
    evil["request"] = {**told["request"], "class_labels": EVIL}
    evil["rows"] = [{**row, "row": EVIL} for row in told["rows"]]
    page.route("**/v1/recipe", lambda route: route.fulfill(json=evil))
    page.route("**/v1/plan", lambda route: route.fulfill(json=evil))
    drop(page, f"{EVIL.replace('/', '')}.png", carrying(recipe))
    says(page, "#caption", f"drawn by {EVIL}")
    says(page, "#reading", EVIL)
    assert page.input_value("#prompt") == EVIL
    assert page.locator("img[src=x]").count() == 0
    attack = f"document.body.insertAdjacentHTML('beforeend', {json.dumps(EVIL)})"
    for here, hit in ((page, False), (open_page(bypass_csp=True), True)):
        here.evaluate(attack)
        here.wait_for_timeout(100)
        assert here.evaluate("Boolean(window.hit)") is hit


def violations(page: Any, script: str) -> list[str]:
    """What axe-core finds, each with its first place."""
    page.evaluate(script)
    found = page.evaluate("axe.run(document)")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_everyone_can_read_and_use_it(open_page: Open, scheme: str, width: int) -> None:
    """axe-core finds nothing before, while painting beside everything opened, and with a sentence of trouble; a phone
    does not scroll sideways, and the picture needs no sound, no pointer and no colour.
    """
    axe = pytest.importorskip("axe_playwright_python.base", reason="labels and contrast are checked with axe-core")
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 844})
    assert violations(page, axe.AXE_SCRIPT) == []
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.select_option("#model", "styles")
    page.select_option("#other", "prefix")
    page.fill("#prompt", "face")
    page.focus("#prompt")
    page.keyboard.press("Enter")
    says(page, "#status", "All 8 pictures are done")
    page.focus("#paint")
    page.keyboard.press("Enter")
    page.locator("#brush:focus").wait_for()
    page.focus("#painting .first")
    page.keyboard.press("Enter")
    says(page, "#trouble", "Nothing is painted yet")
    page.evaluate("for (const one of document.querySelectorAll('#extending, #giving')) one.hidden = false")
    page.wait_for_timeout(300)
    assert violations(page, axe.AXE_SCRIPT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
