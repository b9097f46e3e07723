"""``nextscale edit``: paint a part of a picture anew, and write what comes of it with the recipe that repeats it."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.asked import Asked, check_number, only, seeds_of
from nextscale.cli.chosen import loaded, recipe_to_repeat
from nextscale.cli.console import (
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
    remarks,
)
from nextscale.cli.outputs import Overwrite, Pictures
from nextscale.errors import InputError

if TYPE_CHECKING:
    from nextscale.pipeline import GenerationResult

NO_PICTURES = ("seed", "box", "start_scale")
"""Arguments that may be lists, and do not say how many pictures there are."""
RefineImage = Annotated[
    bool,
    typer.Option(
        "--refine-image", help="Keep the picture's coarse maps and draw finer ones, at twice its size or --size."
    ),
]
StartScale = Annotated[
    str | None,
    typer.Option(metavar="N", help="The last map that is the picture's, as in 8 or 8x12, for --refine-image."),
]
Rule = Annotated[str | None, typer.Option(help="Which tokens are kept: cover (the default), official or canvases.")]
Blank = Annotated[
    bool | None,
    typer.Option(
        "--blank/--no-blank", help="Hide what is painted anew from the model (by default with words or a class)."
    ),
]
Paste = Annotated[
    bool | None, typer.Option("--paste/--no-paste", help="Leave every other pixel as it is (the default).")
]


def edit(
    picture: Annotated[Path, typer.Argument(help="The picture file, of any size.")],
    words: Annotated[
        list[str] | None, typer.Argument(help="What to paint, in plain words, as for generate; left out: anything.")
    ] = None,
    classes: Classes = None,
    styles: Annotated[list[str] | None, typer.Option("--style", help="A style; may be given several times.")] = None,
    negative_prompt: NegativePrompt = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="A picture of the same size, white where it is painted anew.")
    ] = None,
    box: Annotated[str | None, typer.Option(metavar="X,Y,W,H", help="A box that is painted anew, in pixels.")] = None,
    outpaint: Annotated[
        str | None,
        typer.Option(metavar="SIDE=N[,...]", help="Pixels to add and paint, as in left=16,right=16,top=8,bottom=8."),
    ] = None,
    refine_image: RefineImage = False,
    start_scale: StartScale = None,
    rule: Rule = None,
    blank: Blank = None,
    paste: Paste = None,
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
    out: Out = Path("out"),
    overwrite: Overwrite = False,
    like: Annotated[
        Path | None, typer.Option(help="Repeat the recipe in this PNG on the same picture; a mask is named again.")
    ] = None,
    features: Features = None,
    low_memory: LowMemory = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Paint a part of a picture anew, a mask, a box, or new margins; or refine it, which enlarges a small one."""
    sampling = given(ratio=ratio, pixels=pixels, size=size, scales=scales, steps=steps, guidance_scale=guidance_scale)
    sampling |= given(temperature=temperature, top_k=top_k, top_p=top_p, smooth=smooth, refine=refine)
    asked = Asked(words or [], classes or [], styles or [], only(negative_prompt), num_images, seeds_of(seed), sampling)
    where = given(mask_image=mask, box=_box(box), outpaint=_sides(outpaint), refine_image=refine_image)
    how = {"rule": rule, "blank": blank, "paste": paste, "start_scale": start_scale}
    how = {name: value for name, value in how.items() if value is not None}
    recipe = None if like is None else recipe_to_repeat(like, asked)
    if recipe is None:
        asked.check(needed=False)
    elif more := sorted((where | how).keys() - {"mask_image"}):
        raise InputError(f"--like repeats a recipe as it is; leave {_option(more[0])} out")
    _check_region(picture, where, repeats=recipe is not None)
    place = Pictures(out, overwrite)
    place.check()
    pipe = loaded(asked, recipe, model, device, dtype, revision, **given(features=features, low_memory=low_memory))
    start = time.perf_counter()
    with remarks():
        arguments = {} if recipe is None else pipe.arguments_of(recipe, picture, mask)
        arguments = arguments or {**asked.shown(pipe), **sampling, **where, **how, "image": picture}
        check_number(_count(arguments))
        place.check_count(_count(arguments))
        pipe.set_progress_bar_config(disable=False, desc="painting")
        result = pipe.edit(**arguments).enlarged(1 if recipe is None else recipe.enlarge)
    _tell(_write(result, place, picture), result, time.perf_counter() - start, as_json)
    place.tell_moved()


def _box(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r" *[0-9]{1,9}( *, *[0-9]{1,9}){3} *", text):
        raise InputError(f"--box is {text!r}; expected x,y,width,height in whole pixels, as in 16,16,32,32")
    return [int(number) for number in text.split(",")]


def _sides(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    pairs = [re.fullmatch(r" *(left|right|top|bottom) *= *([0-9]{1,9}) *", part) for part in text.split(",")]
    sides = {pair[1]: int(pair[2]) for pair in pairs if pair}
    if len(sides) < len(pairs):
        raise InputError(
            f"--outpaint is {text!r}; expected sides and whole pixels, each side once, as in left=16,right=16"
        )
    return sides


def _option(name: str) -> str:
    """What an argument of an edit is called on the command line."""
    return "--mask" if name == "mask_image" else "--" + name.replace("_", "-")


def _check_region(picture: Path, where: dict[str, Any], repeats: bool) -> None:
    """Before a model is loaded: the picture is one, and what is painted lies in it. repeats: a recipe says the rest."""
    from nextscale.region import region_of

    if len(where) != 1 and not repeats:
        named = list(map(_option, where))
        found = f"{' and '.join(named)} were given" if named else "nothing says where to paint"
        raise InputError(f"{found}; expected one of --mask, --box, --outpaint and --refine-image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the picture is edited
        region_of(picture, **(where or {"box": (0, 0, 1, 1)}))


def _count(arguments: dict[str, Any]) -> int:
    """The pictures of an edit."""
    each = arguments["plan"].alive[-1] if "plan" in arguments else 1
    asked = (value for name, value in arguments.items() if name not in NO_PICTURES and isinstance(value, list))
    return max(map(len, asked), default=1) * arguments.get("num_images", 1) * each


def _write(result: GenerationResult, place: Pictures, picture: Path) -> list[dict[str, Any]]:
    """Save every picture; returns the names and what they show."""
    from nextscale.recipe import shown
    from nextscale.results import file_name, file_stem

    written = []
    for i, image in enumerate(result.images):
        recipe = result.recipe_of(i)
        path = place.save(image, f"{file_name(picture.stem, 'picture')}-{file_stem(recipe)}", recipe)
        written.append({"file": str(path), **shown(recipe), "seed": recipe["seed"]})
    return written


def _tell(written: list[dict[str, Any]], result: GenerationResult, seconds: float, as_json: bool) -> None:
    if as_json:
        answer_json({"images": written, "recipe": result.recipe, "seconds": round(seconds, 3)})
    else:
        answer("\n".join(f"{one['file']}, seed {one['seed']}" for one in written))
