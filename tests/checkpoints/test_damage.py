"""A checkpoint folder that is damaged, foreign or nonsense is refused in one sentence, at once, and names the file;
what people change on purpose is read.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nextscale
from nextscale.checkpoints.digests import DIGESTS
from nextscale.checkpoints.load import BUNDLED, load_classifier, load_perceptual, revision
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import computed_revision, load_component, save_checkpoint
from nextscale.errors import CheckpointError
from nextscale.features.classifier import Classifier, ClassifierConfig
from nextscale.files import sha256
from tests.makers import MODELS, tiny_m_var, tiny_pipeline, tiny_tokenizer, tiny_var

WEIGHTS = ("model.safetensors", "tokenizer.safetensors")
PATIENCE = 15
"""Seconds on a busy machine; what these tests are about took minutes or never ended."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    pipe = tiny_pipeline(tiny_m_var(), guidance_scale=2.0, temperature=0.9, top_k=5, top_p=0.5)
    pipe.card = "# tiny\n"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


@pytest.fixture
def bare(saved: Path) -> Path:
    """As the version before wrote it: without digests."""
    (saved / DIGESTS).unlink()
    return saved


def refused(folder: Path, names: str | None = None) -> str:
    """The one short sentence with which a folder is refused at once; it names the folder, or the file ``names``."""
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as error:
        nextscale.load(folder, device="cpu", dtype="float32")
    said = str(error.value)
    assert time.perf_counter() - start < PATIENCE
    assert len(said) < 500 + 2 * len(str(folder))
    assert said.isprintable()
    assert str(folder / names if names else folder) in said
    return said


def flip(path: Path, times: int, seed: int = 0) -> None:
    """Flip bits of the numbers of a safetensors file."""
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    start = 8 + int.from_bytes(data[:8], "little")
    for _ in range(times):
        data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


# --- digests --------------------------------------------------------------------------------------------------------


def test_every_file_of_weights_has_its_digest(saved: Path) -> None:
    listed = json.loads((saved / DIGESTS).read_text())["sha256"]
    assert set(listed) == {"config.json", *WEIGHTS}
    assert all(sha256(saved / name) == digest for name, digest in listed.items())


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("times", [1, 200])
def test_flipped_bits_are_refused(saved: Path, name: str, times: int) -> None:
    flip(saved / name, times)
    assert "is damaged: it is not the file whose digest stands in" in refused(saved, name)


def test_flipped_bits_of_other_networks_are_refused(tmp_path: Path) -> None:
    for name, load in (("classifier", load_classifier), ("perceptual", load_perceptual)):
        shutil.copytree(BUNDLED / name, tmp_path / name)
        flip(tmp_path / name / f"{name}.safetensors", 1)
        with pytest.raises(CheckpointError, match=rf"{name}.safetensors is damaged"):
            load(tmp_path / name)


def test_flipped_bits_of_a_shared_tokenizer_are_refused(tmp_path: Path) -> None:
    """Also where its own folder has no list: the list of the folder that shares it names it, too."""
    for name in ("emoji", "emoji-m-var"):
        shutil.copytree(BUNDLED / name, tmp_path / name)
    flip(tmp_path / "emoji" / "tokenizer.safetensors", 1)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"emoji/tokenizer.safetensors is damaged"):
            nextscale.load(tmp_path / "emoji-m-var", device="cpu", dtype="float32")
        (tmp_path / "emoji" / DIGESTS).unlink(missing_ok=True)


