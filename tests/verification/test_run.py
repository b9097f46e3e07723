"""Every vector file passes, and every way of being wrong shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
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
    assert {metadata_of(path)["kind"] for path in all_files()} >= {"quantizer", "tokenizer", "sampling", "var"}


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
    assert "lacks the tensor quantize.quant_resi.qresi_ls.1" in report.reason
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
