"""What is trained: the contract the trainer knows, and the tokenizer's objective.

Shape letters: ``B`` batch, ``h w`` one token map, ``V`` codes. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from nextscale.data.folder import ImageData
from nextscale.checkpoints.store import save_checkpoint
from nextscale.tokenizers.residual import ResidualTokenizer, codebook_use
from nextscale.training.codebook import DeadCodes, draw_codebook
from nextscale.training.recipe import TokenizerRecipe

Metrics = dict[str, float]


class Objective(Protocol):
    """Everything the trainer asks. Modules are passed in, because the average of the weights is validated, too."""

    module: nn.Module
    images: int

    def begin(self, generator: torch.Generator) -> None:
        """Called once, before step 0 of a fresh run (not when resuming)."""

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss () of the training images ``rows`` and further numbers to log."""

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        """Called after every update; may mend the weights."""

    def validate(self, module: nn.Module) -> Metrics:
        """Numbers on the held-out images."""

    def sample(self, module: nn.Module) -> Image.Image | None:
        """A picture that shows what ``module`` can do, at fixed seeds; None if it cannot be drawn yet."""

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the weights that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write ``module`` so that the library can load it."""


class TokenizerObjective:
    """Reconstruction and VQ loss of a residual tokenizer; codes nobody uses are moved (see ``codebook.py``)."""

    def __init__(self, recipe: TokenizerRecipe, train: ImageData, heldout: ImageData, device: torch.device) -> None:
        self.recipe, self.train, self.heldout, self.device = recipe, train, heldout, device
        self.images = len(train.images)
        self.module = ResidualTokenizer(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.codes = DeadCodes(recipe.model.codes, recipe.codebook.restart_after, device)
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
        images = mirror(self._images(rows), self.recipe.data.flip, generator)
        reconstruction, vq, tokens = model(images)
        reconstruction, weights = reconstruction.float(), self.recipe.loss
        l2, l1 = F.mse_loss(reconstruction, images), F.l1_loss(reconstruction, images)
        self.codes.count(tokens)
        self._last = images
        return weights.l2 * l2 + weights.l1 * l1 + weights.vq * vq, {"l2": l2.detach(), "l1": l1.detach(), "vq": vq.detach()}

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        dead = self.codes.dead()
        if not len(dead):
            return {"restarted": 0}
        assert self._last is not None and isinstance(average, ResidualTokenizer)
        with torch.no_grad():
            latent = self.module.latent(self._last)
        vectors = self.codes.restart(self.module.quantizer, dead, latent, generator)
        average.quantizer.codebook.weight[dead] = vectors
        for moment in optimizer.state[self.module.quantizer.codebook.weight].values():
            if moment.ndim == 2:
                moment[dead] = 0
        return {"restarted": len(dead)}

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
        return {"unused": self.codes.unused}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.codes.unused = state["unused"].to(self.device)

    def export(self, module: nn.Module, folder: Path) -> None:
        save_checkpoint(folder, {"tokenizer": module})

    def _images(self, rows: Tensor, data: ImageData | None = None) -> Tensor:
        return to_signed((data or self.train).images[rows], self.device)


def to_signed(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float32 in [-1, 1], channels last."""
    return images.to(device).to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def mirror(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability ``share``."""
    turned = torch.rand(len(images), generator=generator) < share
    return torch.where(turned.to(images.device)[:, None, None, None], images.flip(-1), images)


def picture(rows: list[Tensor]) -> Image.Image:
    """Rows of images (B, 3, H, W) in [-1, 1] as one picture; short rows are filled with white."""
    width = max(len(row) for row in rows)
    blank = [F.pad(row, (0, 0, 0, 0, 0, 0, 0, width - len(row)), value=1.0) for row in rows]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in blank], dim=1)
    return Image.fromarray(((grid.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy().astype(np.uint8))
