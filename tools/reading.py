"""The sheet by which strangers read the demo's sentences: twelve pictures without captions, and 24 sentences.

    make demo
    python tools/reading.py out/demo/sentences reading

writes ``reading/sheet.png`` and ``reading/sentences.txt``, and prints the key. Show a reader who knows nothing of this
project the sheet alone; first let each picture be named freely, then give the sentences: each picture was drawn for one
of them, twelve belong to none.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from PIL import Image, ImageDraw

HIDDEN = (7, 2, 11, 5, 9, 1, 12, 4, 8, 3, 10, 6)
"""The sentence of each picture on the sheet: the places of examples/sentences.txt, which are the seeds, too."""
SENTENCES = """a sleeping face, twemoji; a hamburger; a coffin, twemoji; a woman scientist, medium skin tone;
a doughnut, fluent; a strawberry, noto; right arrow curving left; a rocket, openmoji; a fist raised, dark skin;
a bus, noto; a sad face with a tear; a turtle in the style of twemoji; a birthday cake, fluent; a red heart;
a man cook, light skin tone; an oncoming automobile, noto; a cool smiling face wearing shades; a broken heart;
a frog in the style of twemoji; a helicopter, openmoji; left arrow curving right; a waving hand with dark skin;
a headstone, twemoji; a nerd face with glasses"""
ASKED = Path(__file__).parent.parent / "examples" / "sentences.txt"
SIDE, COLUMNS, LEFT, TOP = 192, 4, 28, 38


def main() -> None:
    """Write the sheet and the sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawn", type=Path, help="the folder of the demo's sentences")
    parser.add_argument("out", type=Path, help="a new folder")
    given = parser.parse_args()
    sentences = [" ".join(one.split()) for one in SENTENCES.split(";")]
    letters = {sentence: chr(ord("A") + i) for i, sentence in enumerate(sentences)}
    found = {int(re.findall(r"-(\d+)$", path.stem)[0]): path for path in given.drawn.glob("*-*.png")}
    given.out.mkdir(parents=True)
    rows = len(HIDDEN) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * (SIDE + LEFT), rows * (SIDE + TOP)), "lightgrey")
    pen = ImageDraw.Draw(sheet)
    for i, seed in enumerate(HIDDEN):
        x, y = i % COLUMNS * (SIDE + LEFT) + LEFT // 2, i // COLUMNS * (SIDE + TOP) + TOP // 2
        with Image.open(found[seed]) as picture:
            sheet.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y + 7))
        pen.text((x, y - 9), f"picture {i + 1}", fill="black")
    sheet.save(given.out / "sheet.png")
    lines = "\n".join(f"{letter} {sentence}" for sentence, letter in letters.items())
    (given.out / "sentences.txt").write_text(lines + "\n", encoding="utf-8")
    asked = ASKED.read_text(encoding="utf-8").splitlines()
    print("key:", " ".join(f"{i + 1}{letters[asked[seed - 1]]}" for i, seed in enumerate(HIDDEN)))


if __name__ == "__main__":
    main()
