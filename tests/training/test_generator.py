"""The generator's objective: labels are dropped and images mirrored in training only, and only where they may be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextscale.models.class_transformer import ClassTransformer
from nextscale.tokenizers.base import inputs
from nextscale.training.generator import GeneratorObjective
from nextscale.training.start import start
from tests.training.tiny import TINY_VAR


def objective(images: Path, tokenizer: Path, tmp_path: Path, *more: str) -> GeneratorObjective:
    trainer = start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), [*TINY_VAR, *more], "cpu")
    assert isinstance(trainer.objective, GeneratorObjective)
    return trainer.objective


def seen(goal: GeneratorObjective, model: ClassTransformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and targets of one training step over all images, as the model and the loss see them."""
    caught: list[torch.Tensor] = []
    handle = model.class_embedding.register_forward_hook(lambda _, arguments, __: caught.append(arguments[0]))
    rows = torch.arange(goal.images)
    goal.loss(model, rows, torch.Generator().manual_seed(0))
    handle.remove()
    return caught[0], goal.labels[rows]


@pytest.mark.parametrize(("share", "dropped"), [(0.0, 0), (1.0, 13)])
def test_labels_are_dropped_in_training(
    share: float, dropped: int, images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    goal = objective(images, tokenizer, tmp_path, f"loss.label_drop={share}")
    given, true = seen(goal, goal.module)
    assert int((given == goal.module.null_class).sum()) == dropped
    assert torch.equal(given[given != goal.module.null_class], true[given != goal.module.null_class])


def test_validation_drops_no_label(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    goal = objective(images, tokenizer, tmp_path, "loss.label_drop=1.0")
    goal.module.eval()
    assert goal.validate(goal.module) == goal.validate(goal.module)
    caught: list[torch.Tensor] = []
    goal.module.class_embedding.register_forward_hook(lambda _, arguments, __: caught.append(arguments[0]))
    goal.validate(goal.module)
    assert torch.equal(torch.cat(caught), goal.heldout_labels)


def test_some_classes_are_never_mirrored(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    goal = objective(images, tokenizer, tmp_path, "data.flip=1.0", "data.unmirrored=[warm]")
    caught: list[list[torch.Tensor]] = []
    goal.module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    goal.loss(goal.module, torch.arange(goal.images), torch.Generator().manual_seed(0))
    plain, turned = (inputs(goal.tokenizer, tokens) for tokens in (goal.plain, goal.mirrored))
    warm = goal.labels == goal.vocabulary.names.index("warm")
    for k, used in enumerate(caught[0]):
        assert torch.equal(used[warm], plain[k][warm])
        assert torch.equal(used[~warm], turned[k][~warm])
    assert any(not torch.equal(p, t) for p, t in zip(plain, turned, strict=True))
