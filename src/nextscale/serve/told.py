"""What a server says of its models and plans, as plain data: models, suggestions, prices and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nextscale.conditions.base import UNCONDITIONAL
from nextscale.conditions.classes import ClassVocabulary
from nextscale.price import table
from nextscale.recipe import Recipe, shown
from nextscale.serve.front import MOST_PICTURES, Asked, Front
from nextscale.serve.schema import size_text
from nextscale.serve.service import Service

READS = {"class": ("class_labels", "prompt", "style"), "text": ("prompt", "negative_prompt", "style")}
"""The arguments of a call that say what to draw, by the kind that a model reads."""


def model_told(service: Service, front: Front) -> dict[str, Any]:
    """What ``GET /v1/models`` says of one."""
    pipe = front.pipe
    shapes, lists, conditioner = pipe.shapes, pipe.conditioner.lists(), pipe.conditioner
    ready = service.devices[0].ready
    reads = [name for kind in pipe.model.reads for name in READS.get(kind, ())]
    return {
        "id": front.id,
        "object": "model",
        "created": 0,
        "owned_by": "nextscale",
        "default": front is service.front(None),
        "kind": conditioner.sort,
        "about": conditioner.about,
        "styles": lists.get("styles", []),
        "classes": len(lists.get("classes", [])),
        "example": example_of(front),
        "size": size_text(shapes.size(shapes.default)),
        "sizes": [
            {"ratio": ratio, "sizes": [size_text(size) for size in sizes]} for ratio, sizes in shapes.sizes.items()
        ],
        "free_size": front.free,
        "stride": shapes.stride,
        "scales": [list(size) for size in shapes.default],
        "defaults": pipe.defaults,
        "reads": [name for name in reads if name != "style" or lists.get("styles")],
        "revision": pipe.revision,
        "device": ready.device if ready else None,
        "dtype": ready.dtype if ready else None,
        "parameters": sum(p.numel() for part in (pipe.tokenizer, pipe.model) for p in part.parameters()),
    }


def example_of(front: Front) -> str:
    """A prompt that draws something."""
    conditioner = front.pipe.conditioner
    if isinstance(conditioner, ClassVocabulary):
        return conditioner.things[0].name if conditioner.things else conditioner.names[0]
    entry = next(iter(conditioner.samples(1)), None)
    return (
        conditioner.example.partition("=")[2].strip("'\"")
        if entry is None
        else ", ".join(shown({"entry": entry}).values())
    )


def suggestions(front: Front, text: str, limit: int) -> list[dict[str, Any]]:
    """What a model of classes knows that fits a text, best first: what begins with it, then a word that does, then what
    holds it, then what a keyword finds.
    """
    vocabulary = front.pipe.conditioner
    if not isinstance(vocabulary, ClassVocabulary):
        return []
    wanted, ranked = text.strip().casefold(), list[tuple[int, int, str, str, int]]()
    named = [(name, "class", i, ()) for i, name in enumerate(vocabulary.names)]
    things = [(thing.name, "name", thing.class_id, thing.keywords) for thing in vocabulary.things]
    for name, kind, class_id, keywords in [*named, *things] if wanted else named:
        rank = _rank(name.casefold(), keywords, wanted)
        if rank is not None:
            ranked.append((rank, len(name), name, kind, class_id))
    best = sorted(ranked)[:limit] if wanted else ranked[:limit]
    return [
        {"text": name, "kind": kind, "class": vocabulary.names[i], "styles": vocabulary.styles_of(i)}
        for _, _, name, kind, i in best
    ]


def _rank(name: str, keywords: tuple[str, ...], wanted: str) -> int | None:
    if name.startswith(wanted):
        return 0
    if any(word.startswith(wanted) for word in name.replace("-", " ").split()):
        return 1
    if wanted in name:
        return 2
    return 3 if any(word.casefold().startswith(wanted) for word in keywords) else None


def plan_told(service: Service, asked: Asked, images: int) -> dict[str, Any]:
    """What ``POST /v1/plan`` says. Raises ``Refused`` where the plan is too large."""
    front, plan = service.fronts[asked.model], asked.plan
    batch, price = service.limit(asked, min(images, MOST_PICTURES)), front.price(plan, images)
    priced = front.pipe.price(plan, images)
    lines = [
        {"row": line.name, "flops": line.flops, "memory": line.memory, "share": line.flops / priced.flops}
        for line in priced.lines
    ]
    return {
        "object": "plan",
        "model": front.id,
        "images": images,
        "size": size_text(front.pipe.tokenizer.pixels(plan.schedule)),
        "scales": [list(row.size) for row in plan.rows],
        "plan": plan.to_dict(),
        "rows": lines,
        "table": table(plan, priced),
        **price,
        "batch": batch,
        "seconds": service.seconds(asked, images),
        "entries": asked.entries,
        "seeds": asked.seeds,
        "warnings": asked.warnings,
    }


def recipe_told(service: Service, data: Mapping[str, Any]) -> dict[str, Any]:
    """What ``POST /v1/recipe`` says of a recipe. Raises ``Refused`` for a model that is not served."""
    model = data.get("model")
    front = service.front(model if isinstance(model, str) else None)
    recipe = front.recipe(data)
    asked = front.planned(recipe)
    return {
        **plan_told(service, asked, len(recipe.seeds)),
        "object": "recipe",
        "recipe": dict(data),
        "request": _request(front, recipe),
        "edit": None if recipe.edit is None else dict(recipe.edit),
        "pictures": len(recipe.seeds),
    }


def _request(front: Front, recipe: Recipe) -> dict[str, Any]:
    """The body of a generation that draws what a recipe says: all of its pictures where they show the same, else the
    first. A plan that keeps what was edited keeps nothing here.
    """
    plan, entries = recipe.plan.with_column(keep=None), recipe.entries
    count = len(entries) if all(entry == entries[0] for entry in entries) else 1
    asked = front.pipe.conditioner.arguments(entries[:1]) if any(plan.branches) else {}
    found = {name: value for name, (value,) in asked.items() if value is not None}
    if "class_labels" in asked:
        found.setdefault("class_labels", UNCONDITIONAL)
    return {"model": front.id, **found, "n": count, "seed": recipe.seeds[:count], "plan": plan.to_dict()}
