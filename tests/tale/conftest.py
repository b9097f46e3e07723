"""The command line, as the tests of its verbs have it."""

from __future__ import annotations

from tests.cli.conftest import nextscale

__all__ = ["nextscale"]
