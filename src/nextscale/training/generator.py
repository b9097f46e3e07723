"""Training a class-conditional generator (VAR, M-VAR) on the tokens of a frozen tokenizer.

Loss: cross-entropy, the mean over all tokens of all scales. Every image is encoded once, before training.
Shape letters: ``N`` images of the set, ``B`` batch, ``h w`` one token map, ``L`` tokens of all scales, ``V`` codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.images import ImageData
from nextscale.evaluation.generator import score_generator
from nextscale.evaluation.tokenizer import encode_all
from nextscale.models.class_transformer import ClassTransformer
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.pipeline import Pipeline
from nextscale.tokenizers.base import Tokenizer, inputs
from nextscale.training.generator_recipe import MVARRecipe, VARRecipe
from nextscale.training.objectives import Metrics, picture

Maps = list[Tensor]
"""One token map (N, h, w) per scale."""

SAMPLES, SAMPLES_PER_ROW = 24, 12


class GeneratorObjective:
    """See the module's docstring. ``tokenizer`` is frozen and belongs to the exported pipeline."""

    def __init__(
        self,
        recipe: VARRecipe | MVARRecipe,
        train: ImageData,
        heldout: ImageData,
        tokenizer: Tokenizer,
        vocabulary: ClassVocabulary,
        device: torch.device,
        name: str = "unnamed",
    ) -> None:
        self.name = name
        self.recipe, self.tokenizer, self.vocabulary, self.device = recipe, tokenizer.to(device), vocabulary, device
        self.images = len(train)
        self.module = new_model(recipe, tokenizer, len(vocabulary)).to(device)
        self.plain = self._encode(train.images)
        self.mirrored = self._encode(train.images.flip(-1)) if recipe.data.flip else self.plain
        self.labels = train.labels.to(device)
        mirrors = [recipe.data.flip * (name not in recipe.data.unmirrored) for name in vocabulary.names]
        self.flip = torch.tensor(mirrors, device=device)
        self.heldout, self.heldout_labels = self._encode(heldout.images), heldout.labels.to(device)

    def begin(self, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chance = torch.rand(len(rows), generator=generator).to(self.device)
        dropped = (torch.rand(len(rows), generator=generator) < self.recipe.loss.label_drop).to(self.device)
        rows = rows.to(self.device)
        turned = chance < self.flip[self.labels[rows]]
        pairs = zip(self.plain, self.mirrored, strict=True)
        tokens = [torch.where(turned[:, None, None], m[rows], p[rows]) for p, m in pairs]
        labels = self.labels[rows].masked_fill(dropped, self.module.null_class)
        logits, targets = self._logits(model, self.module, tokens, labels)
        smoothing = self.recipe.loss.label_smoothing
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
        return loss, {"accuracy": (logits.detach().argmax(-1) == targets).float().mean()}

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        return {}

    def validate(self, module: nn.Module) -> Metrics:
        """Cross-entropy and accuracy on the held-out images with their labels, per scale and over all tokens."""
        assert isinstance(module, ClassTransformer)
        scores = score_generator(module, self.tokenizer, self.heldout, self.heldout_labels)
        metrics = {"loss": scores.total.loss, "accuracy": scores.total.accuracy}
        for k, score in enumerate(scores.scales):
            metrics |= {f"loss_{k}": score.loss, f"accuracy_{k}": score.accuracy}
        return metrics

    def sample(self, module: nn.Module) -> Image.Image:
        """One image of each of up to 24 classes, spread over all of them; image i has seed i."""
        count = min(SAMPLES, len(self.vocabulary))
        labels = torch.linspace(0, len(self.vocabulary) - 1, count).long().tolist()
        result = self._pipeline(module)(class_labels=labels, seed=0, output_type="pt")
        return picture(list((result.images * 2 - 1).split(SAMPLES_PER_ROW)))

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing beside the weights."""

    def export(self, module: nn.Module, folder: Path) -> None:
        self._pipeline(module).save_pretrained(folder)

    def _pipeline(self, module: nn.Module) -> Pipeline:
        assert isinstance(module, ClassTransformer)
        defaults = self.recipe.sampling.model_dump()
        return Pipeline(self.tokenizer, module, self.vocabulary, name=self.name, defaults=defaults)

    def _encode(self, images: Tensor) -> Maps:
        """Token maps of uint8 images (N, 3, H, W), in float32 whatever the precision of training."""
        return [maps.to(self.device) for maps in encode_all(self.tokenizer, images)]

    def _logits(self, model: nn.Module, raw: ClassTransformer, tokens: Maps, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) float32 and targets (B, L). ``model`` is ``raw`` as the engine has wrapped it."""
        with torch.no_grad():
            seen = inputs(self.tokenizer, tokens)
        logits = model(seen, raw.condition(labels))
        return logits.float(), torch.cat([t.flatten(1) for t in tokens], 1)


def new_model(recipe: VARRecipe | MVARRecipe, tokenizer: Tokenizer, classes: int) -> ClassTransformer:
    """An initialised model of the recipe's sizes, completed by those of the tokenizer and the data."""
    model = recipe.model
    sizes: dict[str, Any] = {
        "depth": model.depth,
        "width": model.width or 64 * model.depth,
        "heads": model.heads or model.depth,
        "mlp_ratio": model.mlp_ratio,
        "classes": classes,
        "codes": tokenizer.code_count,
        "code_dim": tokenizer.code_dim,
        "sizes": tokenizer.schedule.sizes,
        "l2_norm": model.l2_norm,
        "drop_path": model.drop_path,
    }
    if isinstance(recipe, VARRecipe):
        var = VAR(VARConfig(**sizes, shared_adaln=recipe.model.shared_adaln))
        var.init_weights(model.gamma, model.head)
        return var
    own = recipe.model
    m_var = MVAR(MVARConfig(**sizes, mixer=own.mixer, state=own.state, head_dim=own.head_dim))
    m_var.init_weights(own.gamma, own.head, own.official_init)
    return m_var
