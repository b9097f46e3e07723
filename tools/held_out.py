"""Print what text models are not trained on, as the cards list it: ``python tools/held_out.py emoji-64``.

A line for every style with the cells that it lost, then one with the families that no style shows; each thing by the
name of its first emoji, in the order of their hashes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nextscale.data.emoji import STYLES
from nextscale.data.emoji_cells import held_out
from nextscale.data.emoji_reader import read_metadata


def main() -> None:
    """Print the lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="an emoji set")
    found = held_out(read_metadata(parser.parse_args().data))
    for style in STYLES:
        lost = [cell for cell in found["cells"] if style in cell["styles"]]
        _print(f"not in {style}", lost)
    _print("in no style", found["families"])


def _print(what: str, things: list[dict[str, object]]) -> None:
    print(f"- **{what}** ({len(things)}): {', '.join(str(thing['name']) for thing in things)}")


if __name__ == "__main__":
    main()
