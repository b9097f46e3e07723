"""Official weight files with random numbers: the published layout, names and buffers, at depth 1."""

from __future__ import annotations

import io
from functools import cache

import torch
from torch import Tensor, nn

from nextscale.checkpoints.convert import m_var, residual, var
from nextscale.checkpoints.published import M_VAR_REPO, TOKENIZER, VAR_REPO, Published
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from tests.makers import randomise

VAR_D1 = Published("var-d1", "var", 1, 256, "var_d1.pth", 0, "FID 99.0")
M_VAR_D1 = Published("m-var-d1", "m-var", 1, 256, "d1.pth", 0, "FID 99.0", attested=False)
"""What the table would say of them."""

SMALL_TOKENIZER = ResidualConfig(autoencoder=AutoencoderConfig(ch=32, mult=(1, 2), res_blocks=1))
"""Codes, scales and layout as published; 32x32 pixels."""


def small_tokenizer() -> dict[str, Tensor]:
    """An official tokenizer's state dict."""
    return residual.tokenizer_to_official(_random(ResidualTokenizer(SMALL_TOKENIZER)).state_dict(), SMALL_TOKENIZER)


def transformer(depth: int = 1) -> dict[str, Tensor]:
    """An official VAR transformer's state dict."""
    config = VARConfig.published(depth)
    return var.model_to_official(_random(VAR(config)).state_dict(), config)


def m_var_transformer(depth: int = 1) -> dict[str, Tensor]:
    """An official M-VAR transformer's state dict."""
    config = MVARConfig.published(depth)
    return m_var.model_to_official(_random(MVAR(config)).state_dict(), config)


@cache
def official_files() -> dict[tuple[str, str], bytes]:
    """(repository, file) to content, for a hub to serve."""
    return {
        TOKENIZER: saved(small_tokenizer()),
        (VAR_REPO, VAR_D1.file): saved(transformer()),
        (M_VAR_REPO, M_VAR_D1.file): saved(m_var_transformer()),
    }


def saved(state: dict[str, Tensor]) -> bytes:
    """The content of a ``.pth`` file."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _random(module: nn.Module) -> nn.Module:
    randomise(module)
    return module
