"""The emoji data set: thousands of real drawings with names, classes and families, built from npm packages.

    OUT/dataset.json       what was built, from what, under which licence
    OUT/metadata.jsonl     one line per image
    OUT/images/<style>/<hexcode>.png

Drawings are rendered as vectors at the resolution asked for, on white. The same sources give the same bytes.
While it is built the set lies in a hidden folder beside OUT, where an interrupted build finds what it had drawn.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.data.emoji_families import Emoji, read_emojibase, rules_hash
from nextscale.data.emoji_sources import CHARS_FROM, PACKAGES, Icons, Package, load_icons
from nextscale.errors import InputError, missing

FORMAT_VERSION = 1
PNG_END = b"IEND\xaeB`\x82"  # Pillow would read a file that was cut before it all the same
OURS = re.compile(r"dataset\.json|metadata\.jsonl|images/[\w-]+/[0-9a-f-]+\.(png|tmp)|(.*/)?(\.DS_Store|Thumbs\.db)")
"""The files of a set, and what systems add to any folder."""
STYLES = ("noto", "fluent-emoji-flat", "fluent-emoji", "twemoji", "openmoji")


@dataclass(frozen=True)
class EmojiSummary:
    """What ``build_emoji`` built, or found already built (``fresh`` is False)."""

    folder: Path
    images: int
    classes: int
    train: int
    heldout: int
    hash: str
    fresh: bool


def build_emoji(
    out: Path | str,
    styles: Sequence[str] = STYLES,
    resolution: int = 64,
    progress: Callable[[int, int], None] | None = None,
    packages: Mapping[str, Package] = PACKAGES,
) -> EmojiSummary:
    """Build the data set in the folder ``out``; a folder that holds just this build already is left as it is.

    A build that was interrupted is continued, and a set of which a file is damaged or missing is built again.

    Args:
        out: a folder that does not exist, is empty, or holds an emoji set (which is replaced if it is another one).
        styles: some of ``STYLES``.
        resolution: height and width of the images in pixels, 8 to 1024.
        progress: called with (images done, images in all).
        packages: the pinned sources.

    Raises:
        InputError: an unknown style, a resolution out of range, a source that cannot be fetched, resvg-py missing, or
            a folder that holds something else, cannot be written or cannot be replaced.
    """
    out = Path(out)
    chosen = _check_arguments(styles, resolution)
    recipe = _recipe(chosen, resolution, packages)
    built = _existing_build(out)
    if built is not None and built["recipe"] == recipe and _complete(out, built):
        return _summary(out, built, fresh=False)
    place = _replaceable(out)
    unfinished = place.parent / f".{place.name}.part"
    try:
        _prepare(unfinished, recipe)
        description = _build_in(unfinished, chosen, resolution, recipe, packages, progress)
        _swap(unfinished, place)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); expected a folder that can") from error
    return _summary(out, description, fresh=True)


def _check_arguments(styles: Sequence[str], resolution: int) -> list[str]:
    for style in styles:
        if style not in STYLES:
            raise InputError(f"there is no emoji style {style!r}; expected some of {', '.join(STYLES)}")
    if not styles:
        raise InputError(f"no emoji style was given; expected some of {', '.join(STYLES)}")
    if not 8 <= resolution <= 1024:
        raise InputError(f"resolution is {resolution}; expected 8 to 1024 pixels")
    return [style for style in STYLES if style in styles]


def _renderer_version() -> str:
    try:
        import resvg_py
    except ImportError as error:
        raise InputError(missing("resvg-py", "drawing the emoji")) from error
    return str(resvg_py.__version__)


def _recipe(styles: list[str], resolution: int, packages: Mapping[str, Package]) -> dict[str, Any]:
    """Everything the bytes of a build depend on; two builds with equal recipes are equal."""
    needed = ["emojibase", *styles, *(CHARS_FROM[style] for style in styles if style in CHARS_FROM)]
    sources = {
        packages[name].name: {"version": packages[name].version, "sha256": packages[name].sha256}
        for name in dict.fromkeys(needed)
    }
    return {
        "format_version": FORMAT_VERSION,
        "styles": styles,
        "resolution": resolution,
        "background": "white",
        "renderer": f"resvg-py {_renderer_version()}",
        "family_rules": rules_hash(),
        "sources": sources,
    }


def _existing_build(out: Path) -> dict[str, Any] | None:
    """The description of the data set in ``out``, or None if there is nothing there."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"{out} is a file; expected a folder to build the emoji set in")
    try:
        description = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        told = {*description, *description["splits"]} >= {"images", "classes", "hash", "train", "heldout"}
        if description["kind"] == "emoji" and isinstance(description["recipe"], dict) and told:
            return dict(description)
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        pass
    try:
        occupied = any(out.iterdir()) and not _was_built(out)
    except OSError as error:
        raise InputError(f"{out} cannot be read ({error.strerror}); expected a folder that can") from error
    if occupied:
        raise InputError(f"{out} holds files that are no emoji set; expected a new or an empty folder")
    return None


def _was_built(out: Path) -> bool:
    """Whether ``out``, the description of which cannot be read, holds what a build leaves and nothing else."""
    images = out / "images"
    if not images.is_dir() or {path.name for path in out.iterdir()} - {"dataset.json", "metadata.jsonl", "images"}:
        return False
    styles = {path.name for path in images.iterdir()}
    return bool(styles) and styles <= set(STYLES)


def _complete(out: Path, description: Mapping[str, Any]) -> bool:
    """Whether records and pixels are those that were built: they give the hash of the description."""
    digest = hashlib.sha256()
    try:
        for line in (out / "metadata.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n"):
            digest.update(line.encode())
            digest.update(_drawn(out / json.loads(line)["file"]) or b"")
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return False
    return digest.hexdigest() == description["hash"]


