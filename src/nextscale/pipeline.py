"""The object users meet: tokenizer, model and class vocabulary together, loaded by name or from a folder.

>>> import nextscale
>>> pipe = nextscale.load("emoji")
>>> result = pipe(class_labels=["animal-mammal"], num_images=4, seed=1)
>>> result.images[0].size
(64, 64)
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale import __version__
from nextscale.checkpoints.load import bundled_names, checkpoint_folder, load_vocabulary, revision
from nextscale.checkpoints.store import load_component, read_config, save_checkpoint
from nextscale.conditions.classes import ClassVocabulary
from nextscale.device import choose_device, choose_dtype
from nextscale.errors import CheckpointError, InputError, PlanError
from nextscale.generate import Callback, ScaleEvent, generate
from nextscale.models.base import NextScaleModel
from nextscale.pictures import fit
from nextscale.plan import Plan, default_plan
from nextscale.price import Price, price
from nextscale.sampling import IndependentNoise, Noise, OfficialNoise
from nextscale.tokenizers.base import Canvas, Tokenizer, draw

__all__ = [
    "GenerationResult",
    "Pipeline",
    "StreamEvent",
    "bundled_names",
    "checkpoint_folder",
    "decode",
    "fit",
    "load",
    "load_vocabulary",
    "revision",
    "to_pil",
]

OutputType = Literal["pil", "pt", "np", "latent"]
BATCH = 64
"""Images drawn at once; more are drawn in turns, which changes no image."""


@dataclass(frozen=True)
class GenerationResult:
    """images: PIL images, or what ``output_type`` asked for; tokens: one (B, h, w) map per scale, as accumulated;
    recipe: how to draw the same again (plain data; labels and seeds are lists, one entry per image); plan: what was
    carried out.
    """

    images: Any
    tokens: list[Tensor]
    recipe: dict[str, Any]
    plan: Plan

    def recipe_of(self, i: int) -> dict[str, Any]:
        """The recipe of image ``i`` alone."""
        lists = {"class_labels": "class_label", "seeds": "seed"}
        return {lists.get(key, key): value[i] if key in lists else value for key, value in self.recipe.items()}


@dataclass(frozen=True)
class StreamEvent:
    """One scale of a running generation. ``images()`` decodes the canvas so far; nothing is decoded unless asked
    for.
    """

    k: int
    scales: int
    event: ScaleEvent
    tokenizer: Tokenizer = field(repr=False)

    @property
    def tokens(self) -> Tensor:
        return self.event.tokens

    @property
    def canvas(self) -> Canvas:
        return self.event.canvas

    def images(self) -> list[Image.Image]:
        """The images as they stand after this scale."""
        return to_pil(decode(self.tokenizer, self.event.canvas))


class Pipeline:
    """Draws images of classes. Build one with :func:`load`; parts are public and may be exchanged.

    defaults: sampling settings used where a call names none (``guidance_scale``, ``temperature``, ``top_k``,
    ``top_p``).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: NextScaleModel,
        vocabulary: ClassVocabulary,
        *,
        name: str = "unnamed",
        defaults: Mapping[str, Any] | None = None,
        card: str = "",
        revision: str = "unsaved",
    ) -> None:
        self.tokenizer, self.model, self.vocabulary = tokenizer, model, vocabulary
        self.name, self.card, self.revision = name, card, revision
        self.defaults = dict(defaults or {})
        self.device_reason = self.dtype_reason = "as given"
        if tokenizer.schedule.sizes != model.schedule.sizes:
            raise CheckpointError(
                f"the tokenizer draws the scales {tokenizer.schedule} and the model {model.schedule}; they must agree"
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pipeline:
        """Move and cast both networks in place; returns the pipeline."""
        for module in (self.tokenizer, self.model):
            module.to(device=device, dtype=dtype)
        return self

    def plan(self, **sampling: Any) -> Plan:
        """The plan of a call with these sampling arguments; what is ``None`` or absent comes from ``defaults``."""
        unknown = sorted(set(sampling) - {"guidance_scale", "temperature", "top_k", "top_p", "smooth"})
        if unknown:
            raise PlanError(f"{unknown[0]!r} is no sampling argument of a plan")
        given = {name: value for name, value in sampling.items() if value is not None}
        return default_plan(self.model, **(self.defaults | given))

    def price(self, plan: Plan, images: int = 1) -> Price:
        """Predicted FLOPs and memory bytes of ``plan`` for ``images`` images in this pipeline's precision."""
        return price(plan, self._parts({}), images, self.dtype.itemsize)

    def __call__(
        self,
        class_labels: Sequence[int | str] | int | str | None = None,
        *,
        prompt: Sequence[str] | str | None = None,
        num_images: int = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        smooth: bool | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "pil",
        callback_on_scale_end: Callback | None = None,
        plan: Plan | None = None,
        parts: Mapping[str, Any] | None = None,
    ) -> GenerationResult:
        """Draw ``num_images`` images for every label or prompt.

        class_labels: ids or names; prompt: plain words, resolved to a class; guidance_scale: 1 is off; temperature:
        above 0; top_k, top_p: 0 is off; smooth: VAR's "more smooth" sampling; seed: the first image's seed (the next
        ones count up), or one per image; generator: official noise instead; plan: a whole plan, instead of the
        sampling arguments; parts: whatever such a plan names beside tokenizer and model. Raises ``InputError`` or
        ``PlanError`` for what cannot be done.
        """
        sampling = {
            "guidance_scale": guidance_scale,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "smooth": smooth,
        }
        if output_type not in ("pil", "pt", "np", "latent"):
            raise InputError(f"output_type is {output_type!r}; expected pil, pt, np or latent")
        request = self._request(class_labels, prompt, num_images, seed, generator, plan, sampling)
        maps, outputs = [], []
        for start in range(0, len(request.ids), BATCH):
            tokens, canvas = self._draw(request, slice(start, start + BATCH), callback_on_scale_end, parts or {})
            maps.append(tokens)
            outputs.append(canvas.latent if output_type == "latent" else decode(self.tokenizer, canvas))
        tokens = [torch.cat(maps_k) for maps_k in zip(*maps, strict=True)]
        return GenerationResult(
            _output(torch.cat(outputs), output_type), tokens, self._recipe(request, parts), request.plan
        )

    def stream(
        self,
        class_labels: Sequence[int | str] | int | str | None = None,
        *,
        prompt: Sequence[str] | str | None = None,
        num_images: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        plan: Plan | None = None,
        parts: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Iterator[StreamEvent]:
        """As a call, but yields after every scale; all images are drawn at once. Arguments as in ``__call__``."""
        request = self._request(class_labels, prompt, num_images, seed, generator, plan, sampling)
        features = torch.tensor(request.ids, device=self.device)
        events = generate(request.plan, self._parts(parts or {}), features, len(request.ids), request.noise)
        for event in events:
            yield StreamEvent(event.k, len(request.plan.rows), event, self.tokenizer)

    def reconstruct(self, image: Image.Image) -> list[Image.Image]:
        """Encode and decode a picture: one image per scale, drawn from the tokens of that and all coarser scales.

        The picture is put on white, cropped to a square around its centre and resized to the tokenizer's resolution.
        """
        with torch.inference_mode():
            latent = self.tokenizer.latent(self._pixels(image).to(self.device))
            tokens = self.tokenizer.encode(latent)
            canvases = [draw(self.tokenizer, tokens[: k + 1]) for k in range(len(tokens))]
            return [to_pil(decode(self.tokenizer, canvas))[0] for canvas in canvases]

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels of the images."""
        h, w = self.tokenizer.schedule.grid
        return h * self.tokenizer.stride, w * self.tokenizer.stride

    def _pixels(self, image: Image.Image) -> Tensor:
        array = np.asarray(fit(image, self.resolution), np.float32) / 127.5 - 1
        return torch.from_numpy(array).permute(2, 0, 1)[None].to(next(self.tokenizer.parameters()).dtype)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint folder that :func:`load` reads."""
        files = {"classes.json": json.dumps(self.vocabulary.to_dict(), ensure_ascii=False).encode()}
        if self.card:
            files["README.md"] = self.card.encode()
        components = {"tokenizer": self.tokenizer, "model": self.model}
        extras = {"name": self.name, "defaults": self.defaults}
        save_checkpoint(Path(folder), components, extras, files, dtype)

    def _parts(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "model": self.model} | dict(more)

    def _draw(
        self, request: _Request, part: slice, callback: Callback | None, parts: Mapping[str, Any]
    ) -> tuple[list[Tensor], Canvas]:
        """Draw some of a request's images: their token maps and the final canvas."""
        features = torch.tensor(request.ids[part], device=self.device)
        noise = request.noise
        if isinstance(noise, IndependentNoise):
            noise = IndependentNoise(noise.seeds[part])
        tokens: list[Tensor] = []
        canvas = None
        for event in generate(request.plan, self._parts(parts), features, len(features), noise, callback):
            tokens.append(event.tokens)
            canvas = event.canvas
        assert canvas is not None
        return tokens, canvas

    def _request(
        self,
        class_labels: Sequence[int | str] | int | str | None,
        prompt: Sequence[str] | str | None,
        num_images: int,
        seed: int | Sequence[int] | None,
        generator: torch.Generator | None,
        plan: Plan | None,
        sampling: Mapping[str, Any],
    ) -> _Request:
        """Check a call's arguments and resolve labels, seeds and plan."""
        if not isinstance(num_images, int) or num_images < 1:
            raise InputError(f"num_images is {num_images!r}; it must be a whole number of at least 1")
        for name, value in sampling.items():
            if value is not None and not isinstance(value, int | float):
                raise InputError(f"{name} is {value!r}; it must be a number")
        ids = [i for i in self._class_ids(class_labels, prompt) for _ in range(num_images)]
        set_by_hand = sorted(name for name, value in sampling.items() if value is not None)
        if plan is not None and set_by_hand:
            raise PlanError(f"a plan was given together with {set_by_hand[0]}; change the plan, or leave it out")
        plan = plan or self.plan(**sampling)
        if generator is not None:
            if seed is not None:
                raise InputError("seed and generator were both given; a generation has one source of noise")
            return _Request(ids, None, OfficialNoise(generator), plan)
        seeds = _seeds(seed, len(ids))
        return _Request(ids, seeds, IndependentNoise(seeds), plan)

    def _class_ids(
        self, class_labels: Sequence[int | str] | int | str | None, prompt: Sequence[str] | str | None
    ) -> list[int]:
        if (class_labels is None) == (prompt is None):
            raise InputError("give either class_labels or prompt: one of the two, not both and not neither")
        if prompt is not None:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else []
            if not prompts:
                raise InputError(f"prompt is {prompt!r}; give some words, or a list of them")
            return [self.vocabulary.find(words).class_id for words in prompts]
        labels = [class_labels] if isinstance(class_labels, int | str) else list(class_labels or ())
        if not labels:
            raise InputError("class_labels is empty; name at least one class")
        return self.vocabulary.ids(labels)

    def _recipe(self, request: _Request, parts: Mapping[str, Any] | None) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            "nextscale": __version__,
            "torch": torch.__version__,
            "model": self.name,
            "revision": self.revision,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "class_labels": [self.vocabulary.names[i] for i in request.ids],
            "seeds": request.seeds or [None] * len(request.ids),
            "plan": request.plan.to_dict(),
        }
        if request.seeds is None or parts:
            recipe["not_repeatable"] = "a generator or a part that has no name was used"
        return recipe


@dataclass(frozen=True)
class _Request:
    ids: list[int]
    seeds: list[int] | None
    noise: Noise
    plan: Plan


def load(name: str | Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> Pipeline:
    """Load a bundled model by name, or a checkpoint folder.

    device: auto, cpu, cuda, mps; dtype: auto, float32, bfloat16, float16. Raises ``CheckpointError`` where there is
    no such model.
    """
    folder = checkpoint_folder(name)
    chosen_device, device_reason = choose_device(device)
    chosen_dtype, dtype_reason = choose_dtype(dtype, chosen_device)
    config = read_config(folder)
    tokenizer = load_component(folder, "tokenizer", chosen_device, chosen_dtype)
    model = load_component(folder, "model", chosen_device, chosen_dtype)
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(model, NextScaleModel)
    card = folder / "README.md"
    pipe = Pipeline(
        tokenizer.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        model,
        load_vocabulary(folder, model.null_class),
        name=str(name) if str(name) in bundled_names() else config.get("name", folder.name),
        defaults=config.get("defaults", {}),
        card=card.read_text() if card.exists() else "",
        revision=revision(folder),
    )
    pipe.device_reason, pipe.dtype_reason = device_reason, dtype_reason
    return pipe


def decode(tokenizer: Tokenizer, canvas: Canvas) -> Tensor:
    """Canvas to images (B, 3, H, W) in [0, 1], float32.

    On a CPU in float32 images are decoded one by one: convolutions of a batch round differently from those of one
    image, and an image is promised to be the same to the last bit in any batch there.
    """
    weights = next(tokenizer.parameters())
    alone = weights.device.type == "cpu" and weights.dtype == torch.float32
    parts = canvas.latent.split(1 if alone else len(canvas.latent))
    with torch.inference_mode():
        images = torch.cat([tokenizer.decode(replace(canvas, latent=part)) for part in parts])
    return (images + 1) / 2


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1] to PIL images, rounded to 8 bits."""
    array = images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(pixels) for pixels in array]


def _output(batch: Tensor, output_type: OutputType) -> Any:
    if output_type == "pil":
        return to_pil(batch)
    return batch.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else batch


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        seed = secrets.randbelow(2**31)
    try:
        if not isinstance(seed, Sequence | np.ndarray):
            return [index(seed) + i for i in range(count)]
        seeds = [index(one) for one in seed]
    except TypeError:
        raise InputError(f"seed is {seed!r}; it must be a whole number, or a list of them") from None
    if len(seeds) != count:
        raise InputError(f"{len(seeds)} seeds were given for {count} images; give one seed, or one per image")
    return seeds
