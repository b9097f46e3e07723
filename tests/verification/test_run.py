"""Every vector file passes, and every way of being wrong shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.verification import FileReport, verify_files
from nextscale.verification.vectors import read_vectors
from tests.verification.golden import all_files, golden, metadata_of, rewrite, tensor


def verify(path: Path) -> FileReport:
    (report,) = verify_files([path])
    return report


def failed(report: FileReport) -> set[str]:
    return {row.name for row in report.rows if not row.ok}


@pytest.mark.parametrize("path", all_files(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_output_of_every_file_agrees(path: Path) -> None:
    report = verify(path)
    assert report.reason == ""
    assert failed(report) == set()
    assert report.unchecked == []
    assert report.ok
    assert {row.name.partition(" ")[0] for row in report.rows} - {"phi_index"} == set(read_vectors(path).outputs)


def test_the_repository_has_a_file_of_every_kind() -> None:
    kinds = {metadata_of(path)["kind"] for path in all_files()}
    assert kinds >= {
        "quantizer",
        "tokenizer",
        "sampling",
        "var",
        "bsq",
        "vae",
        "rope",
        "infinity",
        "position",
        "flexvar",
    }


# Wrong weights stand for a wrong implementation: each change is what a mistake in the code would amount to.


def test_a_perturbed_weight_shows(tmp_path: Path) -> None:
    name = "state/var/blocks.1.attn.proj.weight"
    weight = tensor(golden("var_shared_nol2"), name).clone()
    weight[0, 0] += 1
    report = verify(rewrite(golden("var_shared_nol2"), tmp_path / "x.safetensors", {name: weight}))
    assert {"tf/logits", "train/loss", "gen/logits_cond_0"} <= failed(report)
    assert not {"tf/f", "tf/idx_0", "tf/var_input", "tf/reconstruction"} & failed(report)
    assert not report.ok


def test_swapped_adaln_chunks_show(tmp_path: Path) -> None:
    """gamma1, gamma2, s1, ... read as gamma1, s1, gamma2, ..."""
    name = "state/var/blocks.0.ada_gss"
    swapped = tensor(golden("var_shared_nol2"), name)[:, :, [0, 2, 1, 3, 4, 5]]
    report = verify(rewrite(golden("var_shared_nol2"), tmp_path / "x.safetensors", {name: swapped}))
    assert {"tf/logits", "gen/logits_0", "train/grad_norms"} <= failed(report)


def test_another_softmax_scale_shows(tmp_path: Path) -> None:
    """1 / sqrt(D) in the place of 0.25 / sqrt(D) is the same as queries four times as long."""
    source, changed = golden("var_shared_nol2"), dict[str, Tensor | None]()
    for block in ("blocks.0", "blocks.1"):
        qkv = tensor(source, f"state/var/{block}.attn.mat_qkv.weight").clone()
        qkv[: len(qkv) // 3] *= 4
        changed[f"state/var/{block}.attn.mat_qkv.weight"] = qkv
        changed[f"state/var/{block}.attn.q_bias"] = tensor(source, f"state/var/{block}.attn.q_bias") * 4
    report = verify(rewrite(source, tmp_path / "x.safetensors", changed))
    assert {"tf/logits", "gen/logits_1", "train/loss"} <= failed(report)


def test_a_missing_phi_shows(tmp_path: Path) -> None:
    gone = dict.fromkeys([f"state/quant_resi.qresi_ls.3.{part}" for part in ("weight", "bias")])
    report = verify(rewrite(golden("quantizer_256"), tmp_path / "x.safetensors", gone))
    assert {"phi_index", "f_hat_9", "rect/f_hat_4"} <= failed(report)
    gone = dict.fromkeys([f"state/quant_resi.qresi_ls.1.{part}" for part in ("weight", "bias")])
    report = verify(rewrite(golden("quantizer_256"), tmp_path / "x.safetensors", gone))
    assert "no quantize.quant_resi.qresi_ls.1;" in report.reason
    assert not report.ok


def test_another_order_of_phi_shows(tmp_path: Path) -> None:
    source = golden("quantizer_256")
    swapped: dict[str, Tensor | None] = {
        f"state/quant_resi.qresi_ls.{a}.weight": tensor(source, f"state/quant_resi.qresi_ls.{b}.weight")
        for a, b in ((0, 1), (1, 0))
    }
    assert {"f_hat_0", "decoded_f_hat", "var_input"} <= failed(
        verify(rewrite(source, tmp_path / "x.safetensors", swapped))
    )


@pytest.mark.parametrize(("case", "seed_run"), [("var_nol2", "seed"), ("var_shared_nol2", "seed")])
def test_another_seed_shows_in_the_rows_of_the_generator(tmp_path: Path, case: str, seed_run: str) -> None:
    """A generator whose noise is not the stored noise is not compared token by token, but the report says so."""
    config = json.loads(json.dumps(read_vectors(golden(case)).config))
    good = verify(golden(case))
    assert f"{seed_run}/idx_0 (generator)" in {row.name for row in good.rows}
    assert good.notes == []
    config["sampling"][seed_run]["g_seed"] += 1
    changed = verify(rewrite(golden(case), tmp_path / "x.safetensors", metadata={"config": json.dumps(config)}))
    assert [note for note in changed.notes if f"run {seed_run}:" in note]


def test_a_wrong_token_is_one_row_and_the_run_goes_on(tmp_path: Path) -> None:
    name = "out/gen/idx_1"
    wrong = tensor(golden("var_shared_nol2"), name).clone()
    wrong[0, 0] = (wrong[0, 0] + 1) % 64
    report = verify(rewrite(golden("var_shared_nol2"), tmp_path / "x.safetensors", {name: wrong}))
    assert failed(report) == {"gen/idx_1"}
    assert not report.ok


# Smooth sampling multiplies rounding, so a smooth run goes on with what is stored.

SMOOTH = [("var_shared_l2", "var", "smooth"), ("m_var_nol2", "m-var", "seed_smooth")]


@pytest.fixture
def other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products as other CPUs have them: each number is off by 2e-7 of itself, three units in the last place."""
    generator = torch.Generator().manual_seed(0)

    def rounded(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def other(*given: Any, **named: Any) -> Tensor:
            y = product(*given, **named)
            return y * (1 + 2e-7 * torch.randn(y.shape, generator=generator))

        return other

    for name in ("linear", "conv2d", "scaled_dot_product_attention"):
        monkeypatch.setattr(F, name, rounded(getattr(F, name)))


@pytest.mark.usefixtures("other_kernels")
@pytest.mark.parametrize(("case", "system"), [("var_shared_l2", "var"), ("var_nol2", "var"), ("m_var_nol2", "m-var")])
def test_another_rounding_of_matrix_products_agrees(case: str, system: str) -> None:
    report = verify(golden(case, system))
    assert failed(report) == set()
    assert report.ok


@pytest.mark.parametrize(("case", "system", "run"), SMOOTH)
@pytest.mark.parametrize("output", ["f_hat_1", "logits_cond_1", "logits_1", "weights_1", "next_input_2"])
def test_a_perturbed_number_of_a_smooth_run_shows(
    tmp_path: Path, case: str, system: str, run: str, output: str
) -> None:
    source, name = golden(case, system), f"out/{run}/{output}"
    changed = tensor(source, name).clone()
    changed.view(-1)[0] += 0.01
    report = verify(rewrite(source, tmp_path / "x.safetensors", {name: changed}))
    assert f"{run}/{output}" in failed(report)
    assert not report.ok


@pytest.mark.parametrize(("case", "system", "run"), SMOOTH)
def test_a_wrong_rule_of_smooth_sampling_shows(
    monkeypatch: pytest.MonkeyPatch, case: str, system: str, run: str
) -> None:
    loop: Any = import_module("nextscale.generate")
    right = loop.smooth_weights
    monkeypatch.setattr(
        loop, "smooth_weights", lambda logits, noise, sharpen, t: right(logits, noise, sharpen, 1.01 * t)
    )
    assert {f"{run}/weights_1", f"{run}/weights_2"} <= failed(verify(golden(case, system)))


@pytest.mark.parametrize(("case", "system", "run"), SMOOTH)
def test_a_wrong_weight_shows_in_a_smooth_run(tmp_path: Path, case: str, system: str, run: str) -> None:
    """Going on with the stored logits hides no wrong ones."""
    source, name = golden(case, system), f"{system.replace('-', '_')}/head.bias"
    bias = read_vectors(source).state[name].clone()
    bias[0] += 0.01
    report = verify(rewrite(source, tmp_path / "x.safetensors", {f"state/{name}": bias}))
    assert {f"{run}/logits_cond_0", f"{run}/logits_uncond_2"} <= failed(report)


def test_a_wrong_mask_shows(tmp_path: Path) -> None:
    source = golden("var_shared_l2")
    config = json.loads(json.dumps(read_vectors(source).config))
    config["sampling"]["class_edit"]["inpainting"] = False
    report = verify(rewrite(source, tmp_path / "x.safetensors", metadata={"config": json.dumps(config)}))
    assert failed(report) == {"class_edit/edit_mask"}  # and the run goes on with the stored mask


def test_what_is_not_checked_is_named(tmp_path: Path) -> None:
    extra = {"out/gen/novelty": torch.ones(1), "elsewhere": torch.ones(1)}
    report = verify(rewrite(golden("var_shared_nol2"), tmp_path / "x.safetensors", extra))
    assert report.unchecked == ["out/gen/novelty", "elsewhere"]
    assert failed(report) == set()
    assert not report.ok


def test_outputs_that_a_file_should_have_and_has_not_are_named(tmp_path: Path) -> None:
    gone: dict[str, Tensor | None] = {"out/gen/logits_1": None, "out/tf/logits": None, "out/train/loss": None}
    report = verify(rewrite(golden("var_shared_nol2"), tmp_path / "x.safetensors", gone))
    assert set(report.absent) == {"gen/logits_1", "tf/logits", "train/loss"}
    states: dict[str, Tensor | None] = {"out/gen/block_0/ssm_3": None, "out/gen/block_1/conv_tail_0": None}
    report = verify(rewrite(golden("m_var_nol2", "m-var"), tmp_path / "y.safetensors", states))
    assert set(report.absent) == {"gen/block_0/ssm_3", "gen/block_1/conv_tail_0"}


@pytest.mark.parametrize("path", all_files(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_whole_file_lacks_nothing(path: Path) -> None:
    assert verify(path).absent == []


@pytest.mark.parametrize("name", ["in/image", "state/var/head.weight", "out/gen/logits_1", "out/gen/f_hat_0"])
@pytest.mark.parametrize("entries", [slice(0, 1), slice(None)])
def test_nan_never_agrees(tmp_path: Path, name: str, entries: slice) -> None:
    source = golden("var_shared_nol2")
    nan = tensor(source, name).clone()
    nan.view(-1)[entries] = torch.nan
    report = verify(rewrite(source, tmp_path / "x.safetensors", {name: nan}))
    assert not report.ok
    told = " ".join([report.reason, *(row.note for row in report.rows)])
    assert "NaN stored" in told or f"NaN in {name}" in told


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.complex64, torch.bool, torch.int64])
@pytest.mark.parametrize("name", ["in/image", "state/var/head.weight", "out/gen/logits_1"])
def test_numbers_of_another_kind_never_agree(tmp_path: Path, kind: torch.dtype, name: str) -> None:
    source = golden("var_shared_nol2")
    assert not verify(rewrite(source, tmp_path / "x.safetensors", {name: tensor(source, name).to(kind)})).ok


def test_files_for_others_are_known_as_such_and_damaged_ones_are_not(tmp_path: Path) -> None:
    source = golden("quantizer_256")
    cases: dict[str, tuple[dict[str, str], bool]] = {
        "system": ({"system": "nobody"}, False),
        "kind": ({"kind": "later"}, False),
        "format": ({"format": "2"}, False),
        "config": ({"config": "{}"}, True),
        "unreadable": ({"config": "["}, True),
    }
    for name, (metadata, known) in cases.items():
        report = verify(rewrite(source, tmp_path / f"{name}.safetensors", metadata=metadata))
        assert (report.known, report.ok, bool(report.reason)) == (known, False, True)
    shutil.copy(source, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:-1])
    assert verify(tmp_path / "cut.safetensors").known


