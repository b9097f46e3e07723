"""A BERT of a few thousand weights with a list of a few word pieces, saved as MiniLM is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel
from transformers.utils import logging

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

PIECES = (
    "[PAD]",
    "[unused0]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "!",
    "a",
    "the",
    "red",
    "fox",
    "##es",
    "snow",
    "dog",
)
WIDTH = 16


def save_bert(folder: Path, seed: int = 0, places: int = 32) -> BertModel:
    """places: the most tokens of a text."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=places,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    words = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(piece, PIECES.index(piece)) for piece in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    words.enable_padding(length=128)  # as MiniLM's file has it
    words.enable_truncation(128)
    words.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    return model
