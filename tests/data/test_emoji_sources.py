"""Packages come from the cache or from npm, are what they were pinned to, and say what to do where they do not come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nextscale.data.cache import cache_folder
from nextscale.data.emoji_sources import PACKAGES, Package, fetch, plain_code_points, read_json
from nextscale.errors import InputError

ABSENT = Package("@tiny/absent", "1.0.0", "00")


def program(folder: Path, script: str) -> None:
    """Put an ``npm`` that runs ``script`` where the search path of the ``cache`` fixture looks."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_names_of_tarballs_are_npms() -> None:
    assert PACKAGES["noto"].file_name == "iconify-json-noto-1.2.9.tgz"
    assert PACKAGES["emojibase"].file_name == "emojibase-data-17.0.0.tgz"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("NEXTSCALE_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "nextscale")


def test_a_cached_package_needs_no_npm(packages: dict[str, Package]) -> None:
    (groups,) = read_json(fetch(packages["emojibase"]), "meta/groups.json")
    assert groups["subgroups"]["12"] == "cat-face"


def test_without_npm(cache: Path) -> None:
    with pytest.raises(InputError, match=r"npm was not found.*Node.js.*or copy tiny-absent-1.0.0.tgz to "):
        fetch(ABSENT)


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for npm is a shell script")
def test_without_network(cache: Path, tmp_path: Path) -> None:
    program(tmp_path / "no-programs", "echo 'npm error network is unreachable' >&2; exit 1")
    with pytest.raises(InputError, match=r"could not fetch @tiny/absent@1.0.0 \(npm error network .*check the network"):
        fetch(ABSENT)
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for npm is a shell script")
def test_what_npm_delivers_is_kept(cache: Path, tmp_path: Path, packages: dict[str, Package]) -> None:
    wanted = packages["noto"]
    delivered = tmp_path / "delivered.tgz"
    (cache / wanted.file_name).rename(delivered)
    program(tmp_path / "no-programs", f'/bin/cp {delivered} "$4/{wanted.file_name}"')
    path = fetch(wanted)
    assert path == cache / wanted.file_name
    assert path.read_bytes() == delivered.read_bytes()


def test_a_changed_package_is_refused(cache: Path, packages: dict[str, Package]) -> None:
    path = cache / packages["noto"].file_name
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(InputError, match=r"has sha256 .*delete the file"):
        fetch(packages["noto"])


def test_a_foreign_package_is_refused(cache: Path, packages: dict[str, Package], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no icons\.json"):
        read_json(cache / packages["emojibase"].file_name, "icons.json")
    (tmp_path / "truncated.tgz").write_bytes((cache / packages["noto"].file_name).read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read as an npm package"):
        read_json(tmp_path / "truncated.tgz", "icons.json")


def test_code_points_are_compared_without_the_variation_selector() -> None:
    assert plain_code_points("1F469-200D-2695-FE0F") == "1f469-200d-2695"
