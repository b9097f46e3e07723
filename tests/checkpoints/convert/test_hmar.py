"""HMAR's converter: both ways, stages merged, blocks counted, and no confusion with VAR and M-VAR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nextscale
from nextscale.checkpoints.convert import convert_files, export_official, hmar, m_var, var
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import load_component
from nextscale.errors import CheckpointError, InputError
from nextscale.models.hmar import HMAR, HMARConfig
from nextscale.models.var import VAR, VARConfig
from tests.checkpoints.official import small_tokenizer
from tests.makers import CLASSES, SIZES, randomise, tiny_hmar, tiny_m_var, tiny_var


def official(mask_blocks: int = 2, **changed: Any) -> dict[str, Tensor]:
    model = tiny_hmar(mask_blocks, **changed)
    return hmar.to_official(model.state_dict(), model.config)


def stages(n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What both stages of training leave, n blocks of three trained by the second."""
    first = official(0)
    second = {name: t.clone() for name, t in first.items() if name != "word_embed.bias"}
    second |= {"word_embed_bias": first["word_embed.bias"], "mask_embed.weight": torch.randn(1, 32)}
    for name in second:
        if name.startswith(("head", *(f"blocks.{i}." for i in range(3 - n, 3)))) and "zero_k" not in name:
            second[name] = second[name] + 0.25
    return first, second


@pytest.mark.parametrize(
    ("depth", "keys", "millions"), [(16, 329, 467.7), (20, 381, 845.5), (24, 433, 1384.3), (30, 511, 2556.3)]
)
def test_names_and_numbers_of_the_published_sizes(depth: int, keys: int, millions: float) -> None:
    config = HMARConfig.published(depth)
    model = without_values(lambda: HMAR(config))
    names = {target.name for target in hmar.model_targets(config).values()}
    assert len(names) + 2 + depth + 8 == keys  # two buffers, and one per block
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    blocks = {kind: {name.split(".")[1] for name in names if name.startswith(f"{kind}_blocks.")} for kind in KINDS}
    assert [len(blocks[kind]) for kind in KINDS] == [depth - 8, 8, 8]
    assert {"word_embed.weight", "word_embed_bias", "mask_embed.weight", "ns_head_nm.ada_lin.1.weight"} <= names
    assert "word_embed.bias" not in names
    best = hmar.sampling(config)
    assert (best["top_p"], best["refine"]) == (0.99, "paper")


KINDS = ("base", "ns", "mask")


@pytest.mark.parametrize(
    ("mask_blocks", "changed"),
    [(2, {}), (1, {}), (3, {}), (0, {}), (2, {"shared_adaln": True, "l2_norm": False, "heads": 1, "width": 64})],
)
def test_there_and_back_keeps_every_bit(mask_blocks: int, changed: dict[str, Any]) -> None:
    model = tiny_hmar(mask_blocks, **changed)
    state = hmar.to_official(model.state_dict(), model.config)
    depth, n = 3, mask_blocks
    assert hmar.recognises(state) == "model"
    expected = 11 * (depth + n) + 19 if changed else 13 * (depth + n) + 17
    assert n == 0 or len(state) == expected
    config = hmar.config("model", state, SIZES)
    assert config == model.config
    ours = hmar.from_official(state, config)
    assert ours.keys() == model.state_dict().keys()
    assert all(torch.equal(ours[key], t) for key, t in model.state_dict().items())
    mask = state["attn_bias_for_masking"][0, 0]
    assert [int((row == 0).sum()) for row in (mask[0], mask[2], mask[-1])] == [1, 4, 16]


def test_a_first_stage_has_the_names_of_var_and_the_mask_tells_them_apart(tmp_path: Path) -> None:
    causal, diagonal = var.to_official(tiny_var().state_dict(), tiny_var().config), official(0)
    assert causal.keys() == diagonal.keys()
    assert (hmar.recognises(causal), hmar.recognises(diagonal)) == (None, "model")
    between = tiny_m_var()
    assert hmar.recognises(m_var.model_to_official(between.state_dict(), between.config)) is None
    for name, state, kind in (("var", causal, VAR), ("hmar", diagonal, HMAR)):
        torch.save({"trainer": {"transformer_wo_ddp": state}}, tmp_path / f"{name}.pth")
        report = convert_files([tmp_path / f"{name}.pth"], tmp_path / name, sizes=SIZES)
        assert report.components == {"model": kind.__name__}
        assert type(load_component(tmp_path / name, "model")) is kind
    for name, other in (("var", "hmar"), ("hmar", "var"), ("var", "m-var")):
        with pytest.raises(
            CheckpointError, match=f"a transformer of the system {name}; expected one of the system {other}"
        ):
            convert_files([tmp_path / f"{name}.pth"], tmp_path / "no", sizes=SIZES, system=other)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("system", "kind"), [("var", VAR), ("hmar", HMAR)])
