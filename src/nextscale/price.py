"""What a plan will cost: FLOPs and memory bytes of every row, before a second of compute is spent.

Models and tokenizers price themselves, beside the equations they price; this file only adds up and prints. FLOPs
count two per multiply-add of matrix products, convolutions and attention, as PyTorch's counter does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from nextscale.conditions.base import Branches
from nextscale.memory.base import Outlook
from nextscale.memory.make import look_ahead
from nextscale.models.base import NextScaleModel
from nextscale.parts import check_networks
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class RowPrice:
    """One line of a priced plan: ``flops`` of all images together, ``memory``: live bytes after the row; attended,
    kept: keys that a query sees and tokens that are kept, means of the heads of the layers that see earlier scales.
    """

    name: str
    flops: int
    memory: int
    attended: float = 0.0
    kept: float = 0.0


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
    plan that they cannot carry out.
    """
    check_networks(plan, parts)
    tokenizer: Tokenizer = parts["tokenizer"]
    schedule, branches = plan.schedule, len(plan.branches)
    alive = [images * candidates for candidates in plan.alive]
    lines, made = list[RowPrice](), set[Branches]()
    for k, row in enumerate(plan.rows):
        model: NextScaleModel = parts[row.model]
        begun, shown, drawn = 0, {plan.sees(k)}, alive[k] * tokenizer.accumulate_flops(schedule, k)
        if k == 0 or row.model != plan.rows[k - 1].model:
            outlook, made = look_ahead(plan.memories[row.model], plan.course(k, model), parts), set[Branches]()
            begun = _takeover_flops(k, model, outlook, alive[k], branches)
            shown |= {plan.sees(j) for j in range(outlook.course.first, k)}
        begun += len(shown - made) * model.condition_flops(branches * alive[k])
        made |= shown
        if k == 0:
            lines.append(RowPrice("condition", begun, 0))
            begun = 0
        drawn += _drawing_flops(plan, k, parts, outlook, alive[k])
        if row.smooth is not None:
            drawn += 2 * alive[k] * schedule.lengths[k] * tokenizer.choices * tokenizer.code_dim
        memory = outlook.bytes(k, branches * alive[k + 1], element)
        lines.append(RowPrice(f"{row.size[0]}x{row.size[1]}", begun + drawn, memory, *_tokens(outlook, k)))
    if plan.decode:
        lines.append(RowPrice("decode", alive[-1] * tokenizer.decode_flops(schedule, len(plan.rows)), 0))
    return Price(tuple(lines), weight_bytes(parts, element))


def _tokens(outlook: Outlook, k: int) -> tuple[float, float]:
    """Attended and kept tokens of the layers that run at scale k and see earlier ones, on average."""
    course = outlook.course
    seeing = [i for i, spec in enumerate(course.slots) if spec.reads == "past" and spec.block in course.blocks[k]]
    attended, kept = (sum(row[k][i] for i in seeing) for row in (outlook.attended, outlook.kept))
    return float(attended) / max(1, len(seeing)), float(kept) / max(1, len(seeing))


def weight_bytes(parts: Mapping[str, Any], element: int) -> int:
    """Bytes of all networks among the parts, at ``element`` bytes per number."""
    return element * sum(p.numel() for part in parts.values() if isinstance(part, nn.Module) for p in part.parameters())


def _takeover_flops(k: int, model: NextScaleModel, outlook: Outlook, images: int, branches: int) -> int:
    """A model that begins at row k runs over its prefix, and catches up on what it is to see of earlier scales."""
    course, rows = outlook.course, branches * images
    steps = (model.step_flops(outlook, j, images, rows) for j in range(course.first, k))
    return model.prefill_flops(course, rows) + sum(steps)


def _drawing_flops(plan: Plan, k: int, parts: Mapping[str, Any], outlook: Outlook, images: int) -> int:
    """All passes over one scale, the heads, and what a further pass is told of the one before."""
    row, tokens, flops = plan.rows[k], plan.schedule.lengths[k], 0
    model, tokenizer = parts[row.model], parts["tokenizer"]
    for number in range(len(row.passes or (tokens,))):
        weights = row.again_guidance or row.guidance if number else row.guidance
        idle = weights.count(0) if number and plan.memories[row.model].policy == "none" else 0
        rows = images * (len(weights) - idle)
        flops += model.step_flops(outlook, k, images, rows)
        flops += model.head_flops(tokens, rows if row.guidance_block is None else images)
        flops += images * tokenizer.accumulate_flops(plan.schedule, k) if number else 0
    return flops


def table(plan: Plan, priced: Price) -> str:
    """The plan as a table for people: one line per row, with its predicted FLOPs, memory and share of the whole."""
    rows = [_columns(plan, row) | _dropped(plan, k, priced.lines[k + 1]) for k, row in enumerate(plan.rows)]
    head = ("", "size", *rows[0], "GFLOPs", "memory MiB", "share")
    nothing = ("",) * len(rows[0])
    body = []
    for i, line in enumerate(priced.lines):
        k = i - 1
        drawn = 0 <= k < len(rows)
        columns = rows[k].values() if drawn else nothing
        name, size = (str(k), line.name) if drawn else (line.name, "")
        cost = (f"{line.flops / 1e9:.3f}", f"{line.memory / 2**20:.2f}", f"{100 * line.flops / priced.flops:.1f} %")
        body.append((name, size, *columns, *cost))
    whole = (f"{priced.flops / 1e9:.3f}", f"{priced.memory / 2**20:.2f}", "100.0 %")
    body.append(("total", "", *nothing, *whole))
    used = [i for i in range(len(head)) if i >= len(head) - 3 or any(line[i] for line in body)]
    widths = [max(len(line[i]) for line in (head, *body)) for i in used]
    lines = ["  ".join(line[i].rjust(w) for i, w in zip(used, widths, strict=True)).rstrip() for line in (head, *body)]
    return "\n".join(lines)


def _dropped(plan: Plan, k: int, line: RowPrice) -> dict[str, str]:
    """How many tokens are attended to and kept, where these are not all there are."""
    everything, last = plan.schedule.offsets[k + 1], k + 1 == len(plan.rows)
    if not line.attended or (line.attended >= everything and (last or line.kept >= everything)):
        return {"attended": "", "kept": ""}
    return {"attended": f"{line.attended:.4g}", "kept": f"{line.kept:.4g}"}


def _columns(plan: Plan, row: Row) -> dict[str, str]:
    """What a row says, by the heads of the table; what is as usual stays empty."""
    sampling = [f"T {row.temperature:g}"] if row.temperature != 1 else []
    sampling += [f"top-k {row.top_k}"] if row.top_k else []
    sampling += [f"top-p {row.top_p:g}"] if row.top_p else []
    sampling += [f"smooth {row.smooth[1]:.3g}"] if row.smooth else []
    weights = " ".join(f"{w:+.2f}" for w in row.guidance) if len(row.guidance) > 1 else ""
    inside = "" if row.guidance_block is None else f" after block {row.guidance_block}"
    return {
        "model": row.model,
        "blocks": "" if row.blocks is None else f"{len(row.blocks)} blocks",
        "condition": "" if row.condition is None else " ".join(row.condition) or "nothing",
        "guidance": weights + inside,
        "sampling": ", ".join(sampling) or "plain",
        "passes": "" if row.passes is None else str(len(row.passes)),
        "population": "" if row.population is None else f"{row.population} by {row.cull}",
        "memory": plan.memories[row.model].policy,
        "keep": row.keep or "",
    }
