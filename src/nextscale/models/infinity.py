"""Infinity: bitwise next-scale text-to-image generation (arXiv 2412.04431).

VAR's transformer for bits and texts: the head predicts every bit of a token on its own; a text enters by
cross-attention, and summed up in one vector as the first token and the AdaLN condition; positions are rotary, so that
one model draws many sizes and aspect ratios. All blocks share one AdaLN projection; they stand in
``models/infinity_blocks.py``, beside M-VAR's (arXiv 2411.10433), which this model may have instead.

Shape letters as in ``models/base.py``; ``T`` tokens of a text, ``c`` their width, ``D`` bits of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features, Source
from nextscale.errors import InputError, PlanError
from nextscale.layers.adaln import FeedForward, modulate
from nextscale.layers.cross_attention import Pool
from nextscale.layers.mamba2 import Mamba2
from nextscale.layers.precision import no_autocast
from nextscale.layers.rope import Positions, rotary_table
from nextscale.layers.text_mixer import TextMixer, heads_of
from nextscale.models.base import Again, Condition, NextScaleModel, drop_paths
from nextscale.models.infinity_blocks import Block, DecoupledBlock
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import check_bounds

Sizes = tuple[Size, ...]


@dataclass(frozen=True, kw_only=True)
class InfinityConfig:
    """Sizes of an Infinity transformer.

    hidden: of the feed-forward; bits: of a token; text_width, text_length: of the states of a text, and how many at
    most; text_heads: of the query that sums a text up; text_mixer: layers that mix the states of a text before anything
    reads them, 0 where the encoder has (see ``layers/text_mixer.py``); levels: most scales it can draw; chunks: into
    how many runs of blocks official files split it; level_per_chunk: whether the level embedding is added again before
    each of these; sizes: what is drawn where nothing is asked for; schedules: for every aspect ratio the finest
    schedule that was trained (none: ``sizes`` alone), whose last grid is where rotary positions are counted; lengths:
    numbers of leading scales that were trained on their own (none: all); positions: see ``layers/rope.py``; norm_eps:
    of the norms in the blocks; drop_path: rate of the last block in training; mixer: the layer between scales. None, as
    published: attention sees all scales; ``mamba2``: it sees its own alone, as in M-VAR, and Mamba-2 carries on from
    scale to scale. state, head_dim: its states and channels per head.
    """

    depth: int
    width: int
    heads: int
    hidden: int
    bits: int = 32
    text_width: int = 2048
    text_length: int = 512
    text_heads: int = 16
    text_mixer: int = 0
    levels: int = 15
    chunks: int = 1
    level_per_chunk: bool = False
    sizes: Sizes = ScaleSchedule.preset("256").sizes
    schedules: tuple[Sizes, ...] = ()
    lengths: tuple[int, ...] = ()
    positions: Positions = "stretched"
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    mixer: Literal["mamba2"] | None = None
    state: int = 64
    head_dim: int = 64

    def __post_init__(self) -> None:
        for sizes in (self.sizes, *self.schedules):
            if len(ScaleSchedule(sizes)) > self.levels:
                raise InputError(
                    f"a schedule has {len(sizes)} scales; expected at most as many as levels, {self.levels}"
                )
        wide, many = (1, 2**20), (1, 65_536)
        check_bounds(self, depth=(1, 1024), width=wide, heads=wide, hidden=wide, bits=many, levels=(1, 1024))
        check_bounds(self, text_width=wide, text_length=wide, text_heads=many, chunks=(1, self.depth))
        check_bounds(self, text_mixer=(0, 1024), state=many, head_dim=many)
        shortest = min(map(len, self.schedules), default=len(self.sizes))
        for length in self.lengths:
            if not 1 <= length <= shortest:
                raise InputError(f"lengths has {length}; expected 1 to {shortest}, the scales of the shortest schedule")
        if self.positions not in get_args(Positions):
            raise InputError(f"positions is {self.positions!r}; expected {' or '.join(get_args(Positions))}")
        if not 0 < self.norm_eps <= 1:
            raise InputError(f"norm_eps is {self.norm_eps}; expected a small number above 0, such as 1e-06")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path is {self.drop_path}; expected 0 or more, below 1")
        if self.width % self.heads or self.width // self.heads % 4:
            raise InputError(
                f"a width of {self.width} cannot be split into {self.heads} heads of a multiple of 4 channels"
            )
        if self.mixer not in ("mamba2", None):
            raise InputError(f"mixer is {self.mixer!r}; expected 'mamba2', or none, for attention over all scales")
        if self.mixer and 2 * self.width % self.head_dim:
            raise InputError(f"an inner width of {2 * self.width} cannot be split into heads of {self.head_dim}")
        if not self.mixer and (self.state, self.head_dim) != (64, 64):
            raise InputError(
                f"state is {self.state} and head_dim {self.head_dim}, which are of Mamba-2, but there is no mixer"
            )
        if self.width % self.text_heads:
            raise InputError(f"a width of {self.width} cannot be split into {self.text_heads} heads for the text")
        if self.text_mixer and self.text_width % heads_of(self.text_width):
            raise InputError(f"a text_width of {self.text_width} cannot be mixed; expected a multiple of 32")
        if self.depth % self.chunks:
            raise InputError(f"{self.depth} blocks cannot be split into {self.chunks} chunks")


class Infinity(NextScaleModel):
    """See :class:`~nextscale.models.base.NextScaleModel` for the methods."""

    guidance = "constant"
    sources, away_from = ("text",), ("negative",)
    free = ("sizes", "schedules", "lengths", "chunks")
    choices = 2

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        c, width = config.width, config.text_width
        self.config, self.schedule = config, ScaleSchedule(config.sizes)
        self.draws = self.code_dim = config.bits
        self.levels = config.levels
        self.null = nn.Parameter(torch.zeros(config.text_length, width))
        self.text_mixer = TextMixer(width, config.text_length, config.text_mixer) if config.text_mixer else None
        self.text_norm = nn.RMSNorm(width, 1e-6)
        self.pool = Pool(width, c, config.text_heads)
        self.text_in = FeedForward(width, c, c)
        self.pos_start = nn.Parameter(torch.zeros(1, c))
        self.level_embedding = nn.Parameter(torch.zeros(config.levels, c))
        self.word_embedding = nn.Linear(config.bits, c)
        self.gates = (DecoupledBlock if config.mixer else Block).gates
        self.shared_ada_lin = nn.Linear(c, 3 * self.gates * c)
        blocks = [new_block(config) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(replace(spec, block=i) for i, block in enumerate(blocks) for spec in block.specs)
        self.memory = "recurrent" if config.mixer else "full"
        self.head_ada_lin = nn.Linear(c, 2 * c)
        self.head_lin = nn.Linear(c, 2 * config.bits)

    @property
    def reads(self) -> Mapping[str, int]:
        return {"text": self.config.text_width}

    @property
    def schedules(self) -> tuple[ScaleSchedule, ...]:
        return tuple(map(ScaleSchedule, self.config.schedules or (self.config.sizes,)))

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.config.lengths or (len(self.schedule),)

    def check(self, schedule: ScaleSchedule) -> None:
        if len(schedule) > self.config.levels:
            raise PlanError(
                f"this Infinity draws at most {self.config.levels} scales, and {len(schedule)} were asked for"
            )

    def blank(self, images: int, device: torch.device) -> Features:
        states = torch.zeros(images, self.config.text_length, self.config.text_width, device=device)
        source = Source("text", {"states": states, "mask": torch.ones_like(states[..., 0], dtype=torch.bool)})
        return Features(images, {"text": source, "negative": source})

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        vector, context, mask = self.read(features, (self.sources,) if branches is None else branches)
        shared = self.shared_ada_lin(F.silu(vector)).unflatten(-1, (1, 3 * self.gates, -1))
        blocks: Any = self.blocks
        return Condition(
            start=vector[:, None] + self.pos_start,
            vector=vector,
            modulation=tuple(shared + block.ada_gss for block in blocks),
            context=tuple(block.cross.text(context) for block in blocks),
            mask=mask,
        )

    def read(self, features: Features, branches: Branches) -> tuple[Tensor, Tensor, Tensor]:
        """The texts of all rows: summed up (R, C), as a context (R, T, C), and the mask (R, T) of the context."""
        states, mask = self._texts(features, branches)
        if self.text_mixer is not None:
            states = self.text_mixer(states, mask).float()
        with no_autocast(states):
            text = F.rms_norm(states, states.shape[-1:], self.text_norm.weight.float(), self.text_norm.eps)
        text = text.to(self.text_in.fc1.weight.dtype)
        return self.pool(text, mask), self.text_in(text), mask

    def _texts(self, features: Features, branches: Branches) -> tuple[Tensor, Tensor]:
        """States (R, T, c) float32 and their mask (R, T). A text that a branch does not see, or an image lacks, is
        replaced by as many states of the null as the image's own text has; by one where it has none.
        """
        place, own = self.null.device, features.sources.get("text")
        length = torch.ones(features.images, 1, dtype=torch.bool, device=place) if own is None else own.tensors["mask"]
        null = self.null.float()[: length.shape[1]].expand(features.images, -1, -1)
        if null.shape[1] < length.shape[1]:
            raise InputError(f"a text has {length.shape[1]} states; this Infinity reads at most {len(self.null)}")
        found: list[tuple[Tensor, Tensor]] = []
        for branch in branches:
            states, mask = null, length.to(place)
            source = features.seen(branch, "text")
            if source is not None:
                said, seen = source.tensors["states"].to(null), source.tensors["mask"].to(place)
                if source.dropped is not None:
                    dropped = source.dropped.to(place)
                    (said, seen), (states, mask) = padded([(said, seen), (states, mask)])
                    said, seen = (
                        torch.where(dropped[:, None, None], states, said),
                        torch.where(dropped[:, None], mask, seen),
                    )
                states, mask = said, seen
            found.append((states, mask))
        texts, masks = zip(*padded(found), strict=True)
        return torch.cat(texts), torch.cat(masks)

    def drop_paths(self, condition: Condition, chance: Tensor) -> Condition:
        """See :func:`nextscale.models.base.drop_paths`. chance: (R, blocks, gates)."""
        if not self.config.drop_path:
            return condition
        last = max(1, self.config.depth - 1)
        return drop_paths(condition, chance, [self.config.drop_path * i / last for i in range(self.config.depth)])

    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        assert again is None, "one pass over a scale is all that this model knows"
        if inputs is None:
            x = condition.start.expand(-1, schedule.lengths[0], -1)
        else:
            x = self.word_embedding(inputs.flatten(2).mT.to(self.word_embedding.weight.dtype))
            x = x.repeat(condition.rows // len(x), 1, 1)
        return x + self.level_embedding[k]

    def run_block(
        self,
        i: int,
        x: Tensor,
        k: int | None,
        condition: Condition,
        slots: Sequence[Any],
        schedule: ScaleSchedule,
        number: int = 0,
    ) -> Tensor:
        here = slice(0, x.shape[1]) if k is None else schedule.slice(k)
        if self.config.level_per_chunk and i and i % (self.config.depth // self.config.chunks) == 0:
            x = x + self._levels(schedule)[here]
        table = self.rotary(schedule, x.device)[here]
        assert condition.mask is not None
        return self.blocks[i](x, condition.modulation[i], condition.context[i], condition.mask, table, *slots)

    def rotary(self, schedule: ScaleSchedule, device: torch.device) -> Tensor:
        """Rotary positions (L, head width / 2, 2) of a schedule: counted on the last grid of the trained schedule that
        begins so, else of the one whose aspect ratio is nearest.
        """
        h, w = schedule.grid
        trained = self.config.schedules or (self.config.sizes,)
        begun = [sizes for sizes in trained if sizes[: len(schedule)] == schedule.sizes]
        grids = [sizes[-1] for sizes in begun or trained]
        reference = min(grids, key=lambda grid: abs(math.log(grid[0] / grid[1] * w / h)))
        return rotary_table(schedule, reference, self.slots[0].width, device, self.config.positions)

    def _levels(self, schedule: ScaleSchedule) -> Tensor:
        """The level embedding (L, C) of every token."""
        lengths = torch.tensor(schedule.lengths, device=self.level_embedding.device)
        return self.level_embedding[: len(schedule)].repeat_interleave(lengths, 0, output_size=schedule.tokens)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        assert condition.vector is not None
        vector = condition.vector[: len(hidden)]
        scale, shift = self.head_ada_lin(F.silu(vector))[:, None].chunk(2, -1)
        x = modulate(hidden, scale, shift, self.config.norm_eps)
        with no_autocast(x):
            logits = F.linear(x.float(), self.head_lin.weight.float(), self.head_lin.bias.float())
        return logits.unflatten(-1, (self.draws, 2))

    def condition_flops(self, rows: int) -> int:
        c, tokens, blocks = self.config.width, self.config.text_length, self.config.depth
        block: Any = self.blocks[0]
        text = self.pool.flops(tokens) + self.text_in.flops(tokens) + blocks * block.cross.text.flops(tokens)
        text += 0 if self.text_mixer is None else self.text_mixer.flops(tokens)
        return rows * (text + 2 * 3 * self.gates * c * c)

    def embed_flops(self, tokens: int, k: int, images: int) -> int:
        return 2 * images * tokens * self.config.bits * self.config.width if k else 0

    def head_flops(self, tokens: int, rows: int) -> int:
        c = self.config.width
        return 2 * rows * (2 * c * c + tokens * c * 2 * self.config.bits)

    @torch.no_grad()
    def init_weights(self, gamma: float = 5e-6, shift: float = 1e-3, head: float = 0.02) -> None:
        """The official initialisation: matrices and embeddings a truncated normal of std sqrt(1 / 3C), biases zero;
        outputs of attention and feed-forward divided by sqrt(2 depth); gates times ``gamma``, the rest of the
        modulation times ``shift``, the head times ``head``. A mixer starts as M-VAR's. Call before training.
        """
        c, shrink = self.config.width, math.sqrt(2 * self.config.depth)
        std = math.sqrt(1 / (3 * c))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.pos_start, self.level_embedding, self.pool.query):
            nn.init.trunc_normal_(embedding, std=std)
        nn.init.trunc_normal_(self.null, std=1.2 / math.sqrt(self.config.text_width))
        self.head_lin.weight.mul_(head)
        self.head_ada_lin.weight.mul_(shift)
        if self.text_mixer is not None:
            self.text_mixer.init_weights()
        for block in self.blocks:
            block.init_weights(gamma, shift, shrink)  # type: ignore[operator]


def new_block(config: InfinityConfig) -> Block:
    """A block of the kind that the configuration names."""
    c = config.width
    sizes = c, config.heads, config.hidden, config.text_length, config.norm_eps
    return DecoupledBlock(*sizes, mixer=Mamba2(c, config.state, config.head_dim)) if config.mixer else Block(*sizes)


def padded(texts: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """States (B, T, c) and masks (B, T) of several texts, brought to the length of the longest."""
    longest = max(mask.shape[1] for _, mask in texts)
    return [
        (F.pad(states, (0, 0, 0, longest - mask.shape[1])), F.pad(mask, (0, longest - mask.shape[1])))
        for states, mask in texts
    ]
