"""The tool that puts trained models into the package refuses a decoder whose tokens are others."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.makers import load_tool, tiny_tokenizer


@pytest.fixture(scope="module")
def bundle() -> ModuleType:
    return load_tool("bundle")


def test_a_refined_decoder_is_taken(bundle: ModuleType) -> None:
    own, refined = tiny_tokenizer(), tiny_tokenizer()
    refined.load_state_dict(own.state_dict())
    torch.nn.init.normal_(refined.decoder.conv_out.weight)
    bundle.refine(own, refined)
    assert torch.equal(own.decoder.conv_out.weight, refined.decoder.conv_out.weight)


def test_another_codebook_is_refused(bundle: ModuleType) -> None:
    own, other = tiny_tokenizer(), tiny_tokenizer()
    other.load_state_dict(own.state_dict())
    torch.nn.init.normal_(other.quantizer.codebook.weight)
    with pytest.raises(SystemExit, match=r"quantizer\.codebook\.weight differs, so the tokens"):
        bundle.refine(own, other)
