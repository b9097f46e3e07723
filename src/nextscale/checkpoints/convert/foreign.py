"""Weight files of other systems that people take for VAR's, told by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

SINGLE_SCALE = (
    "a plain VQGAN, as taming-transformers trains them: it codes a picture at a single scale and has no residual "
    "quantiser (no quantize.quant_resi.*)"
)
OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "a LoRA: small differences to the weights of a model, to be merged into them first",
        (r"lora[._](A|B|down|up)\b",),
    ),
    ("a shard of flattened parameters of FSDP; save a full state dict", (r"(^|\.)_?flat_param(\.|$)",)),
    ("a Stable Diffusion checkpoint", (r"^model\.diffusion_model\.",)),
    ("a diffusion network (U-Net) of diffusers", (r"^(down|up)_blocks\.\d+\.(attentions|resnets)\.",)),
    (
        "a VQModel of diffusers, which codes a picture at a single scale",
        (r"coder\.(down|up)_blocks\.", r"quantize\."),
    ),
    (
        "an autoencoder of diffusers (Stable Diffusion's VAE): its latents are not made of codes",
        (r"coder\.(down|up)_blocks\.",),
    ),
    ("a tokenizer of LlamaGen, which codes a picture at a single scale", (r"coder\.conv_blocks\.", r"quantize\.")),
    (
        "an autoencoder of latent diffusion (Stable Diffusion's VAE): its latents are not made of codes",
        (r"coder\.down\.\d",),
    ),
    ("a transformer of LlamaGen, which draws token by token", (r"^tok_embeddings\.", r"^cls_embedding\.")),
    ("a diffusion transformer (DiT)", (r"adaLN_modulation\.",)),
    ("a language model", (r"(embed_tokens|wte|tok_embeddings)\.weight$",)),
    ("a CLIP network", (r"(^|\.)(visual|text_model|vision_model)\.",)),
    ("a ResNet", (r"(^|\.)layer1\.0\.conv1\.weight$",)),
    ("the state of an optimiser", (r"^(exp_avg|momentum_buffer)$",)),
)
"""What a file is, and patterns of which each must be found in one of its names; the first that fits is taken."""


def known_as(names: Iterable[str]) -> str | None:
    """What a file with these tensors is; None where nobody here has seen its like."""
    listed = list(names)
    fits = (what for what, patterns in OTHERS if all(any(re.search(p, n) for n in listed) for p in patterns))
    return next(fits, None)
