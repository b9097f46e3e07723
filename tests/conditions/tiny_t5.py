"""A T5 of a few thousand weights with a tokenizer of a few words, saved as transformers saves the real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from nextscale.conditions.encoder import EncoderReference
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "fox", "snow", "in", "the", "sits", "sky")
WIDTH = 8


def save_t5(folder: Path, seed: int = 0, shard: str = "1GB", width: int = WIDTH) -> T5ForConditionalGeneration:
    """Encoder and decoder, as published; shard: the size of the largest file of weights."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(WORDS),
        d_model=width,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size=shard)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    words.save(str(folder / "tokenizer.json"))
    return model


def reference(folder: Path, length: int = 16) -> EncoderReference:
    return EncoderReference(str(folder), width=WIDTH, length=length)
