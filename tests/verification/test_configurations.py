"""Configurations that no file here has: the settings are read, the right things run, and every output gets its row.

The files are written by this implementation, so they show nothing about exactness; the official files do that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nextscale.checkpoints.convert import residual
from nextscale.checkpoints.convert import var as convert
from nextscale.models.var import VAR, VARConfig
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.verification.report import Checks
from nextscale.verification.run import verify_file
from nextscale.verification.var import KINDS
from nextscale.verification.vectors import read_vectors
from tests.makers import randomise

CODES, WIDTH = 24, 64


class Recorder(Checks):
    """Takes down every value that would be compared."""

    def check(
        self, name: str, ours: Tensor, label: str = "", *, optional: bool = False, restart: bool = False
    ) -> Tensor:
        if not label:
            assert isinstance(self.outputs, dict)
            self.outputs[name] = ours.detach().clone().contiguous()
        return ours


def write(path: Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> set[str]:
    """A vector file with the outputs that we compute; returns their names."""
    metadata = {"format": "1", "system": "var", "kind": kind, "case": "ours", "config": json.dumps(config)}
    if kind == "var":
        metadata["models"] = '["vae", "var"]'
    whole = {name: t.contiguous() for name, t in tensors.items()}
    save_file(whole, path, metadata=metadata)
    recorder = Recorder({}, 1e-4)
    KINDS[kind](read_vectors(path), recorder)
    save_file(whole | {f"out/{name}": t for name, t in recorder.outputs.items()}, path, metadata=metadata)
    return set(recorder.outputs)


def vae(**changed: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"vocab_size": CODES, "z_channels": 6, "ch": 32, "using_znorm": False, "quant_resi": 0.5}
    settings |= {"share_quant_resi": 4, "v_patch_nums": [2, 3, 4], "ddconfig": {"ch_mult": [1], "num_res_blocks": 1}}
    return settings | changed


def vae_state(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    layout, share, ratio = settings["ddconfig"], settings["share_quant_resi"], settings["quant_resi"]
    autoencoder = AutoencoderConfig(
        ch=settings["ch"], mult=tuple(layout["ch_mult"]), z=settings["z_channels"], res_blocks=layout["num_res_blocks"]
    )
    tokenizer = ResidualTokenizer(
        config := ResidualConfig(
            codes=settings["vocab_size"],
            code_dim=settings["z_channels"],
            sizes=ScaleSchedule.of(settings["v_patch_nums"]).sizes,
            phi=share or settings.get("default_qresi_counts", 0),
            phi_ratio=abs(ratio),
            autoencoder=autoencoder,
        )
    )
    randomise(tokenizer)
    return residual.tokenizer_to_official(tokenizer.state_dict(), config, share == 0)


RUNS: dict[str, dict[str, Any]] = {
    "off": {"kind": "generate", "B": 1, "labels": "label_B", "g_seed": 0, "cfg": 0, "top_k": 1, "top_p": 0.0},
    "one": {
        "kind": "generate",
        "B": 3,
        "labels": 2,
        "g_seed": 0,
        "cfg": 2,
        "top_k": 1,
        "top_p": 0.0,
        "more_smooth": True,
    },
    "drawn": {"kind": "generate", "B": 2, "labels": None, "g_seed": 5, "cfg": 1.5, "top_k": 9, "noise": "official"},
    "soft": {
        "kind": "generate",
        "B": 1,
        "labels": -3,
        "cfg": 1.5,
        "top_p": 0.9,
        "more_smooth": True,
        "noise": "stored",
    },
    "paint": {"kind": "edit", "B": 2, "label_B": [0, 3], "cfg": 3.0, "g_seed": 7, "top_k": 8, "noise": "official"},
}
RUNS["paint"] |= {"box_y0_x0_y1_x1": [0.0, 0.3, 0.6, 1.0], "inpainting": False, "more_smooth": True}


def noise(sizes: list[int]) -> dict[str, Tensor]:
    """Stored noise of the runs that need some, the generator's own where there is one."""
    found = {}
    for name, run in RUNS.items():
        if "noise" not in run:
            continue
        generator = torch.Generator().manual_seed(run.get("g_seed", 1))
        if run.get("labels", 0) is None:
            torch.multinomial(torch.ones(1, 4), run["B"], replacement=True, generator=generator)
        for k, side in enumerate(sizes):
            shape = (run["B"], side * side, CODES)
            found[f"in/{name}/exp_{k}"] = torch.empty(shape).exponential_(generator=generator)
            if run.get("more_smooth"):
                found[f"in/{name}/gumbel_{k}"] = -torch.empty(shape).exponential_(generator=generator).log()
    return found


