"""A static text encoder: every word piece has one vector, whatever stands around it.

A safetensors file of three tensors: ``vectors`` (P, C) int8; ``scales`` (P,) float32, by which a row is multiplied;
``pieces``, the word pieces in the order of the rows, one a line, in UTF-8. It needs no transformers. The bundled one is
made by ``tools/word_pieces.py``. Shape letters: ``P`` word pieces, ``C`` width, ``n`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nextscale.errors import CheckpointError, one_line

FILE = "word-pieces.safetensors"
UNKNOWN, END = "[UNK]", "[SEP]"
"""What stands for a word that no pieces make up, and what every text ends in."""


class PieceVectors(nn.Module):
    """Vectors of word pieces in int8, with a scale per row."""

    def __init__(self, vectors: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("scales", scales)
        self.vectors: Tensor
        self.scales: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> PieceVectors:
        """Vectors (P, C) rounded to the nearest of 255 steps of their row."""
        scales = vectors.abs().amax(1).clamp(min=1e-12) / 127
        return cls((vectors / scales[:, None]).round().to(torch.int8), scales.float())

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n,) to vectors (n, C), float32."""
        return self.vectors[tokens] * self.scales[tokens, None]


def save_pieces(folder: Path, network: PieceVectors, pieces: Sequence[str]) -> None:
    """Write what :func:`read_pieces` reads; the same vectors and pieces give the same bytes."""
    listed = torch.frombuffer(bytearray("\n".join(pieces).encode()), dtype=torch.uint8)
    (folder / FILE).write_bytes(save({"vectors": network.vectors, "scales": network.scales, "pieces": listed}))


def read_pieces(folder: Path, width: int) -> tuple[PieceVectors, list[str]]:
    """Vectors of this width, and what they are of. Raises ``CheckpointError`` for a file that is missing or damaged."""
    path = folder / FILE
    try:
        with safe_open(path, "pt") as file:
            vectors, scales, listed = (file.get_tensor(name) for name in ("vectors", "scales", "pieces"))
        pieces = listed.numpy().tobytes().decode().split("\n")
    except (SafetensorError, OSError, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)}); expected a list of word pieces") from None
    count = len(pieces)
    typed = (vectors.dtype, scales.dtype, listed.dtype) == (torch.int8, torch.float32, torch.uint8)
    shaped = (vectors.shape, scales.shape) == ((count, width), (count,))
    if not typed or not shaped or not scales.isfinite().all() or len({*pieces, UNKNOWN, END}) != count:
        raise CheckpointError(f"{path} is damaged: its vectors, scales and {count:,} word pieces do not fit together")
    return PieceVectors(vectors, scales), pieces


def cutter(pieces: Sequence[str]) -> Any:
    """What cuts a text into these pieces as BERT's without cases do (lower case, no accents), with END as the last."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {piece: i for i, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(numbers, unk_token=UNKNOWN))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, numbers[END])])
    return made
