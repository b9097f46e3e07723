"""The checkpoints that the authors of VAR, HMAR, M-VAR, Infinity and FlexVAR have published, and where converted ones
are kept.

Sizes of the networks follow from the name (``published`` of the systems' converters); nothing here is torch.
Numbers: arXiv 2404.02905 and the README of FoundationVision/VAR; arXiv 2411.10433 and its authors' results; arXiv
2412.04431 and the README of FoundationVision/Infinity; arXiv 2502.20313, and of FlexVARs that others have tuned further
arXiv 2512.06421; arXiv 2506.04421, as others have read it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nextscale import systems
from nextscale.errors import CheckpointError

VAR_REPO, M_VAR_REPO, INFINITY_REPO = "FoundationVision/var", "OliverRen/M-VAR", "FoundationVision/Infinity"
HMAR_REPO = "nvidia/HMAR"
FLEXVAR_REPO, SAR_REPO = "jiaosiyu1999/FlexVAR", "ZGZzz/SAR"
TOKENIZER = (VAR_REPO, "vae_ch160v4096z32.pth")
"""One tokenizer serves every class model of residuals and resolution."""
FLEX_TOKENIZER = (FLEXVAR_REPO, "FlexVAE.pth")
BITS_32, BITS_56 = (
    (INFINITY_REPO, "infinity_vae_d32reg.pth"),
    (INFINITY_REPO, "infinity_vae_d56_f8_14_patchify.pth"),
)
ALIKE = {"infinity_vae_d32reg.pth": ("infinity_vae_d32.pth",)}
"""Published tokenizers of the same layout, so that tensors do not tell them apart, whose bits mean something else."""
REFUSED = dict.fromkeys(
    ("infinity_vae_d32.pth", "infinity_vae_d64.pth"),
    f"users report of the published file of this name that the official code does not load it either ({INFINITY_REPO}, "
    "issues 47, 51 and 96); no published transformer draws with it",
)
"""What is known of published files that do not fit their published layout."""
REPOS = {"var": VAR_REPO, "hmar": HMAR_REPO, "m-var": M_VAR_REPO, "infinity": INFINITY_REPO, "flexvar": FLEXVAR_REPO}
LICENCES = {
    VAR_REPO: "mit",
    M_VAR_REPO: "apache-2.0",
    INFINITY_REPO: "mit",
    FLEXVAR_REPO: "mit",
    SAR_REPO: "mit",
    HMAR_REPO: "other",
}
"""What the repositories' own cards state, read off archived copies of their pages; of Infinity, FlexVAR
and SAR the code's. HMAR's are for research and teaching, not for trade."""
DATASET = "imagenet-1k"
"""What all class models were trained on, as the hub calls it."""


@dataclass(frozen=True)
class Published:
    """One published transformer.

    file: its name in ``repo``, which ends in a slash where it is a folder of several files; attested: whether that name
    stands in the authors' own code or README, or is inferred from its siblings; revision: what is fetched where the
    caller names none; parameters: without the tokenizer's; measured: what the authors measured of it, in words;
    tokenizer: its repository and file; elsewhere: its own repository, where that is not the authors' of the system.
    """

    name: str
    system: str
    depth: int
    pixels: int
    file: str
    parameters: int
    measured: str
    attested: bool = True
    revision: str = "main"
    tokenizer: tuple[str, str] = TOKENIZER
    tokenizer_parameters: int = 108_948_355
    elsewhere: str | None = None

    @property
    def repo(self) -> str:
        return self.elsewhere or REPOS[self.system]

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(repository, file) of the transformer and of the tokenizer."""
        return (self.repo, self.file), self.tokenizer

    @property
    def in_folder(self) -> bool:
        """Whether the transformer is in several files."""
        return self.file.endswith("/")

    @property
    def sizes(self) -> Any:
        """Its default schedule, where no tensor shows it: models of text draw many."""
        return None if self.reads_classes else self.configs()["model"].sizes

    @property
    def reads_classes(self) -> bool:
        """Whether it draws ImageNet's classes, and nothing that its system's converter has a conditioner for."""
        system = systems.named(self.system)
        assert system is not None
        return not hasattr(systems.converter(system), "conditioner")

    def conditioner(self) -> Any:
        """What reads a call for it, known without its weights; None where it reads classes."""
        system = systems.named(self.system)
        assert system is not None
        return None if self.reads_classes else systems.converter(system).conditioner(self.configs()["model"])

    def configs(self, like: object = None) -> dict[str, Any]:
        """The configurations of its tokenizer and its model. like: that of a model, from which what the authors leave
        open is taken."""
        system = systems.named(self.system)
        assert system is not None
        found: dict[str, Any] = systems.converter(system).published(self.name, like)
        return found


