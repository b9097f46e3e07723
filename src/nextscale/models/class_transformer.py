"""What VAR and its descendants share outside their blocks: embeddings, the class condition, the head.

Shape letters as in ``models/base.py``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features, Source
from nextscale.conditions.classes import class_features
from nextscale.errors import InputError, PlanError, quoted
from nextscale.layers.adaln import modulate
from nextscale.models.base import Again, Condition, NextScaleModel, drop_paths
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import check_bounds


@dataclass(frozen=True, kw_only=True)
class ClassTransformerConfig:
    """Sizes of a class-conditional next-scale transformer; the published ones are width = 64 depth, heads =
    depth.

    classes: without the null class; codes, code_dim: the tokenizer's; sizes: the trained schedule; l2_norm:
    unit queries and keys; drop_path: rate of the last block in training, see ``ClassTransformer.drop_paths``;
    full_scales, subnets: what it was taught to do with fewer blocks, see ``NextScaleModel``; they change no
    weights' shapes, and nothing that is drawn by itself.
    """

    depth: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    classes: int = 1000
    codes: int = 4096
    code_dim: int = 32
    sizes: tuple[Size, ...] = ScaleSchedule.preset("256").sizes
    l2_norm: bool = True
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    full_scales: int = 0
    subnets: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        ScaleSchedule(self.sizes)
        sizes, counts = (1, 2**20), (1, 2**32)
        check_bounds(self, depth=(1, 1024), width=sizes, heads=sizes, classes=counts, codes=counts, code_dim=sizes)
        if not 0 < self.mlp_ratio <= 1024:
            raise InputError(f"mlp_ratio is {self.mlp_ratio}; expected a number above 0, at most 1,024")
        if not 0 < self.norm_eps <= 1:
            raise InputError(f"norm_eps is {self.norm_eps}; expected a small number above 0, such as 1e-06")
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path is {self.drop_path}; expected 0 or more, below 1")
        if self.width % self.heads:
            raise InputError(f"a width of {self.width} cannot be split into {self.heads} heads")
        check_bounds(self, full_scales=(0, len(self.sizes)))
        for blocks in self.subnets:
            if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < self.depth:
                raise InputError(
                    f"subnets has {quoted(blocks)}; expected numbers of blocks from 0 to {self.depth - 1}, ascending"
                )

    def drop_path_of(self, block: int) -> float:
        """Rate of one block, growing linearly from 0."""
        return self.drop_path * block / max(1, self.depth - 1)


class ClassTransformer(NextScaleModel):
    """Embeddings, condition and head. It reads one source, of the kind ``class``.

    A subclass adds its blocks, then ``head_ada_lin`` and ``head_lin``, in this order, which is that of the
    parameters.
    """

    guidance = "ramp"
    sources = ("class",)
    name: str
    """What messages call the model."""
    gates: int
    """Residual branches of a block; their gates stand first in its modulation."""
    head_ada_lin: nn.Linear
    head_lin: nn.Linear

    def __init__(self, config: ClassTransformerConfig) -> None:
        super().__init__()
        c = config.width
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.choices, self.code_dim = config.codes, config.code_dim
        self.full_scales, self.subnets = config.full_scales, config.subnets
        self.class_embedding = nn.Embedding(config.classes + 1, c)
        self.add_positions(c)
        self.word_embedding = nn.Linear(config.code_dim, c)

    def add_positions(self, c: int) -> None:
        """The parameters that say where a token stands: one for every token of the trained schedule, and one for every
        scale.
        """
        self.pos_start = nn.Parameter(torch.zeros(self.schedule.lengths[0], c))
        self.pos_embedding = nn.Parameter(torch.zeros(self.schedule.tokens, c))
        self.level_embedding = nn.Parameter(torch.zeros(len(self.schedule), c))

    def positions(self, k: int, schedule: ScaleSchedule) -> Tensor:
        """Where the tokens of scale k stand, (l, C)."""
        return self.pos_embedding[self.schedule.slice(k)] + self.level_embedding[k]

    def init_positions(self, std: float) -> None:
        """Their official initialisation."""
        for embedding in (self.pos_start, self.pos_embedding, self.level_embedding):
            nn.init.trunc_normal_(embedding, std=std)

    def check(self, schedule: ScaleSchedule) -> None:
        if schedule.sizes != self.schedule.sizes[: len(schedule)]:
            raise PlanError(
                f"this {self.name} was trained on the scales {self.schedule} and cannot draw the scales {schedule}"
            )

    def schedule_of(self, grid: Size, steps: int | None = None) -> ScaleSchedule:
        if grid == self.schedule.grid and steps in (None, len(self.schedule)):
            return self.schedule
        raise PlanError(f"this {self.name} was trained on the scales {self.schedule} and draws no others")

    @abstractmethod
    def modulation(self, activated: Tensor) -> tuple[Tensor, ...]:
        """SiLU of the condition (R, C) to the modulation (R, 1, n, C) of every block."""

    @property
    def reads(self) -> Mapping[str, int]:
        return {"class": self.config.classes}

    def blank(self, images: int, device: torch.device) -> Features:
        return class_features(torch.zeros(images, dtype=torch.long, device=device))

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        branches = (tuple(features.sources),) if branches is None else branches
        vector = self._embed_classes(features, branches)
        modulation = self.modulation(nn.functional.silu(vector))
        return Condition(start=vector[:, None] + self.pos_start, vector=vector, modulation=modulation)

    def _embed_classes(self, features: Features, branches: Branches) -> Tensor:
        """(R, C). What a branch does not see becomes the null id *before* the embedding, and branches are stacked
        before anything is multiplied: gradients are summed in the order that the official code has.
        """
        null, place = self.config.classes, self.class_embedding.weight.device
        seen = [features.seen(branch, "class") for branch in branches]
        shape = next((one.tensors["ids"].shape for one in seen if one is not None), (features.images,))
        ids = [torch.full(shape, null, device=place) if one is None else _ids(one, null).to(place) for one in seen]
        vectors = self.class_embedding(torch.cat(ids))
        if len(shape) == 1:
            return vectors
        even = torch.full(shape, 1 / shape[1], device=place)
        weights = [even if one is None else one.tensors["weights"].to(place) for one in seen]
        return (vectors * torch.cat(weights).to(vectors)[..., None]).sum(1)

    def drop_paths(self, condition: Condition, chance: Tensor) -> Condition:
        """See :func:`nextscale.models.base.drop_paths`. chance: (R, blocks, gates)."""
        if not self.config.drop_path:
            return condition
        return drop_paths(condition, chance, [self.config.drop_path_of(i) for i in range(self.config.depth)])

    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        assert again is None, "one pass over a scale is all that this model knows"
        if inputs is None:
            x = condition.start.expand(-1, schedule.lengths[0], -1)
        else:
            x = self.word_embedding(inputs.flatten(2).transpose(1, 2).to(self.word_embedding.weight.dtype))
            x = x.repeat(condition.rows // x.shape[0], 1, 1)
        return x + self.positions(k, schedule)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        return self.logits(hidden, condition, self.head_ada_lin, self.head_lin)

    def logits(self, hidden: Tensor, condition: Condition, ada_lin: nn.Linear, lin: nn.Linear) -> Tensor:
        """:meth:`head` by these layers."""
        assert condition.vector is not None
        vector = condition.vector[: len(hidden)]
        scale, shift = ada_lin(nn.functional.silu(vector))[:, None].chunk(2, -1)
        return lin(modulate(hidden, scale, shift, self.config.norm_eps)).float()

    def embed_flops(self, tokens: int, k: int, images: int) -> int:
        return 2 * images * tokens * self.config.code_dim * self.config.width if k else 0

    def head_flops(self, tokens: int, rows: int) -> int:
        c = self.config.width
        return 2 * rows * (2 * c * c + tokens * c * self.config.codes)

    @torch.no_grad()
    def init_outside(self, head: float) -> None:
        """The official initialisation of everything but what blocks add to it: every linear layer and
        embedding a truncated normal of std sqrt(1 / 3C), the head times ``head``, its AdaLN halved, biases
        zero.
        """
        std = math.sqrt(1 / (3 * self.config.width))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.init_positions(std)
        self.head_lin.weight.mul_(head)
        self.head_ada_lin.weight.mul_(0.5)


def _ids(source: Source, null: int) -> Tensor:
    """The labels of a source, the null id where an image has nothing of it."""
    ids = source.tensors["ids"]
    if source.dropped is None:
        return ids
    return torch.where(source.dropped.view(-1, *(1,) * (ids.ndim - 1)), null, ids)