def test_a_link_to_a_folder_that_shares_a_tokenizer_loads(tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(BUNDLED / "emoji-m-var")
    assert nextscale.load(tmp_path / "mine", device="cpu").revision == "a9f6964e3b85"


def test_bundled_models_carry_digests_and_keep_their_revisions() -> None:
    known = {"emoji": "3a77fbce9d32", "emoji-m-var": "a9f6964e3b85"}
    named = {path.parent for path in BUNDLED.glob("*/config.json")} - {BUNDLED / "word-pieces"}  # no checkpoint
    for folder in named:
        assert (folder / DIGESTS).is_file()
        assert revision(folder) == computed_revision(folder) == known.get(folder.name, revision(folder))


def test_old_folders_without_digests_load_to_the_same_weights_and_revision(whole: Path, bare: Path) -> None:
    old, new = (nextscale.load(folder, device="cpu", dtype="float32") for folder in (bare, whole))
    for part in ("model", "tokenizer"):
        ours, theirs = getattr(old, part).state_dict(), getattr(new, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    assert old.revision == new.revision


def test_what_people_edit_on_purpose_is_read(saved: Path) -> None:
    before = revision(saved)
    (saved / "README.md").write_bytes(b"# mine \xff\xfe")
    (saved / "notes.txt").write_text("mine")
    classes = json.loads((saved / "classes.json").read_text())
    (saved / "classes.json").write_text(json.dumps(classes | {"names": ["a", "b", "c", "d", "e"]}))
    pipe = nextscale.load(saved, device="cpu", dtype="float32")
    assert (pipe.vocabulary.names, pipe.revision) == (("a", "b", "c", "d", "e"), before)
    assert pipe.card.startswith("# mine")
    config = json.loads((saved / "config.json").read_text())
    config["defaults"]["temperature"] = 0.5
    (saved / "config.json").write_text(json.dumps(config))
    pipe = nextscale.load(saved, device="cpu", dtype="float32")
    assert pipe.defaults["temperature"] == 0.5
    assert pipe.revision == computed_revision(saved) != before


def test_weights_changed_on_purpose_load_without_the_list(saved: Path) -> None:
    state = load_file(saved / "model.safetensors")
    save_file({key: t / 2 for key, t in state.items()}, saved / "model.safetensors")
    assert "delete that list if you have changed the file on purpose" in refused(saved, "model.safetensors")
    (saved / DIGESTS).unlink()
    nextscale.load(saved, device="cpu", dtype="float32")


def test_a_damaged_list_is_refused(saved: Path) -> None:
    for content in (
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"sha256": []}',
        b'{"sha256": {"model.safetensors": 5}}',
        b"[" * 200_000,
    ):
        (saved / DIGESTS).write_bytes(content)
        refused(saved)


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e9])
@pytest.mark.parametrize("everywhere", [False, True])
def test_numbers_that_are_no_weights_are_refused(bare: Path, name: str, value: float, everywhere: bool) -> None:
    """In the last tensor, too, and in every number type."""
    state = load_file(bare / name)
    for dtype in (torch.float32, torch.bfloat16):
        changed = {key: t.to(dtype) for key, t in state.items()}
        for key in changed if everywhere else [sorted(state)[-1]]:
            changed[key].view(-1)[slice(None) if everywhere else slice(-1, None)] = value
        save_file(changed, bare / name)
        said = refused(bare, name)
        assert "not finite numbers" in said or "expected at most 1e+06" in said


def test_weights_too_large_for_float16_are_refused_in_float16_alone(bare: Path) -> None:
    state = load_file(bare / "model.safetensors")
    state["head_lin.bias"][0] = 1e5
    save_file(state, bare / "model.safetensors")
    load_component(bare, "model")
    with pytest.raises(CheckpointError, match=r"head_lin.bias has values up to 100000, too large for torch.float16"):
        load_component(bare, "model", dtype=torch.float16)


@pytest.mark.parametrize("number", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8])
@pytest.mark.parametrize("everywhere", [False, True])
def test_number_types_that_no_weight_has_are_refused(bare: Path, number: torch.dtype, everywhere: bool) -> None:
    for name in WEIGHTS:
        state = load_file(bare / name)
        for key in state if everywhere else [sorted(state)[0]]:
            state[key] = state[key].to(number)
        save_file(state, bare / name)
    assert re.search("holds numbers of type|is not a readable safetensors file", refused(bare))


# --- config.json ----------------------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, inner in value.items() if isinstance(value, dict) else ():
        found += [(*path, key), *leaves(inner, (*path, key))]
    return found


