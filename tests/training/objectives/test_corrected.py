"""A text model of bits is taught as the official code does it: bits turned over, words and sizes drawn at each step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nextscale.conditions.base import Features, Source
from nextscale.data.captions import wordings
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded
from nextscale.tokenizers.bitwise import BitwiseTokenizer
from nextscale.training.latents import latents_of
from nextscale.training.objectives.corrected import CorrectedData, CorrectionSection
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.objectives.images import to_signed
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.objectives.teacher_forcing import teacher_forcing, token_weights
from nextscale.training.order import SampleNoise
from nextscale.training.start import start
from nextscale.verification.bitwise import tokenizer_of
from nextscale.verification.infinity import model_of
from nextscale.verification.vectors import VectorFile, read_vectors
from tests.training.tiny import SCHEDULES, TINY_INFINITY, of_world
from tests.verification.golden import golden

SEVERAL = ["data.resolution=null", f"data.schedules={SCHEDULES}", "data.lengths=[2, 3]"]


def objective(world: Path, run: Path, *more: str) -> GeneratorObjective:
    overrides = [*TINY_INFINITY, *of_world(world), *more]
    found = start("infinity", "infinity-125m", world / "pictures", run, str(world / "tokenizer"), overrides, "cpu")
    assert isinstance(found.objective, GeneratorObjective)
    return found.objective


def data_of(goal: GeneratorObjective) -> CorrectedData:
    assert isinstance(goal.data, CorrectedData)
    return goal.data


def noise_of(step: int, batch: int = 4, part: slice = slice(None)) -> SampleNoise:
    return SampleNoise(0, step, batch, part)


class Stored(CorrectedData):
    """The latents and the turned bits of a vector file."""

    def __init__(self, file: VectorFile, tokenizer: BitwiseTokenizer, schedule: ScaleSchedule) -> None:
        self.tokenizer, self.schedules, self.lengths = tokenizer, (schedule,), (len(schedule),)
        self.device, self.file, self.correction = torch.device("cpu"), file, self  # type: ignore[assignment]
        self.images = self  # type: ignore[assignment]
        self.shape_labels = torch.zeros(2, dtype=torch.int64)

    def _latents(self, rows: Tensor, variant: Tensor, schedule: ScaleSchedule, noise: SampleNoise) -> Tensor:
        return self.tokenizer.latent(self.file.input("image"))

    def flips(self, schedule: ScaleSchedule, bits: int, noise: SampleNoise) -> list[Tensor]:
        found = [self.file.input(f"tf/flip_{k}") for k in range(len(schedule))]
        assert isinstance(self.tokenizer, BitwiseTokenizer)
        return [self.tokenizer.gather(one.float()) > 0.5 for one in found]


def test_labels_inputs_and_loss_are_the_official_ones() -> None:
    """Bits turned over, a dropped text, weights of scales; the tokens of this one are 2x2 latent positions."""
    file = read_vectors(golden("infinity_patchify_tall", "infinity"))
    schedule, reference = (ScaleSchedule.of(file.config[name]) for name in ("schedule", "rope_reference_schedule"))
    tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"), schedule, True)
    model = model_of(file.section("infinity"), file.model_state("infinity"), schedule, reference)
    encoded = Stored(file, tokenizer, schedule).encoded(torch.arange(2), torch.zeros(2), noise_of(0, 2))
    close = partial(torch.testing.assert_close, rtol=file.tolerance, atol=file.tolerance)
    close(
        torch.cat([t.flatten(1, 2) for t in encoded.tokens], 1).to(file.outputs["tf/labels"]), file.outputs["tf/labels"]
    )
    close(torch.cat([x.flatten(2).mT for x in encoded.inputs], 1), file.outputs["tf/next_input"])
    text = Source("text", {"states": file.input("text"), "mask": file.input("text_mask")})
    features = Features(2, {"text": text}).drop("text", torch.tensor([True, False]))
    pupil = Pupil(model, noise_of(0, 2))
    loss, _ = teacher_forcing(pupil, encoded, features, noise_of(0, 2), scale_weights="balanced")
    close(loss, file.outputs["train/reweight_dropped/loss"])


def test_each_scale_of_a_step_has_one_share_for_all_images() -> None:
    schedule, drawn = ScaleSchedule.of([1, 8, 8, 16]), []
    for step in range(60):
        whole = CorrectionSection(strength=0.3, scales=3).flips(schedule, 32, noise_of(step))
        half = CorrectionSection(strength=0.3, scales=3).flips(schedule, 32, noise_of(step, 4, slice(2, 4)))
        assert [tuple(one.shape) for one in whole] == [(4, h, w, 32) for h, w in schedule.sizes[:3]]
        assert all(torch.equal(a[2:], b) for a, b in zip(whole, half, strict=True))  # however a batch is split
        drawn += [one.float().mean((1, 2, 3)) for one in whole[1:]]
    shares = torch.stack(drawn)  # of 2,048 bits each
    assert float((shares - shares.mean(1, keepdim=True)).abs().max()) < 0.06  # the same for all images
    assert float(shares.mean()) == pytest.approx(0.15, abs=0.03)
    assert float(shares.min()) == 0
    assert float(shares.max()) == pytest.approx(0.3, abs=0.04)
    assert CorrectionSection(strength=0).flips(schedule, 32, noise_of(0)) == []
    assert CorrectionSection(scales=0).flips(schedule, 32, noise_of(0)) == []


@pytest.fixture(scope="module")
def several(world: Path, tmp_path_factory: pytest.TempPathFactory) -> GeneratorObjective:
    """Of two shapes and two sizes."""
    return objective(
        world, tmp_path_factory.mktemp("several") / "run", *SEVERAL, "loss.label_drop=0.5", "data.copies=1"
    )


def test_later_labels_correct_what_was_turned_over(
    several: GeneratorObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, rows = data_of(several), torch.tensor([0, 1])

    def found(k: int | None) -> Encoded:
        def flips(self: CorrectionSection, schedule: ScaleSchedule, bits: int, noise: SampleNoise) -> list[Tensor]:
            return [torch.full((2, h, w, bits), j == k) for j, (h, w) in enumerate(schedule)]

        monkeypatch.setattr(CorrectionSection, "flips", flips)
        return data.encoded(rows, torch.zeros(2), noise_of(step))

    step = next(i for i in range(99) if data._length(noise_of(i)) == 3)
    plain, first, last = found(None), found(0), found(2)
    assert torch.equal(plain.tokens[0], first.tokens[0])  # labels are noted before
    assert not torch.equal(plain.tokens[1], first.tokens[1])
    assert all(torch.equal(a, b) for a, b in zip(plain.tokens + plain.inputs, last.tokens + last.inputs, strict=True))


def test_a_step_has_one_shape_and_one_size(several: GeneratorObjective) -> None:
    """Whatever part of the batch it is; cached latents are those of the image, resized."""
    data, sizes = data_of(several), set()
    for row in (0, 3):
        for step in range(6):
            rows = torch.tensor([row, row])
            parts = [data.encoded(rows, torch.zeros(2), noise_of(step, 4, part)) for part in (slice(0, 2), slice(2, 4))]
            assert parts[0].canvas.schedule == parts[1].canvas.schedule
            sizes.add(parts[0].canvas.schedule.grid)
    assert sizes == {(2, 2), (4, 4), (3, 2), (6, 4)}
    schedule, rows = ScaleSchedule.of(SCHEDULES[1]).prefix(2), torch.tensor([3, 7])  # type: ignore[arg-type]
    wanted = latents_of(data.tokenizer, to_signed(data.images.read(rows), data.device), schedule)
    assert tuple(wanted.shape[1:]) == (6, 3, 2)
    assert data.latents is not None
    assert torch.allclose(data.latents.read(rows * 0, rows, schedule, (6, 3, 2)), wanted, rtol=1e-3, atol=1e-3)


def test_latents_are_kept_as_half_floats_and_texts_in_one_file(world: Path, tmp_path: Path) -> None:
    objective(world, tmp_path / "run", *SEVERAL, "data.copies=2", "data.flip=0.5")
    files = sorted((tmp_path / "run" / "tokens").glob("latents-*"))
    assert len(files) == 2 * 2 * 2 + 2  # copies, shapes, sizes; held-out images in the finer size
    assert {load_file(file)["latents"].dtype for file in files} == {torch.float16}
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "tokens").iterdir()}
    objective(world, tmp_path / "again", *SEVERAL, "data.copies=2", "data.flip=0.5", "run.seed=4")
    again = {file.name for file in (tmp_path / "again" / "tokens").iterdir()}
    assert again == {file.name for file in before}  # names say what they hold
    assert len([name for name in again if name.startswith("texts-")]) == 1


def test_words_are_drawn_at_every_step_and_dropped_in_training_alone(several: GeneratorObjective) -> None:
    data, said, dropped = data_of(several), list[str](), list[Tensor]()

    def hear(texts: list[str]) -> Features:
        said.extend(texts)
        return hidden(texts)

    hidden, data._features = data._features, hear  # type: ignore[method-assign, assignment]
    row = next(i for i, one in enumerate(data.captions) if one.long)
    for step in range(40):
        _, features = data.choose(torch.full((4,), row), noise_of(step))
        found = features.sources["text"].dropped
        assert found is not None
        dropped.append(found)
    assert set(said) == set(wordings(data.captions[row]))
    assert 0.4 < said.count(data.captions[row].text) / len(said) < 0.6
    assert float(torch.stack(dropped).float().mean()) == pytest.approx(0.5, abs=0.1)
    said.clear()
    for _, features in data.heldout():
        found = features.sources["text"].dropped
        assert found is not None
        assert not found.any()
    assert sorted(said) == sorted(one.text for one in data._heldout_captions)


def test_texts_are_the_same_encoded_before_or_anew(several: GeneratorObjective, world: Path, tmp_path: Path) -> None:
    anew = data_of(objective(world, tmp_path / "run", *SEVERAL, "data.texts=anew", "data.copies=0"))
    texts = [one.text for one in anew.captions[:3]]
    a, b = (one._features(texts).sources["text"].tensors["states"] for one in (anew, data_of(several)))
    assert torch.equal(a, b)


def test_held_out_scores_are_means_over_all_tokens_of_all_shapes(several: GeneratorObjective) -> None:
    metrics, model = several.validate(several.module.eval()), several.module
    total, hits, tokens = 0.0, 0.0, 0
    with torch.no_grad():
        for encoded, features in several.data.heldout():
            schedule = encoded.canvas.schedule
            logits = model(encoded.inputs, model.condition(features), schedule)
            truth = torch.cat([t.flatten(1, 2) for t in encoded.tokens], 1)
            surprise = -logits.log_softmax(-1).gather(-1, truth[..., None])[..., 0]
            total, hits = (
                total + float(surprise.mean(-1).sum()),
                hits + float((surprise < 0.6931471).float().mean(-1).sum()),
            )
            tokens += truth.shape[0] * truth.shape[1]
    assert metrics["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(hits / tokens, rel=1e-5)
    assert "loss_2" in metrics
    assert several.ignorance["loss"] == pytest.approx(0.693147, abs=1e-6)  # of a bit


def test_balanced_weights_are_the_roots_of_the_tokens_and_a_shorter_step_takes_the_first_ones() -> None:
    schedule = ScaleSchedule.of([1, 2, [4, 2]])
    weights = token_weights("balanced", schedule)
    assert torch.allclose(weights, token_weights([1, 1 / 2, 8**-0.5], schedule))
    assert float(weights.mean()) == pytest.approx(1)
    assert torch.equal(
        token_weights([3.0, 1.0, 9.0], schedule.prefix(2)), token_weights([3.0, 1.0], schedule.prefix(2))
    )
