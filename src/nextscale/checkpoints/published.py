"""The checkpoints that the authors of VAR and M-VAR have published, by name, and where converted ones are kept.

Sizes of the networks follow from the name (``published`` of the systems' converters); nothing here is torch.
Numbers: arXiv 2404.02905 and the README of FoundationVision/VAR; arXiv 2411.10433 and its authors' results.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nextscale import systems

VAR_REPO, M_VAR_REPO = "FoundationVision/var", "OliverRen/M-VAR"
TOKENIZER = (VAR_REPO, "vae_ch160v4096z32.pth")
"""One tokenizer serves every model and resolution."""
REPOS = {"var": VAR_REPO, "m-var": M_VAR_REPO}
LICENCES = {VAR_REPO: "mit", M_VAR_REPO: "apache-2.0"}
"""What the repositories' own cards state, read off archived copies of their pages."""
DATASET = "imagenet-1k"
"""What all of them were trained on, as the hub calls it."""


@dataclass(frozen=True)
class Published:
    """One published transformer.

    file: its name in ``repo``; attested: whether that name stands in the authors' own code or README, or is inferred
    from its siblings; revision: what is fetched where the caller names none; parameters: without the tokenizer's;
    readme_fid, fid, inception: on ImageNet with 50,000 images, as the README and as the paper give them; tokenizer: its
    repository and file.
    """

    name: str
    system: str
    depth: int
    pixels: int
    file: str
    parameters: int
    fid: float
    inception: float
    readme_fid: float | None = None
    attested: bool = True
    revision: str = "main"
    tokenizer: tuple[str, str] = TOKENIZER
    tokenizer_parameters: int = 108_948_355

    @property
    def repo(self) -> str:
        return REPOS[self.system]

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(repository, file) of the transformer and of the tokenizer."""
        return (self.repo, self.file), self.tokenizer

    @property
    def reads_classes(self) -> bool:
        """Whether it draws ImageNet's classes, and nothing that its system's converter has a conditioner for."""
        system = systems.named(self.system)
        assert system is not None
        return not hasattr(systems.converter(system), "conditioner")

    def configs(self, like: object = None) -> dict[str, Any]:
        """The configurations of its tokenizer and its model. like: that of a model, from which what the authors leave
        open is taken."""
        system = systems.named(self.system)
        assert system is not None
        found: dict[str, Any] = systems.converter(system).published(self.name, like)
        return found


PUBLISHED = {
    model.name: model
    for model in (
        Published("var-d16", "var", 16, 256, "var_d16.pth", 310_283_520, 3.30, 274.4, 3.55),
        Published("var-d20", "var", 20, 256, "var_d20.pth", 600_917_136, 2.57, 302.6, 2.95),
        Published("var-d24", "var", 24, 256, "var_d24.pth", 1_033_399_360, 2.09, 312.9, 2.33),
        Published("var-d30", "var", 30, 256, "var_d30.pth", 2_010_020_356, 1.92, 323.1, 1.97),
        Published("var-d36-512", "var", 36, 512, "var_d36.pth", 2_353_893_904, 2.63, 303.2, 2.63),
        Published("m-var-d16", "m-var", 16, 256, "d16.pth", 464_157_184, 3.07, 294.6, attested=False),
        Published("m-var-d20", "m-var", 20, 256, "d20.pth", 900_528_736, 2.41, 308.4, attested=False),
        Published("m-var-d32", "m-var", 32, 256, "d32.pth", 3_658_707_968, 1.78, 331.2),
    )
}
"""d16 and d20 of M-VAR are counted without L2-normalised attention, d32 with it, as its README builds them."""


def published(name: str) -> Published | None:
    """The published checkpoint called ``name``; ``var-d36`` and ``var-d16-256`` are understood too."""
    return PUBLISHED.get(name.removesuffix("-256")) or PUBLISHED.get(f"{name}-512")


def nearest(name: str) -> str | None:
    """The published checkpoint that a name which is none was probably meant for: ``VAR_D16``, ``var-d15``,
    ``var_d16.pth``; None if there is no such.
    """
    plain = name.lower().removesuffix(".pth").removesuffix(".safetensors").replace("_", "-").replace("mvar", "m-var")
    likely = published(plain)
    found = [likely.name] if likely else get_close_matches(plain, PUBLISHED, 1, 0.8)
    return found[0] if found else None


def models_cache() -> Path:
    """Where official files and converted checkpoints are kept: ``$NEXTSCALE_CACHE``, else ``$HF_HOME/nextscale``, since
    whoever moved the hub's cache to a large disk wants these there too.
    """
    from huggingface_hub import constants

    chosen = os.environ.get("NEXTSCALE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(constants.HF_HOME).expanduser() / "nextscale"


def converted_folder(model: Published, revision: str | None = None) -> Path:
    """The folder that a published checkpoint is converted to once, whether it is there or not."""
    return models_cache() / "checkpoints" / f"{model.name}@{in_one_name(revision or model.revision)}"


def in_one_name(text: str) -> str:
    """A repository or revision as the name of one folder: the hub's names may have slashes."""
    return text.replace("/", "--")