def test_without_a_mask_the_system_must_be_named(tmp_path: Path, system: str, kind: type) -> None:
    bare = {name: t for name, t in official(0).items() if name != "attn_bias_for_masking"}
    torch.save(bare, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match=r"no such mask; say which it is with --system var or --system hmar"):
        convert_files([tmp_path / "bare.pth"], tmp_path / "out")
    with pytest.raises(CheckpointError, match="expected one of the system infinity"):
        convert_files([tmp_path / "bare.pth"], tmp_path / "out", system="infinity")
    with pytest.raises(InputError, match=r"the system .--system. is 'vra'; expected one of var, hmar"):
        convert_files([tmp_path / "bare.pth"], tmp_path / "out", system="vra")
    convert_files([tmp_path / "bare.pth"], tmp_path / "out", system=system)
    assert type(load_component(tmp_path / "out", "model")) is kind


@pytest.mark.parametrize("n", [1, 2])
def test_two_stages_are_merged_and_the_blocks_of_the_second_counted(tmp_path: Path, n: int) -> None:
    first, second = stages(n)
    vae = small_tokenizer()
    for name, state in (("one", first), ("two", second)):
        torch.save({"trainer": {"transformer_wo_ddp": state, "vae_local": vae}}, tmp_path / f"{name}.pth")
    merged = hmar.merge(second, first)
    assert merged is not None
    assert torch.equal(merged["mask_head.weight"], second["head.weight"])
    assert torch.equal(merged["ns_head.weight"], first["head.weight"])
    assert torch.equal(merged["mask_blocks.0.attn.proj.weight"], second[f"blocks.{3 - n}.attn.proj.weight"])
    assert torch.equal(merged[f"ns_blocks.{n - 1}.ffn.fc1.bias"], first["blocks.2.ffn.fc1.bias"])
    assert torch.equal(merged["word_embed_bias"], first["word_embed.bias"])
    config = hmar.config("model", merged, SIZES)
    assert config.mask_blocks == n
    state, again = hmar.from_official(merged, config), official(n)
    assert hmar.to_official(state, config).keys() == merged.keys() == again.keys()
    transformers = [tmp_path / "two-alone.pth", tmp_path / "one-alone.pth"]
    for path, stage in zip(transformers, (second, first), strict=True):
        torch.save(stage, path)
    report = convert_files(transformers, tmp_path / "out", sizes=SIZES)
    assert all("HMAR transformer" in what for what in report.files.values())
    model = load_component(tmp_path / "out", "model")
    assert model.config.mask_blocks == n  # type: ignore[union-attr]
    back = export_official(tmp_path / "out", "model")
    assert all(torch.equal(back[name], t) for name, t in merged.items())


def test_files_of_a_trainer_may_both_hold_the_tokenizer(tmp_path: Path) -> None:
    config, vae = HMARConfig(depth=2, width=64, heads=1, classes=CLASSES), small_tokenizer()
    model = HMAR(config)
    randomise(model)
    first = hmar.to_official(model.state_dict(), config)
    second = {name: t.clone() for name, t in first.items() if name != "word_embed.bias"}
    second |= {"word_embed_bias": first["word_embed.bias"], "mask_embed.weight": torch.ones(1, 64)}
    second["blocks.1.ffn.fc1.bias"] += 1
    for name, state in (("one", first), ("two", second)):
        torch.save({"trainer": {"transformer_wo_ddp": state, "vae_local": vae}}, tmp_path / f"{name}.pth")
    convert_files([tmp_path / "one.pth", tmp_path / "two.pth"], tmp_path / "out")
    pipe = nextscale.load(tmp_path / "out", device="cpu", dtype="float32")
    assert pipe.defaults == {"guidance_scale": 2.7, "top_k": 1000, "top_p": 0.99, "refine": "paper"}
    assert [len(row.passes or (1,)) for row in pipe.plan().rows] == [1, 2, 4, 1, 1, 1, 1, 1, 1, 1]


def test_stages_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, second = stages(1)
    torch.save(second, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match="the second stage of an HMAR transformer alone, which cannot draw"):
        convert_files([tmp_path / "two.pth"], tmp_path / "out")
    other = first | {"pos_start": first["pos_start"] + 1}
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"two.pth and .*did not begin with this first stage: they differ"):
        convert_files([tmp_path / "two.pth", tmp_path / "other.pth"], tmp_path / "out")
    torch.save(first, tmp_path / "one.pth")
    with pytest.raises(CheckpointError, match="both hold a transformer; expected one"):
        convert_files([tmp_path / "one.pth", tmp_path / "other.pth"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_an_official_file_cannot_say_is_not_exported() -> None:
    model = tiny_hmar(2, leak=False)
    with pytest.raises(CheckpointError, match="trained without a leak"):
        hmar.to_official(model.state_dict(), model.config)


def test_a_var_of_this_size_stays_one() -> None:
    """The table asks HMAR's converter first."""
    config = VARConfig(depth=1, width=64, heads=1, classes=CLASSES, sizes=SIZES)
    state = var.to_official(VAR(config).state_dict(), config)
    assert hmar.recognises(state) is None
    assert hmar.doubt(state) is None
