"""ScaleKV's rules as plain functions (arXiv 2505.19602): which layers look back widely, how many tokens each may keep,
and which.

A layer is a *drafter* at a scale where its attention is spread over earlier scales, and keeps many tokens; elsewhere it
is a *refiner*, which looks at the map at hand and keeps few. Where the paper and the authors' code differ, both are
here, and the code's rule comes first.

Shape letters: ``R`` rows, ``H`` heads, ``N`` tokens that a layer holds, ``l`` tokens of the newest map, ``D`` head
width, ``w`` tokens of the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import PlanError, quoted
from nextscale.scales import ScaleSchedule, Size

EPS = 1e-6
DECAY = (600 / 650, 70 / 650)
"""Of the paper's refiners, in budgets: what they begin with, and what they lose from scale to scale (figure 6c)."""
MOST_NEIGHBOURS = 999

Drafters = Mapping[int, frozenset[int]]
"""The blocks that are drafters, by the scale whose queries they serve."""


# Which layers


def attention_shares(q: Tensor, keys: Tensor, own: int, share: float, chunk: int = 256) -> tuple[float, float]:
    """How much attention stays in the map at hand, and how much goes to the ``share`` of earlier tokens that get the
    most, for every query and head its own: means over all of them.

    q: (R, H, l, D) with its scale; keys: (R, H, N, D), the last ``own`` of the map at hand; chunk: queries at a time.
    """
    across, earlier = keys.float().mT, keys.shape[2] - own
    most, current, history = math.ceil(share * earlier), 0.0, 0.0
    for some in q.float().split(chunk, 2):
        given = (some @ across).softmax(-1)
        current += float(given[..., earlier:].sum())
        history += float(given[..., :earlier].topk(most, -1).values.sum())
    queries = q.shape[0] * q.shape[1] * q.shape[2]
    return current / queries, history / queries


def selectivity(current: float, history: float, literal: bool = False) -> float:
    """The attention selectivity index of one layer at one scale.

    current: the share of attention that stays in the map at hand; history: the share that goes to those tokens of
    earlier scales that get the most. literal: their product, equation 2 to the letter, by which a layer that looks at
    its own map alone is no different from one that looks back everywhere; by default the second one is a share of what
    goes to earlier scales at all.
    """
    return current * (history if literal else history / (1 - current + EPS))


def drafters_of(indices: Mapping[int, Sequence[float]], count: int) -> Drafters:
    """The ``count`` pairs of scale and block with the lowest index, each held against the blocks of its own scale
    (equation 3); of equals the first.

    indices: one per block, by scale.
    """
    scored = []
    for k, row in indices.items():
        mean, spread = fmean(row), pstdev(row) + EPS
        scored += [((one - mean) / spread, k, block) for block, one in enumerate(row)]
    chosen = sorted(scored)[:count]
    return {k: frozenset(block for _, scale, block in chosen if scale == k) for k in indices}


# How many


@dataclass(frozen=True)
class Allotment:
    """What the queries of one scale find of earlier ones: drafters ``most`` tokens, the other blocks ``least``.

    limit: how many a drafter can hold there, after what it dropped before.
    """

    drafters: frozenset[int]
    most: int
    least: int
    limit: int

    def of(self, block: int) -> int:
        return self.most if block in self.drafters else self.least


def compressed(schedule: ScaleSchedule, budget: int) -> tuple[int, ...]:
    """The scales with more tokens before them than the budget."""
    return tuple(k for k in range(len(schedule)) if schedule.offsets[k] > budget)


def lowest(budget: int, window: int) -> int:
    """What every layer keeps at least, where nobody says otherwise."""
    return max(window, budget // 3)


def allotted(
    schedule: ScaleSchedule, drafters: Drafters, depth: int, budget: int, floor: int, allocation: str = "saturate"
) -> dict[int, Allotment]:
    """What every block keeps for every scale that has more than the budget before it.

    budget: mean of the blocks; floor: least of a refiner; allocation: a name of ``ALLOCATIONS``.
    """
    found, held = dict[int, Allotment](), None
    for turn, k in enumerate(compressed(schedule, budget)):
        limit = schedule.offsets[k] if held is None else held + schedule.lengths[k - 1]
        here = drafters.get(k, frozenset())
        most = least = budget
        if 0 < len(here) < depth:
            most, least = ALLOCATIONS[allocation](limit, len(here), depth, budget, floor, turn)
        found[k], held = Allotment(here, most, least, limit), most
    return found


def _saturate(limit: int, drafters: int, depth: int, budget: int, floor: int, turn: int) -> tuple[int, int]:
    """As published: drafters keep as much as they can, such that all blocks together have the budget exactly."""
    refiners = depth - drafters
    for most in range(min(limit, (budget * depth - floor * refiners) // drafters), budget, -1):
        left = budget * depth - drafters * most
        if left % refiners == 0:
            return most, left // refiners
    return budget, budget


def _linear(limit: int, drafters: int, depth: int, budget: int, floor: int, turn: int) -> tuple[int, int]:
    """The paper's equation 4: refiners keep less from scale to scale, drafters what is left; what these cannot hold
    goes back to the refiners.
    """
    start, slope = DECAY
    refiners, least = depth - drafters, max(floor, round(budget * (start - slope * turn)))
    most = min(limit, (budget * depth - refiners * least) // drafters)
    return most, (budget * depth - drafters * most) // refiners


ALLOCATIONS: Mapping[str, Callable[..., tuple[int, int]]] = {"saturate": _saturate, "linear": _linear}


# Which tokens


def window_of(size: Size, window: int) -> tuple[int, ...]:
    """The tokens of a map through which a layer looks at what it holds: the middles of a square grid of ``window``
    patches, row by row; as many along a side as it has, where these are fewer.
    """
    side = math.isqrt(window)
    rows, columns = (_middles(length, min(side, length)) for length in size)
    return tuple(row * size[1] + column for row in rows for column in columns)


def _middles(length: int, count: int) -> list[int]:
    patch = length // count
    return [i * patch + (patch - 1) // 2 for i in range(count)]


def check_kernel(kernel: int) -> None:
    """Raises ``PlanError`` for a number of neighbours that has no middle, or that nobody means."""
    if not 1 <= kernel <= MOST_NEIGHBOURS or kernel % 2 == 0:
        raise PlanError(f"kernel is {quoted(kernel)}; expected an odd number up to {MOST_NEIGHBOURS}")


def logit_scores(queries: Tensor, keys: Tensor, window: Tensor, kernel: int) -> Tensor:
    """The authors' code: logits of all window queries together, then the best of ``kernel`` neighbours, across the ends
    of rows and maps.

    queries: (R, H, w, D) of the bare projection; keys: (R, H, N, D); window: (w,) positions among the N, which lend
    their neighbours nothing. Gives (R, H, N) float32.
    """
    asked = queries.float().sum(2, keepdim=True) / math.sqrt(queries.shape[3])
    logits = (asked @ keys.float().mT).squeeze(2).index_fill(2, window, -torch.inf)
    return F.max_pool1d(logits, kernel, 1, kernel // 2)


def softmax_scores(queries: Tensor, keys: Tensor, window: Tensor, kernel: int) -> Tensor:
    """The paper: the attention that the window really gives, then the mean of ``kernel`` neighbours.

    queries: as attention has them, with their scale; the rest as of :func:`logit_scores`.
    """
    given = (queries.float() @ keys.float().mT).softmax(-1).sum(2)
    return F.avg_pool1d(given, kernel, 1, kernel // 2, count_include_pad=False)


SCORES: Mapping[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "logits": logit_scores,
    "softmax": softmax_scores,
}
