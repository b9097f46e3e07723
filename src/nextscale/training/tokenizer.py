"""Training a residual tokenizer: reconstruction and VQ loss, and a codebook that is kept alive (see ``codebook.py``).

Shape letters: ``B`` batch, ``h w`` one token map, ``V`` codes. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nextscale.checkpoints.store import save_checkpoint
from nextscale.data.images import ImageData
from nextscale.tokenizers.residual import ResidualTokenizer, codebook_use
from nextscale.training.codebook import CodeUse, draw_codebook
from nextscale.training.objectives import Metrics, mirror, picture, recolour, shift, to_signed
from nextscale.training.tokenizer_recipe import TokenizerRecipe


class TokenizerObjective:
    """Reconstruction and VQ loss of a residual tokenizer; codes nobody uses are moved (see ``codebook.py``)."""

    def __init__(self, recipe: TokenizerRecipe, train: ImageData, heldout: ImageData, device: torch.device) -> None:
        self.recipe, self.train, self.heldout, self.device = recipe, train, heldout, device
        self.images = len(train.images)
        self.module = ResidualTokenizer(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.codes = CodeUse(recipe.model.codes, device)
        self.last_restart = recipe.codebook.restart_until * recipe.schedule.total(self.images, recipe.run.batch)
        self._last: Tensor | None = None

    def begin(self, generator: torch.Generator) -> None:
        count = min(self.recipe.codebook.start_images, self.images)
        if not count:
            return
        picked = torch.randperm(self.images, generator=generator)[:count]
        with torch.no_grad():
            latents = [self.module.latent(self._images(part)) for part in picked.split(self.recipe.run.batch)]
        draw_codebook(self.module.quantizer, torch.cat(latents), generator)

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        data = self.recipe.data
        images = mirror(self._images(rows), data.flip, generator)
        images = recolour(shift(images, data.shift, generator), data.recolour, generator)
        reconstruction, vq, tokens = model(images)
        reconstruction, weights = reconstruction.float(), self.recipe.loss
        l2, l1 = F.mse_loss(reconstruction, images), F.l1_loss(reconstruction, images)
        self.codes.count(tokens)
        self._last = images
        parts = {"l2": l2.detach(), "l1": l1.detach(), "vq": vq.detach()}
        return weights.l2 * l2 + weights.l1 * l1 + weights.vq * vq, parts

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        settings, step = self.recipe.codebook, int(self.codes.steps)
        if step % settings.restart_every or step > self.last_restart:
            return {}
        rare = self.codes.rare(settings.restart_below)
        if not len(rare):
            return {"restarted": 0}
        assert self._last is not None
        assert isinstance(average, ResidualTokenizer)
        with torch.no_grad():
            latent = self.module.latent(self._last)
        vectors = self.codes.restart(self.module.quantizer, rare, latent, generator)
        average.quantizer.codebook.weight[rare] = vectors
        for moment in optimizer.state[self.module.quantizer.codebook.weight].values():
            if moment.ndim == 2:
                moment[rare] = 0
        return {"restarted": len(rare)}

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Metrics:
        assert isinstance(module, ResidualTokenizer)
        psnr, maps = [], []
        for part in torch.arange(len(self.heldout.images)).split(64):
            images = self._images(part, self.heldout)
            reconstruction, _, tokens = module(images)
            error = (reconstruction.float().clamp(-1, 1) - images).square().mean((1, 2, 3)) / 4
            psnr.append(-10 * error.log10())
            maps.append([t.flatten() for t in tokens])
        scales = [torch.cat(scale) for scale in zip(*maps, strict=True)]
        use, perplexity = codebook_use(scales, module.code_count)
        metrics = {"psnr": float(torch.cat(psnr).mean()), "codes_used": use, "perplexity": perplexity}
        return metrics | {f"perplexity_{k}": codebook_use([t], module.code_count)[1] for k, t in enumerate(scales)}

    @torch.no_grad()
    def sample(self, module: nn.Module) -> Image.Image:
        """Originals above their reconstructions, two rows of pairs."""
        count = min(24, len(self.heldout.images))
        picked = torch.linspace(0, len(self.heldout.images) - 1, count).long()
        images = self._images(picked, self.heldout)
        pairs = zip(images.split(12), module(images)[0].float().split(12), strict=True)
        return picture([row for pair in pairs for row in pair])

    def state(self) -> dict[str, Tensor]:
        return {"share": self.codes.share, "steps": self.codes.steps}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.codes.share, self.codes.steps = state["share"].to(self.device), state["steps"].to(self.device)

    def export(self, module: nn.Module, folder: Path) -> None:
        save_checkpoint(folder, {"tokenizer": module})

    def _images(self, rows: Tensor, data: ImageData | None = None) -> Tensor:
        return to_signed((data or self.train).images[rows], self.device)