@pytest.mark.parametrize(
    ("vae_changes", "var_changes"),
    [
        ({}, {}),
        ({"share_quant_resi": 0, "v_patch_nums": [1, 2, 4]}, {"mlp_ratio": 2.5, "shared_aln": True, "num_heads": 8}),
        ({"share_quant_resi": 1, "using_znorm": True}, {"attn_l2_norm": False, "num_heads": 4}),
        (
            {"quant_resi": 0.0, "ddconfig": {"ch_mult": [1, 2], "num_res_blocks": 2}},
            {"depth": 1, "attn_l2_norm": False, "shared_aln": True},
        ),
    ],
)
def test_whole_generators(tmp_path: Path, vae_changes: dict[str, Any], var_changes: dict[str, Any]) -> None:
    tokenizer = vae(**vae_changes)
    sizes = tokenizer["v_patch_nums"]
    settings: dict[str, Any] = {"depth": 2, "embed_dim": WIDTH, "num_heads": 2, "num_classes": 4, "mlp_ratio": 4.0}
    settings |= {"shared_aln": False, "attn_l2_norm": True, "patch_nums": sizes, "norm_eps": 1e-5, **var_changes}
    config = VARConfig(
        depth=settings["depth"],
        width=WIDTH,
        heads=settings["num_heads"],
        mlp_ratio=settings["mlp_ratio"],
        classes=4,
        codes=CODES,
        code_dim=6,
        sizes=ScaleSchedule.of(sizes).sizes,
        shared_adaln=settings["shared_aln"],
        l2_norm=settings["attn_l2_norm"],
    )
    model = VAR(config)
    randomise(model)
    pixels = 2 ** (len(tokenizer["ddconfig"]["ch_mult"]) - 1) * sizes[-1]
    tensors = {
        "in/image": torch.rand(3, 3, pixels, pixels) * 2 - 1,
        "in/label_B": torch.tensor([1, 4, 0]),
        **noise(sizes),
    }
    tensors |= {f"state/vae/{name}": t for name, t in vae_state(tokenizer).items()}
    tensors |= {f"state/var/{name}": t for name, t in convert.model_to_official(model.state_dict(), config).items()}
    path = tmp_path / "x.safetensors"
    train = {"label_smooth": 0.1}
    names = write(path, "var", {"vae": tokenizer, "var": settings, "sampling": RUNS, "train": train}, tensors)
    report = verify_file(path)
    assert (report.reason, report.notes, report.unchecked) == ("", [], [])
    assert report.ok
    assert {f"{run}/image" for run in RUNS} | {
        "drawn/label_B",
        "paint/edit_mask",
        "soft/weights_2",
        "train/loss",
    } <= names
    assert {"drawn/idx_2 (generator)", "paint/weights_1 (generator)"} <= {row.name for row in report.rows}


@pytest.mark.parametrize(
    "changes",
    [
        {"share_quant_resi": 0},
        {"share_quant_resi": 0, "default_qresi_counts": 5},
        {"share_quant_resi": 3, "quant_resi": -0.3},
        {"using_znorm": True, "beta": 1.0},
        {"quant_resi": 0.0},
    ],
)
def test_tokenizers_and_quantisers(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = vae(**changes)
    state = vae_state(settings)
    tensors = {"in/image": torch.rand(2, 3, 4, 4) * 2 - 1, "in/cotangent": torch.randn(2, 6, 4, 4)}
    tensors |= {f"state/{name}": t for name, t in state.items()}
    names = write(tmp_path / "t.safetensors", "tokenizer", {"vae": settings}, tensors)
    gradients = {name for name in names if name.startswith("train/grad_quant_resi")}
    phi = {f"train/grad_{name.removeprefix('quantize.')}" for name in state if "quant_resi" in name}
    assert gradients == phi
    assert verify_file(tmp_path / "t.safetensors").ok

    quantiser = {name.removeprefix("quantize."): t for name, t in state.items() if name.startswith("quantize.")}
    tensors = {"in/f": torch.randn(2, 6, 4, 4), "in/f_rect": torch.randn(1, 6, 3, 5)}
    tensors |= {f"state/{name}": t for name, t in quantiser.items()}
    config = {"quantizer": {**settings, "Cvae": 6}, "rect_v_patch_nums": [[1, 1], [1, 2], [2, 4], [3, 5]]}
    names = write(tmp_path / "q.safetensors", "quantizer", config, tensors)
    assert {"rect/idx_3", "decoded_f_hat", "var_input"} <= names
    assert verify_file(tmp_path / "q.safetensors").ok
