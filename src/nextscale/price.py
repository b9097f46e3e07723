"""What a plan will cost: FLOPs and memory bytes of every row, before a second of compute is spent.

Models and tokenizers price themselves, beside the equations they price; this file only adds up and prints. FLOPs
count two per multiply-add of matrix products, convolutions and attention, as PyTorch's counter does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from nextscale.memory.make import memory_bytes
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, Row
from nextscale.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class RowPrice:
    """One line of a priced plan: ``flops`` of all images together, ``memory``: live bytes after the row."""

    name: str
    flops: int
    memory: int


@dataclass(frozen=True)
class Price:
    """The lines of a priced plan: the condition first, then one per scale, then decoding. weights: bytes of all parts,
    however many images are drawn.
    """

    lines: tuple[RowPrice, ...]
    weights: int

    @property
    def flops(self) -> int:
        return sum(line.flops for line in self.lines)

    @property
    def memory(self) -> int:
        """Largest live bytes of the memory over the scales."""
        return max(line.memory for line in self.lines)


def price(plan: Plan, parts: Mapping[str, Any], images: int = 1, element: int = 4) -> Price:
    """Price ``plan`` for ``images`` images with a memory of ``element`` bytes per number (4: float32, 2: bfloat16).

    Parts may be on PyTorch's meta device: nothing is computed and no weights are needed. Raises ``PlanError`` for a
    ``top_k`` above the number of codes.
    """
    tokenizer: Tokenizer = parts["tokenizer"]
    plan.check_top_k(tokenizer.choices)
    schedule, rows = plan.schedule, plan.branches * images
    first: NextScaleModel = parts[plan.rows[0].model]
    lines = [RowPrice("condition", first.condition_flops(rows), 0)]
    for k, row in enumerate(plan.rows):
        model: NextScaleModel = parts[row.model]
        flops = _takeover_flops(plan, k, model, images)
        flops += model.step_flops(schedule, k, images, rows, row.blocks) + model.head_flops(schedule.lengths[k], rows)
        flops += images * tokenizer.accumulate_flops(schedule, k)
        if row.smooth is not None:
            flops += 2 * images * schedule.lengths[k] * tokenizer.choices * tokenizer.code_dim
        memory = memory_bytes(row.memory, model.slots, schedule, k, rows, element)
        lines.append(RowPrice(f"{row.size[0]}x{row.size[1]}", flops, memory))
    if plan.decode:
        lines.append(RowPrice("decode", images * tokenizer.decode_flops(schedule), 0))
    return Price(tuple(lines), weight_bytes(parts, element))


def weight_bytes(parts: Mapping[str, Any], element: int) -> int:
    """Bytes of all networks among the parts, at ``element`` bytes per number."""
    return element * sum(p.numel() for part in parts.values() if isinstance(part, nn.Module) for p in part.parameters())


def _takeover_flops(plan: Plan, k: int, model: NextScaleModel, images: int) -> int:
    """A model that takes over at row k makes its condition and catches up on every earlier scale."""
    if k == 0 or plan.rows[k].model == plan.rows[k - 1].model:
        return 0
    rows, blocks = plan.branches * images, plan.rows[k].blocks
    steps = (model.step_flops(plan.schedule, j, images, rows, blocks) for j in range(k))
    return model.condition_flops(rows) + sum(steps)


def table(plan: Plan, priced: Price) -> str:
    """The plan as a table for people: one line per row, with its predicted FLOPs, memory and share of the whole."""
    head = ("", "size", "model", "blocks", "guidance", "sampling", "memory", "keep", "GFLOPs", "memory MiB", "share")
    body = []
    for i, line in enumerate(priced.lines):
        k = i - 1
        columns = _columns(plan.rows[k]) if 0 <= k < len(plan.rows) else ("",) * 6
        name = str(k) if 0 <= k < len(plan.rows) else line.name
        size = line.name if 0 <= k < len(plan.rows) else ""
        cost = (f"{line.flops / 1e9:.3f}", f"{line.memory / 2**20:.2f}", f"{100 * line.flops / priced.flops:.1f} %")
        body.append((name, size, *columns, *cost))
    body.append(
        ("total", "", "", "", "", "", "", "", f"{priced.flops / 1e9:.3f}", f"{priced.memory / 2**20:.2f}", "100.0 %")
    )
    used = [i for i in range(len(head)) if i >= 8 or any(line[i] for line in body)]
    widths = [max(len(line[i]) for line in (head, *body)) for i in used]
    rows = ["  ".join(line[i].rjust(w) for i, w in zip(used, widths, strict=True)).rstrip() for line in (head, *body)]
    return "\n".join(rows)


def _columns(row: Row) -> tuple[str, ...]:
    sampling = [f"T {row.temperature:g}"] if row.temperature != 1 else []
    sampling += [f"top-k {row.top_k}"] if row.top_k else []
    sampling += [f"top-p {row.top_p:g}"] if row.top_p else []
    sampling += [f"smooth {row.smooth[1]:.3g}"] if row.smooth else []
    blocks = "" if row.blocks is None else f"{len(row.blocks)} blocks"
    guidance = " ".join(f"{w:+.2f}" for w in row.guidance) if len(row.guidance) > 1 else ""
    return row.model, blocks, guidance, ", ".join(sampling) or "plain", row.memory, row.keep or ""
