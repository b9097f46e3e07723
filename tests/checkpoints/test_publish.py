"""A checkpoint goes to a small hub through the real client, in one commit, and comes back bit for bit; what the hub
refuses gets one sentence and changes nothing.
"""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file

import nextscale
from nextscale.checkpoints.card import split
from nextscale.checkpoints.load import bundled_names, checkpoint_folder
from nextscale.checkpoints.publish import publish
from nextscale.checkpoints.store import save_checkpoint
from nextscale.errors import CheckpointError, InputError
from nextscale.pipeline import Pipeline, load
from tests.checkpoints.hub_server import Hub, running_hub, use
from tests.checkpoints.hub_writes import READ, WRITE
from tests.makers import tiny_pipeline, tiny_pipeline_of_styles, tiny_tokenizer

# The client's own: how it hands a large file to its HTTP library is on its way out there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that one is logged in to, with the right to write."""
    monkeypatch.chdir(tmp_path)
    with running_hub() as server:
        use(server, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield server


def same(one: Pipeline, other: Pipeline, label: str) -> bool:
    a, b = (pipe(label, num_images=2, seed=3, guidance_scale=2.0) for pipe in (one, other))
    tokens = all(torch.equal(x, y) for x, y in zip(a.tokens, b.tokens, strict=True))
    return tokens and all(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_a_model_goes_there_in_one_commit_and_comes_back_bit_for_bit(hub: Hub) -> None:
    pipe = tiny_pipeline_of_styles(top_k=7)
    address = pipe.push_to_hub("someone/tiny", license="mit", commit_message="the first")
    assert address == f"{hub.endpoint}/someone/tiny"
    files = ["README.md", "classes.json", "config.json", "digests.json", "model.safetensors", "tokenizer.safetensors"]
    assert hub.commits == [("someone/tiny", "the first", files)]
    assert len(hub.large) == 2  # weights went as large files, the rest in the commit
    again = nextscale.from_pretrained("someone/tiny", device="cpu", dtype="float32")
    assert (again.name, again.defaults, again.vocabulary) == ("someone/tiny", {"top_k": 7}, pipe.vocabulary)
    assert same(pipe, again, "flag")
    assert not (Path.cwd() / "checkpoint").exists()


def test_pushing_again_replaces_what_has_changed(hub: Hub) -> None:
    pipe = tiny_pipeline()
    pipe.push_to_hub("someone/tiny", license="mit")
    pipe.defaults["top_k"] = 3
    pipe.push_to_hub("someone/tiny", license="mit", dtype=torch.bfloat16)
    assert [message for _, message, _ in hub.commits] == [
        f"Checkpoint tiny, written by nextscale {nextscale.__version__}"
    ] * 2
    assert Pipeline.from_pretrained("someone/tiny", device="cpu").defaults == {"top_k": 3}
    Path("model.safetensors").write_bytes(hub.files["someone/tiny", "model.safetensors"])
    assert {tensor.dtype for tensor in load_file("model.safetensors").values()} >= {torch.bfloat16}


def test_a_branch_is_made_and_leaves_main_alone(hub: Hub) -> None:
    pipe, other = tiny_pipeline(), tiny_pipeline(top_k=9)
    pipe.push_to_hub("someone/tiny", license="mit")
    assert other.push_to_hub("someone/tiny", license="mit", revision="v2") == f"{hub.endpoint}/someone/tiny/tree/v2"
    assert load("someone/tiny", device="cpu").defaults == {}
    assert load("someone/tiny", revision="v2", device="cpu").defaults == {"top_k": 9}
    other.push_to_hub("someone/tiny", license="mit", revision="v2")  # which is there now
    assert [place for place, _, _ in hub.commits] == ["someone/tiny", "someone/tiny@v2", "someone/tiny@v2"]


def test_a_private_repository_is_for_those_who_are_logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline().push_to_hub("someone/secret", license="mit", private=True)
    load("someone/secret", device="cpu")
    monkeypatch.delenv("HF_TOKEN")
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(CheckpointError, match="it is private and you are not logged in"):
        load("someone/secret")


def test_a_component_of_the_folder_beside_is_written_whole(hub: Hub, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    for name in ("other", "mine"):
        pipe.save_pretrained(tmp_path / name)
    (tmp_path / "mine" / "tokenizer.safetensors").unlink()
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    config["components"]["tokenizer"]["file"] = "../other/tokenizer.safetensors"
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    publish(tmp_path / "mine", "someone/mine", license="mit")
    assert "file" not in json.loads(hub.files["someone/mine", "config.json"])["components"]["tokenizer"]
    shared = (tmp_path / "other" / "tokenizer.safetensors").read_bytes()
    assert hub.files["someone/mine", "tokenizer.safetensors"] == shared
    assert same(pipe, load("someone/mine", device="cpu", dtype="float32"), "face")


@pytest.mark.skipif("emoji-m-var" not in bundled_names(), reason="the bundled model is not there")
def test_a_bundled_model_that_shares_its_tokenizer_comes_back_whole(hub: Hub) -> None:
    publish(checkpoint_folder("emoji-m-var"), "someone/copy", license="apache-2.0")
    ours, theirs = (load(name, device="cpu", dtype="float32") for name in ("emoji-m-var", "someone/copy"))
    assert same(ours, theirs, ours.vocabulary.names[0])
    assert split(theirs.card)[1].startswith(split(ours.card)[1].rstrip())


def test_a_tokenizer_alone_can_be_published(hub: Hub, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tok", {"tokenizer": tiny_tokenizer()}, {"name": "tok"})
    publish(tmp_path / "tok", "someone/tok", license="mit")
    assert hub.commits[0][2] == ["README.md", "config.json", "digests.json", "tokenizer.safetensors"]
    assert "pipeline_tag" not in split(hub.files["someone/tok", "README.md"].decode())[0]


def refused(
    hub: Hub, sentence: str, error: type[Exception] = CheckpointError, repo: Any = "someone/tiny", **more: Any
) -> None:
    """One sentence, and not a file on the hub has changed."""
    before = dict(hub.files)
    with pytest.raises(error, match=sentence) as raised:
        tiny_pipeline().push_to_hub(repo, **({"license": "mit"} | more))
    assert "\n" not in str(raised.value)
    assert hub.files == before
    assert hub.commits == []


def test_without_a_token_nothing_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refused(hub, "someone/tiny cannot be written on http.*: you are not logged in; run hf auth login, set HF_TOKEN")
    assert hub.made == set()


@pytest.mark.parametrize("there", [False, True])
def test_a_token_that_may_only_read(hub: Hub, there: bool) -> None:
    hub.made |= {"someone/tiny"} if there else set()
    refused(hub, "this token may not .You don't have the rights to write to someone/tiny.; expected one", token=READ)


def test_somebody_elses_name_and_an_unknown_token(hub: Hub) -> None:
    refused(hub, "this token may not .*write to google/tiny", repo="google/tiny")
    refused(hub, "it does not know this token; log in anew", token="hf_old")


@pytest.mark.parametrize("what", ["create", "commit"])
def test_a_hub_that_is_out_of_order(hub: Hub, what: str) -> None:
    hub.broken = what
    refused(hub, "it answered 500 .out of order")


def test_a_hub_that_is_gone_and_one_that_must_not_be_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(hub, "someone/tiny cannot be written on http://127.0.0.1:9: no connection to http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(hub, "HF_HUB_OFFLINE is set")


@pytest.mark.parametrize(
    ("repo", "sentence"),
    [
        ("tiny", "'tiny' names no owner; expected org/name"),
        ("a/b/c", "'a/b/c' is no name of a repository"),
        ("someone/my model", "is no name of a repository .*expected org/name"),
        ("someone/", "is no name of a repository"),
        ("someone/a--b", "is no name of a repository"),
    ],
)
def test_a_name_that_cannot_be(hub: Hub, repo: str, sentence: str) -> None:
    refused(hub, sentence, InputError, repo)
    assert hub.made == set()


def test_a_licence_that_the_hub_does_not_know(hub: Hub) -> None:
    refused(hub, 'Invalid metadata in README.md. - "license" must be one of', license="my own")


def test_a_folder_that_nobody_could_load_is_not_published(hub: Hub, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        publish(tmp_path / "mine", "someone/mine", license="mit")
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        publish(tmp_path / "mine", "someone/mine", license="mit")
    assert hub.made == set()


def test_no_room_for_what_is_written_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        refused(hub, r"File too large.*safetensors'; make room there, or set TMPDIR to a folder elsewhere")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert hub.made == set()


def test_a_card_without_a_licence_is_warned_of(hub: Hub) -> None:
    pipe = tiny_pipeline()
    with pytest.warns(UserWarning, match="the card of someone/tiny names no licence"):
        pipe.push_to_hub("someone/tiny")
    pipe.card = "---\nlicense: mit\n---\n\n# mine\n"
    pipe.push_to_hub("someone/tiny")  # a warning would be an error here
    facts = yaml.safe_load(hub.files["someone/tiny", "README.md"].decode().split("---\n")[1])
    assert facts["license"] == "mit"