def put(folder: Path, path: tuple[str, ...], value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    at = config
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


WRONG: list[object] = [None, "x", 1.5, 5, -1, 0, True, [], {}, [None], {"a": 1}, [[]], 10**12, 10**30, 1e12, "5"]
WRONG += [float("nan"), float("inf"), -1e-30, [[[[1]]]], "x" * 1_000_000, ["a"] * 100_000]


def test_every_entry_with_every_wrong_value_is_refused_or_read(whole: Path, saved: Path) -> None:
    """No traceback, no wait: 40 entries times 22 values. What is read still fits the weights."""
    original = (whole / "config.json").read_bytes()
    paths = leaves(json.loads(original))
    assert len(paths) > 30
    wanted = {part: load_component(whole, part).state_dict() for part in ("model", "tokenizer")}
    outcomes = {"refused": 0, "read": 0}
    for path in paths:
        for value in WRONG:
            (saved / "config.json").write_bytes(original)
            put(saved, path, value)
            try:
                for part, tensors in wanted.items():
                    found = load_component(saved, part).state_dict()
                    assert {k: t.shape for k, t in found.items()} == {k: t.shape for k, t in tensors.items()}
                outcomes["read"] += 1
            except CheckpointError as error:
                said = str(error)
                assert said.isprintable()
                assert len(said) < 600, said
                outcomes["refused"] += 1
    assert outcomes["refused"] > 4 * outcomes["read"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("components",), None, "components is None; expected a table"),
        (("components", "model"), [], "components.model is []; expected a table of settings"),
        (("components", "model", "type"), [], "components.model.type is []; expected a text"),
        (("components", "model", "config"), None, "components.model.config is None; expected a table"),
        (("components", "model", "config", "codes"), 1.5, "codes is 1.5; expected a whole number"),
        (("components", "model", "config", "codes"), True, "codes is True; expected a whole number"),
        (("components", "model", "config", "norm_eps"), 1e12, "norm_eps is 1000000000000.0; expected a small number"),
        (("components", "model", "config", "norm_eps"), float("nan"), "norm_eps is nan; expected a finite number"),
        (("components", "model", "config", "mixer"), "x", "mixer is 'x'; expected 'mamba2' or 'attention'"),
        (("components", "model", "config", "depth"), 10**12, "depth is 1000000000000; expected at most 1,024"),
        (("components", "model", "config", "width"), 10**12, "width is 1000000000000; expected at most 1,048,576"),
        (("components", "model", "config", "heads"), 0, "heads is 0; expected 1 or more"),
        (("components", "model", "config", "head_dim"), 0, "head_dim is 0; expected 1 or more"),
        (("components", "tokenizer", "config", "phi"), 10**12, "phi is 1000000000000; expected at most 1,024"),
        (("components", "tokenizer", "config", "sizes"), [["a", "b"]], "expected a list of lists of 2 whole numbers"),
        (("components", "tokenizer", "config", "sizes"), [[10**30, 1]], "expected at most 65,536"),
        (("components", "tokenizer", "config", "autoencoder", "res_blocks"), 10**12, "expected at most 256"),
        (("components", "tokenizer", "config", "autoencoder", "mult"), [1] * 99, "expected at most 16 factors"),
        (("defaults",), 5, "defaults is 5; expected a table of settings"),
        (("defaults", "temperature"), "x", "defaults.temperature is 'x'; expected a finite number"),
        (("defaults", "temperature"), 0, "temperature is 0; expected a number above 0"),
        (("defaults", "zzz"), 1, "unknown setting 'zzz'; Defaults has guidance_scale"),
        (("dtype",), "bfloat16", "unknown setting 'dtype'; Checkpoint has format"),
        (("format",), True, "has format True; this version reads formats 1 and 2"),
    ],
)
def test_what_is_wrong_in_a_config_is_told(saved: Path, path: tuple[str, ...], value: object, message: str) -> None:
    put(saved, path, value)
    assert message in refused(saved, "config.json")