def _replaceable(out: Path) -> Path:
    """Where the finished set goes, which is behind ``out`` if that is a link; refuses what cannot be exchanged."""
    place = Path(os.path.realpath(out))
    if place.is_dir():
        files = (path.relative_to(place).as_posix() for path in sorted(place.rglob("*")) if not path.is_dir())
        foreign = next((name for name in files if not OURS.fullmatch(name)), None)
        if foreign is not None:
            raise InputError(
                f"{out} holds {foreign}, which is no part of an emoji set and would be lost with the set that is "
                "replaced; move it elsewhere, or choose the name of a new folder"
            )
    if os.path.ismount(place):
        raise InputError(f"{out} is a mount point, which a finished set cannot replace; expected a folder inside it")
    if Path.cwd().is_relative_to(place):
        raise InputError(
            f"{out} holds the folder you are working in, which a finished set cannot replace; "
            "expected the name of a new folder, such as emoji-64"
        )
    return place


def _summary(out: Path, description: Mapping[str, Any], fresh: bool) -> EmojiSummary:
    splits = description["splits"]
    return EmojiSummary(
        folder=out,
        images=description["images"],
        classes=len(description["classes"]),
        train=splits["train"],
        heldout=splits["heldout"],
        hash=description["hash"],
        fresh=fresh,
    )


def _prepare(unfinished: Path, recipe: Mapping[str, Any]) -> None:
    """Make the folder of an unfinished build, or keep it where it is one of the same recipe."""
    note = unfinished / "recipe.json"
    wanted = json.dumps(recipe)
    if note.is_file() and note.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    for style in recipe["styles"]:
        (unfinished / "images" / style).mkdir(parents=True)
    note.write_text(wanted, encoding="utf-8")


def _swap(finished: Path, out: Path) -> None:
    """Put the finished folder in the place of ``out``, in one step where there was nothing before."""
    old = finished.with_name(finished.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists() and any(out.iterdir()):
        out.replace(old)
    try:
        finished.replace(out)
    except OSError:
        if old.exists():
            old.replace(out)
        raise
    (out / "recipe.json").unlink()
    shutil.rmtree(old, ignore_errors=True)


def _build_in(
    folder: Path,
    styles: list[str],
    resolution: int,
    recipe: dict[str, Any],
    packages: Mapping[str, Package],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Draw everything into ``folder``; returns the description that ``dataset.json`` holds."""
    emoji = read_emojibase(packages)
    icons = {style: load_icons(style, packages) for style in styles}
    wanted = [(style, one) for style in styles for one in emoji if one.hexcode in icons[style].names]
    digest = hashlib.sha256()
    lines = []
    for done, (style, one) in enumerate(wanted):
        file = f"images/{style}/{one.hexcode}.png"
        pixels = _drawn(folder / file) or _draw(icons[style], one, resolution, folder / file)
        line = json.dumps(_record(style, one, file), ensure_ascii=False)
        digest.update(line.encode())
        digest.update(pixels)
        lines.append(line)
        if progress is not None:
            progress(done + 1, len(wanted))
    if not wanted:
        raise InputError(f"the packages of {', '.join(styles)} draw no emoji that emojibase knows")
    present = {one.class_name for _, one in wanted}
    description = {
        "kind": "emoji",
        "recipe": recipe,
        "images": len(wanted),
        "splits": {name: sum(one.split == name for _, one in wanted) for name in ("train", "heldout")},
        "per_style": dict(Counter(style for style, _ in wanted)),
        "families": len({one.family for _, one in wanted}),
        "classes": [name for name in dict.fromkeys(one.class_name for one in emoji) if name in present],
        "licences": {style: _licence(icons[style]) for style in styles},
        "hash": digest.hexdigest(),
    }
    (folder / "metadata.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return description


def _drawn(path: Path) -> bytes | None:
    """The RGB bytes of a picture that an interrupted build has left; None if there is none, or a damaged one."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.tobytes() if path.read_bytes().endswith(PNG_END) else None
    except (OSError, SyntaxError, ValueError):
        return None


def _draw(icons: Icons, emoji: Emoji, resolution: int, path: Path) -> bytes:
    """Render one emoji on white, save it as PNG, and return its RGB bytes (H W C)."""
    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(
            svg_string=icons.svg(emoji.hexcode),
            width=resolution,
            height=resolution,
            background="#ffffff",
            skip_system_fonts=True,
        )
    except ValueError as error:
        raise InputError(f"the drawing of {emoji.name!r} cannot be rendered ({error})") from error
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    assert picture.size == (resolution, resolution)
    aside = path.with_suffix(".tmp")
    picture.save(aside, "png", optimize=False, compress_level=6)
    aside.replace(path)
    return picture.tobytes()


def _record(style: str, emoji: Emoji, file: str) -> dict[str, Any]:
    return {
        "id": f"{style}/{emoji.hexcode}",
        "file": file,
        "split": emoji.split,
        "style": style,
        "hexcode": emoji.hexcode,
        "emoji": emoji.character,
        "family": emoji.family,
        "class": emoji.class_name,
        "group": emoji.group,
        "name": emoji.name,
        "keywords": list(emoji.keywords),
        "tones": list(emoji.tones),
        "gender": emoji.gender,
    }


def _licence(icons: Icons) -> dict[str, str]:
    licence, author = icons.info["license"], icons.info["author"]
    return {
        "name": icons.info["name"],
        "author": author["name"],
        "url": author.get("url", ""),
        "licence": licence["spdx"],
        "licence_url": licence.get("url", ""),
    }
