"""``nextscale push`` puts a folder on the hub as it stands, and refuses in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.hub_server import Hub, running_hub, use
from tests.checkpoints.hub_writes import WRITE
from tests.cli.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        use(server, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield server


def test_a_folder_is_published_as_it_stands_and_drawn_from(nextscale: Command, tiny_model: Path, hub: Hub) -> None:
    done = nextscale("push", tiny_model, "someone/tiny", "--license", "mit", "--dataset", "mnist", "-m", "the first")
    assert done.code == 0, done.err
    assert done.out == f"{tiny_model} is published: {hub.endpoint}/someone/tiny\n"
    for name in ("model.safetensors", "tokenizer.safetensors", "config.json", "classes.json"):
        assert hub.files["someone/tiny", name] == (tiny_model / name).read_bytes()
    card = hub.files["someone/tiny", "README.md"].decode()
    assert card.startswith("---\nlicense: mit\n")
    assert "datasets:\n- mnist\n" in card
    assert "# tiny\n\nA model for tests." in card
    assert hub.commits[0][1] == "the first"
    nextscale("generate", "-c", 0, "--seed", 1, "--model", "someone/tiny", "--dtype", "float32", "-o", "there")
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--dtype", "float32", "-o", "here")
    assert Path("there/cat-face-1.png").is_file()
    assert _pixels("there") == _pixels("here")


def test_branches_privacy_and_json(nextscale: Command, tiny_model: Path, hub: Hub) -> None:
    words = ["--license", "mit", "--private", "--revision", "v2", "--json"]
    told = json.loads(nextscale("push", tiny_model, "someone/tiny", *words).out)
    assert told == {"repository": "someone/tiny", "address": f"{hub.endpoint}/someone/tiny/tree/v2"}
    assert hub.private == {"someone/tiny"}


def test_no_licence_is_remarked(nextscale: Command, tiny_model: Path, hub: Hub) -> None:
    done = nextscale("push", tiny_model, "someone/tiny")
    assert done.code == 0
    assert done.err.splitlines()[-1].startswith("the card of someone/tiny names no licence")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing", "someone/tiny"], "there is no model 'nothing'"),
        (["emoji", "tiny"], "'tiny' names no owner"),
        (["emoji", "google/tiny", "--license", "mit"], "this token may not"),
        (["emoji"], "Missing argument"),
    ],
)
def test_what_cannot_be_published_gets_one_sentence(
    nextscale: Command, hub: Hub, words: list[str], expected: str
) -> None:
    done = nextscale("push", *words)
    assert (done.code, done.out) == (2, "")
    sentences = [line for line in done.err.splitlines() if line.startswith("nextscale: ")]
    assert len(sentences) == 1
    assert expected in sentences[0]
    assert hub.commits == []


def _pixels(folder: str) -> bytes:
    from nextscale.pictures import open_picture

    return open_picture(f"{folder}/cat-face-1.png").tobytes()
