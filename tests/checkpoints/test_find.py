"""What a user calls a model is found where it is, and what cannot be a repository is not looked for on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import BUNDLED
from nextscale.errors import CheckpointError, InputError


def test_a_bundled_name_goes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("emoji").mkdir()
    assert model_folder("emoji") == BUNDLED / "emoji"


@pytest.mark.parametrize("name", ["run/export", "here/other", "./other", "no-such-model", "m-var-d12", "var-d16-512"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    Path("here").mkdir()
    with pytest.raises(CheckpointError) as error:
        model_folder(name)
    assert name in str(error.value)
    assert "hub" not in str(error.value)
    assert ("no weights have been published" in str(error.value)) == ("var-d" in name)


def test_a_revision_of_what_is_here_is_refused() -> None:
    with pytest.raises(InputError, match="'v1' of 'emoji'"):
        model_folder("emoji", "v1")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("var_d16", "var-d16"),
        ("VAR-D30", "var-d30"),
        ("mvar-d16", "m-var-d16"),
        ("var_d36.pth", "var-d36-512"),
        ("vard16", "var-d16"),
        ("emoji-mvar", "emoji-m-var"),
    ],
)
def test_a_misspelt_name_is_told_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"\(did you mean {meant}\?\)"):
        model_folder(name)


@pytest.mark.parametrize(
    ("repo", "some"), [("FoundationVision/var", "var-d16, var-d20"), ("OliverRen/M-VAR", "m-var-d")]
)
def test_the_authors_repositories_are_pointed_to_by_their_models(repo: str, some: str) -> None:
    with pytest.raises(CheckpointError, match=f"name one of them: {some}"):
        model_folder(repo)
