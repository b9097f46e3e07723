"""Published checkpoints come from a small hub over the real client, are converted once, and never half."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from nextscale.checkpoints.card import split
from nextscale.checkpoints.convert import export_official
from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import checkpoint_folder
from nextscale.checkpoints.published import LICENCES, M_VAR_REPO, PUBLISHED, TOKENIZER, VAR_REPO
from nextscale.errors import CheckpointError, InputError
from nextscale.pipeline import load
from tests.checkpoints import official
from tests.checkpoints.hub_server import COMMIT, Hub, running_hub, use
from tests.makers import tiny_pipeline


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with small official files, and the table that says so."""
    monkeypatch.chdir(tmp_path)
    for model in (official.VAR_D1, official.M_VAR_D1):
        monkeypatch.setitem(PUBLISHED, model.name, model)
    with running_hub() as server:
        server.files |= official.official_files()
        use(server, tmp_path / "hf", monkeypatch)
        yield server


@pytest.mark.parametrize("name", ["var-d1", "m-var-d1"])
def test_a_published_name_is_fetched_converted_once_and_draws(name: str, hub: Hub, tmp_path: Path) -> None:
    pipe = load(name, device="cpu")
    assert pipe.name == name
    assert pipe("207", seed=1, output_type="pt").images.shape == (1, 3, 32, 32)
    folder = tmp_path / "hf/nextscale/checkpoints" / f"{name}@main"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".lock", folder.name]
    model, tokenizer = json.loads((folder / "origin.json").read_text())["files"]
    assert (model["repo"], model["commit"]) == (PUBLISHED[name].repo, COMMIT)
    assert tokenizer["file"] == TOKENIZER[1]
    assert model["sha256"] in pipe.card
    facts = {"license": LICENCES[model["repo"]], "base_model": [model["repo"]], "datasets": ["imagenet-1k"]}
    assert split(pipe.card)[0] == facts  # which go with the model if it is published
    hub.requests.clear()
    assert load(name, device="cpu").revision == pipe.revision
    assert checkpoint_folder(name) == folder
    assert hub.requests == []  # and nobody was asked


def test_every_bit_of_the_official_file_is_kept(hub: Hub) -> None:
    folder = model_folder("var-d1")
    back, given = export_official(folder, "model"), official.transformer()
    assert set(back) == set(given)
    assert all(torch.equal(back[name], t) for name, t in given.items())


