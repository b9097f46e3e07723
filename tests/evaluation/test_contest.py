"""A contest's rows are what its definitions say: who does nothing wins nothing, and the table says what JSON says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nextscale.data.folder import load_data
from nextscale.errors import InputError, PlanError
from nextscale.evaluation.contest import Contest, Entrant, Sheet, Standing, contest, contest_of_costs
from nextscale.evaluation.contest_pictures import sheet, unbeaten
from nextscale.evaluation.contest_table import COST, QUALITY, cells, contest_text
from nextscale.evaluation.generated import balanced_rows, draw_images
from nextscale.evaluation.subject import Judge, Subject, labels_of
from nextscale.generate import generate
from nextscale.measures.generator import score_generator
from nextscale.measures.tokenizer import encode_all
from nextscale.methods.baselines import window
from nextscale.methods.refine import refined_plan
from nextscale.plan import default_plan
from nextscale.sampling import IndependentNoise
from tests.makers import tiny_m_var, tiny_pipeline_of_styles, tiny_tokenizer, tiny_var

PICTURES, BATCH = 20, 4


def plain_of(subject: Subject, kind: str = "plain") -> Entrant:
    assert subject.model is not None
    plan = refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    return Entrant(kind, kind, subject, plan, default_plan(subject.model))


def entrants_of(subject: Subject) -> list[Entrant]:
    plain, found = plain_of(subject), [plain_of(subject)]
    for budget in (1.0, 3):
        plan, told = (window(one, budget) for one in (plain.plan, plain.told))
        found.append(replace(plain, name=f"window:{budget:g}", kind="method", plan=plan, told=told))
    other = tiny_pipeline_of_styles()
    control = replace(subject, name="smaller", tokenizer=other.tokenizer, model=other.model)
    return [*found, replace(plain_of(control, "control"), name="smaller")]


@dataclass(frozen=True)
class Held:
    entrants: list[Entrant]
    found: Contest
    sheets: dict[str, Sheet]

    def row(self, name: str) -> Standing:
        return next(row for row in self.found.rows if row.name == name)


@pytest.fixture(scope="module")
def held(styled: Subject, judge: Judge, emoji: Path) -> Held:
    entrants = entrants_of(styled)
    return Held(entrants, *contest(entrants, emoji, judge, PICTURES, BATCH, 1))


def test_a_full_budget_is_the_plain_model(held: Held) -> None:
    plain, full = held.row("plain"), held.row("window:1")
    for name in ("flops", "live", "most", "peak", "kept", "attended"):
        assert getattr(plain.cost, name) == getattr(full.cost, name)
    assert (full.seen, full.loss) == (plain.seen, plain.loss)
    assert full.more is not None
    assert (full.more.value, full.more.error) == (0, 0)
    assert full.fidelity == plain.fidelity
    assert plain.fidelity is not None
    assert (plain.fidelity.same, plain.fidelity.psnr) == (1, 100)
    assert {"plain", "window:1"}.isdisjoint(held.sheets)


def test_what_changes_pictures_shows_them(held: Held, styled: Subject, emoji: Path) -> None:
    cut = held.row("window:3")
    assert cut.fidelity is not None
    assert 0 < cut.fidelity.same < 1
    assert cut.fidelity.psnr < 100
    assert {*held.sheets} == {"window:3", "smaller"}
    data = load_data(emoji, 16, "heldout")
    assert styled.vocabulary is not None
    labels = labels_of(styled.vocabulary, data)
    rows = balanced_rows(data.labels * 3 + data.style_labels, PICTURES)
    pictures = held.sheets["window:3"]
    for there, entrant in ((pictures.plain, held.entrants[0]), (pictures.drawn, held.entrants[2])):
        assert torch.equal(there, draw_images(styled, entrant.plan, labels[rows]))
    picture = sheet("window:3", pictures)
    assert picture.width > 8 * 64
    assert picture.height > 4 * 64


def test_the_plain_loss_is_that_of_teacher_forcing_on_the_images_that_lend_their_labels(
    held: Held, styled: Subject, emoji: Path
) -> None:
    data = load_data(emoji, 16, "heldout")
    rows = balanced_rows(data.labels * 3 + data.style_labels, PICTURES).unique()
    assert styled.model is not None
    tokens, shown = encode_all(styled.tokenizer, data, rows=rows), styled.shown(data)
    expected = score_generator(styled.model, styled.tokenizer, tokens, lambda some: shown(rows[some]))
    assert held.row("plain").loss == pytest.approx(expected.total.loss, rel=1e-5)
    assert held.found.settings["held_out"] == len(rows)
    cut = held.row("window:3")
    assert cut.more is not None
    per_image = (cut.loss - held.row("plain").loss) * styled.model.schedule.tokens  # type: ignore[operator]
    assert cut.more.value == pytest.approx(per_image, rel=1e-3)


def test_a_classifier_says_what_is_in_the_pictures(held: Held, judge: Judge, emoji: Path) -> None:
    data = load_data(emoji, 16, "heldout")
    rows = balanced_rows(data.labels * 3 + data.style_labels, PICTURES)
    said = judge.network(held.sheets["window:3"].drawn / 127.5 - 1)
    named = [judge.network.config.names[i] for i in said.classes.argmax(-1).tolist()]
    styles = [judge.network.config.styles[i] for i in said.styles.argmax(-1).tolist()]
    seen = held.row("window:3").seen
    assert seen is not None
    assert seen.styles is not None
    right = [name == data.classes[data.labels[row]] for name, row in zip(named, rows.tolist(), strict=True)]
    assert seen.classes.value == pytest.approx(sum(right) / PICTURES)
    right = [name == data.styles[data.style_labels[row]] for name, row in zip(styles, rows.tolist(), strict=True)]
    assert seen.styles.value == pytest.approx(sum(right) / PICTURES)
    assert held.found.real is not None
    assert held.found.real.frechet == pytest.approx(0, abs=1e-6)
    assert seen.frechet > 0


def test_bytes_are_those_of_the_live_memory(held: Held, styled: Subject, emoji: Path) -> None:
    shown = styled.shown(load_data(emoji, 16, "heldout"))(torch.arange(BATCH))
    for entrant in held.entrants[:3]:
        noise = IndependentNoise(list(range(BATCH)))
        live = [event.memory.live_bytes for event in generate(entrant.plan, entrant.parts, shown, noise)]
        cost = held.row(entrant.name).cost
        assert (live[-1], max(live)) == (cost.live, cost.most)
        assert cost.peak > cost.most


PATHS = {
    "class named, %": ("seen", "classes", "value"),
    "style named, %": ("seen", "styles", "value"),
    "Frechet": ("seen", "frechet"),
    "loss": ("loss",),
    "more, nats/image": ("more", "value"),
    "PSNR, dB": ("fidelity", "psnr"),
    "equal tokens, %": ("fidelity", "same"),
    "last scale, %": ("fidelity", "same_last"),
    "ms/picture": ("cost", "seconds"),
    "fastest": ("cost", "fastest"),
    "slowest": ("cost", "slowest"),
    "undecoded": ("cost", "undecoded"),
    "GFLOPs": ("cost", "flops"),
    "attended": ("cost", "attended"),
    "kept": ("cost", "kept"),
    "memory MiB, end": ("cost", "live"),
    "most": ("cost", "most"),
    "peak MiB": ("cost", "peak"),
}
UNITS = {"cost.seconds": 1e3, "cost.fastest": 1e3, "cost.slowest": 1e3, "cost.undecoded": 1e3, "cost.flops": 1e-9}
UNITS |= {"cost.live": 2**-20, "cost.most": 2**-20, "cost.peak": 2**-20, "fidelity.same": 100}
UNITS |= {"fidelity.same_last": 100, "seen.classes.value": 100, "seen.styles.value": 100}


def test_the_table_says_what_the_json_says(held: Held) -> None:
    told, text = json.loads(json.dumps(held.found.to_dict())), contest_text(held.found)
    checked = 0
    for columns in (QUALITY, COST):
        head, *lines = cells(held.found, columns)
        assert all(" ".join(line) in " ".join(text.split()) for line in ([*line] for line in lines))
        for line, row in zip(lines, told["rows"], strict=True):
            assert line[0] == row["name"]
            for name, cell in zip(head[1:], line[1:], strict=True):
                if name == "/ plain":
                    value = row["cost"]["undecoded"] / told["rows"][0]["cost"]["undecoded"]
                else:
                    value = row
                    for key in PATHS[name]:
                        value = value and value[key]
                    value = value and value * UNITS.get(".".join(PATHS[name]), 1)
                if cell == "-":
                    assert not value
                    continue
                number = cell.split()[0].replace(",", "")
                digits = len(number.partition(".")[2])
                assert float(number) == pytest.approx(value, abs=0.51 * 10**-digits)
                checked += 1
    assert checked > 60
    assert re.search(r"smaller takes [\d.]+ ms a picture; nearest to it in time is window:\d", text)


def test_costs_alone_need_no_pictures(styled: Subject) -> None:
    found = contest_of_costs(entrants_of(styled)[:3], BATCH, 1)
    assert [row.name for row in found.rows] == ["plain", "window:1", "window:3"]
    assert found.rows[2].cost.most < found.rows[0].cost.most
    assert all(row.seen is None and row.loss is None and row.fidelity is None for row in found.rows)
    assert "Frechet" not in contest_text(found)


def test_what_cannot_be_held_is_refused_before_anything_runs(styled: Subject, judge: Judge, emoji: Path) -> None:
    plain, state = plain_of(styled), replace(styled, model=tiny_m_var(), tokenizer=tiny_tokenizer())
    cut = replace(plain_of(state), kind="method", plan=window(default_plan(tiny_var()), 3))
    with pytest.raises(PlanError, match="memory 'window' keeps keys and values"):
        contest([plain, cut], emoji, judge, PICTURES, BATCH, 1)
    with pytest.raises(InputError, match="1 pictures and 36 held-out images; expected at least 2 of each"):
        contest([plain], emoji, judge, 1, BATCH, 1)


def test_a_row_is_beaten_by_one_that_is_cheaper_and_better() -> None:
    points = [(3.0, 9.0), (1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (4.0, 9.0)]
    assert unbeaten(points) == [(1.0, 5.0), (2.0, 6.0), (3.0, 9.0)]
