"""Training a residual tokenizer: reconstruction, perceptual, adversarial and VQ losses, and a codebook kept alive.

See ``adversarial.py`` and ``codebook.py`` for the last two.

Shape letters: ``B`` batch, ``h w`` one token map, ``L`` tokens of an image, ``V`` codes. Images are (B, 3, H, W) in
[-1, 1].
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nextscale.checkpoints.store import save_checkpoint
from nextscale.data.images import ImageData
from nextscale.measures.tokenizer import codebook_use, psnr
from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.training.adversarial import Adversary
from nextscale.training.codebook import RESCUED, CodeUse, CollapseWatch, draw_codebook, pick, residuals
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.images import mirror, picture, recolour, shift, to_signed
from nextscale.training.order import SampleNoise
from nextscale.training.parallel import processes, sum_over
from nextscale.training.perceptual import load_perceptual
from nextscale.training.tokenizer_recipe import TokenizerRecipe


class TokenizerObjective:
    """See the module's docstring.

    warnings: sentences about a collapse since they were last cleared; whoever trains shows and clears them.
    """

    def __init__(self, recipe: TokenizerRecipe, train: ImageData, heldout: ImageData, device: torch.device) -> None:
        self.recipe, self.train, self.heldout, self.device = recipe, train, heldout, device
        self.images, losses, judge = len(train), recipe.loss, recipe.loss.adversarial
        total = recipe.schedule.total(self.images, recipe.run.batch)
        self.module = ResidualTokenizer(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.decoder_only:
            self.module.requires_grad_(False)
            self.module.post_quant_conv.requires_grad_(True)
            self.module.decoder.requires_grad_(True)
        looks = losses.perceptual.weight or (judge.weight and judge.network == "features")
        self.perceptual = load_perceptual(losses.perceptual, recipe.data.resolution, device) if looks else None
        layers = self.perceptual.layers if self.perceptual else None
        self.adversary = Adversary(judge, recipe.optim, total, device, layers) if judge.weight else None
        self.codes = CodeUse(recipe.model.codes, self.module.schedule, device)
        self.watch = CollapseWatch(recipe.model.codes, len(self.module.schedule), recipe.codebook)
        self.perceptual_from, self.last_restart = losses.perceptual.start * total, recipe.codebook.restart_until * total
        # l2: of pictures in [-1, 1], if all is drawn in the middle grey; vq: latents have no scale of their own, but
        # where a tokenizer learns it is near 0.1.
        self.ignorance = {"l2": 1.0, "vq": 20.0}
        starts = [self.perceptual_from] if self.perceptual and losses.perceptual.weight else []
        starts += [self.adversary.first] if self.adversary else []
        self.stages = sorted({0, *(math.ceil(start) for start in starts if start < total)})
        self.warnings: list[str] = []
        self._seen: list[tuple[range, Tensor]] = []  # places in the global batch and images of this step's parts

    def begin(self, generator: torch.Generator) -> None:
        settings = self.recipe.codebook
        count = min(settings.start_images, self.images)
        if not count:
            return
        picked = torch.randperm(self.images, generator=generator)[:count]
        with torch.no_grad():
            latents = [self.module.latent(self._images(part)) for part in picked.split(self.recipe.run.batch)]
        draw_codebook(self.module, torch.cat(latents), generator, kmeans=settings.kmeans)

    def loss(self, model: nn.Module, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
        data, weights, step = self.recipe.data, self.recipe.loss, noise.step
        images = to_signed(self.train.read(rows, noise.uniform(2)), self.device)
        images = mirror(images, data.flip, noise)
        images = recolour(shift(images, data.shift, noise), data.recolour, noise)
        reconstruction, vq, tokens = model(images)
        reconstruction = reconstruction.float()
        l2, l1 = F.mse_loss(reconstruction, images), F.l1_loss(reconstruction, images)
        parts = {"l2": l2.detach(), "l1": l1.detach(), "vq": vq.detach()}
        loss = weights.l2 * l2 + weights.l1 * l1
        if self.perceptual and weights.perceptual.weight and step >= self.perceptual_from:
            distance = self.perceptual.distance(reconstruction, images).mean()
            parts["perceptual"] = distance.detach()
            loss = loss + weights.perceptual.weight * distance
        if self.adversary and self.adversary.weight(step):
            last, share = self.module.decoder.conv_out.weight, len(rows) * processes() / noise.batch
            adversarial, more = self.adversary.loss(images, reconstruction, loss, last, step, share)
            parts, loss = parts | more, loss + adversarial
        self.codes.count(tokens)
        self._seen.append((range(noise.batch)[noise.part], images))
        return loss + weights.vq * vq, parts

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        if self.adversary and self.adversary.weight(self.codes.steps):
            self.adversary.update(optimizer.param_groups[0]["lr"])
        self.codes.end_step()
        settings, step, metrics = self.recipe.codebook, self.codes.steps, Metrics()
        if step % self.recipe.run.log_every == 0:
            metrics |= self._health()
        restarts = settings.restart_below and not self.recipe.decoder_only
        if restarts and step % settings.restart_every == 0 and step <= self.last_restart:
            metrics["restarted"] = self._restart(optimizer, average, generator)
        self._seen.clear()
        return metrics

    def _health(self) -> Metrics:
        """Use and perplexity of the codebook of late, over all scales and at each; warns of a collapse."""
        used, perplexity = self.codes.measure()
        for row in self.watch.note(perplexity, self.recipe.run.log_every):
            self.warnings.append(self._warning(row, float(perplexity[row])))
        names = ["", *(f"_{k}" for k in range(len(self.module.schedule)))]
        columns = {"codes_used": used, "perplexity": perplexity}
        numbers = {name + row: n for name, c in columns.items() for row, n in zip(names, c.tolist(), strict=True)}
        return numbers | {"collapsed": float(self.watch.warned.sum())}

    def _warning(self, row: int, perplexity: float) -> str:
        settings = self.recipe.codebook
        h, w = self.module.schedule[max(0, row - 1)]
        what = f"the codebook has collapsed at the scale {h}x{w}" if row else "the codebook has collapsed"
        if self.recipe.decoder_only:
            mended = "nothing mends it, since only the decoder is trained"
        elif not settings.restart_below:
            mended = "nothing mends it, since codebook.restart_below is 0"
        elif self.codes.steps > self.last_restart:
            mended = f"codes are no longer moved after {settings.restart_until:.0%} of the run (codebook.restart_until)"
        else:
            mended = "rarely used codes are moved onto the data to mend it"
        return f"{what}: it lives on about {perplexity:.1f} of {self.module.choices} codes; {mended}"

    @torch.no_grad()
    def _restart(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> int:
        """Move rarely used codes onto residuals of this step's images; returns how many.

        Where scales have collapsed, some are moved onto theirs, which would be a small part of all otherwise.
        """
        assert isinstance(average, ResidualTokenizer)
        images, schedule = self.recipe.run.batch, self.module.schedule
        scale_of = torch.arange(len(schedule)).repeat_interleave(torch.tensor(schedule.lengths))
        collapsed = torch.tensor([row - 1 for row in self.watch.to_mend() if row], dtype=torch.int64)
        everywhere, theirs = (places.nonzero()[:, 0] for places in (scale_of >= 0, torch.isin(scale_of, collapsed)))
        rescued = min(self.module.choices // RESCUED, images * len(theirs))
        codes = self.codes.to_move(self.recipe.codebook.restart_below, rescued)
        if not len(codes):
            return 0
        chosen = pick(images, theirs, rescued, generator), pick(images, everywhere, len(codes) - rescued, generator)
        vectors = self._residuals_at(*torch.cat(chosen).unbind(1))
        self.module.quantizer.codebook.weight[codes] = vectors
        average.quantizer.codebook.weight[codes] = vectors
        for moment in optimizer.state[self.module.quantizer.codebook.weight].values():
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

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Metrics:
        assert isinstance(module, ResidualTokenizer)
        decibels, distances, maps = [], [], []
        for part in torch.arange(len(self.heldout)).split(64):
            images = to_signed(self.heldout.read(part), self.device)
            reconstruction, _, tokens = module(images)
            reconstruction = reconstruction.float().clamp(-1, 1)
            decibels.append(psnr((reconstruction + 1) / 2, (images + 1) / 2))
            if self.perceptual:
                distances.append(self.perceptual.distance(reconstruction, images))
            maps.append([t.flatten() for t in tokens])
        scales = [torch.cat(scale) for scale in zip(*maps, strict=True)]
        use, perplexity = codebook_use(scales, module.choices)
        metrics = {"psnr": float(torch.cat(decibels).mean()), "codes_used": use, "perplexity": perplexity}
        if distances:
            metrics["perceptual"] = float(torch.cat(distances).mean())
        return metrics | {f"perplexity_{k}": codebook_use([t], module.choices)[1] for k, t in enumerate(scales)}

    def merit(self, held_out: Metrics) -> float:
        return held_out["psnr"]

    @torch.no_grad()
    def sample(self, module: nn.Module) -> Image.Image:
        """Originals above their reconstructions, two rows of pairs."""
        count = min(24, len(self.heldout))
        images = to_signed(self.heldout.read(torch.linspace(0, len(self.heldout) - 1, count).long()), self.device)
        pairs = zip(images.split(12), module(images)[0].float().split(12), strict=True)
        return picture([row for pair in pairs for row in pair])

    def state(self) -> dict[str, Tensor]:
        codes, watch = self.codes, self.watch
        own = {"share": codes.share, "frequency": codes.frequency, "low": watch.low, "warned": watch.warned}
        adversary = self.adversary.state() if self.adversary else {}
        return own | adversary | {"steps": torch.tensor(codes.steps)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.codes.resume(state["share"], state["frequency"], int(state["steps"]))
        self.watch.low, self.watch.warned = state["low"], state["warned"]
        self._seen.clear()
        self.warnings.clear()
        if self.adversary:
            self.adversary.load_state(state)

    def export(self, module: nn.Module, folder: Path, card: str) -> None:
        save_checkpoint(folder, {"tokenizer": module}, files={"README.md": card.encode()}, overwrite=True)

    def _images(self, rows: Tensor) -> Tensor:
        """Training images (B, 3, H, W), the centre of each, on the device."""
        return to_signed(self.train.read(rows), self.device)
