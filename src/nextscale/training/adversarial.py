"""The adversarial loss: a discriminator learns to tell reconstructions from originals, the tokenizer to deceive it.

Hinge loss for the discriminator, minus its mean verdict for the tokenizer (VQGAN, arXiv 2012.09841, section 3.1; the
numbers are those of FoundationVision/vaex, with which VAR's authors train tokenizers). No batch statistics anywhere:
an image is judged alike in any batch and in any process.

Shape letters: ``B`` batch, ``C`` channels, ``h w`` places. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.training.parallel import average_gradients, mean_over
from nextscale.training.runfolder import optimizer_tensors, restore_optimizer
from nextscale.training.sections import OptimSection
from nextscale.training.tokenizer_recipe import AdversarialLoss

ADAPTIVE_RANGE = (0.015, 1e4)
"""Bounds of the adaptive weight (vaex)."""
WIDEST = 8
"""Largest channel count of a patch discriminator, as a multiple of its width (VQGAN)."""

Layers = Callable[[Tensor], list[Tensor]]
"""Images to the layers (B, C, h, w) of a frozen network."""


class PatchDiscriminator(nn.Module):
    """Judges every patch of the image: ``layers`` halvings, then two convolutions without.

    As in VQGAN, but with group in place of batch normalisation.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        widths = [width * min(2**i, WIDEST) for i in range(layers + 1)]
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            blocks += [nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1), nn.GroupNorm(8, widths[i]), nn.LeakyReLU(0.2)]
        self.stack = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map of verdicts (B, 1, h, w), float32: positive for originals."""
        return [self.stack(images).float()]


class FeatureDiscriminator(nn.Module):
    """Judges what a frozen network sees: a small convolutional head on each of its layers, at every place.

    channels: of each layer; the network itself is neither trained nor saved with the heads.
    """

    def __init__(self, layers: Layers, channels: list[int], width: int) -> None:
        super().__init__()
        self._layers = layers
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, width, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, padding=1)
            )
            for c in channels
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map of verdicts (B, 1, h, w), float32, per layer."""
        features = zip(self.heads, self._layers(images), strict=True)
        return [head(F.normalize(x, dim=1) * x.shape[1] ** 0.5).float() for head, x in features]


class Adversary:
    """The discriminator of a run, its optimiser, and what the tokenizer loses by it.

    total: steps of the run; layers: of the frozen network, which ``features`` looks at.
    """

    def __init__(
        self, settings: AdversarialLoss, optim: OptimSection, total: int, device: torch.device, layers: Layers | None
    ) -> None:
        self.settings, self.optim = settings, optim
        self.first, self.warm = settings.start * total, settings.warmup * total
        if settings.network == "features":
            assert layers is not None
            with torch.no_grad():
                channels = [x.shape[1] for x in layers(torch.zeros(1, 3, 64, 64, device=device))]
            module: nn.Module = FeatureDiscriminator(layers, channels, settings.width)
        else:
            module = PatchDiscriminator(settings.width, settings.layers)
        self.module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
        )

    def weight(self, step: int) -> float:
        """Weight of the loss in ``step``: 0 before it starts, rising over the warm-up."""
        if step < self.first:
            return 0.0
        return self.settings.weight * min(1.0, (step - self.first + 1) / max(1.0, self.warm))

    def loss(
        self, images: Tensor, reconstruction: Tensor, rest: Tensor, last: Tensor, step: int, share: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The tokenizer's loss (), weighted, and numbers to log; the discriminator's gradients wait for ``update``.

        rest: the other losses () of the reconstruction; last: weights of the decoder's last layer; share: what these
        images count for in the mean over the step, among the parts that this process sees.
        """
        self.module.requires_grad_(False)
        adversarial = -_mean(self.module(reconstruction))
        self.module.requires_grad_(True)
        originals, others = self.module(images), self.module(reconstruction.detach())
        hinge = (_mean([F.relu(1 - v) for v in originals]) + _mean([F.relu(1 + v) for v in others])) / 2
        with torch.autocast(images.device.type, enabled=False):
            (share * hinge).backward()
            adaptive = adaptive_weight(rest, adversarial, last) if self.settings.adaptive else adversarial.new_ones(())
        parts = {"adversarial": adversarial.detach(), "discriminator": hinge.detach(), "adaptive": adaptive}
        return self.weight(step) * adaptive * adversarial, parts

    def update(self, rate: float) -> None:
        """One step of the discriminator, at ``lr_ratio`` times the tokenizer's learning ``rate``."""
        average_gradients(self.module)
        nn.utils.clip_grad_norm_(self.module.parameters(), self.optim.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.settings.lr_ratio
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments, for a checkpoint."""
        moments = optimizer_tensors(self.optimizer, self.module)
        return _prefixed("discriminator.", self.module.state_dict()) | _prefixed("discriminator_optimizer.", moments)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave; gradients that wait for ``update`` are forgotten."""
        self.optimizer.zero_grad(set_to_none=True)
        self.module.load_state_dict(_without("discriminator.", state))
        restore_optimizer(self.optimizer, self.module, _without("discriminator_optimizer.", state))


def adaptive_weight(rest: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Ratio () of the norms that the gradients of two losses have at the weights ``last`` (VQGAN, equation 7).

    Of the gradients over all processes; bounded by ``ADAPTIVE_RANGE``. Where gradients are accumulated, every part of
    the batch has its own.
    """
    gradients = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rest, adversarial))
    wanted, found = (mean_over(gradient).norm() for gradient in gradients)
    return (wanted / (found + 1e-6)).clamp(*ADAPTIVE_RANGE)


def _mean(maps: list[Tensor]) -> Tensor:
    """Mean over maps of the mean over each."""
    return torch.stack([m.mean() for m in maps]).mean()


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: t for key, t in tensors.items()}


def _without(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
