"""Write a picture that ``nextscale generate`` made as the README shows it: ``python tools/small_picture.py FROM TO``.

It keeps every fourth level of each colour, which nobody sees, and its recipe; so it takes two thirds of the room.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

STEP = 4


def main() -> None:
    """Read, round and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawn", type=Path)
    parser.add_argument("shown", type=Path)
    given = parser.parse_args()
    drawn = Image.open(given.drawn)
    levels = np.asarray(drawn.convert("RGB")).astype(int)
    rounded = np.where(levels >= 254, 255, np.clip((levels + STEP // 2) // STEP * STEP, 0, 255)).astype(np.uint8)
    recipe = PngInfo()
    recipe.add_itxt("nextscale", drawn.info["nextscale"])
    Image.fromarray(rounded).save(given.shown, optimize=True, pnginfo=recipe)


if __name__ == "__main__":
    main()
