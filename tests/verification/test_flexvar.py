"""FlexVAR's vector files: every way of being wrong shows, odd settings get one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from nextscale.models.flexvar import FlexVAR
from nextscale.scales import ScaleSchedule
from nextscale.verification.flexvar import model_of, plan_of
from nextscale.verification.report import FileReport
from nextscale.verification.vectors import read_vectors
from tests.verification.golden import golden
from tests.verification.test_infinity import changed, failed, one_more, perturbed, setter

TOKENIZER, POSITION, WHOLE = (golden(case, "flexvar") for case in ("tokenizer", "position", "flexvar_nonsquare"))


def lower(x: Tensor) -> Tensor:
    """Another token."""
    x.view(-1)[0] = (x.view(-1)[0] + 1) % 40
    return x


@pytest.mark.parametrize(
    ("path", "name", "change", "shows"),
    [
        (
            TOKENIZER,
            "state/vae/quantize.embedding.weight",
            lambda x: x.flip(0),
            {"square/idx_0", "wide/idx_4", "square/train/usage_4"},
        ),
        (TOKENIZER, "state/vae/post_quant_conv.bias", one_more, {"square/image_0", "wide/image_4"}),
        (TOKENIZER, "in/wide/cotangent_4", one_more, {"wide/train/grad/quant_conv.weight", "wide/train/scalar"}),
        (POSITION, "state/pos_1LC", one_more, {"grid_1x1", "grid_32x32", "grid_40x40"}),
        (POSITION, "out/init_4x7_6", one_more, {"init_4x7_6"}),
        (
            WHOLE,
            "state/var/pos_1LC",
            lambda x: x.transpose(2, 3),
            {"tf_wide/logits", "tf_square/grad_norms", "gen_wide/logits_0", "gen_long/logits_uncond_11"},
        ),
        (WHOLE, "out/gen_long/idx_3", lower, {"gen_long/idx_3"}),
        (WHOLE, "in/label_B", lambda x: (x + 1) % 7, {"tf_wide/loss", "gen_wide/logits_cond_0"}),
    ],
)
def test_a_wrong_number_shows(path: Path, name: str, change: Any, shows: set[str], tmp_path: Path) -> None:
    report = perturbed(path, tmp_path, name, change)
    assert report.reason == ""
    assert shows <= failed(report)
    assert not report.ok


def test_a_wrong_weight_leaves_what_does_not_depend_on_it(tmp_path: Path) -> None:
    report = perturbed(WHOLE, tmp_path, "state/var/head.bias", one_more)
    assert {"tf_wide/logits", "gen_wide/logits_cond_0", "gen_long/logits_11"} <= failed(report)
    assert not {"tf_wide/idx_2", "tf_wide/input", "gen_wide/next_input_1"} & failed(report)


@pytest.mark.parametrize(
    ("path", "change", "shows"),
    [
        (TOKENIZER, setter("vae", "entropy_loss_ratio", 0.2), {"square/train/entropy_loss_1"}),
        (WHOLE, setter("runs", "gen_long", "max_pn", 4), {"gen_long/logits_7"}),
        (WHOLE, setter("runs", "gen_wide", "used_llamagen_cfg", True), {"gen_wide/logits_0"}),
        (WHOLE, setter("runs", "tf_wide", "label_smooth", 0.1), {"tf_wide/loss", "tf_wide/grad_norms"}),
    ],
)
def test_a_wrong_setting_shows(path: Path, change: Any, shows: set[str], tmp_path: Path) -> None:
    report = changed(path, tmp_path, change)
    assert report.reason == ""
    assert shows <= failed(report)


@pytest.mark.parametrize(
    ("path", "change", "sentence"),
    [
        (TOKENIZER, setter("vae", "codebook_size", 9), "says codebook_size 9, but its tensors show 64"),
        (TOKENIZER, setter("vae", "codebook_l2_norm", False), "codebook_l2_norm false; expected true"),
        (TOKENIZER, setter("runs", "wide", "patch_nums", ...), "the config of wide lacks 'patch_nums'"),
        (POSITION, setter("grids", ...), "the config of the file lacks 'grids'"),
        (WHOLE, setter("var", "depth", 4), "says depth 4, but its tensors show 2"),
        (WHOLE, setter("runs", "gen_wide", "cfg", ...), "the config of gen_wide lacks 'cfg'"),
        (WHOLE, setter("runs", "gen_wide", "max_pn", ...), "the config of gen_wide lacks 'max_pn'"),
        (WHOLE, setter("runs", "tf_wide", "image", "other"), "lacks the input in/other"),
    ],
)
def test_what_cannot_be_carried_out_gets_one_sentence(path: Path, change: Any, sentence: str, tmp_path: Path) -> None:
    reason = changed(path, tmp_path, change).reason
    assert re.search(sentence, reason), reason
    assert "broke off" not in reason


def test_an_unknown_run_is_noted_and_its_outputs_are_not_taken_for_checked(tmp_path: Path) -> None:
    report: FileReport = changed(WHOLE, tmp_path, setter("runs", "gen_wide", "kind", "other"))
    assert report.notes == ["run gen_wide: unknown kind 'other'; its outputs were not computed"]
    assert "out/gen_wide/image" in report.unchecked
    assert not report.ok


@pytest.fixture(scope="module")
def greedy() -> Callable[..., list[int]]:
    """Top-k of every row of a run's plan, as ``verify`` draws it."""
    file = read_vectors(WHOLE)

    def rows(sides: list[int], max_pn: int) -> list[int]:
        model = model_of(file.section("var"), file.model_state("var"), ScaleSchedule.of([max_pn]))
        assert isinstance(model, FlexVAR)
        run = {"cfg": 1.5, "top_k": 5}
        return [row.top_k for row in plan_of(run, model, ScaleSchedule.of(sides), "run").rows]

    return rows


def test_the_rule_of_the_official_sampler_is_on(greedy: Callable[..., list[int]]) -> None:
    assert greedy([1, 7, 8, 9], 16) == [5, 1, 5, 1]
    assert greedy([1, 2, 5, 6], 4) == [5, 5, 1, 1]
