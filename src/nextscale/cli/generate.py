"""``nextscale generate``: draw pictures, and write them with a grid, a scale strip and the recipe that repeats them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import (
    DEFAULT_MODEL,
    MODEL,
    AsJson,
    Device,
    Dtype,
    GuidanceScale,
    Revision,
    Smooth,
    Temperature,
    TopK,
    TopP,
    answer,
    answer_json,
    check_writable,
    given,
    load_pipeline,
    progress,
    remark,
    remarks,
)
from nextscale.errors import InputError, NextscaleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from nextscale.conditions.classes import ClassVocabulary
    from nextscale.generate import ScaleEvent
    from nextscale.pipeline import GenerationResult, Pipeline


def generate(
    words: Annotated[
        list[str] | None, typer.Argument(help="What to draw, in plain words; the class is found through them.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("-c", "--class", help="A class by name or number; may be given several times.")
    ] = None,
    styles: Annotated[
        list[str] | None, typer.Option("--style", help="A style; may be given several times, or 'all' for every one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    revision: Revision = None,
    num_images: Annotated[
        int | None, typer.Option("-n", "--num-images", help="Pictures per class and style, at least 1.")
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Seed of the first picture, the others count up; or one per picture: 3,1,4. Chosen if not given.",
        ),
    ] = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    smooth: Smooth = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")] = Path("out"),
    strip: Annotated[
        bool, typer.Option("--strip", help="Also write strip.png: every picture, scale by scale.")
    ] = False,
    grid: Annotated[
        bool | None, typer.Option(help="Write grid.png with all pictures (by default, if there are several).")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Repeat the recipe in this PNG, instead of classes and sampling options.")
    ] = None,
    list_classes: Annotated[
        bool, typer.Option("--list-classes", help="List the model's classes and styles and stop.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw new pictures of a class or of what plain words name."""
    sampling = given(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p, smooth=smooth)
    asked = Asked(" ".join(words or ()), classes or [], styles or [], num_images, _seeds(seed), sampling)
    if list_classes:
        _list_classes(model or DEFAULT_MODEL, revision, styles or [], as_json)
        return
    recipe = None if like is None else _recipe_to_repeat(like, asked)
    if recipe is None:
        asked.check()
    check_writable(out)
    if recipe is not None and dtype == "auto":
        dtype = recipe["dtype"]
    if recipe is not None and model is None:
        model = _model_of(recipe)
    pipe = load_pipeline(model or DEFAULT_MODEL, device, dtype, revision)
    start = time.perf_counter()
    arguments = asked.arguments(pipe) if recipe is None else _repeated(recipe, pipe)
    result, growth = _draw(pipe, arguments, strip)
    written = _write(result, growth, out, grid)
    seconds = time.perf_counter() - start
    if as_json:
        answer_json({**written, "recipe": result.recipe, "seconds": round(seconds, 3)})
    else:
        answer(_sentence(written, out, seconds))


@dataclass(frozen=True)
class Asked:
    """What a user asked for, before anything is loaded."""

    prompt: str
    classes: list[str]
    styles: list[str]
    num_images: int | None
    seed: int | list[int] | None
    sampling: dict[str, Any]

    def check(self) -> None:
        """Raises ``InputError`` unless exactly one of words and classes is given, and at least one picture wanted."""
        if self.num_images is not None and self.num_images < 1:
            raise InputError(f"--num-images is {self.num_images}; expected at least 1")
        if self.prompt and self.classes:
            raise InputError(f"words ({self.prompt!r}) and --class were both given; expected one of them")
        if not self.prompt and not self.classes:
            raise InputError(
                'nothing to draw was named; expected words, as in nextscale generate "grinning cat", or --class '
                "(--list-classes lists the classes)"
            )

    def options(self) -> list[str]:
        """The names of all that was asked for, as options."""
        named = {"class": self.classes, "style": self.styles}
        named |= given(num_images=self.num_images, seed=self.seed, **self.sampling)
        options = ["--" + name.replace("_", "-") for name, value in named.items() if value != []]
        return ["the words", *options] if self.prompt else options

    def arguments(self, pipe: Pipeline) -> dict[str, Any]:
        """The pipeline's arguments: every class in every style. Says which class plain words were taken for, and which
        style was taken where none was named.
        """
        if self.prompt:
            match = pipe.vocabulary.find(self.prompt)
            others = f"; other classes: {', '.join(match.alternatives)}" if match.alternatives else ""
            remark(f"{self.prompt!r} is drawn as {match.class_name} (found {match.reason}{others})")
            labels: list[int] = [match.class_id]
        else:
            labels = pipe.vocabulary.ids(self.classes)
        drawn, styles = _in_styles(labels, self.styles, pipe.vocabulary)
        counted = len(self.seed) // len(drawn) if isinstance(self.seed, list) else 1  # a list of seeds says how many
        return {
            "class_labels": [pipe.vocabulary.names[label] for label in drawn],
            "style": styles,
            "num_images": max(1, counted) if self.num_images is None else self.num_images,
            "seed": self.seed,
            **self.sampling,
        }


