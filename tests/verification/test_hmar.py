"""HMAR's vector files. The authors' code cannot be run here, so the numbers of this one are those of the equations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from nextscale.checkpoints.convert import hmar, residual
from nextscale.models.hmar import HMAR, HMARConfig
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.verification import FileReport, verify_files
from tests.makers import CLASSES, SIZES, randomise
from tests.models.test_hmar_literal import LABELS, SIDES, Literal
from tests.verification.golden import rewrite, tensor

SCHEDULE = [[1], [1, 3], [1, 1, 2, 5], [16]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of a small size: both branches over all scales, losses of both stages, and a refined run."""
    sizes = ResidualConfig(codes=48, code_dim=8, sizes=SIZES, autoencoder=AutoencoderConfig(ch=32, mult=(1,), z=8))
    tokenizer = ResidualTokenizer(sizes)
    config = HMARConfig(depth=3, width=32, heads=4, classes=CLASSES, codes=48, code_dim=8, sizes=SIZES, mask_blocks=2)
    model = HMAR(config)
    for seed, module in enumerate((tokenizer, model)):
        randomise(module, seed, 0.4)
        module.eval().requires_grad_(False)
    vae, official = (
        residual.tokenizer_to_official(tokenizer.state_dict(), sizes),
        hmar.to_official(model.state_dict(), config),
    )
    tensors = {f"state/vae/{name}": t for name, t in vae.items()}
    tensors |= {f"state/hmar/{name}": t for name, t in official.items()}
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    generator = torch.Generator().manual_seed(11)
    maps = tokenizer.encode(tokenizer.latent(image)).tokens
    inputs, outputs = {"image": image, "label_B": LABELS}, dict[str, Tensor]()
    literal, found, masked = Literal(model, tokenizer), [], []
    masks = [torch.zeros(2, 1, dtype=torch.bool)]
    f = torch.zeros(2, 8, SIDES[-1], SIDES[-1], dtype=torch.float64)
    for k, tokens in enumerate(maps):
        if k:
            masks.append(torch.rand(2, SIDES[k] ** 2, generator=generator) < 0.5)
            inputs[f"mask_{k}"] = masks[k]
        found.append(literal.logits(k, f, LABELS))
        masked.append(literal.logits(k, f, LABELS, tokens, masks[k]))
        f = f + literal.enlarged(tokens, k)
    logits, again, hidden = torch.cat(found, 1), torch.cat(masked, 1), torch.cat(masks, 1)
    flat = torch.cat([m.flatten(1) for m in maps], 1)
    by_scale = [
        part.mean() for part in F.cross_entropy(logits.movedim(-1, 1), flat, reduction="none").split(LENGTHS, 1)
    ]
    outputs |= {"tf/logits": logits, "masked/logits": again, "train/loss_equal": torch.stack(by_scale).sum()}
    outputs |= {"masked/loss": F.cross_entropy(again[hidden], flat[hidden])}
    outputs |= {f"tf/idx_{k}": tokens.flatten(1) for k, tokens in enumerate(maps)}

    def noise(k: int, p: int) -> Tensor:
        drawn = torch.empty(2, SIDES[k] ** 2, 48).exponential_(generator=noises)
        inputs[f"gen/exp_{k}_{p}" if p else f"gen/exp_{k}"] = drawn
        return drawn.double()

    noises = torch.Generator().manual_seed(4)
    drawn_maps, canvas, _ = literal.run(LABELS, SCHEDULE, 1.7, 30, 0.95, noise)
    outputs |= {f"gen/idx_{k}": one for k, one in enumerate(drawn_maps)} | {"gen/f_hat_3": canvas}
    run = {"kind": "generate", "B": 2, "cfg": 1.7, "top_k": 30, "top_p": 0.95, "labels": "label_B"}
    run |= {"noise": "official", "g_seed": 4, "schedule": SCHEDULE}
    told = {"vae": {"v_patch_nums": SIDES}, "hmar": {"patch_nums": SIDES, "depth": 3, "num_heads": 4}}
    facts = {"format": "1", "system": "hmar", "kind": "hmar", "case": "small", "tolerance_float": "1e-4"}
    facts |= {"config": json.dumps(told | {"sampling": {"gen": run}}), "models": json.dumps(["vae", "hmar"])}
    tensors |= {f"in/{name}": t for name, t in inputs.items()}
    tensors |= {f"out/{name}": t.float() if t.is_floating_point() else t for name, t in outputs.items()}
    path = tmp_path_factory.mktemp("vectors") / "small.safetensors"
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=facts)
    return path


LENGTHS = [side**2 for side in SIDES]


def verify(path: Path) -> FileReport:
    (report,) = verify_files([path])
    assert report.reason == ""
    return report


def test_a_file_of_the_equations_agrees(file: Path) -> None:
    report = verify(file)
    assert [row for row in report.rows if not row.ok] == []
    assert report.unchecked == []
    assert {"masked/logits", "gen/idx_2", "gen/idx_2 (generator)", "train/loss_equal"} <= {r.name for r in report.rows}


def test_a_wrong_mask_branch_shows(file: Path, tmp_path: Path) -> None:
    name = "state/hmar/mask_blocks.1.ffn.fc2.bias"
    report = verify(rewrite(file, tmp_path / "x.safetensors", {name: tensor(file, name) + 1}))
    failed = {row.name for row in report.rows if not row.ok}
    assert {"masked/logits", "masked/loss"} <= failed
    assert not {"tf/logits", "train/loss_equal", "gen/idx_0"} & failed