def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path: Path) -> None:
    config = json.loads(json.dumps(read_vectors(golden("var_shared_nol2")).config))
    config["var"]["depth"] = 3
    report = verify(
        rewrite(golden("var_shared_nol2"), tmp_path / "x.safetensors", metadata={"config": json.dumps(config)})
    )
    assert "depth 3, but its tensors show 2" in report.reason
    assert not report.ok


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"system": "other"}, "unknown system 'other'"),
        ({"kind": "other"}, "unknown kind 'other' of var"),
        ({"format": "7"}, "format '7'"),
        ({"config": "{}"}, "lacks 'quantizer'"),
        ({"config": '{"quantizer": {}}'}, "broke off: KeyError: 'v_patch_nums'"),
    ],
)
def test_what_is_not_understood_gets_a_reason(tmp_path: Path, metadata: dict[str, str], reason: str) -> None:
    report = verify(rewrite(golden("quantizer_256"), tmp_path / "x.safetensors", metadata=metadata))
    assert reason in report.reason
    assert not report.ok


def test_a_missing_input_gets_a_reason_and_a_truncated_file_does_not_stop_the_others(tmp_path: Path) -> None:
    short = rewrite(golden("sampling"), tmp_path / "a.safetensors", {"in/exp_noise": None})
    cut = tmp_path / "b.safetensors"
    cut.write_bytes(golden("sampling").read_bytes()[:5000])
    outputs = dict.fromkeys(f"out/{name}" for name in read_vectors(golden("sampling")).outputs)
    empty = rewrite(golden("sampling"), tmp_path / "c.safetensors", outputs)
    reports = verify_files([short, cut, empty, tmp_path / "nowhere", golden("sampling")])
    assert [report.ok for report in reports] == [False, False, False, False, True]
    for report, part in zip(
        reports, ("lacks the input in/exp_noise", "not a whole", "no outputs", "missing"), strict=False
    ):
        assert part in report.reason