def _in_styles(labels: list[int], named: list[str], vocabulary: ClassVocabulary) -> tuple[list[int], list[str] | None]:
    """Every class in every style that was named, or in all that it was seen in; in the first if none was named, which
    is said.
    """
    if not vocabulary.styles:
        return [label for label in labels for _ in range(max(1, len(named)))], named * len(labels) or None
    drawn, styles, told = list[int](), list[str](), list[str]()
    for label in labels:
        seen = vocabulary.styles_of(label)
        which = "" if len(seen) == len(vocabulary.styles) else f"{vocabulary.names[label]} "
        told.append(f"{which}in the style {seen[0]}; other styles: {', '.join(seen[1:]) or 'none'}")
        wanted = seen if "all" in named else named or seen[:1]
        drawn += [label] * len(wanted)
        styles += wanted
    if len(vocabulary.styles) > 1 and not named:
        for line in dict.fromkeys(told):
            remark(line)
    return drawn, styles


def _seeds(text: str | None) -> int | list[int] | None:
    """One seed, or one per picture."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,20}( *, *\d{1,20})*", text.strip()):
        raise InputError(f"--seed is {text!r}; expected a whole number, or one per picture with commas, as in 3,1,4")
    seeds = [int(seed) for seed in text.split(",")]
    return seeds if len(seeds) > 1 else seeds[0]


def _recipe_to_repeat(picture: Path, asked: Asked) -> dict[str, Any]:
    """The checked recipe of a picture, with the lists that a grid has and a single picture has not."""
    from nextscale.pictures import read_recipe

    if asked.options():
        raise InputError(f"--like repeats a recipe as it is; leave {', '.join(asked.options())} out")
    recipe = read_recipe(picture)
    if "class_label" in recipe:
        recipe |= {"class_labels": [recipe["class_label"]], "seeds": [recipe.get("seed")]}
        recipe |= {"styles": [recipe["style"]]} if "style" in recipe else {}
    missing = [name for name in ("model", "dtype", "class_labels", "seeds", "plan") if name not in recipe]
    if missing:
        raise InputError(f"the recipe in {picture} has no {missing[0]!r}; expected one that nextscale generate wrote")
    for name in ("model", "dtype"):
        if not isinstance(recipe[name], str):
            raise InputError(f"the recipe in {picture} has the {name} {recipe[name]!r}; expected a name")
    if "not_repeatable" in recipe:
        raise InputError(f"the recipe in {picture} cannot be repeated: {recipe['not_repeatable']}")
    labels, seeds = recipe["class_labels"], recipe["seeds"]
    paired = isinstance(labels, list) and isinstance(seeds, list) and len(labels) == len(seeds) > 0
    if not paired or not all(type(seed) is int for seed in seeds):
        raise InputError(
            f"the recipe in {picture} has labels {labels!r} and seeds {seeds!r}; expected a whole number per label"
        )
    return recipe


def _model_of(recipe: dict[str, Any]) -> str:
    """The model that a recipe names, if that name alone finds it; one that was drawn from a folder may lie anywhere."""
    from nextscale.checkpoints.load import bundled_names
    from nextscale.checkpoints.published import published

    name = str(recipe["model"])
    if name in bundled_names() or published(name) or "/" in name or Path(name).is_dir():
        return name
    raise InputError(f"the picture was drawn by {name}, a checkpoint of somebody's own; name its folder with --model")


def _repeated(recipe: dict[str, Any], pipe: Pipeline) -> dict[str, Any]:
    from nextscale.plan import Plan

    try:
        plan = Plan.from_dict(recipe["plan"])
    except NextscaleError:
        raise
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"the plan in the recipe cannot be read ({error}); expected one that nextscale wrote"
        ) from error
    if recipe.get("revision") != pipe.revision:
        if recipe["model"] != pipe.name:
            raise InputError(
                f"the picture was drawn by {recipe['model']}, and this is {pipe.name}; expected the model that drew it"
            )
        remark(
            f"the picture was drawn by revision {recipe.get('revision')} of {recipe['model']}; "
            f"this is {pipe.revision}, so the new one will differ"
        )
    return {
        "class_labels": recipe["class_labels"],
        "style": recipe.get("styles"),
        "seed": recipe["seeds"],
        "plan": plan,
    }


def _list_classes(model: str, revision: str | None, styles: list[str], as_json: bool) -> None:
    """The classes, or those that one of the styles that were named has; then the styles, and what they lack."""
    import nextscale

    vocabulary = nextscale.load(model, revision=revision, device="cpu", dtype="float32").vocabulary
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


def _draw(
    pipe: Pipeline, arguments: dict[str, Any], strip: bool
) -> tuple[GenerationResult, list[list[Image.Image]] | None]:
    """The result and, for a strip, what every picture looked like after each scale."""
    growth: dict[int, list[Image.Image]] = {}
    plan = arguments.get("plan")
    scales = len((plan or pipe.model).schedule)
    with remarks(), progress("drawing", "scales") as step:
        result = pipe(**arguments, callback_on_scale_end=_watcher(pipe, scales, step, growth if strip else None))
    if not strip:
        return result, None
    return result, [list(row) for row in zip(*(growth[k] for k in sorted(growth)), strict=True)]


def _watcher(
    pipe: Pipeline, scales: int, step: Callable[[int, int], None], growth: dict[int, list[Image.Image]] | None
) -> Callable[[ScaleEvent], None]:
    """What happens after every scale: the bar moves, and the canvas is decoded if a strip was asked for."""
    from nextscale.pipeline import decode, to_pil

    def watch(event: ScaleEvent) -> None:
        step(event.k + 1, scales)
        if growth is not None:
            growth.setdefault(event.k, []).extend(to_pil(decode(pipe.tokenizer, event.canvas)))

    return watch


def _write(
    result: GenerationResult, growth: list[list[Image.Image]] | None, out: Path, grid: bool | None
) -> dict[str, Any]:
    """Save everything; returns the names of the files."""
    from nextscale.pictures import factor_for, save_png
    from nextscale.pictures import grid as lay_out
    from nextscale.pictures import strip as lay_out_scales

    written: dict[str, Any] = {"images": []}
    names = [_names(result.recipe_of(i)) for i in range(len(result.images))]
    for i, image in enumerate(result.images):
        recipe = result.recipe_of(i)
        stem = "-".join([_file_name(name) for name in names[i].values()] + [str(recipe["seed"])])
        path = save_png(image, out / f"{stem}.png", recipe)
        written["images"].append({"file": str(path), **names[i], "seed": recipe["seed"]})
    factor = factor_for(result.images[0])
    if grid or (grid is None and len(result.images) > 1):
        labels = [", ".join(named.values()) for named in names]
        page = lay_out(result.images, columns=_columns(names), scale=factor, labels=labels)
        written["grid"] = str(save_png(page, out / "grid.png", result.recipe))
    if growth is not None:
        labels = [f"{h}x{w}" for h, w in (row.size for row in result.plan.rows)]
        page = lay_out_scales(growth, labels, scale=factor)
        written["strip"] = str(save_png(page, out / "strip.png", result.recipe))
    return written


def _columns(names: list[dict[str, str]]) -> int | None:
    """Of the grid, such that pictures of one style stand below each other; None where there are not several."""
    styles = len({named.get("style") for named in names})
    return None if styles == 1 or len(names) % styles else styles * max(1, 10 // styles)


def _names(recipe: dict[str, Any]) -> dict[str, str]:
    """What a picture shows: its class and, where the model has styles, its style."""
    return {"class": recipe["class_label"]} | ({"style": recipe["style"]} if "style" in recipe else {})


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "class"


def _sentence(written: dict[str, Any], out: Path, seconds: float) -> str:
    images = written["images"]
    seeds = [image["seed"] for image in images]
    if len(images) == 1:
        parts = [f"{images[0]['file']}, seed {seeds[0]}"]
    else:
        counted = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
        told = f"{seeds[0]} to {seeds[-1]}" if counted else ", ".join(map(str, seeds))
        parts = [f"{len(images)} pictures in {out}, seeds {told}"]
    parts += [written[page] for page in ("grid", "strip") if page in written]
    return "; ".join(parts) + f" ({seconds:.1f} s)"
