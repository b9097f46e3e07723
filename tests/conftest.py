"""Test-wide settings: two threads, so that parallel sessions do not fight, and a fixed default seed."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    torch.manual_seed(0)
