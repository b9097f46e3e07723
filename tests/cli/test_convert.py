"""``nextscale convert`` reads official files, writes what draws the same pictures, and refuses everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nextscale.checkpoints.published import PUBLISHED
from nextscale.pictures import open_picture
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from tests.checkpoints.hub_server import running_hub, use
from tests.checkpoints.official import VAR_D1, official_files
from tests.cli.conftest import Command
from tests.makers import CODE_DIM, CODES, SIZES, randomise, tiny_pipeline


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose norms have 32 groups, as the official ones: 16x16 pictures on four scales."""
    encoder = AutoencoderConfig(ch=32, mult=(1, 1, 2), z=CODE_DIM, res_blocks=2)
    pipe = tiny_pipeline()
    pipe.tokenizer = ResidualTokenizer(ResidualConfig(codes=CODES, code_dim=CODE_DIM, sizes=SIZES, autoencoder=encoder))
    randomise(pipe.tokenizer)
    folder = tmp_path_factory.mktemp("models") / "official"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def official(nextscale: Command, checkpoint: Path) -> list[str]:
    """The model's parts in files with official names."""
    names = ["tokenizer.safetensors", "model.safetensors"]
    for name in names:
        done = nextscale("convert", checkpoint, "--export", name.partition(".")[0], "-o", name)
        assert done.code == 0, done.err
    return names


def test_there_and_back_draws_the_same_picture(nextscale: Command, checkpoint: Path, official: list[str]) -> None:
    done = nextscale("convert", *official, "-o", "back", "--scales", "1 2 3 4")
    assert done.code == 0, done.err
    assert "VAR tokenizer" in done.out
    for model, out in [(checkpoint, "a"), ("back", "b")]:
        words = ["--seed", 1, "--dtype", "float32", "--guidance-scale", 2, "--top-k", 0, "--top-p", 0]
        assert nextscale("generate", "-c", 0, "--model", model, "-o", out, *words).code == 0
    assert open_picture("a/animal-1.png").tobytes() == open_picture("b/0-1.png").tobytes()


def test_half_the_bytes_on_request(nextscale: Command, official: list[str]) -> None:
    for dtype, folder in [("float32", "whole"), ("bf16", "half")]:
        assert nextscale("convert", official[1], "-o", folder, "--dtype", dtype, "--scales", "1 2 3 4").code == 0
    whole, half = (load_file(Path(folder) / "model.safetensors") for folder in ("whole", "half"))
    assert all(torch.equal(half[name], t.bfloat16()) for name, t in whole.items())


def test_a_published_name_stands_for_its_files(
    nextscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "var-d1", VAR_D1)
    with running_hub() as hub:
        hub.files |= official_files()
        use(hub, tmp_path / "hf", monkeypatch)
        done = nextscale("convert", "var-d1", "-o", "small", "--dtype", "bf16")
        assert done.code == 0, done.err
        assert load_file("small/model.safetensors")["head_lin.bias"].dtype == torch.bfloat16
        done = nextscale("convert", "var-d1", "-o", "other", "--revision", "v9")
    assert (done.code, Path("other").exists()) == (2, False)
    assert "the repository has no such revision" in done.err


def test_what_is_no_official_file_is_refused(nextscale: Command, official: list[str]) -> None:
    whole = Path(official[1]).read_bytes()
    Path("half.safetensors").write_bytes(whole[: len(whole) // 2])
    Path("text.pth").write_text("hello")
    for name in ("half.safetensors", "text.pth", "none.pth"):
        done = nextscale("convert", name, "-o", "new")
        assert (done.code, done.out) == (2, "")
        assert name in done.err
        assert not Path("new").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--scales", "1 2 x"], "--scales is '1 2 x'"),
        (["--scales", ""], "--scales is ''"),
        (["--export", "tokenizer", "--scales", "1 2"], "--export takes one checkpoint folder"),
        (["--export", "nonsense"], "nonsense"),
        (["--export", "model", "--dtype", "bf16"], "--export takes one checkpoint folder"),
        (["--dtype", "int3"], "--dtype is 'int3'; expected one of float32, bfloat16, float16, fp32, bf16, fp16"),
        (["--revision", "main"], "--revision is 'main', but no published model was named"),
    ],
)
def test_wrong_options_are_refused(nextscale: Command, tiny_model: Path, words: list[str], expected: str) -> None:
    done = nextscale("convert", tiny_model, "-o", "new.safetensors", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert not Path("new.safetensors").exists()


def contents(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_checkpoint_is_replaced_only_when_asked(nextscale: Command, official: list[str]) -> None:
    words = ["convert", *official, "-o", "out", "--scales", "1 2 3 4"]
    assert nextscale(*words).code == 0
    before = contents("out")
    done = nextscale(*words, "--dtype", "bf16")
    assert (done.code, contents("out")) == (2, before)
    assert "out is a checkpoint already; choose another folder, or --overwrite" in done.err
    Path("link").symlink_to("out")
    assert nextscale(*words[:-4], "-o", "link", "--scales", "1 2 3 4", "--dtype", "bf16", "--overwrite").code == 0
    assert Path("link").is_symlink()
    assert load_file("out/model.safetensors")["head_lin.bias"].dtype == torch.bfloat16


@pytest.mark.parametrize("beside", ["a checkpoint", "nothing"])
@pytest.mark.parametrize("stranger", ["thesis.tex", "sub/notes.txt", ".hidden", "mine.safetensors"])
def test_a_folder_with_other_files_is_never_written_to(
    nextscale: Command, official: list[str], beside: str, stranger: str
) -> None:
    words = ["convert", *official, "-o", "out", "--scales", "1 2 3 4"]
    if beside == "a checkpoint":
        assert nextscale(*words).code == 0
    (Path("out") / stranger).parent.mkdir(parents=True, exist_ok=True)
    (Path("out") / stranger).write_text("mine")
    before = contents("out")
    for more in ([], ["--overwrite"]):
        done = nextscale(*words, *more)
        assert (done.code, contents("out")) == (2, before)
        assert f"it holds {stranger.partition('/')[0]}" in done.err


def test_what_fails_half_way_leaves_things_as_they_were(nextscale: Command, official: list[str]) -> None:
    words = [official[0], "--scales", "1 2 3 4"]
    assert nextscale("convert", official[1], *words, "-o", "out").code == 0
    before = contents(".")
    state = load_file(official[1])
    state["head.bias"][-1] = torch.nan
    torch.save(state, "nan.pth")
    for out in ("out", "new/deep/out"):
        done = nextscale("convert", "nan.pth", *words, "-o", out, "--overwrite")
        assert done.code == 2
        assert "nan.pth" in done.err
    assert contents(".") == before | {"nan.pth": Path("nan.pth").read_bytes()}
    assert not Path("new").exists()


def test_an_exported_file_replaces_nothing_unasked(nextscale: Command, checkpoint: Path) -> None:
    Path("mine.safetensors").write_text("mine")
    words = ["convert", checkpoint, "--export", "model", "-o"]
    done = nextscale(*words, "mine.safetensors")
    assert (done.code, Path("mine.safetensors").read_text()) == (2, "mine")
    assert "mine.safetensors exists" in done.err
    Path("null.safetensors").symlink_to("/dev/null")
    Path("folder.safetensors").mkdir()
    for name in ("null.safetensors", "folder.safetensors", "/dev/null"):
        assert nextscale(*words, name, "--overwrite").code == 2
    assert nextscale(*words, "mine.safetensors", "--overwrite").code == 0
    assert "head.bias" in load_file("mine.safetensors")
