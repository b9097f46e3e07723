"""What the tests of measures share."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steady", deadline=None)  # a busy machine may take longer than 200 ms over one example
settings.load_profile("steady")
