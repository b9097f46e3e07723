"""A bar is drawn where somebody looks, after a second, and never elsewhere."""

from __future__ import annotations

import sys
from io import StringIO
from typing import Any

import pytest

from nextscale import bar as module
from nextscale.bar import bar
from nextscale.errors import InputError
from tests.makers import tiny_pipeline


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, seconds: float, stream: StringIO | None = None, **settings: Any) -> str:
    """What three scales of ``seconds`` each write to standard error."""
    stream, clock = stream or Terminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("nextscale.bar.time.monotonic", lambda: clock[0])
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with bar(3, **settings) as step:
        for _ in range(3):
            clock[0] += seconds
            step()
    return stream.getvalue()


def test_a_slow_drawing_shows_its_scales_and_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, 0.6)
    assert [count for count in ("1/3", "2/3", "3/3") if count in text] == ["2/3", "3/3"]  # the first second is over
    assert text.endswith("\r")
    assert drawn(monkeypatch, 0.6, leave=True, desc="cats").rstrip("\n").endswith("cats " + "#" * 30 + " 3/3 scales")


def test_a_fast_drawing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 0.2) == ""


def test_nothing_is_written_to_files_or_when_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 5, StringIO()) == ""
    assert drawn(monkeypatch, 5, disable=True) == ""


def test_a_notebook_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(module, "AFTER", -1)
    with bar(1) as step:
        step()
    assert "1/1 scales" in stream.getvalue()


def test_a_pipeline_draws_the_bar_over_all_scales_of_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, stream = tiny_pipeline(), Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "AFTER", -1)
    monkeypatch.setattr("nextscale.pipeline.BATCH", 2)
    pipe("face", num_images=3, seed=1)
    assert "8/8 scales" in stream.getvalue()
    pipe.set_progress_bar_config(disable=True)
    length = len(stream.getvalue())
    pipe("face", seed=1)
    assert len(stream.getvalue()) == length


def test_settings_that_there_are_none_of() -> None:
    with pytest.raises(InputError, match="no argument 'position'; expected disable, desc, leave"):
        tiny_pipeline().set_progress_bar_config(position=1)
    with pytest.raises(InputError, match="disable is 'yes'; expected a bool"):
        tiny_pipeline().set_progress_bar_config(disable="yes")
