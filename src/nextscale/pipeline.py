"""The object users meet: tokenizer, model and conditioner together, loaded by name or from a folder.

>>> import nextscale
>>> pipe = nextscale.load("emoji-m-var")
>>> result = pipe(class_labels=["animal-mammal"], num_images=4, seed=1)
>>> result.images[0].size
(64, 64)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nextscale.bar import bar
from nextscale.call import Call, Watch, bar_settings, chosen_plan, sampling_arguments, understood
from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import (
    bundled_names,
    checkpoint_folder,
    describe_conditioner,
    load_conditioner,
    read_card,
    revision,
)
from nextscale.checkpoints.store import load_component, read_config, save_checkpoint
from nextscale.conditions.base import Conditioner
from nextscale.conditions.classes import ClassVocabulary
from nextscale.device import choose_device, choose_dtype, place
from nextscale.edit import Editor
from nextscale.errors import CheckpointError, InputError, quoted
from nextscale.generate import generate
from nextscale.habits import LOAD, TO, missing_attribute, translated
from nextscale.methods.refine import refined_plan
from nextscale.models.base import NextScaleModel
from nextscale.pictures import fit
from nextscale.plan import Plan
from nextscale.price import Price, price
from nextscale.ratios import Shapes
from nextscale.recipe import write_recipe
from nextscale.request import Labels, checked_count
from nextscale.results import GenerationResult, OutputType, StreamEvent, decode, result_of, to_pil
from nextscale.state import Callback, ScaleEvent
from nextscale.tokenizers.base import Tokenizer

__all__ = [
    "GenerationResult",
    "Pipeline",
    "StreamEvent",
    "bundled_names",
    "checkpoint_folder",
    "decode",
    "fit",
    "from_pretrained",
    "load",
    "revision",
    "to_pil",
]

BATCH = 64
"""Images drawn at once; more are drawn in turns, which changes no image."""


class Pipeline(Editor):
    """Draws images. Build one with :func:`load`; parts are public and may be exchanged.

    conditioner: reads what a call asks for, a ``ClassVocabulary`` for class models; defaults: sampling settings used
    where a call names none (``guidance_scale``, ``temperature``, ``top_k``, ``top_p``).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: NextScaleModel,
        conditioner: Conditioner,
        *,
        name: str = "unnamed",
        defaults: Mapping[str, Any] | None = None,
        card: str = "",
        revision: str = "unsaved",
    ) -> None:
        self.tokenizer, self.model, self.conditioner = tokenizer, model, conditioner
        self.name, self.card, self.revision = name, card, revision
        self.defaults = dict(defaults or {})
        self.device_reason = self.dtype_reason = "as given"
        self._bar: dict[str, Any] = {}
        if tokenizer.schedule.sizes != model.schedule.sizes:
            raise CheckpointError(
                f"the tokenizer draws the scales {tokenizer.schedule} and the model {model.schedule}; they must agree"
            )
        conditioner.check(model.reads)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def to(
        self,
        *given: torch.device | torch.dtype | str | int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | str | None = None,
        **elsewhere: Any,
    ) -> Pipeline:
        """Move and cast both networks in place; returns the pipeline.

        given: a device, a number type, or both in either order, as in ``to("cuda", torch.bfloat16)``. Raises
        ``InputError``, with nothing moved, for a device that is not here or a number type that it does not compute in.
        """
        asked: dict[str, Any] = {"device": device, "dtype": dtype}
        named = {name for name, one in asked.items() if one is not None}
        asked |= translated(dict.fromkeys(named), elsewhere, TO, [*asked])
        to_device, to_dtype = place(given, asked["device"], asked["dtype"], self.device)
        for module in (self.tokenizer, self.model):
            module.to(device=to_device, dtype=to_dtype)
        self.conditioner.to(self.device, self.dtype)
        self.device_reason = self.device_reason if to_device is None else "as asked"
        self.dtype_reason = self.dtype_reason if to_dtype is None else "as asked"
        return self

    def plan(self, **sampling: Any) -> Plan:
        """The plan of a call with these sampling arguments; what is ``None`` or absent comes from ``defaults``."""
        asked = self.defaults | sampling_arguments(sampling, self.shapes)
        return refined_plan(self.model, self.tokenizer.stride, **asked)

    def price(
        self, plan: Plan | None = None, images: int = 1, parts: Mapping[str, Any] | None = None, **sampling: Any
    ) -> Price:
        """FLOPs and memory bytes of a plan, or that of a call, for ``images`` prompts in this precision."""
        chosen = chosen_plan(plan, sampling_arguments(sampling, self.shapes), self.plan)
        return price(chosen, self._parts(parts or {}), checked_count("images", images), self.dtype.itemsize)

    def __call__(
        self,
        class_labels: Labels | None = None,
        *,
        prompt: Sequence[str] | str | None = None,
        negative_prompt: Sequence[str | None] | str | None = None,
        style: Sequence[str | None] | str | None = None,
        image: Any = None,
        num_images: int = 1,
        ratio: str | float | None = None,
        pixels: str | int | None = None,
        size: Sequence[int] | str | None = None,
        scales: Sequence[int | Sequence[int]] | str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        smooth: bool | None = None,
        refine: str | Sequence[Sequence[int]] | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "pil",
        callback_on_scale_end: Callback | None = None,
        plan: Plan | None = None,
        parts: Mapping[str, Any] | None = None,
        **elsewhere: Any,
    ) -> GenerationResult:
        """Draw ``num_images`` images for every label or prompt.

        class_labels: ids or names, or words as for prompt; None in a list is no class; prompt: plain words, by class
        models resolved to a class, with a warning that says to which; style: for models that have styles, one for all
        labels or one per label, by default the first that the class was seen in; negative_prompt, image: for models
        that read them; ratio ("3:2"), pixels ("0.25M"), size, steps, scales: see ``sizes.asked_schedule``;
        guidance_scale: 1 is off; temperature: above 0; top_k, top_p: 0 is off; smooth: VAR's "more smooth" sampling;
        refine: passes over a scale, see ``methods/refine.py``; seed: the first image's (the next ones count up), or one
        per image; generator: official noise instead; callback_on_scale_end: called after every scale, may return
        another canvas, ``Keep(rows)`` or False to stop, and has all images drawn at once; plan: a whole plan, instead
        of sampling arguments; parts: what it names; elsewhere: what other libraries call these. Raises ``InputError``
        or ``PlanError`` for what cannot be done; warns of a style that lacks the class.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "elsewhere")}
        return self._carried_out(understood(given, elsewhere, self.conditioner, self.plan, self.shapes))

    def _carried_out(self, call: Call) -> GenerationResult:
        request, watch = call.request, None if call.callback is None else Watch(call.callback)
        prompts = len(request.entries)
        size = prompts if call.whole else max(1, BATCH // max(request.plan.alive))
        turns, maps, outputs, drawn = range(0, prompts, size), [], [], list[int]()
        with bar(len(turns) * len(request.plan.rows), **self._bar) as step:
            for start in turns:
                last = self._draw(call, slice(start, start + size), watch, step)
                maps.append(last.history)
                latent = call.output_type == "latent"
                outputs.append(last.canvas.latent if latent else call.finished(decode(self.tokenizer, last.canvas)))
                drawn += [start + prompt for prompt in last.lineage.prompts]
        recipe = self._recipe(call, drawn, "" if watch is None else watch.done)
        tokens = [torch.cat(maps_k) for maps_k in zip(*maps, strict=True)]
        return result_of(torch.cat(outputs), call.output_type, tokens, recipe, request.plan)

    def stream(
        self,
        class_labels: Labels | None = None,
        *,
        prompt: Sequence[str] | str | None = None,
        negative_prompt: Sequence[str | None] | str | None = None,
        style: Sequence[str | None] | str | None = None,
        image: Any = None,
        num_images: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        plan: Plan | None = None,
        parts: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Iterator[StreamEvent]:
        """As a call, but yields after every scale; all images are drawn at once. Arguments as in ``__call__``; what
        cannot be done is refused here, not at the first scale.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "sampling")}
        return self._streamed(understood(given, sampling, self.conditioner, self.plan, self.shapes))

    def _streamed(self, call: Call) -> Iterator[StreamEvent]:
        request, plan = call.request, call.request.plan
        features = request.features(self.conditioner).to(self.device)
        parts = self._parts(call.parts_of(slice(None)))
        events = generate(plan, parts, features, request.noise, entries=request.entries)
        return (StreamEvent(event.k, len(plan.rows), event, self.tokenizer, call.finished) for event in events)

    @property
    def shapes(self) -> Shapes:
        return self.model.shapes(self.tokenizer.stride)

    @property
    def components(self) -> dict[str, Any]:
        """The parts by name: tokenizer, model and conditioner."""
        return {"tokenizer": self.tokenizer, "model": self.model, "conditioner": self.conditioner}

    @property
    def vocabulary(self) -> ClassVocabulary:
        """The conditioner of a class model; no other model has this."""
        if not isinstance(self.conditioner, ClassVocabulary):
            raise AttributeError
        return self.conditioner

    @vocabulary.setter
    def vocabulary(self, vocabulary: ClassVocabulary) -> None:
        self.conditioner = vocabulary

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Settings of the bar over scales: ``disable`` (False), ``desc`` ("drawing"), ``leave`` (False: it goes)."""
        self._bar |= bar_settings(settings)

    def __repr__(self) -> str:
        (height, width), count = self.resolution, sum(p.numel() for p in self.model.parameters())
        return (
            f"<Pipeline {self.name!r}: {type(self.model).__name__} of {count / 1e6:,.1f} M parameters, "
            f"{self.conditioner.about}, {len(self.model.schedule)} scales to {height}x{width} pixels, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}>"
        )

    if not TYPE_CHECKING:  # a type checker shall go on seeing what is missing

        def __getattr__(self, name: str) -> Any:
            raise missing_attribute(name)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None, *, overwrite: bool = False) -> None:
        """Write a checkpoint folder that :func:`load` reads, in ``dtype`` or in the number type that the networks have
        now, which on many machines is bfloat16 unless ``load`` was asked for another.

        overwrite: replace a checkpoint that is there; other files in its folder stay. Raises ``CheckpointError`` where
        one is there and this was not asked for, or something else is.
        """
        described, files = describe_conditioner(self.conditioner)
        if self.card:
            files["README.md"] = self.card.encode()
        components = {"tokenizer": self.tokenizer, "model": self.model}
        extras = {"name": self.name, "defaults": self.defaults, "conditioner": described}
        save_checkpoint(Path(folder), components, extras, files, dtype, overwrite)

    def push_to_hub(
        self,
        repo: str,
        *,
        license: str | None = None,
        datasets: Sequence[str] = (),
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        token: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> str:
        """Publish this model on the hub as ``repo`` (``org/name``), in one commit; returns its address.

        What goes there is what ``save_pretrained`` writes, in ``dtype`` or as the networks stand: load with
        ``dtype="float32"`` what shall go there in float32. The card is ``card`` with what the hub sorts by in front;
        for the other arguments, the warning and the errors see :func:`nextscale.checkpoints.publish.publish`.
        """
        from nextscale.checkpoints.publish import publish_saved  # the hub's client is slow to import

        return publish_saved(
            lambda folder: self.save_pretrained(folder, dtype),
            repo,
            license=license,
            datasets=datasets,
            private=private,
            revision=revision,
            commit_message=commit_message,
            token=token,
        )

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        **elsewhere: Any,
    ) -> Pipeline:
        """:func:`load`, by the name it has elsewhere."""
        return load(name, revision=revision, device=device, dtype=dtype, **elsewhere)

    def _parts(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "model": self.model} | dict(more)

    def _draw(self, call: Call, part: slice, callback: Callback | None, step: Callable[[], None]) -> ScaleEvent:
        """Draw the images of some of a call's prompts, and give the last event."""
        request, parts = call.request, self._parts(call.parts_of(part))
        features, noise = request.features(self.conditioner, part).to(self.device), request.noise_of(part)
        for event in generate(request.plan, parts, features, noise, callback, request.entries[part]):
            last = event
            step()
        return last

    def _recipe(self, call: Call, drawn: Sequence[int], changed: str) -> dict[str, Any]:
        """How to draw the same again; drawn: the prompt of every image; changed: what a callback did, if anything."""
        unnamed = "" if call.named else "a generator or a part that has no name was used"
        return write_recipe(
            model=self.name,
            revision=self.revision,
            device=self.device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            **call.request.per_image(drawn),
            plan=call.request.plan,
            not_repeatable=changed or unnamed,
            **call.noted,
        )


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    features: str | Path | None = None,
    low_memory: bool = False,
    **elsewhere: Any,
) -> Pipeline:
    """Load a model: a bundled one by name, a checkpoint folder, a published one (``var-d16``, see docs/checkpoints.md),
    or a checkpoint on the hub (``org/repo``).

    revision: branch, tag or commit of what comes from the hub; device: auto, cpu, cuda, mps; dtype: auto, float32,
    bfloat16, float16; features: for models that read text, a file of prompts that were encoded before; low_memory:
    their text encoder leaves memory after encoding; elsewhere: what other libraries call these. Raises
    ``CheckpointError`` where there is no such model or it cannot be fetched.
    """
    if not isinstance(name, str | PathLike) or not str(name):
        raise InputError(f"the model's name is {quoted(name)}; expected a bundled model, a folder or org/name")
    asked: dict[str, Any] = {"device": device, "dtype": dtype}
    given = {key: value for key, value in asked.items() if value is not None and value != "auto"}
    given |= translated(given, elsewhere, LOAD, ["name", "revision", *asked, "features", "low_memory"])
    chosen_device, device_reason = choose_device(given.get("device", "auto"))
    chosen_dtype, dtype_reason = choose_dtype(given.get("dtype", "auto"), chosen_device)
    pipe = _assembled(model_folder(name, revision), name, chosen_device, chosen_dtype)
    pipe.device_reason, pipe.dtype_reason = device_reason, dtype_reason
    pipe.conditioner = pipe.conditioner.prepared(features, low_memory)
    pipe.conditioner.to(chosen_device, chosen_dtype)
    return pipe


from_pretrained = load
"""The name that fingers know from elsewhere."""


def _assembled(folder: Path, name: str | Path, device: torch.device, dtype: torch.dtype) -> Pipeline:
    config = read_config(folder)
    tokenizer = load_component(folder, "tokenizer", device, dtype)
    model = load_component(folder, "model", device, dtype)
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(model, NextScaleModel)
    return Pipeline(
        tokenizer.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        model,
        load_conditioner(folder, model.reads),
        name=config.get("name", folder.name) if folder == Path(name) else str(name),
        defaults=config.get("defaults", {}),
        card=read_card(folder),
        revision=revision(folder),
    )
