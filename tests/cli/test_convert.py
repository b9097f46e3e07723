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
