"""A generation without numbers: how many bytes it will hold, how many it will move, and in how many calls.

The plan is carried out by the one loop and the models' own code on PyTorch's meta device, where tensors have shapes and
no content. Every call is watched there, so nothing that a model computes needs a formula of its own that could drift.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextscale.conditions.base import Features
from nextscale.generate import generate
from nextscale.memory.make import look_ahead
from nextscale.plan import Plan
from nextscale.results import decode, decodes_alone
from nextscale.sampling import Noise, Uniform, inverse_cdf
from nextscale.state import ScaleEvent
from nextscale.tokenizers.base import Canvas

ALL_BLOCKS = 8
"""Models of more blocks are rehearsed with one and with two of them; the others cost what the second one does."""


@dataclass(frozen=True)
class Rehearsal:
    """What a generation does beside its FLOPs.

    drawing, decoding: the most bytes that live at once beside the weights, until the last token is drawn (the memory's
    buffers included) and while pixels are made; decoding_more: what another image would add while decoding (while
    drawing it adds an equal share); moved: bytes that all calls read and write; calls: of PyTorch.
    """

    drawing: int
    decoding: int
    decoding_more: int
    moved: int
    calls: int

    @property
    def peak(self) -> int:
        return max(self.drawing, self.decoding)


def rehearse(plan: Plan, parts: Mapping[str, Any], images: int, device: torch.device) -> Rehearsal:
    """Rehearse ``plan`` for ``images`` images drawn together, as they would be on ``device``.

    parts: as :func:`~nextscale.generate.generate` takes them, on the meta device and in the number type to compute in.
    Parts elsewhere are watched while they really compute. Culls are left out: the first candidates live on.
    """
    names = {row.cull for row in plan.rows if row.cull is not None}
    parts = {**parts, **dict.fromkeys(names, _first_ones)}
    blocks = plan.rows[0].blocks or tuple(range(len(parts[plan.rows[0].model].blocks)))
    alike = len(blocks) > ALL_BLOCKS and _blocks_are_alike(plan, parts, blocks)
    # What is kept from one generation to the next, such as a table of positions, is made before anything is counted.
    _drawn((plan.with_column(blocks=blocks[:1]) if alike else plan).prefix(1), parts, images)
    if not alike:
        watch, canvas = _drawn(plan, parts, images)
        drawing, moved, calls = watch.peak, watch.moved, watch.calls
    else:
        one, _ = _drawn(plan.with_column(blocks=blocks[:1]), parts, images)
        two, canvas = _drawn(plan.with_column(blocks=blocks[:2]), parts, images)
        drawing, moved, calls = (
            first + (len(blocks) - 1) * (both - first)
            for first, both in ((one.peak, two.peak), (one.moved, two.moved), (one.calls, two.calls))
        )
    if not plan.decode:
        return Rehearsal(drawing, 0, 0, moved, calls)
    alone = canvas.latent.device.type == "meta" and decodes_alone(device, _weight(parts).dtype)
    few = Canvas(canvas.latent[:1], canvas.schedule, canvas.done) if alone else canvas
    watch = _Watch(parts)
    with _Attend(watch), watch:
        pixels = decode(parts["tokenizer"], few)
    images = len(canvas.latent)
    turns, more = (images, pixels.nbytes) if alone else (1, watch.peak // images)
    decoding = watch.peak + (turns - 1) * more
    return Rehearsal(drawing, decoding, more, moved + turns * watch.moved, calls + turns * watch.calls)


def _blocks_are_alike(plan: Plan, parts: Mapping[str, Any], blocks: Sequence[int]) -> bool:
    """Whether every block but the first adds what the second one adds: all run at all scales, are wrapped alike, and
    remember as much as one another, for as many images (else the most bytes are alive at another scale with another
    number of blocks).
    """
    row = plan.rows[0]
    same = all((one.model, one.blocks, one.guidance_block) == (row.model, row.blocks, None) for one in plan.rows)
    if not same or len(set(plan.alive)) > 1:
        return False
    model, memory = parts[row.model], plan.memories[row.model]
    outlook = look_ahead(memory, plan.course(0, model), parts)
    wrappers = [type(one) for one in model.condition(_blank(plan, parts, 1), plan.branches, plan.schedule).slots]
    facts = [*outlook.kept, *outlook.attended, *([wrappers] if wrappers else [])]
    told = [[[fact[j] for j in model.slots_of[i]] for fact in facts] for i in blocks]
    return all(one == told[1] for one in told[2:])


def _blank(plan: Plan, parts: Mapping[str, Any], images: int) -> Features:
    """Features of every source that the plan's models read."""
    blank = [parts[name].blank(images, _weight(parts).device) for name in plan.memories]
    return Features(images, {name: source for one in blank for name, source in one.sources.items()})


def _first_ones(event: ScaleEvent, count: int, noise: Uniform) -> list[int]:
    """Stands where a cull does."""
    return [i % len(event.tokens) for i in range(count)]


def _drawn(plan: Plan, parts: Mapping[str, Any], images: int) -> tuple[_Watch, Canvas]:
    """Carry the rows of a plan out under watch."""
    features, watch, canvas = _blank(plan, parts, images), _Watch(parts), None
    with _Attend(watch), watch:
        for event in generate(plan, parts, features, _NoNoise()):
            canvas = event.canvas
    assert canvas is not None
    return watch, canvas


def _weight(parts: Mapping[str, Any]) -> Tensor:
    return next(parts["tokenizer"].parameters())


class _Watch(TorchDispatchMode):
    """Counts calls, the bytes they read and write (views move nothing), and the bytes alive, weights left out."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self.live = self.peak = self.moved = self.calls = 0
        modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
        weights = [t.untyped_storage() for m in modules for t in (*m.parameters(), *m.buffers())]
        self._weights = weights  # held, so that no other storage gets one of their ids
        self._ours = {id(storage) for storage in weights}
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        self.calls += 1
        made = [t for t in tree_leaves(answer) if isinstance(t, Tensor)]
        new = [self._hold(t.untyped_storage()) for t in made]
        if any(new) or not func.is_view:  # some calls are views or copies, as it comes
            self.move(*(t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), *made)
        return answer

    def move(self, *tensors: Tensor) -> None:
        """Count tensors that a call reads or writes."""
        self.moved += sum(t.numel() * t.element_size() for t in tensors)

    def _hold(self, storage: torch.UntypedStorage) -> bool:
        """Count a storage while it lives; whether it is a new one."""
        key, size = id(storage), storage.nbytes()
        if key in self._ours or key in self._held:
            return False

        def gone(_: object) -> None:
            del self._held[key]
            self.live -= size

        self._held[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)
        return True


class _Attend(TorchFunctionMode):
    """Attention on the meta device as the kernels do it, without the matrix of all queries and keys."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention or args[0].device.type != "meta":
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        self._watch.move(q, k, v)
        return q.new_empty((*q.shape[:-1], v.shape[-1]))


class _NoNoise(Noise):
    """Stands where noise does: tensors of its sizes, always the same draw."""

    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        return inverse_cdf(probs, probs.new_zeros(probs.shape[:-1], dtype=torch.float64))

    def gumbel(self, like: Tensor, k: int, p: int = 0) -> Tensor:
        return torch.zeros_like(like)

    def for_cull(self, k: int, row: int) -> Uniform:
        return lambda count: torch.full((count,), 0.5, dtype=torch.float64)

    def select(self, rows: Tensor) -> Noise:
        return self