def test_offline_what_is_there_is_enough_and_what_is_not_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load("var-d1", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load("var-d1", device="cpu")
    with pytest.raises(CheckpointError) as refused:
        load("m-var-d1", device="cpu")
    told = str(refused.value)
    place = Path(constants.HF_HOME) / "nextscale/official/OliverRen--M-VAR/main/d1.pth"
    assert f"download {hub.endpoint}/{M_VAR_REPO}/resolve/main/d1.pth to {place}" in told
    assert "The name d1.pth is inferred" in told
    place.parent.mkdir(parents=True)
    place.write_bytes(official.official_files()[M_VAR_REPO, "d1.pth"])
    assert "put here by hand" in load("m-var-d1", device="cpu").card  # the tokenizer is there already


def test_a_converted_folder_that_changed_is_refused(hub: Hub) -> None:
    folder = model_folder("var-d1")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{folder} has changed since it was converted .*delete the folder"):
        load("var-d1", device="cpu")
    content[-1] ^= 1
    weights.write_bytes(content)  # at another time, but as it was
    load("var-d1", device="cpu")
    weights.unlink()
    with pytest.raises(CheckpointError, match=rf"{folder} is damaged .*delete the folder, and it is made anew"):
        load("var-d1", device="cpu")
    shutil.rmtree(folder)
    hub.requests.clear()
    assert load("var-d1", device="cpu").name == "var-d1"
    assert hub.requests == []  # made anew from the files that are here


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda: official.saved(official.transformer(2)), "holds a VARConfig of depth 2 and width 128 .* depth 1"),
        (
            lambda: official.official_files()[M_VAR_REPO, "d1.pth"],
            "holds a transformer of the system m-var; expected one of the system var$",
        ),
        (lambda: b"<!DOCTYPE html>", "is a web page"),
        (lambda: official.official_files()[TOKENIZER], "both hold a tokenizer; expected one"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_not_converted(
    content: Callable[[], bytes], sentence: str, hub: Hub
) -> None:
    hub.files[VAR_REPO, "var_d1.pth"] = content()
    with pytest.raises(CheckpointError, match=sentence):
        load("var-d1", device="cpu")
    assert [path.name for path in (Path(constants.HF_HOME) / "nextscale/checkpoints").iterdir()] == [".lock"]


def test_another_revision_is_another_folder(hub: Hub) -> None:
    folder = model_folder("var-d1", COMMIT)
    assert folder.name == f"var-d1@{COMMIT}"
    assert model_folder("var-d1").name == "var-d1@main"
    with pytest.raises(CheckpointError, match=r"at 'v9' cannot be fetched .the repository has no such revision"):
        model_folder("var-d1", "v9")
    with pytest.raises(InputError, match="revision 'v9' of 'emoji' was asked for; only models from the hub have one"):
        load("emoji", revision="v9")


def test_a_checkpoint_in_a_repository_is_fetched_as_it_is(hub: Hub, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.card = "# mine"
    pipe.save_pretrained(tmp_path / "mine")
    for path in (tmp_path / "mine").iterdir():
        hub.files["someone/mine", path.name] = path.read_bytes()
    hub.files["someone/mine", "training.log"] = b"not needed"
    got = load("someone/mine", device="cpu", dtype="float32")
    assert (got.name, got.card, got.vocabulary.names) == ("someone/mine", "# mine", pipe.vocabulary.names)
    drawn, expected = (one(2, seed=1).tokens for one in (got, pipe))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(drawn, expected, strict=True))
    assert hub.asked("GET", "training.log") == []
    assert load("someone/mine", revision=COMMIT, device="cpu").name == "someone/mine"
    with pytest.raises(CheckpointError, match=r"someone/mine at 'v9' cannot be fetched .*has no such revision"):
        load("someone/mine", revision="v9")


def test_a_repository_that_is_no_checkpoint_is_refused_before_its_weights(hub: Hub) -> None:
    hub.files["someone/other", "config.json"] = b'{"model_type": "bert"}'
    hub.files["someone/other", "model.safetensors"] = b"many bytes"
    with pytest.raises(CheckpointError, match=r"someone/other on the hub is no nextscale checkpoint .*format None"):
        load("someone/other")
    assert hub.asked("GET", "model.safetensors") == []
    with pytest.raises(CheckpointError, match=r"no checkpoint folder runs/mine here, and .* no such repository"):
        load("runs/mine")
    hub.files["someone/readme", "README.md"] = b"# nothing else"
    with pytest.raises(CheckpointError, match=r"someone/readme cannot be fetched from the hub: the .* no such file"):
        load("someone/readme")


def test_a_repository_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "mine")
    for path in (tmp_path / "mine").iterdir():
        hub.files["someone/mine", path.name] = path.read_bytes()
    load("someone/mine", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load("someone/mine", device="cpu")
    with pytest.raises(CheckpointError, match="someone/else cannot be fetched from the hub: HF_HUB_OFFLINE is set"):
        load("someone/else")


def test_who_comes_second_waits_for_what_the_first_makes(hub: Hub) -> None:
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(model_folder, ["var-d1", "var-d1"])
    assert first == second
    assert len(hub.asked("GET", "var_d1.pth")) == len(hub.asked("GET", TOKENIZER[1])) == 1


FULL_DISK = """
import resource
from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.hub import official_files
from nextscale.checkpoints.published import PUBLISHED, Published
from nextscale.errors import CheckpointError
VAR_D1 = PUBLISHED["var-d1"] = Published("var-d1", "var", 1, 256, "var_d1.pth", 0, "FID 99.0")
def limited(size, act):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        act()
        print("done")
    except CheckpointError as error:
        print(error)
limited(1_000_000, lambda: model_folder("var-d1"))
limited(resource.RLIM_INFINITY, lambda: official_files(VAR_D1))
limited(1_000_000, lambda: model_folder("var-d1"))
limited(resource.RLIM_INFINITY, lambda: model_folder("var-d1"))
"""


def test_a_full_disk_leaves_no_half_folder_and_room_is_all_it_takes(hub: Hub, tmp_path: Path) -> None:
    """In a process of its own, which finds the hub through its environment: no file may grow beyond a megabyte, first
    while official files are fetched, then while they are converted.
    """
    home = tmp_path / "elsewhere"
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    fetching, fetched, converting, converted = done.stdout.splitlines()
    assert re.search(
        r"official.* cannot be written .*File too large.* what has arrived is kept and continued", fetching
    )
    assert re.search(r"checkpoints/var-d1@main cannot be written \(File too large\); it takes 0.01 GB", converting)
    assert (fetched, converted) == ("done", "done")
    assert hub.asked("GET", "var_d1.pth") == ["", "bytes=1000000-"]
    assert sorted(path.name for path in (home / "nextscale/checkpoints").iterdir()) == [".lock", "var-d1@main"]
