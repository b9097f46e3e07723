"""``nextscale generate``: draw pictures, and write them with a grid, a scale strip and the recipe that repeats them."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.asked import Asked, check_number, only, prompts_in, seeds_of
from nextscale.cli.chosen import loaded, recipe_to_repeat
from nextscale.cli.console import (
    DEFAULT_MODEL,
    MODEL,
    AsJson,
    Classes,
    Device,
    Dtype,
    Features,
    GuidanceScale,
    LowMemory,
    NegativePrompt,
    NumImages,
    Out,
    PictureSize,
    Pixels,
    Ratio,
    Refine,
    Revision,
    Scales,
    Seed,
    Smooth,
    Steps,
    Temperature,
    TopK,
    TopP,
    answer,
    answer_json,
    given,
    progress,
    remarks,
)
from nextscale.cli.methods import CalibrationFile, Methods, handed_over, with_methods
from nextscale.cli.outputs import Overwrite, Pictures, open_viewer
from nextscale.cli.pages import Pages, Wished
from nextscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from nextscale.pipeline import GenerationResult, Pipeline
    from nextscale.state import ScaleEvent

Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="What to draw, in plain words: a red heart. Models of classes draw the class that they find. Several "
        'prompts: "a red heart" "a cat".'
    ),
]
PromptFile = Annotated[
    Path | None, typer.Option("--prompts", metavar="FILE", help="A text file of prompts, one a line, instead of words.")
]
Styles = Annotated[
    list[str] | None,
    typer.Option("--style", help="A style that the model knows; may be given several times, or 'all' for every one."),
]
Enlarge = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Write pictures N times as wide and high, smoothly enlarged.")
]
Strip = Annotated[bool, typer.Option("--strip", help="Also write strip.png: all pictures, scale by scale.")]
Grid = Annotated[bool | None, typer.Option(help="Write grid.png with all pictures (by default, if there are several).")]
Animate = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write the picture growing scale by scale, or the grid: out.webp, out.gif."),
]
Open = Annotated[bool, typer.Option("--open", help="Open what was drawn with the system's viewer.")]
Like = Annotated[Path | None, typer.Option(help="Repeat the recipe in this PNG, instead of prompts and options.")]
ListClasses = Annotated[bool, typer.Option("--list-classes", help="List the model's classes and styles and stop.")]


def generate(
    words: Words = None,
    prompts: PromptFile = None,
    classes: Classes = None,
    styles: Styles = None,
    negative_prompt: NegativePrompt = None,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    revision: Revision = None,
    num_images: NumImages = None,
    seed: Seed = None,
    ratio: Ratio = None,
    pixels: Pixels = None,
    size: PictureSize = None,
    scales: Scales = None,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    smooth: Smooth = False,
    refine: Refine = None,
    methods: Methods = None,
    calibration: CalibrationFile = None,
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    enlarge: Enlarge = None,
    grid: Grid = None,
    strip: Strip = False,
    animate: Animate = None,
    opened: Open = False,
    like: Like = None,
    list_classes: ListClasses = False,
    features: Features = None,
    low_memory: LowMemory = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw new pictures of what a text says or plain words name, or of a class."""
    sampling = given(ratio=ratio, pixels=pixels, size=size, scales=scales, steps=steps, guidance_scale=guidance_scale)
    sampling |= given(temperature=temperature, top_k=top_k, top_p=top_p, smooth=smooth, refine=refine)
    if list_classes:
        _list_classes(DEFAULT_MODEL if model is None else model, revision, styles or [], as_json)
        return
    lines = None if prompts is None else prompts_in(prompts)
    asked = Asked(
        words or [], classes or [], styles or [], only(negative_prompt), num_images, seeds_of(seed), sampling, lines
    )
    recipe = None if like is None else recipe_to_repeat(like, asked, methods)
    if recipe is None:
        asked.check()
    elif enlarge is None:
        enlarge = recipe.enlarge
    place, wished = Pictures(out, overwrite), Wished(grid, strip, animate, enlarge)
    place.check()
    wished.check(overwrite)
    with remarks():
        parts = handed_over(methods, calibration, repeats=recipe is not None)
    pipe = loaded(asked, recipe, model, device, dtype, revision, **given(features=features, low_memory=low_memory))
    start = time.perf_counter()
    with remarks():
        if recipe is None:
            arguments = {**asked.arguments(pipe), **given(parts=parts or None)}
            arguments["plan"] = with_methods(arguments["plan"], methods, parts | {"model": pipe.model})
        else:
            arguments = pipe.arguments_of(recipe, parts=parts)
    check_number(_count(arguments))
    pages = Pages.of(pipe, arguments["plan"], _count(arguments), wished)
    place.check_count(pages.count, bool(pages.grid or pages.strip))
    result, growth = _draw(pipe, arguments, pages)
    written = pages.write(result, growth, place)
    seconds = time.perf_counter() - start
    place.tell_moved()
    if as_json:
        answer_json({**written, "recipe": result.recipe, "seconds": round(seconds, 3)})
    else:
        answer(_sentence(written, out, seconds))
    if opened:
        open_viewer(_result(written, out))


