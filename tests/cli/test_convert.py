"""``nextscale convert`` reads official files, writes what draws the same pictures, and refuses everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextscale.pictures import open_picture
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
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
    ],
)
def test_wrong_options_are_refused(nextscale: Command, tiny_model: Path, words: list[str], expected: str) -> None:
    done = nextscale("convert", tiny_model, "-o", "new.safetensors", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert not Path("new.safetensors").exists()
