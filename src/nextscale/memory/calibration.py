"""Calibrations of all kinds, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nextscale.documents import read_json
from nextscale.errors import InputError, quoted, warn_user
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.measured import FORMAT
from nextscale.memory.scalekv_calibration import Statistics, Table
from nextscale.settings import build

KINDS: Mapping[str, type[Statistics | HeadStatistics]] = {"scalekv": Statistics, "hack": HeadStatistics}
"""What ``nextscale calibrate`` measures, by the method that it is for."""
Calibration = Statistics | HeadStatistics | Table


def read_calibration(path: Path | str) -> Calibration:
    """What ``nextscale calibrate`` wrote, for whichever method, or an official budget file of ScaleKV, which says
    nothing of the weights that it is for, and so is warned of. Raises ``InputError`` for any other file.
    """
    data = read_json(Path(path))
    if not isinstance(data, Mapping):
        raise InputError(f"{path} holds {quoted(data)}; expected a calibration, or an official budget file")
    if "format" in data or "method" in data:
        said = (data.get("method"), data.get("format"))
        kind = next((kind for name, kind in KINDS.items() if said == (name, FORMAT)), None)
        if kind is None:
            names = " or ".join(map(repr, KINDS))
            raise InputError(f"{path} has the method and the format {quoted(said)}; expected {names}, and {FORMAT}")
        try:
            return build(kind, data)
        except InputError as error:
            raise InputError(f"{path} is no calibration that can be read: {error}") from None
    table = Table.from_official(data, str(path))
    warn_user(
        f"{path} does not say which weights it was made for; it is taken for those of any model of {table.depth} blocks"
    )
    return table