def _flexible(name: str, depth: int, file: str, parameters: int, measured: str, repo: str | None = None) -> Published:
    """One of the models that draw with the same tokenizer at any size; 256 pixels are what they were trained on."""
    shared: dict[str, Any] = {"tokenizer": FLEX_TOKENIZER, "tokenizer_parameters": 72_049_827, "elsewhere": repo}
    return Published(name, "flexvar", depth, 256, file, parameters, measured, **shared)


PUBLISHED = {
    model.name: model
    for model in (
        Published("var-d16", "var", 16, 256, "var_d16.pth", 310_283_520, "FID 3.30 (3.55 in the README), IS 274.4"),
        Published("var-d20", "var", 20, 256, "var_d20.pth", 600_917_136, "FID 2.57 (2.95 in the README), IS 302.6"),
        Published("var-d24", "var", 24, 256, "var_d24.pth", 1_033_399_360, "FID 2.09 (2.33 in the README), IS 312.9"),
        Published("var-d30", "var", 30, 256, "var_d30.pth", 2_010_020_356, "FID 1.92 (1.97 in the README), IS 323.1"),
        Published("var-d36-512", "var", 36, 512, "var_d36.pth", 2_353_893_904, "FID 2.63, IS 303.2"),
        Published("hmar-d16", "hmar", 16, 256, "hmar-d16.pth", 467_691_904, "FID 3.01, IS 288.6"),
        Published("hmar-d20", "hmar", 20, 256, "hmar-d20.pth", 845_517_872, "no FID or IS known"),
        Published("hmar-d24", "hmar", 24, 256, "hmar-d24.pth", 1_384_328_960, "FID 2.10, IS 324.3"),
        Published("hmar-d30", "hmar", 30, 256, "hmar-d30.pth", 2_556_324_212, "FID 1.95, IS 334.5"),
        Published("m-var-d16", "m-var", 16, 256, "d16.pth", 464_157_184, "FID 3.07, IS 294.6", attested=False),
        Published("m-var-d20", "m-var", 20, 256, "d20.pth", 900_528_736, "FID 2.41, IS 308.4", attested=False),
        Published("m-var-d32", "m-var", 32, 256, "d32.pth", 3_658_707_968, "FID 1.78, IS 331.2"),
        Published(
            "infinity-2b",
            "infinity",
            32,
            1024,
            "infinity_2b_reg.pth",
            2_204_564_032,
            "GenEval 0.69 (0.73 with rewritten prompts), DPG 83.5, ImageReward 0.962, HPSv2.1 32.25",
            tokenizer=BITS_32,
            tokenizer_parameters=110_118_051,
        ),
        Published(
            "infinity-8b",
            "infinity",
            40,
            1024,
            "infinity_8b_weights/",
            8_375_791_824,
            "GenEval 0.79 (with rewritten prompts), DPG 86.6",
            tokenizer=BITS_56,
            tokenizer_parameters=81_624_209,
        ),
        Published(
            "infinity-8b-512",
            "infinity",
            40,
            512,
            "infinity_8b_512x512_weights/",
            8_375_791_824,
            "no numbers",
            tokenizer=BITS_56,
            tokenizer_parameters=81_624_209,
        ),
        _flexible("flexvar-d16", 16, "FlexVARd16-epo179.pth", 315_561_936, "FID 3.05, IS 291.3"),
        _flexible("flexvar-d20", 20, "FlexVARd20-epo249.pth", 607_513_952, "FID 2.41, IS 299.3"),
        _flexible(
            "flexvar-d24",
            24,
            "FlexVARd24-epo349.pth",
            1_041_314_576,
            "FID 2.21, IS 299.1 (in 13 steps FID 2.08, IS 315.7; at 512 pixels FID 4.43, IS 314.4)",
        ),
        _flexible("sar-d16", 16, "SARd16-epo179.pth", 315_561_936, "FID 2.89", SAR_REPO),
        _flexible("sar-d20", 20, "SARd20-epo249.pth", 607_513_952, "FID 2.35", SAR_REPO),
        _flexible("sar-d24", 24, "SARd24-epo349.pth", 1_041_314_576, "FID 2.14", SAR_REPO),
    )
}
"""HMAR is counted with eight blocks of the masked branch's own, though the paper prints less at depth 24 and 30. d16
and d20 of M-VAR are counted without L2-normalised attention, d32 with it, as its README builds them."""


def check_pair(model: str, tokenizer: str) -> None:
    """Raises ``CheckpointError`` where a transformer and a tokenizer, by the names of their files, are published ones
    that do not belong together, though their sizes fit.
    """
    row = next((row for row in PUBLISHED.values() if row.file.rstrip("/") == model), None)
    if row is not None and tokenizer in ALIKE.get(row.tokenizer[1], ()):
        raise CheckpointError(
            f"{model} was trained on the bits of {row.tokenizer[1]}, not on those of {tokenizer}, though their sizes "
            f"are the same; expected {row.tokenizer[1]} beside it (rename {tokenizer} if it is another file)"
        )


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
