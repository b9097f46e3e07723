"""Where the emoji come from: pinned npm packages, fetched once into a cache folder and read without unpacking.

Every drawing style is one iconify package (``icons.json``: name -> SVG body; ``chars.json``: code points -> name);
``emojibase-data`` knows what each emoji is called, which Unicode subgroup it belongs to and which variants it has.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.data.cache import cache_folder
from nextscale.errors import InputError


@dataclass(frozen=True)
class Package:
    """One npm package at one version; ``sha256`` is that of the tarball ``npm pack`` delivers."""

    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name ``npm pack`` gives the tarball, for instance ``iconify-json-noto-1.2.9.tgz``."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES: Mapping[str, Package] = {
    "emojibase": Package(
        "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
    ),
    "noto": Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent-emoji-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    "fluent-emoji": Package(
        "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "openmoji": Package(
        "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
    ),
}

# Which package knows a style's code points, where the style's own package does not.
CHARS_FROM: Mapping[str, str] = {"fluent-emoji": "fluent-emoji-flat"}


def fetch(package: Package) -> Path:
    """Path of the package's tarball in the cache, fetched with ``npm pack`` if it is not there yet.

    Raises:
        InputError: npm is missing or fails, or the tarball's sha256 is not the pinned one.
    """
    path = cache_folder() / "npm" / package.file_name
    if not path.is_file():
        _npm_pack(package, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise InputError(
            f"{path} has sha256 {found[:16]}..., but {package.name} {package.version} has {package.sha256[:16]}...; "
            "delete the file and run the command again"
        )
    return path


def _npm_pack(package: Package, path: Path) -> None:
    wanted = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"npm was not found, and it is needed to fetch {wanted}: install Node.js (https://nodejs.org), "
            f"or copy {package.file_name} to {path.parent}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}); "
            "set NEXTSCALE_CACHE to a folder that can"
        ) from error
    with temporary as folder:
        command = [npm, "pack", wanted, "--pack-destination", folder, "--silent"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        fetched = Path(folder) / package.file_name
        if result.returncode != 0 or not fetched.is_file():
            lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
            reason = lines[0].strip() if lines else f"exit status {result.returncode}"
            raise InputError(
                f"npm could not fetch {wanted} ({reason}): check the network and npm's registry setting, "
                f"or copy {package.file_name} to {path.parent}"
            )
        fetched.replace(path)


def read_json(tarball: Path, *members: str) -> list[Any]:
    """The named JSON files of a package, in the order asked for, read from the tarball itself.

    Raises:
        InputError: the tarball cannot be read, or has no such file.
    """
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            found: dict[str, Any] = {}
            for entry in archive:
                name = entry.name.removeprefix("package/")
                if name in members:
                    stream = archive.extractfile(entry)
                    assert stream is not None
                    found[name] = json.load(stream)
                if len(found) == len(members):
                    break
    except (OSError, EOFError, tarfile.TarError, json.JSONDecodeError) as error:
        raise InputError(f"{tarball} cannot be read as an npm package ({error}); delete it and run again") from error
    missing = [name for name in members if name not in found]
    if missing:
        raise InputError(f"{tarball} holds no {missing[0]}; expected an npm package of emoji data")
    return [found[name] for name in members]


@dataclass(frozen=True)
class Icons:
    """The drawings of one style.

    ``names`` maps code points (lower case, without fe0f) to icon names; ``info`` is the package's own description,
    with its author and licence.
    """

    names: Mapping[str, str]
    info: Mapping[str, Any]
    table: Mapping[str, Any]

    def svg(self, code_points: str) -> str:
        """The whole SVG document of one emoji; its view box is made square, so nothing is stretched."""
        name = self.names[code_points]
        icon, turns, flips = self._resolve(name)
        left, top = float(icon.get("left", 0)), float(icon.get("top", 0))
        width = float(icon.get("width", self.table.get("width", 16)))
        height = float(icon.get("height", self.table.get("height", 16)))
        side = max(width, height)
        body = icon["body"]
        cx, cy = left + width / 2, top + height / 2
        if turns or flips != (1, 1):
            move = f"translate({cx} {cy}) rotate({90 * turns}) scale({flips[0]} {flips[1]}) translate({-cx} {-cy})"
            body = f'<g transform="{move}">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{cx - side / 2:g} {cy - side / 2:g} {side:g} {side:g}">{body}</svg>'
        )

    def _resolve(self, name: str) -> tuple[Mapping[str, Any], int, tuple[int, int]]:
        """Follow aliases to a drawing; returns it with the quarter turns and mirrorings they ask for."""
        turns, flip_x, flip_y = 0, 1, 1
        override: dict[str, Any] = {}
        aliases = self.table.get("aliases", {})
        while name not in self.table["icons"]:
            alias = aliases[name]
            turns = (turns + int(alias.get("rotate", 0))) % 4
            flip_x *= -1 if alias.get("hFlip") else 1
            flip_y *= -1 if alias.get("vFlip") else 1
            override = {k: v for k, v in alias.items() if k in ("left", "top", "width", "height")} | override
            name = alias["parent"]
        return {**self.table["icons"][name], **override}, turns, (flip_x, flip_y)


def plain_code_points(hexcode: str) -> str:
    """Code points in lower case, joined by ``-``, without the variation selector fe0f, which packages use loosely."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def load_icons(style: str, packages: Mapping[str, Package]) -> Icons:
    """Fetch and read one style.

    Raises:
        InputError: as ``fetch`` and ``read_json``.
    """
    table, info = read_json(fetch(packages[style]), "icons.json", "info.json")
    (chars,) = read_json(fetch(packages[CHARS_FROM.get(style, style)]), "chars.json")
    drawn = set(table["icons"]) | set(table.get("aliases", {}))
    names = {plain_code_points(code): name for code, name in chars.items() if name in drawn}
    return Icons(names, info, table)
