"""The folder in which downloads and indexes are kept between runs. Everything in it can be made again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_folder() -> Path:
    """``$NEXTSCALE_CACHE``, else ``~/.cache/nextscale``."""
    chosen = os.environ.get("NEXTSCALE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "nextscale"


def cache_file(kind: str, key: str, suffix: str) -> Path | None:
    """Where something about ``key`` (a path, say) is kept; None if the cache folder cannot be written."""
    path = cache_folder() / kind / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path.parent, os.W_OK) else None
