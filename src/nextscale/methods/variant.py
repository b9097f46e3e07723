"""VARiant: fine scales run through some of a model's blocks only (arXiv 2511.16546).

Coarse scales run through all blocks; finer ones through evenly spaced ones, the first and the last among them. A block
that is left out passes on what it is given. Those that run find what the coarse scales left in their memory; what the
others remember is read by nobody any more, and is given back. Weights are the model's own: one that was taught to draw
so (``training/objectives/supernet.py``) draws well at any depth that it was taught, another one does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from nextscale.errors import PlanError, quoted, warn_user
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan
from nextscale.values import is_whole, listed, plain

Subnet = tuple[int, ...]
"""Blocks that run, in ascending order."""


def variant(
    plan: Plan,
    network: NextScaleModel,
    full_scales: int | None = None,
    depth: int | Sequence[int] | None = None,
    select: str | Sequence[int] | None = None,
    model: str = "model",
) -> Plan:
    """The same plan, whose scales after the first ``full_scales`` run fewer blocks.

    network: the model that the plan calls ``model``; full_scales, depth: by default those that it was taught, of
    several depths the largest; depth: how many blocks run, one number, or one for every further scale, the last of
    which goes for all that follow; select: which blocks those are: "formula", "nested" (a smaller depth takes from the
    blocks of the larger one before it), or the blocks themselves, instead of a depth; by default those that the model
    was taught for such a depth, else the formula's for one depth, and nested ones for several. Raises ``PlanError`` for
    what is impossible, and warns where the model was not taught what is asked for.
    """
    count, scales = len(network.blocks), len(plan.schedule)
    if model not in plan.memories:
        raise PlanError(f"the plan has no model {quoted(model)}; it draws with {', '.join(plan.memories)}")
    if any(row.blocks is not None for row in plan.rows if row.model == model):
        raise PlanError("the plan says already which blocks run; expected all depths at once, as in variant:4/3/2")
    if full_scales is None and not network.subnets:
        raise PlanError(
            "the model was not taught to draw with fewer blocks; say how many scales run all of them, and how many run "
            "then, as in variant:4/3"
        )
    full = plain(network.full_scales if full_scales is None else full_scales)
    if not is_whole(full) or not 0 <= full <= scales:
        raise PlanError(f"{quoted(full_scales)} full scales were asked for; expected 0 to {scales}, as there are")
    subnets = _subnets(network, depth, select)
    if len(subnets) > max(1, scales - full):
        raise PlanError(f"{len(subnets)} depths were given for the {scales - full} scales after {full} full ones")
    runs = [subnets[min(k - full, len(subnets) - 1)] if k >= full else tuple(range(count)) for k in range(scales)]
    for k, (before, blocks) in enumerate(pairwise(runs), 1):
        if again := sorted(set(blocks) - set(before)):
            raise PlanError(
                f"scale {k} runs {len(blocks)} blocks, {_list(again)} among them, which the scale before leaves out: "
                'they remember nothing of it; expected some of the blocks before, as select="nested" has it'
            )
    rows = list(plan.rows)
    for k, row in enumerate(rows):
        if row.model == model and len(runs[k]) < count:
            rows[k] = replace(row, blocks=runs[k])
    _warn(network, runs[: len(rows)])
    return replace(plan, rows=tuple(rows))


def evenly_spaced(count: int, depth: int) -> Subnet:
    """The paper's formula: ``depth`` of ``count`` blocks, the first and the last among them.

    >>> evenly_spaced(30, 8)
    (0, 4, 8, 12, 16, 20, 24, 29)
    """
    if depth == count:
        return tuple(range(count))
    return tuple(i * (count - 1) // (depth - 1) for i in range(depth))


def nested(count: int, depths: Iterable[int]) -> list[Subnet]:
    """For every depth blocks of the next larger one's, evenly spaced among these (ours: the formula's are not nested,
    though the paper says so).

    >>> nested(30, [16, 8, 4])[1:]
    [(0, 3, 7, 11, 15, 19, 23, 29), (0, 7, 15, 29)]
    """
    larger, found = tuple(range(count)), dict[int, Subnet]()
    asked = list(depths)
    for depth in sorted(set(asked), reverse=True):
        larger = found[depth] = tuple(larger[i] for i in evenly_spaced(len(larger), depth))
    return [found[depth] for depth in asked]


def check_depth(depth: Any, count: int) -> int:
    """A number of blocks. Raises ``PlanError`` for one that evenly spaced blocks cannot have."""
    found = plain(depth)
    if not is_whole(found) or not min(2, count) <= found <= count:
        raise PlanError(
            f"the depth is {quoted(depth)}; expected a number of blocks from {min(2, count)}, the first and the last, "
            f"to {count}, as the model has"
        )
    return found


def _subnets(network: NextScaleModel, depth: Any, select: Any) -> list[Subnet]:
    """The blocks of every depth that was asked for."""
    count = len(network.blocks)
    if select is not None and not isinstance(select, str):
        blocks = tuple(map(plain, listed(select) or ()))
        if depth is not None:
            raise PlanError(f"both a depth, {quoted(depth)}, and blocks were given; expected one of them")
        if not blocks or not all(map(is_whole, blocks)) or list(blocks) != sorted({*blocks} & {*range(count)}):
            raise PlanError(f"the blocks are {quoted(select)}; expected numbers from 0 to {count - 1}, ascending")
        return [blocks]
    if select not in (None, "formula", "nested"):
        raise PlanError(f'select is {quoted(select)}; expected "formula", "nested", or a list of blocks')
    if depth is None:
        depth = max(map(len, network.subnets), default=None)
    depths = [check_depth(one, count) for one in (listed(depth) or [depth])]
    if select == "nested" or (select is None and len(depths) > 1 and not network.subnets):
        return nested(count, depths)
    taught = {} if select == "formula" else {len(one): one for one in network.subnets}
    return [taught.get(one, evenly_spaced(count, one)) for one in depths]


def _warn(network: NextScaleModel, runs: Sequence[Subnet]) -> None:
    """Say it where a scale is drawn as the model was not taught."""
    count, taught = len(network.blocks), "all of them"
    if network.subnets:
        taught = f"{network.full_scales} full scales and then {' or '.join(map(_list, network.subnets))}"
    for k, blocks in enumerate(runs):
        if len(blocks) < count and (k < network.full_scales or blocks not in network.subnets):
            said = f"scale {k} runs the blocks {_list(blocks)} of {count}, but the model was taught {taught}"
            return warn_user(f"{said}; expect worse pictures")


def _list(blocks: Sequence[int]) -> str:
    return " ".join(map(str, blocks))
