"""nextscale: next-scale (visual autoregressive) image generation, every system of the family in one library.

The names below are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "nextscale.pipeline",
    "from_pretrained": "nextscale.pipeline",
    "Pipeline": "nextscale.pipeline",
    "GenerationResult": "nextscale.pipeline",
    "Plan": "nextscale.plan",
    "ScaleSchedule": "nextscale.scales",
    "NextscaleError": "nextscale.errors",
}

__all__ = [
    "GenerationResult",
    "NextscaleError",
    "Pipeline",
    "Plan",
    "ScaleSchedule",
    "__version__",
    "from_pretrained",
    "load",
]

if TYPE_CHECKING:
    from nextscale.errors import NextscaleError
    from nextscale.pipeline import GenerationResult, Pipeline, from_pretrained, load
    from nextscale.plan import Plan
    from nextscale.scales import ScaleSchedule


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nextscale' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
