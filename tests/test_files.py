"""Files are written whole or not at all, and nothing of a user's is replaced unasked."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nextscale.errors import InputError
from nextscale.files import check_new, check_writable, free_name, sha256, write_text, written_aside


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt exists; choose another name, or --overwrite"):
        write_text(mine, "yours")
    assert mine.read_text() == "mine"
    write_text(mine, "yours", overwrite=True)
    assert mine.read_text() == "yours"
    assert list(tmp_path.iterdir()) == [mine]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")

    def half() -> None:
        with written_aside(mine, overwrite=True) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.txt", "mine")]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def late() -> None:
        with written_aside(path) as aside:
            aside.write_text("ours")
            path.write_text("theirs")

    with pytest.raises(InputError, match="appeared meanwhile"):
        late()
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_system_without_second_names_for_a_file_keeps_the_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "link")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    with pytest.raises(InputError, match="exists"):
        write_text(tmp_path / "a", "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nowhere"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "nowhere":
        path.symlink_to(tmp_path / "absent")
    else:
        path.symlink_to("/dev/null")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"{path} is a .*{kind}; expected the name of a file"):
            check_new(path, overwrite)
    assert os.path.lexists(path)


def test_a_link_stays_a_link_and_what_it_shows_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new", overwrite=True)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_folders_are_made_and_files_in_their_place_are_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"
    with pytest.raises(InputError, match=r"c\.txt is a file; expected a folder"):
        check_writable(tmp_path / "a" / "b" / "c.txt" / "d")


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, "/".join(["y" * 200] * 30), "猫" * 100])
def test_names_that_the_system_does_not_take_are_refused_before_work_is_done(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="too long"):
        check_writable(tmp_path / name)
    with pytest.raises(InputError, match="too long"):
        check_new(tmp_path / name)
    with pytest.raises(InputError, match="null"):
        check_new(tmp_path / "a\0b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 255, "猫" * 85])
def test_the_longest_name_that_the_system_takes_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


def test_the_next_free_name_keeps_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    assert free_name(path) == path
    for name in ("cat.png", "cat-2.png"):
        (tmp_path / name).touch()
    assert free_name(path) == tmp_path / "cat-3.png"


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\0" * (5 << 20))
    assert sha256(path) == hashlib.sha256(b"\0" * (5 << 20)).hexdigest()
