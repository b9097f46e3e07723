"""Training a bitwise tokenizer: the losses of every tokenizer, commitment and entropy of its bits, and a watch on them.

See ``bits.py``.

Shape letters: ``B`` batch, ``K`` scales, ``h w`` one token map, ``D`` bits of a token. Images are (B, 3, H, W) in
[-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nextscale.data.images import ImageData
from nextscale.measures.tokenizer import bit_balance, bit_shares
from nextscale.tokenizers.bitwise import BitwiseTokenizer
from nextscale.training.bits import ENTROPY_UNIT, BitsSection, BitWatch, commitment, entropies
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.tokenizer import TokenizerObjective, by_scale
from nextscale.training.order import SampleNoise
from nextscale.training.tokenizer_recipe import TokenizerRecipe


class BitwiseObjective(TokenizerObjective):
    """See the module's docstring. weights: of commitment and entropy; the other settings are of the recipe's bits."""

    module: BitwiseTokenizer

    def __init__(
        self,
        recipe: TokenizerRecipe,
        train: ImageData,
        heldout: ImageData,
        device: torch.device,
        settings: BitsSection,
        weights: tuple[float, float],
    ) -> None:
        super().__init__(recipe, train, heldout, device, settings.collapsed_after)
        self.settings, self.weights = settings, weights
        self.bits = BitWatch(self.module.draws, self.module.schedule, device)

    def begin(self, generator: torch.Generator) -> None:
        """Nothing: bits have no codebook."""

    def quantized(
        self, model: nn.Module, images: Tensor, noise: SampleNoise
    ) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        reconstruction, units, tokens = model(images, keep=self._kept(noise))
        self.bits.count(tokens)
        committed = commitment(units, [self.module.codes(one) for one in tokens])
        own, batch = entropies(units, self.module.config.bits)
        loss = self.weights[0] * committed + self.weights[1] * (own - batch) / ENTROPY_UNIT
        parts = {"commitment": committed, "token_entropy": own, "batch_entropy": batch}
        return [reconstruction], loss, {name: number.detach() for name, number in parts.items()}

    def _kept(self, noise: SampleNoise) -> Tensor | None:
        """Which scales of each image are drawn, (B, K) bool; None for all."""
        if not self.settings.scale_dropout:
            return None
        keep = noise.uniform(len(self.module.schedule)) >= self.settings.scale_dropout
        keep[:, -1] = True
        return keep.to(self.device)

    def tend(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        self.bits.end_step()
        return self.health()

    def use(self) -> tuple[dict[str, Tensor], Tensor]:
        entropy, stuck = self.bits.measure()
        return {"bit_entropy": entropy, "stuck_bits": stuck}, stuck > self.settings.collapsed_above

    def warning(self, row: int, use: Mapping[str, Tensor]) -> str:
        h, w = self.module.schedule[max(0, row - 1)]
        what = f"the bits have collapsed at the scale {h}x{w}" if row else "the bits have collapsed"
        advice = "only the decoder is trained" if self.recipe.decoder_only else "loss.entropy is what evens them out"
        return f"{what}: {use['stuck_bits'][row]:.0%} of them have one value nearly always; {advice}"

    def use_of(self, maps: Sequence[Tensor]) -> Metrics:
        entropy, stuck = bit_balance(bit_shares(maps))
        return by_scale({"bit_entropy": entropy, "stuck_bits": stuck})

    def state(self) -> dict[str, Tensor]:
        return {"frequency": self.bits.frequency} | super().state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self.bits.resume(state["frequency"])