@pytest.mark.parametrize("key", ["depth", "width"])
def test_a_network_larger_than_the_file_is_not_built(saved: Path, key: str) -> None:
    """Within the bounds of the settings: 1,024 blocks."""
    put(saved, ("components", "model", "config", key), 1024)
    start = time.perf_counter()
    assert re.search("far more than there are weights|has the shape", refused(saved))
    assert time.perf_counter() - start < 5


DOCUMENTS = {
    "a list": b"[]",
    "null": b"null",
    "empty": b"",
    "no UTF-8": b'{"format":"\xff"}',
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "5,000 digits": b'{"format":' + b"1" * 5000 + b"}",
    "NULs": b"\0" * 999,
    "a name twice": b'{"format": 1, "format": 1, "components": {}, "names": ["a"], "names": ["a"]}',
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("file", ["config.json", "classes.json"])
def test_documents_that_are_none_are_refused(saved: Path, file: str, name: str) -> None:
    (saved / file).write_bytes(DOCUMENTS[name])
    refused(saved, file)


@pytest.mark.parametrize(
    "change",
    [
        {"names": None},
        {"names": 5},
        {"names": {}},
        {"names": [None] * 5},
        {"names": [[]] * 5},
        {"names": [1, 2, 3, 4, 5]},
        {"names": ["a", "a", "b", "c", "d"]},
        {"names": ["a", "b", "c", "d"]},
        {"names": "abcde"},
        {"styles": [None]},
        {"styles": "ab"},
        {"styles": ["a", "a"]},
        {"things": {"a": 1}},
        {"things": [["a", "0", "x"]]},
        {"things": [["a", 9, "x"]]},
        {"things": [["a", 0]]},
        {"things": [["a", 0, None]]},
        {"things": [["a", True, "x"]]},
        {"missing": ["ab"]},
        {"missing": [["x", "y"]]},
        {"colour": 1},
    ],
)
def test_classes_of_other_shapes_are_refused(saved: Path, change: dict[str, object]) -> None:
    classes = json.loads((saved / "classes.json").read_text())
    (saved / "classes.json").write_text(json.dumps(classes | change))
    refused(saved, "classes.json")


# --- files that are none --------------------------------------------------------------------------------------------


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "device": device,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", [*WEIGHTS, "config.json", "classes.json", DIGESTS])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(saved: Path, file: str, kind: str) -> None:
    (saved / file).unlink()
    KINDS[kind](saved / file)
    refused(saved)


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_that_is_no_file_keeps_nobody_from_drawing(saved: Path, kind: str) -> None:
    (saved / "README.md").unlink()
    KINDS[kind](saved / "README.md")
    assert nextscale.load(saved, device="cpu", dtype="float32").card == ""


@pytest.mark.parametrize("name", WEIGHTS)
def test_headers_of_every_damage_are_refused(bare: Path, name: str) -> None:
    data = (bare / name).read_bytes()
    length = int.from_bytes(data[:8], "little")
    damaged = [data[:cut] for cut in (0, 7, 8, 100, length, len(data) - 1)]
    damaged += [n.to_bytes(8, "little") + data[8:] for n in (0, 1, 2**31, 2**63, 2**64 - 1)]
    damaged += [(600_001).to_bytes(8, "little") + b'{"a":' * 100_000 + b"1" + b"}" * 100_000]
    header = json.loads(data[8 : 8 + length])
    first = sorted(set(header) - {"__metadata__"})[0]
    for change in (
        {"data_offsets": [-8, 8]},
        {"data_offsets": [0, 2**62]},
        {"shape": [2**32, 2**32]},
        {"shape": [0]},
        {"dtype": "XX"},
        {"dtype": None},
        {"dtype": "I16"},
    ):
        text = json.dumps(header | {first: header[first] | change}).encode()
        damaged.append(len(text).to_bytes(8, "little") + text + data[8 + length :])
    for content in damaged:
        (bare / name).write_bytes(content)
        refused(bare, name)


def test_names_with_control_characters_and_millions_of_letters_are_told_in_one_line(bare: Path) -> None:
    state = load_file(bare / "model.safetensors")
    for name in ("\0\n\x1b[31m red", "x" * 3_000_000):
        save_file(state | {name: torch.zeros(1)}, bare / "model.safetensors")
        refused(bare, "model.safetensors")


def test_the_command_line_says_it_in_one_sentence(saved: Path) -> None:
    """In a process of its own: what comes out is a sentence and exit code 2."""
    flip(saved / "model.safetensors", 1)
    words = ["generate", "--model", str(saved), "-c", "0", "-o", str(saved.parent / "out"), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "nextscale", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "model.safetensors is damaged" in " ".join(done.stderr.split()).replace("\n", "")


# --- saving ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_replaced_only_when_asked_and_nothing_else_goes(saved: Path) -> None:
    (saved / "thesis.tex").write_text("years of work")
    (saved / "figures").mkdir()
    (saved / "figures" / "a.png").write_bytes(b"a")
    (saved / "link").symlink_to("thesis.tex")
    (saved / "my.safetensors").write_bytes(b"mine")
    (saved / "README.md").write_text("what I know of it")
    before = sha256(saved / "model.safetensors")
    pipe = tiny_pipeline(tiny_var(seed=3))
    with pytest.raises(CheckpointError, match=r"holds a checkpoint already; .*overwrite=True"):
        pipe.save_pretrained(saved)
    assert sha256(saved / "model.safetensors") == before
    pipe.save_pretrained(saved, overwrite=True)
    assert sha256(saved / "model.safetensors") != before
    assert (saved / "thesis.tex").read_text() == "years of work"
    assert (saved / "figures" / "a.png").read_bytes() == b"a"
    assert (saved / "README.md").read_text() == "what I know of it"  # the new one has no card
    assert (saved / "link").readlink() == Path("thesis.tex")
    assert (saved / "my.safetensors").read_bytes() == b"mine"
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]
    nextscale.load(saved, device="cpu", dtype="float32")


def test_another_tools_folder_is_never_replaced(tmp_path: Path) -> None:
    """It has a config.json, too."""
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="bert exists and is not a checkpoint"):
            tiny_pipeline().save_pretrained(tmp_path / "bert", overwrite=overwrite)
    for path, make in KINDS.items():
        if path not in ("folder", "link to nowhere"):
            make(tmp_path / path)
            with pytest.raises(CheckpointError, match="expected a folder to write to"):
                tiny_pipeline().save_pretrained(tmp_path / path, overwrite=True)


