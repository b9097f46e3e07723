"""VAR's vector files: which outputs every kind of file has, and the networks its weights and configuration make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import residual
from nextscale.checkpoints.convert import var as convert
from nextscale.checkpoints.convert.renaming import Targets
from nextscale.errors import InputError
from nextscale.models.var import VAR
from nextscale.sampling import GivenNoise, filter_logits, smooth_settings, smooth_weights
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualQuantizer, ResidualTokenizer
from nextscale.verification.generation import check_run, check_teacher_forcing, check_training_step
from nextscale.verification.report import Checks
from nextscale.verification.residual import check_decode, check_encode, check_inputs, check_phi, check_training
from nextscale.verification.vectors import VectorFile, agree

Settings = Mapping[str, Any]


def check_quantizer(file: VectorFile, checks: Checks) -> None:
    """A quantiser alone, on its own schedule and on a rectangular one."""
    tokenizer = quantizer_of(file.section("quantizer"), file.model_state("quantizer"))
    check_phi(file, checks, tokenizer)
    with torch.no_grad():
        maps = check_encode(checks, "", tokenizer, file.input("f"))
        check_inputs(checks, "", tokenizer, maps)
        check_decode(checks, "", tokenizer, maps, images=False)
        if "rect_v_patch_nums" in file.config:
            schedule = ScaleSchedule.of(file.config["rect_v_patch_nums"])
            check_encode(checks, "rect/", tokenizer, file.input("f_rect"), schedule)


def check_tokenizer(file: VectorFile, checks: Checks) -> None:
    """A whole tokenizer: tokens, canvases, images, and one training pass."""
    settings = file.section("vae")
    tokenizer = tokenizer_of(settings, file.model_state("vae"))
    check_phi(file, checks, tokenizer)
    image = file.input("image")
    with torch.no_grad():
        f = checks.check("f", tokenizer.latent(image))
        maps = check_encode(checks, "", tokenizer, f)
        check_inputs(checks, "", tokenizer, maps)
        canvas = check_decode(checks, "", tokenizer, maps, images=True)
        checks.check("reconstruction", tokenizer.decode(canvas))
        checks.check("train/reconstruction", tokenizer(image)[0])
    check_training(checks, tokenizer, f, file.input("cotangent"), _gradient_names(tokenizer.config, settings))


def check_sampling(file: VectorFile, checks: Checks) -> None:
    """Top-k, top-p, draws with stored noise, and smooth sampling, on stored logits."""
    for name, case in file.config.get("sampling", {}).items():
        filtered = filter_logits(file.input(case["logits"]), top_k=case["top_k"], top_p=case["top_p"])
        probs = filtered.softmax(-1)
        checks.check(f"{name}/kept", filtered > -torch.inf)
        checks.check(f"{name}/probs", probs)
        checks.check(f"{name}/idx", GivenNoise({0: file.input(case["noise"])}).pick(probs, 0))
    for i, (name, case) in enumerate(file.config.get("smooth", {}).items()):
        filtered = filter_logits(file.input(case["logits"]), top_k=case["top_k"], top_p=case["top_p"])
        number = name.rpartition("_")[2]
        gumbel = file.inputs.get(f"gumbel_noise_{number}")
        noise = GivenNoise({}, {0: file.input(f"gumbel_noise_{i}") if gumbel is None else gumbel})
        weights = smooth_weights(filtered, noise.gumbel(filtered, 0), *smooth_settings(case["ratio"]))
        checks.check(f"{name}/weights", weights)
        codes = _codebook(file.input("codebook")).codes(weights[:, None])
        checks.check(f"{name}/embedding", codes[:, :, 0].transpose(1, 2))


def check_var(file: VectorFile, checks: Checks) -> None:
    """A whole generator: teacher forcing, one training step, and every run of ``config.sampling``."""
    tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"))
    model = model_of(file.section("var"), file.model_state("var"))
    check_phi(file, checks, tokenizer)
    maps, inputs = check_teacher_forcing(file, checks, tokenizer, model)
    check_training_step(file, checks, model, maps, inputs, norm_order(file, convert.model_targets(model.config)))
    for name in file.section("sampling"):
        check_run(file, checks, name, tokenizer, model, maps)


KINDS: dict[str, Callable[[VectorFile, Checks], None]] = {
    "quantizer": check_quantizer,
    "tokenizer": check_tokenizer,
    "sampling": check_sampling,
    "var": check_var,
}
"""Kind of file to what computes and checks its outputs."""


def tokenizer_of(settings: Settings, state: Mapping[str, Tensor]) -> ResidualTokenizer:
    """The tokenizer of official weights, through our converter; what the file says of it must be what its tensors
    show."""
    config = residual.tokenizer_config(
        state,
        settings["v_patch_nums"],
        phi_ratio=settings.get("quant_resi", 0.5),
        cosine=bool(settings.get("using_znorm", False)),
        beta=settings.get("beta", 0.25),
    )
    layout, autoencoder = settings.get("ddconfig", {}), config.autoencoder
    found = {
        "vocab_size": config.codes,
        "z_channels": config.code_dim,
        "ch": autoencoder.ch,
        "quant_conv_ks": config.quant_kernel,
        "ch_mult": list(autoencoder.mult),
        "num_res_blocks": autoencoder.res_blocks,
    }
    agree({**settings, **layout}, found)
    tokenizer = ResidualTokenizer(config)
    tokenizer.load_state_dict(residual.tokenizer_from_official(state, config))
    return tokenizer.eval().requires_grad_(False)


def quantizer_of(settings: Settings, state: Mapping[str, Tensor]) -> ResidualTokenizer:
    """A tokenizer whose quantiser has the official weights; its encoder and decoder are stand-ins that nothing runs."""
    codes, code_dim = state["embedding.weight"].shape
    stand_in = AutoencoderConfig(ch=residual.GROUPS, mult=(1,), z=code_dim, res_blocks=1)
    bare = ResidualConfig(codes=codes, code_dim=code_dim, phi_ratio=0.0, quant_kernel=1, autoencoder=stand_in)
    rest = residual.tokenizer_to_official(ResidualTokenizer(bare).state_dict(), bare)
    whole = {**rest, **{f"quantize.{name}": t for name, t in state.items()}}
    return tokenizer_of({**settings, "z_channels": settings.get("Cvae", code_dim)}, whole)


def model_of(settings: Settings, state: Mapping[str, Tensor]) -> VAR:
    """The transformer of official weights, through our converter; what the file says of it must be what its tensors
    show."""
    config = convert.model_config(
        state, settings["patch_nums"], heads=settings.get("num_heads"), norm_eps=settings.get("norm_eps", 1e-6)
    )
    found = {
        "depth": config.depth,
        "embed_dim": config.width,
        "num_heads": config.heads,
        "num_classes": config.classes,
        "shared_aln": config.shared_adaln,
        "attn_l2_norm": config.l2_norm,
    }
    agree(settings, found)
    model = VAR(config)
    model.load_state_dict(convert.model_from_official(state, config))
    return model.eval().requires_grad_(False)


def _codebook(weight: Tensor) -> ResidualQuantizer:
    """A quantiser with this codebook (V, c) and no phi."""
    codes, code_dim = weight.shape
    stand_in = AutoencoderConfig(ch=1, mult=(1,), z=code_dim, groups=1)
    quantizer = ResidualQuantizer(ResidualConfig(codes=codes, code_dim=code_dim, phi_ratio=0.0, autoencoder=stand_in))
    quantizer.load_state_dict({"codebook.weight": weight})
    return quantizer.requires_grad_(False)


def _gradient_names(config: ResidualConfig, settings: Settings) -> dict[str, str]:
    """The quantiser's parameters to what the file calls their gradients."""
    targets = residual.tokenizer_targets(config, settings.get("share_quant_resi") == 0)
    inside = {ours.removeprefix("quantizer."): t.name for ours, t in targets.items() if ours.startswith("quantizer.")}
    return {
        ours: "codebook" if ours == "codebook.weight" else name.removeprefix("quantize.")
        for ours, name in inside.items()
    }


def norm_order(file: VectorFile, targets: Targets) -> list[str]:
    """Our parameters in the order of the file's gradient norms: ascending official names, unless the file lists
    them."""
    ours = {target.name: name for name, target in targets.items()}
    listed = file.metadata.get("param_names") or sorted(ours)
    if sorted(listed) != sorted(ours):
        odd = sorted(set(listed) ^ set(ours))[0]
        raise InputError(f"the file's param_names and the transformer's parameters differ, first in {odd}")
    return [ours[name] for name in listed]
