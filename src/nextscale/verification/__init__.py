"""``nextscale verify``: hold our implementation against files of official weights, inputs and outputs."""

from nextscale.verification.report import FileReport, Row
from nextscale.verification.run import verify_files

__all__ = ["FileReport", "Row", "verify_files"]
