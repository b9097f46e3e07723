"""A published text model comes from a folder of shards, or from one file, and is converted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download

from nextscale.checkpoints.card import split
from nextscale.checkpoints.convert import export_official
from nextscale.checkpoints.convert import infinity as convert
from nextscale.checkpoints.download import fetch_folder
from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import load_conditioner
from nextscale.checkpoints.published import INFINITY_REPO, PUBLISHED, Published
from nextscale.checkpoints.store import load_component
from nextscale.errors import CheckpointError
from nextscale.pipeline import load
from tests.checkpoints.convert.test_infinity import SMALL, SMALL_TOKENIZER, official_tokenizer, official_transformer
from tests.checkpoints.convert.test_shards import sharded
from tests.checkpoints.hub_server import COMMIT, Hub, running_hub, use
from tests.checkpoints.official import saved

VAE = (INFINITY_REPO, "vae.pth")
FOLDER = Published("infinity-s", "infinity", 4, 256, "s_weights/", 0, "GenEval 0.1", tokenizer=VAE)
ONE_FILE = replace(FOLDER, name="infinity-s-flat", file="s.pth")
PATTERNS = ["model-{}.safetensors", "pytorch_model-{}.bin"]


def put(hub: Hub, folder: Path) -> None:
    """Serve a folder of shards."""
    for path in folder.iterdir():
        hub.files[INFINITY_REPO, f"{folder.name}/{path.name}"] = path.read_bytes()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with small official files, and the tables that say so."""
    configs = {"tokenizer": SMALL_TOKENIZER, "model": SMALL}
    monkeypatch.setattr(convert, "published", lambda name, like=None: configs if "infinity-s" in name else None)
    for row in (FOLDER, ONE_FILE):
        monkeypatch.setitem(PUBLISHED, row.name, row)
    with running_hub() as server:
        server.files[VAE] = saved({"vae": official_tokenizer()})  # type: ignore[dict-item]
        server.files[INFINITY_REPO, "s.pth"] = saved(official_transformer())
        put(server, sharded(tmp_path / "made" / "s_weights", official_transformer()))
        use(server, tmp_path / "hf", monkeypatch)
        yield server


@pytest.mark.parametrize("name", ["infinity-s", "infinity-s-flat"])
def test_a_text_model_is_fetched_and_converted_once(name: str, hub: Hub) -> None:
    folder = model_folder(name)
    assert load_component(folder, "model").config == SMALL  # with the schedule of the table, which no tensor shows
    assert load_component(folder, "tokenizer").config == SMALL_TOKENIZER
    back = export_official(folder, "model")
    assert all(torch.equal(back[key], t) for key, t in official_transformer().items())
    assert load_conditioner(folder, {"text": 256}).to_dict()["encoder"] == "google/flan-t5-xl"
    files = json.loads((folder / "origin.json").read_text())["files"]
    assert [file["commit"] for file in files] == [COMMIT] * (5 if name == "infinity-s" else 2)
    hub.requests.clear()
    assert model_folder(name) == folder
    assert hub.requests == []  # and nobody was asked


def test_its_card_says_nothing_of_imagenet(hub: Hub) -> None:
    pipe = load("infinity-s", device="cpu")
    assert split(pipe.card)[0] == {"license": "mit", "base_model": [INFINITY_REPO]}
    assert "Text to image at 256 pixels; as its authors measured it: GenEval 0.1." in pipe.card
    assert "ImageNet" not in pipe.card
    assert pipe.defaults == {"guidance_scale": 3.0, "temperature": 0.5, "top_p": 0.97}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_either_kind_of_shards_is_fetched_whole(hub: Hub, tmp_path: Path, pattern: str) -> None:
    put(hub, sharded(tmp_path / "b_weights", official_transformer(), pattern))
    found = fetch_folder(INFINITY_REPO, "b_weights", "main")
    assert [path.name for path, _ in found] == [
        f"{pattern.replace('-{}', '')}.index.json",
        *(pattern.format(f"0000{i}-of-00003") for i in (1, 2, 3)),
    ]
    assert len({path.parent for path, _ in found}) == 1
    assert all(file.commit == COMMIT for _, file in found)
    hub.requests.clear()
    assert fetch_folder(INFINITY_REPO, "b_weights", "main") == found
    assert hub.requests == []


def test_shards_in_the_hubs_own_cache_are_taken_from_there_if_all_are(hub: Hub) -> None:
    names = [name for repo, name in hub.files if name.startswith("s_weights/")]
    for name in names[:-1]:
        hf_hub_download(INFINITY_REPO, name)
    mixed = fetch_folder(INFINITY_REPO, "s_weights", "main")
    ours = Path(constants.HF_HOME) / "nextscale/official/FoundationVision--Infinity/main/s_weights"
    assert {path.parent for path, _ in mixed} == {ours}
    for path, _ in mixed:
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
    hf_hub_download(INFINITY_REPO, names[-1])
    hub.requests.clear()
    found = fetch_folder(INFINITY_REPO, "s_weights", "main")
    assert {path.parent.parent.name for path, _ in found} == {COMMIT}
    assert [file.commit for _, file in found] == [COMMIT] * 4
    assert hub.requests == []


def test_offline_the_error_says_how_to_get_the_folder(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as refused:
        model_folder("infinity-s")
    told = str(refused.value)
    assert 'hf download FoundationVision/Infinity --include "s_weights/*"' in told
    assert "HF_HUB_OFFLINE is set" in told


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("s_weights/model-00002-of-00003.safetensors", "model-00002-of-00003.safetensors of .* has no such file"),
        ("s_weights/model.safetensors.index.json", "pytorch_model.bin.index.json of .* has no such file"),
        ("vae.pth", "vae.pth of FoundationVision/Infinity .* has no such file"),
    ],
)
def test_what_the_hub_lacks_is_named_and_nothing_is_half_made(hub: Hub, gone: str, sentence: str) -> None:
    del hub.files[INFINITY_REPO, gone]
    with pytest.raises(CheckpointError, match=sentence):
        model_folder("infinity-s")
    assert [path.name for path in (Path(constants.HF_HOME) / "nextscale/checkpoints").iterdir()] == [".lock"]


def test_an_index_that_leads_elsewhere_fetches_nothing(hub: Hub) -> None:
    name = "s_weights/model.safetensors.index.json"
    hub.files[INFINITY_REPO, name] = json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode()
    with pytest.raises(CheckpointError, match=r"names '../../x.safetensors', which lies elsewhere"):
        model_folder("infinity-s")
    assert [file for method, file, _ in hub.requests if method == "GET"] == [name]
