"""Training a tokenizer with a codebook: the losses of every tokenizer, and a codebook kept alive.

See ``training/codebook.py`` for the last. A subclass, a file each, says how it quantises and what it loses by that.

Shape letters: ``B`` batch, ``h w`` one token map, ``L`` tokens of an image, ``V`` codes. Images are (B, 3, H, W) in
[-1, 1].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nextscale.data.images import ImageData
from nextscale.measures.tokenizer import codebook_use
from nextscale.tokenizers.base import CodebookTokenizer
from nextscale.training.codebook import RESCUED, CodebookSection, CodeUse, draw_codebook, pick, residuals
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.images import to_signed
from nextscale.training.objectives.tokenizer import TokenizerObjective
from nextscale.training.order import SampleNoise
from nextscale.training.parallel import sum_over
from nextscale.training.tokenizer_recipe import TokenizerRecipe


class CodebookObjective(TokenizerObjective):
    """See the module's docstring. settings: of the codebook; vq: weight of the VQ loss."""

    module: CodebookTokenizer

    def __init__(
        self,
        recipe: TokenizerRecipe,
        train: ImageData,
        heldout: ImageData,
        device: torch.device,
        settings: CodebookSection,
        vq: float,
    ) -> None:
        super().__init__(recipe, train, heldout, device, settings.collapsed_after)
        self.settings, self.vq = settings, vq
        self.codes = CodeUse(self.module.choices, self.module.schedule, device)
        self.limits = settings.limits(self.module.choices, len(self.module.schedule))
        self.last_restart = settings.restart_until * recipe.schedule.total(self.images, recipe.run.batch)
        self._seen: list[tuple[range, Tensor]] = []  # places in the global batch and images of this step's parts

    def begin(self, generator: torch.Generator) -> None:
        count = min(self.settings.start_images, self.images)
        if not count:
            return
        picked = torch.randperm(self.images, generator=generator)[:count]
        with torch.no_grad():
            latents = [self.module.latent(self._images(part)) for part in picked.split(self.recipe.run.batch)]
        draw_codebook(self.module, torch.cat(latents), generator, kmeans=self.settings.kmeans)

    def quantized(
        self, model: nn.Module, images: Tensor, noise: SampleNoise
    ) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        pictures, vq, tokens = self.passed(model, images, noise)
        self.codes.count(tokens)
        self._seen.append((range(noise.batch)[noise.part], images))
        return pictures, self.vq * vq, {"vq": vq.detach()}

    @abstractmethod
    def passed(self, model: nn.Module, images: Tensor, noise: SampleNoise) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Reconstructions as ``quantized`` has them, the VQ loss (), and one token map of every scale."""

    def tend(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        self.codes.end_step()
        settings, metrics = self.settings, self.health()
        restarts = settings.restart_below and not self.recipe.decoder_only
        if restarts and self.steps % settings.restart_every == 0 and self.steps <= self.last_restart:
            metrics["restarted"] = self._restart(optimizer, average, generator)
        self._seen.clear()
        return metrics

    def use(self) -> tuple[dict[str, Tensor], Tensor]:
        used, perplexity = self.codes.measure()
        return {"codes_used": used, "perplexity": perplexity}, perplexity < self.limits

    def warning(self, row: int, use: Mapping[str, Tensor]) -> str:
        h, w = self.module.schedule[max(0, row - 1)]
        what = f"the codebook has collapsed at the scale {h}x{w}" if row else "the codebook has collapsed"
        if self.recipe.decoder_only:
            mended = "nothing mends it, since only the decoder is trained"
        elif not self.settings.restart_below:
            mended = "nothing mends it, since codebook.restart_below is 0"
        elif self.steps > self.last_restart:
            until = f"{self.settings.restart_until:.0%} of the run (codebook.restart_until)"
            mended = f"codes are no longer moved after {until}"
        else:
            mended = "rarely used codes are moved onto the data to mend it"
        return f"{what}: it lives on about {use['perplexity'][row]:.1f} of {self.module.choices} codes; {mended}"

    @torch.no_grad()
    def _restart(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> int:
        """Move rarely used codes onto residuals of this step's images; returns how many.

        Where scales have collapsed, some are moved onto theirs, which would be a small part of all otherwise.
        """
        assert isinstance(average, CodebookTokenizer)
        images, schedule = self.recipe.run.batch, self.module.schedule
        scale_of = torch.arange(len(schedule)).repeat_interleave(torch.tensor(schedule.lengths))
        collapsed = torch.tensor([row - 1 for row in self.watch.to_mend() if row], dtype=torch.int64)
        everywhere, theirs = (places.nonzero()[:, 0] for places in (scale_of >= 0, torch.isin(scale_of, collapsed)))
        rescued = min(self.module.choices // RESCUED, images * len(theirs))
        codes = self.codes.to_move(self.settings.restart_below, rescued)
        if not len(codes):
            return 0
        chosen = pick(images, theirs, rescued, generator), pick(images, everywhere, len(codes) - rescued, generator)
        vectors = self._residuals_at(*torch.cat(chosen).unbind(1))
        self.module.vectors[codes] = vectors
        average.vectors[codes] = vectors
        for moment in optimizer.state[self.module.vectors].values():
            if moment.ndim == 2:
                moment[codes] = 0
        self.codes.moved(codes)
        return len(codes)

    def _residuals_at(self, images: Tensor, places: Tensor) -> Tensor:
        """Residuals (n, c) at ``places`` (n,) among the L of ``images`` (n,), which count through the global batch."""
        found = torch.zeros(len(images), self.module.code_dim, device=self.device)
        for part, pixels in self._seen:
            vectors, _ = residuals(self.module, self.module.latent(pixels))
            mine = (images >= part.start) & (images < part.stop)
            found[mine] = vectors[images[mine] - part.start, places[mine]]
        return sum_over(found)

    def use_of(self, maps: Sequence[Tensor]) -> Metrics:
        use, perplexity = codebook_use(maps, self.module.choices)
        scales = {f"perplexity_{k}": codebook_use([t], self.module.choices)[1] for k, t in enumerate(maps)}
        return {"codes_used": use, "perplexity": perplexity} | scales

    def state(self) -> dict[str, Tensor]:
        return {"share": self.codes.share, "frequency": self.codes.frequency} | super().state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self.codes.resume(state["share"], state["frequency"])
        self._seen.clear()

    def _images(self, rows: Tensor) -> Tensor:
        """Training images (B, 3, H, W), the centre of each, on the device."""
        return to_signed(self.train.read(rows), self.device)