def test_a_linked_folder_stays_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("tiny")
    tiny_pipeline(tiny_var(seed=3)).save_pretrained(tmp_path / "latest", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert type(nextscale.load(saved, device="cpu").model) is type(tiny_var())


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.defaults = {"colour": "red"}
    with pytest.raises(CheckpointError, match="unknown setting 'colour'"):
        pipe.save_pretrained(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# --- loading --------------------------------------------------------------------------------------------------------


def test_loading_imports_no_compiler() -> None:
    """It took 1.2 s of 1.6 s; every kind of network."""
    code = """
import sys, nextscale
from nextscale.checkpoints.load import load_classifier, load_perceptual
nextscale.load("emoji", device="cpu"), nextscale.load("emoji-m-var", device="cpu"), load_classifier(), load_perceptual()
print(*({"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_networks_built_without_values_are_those_built_with_them() -> None:
    """The same names, shapes and number types, for every kind of layer."""
    classifier = ClassifierConfig(("a", "b"), ("c",), widths=(8, 8))
    makers: list[Callable[[], nn.Module]] = [*MODELS.values(), tiny_tokenizer, lambda: Classifier(classifier)]
    for make in makers:
        real = make()
        empty = without_values(partial(type(real), real.config))
        described = [{k: (t.shape, t.dtype) for k, t in one.state_dict().items()} for one in (real, empty)]
        assert described[0] == described[1]
        assert all(t.is_meta for t in empty.state_dict().values())


def test_a_component_that_is_no_word_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x", {"model": tiny_var()})
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    config["components"]["../../etc/passwd"] = config["components"].pop("model")
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"a component is called '../../etc/passwd'"):
        load_component(tmp_path / "x", "model")
