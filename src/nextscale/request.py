"""What a call asks for, resolved: one entry and one stream of noise per image."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nextscale.conditions.base import Conditioner, Entry, Features
from nextscale.errors import InputError, quoted, warn_user
from nextscale.plan import Plan
from nextscale.sampling import IndependentNoise, Noise, OfficialNoise
from nextscale.sizes import SHAPE
from nextscale.values import is_real, is_whole, listed, plain

Labels = Sequence[int | str | None] | int | str
MOST_IMAGES = 100_000
"""Images of one call; all of them are kept in memory until it ends."""
SAMPLING = (*SHAPE, "guidance_scale", "temperature", "top_k", "top_p", "smooth", "refine")


@dataclass(frozen=True)
class Request:
    """A call's prompts, each of which gives an image, or several where the plan has candidates.

    entries: one per prompt; seeds: one per prompt, None with official noise.
    """

    entries: list[Entry]
    seeds: list[int] | None
    noise: Noise
    plan: Plan

    def features(self, conditioner: Conditioner, part: slice = slice(None)) -> Features:
        """What the model is to draw of some of the prompts."""
        entries = self.entries[part]
        return conditioner.features(entries) if any(self.plan.branches) else Features(len(entries), {})

    def per_image(self, prompts: Sequence[int]) -> dict[str, list[Any]]:
        """The entries and seeds of images, whose prompts these are, as a recipe has them."""
        seeds = [None if self.seeds is None else self.seeds[i] for i in prompts]
        return {"entries": [self.entries[i] for i in prompts], "seeds": seeds}

    def noise_of(self, part: slice) -> Noise:
        """The noise of some of the prompts; official noise is one stream, whoever takes from it."""
        return self.noise if self.seeds is None else IndependentNoise(self.seeds[part])


def resolve(
    conditioner: Conditioner,
    plan: Plan,
    asked: Mapping[str, Any],
    num_images: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | None,
) -> Request:
    """Check a call's arguments; ``Pipeline.__call__`` says what they mean. asked: those that the conditioner reads.

    Warns of what was named and no branch sees. Raises ``InputError`` where what was named is not there, contradicts
    itself, or is of the wrong kind or number.
    """
    num_images = checked_count("num_images", num_images)
    named = conditioner.resolve(**asked) if any(plan.branches) else _nothing(asked)
    seen = {name for k in range(len(plan.rows)) for branch in plan.sees(k) for name in branch}
    for name in conditioner.told(named) if seen else ():
        if name not in seen:
            alone = "; a guidance scale other than 1 adds a branch" if len(plan.branches) == 1 else ""
            warn_user(f"no branch of the plan sees what was given as {name!r}, so it changes nothing{alone}")
    most = max(plan.alive)
    if num_images * len(named) * most > MOST_IMAGES:
        each = f", with up to {quoted(most)} candidates for each" if most > 1 else ""
        raise InputError(
            f"num_images is {quoted(num_images)} for {len(named)} labels or prompts{each}; a call draws at most "
            f"{MOST_IMAGES} images, so call several times"
        )
    entries = [entry for entry in named for _ in range(num_images)]
    seeds, noise = _noise(seed, generator, len(entries))
    return Request(entries, seeds, noise, plan)


def _nothing(asked: Mapping[str, Any]) -> list[Entry]:
    """The one entry of a plan that draws without a condition."""
    for name, value in asked.items():
        if value is not None:
            raise InputError(f"{name} is {quoted(value)}, but no branch of the plan sees anything; leave it out")
    return [{}]


def checked_count(name: str, given: Any) -> int:
    """A number of images. Raises ``InputError`` for what is none, or less than one."""
    count = plain(given)
    if not is_whole(count) or count < 1:
        raise InputError(f"{name} is {quoted(count)}; it must be a whole number of at least 1")
    return count


def sampling_numbers(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling arguments that were given, as Python's numbers. Raises ``InputError`` for one of another kind."""
    found = {name: plain(value) for name, value in sampling.items() if value is not None}
    for name, value in found.items():
        if name == "smooth" and not isinstance(value, bool):
            raise InputError(f"smooth is {quoted(value)}; it must be True or False")
        if name not in (*SHAPE, "smooth", "refine") and not is_real(value):
            raise InputError(f"{name} is {quoted(value)}; it must be a number")
    return found


def _noise(
    seed: int | Sequence[int] | None, generator: torch.Generator | None, count: int
) -> tuple[list[int] | None, Noise]:
    if generator is None:
        seeds = _seeds(seed, count)
        return seeds, IndependentNoise(seeds)
    if not isinstance(generator, torch.Generator):
        several = listed(generator)
        if several and all(isinstance(one, torch.Generator) for one in several):
            raise InputError(
                "generator is a list; one torch.Generator draws the noise of a whole call; for noise of its own per "
                f"image give seed={quoted([one.initial_seed() for one in several])}"
            )
        raise InputError(f"generator is {quoted(generator)}; expected a torch.Generator, or a number as seed=...")
    if seed is not None:
        raise InputError("seed and generator were both given; a generation has one source of noise")
    return None, OfficialNoise(generator)


def _seeds(seed: Any, count: int) -> list[int]:
    seed = secrets.randbelow(2**31) if seed is None else plain(seed)
    if is_whole(seed):
        return [seed + i for i in range(count)]
    seeds = listed(seed)
    if seeds is None or not all(map(is_whole, seeds)):
        raise InputError(f"seed is {quoted(seed)}; it must be a whole number, or a list of them")
    if len(seeds) != count:
        raise InputError(f"{len(seeds)} seeds were given for {count} images; give one seed, or one per image")
    return seeds