def _list_classes(model: str, revision: str | None, styles: list[str], as_json: bool) -> None:
    """The classes, or those that one of the styles that were named has; then the styles, and what they lack."""
    import nextscale
    from nextscale.conditions.classes import ClassVocabulary

    pipe = nextscale.load(model, revision=revision, device="cpu", dtype="float32")
    if not isinstance(pipe.conditioner, ClassVocabulary):
        raise InputError(f"{pipe.name} reads {pipe.conditioner.about}, so it has no classes to list")
    vocabulary = pipe.conditioner
    wanted = [style for style in styles if style != "all"]
    vocabulary.style_ids(wanted)
    listed = {
        i: name
        for i, name in enumerate(vocabulary.names)
        if not wanted or not set(wanted).isdisjoint(vocabulary.styles_of(i))
    }
    lacking = {
        style: [name for name in vocabulary.names if (style, name) in vocabulary.missing]
        for style in wanted or vocabulary.styles
    }
    lacking = {style: names for style, names in lacking.items() if names}
    if as_json:
        answer_json({"classes": list(listed.values()), "styles": list(vocabulary.styles), "missing": lacking})
        return
    answer("\n".join(f"{i:4}  {name}" for i, name in listed.items()))
    if vocabulary.styles:
        answer(f"styles: {', '.join(vocabulary.styles)}")
    for style, names in lacking.items():
        answer(f"not in {style}: {', '.join(names)}")


def _draw(pipe: Pipeline, arguments: dict[str, Any], pages: Pages) -> tuple[GenerationResult, list[list[Image.Image]]]:
    """The result, drawn in turns, and where pages grow what every picture looked like after each scale."""
    from nextscale.pipeline import BATCH
    from nextscale.recipe import PER_IMAGE

    growth: dict[int, list[Image.Image]] = {}
    results: list[GenerationResult] = []
    lists, rest = _one_by_one(arguments)
    prompts = len(lists["seed"])
    size = max(1, BATCH * prompts // pages.count)
    many = prompts > size
    with remarks(), progress("drawing", "pictures" if many else "scales", estimate=many) as step:
        for first in range(0, prompts, size):
            part = {**rest, **{name: values[first : first + size] for name, values in lists.items()}}
            if len(lists) == 1:  # a plan that draws without a condition
                part["num_images"] = len(part["seed"])
            before = pages.count * first // prompts
            watch = _watcher(pipe, pages, before if many else None, step, growth)
            results.append(pipe(**part, callback_on_scale_end=watch))
    recipe = results[0].recipe | ({"enlarge": pages.enlarge} if pages.enlarge > 1 else {})
    for name in PER_IMAGE.keys() & recipe:
        recipe[name] = [value for result in results for value in result.recipe[name]]
    drawn = replace(results[0], images=[image for result in results for image in result.images], recipe=recipe)
    rows = [list(row) for row in zip(*(growth[k] for k in sorted(growth)), strict=True)]
    return drawn, rows


def _per_prompt(arguments: dict[str, Any]) -> dict[str, list[Any]]:
    """The arguments that have one value per prompt; none where a plan draws without a condition."""
    return {name: values for name, values in arguments.items() if isinstance(values, list) and name != "seed"}


def _count(arguments: dict[str, Any]) -> int:
    """The pictures of a call."""
    prompts = max(map(len, _per_prompt(arguments).values()), default=1) * arguments.get("num_images", 1)
    return prompts * arguments["plan"].alive[-1]


def _one_by_one(arguments: dict[str, Any]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The arguments with one value, and one seed, for every picture that is asked for, and the others."""
    number, lists = arguments.get("num_images", 1), _per_prompt(arguments)
    rest = {name: value for name, value in arguments.items() if name not in ("num_images", "seed", *lists)}
    lists = {name: [one for one in values for _ in range(number)] for name, values in lists.items()}
    seed = secrets.randbelow(2**31) if arguments["seed"] is None else arguments["seed"]
    count = max(map(len, lists.values()), default=number)
    lists["seed"] = seeds = [seed + i for i in range(count)] if isinstance(seed, int) else seed
    if len(seeds) != count:
        raise InputError(f"{len(seeds)} seeds were given for {count} images; give one seed, or one per image")
    return lists, rest


def _watcher(
    pipe: Pipeline,
    pages: Pages,
    before: int | None,
    step: Callable[[float, float], None],
    growth: dict[int, list[Image.Image]],
) -> Callable[[ScaleEvent], None]:
    """What happens after every scale: the bar moves, by pictures where there are some ``before`` these, and the canvas
    is decoded for pages that grow.
    """
    from nextscale.pipeline import decode, to_pil

    def watch(event: ScaleEvent) -> None:
        done = event.k + 1
        if before is None:
            step(done, pages.scales)
        else:
            step(before + len(event.tokens) * done / pages.scales, pages.count)
        if pages.grow:
            growth.setdefault(event.k, []).extend(to_pil(decode(pipe.tokenizer, event.canvas)))

    return watch


def _sentence(written: dict[str, Any], out: Path, seconds: float) -> str:
    images = written["images"]
    seeds = [image["seed"] for image in images]
    if len(images) == 1:
        parts = [f"{images[0]['file']}, seed {seeds[0]}"]
    else:
        counted = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
        told = f"{seeds[0]} to {seeds[-1]}" if counted else ", ".join(map(str, seeds))
        parts = [f"{len(images)} pictures in {out}, seeds {told}"]
    parts += [written[page] for page in ("grid", "strip", "animation") if page in written]
    return "; ".join(parts) + f" ({seconds:.1f} s)"


def _result(written: dict[str, Any], out: Path) -> Path:
    """The one thing that shows all that was drawn."""
    if page := written.get("animation") or written.get("grid"):
        return Path(page)
    return Path(written["images"][0]["file"]) if len(written["images"]) == 1 else out
