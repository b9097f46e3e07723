"""Files come over the real client from a small hub; whatever interrupts it, what has arrived is not fetched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from nextscale.checkpoints.download import Wanted, fetch, remember
from nextscale.errors import CheckpointError
from tests.checkpoints.hub_server import COMMIT, Hub, running_hub, use

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()
FILE = Wanted("org/weights", "model.pth", "main")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as server:
        server.files["org/weights", "model.pth"] = CONTENT
        use(server, tmp_path / "hf", monkeypatch)
        yield server


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once_with_commit_and_hash(hub: Hub, tmp_path: Path) -> None:
    ((path, file),) = fetch([FILE])
    assert path == tmp_path / "hf/nextscale/official/org--weights/main/model.pth"
    assert path.read_bytes() == CONTENT
    assert (file.commit, file.sha256, file.bytes) == (COMMIT, SHA, len(CONTENT))
    assert json.loads(FILE.record.read_text())["sha256"] == SHA
    assert left_in(path.parent) == ["model.pth", "model.pth.json"]
    asked = len(hub.requests)
    assert fetch([FILE]) == [(path, file)]
    assert len(hub.requests) == asked  # nobody was asked anything


def test_a_server_that_hangs_up_is_asked_for_the_rest(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits a second before it tries again
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # less than a chunk is lost; the usual one is 10 MB
    hub.cut = 400_000
    ((path, _),) = fetch([FILE])
    assert path.read_bytes() == CONTENT
    assert hub.asked("GET", "model.pth") == ["", "bytes=400000-", "bytes=800000-"]


def test_a_reset_connection_is_continued_by_the_next_call(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.cut, hub.reset = 600_000, True
    with pytest.raises(CheckpointError, match=r"model.pth of org/weights at 'main' cannot be fetched \(no connection"):
        fetch([FILE])
    (part,) = FILE.place.parent.iterdir()
    assert part.name == f"model.pth.{SHA[:16]}.part"
    had = part.stat().st_size
    assert part.read_bytes() == CONTENT[:had]
    hub.cut, hub.reset = None, False
    hub.requests.clear()
    ((path, _),) = fetch([FILE])
    assert path.read_bytes() == CONTENT
    assert hub.asked("GET", "model.pth") == ([f"bytes={had}-"] if had else [""])
    assert left_in(path.parent) == ["model.pth", "model.pth.json"]


def test_an_interrupted_download_is_continued(hub: Hub) -> None:
    """What Ctrl-C leaves behind: part of the file."""
    FILE.place.parent.mkdir(parents=True)
    FILE.place.with_name(f"model.pth.{SHA[:16]}.part").write_bytes(CONTENT[:700_000])
    FILE.place.with_name(f"model.pth.{'0' * 16}.part").write_bytes(b"part of an older version")
    ((path, _),) = fetch([FILE])
    assert path.read_bytes() == CONTENT
    assert hub.asked("GET", "model.pth") == ["bytes=700000-"]
    assert left_in(path.parent) == ["model.pth", "model.pth.json"]


def test_a_file_that_arrives_damaged_is_deleted(hub: Hub) -> None:
    hub.lie = "ab" * 32
    with pytest.raises(CheckpointError, match=r"arrived damaged: its sha256 is not abababababababab\.\.\."):
        fetch([FILE])
    assert left_in(FILE.place.parent) == []
    hub.lie = None
    assert fetch([FILE])[0][0].read_bytes() == CONTENT


def test_another_file_than_the_recorded_one_is_refused(hub: Hub) -> None:
    ((path, _),) = fetch([FILE])
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CheckpointError, match=rf"but {SHA[:16]}... was recorded when model.pth of org/weights"):
        fetch([FILE])
    path.unlink()
    hub.files["org/weights", "model.pth"], hub.commit = b"something new", "1234" * 10
    with pytest.raises(CheckpointError, match=r"delete .*model.pth to fetch it again, or .*model.pth.json to trust"):
        fetch([FILE])
    FILE.record.unlink()
    assert fetch([FILE])[0][1].sha256 == hashlib.sha256(b"something new").hexdigest()


def test_what_is_put_in_place_by_hand_or_lies_in_the_hubs_own_cache_is_not_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = hf_hub_download("org/weights", "model.pth")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ((path, file),) = fetch([FILE])
    assert (str(path), file.commit) == (cached, COMMIT)
    FILE.place.write_bytes(CONTENT)
    FILE.record.unlink()  # the hub's cache was told of
    ((path, file),) = fetch([FILE])
    assert (path, file.commit, file.sha256) == (FILE.place, None, SHA)
    assert not FILE.record.exists()
    remember([file])
    assert fetch([FILE]) == [(path, file)]
    assert hub.requests == []


def test_offline_the_error_says_what_to_fetch_and_where_to_put_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    other = Wanted("org/weights", "vae.pth", "main")
    with pytest.raises(CheckpointError) as refused:
        fetch([FILE, other])
    told = str(refused.value)
    assert "model.pth of org/weights at 'main' cannot be fetched (HF_HUB_OFFLINE is set)" in told
    for file in (FILE, other):
        assert f"download {hub.endpoint}/org/weights/resolve/main/{file.file} to {file.place}" in told
    assert hub.requests == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted("org/weights", "other.pth", "main"), "the repository has no such file"),
        (Wanted("org/weights", "model.pth", "v9"), "the repository has no such revision"),
        (Wanted("org/nothing", "model.pth", "main"), "there is no such repository, or it is private"),
    ],
)
def test_what_the_hub_has_not_is_said(hub: Hub, wanted: Wanted, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        fetch([wanted])


def test_a_hub_that_is_not_there_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    with pytest.raises(CheckpointError, match="no connection to"):
        fetch([FILE])


def test_a_file_that_will_not_fit_is_refused_before_it_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["org/weights", "model.pth"] = CONTENT
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match=r"has 0.00 GB free, but 0.00 GB are still to come; make room"):
        fetch([FILE])
    assert hub.asked("GET", "model.pth") == []
