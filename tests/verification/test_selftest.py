"""The self-test passes what is sound, names what is not, and its report can be pasted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from nextscale.checkpoints.published import PUBLISHED
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
from nextscale.pipeline import Pipeline
from nextscale.verification.selftest import Check, SelfTest, selftest
from tests.checkpoints.hub_server import COMMIT, running_hub, use
from tests.checkpoints.official import M_VAR_D1, VAR_D1, official_files
from tests.makers import LETTERS, LONGEST, tiny_infinity, tiny_pipeline, tokenizer_of


@pytest.fixture
def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for model in (VAR_D1, M_VAR_D1):
        monkeypatch.setitem(PUBLISHED, model.name, model)
    with running_hub() as server:
        server.files |= official_files()
        use(server, tmp_path / "hf", monkeypatch)
        yield


def check(found: SelfTest, name: str) -> Check:
    return next(one for one in found.checks if name in one.name)


@pytest.mark.usefixtures("_hub")
@pytest.mark.parametrize("name", ["var-d1", "m-var-d1"])
def test_random_weights_under_a_published_name_fail_where_they_must(name: str) -> None:
    """The sizes are those of the table, the files as they came; but the weights know nothing of pictures."""
    found = selftest(name, device="cpu", dtype="float32")
    verdicts = {one.name: one.ok for one in found.checks}
    assert not found.ok
    assert {one for one, ok in verdicts.items() if ok is False} == {
        "tokenizer",  # a small one stands in for VAR's here
        "reconstruction of the test picture",
        "its tokens, teacher-forced",
    }
    assert {one for one, ok in verdicts.items() if ok} == {"files", "generator", "numbers", "picture"}
    report = str(found)
    assert report.startswith(f"### nextscale selftest of {name}: FAILED")
    assert f"from {PUBLISHED[name].file}," in report
    assert COMMIT in report
    assert torch.__version__ in report
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["ok"], len(told["checks"]), len(told["origin"])) == (False, len(found.checks), 2)


@pytest.mark.usefixtures("_hub")
def test_another_size_than_the_name_says_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    selftest("var-d1", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = Path(constants.HF_HOME) / "nextscale/checkpoints/var-d1@main"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"name": "var-d16"}))
    one = check(selftest(folder, device="cpu"), "generator")
    assert (one.ok, one.expected) == (False, "var-d16: 310,283,520 parameters")
    assert "depth 1, width 64" in one.found


def test_a_checkpoint_of_ones_own_is_measured_and_not_judged(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "mine")
    found = selftest(tmp_path / "mine", device="cpu", dtype="float32")
    assert found.ok
    assert {one.name for one in found.checks if one.ok} == {"numbers", "picture"}
    assert found.picture.size == (16, 16)
    assert check(found, "tokens").found.endswith("(chance: 2.08 %, 3.871)")


def test_numbers_that_are_not_finite_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a cast to float16 can make them on a GPU; a file with such is refused when it is loaded."""
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "mine")
    pipe.tokenizer.get_parameter("encoder.conv_in.bias").data[0] = torch.nan
    monkeypatch.setattr("nextscale.verification.selftest.load", lambda *_, **__: pipe)
    found = selftest(tmp_path / "mine", device="cpu")
    assert check(found, "numbers").found.endswith("first tokenizer.encoder.conv_in.bias")
    assert not found.ok


def test_a_text_model_is_measured_though_its_encoder_is_nowhere(tmp_path: Path) -> None:
    """Nothing is known to draw, so a picture of nothing in particular is; every bit is one draw among two choices."""
    model = tiny_infinity()
    reads = TextConditioner(EncoderReference(str(tmp_path / "nowhere"), width=LETTERS, length=LONGEST))
    Pipeline(tokenizer_of(model), model, reads, name="texts").save_pretrained(tmp_path / "texts")
    found = selftest(tmp_path / "texts", device="cpu", dtype="float32")
    assert found.ok
    assert {one.name for one in found.checks if one.ok} == {"numbers", "picture"}
    assert found.picture.size == (16, 16)
    assert "of 240 right" in check(found, "tokens").found  # 30 tokens of 8 bits
    assert check(found, "tokens").found.endswith("(chance: 50.00 %, 0.693)")
