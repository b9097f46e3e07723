"""HACK's rules as plain functions (arXiv 2504.09261): which heads look where, how many tokens each may hold, and which.

A *contextual* head looks at the same few tokens from everywhere; a *structural* head looks, from each place, at that
place on every scale. The authors' code is not public; what the paper leaves open is ours, and said in docs/methods.md.

Shape letters: ``R`` rows, ``H`` heads of one kind, ``N`` tokens that they hold, ``D`` head width, ``w`` queries that
choose, ``n`` tokens that stay, ``m`` tokens that go.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.scales import Size

# Which heads


def attention_variance(q: Tensor, keys: Tensor, chunk: int = 256) -> Tensor:
    """The variance of every key's attention over the queries, summed over the keys: (H,), the mean of the rows.

    q: (R, H, l, D) with its scale; keys: (R, H, N, D); chunk: queries at a time, whose means and squared deviations are
    put together (Chan, Golub and LeVeque 1979), so that equal queries give nothing, in float32, too.
    """
    across = keys.float().mT
    mean = squares = q.new_zeros((), dtype=torch.float32)
    count = 0
    for some in q.float().split(chunk, 2):
        seen = (some @ across).softmax(-1)
        here = seen.mean(2)
        variance = (seen - here[:, :, None]).square().mean(2)
        both, apart = count + some.shape[2], here - mean
        squares = squares + variance * some.shape[2] + apart.square() * (count * some.shape[2] / both)
        mean, count = mean + apart * (some.shape[2] / both), both
    return (squares / count).sum(-1).mean(0)


# How many tokens


def budgets(mean: int, whole: int, contextual: int, structural: int, share: float) -> tuple[int, int]:
    """What a contextual and a structural head may hold, such that all heads hold ``mean`` tokens on average.

    whole: all tokens, the most that a head can hold; contextual, structural: how many heads; share: what a contextual
    one holds, as a share of the mean. What structural ones cannot hold, and what no equal parts can be made of, goes to
    the contextual ones.
    """
    mean, heads = min(mean, whole), contextual + structural
    if not contextual or not structural:
        return mean, mean
    most = min(whole, (mean * heads - max(1, round(share * mean)) * contextual) // structural)
    return (mean * heads - most * structural) // contextual, most


# Which tokens


def observers(tokens: int, count: int) -> tuple[int, ...]:
    """The queries of a map of ``tokens`` that choose: ``count`` of them at equal distances from the first to the last,
    or all. The distances rarely divide the rows, so that the queries do not stand in a few columns.
    """
    if tokens <= count:
        return tuple(range(tokens))
    return tuple(i * (tokens - 1) // max(1, count - 1) for i in range(count))


def grid_of(size: Size, count: int) -> tuple[int, ...]:
    """The tokens of a regular grid in a map, row by row: at most ``count``, as near to it as the same distances along
    each side allow; of a map with as few tokens all.
    """
    height, width = size
    if count >= height * width:
        return tuple(range(height * width))
    rows = max(1, min(count, math.isqrt(count * height // width)))
    down, across = _spread(height, rows), _spread(width, min(width, count // rows))
    return tuple(row * width + column for row in down for column in across)


def _spread(length: int, count: int) -> list[int]:
    """The middles of equal parts."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def left_out(places: Tensor, tokens: int) -> Tensor:
    """Of so many tokens those that are not at ``places`` (R, H, n): (R, H, m), ascending."""
    there = torch.zeros((*places.shape[:2], tokens), dtype=torch.bool, device=places.device).scatter(2, places, True)
    return there.sort(dim=2, stable=True).indices[:, :, : tokens - places.shape[2]]


def merged(kept: Tensor, dropped: Tensor, chunk: int = 256) -> Tensor:
    """Keys and values that stay, with those that go mixed in (in the manner of LOOK-M, arXiv 2406.18139): a dropped one
    goes to the kept key of the nearest direction, and weighs as much as the cosine between them, or nothing.

    kept: (2, R, H, n, D), keys and values; dropped: (2, R, H, m, D); chunk: dropped ones at a time. A mixed key is as
    long as its parts are on average, so that unit keys stay unit keys.
    """
    keys, values = kept.float()
    directions = F.normalize(keys, dim=-1)
    summed, total = torch.cat([keys, values, keys.norm(dim=-1, keepdim=True)], -1), torch.ones_like(keys[..., :1])
    for some_keys, some_values in zip(*(x.float().split(chunk, 2) for x in dropped), strict=True):
        cosine, nearest = (F.normalize(some_keys, dim=-1) @ directions.mT).max(-1, keepdim=True)
        weight = cosine.clamp(min=0)
        told = torch.cat([some_keys, some_values, some_keys.norm(dim=-1, keepdim=True)], -1) * weight
        summed = summed.scatter_add(2, nearest.expand_as(told), told)
        total = total.scatter_add(2, nearest, weight)
    keys, values, lengths = (summed / total).split((keys.shape[-1], values.shape[-1], 1), -1)
    return torch.stack([F.normalize(keys, dim=-1) * lengths, values]).to(kept.dtype)
