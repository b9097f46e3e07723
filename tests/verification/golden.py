"""Where the vector files are: those of the repository, and any more below $NEXTSCALE_GOLDEN."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nextscale.systems import SYSTEMS

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(case: str, system: str = "var") -> Path:
    return GOLDEN / system / f"{case}.safetensors"


def all_files() -> list[Path]:
    """Every vector file of a system that we know; one that is in both places counts once."""
    folders = [GOLDEN, *([Path(os.environ["NEXTSCALE_GOLDEN"])] if os.environ.get("NEXTSCALE_GOLDEN") else [])]
    found = {path.relative_to(folder): path for folder in reversed(folders) for path in folder.rglob("*.safetensors")}
    known = [system.name for system in SYSTEMS]
    return [found[name] for name in sorted(found) if metadata_of(found[name]).get("system") in known]


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def rewrite(
    source: Path,
    target: Path,
    changed: Mapping[str, Tensor | None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A copy of a vector file with some tensors replaced, added or (None) left out, and some metadata replaced."""
    with safe_open(source, framework="pt") as file:
        strings = dict(file.metadata()) | dict(metadata or {})
        tensors: dict[str, Tensor | None] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors |= changed or {}
    kept = {name: t.contiguous() for name, t in tensors.items() if t is not None}
    save_file(kept, target, metadata=strings)
    return target


def tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        found: Tensor = file.get_tensor(name)
    return found
