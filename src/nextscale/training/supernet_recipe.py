"""What a recipe says where a class model is taught to draw with some of its blocks, see ``objectives/supernet.py``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nextscale.errors import InputError
from nextscale.methods.variant import check_depth, evenly_spaced, nested
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import ClassTransformerRecipe
from nextscale.training.objectives.lesson import Lesson
from nextscale.training.objectives.supernet import ShareOfSubnets, SupernetLesson
from nextscale.training.sections import Section, Share


class SupernetSection(Section):
    """scales: how many of the first scales run all blocks; depths: numbers of blocks that run after them, one of which
    a step draws, all alike; select: which blocks, see ``nextscale.methods.variant``; first: share of the steps that
    leave blocks out in the beginning; joint, alone: shares of the run from which on it grows, and is 1.
    """

    scales: int = Field(ge=1, le=1024)
    depths: tuple[int, ...] = Field(min_length=1)
    select: Literal["formula", "nested"] = "formula"
    first: Share = 0.2
    joint: Share = 1 / 6
    alone: Share = 2 / 3

    @model_validator(mode="after")
    def _in_order(self) -> SupernetSection:
        if self.joint > self.alone:
            raise ValueError(f"joint is {self.joint} and alone {self.alone}; alone must be the later one")
        return self


class SupernetRecipe(ClassTransformerRecipe):
    """How to train a class-conditional transformer, or to tune one further as a supernet."""

    supernet: SupernetSection | None = None

    @property
    def origin_needed(self) -> str | None:
        return None if self.supernet is None else "the model that is to draw with fewer blocks"

    def sizes(self, tokenizer: Tokenizer, classes: int) -> dict[str, Any]:
        sizes, told = super().sizes(tokenizer, classes), self.supernet
        return sizes if told is None else sizes | {"full_scales": told.scales, "subnets": self._subnets(tokenizer)}

    def new_lesson(self, tokenizer: Tokenizer) -> Lesson:
        lesson, told = super().new_lesson(tokenizer), self.supernet
        if told is None:
            return lesson
        share = ShareOfSubnets(told.first, told.joint, told.alone)
        return SupernetLesson(lesson, self.model.depth, told.scales, self._subnets(tokenizer), share)

    def _subnets(self, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
        """The blocks of every depth. Raises ``InputError`` where no scale would be drawn with fewer."""
        told, depth, scales = self.supernet, self.model.depth, len(tokenizer.schedule)
        assert told is not None
        if told.scales >= scales:
            raise InputError(
                f"supernet.scales is {told.scales}; expected fewer than {scales}, the scales of the tokenizer"
            )
        depths = [check_depth(one, depth) for one in told.depths]
        if len(set(depths)) < len(depths) or depth in depths:
            raise InputError(
                f"supernet.depths is {list(depths)}; expected different ones below {depth}, the model's, which is "
                "taught beside them"
            )
        return tuple(nested(depth, depths) if told.select == "nested" else (evenly_spaced(depth, d) for d in depths))
