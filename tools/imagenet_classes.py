"""Writes the names of ImageNet's 1000 classes, which travel with the package, from WordNet 3.0.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet
    pip download --no-deps timm==1.0.31 && unzip timm-*.whl timm/data/_info/imagenet_synsets.txt
    python tools/imagenet_classes.py wordnet/usr/share/wordnet/data.noun timm/data/_info/imagenet_synsets.txt

A WordNet ID (n01443537) is "n" and the offset of the synset in WordNet 3.0's data.noun, whose words are the names.
Which thousand synsets ImageNet has is read off timm's list (Apache-2.0); a class is the place of its ID in their order.
Two classes whose first word is the same get the more general word in brackets: crane (wading bird).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

OUT = Path(__file__).parent.parent / "src" / "nextscale" / "checkpoints" / "imagenet_classes.txt"


def synsets(data: Path) -> dict[str, tuple[list[str], str]]:
    """WordNet ID to its words and the ID of the more general synset ("" at the top), from ``data.noun``."""
    found = {}
    for line in data.read_text(encoding="ascii").splitlines():
        if line.startswith(" "):  # the licence
            continue
        parts = line.split(" | ")[0].split()
        count = int(parts[3], 16)
        words = [word.replace("_", " ") for word in parts[4 : 4 + 2 * count : 2]]
        pointers = parts[5 + 2 * count :]
        above = next((pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")), "")
        found[f"n{parts[0]}"] = (words, f"n{above}" if above else "")
    return found


def main() -> None:
    data, listed = map(Path, sys.argv[1:])
    wordnet, ids = synsets(data), sorted(listed.read_text().split())
    first = Counter(wordnet[wnid][0][0].lower() for wnid in ids)
    lines = []
    for wnid in ids:
        (name, *others), above = wordnet[wnid]
        if first[name.lower()] > 1:
            name = f"{name} ({wordnet[above][0][0]})"
        lines.append(f"{wnid} {', '.join([name, *others])}\n")
    OUT.write_text("".join(lines))


if __name__ == "__main__":
    main()
