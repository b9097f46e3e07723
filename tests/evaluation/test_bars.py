"""Real drawings in the place of drawn pictures: those that were asked for reach every bar, and others miss the bar that
is there to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextscale.data.folder import load_data
from nextscale.evaluation.bars import CELLS, FAMILIES, SEEN, BarsReport, judge_bars
from nextscale.evaluation.bench import DRAWN, KEPT, KIN, NO_STYLE, NO_TEXT, REAL, SEEDS, Bench
from nextscale.evaluation.drawings import Drawings, Kin
from nextscale.evaluation.prompts import Asked, Prompts, in_turn
from nextscale.evaluation.subject import Judge, no_progress
from nextscale.measures.retrieval import Share
from nextscale.measures.tokenizer import Step
from tests.evaluation import cells
from tests.evaluation.conftest import tiny_classifier
from tests.makers import tiny_bitwise

PICTURES = 400
Rows = Callable[[Drawings, Prompts], list[int]]


class Faithful(Bench):
    """With a tokenizer that keeps everything."""

    def kept(self, rows: Sequence[int]) -> Tensor:
        return self.galleries.features[list(rows)][None]


@pytest.fixture(scope="module")
def drawings(emoji_cells: Path) -> Drawings:
    return Drawings.of(
        emoji_cells, *(load_data(emoji_cells, 16, split, captions=True) for split in ("heldout", "train"))
    )


@pytest.fixture(scope="module")
def bench(drawings: Drawings) -> Bench:
    """With a classifier whose styles are fitted to the drawings."""
    network = tiny_classifier(cells.CLASSES, cells.STYLES[::-1])

    def nothing(prompts: Prompts, step: Step) -> Tensor:
        raise AssertionError

    bench = Faithful.of(nothing, tiny_bitwise(), Judge("classifier", "aaaabbbbcccc", network), drawings, no_progress)
    known = torch.nn.functional.pad(bench.galleries.features, (0, 1), value=1.0)
    styles = torch.tensor([[record["style"] == style for style in cells.STYLES[::-1]] for record in drawings.records])
    fitted = torch.linalg.lstsq(known, styles.float()).solution.T
    network.head.weight[-3:], network.head.bias[-3:] = fitted[:, :-1], fitted[:, -1]
    return bench


def judged(bench: Bench, rows: Rows, negatives: bool = True) -> BarsReport:
    """What is said of the drawings ``rows``, of the same ones for each seed; of emoji that nothing is asked for, it is
    always the first one.
    """
    drawings = bench.drawings

    def draw(prompts: Prompts, step: Step) -> Tensor:
        shown = [0] * len(prompts) if prompts.texts[0] == "" else rows(drawings, prompts)
        return drawings.pixels(torch.tensor(shown * SEEDS))

    return judge_bars(replace(bench, draw=draw), PICTURES, {"top_p": 0.9}, negatives)[0]


def own(drawings: Drawings, prompts: Prompts) -> list[int]:
    return list(prompts.rows)


def kin(kind: Kin) -> Rows:
    return lambda drawings, prompts: [(drawings.kin(row, kind) or [row])[0] for row in prompts.rows]


def met(report: BarsReport) -> dict[str, bool]:
    return {bar.name[:10]: bar.met for bar in report.bars}


def obedient(drawings: Drawings, prompts: Prompts) -> list[int]:
    """The drawing that was asked for; without a style, Twemoji's where it was seen, unless that is the negative prompt,
    else another style's; of "no fox" without "no", the fox.
    """
    found = list[int]()
    for text, row in zip(prompts.texts, prompts.rows, strict=True):
        name, style = drawings.records[row]["name"], drawings.records[row]["style"]
        if text == name:  # no style is said
            style = "noto" if prompts.negative else "twemoji"
            if drawings.sides[row] == "cell":
                style = next(one for one in cells.STYLES if one != drawings.records[row]["style"])
        found.append(drawings.named[name if "no fox" in text or name != "no fox" else "fox", style])
    return found


def test_drawings_that_were_asked_for_reach_every_bar(bench: Bench) -> None:
    """Held-out drawings are no near copies, but for the hundredth of them by which near copies are told."""
    report = judged(bench, obedient)
    bars = {bar.name: bar for bar in report.bars}
    assert [name[:3] for name in bars] == sorted(name[:3] for name in bars)
    assert {name[:3] for name in bars} == {"(a)", "(b)", "(c)", "(e)", "(f)", "(g)"}
    assert [name for name, bar in bars.items() if not bar.met and "empty" not in name] == []
    for one in report.retrievals:
        assert one.rows[DRAWN] == replace(one.rows[DRAWN], five=replace(one.rows[DRAWN].five, value=1.0))
        assert one.rows[REAL].first.value == one.rows[DRAWN].first.value == 1
        assert one.rows[KEPT].five.spread is None
        assert one.rows[DRAWN].five.images == SEEDS * one.prompts
    assert report.negation is not None
    assert report.negation.nearer.value == report.negation.whole.value == 1
    assert report.left_out == ()


def test_what_a_tokenizer_keeps_is_the_measure(bench: Bench, drawings: Drawings) -> None:
    """Where that is nothing, nothing can be reached."""
    rows, tokenizer = Asked.of(drawings, 4).seen.rows, bench.tokenizer
    pixels = drawings.pixels(torch.tensor(rows)) / 127.5 - 1
    kept = tokenizer.decode(tokenizer.encode(tokenizer.latent(pixels)).canvas)
    expected = bench.judge.network.features(kept.repeat_interleave(4, 2).repeat_interleave(4, 3))  # 64 pixels by area
    assert torch.allclose(Bench.kept(bench, rows)[0], expected, atol=1e-4)
    blind = Bench(bench.draw, tokenizer, bench.judge, bench.galleries, no_progress)
    report = judged(blind, own)
    assert report.retrievals[0].rows[KEPT].first.value == 0
    assert not met(report)["(a) seen: "]


def test_another_style_scores_nothing_where_the_style_was_held_out(bench: Bench) -> None:
    """It is often found among the first five, which is why cells ask for more."""
    report = judged(bench, kin("style"))
    seen, of_cells, _ = report.retrievals
    for one in (seen, of_cells):
        assert one.rows[DRAWN].own == one.rows[KIN["style"]].own == Share(0.0, 0.0, SEEDS * one.prompts)
    assert not met(report)["(b) cells:"]
    assert of_cells.copies is not None
    assert of_cells.copies.value == 1  # of cells, all other styles are trained on


def test_near_copies_of_training_pictures_are_misses(bench: Bench, drawings: Drawings) -> None:
    """Where a training picture has the features of a held-out one, drawing it is found, but it is not new."""
    features = bench.galleries.features.clone()
    cell = Asked.of(drawings, 100).cells.rows[0]
    features[drawings.sides.index("train")] = features[cell]
    twice = replace(bench, galleries=replace(bench.galleries, features=features))
    before, after = (judged(one, own).retrievals[1].rows[DRAWN] for one in (bench, twice))
    assert before.own is not None
    assert before.new is not None
    assert after.new is not None
    assert after.new.value < before.own.value == 1


def test_pictures_that_ignore_the_style_or_the_order_of_words_miss_their_bars(bench: Bench, drawings: Drawings) -> None:
    twins = dict(zip(Asked.of(drawings, 100).ordered.rows, Asked.of(drawings, 100).twins, strict=True))
    report = judged(bench, lambda d, prompts: [twins.get(row, row) for row in prompts.rows])
    assert report.order is not None
    assert (report.order.prompts, report.order.drawn.value) == (2, 0)
    assert not met(report)["(f) nearer"]
    assert not met(judged(bench, own))["(g) recogn"]  # the negative prompt takes nothing away
    unstyled = next(bar for bar in judged(bench, own).bars if "without the style word" in bar.name)
    assert not unstyled.met  # the style cannot come from the word that was left out


def test_what_is_missing_is_said(bench: Bench, tmp_path: Path, drawings: Drawings) -> None:
    report = judged(bench, own, negatives=False)
    assert report.left_out == (
        "negative prompts have no say with these settings (guidance scale 1, say): (g) is left out",
    )
    blind = replace(bench, judge=replace(bench.judge, network=tiny_classifier(cells.CLASSES)))
    report = judged(blind, own)
    assert report.retrievals[0].rows[DRAWN].style is None
    assert report.left_out == tuple(
        f"the classifier does not know the styles of the set: ({letter}) is left out" for letter in "cg"
    )
    rows = [i for i, record in enumerate(drawings.records) if record["style"] == "noto" and record["name"] == "hammer"]
    few = Drawings(
        [drawings.records[i] for i in rows], ["train"], ["a hammer"], lambda at: drawings.pixels(at + rows[0])
    )
    galleries = replace(bench.galleries, drawings=few, features=bench.galleries.features[rows])
    report = judged(replace(bench, galleries=galleries), own)
    assert report.retrievals[0].rows[DRAWN].own is None
    assert {bar.name[:3] for bar in report.bars} == {"(a)", "(c)"}
    assert [sentence.split(":")[0] for sentence in report.left_out] == [
        f"the set has no {CELLS}",
        f"the set has no {FAMILIES}",
        "no two names of seen emoji have the same words in another order",
        "the set is not drawn in the style twemoji",
    ]
    nothing = Drawings(few.records, ["family"], few.texts, few.pixels)
    report = judged(replace(bench, galleries=replace(galleries, drawings=nothing)), own)
    assert (report.bars, report.left_out) == ((), ("all emoji of the set are held out: the bars are left out",))


def test_prompts_are_chosen_style_after_style_and_every_family_once(drawings: Drawings) -> None:
    asked = Asked.of(drawings, 100)
    records = [drawings.records[row] for row in asked.seen.rows]
    assert len({record["family"] for record in records}) == len(records) == len(cells.SEEN) + len(cells.STYLES)
    assert [record["style"] for record in records[:6]] == [*cells.STYLES] * 2
    assert {drawings.sides[row] for row in asked.seen.rows} == {"train"}
    assert {(drawings.records[row]["style"], drawings.sides[row]) for row in asked.cells.rows} == {
        (style, "cell") for style in cells.STYLES
    }
    assert not any(drawings.records[row]["tones"] for row in (*asked.seen.rows, *asked.cells.rows))
    assert {drawings.records[row]["class"] for row in asked.seen.rows} == {"animal", "tool"}
    assert asked.seen.rows[:4] == Asked.of(drawings, 4).seen.rows == Asked.of(drawings, 4).seen.rows
    assert in_turn(drawings, [], 3) == []


def test_prompts_say_the_style_unless_they_shall_not(drawings: Drawings) -> None:
    asked = Asked.of(drawings, 100)
    for text, row in zip(asked.seen.texts, asked.seen.rows, strict=True):
        assert drawings.records[row]["name"] in text
        assert drawings.records[row]["style"] in text
    assert asked.seen.without_style(drawings).texts == tuple(drawings.records[row]["name"] for row in asked.seen.rows)
    assert asked.seen.without_text().texts == ("",) * len(asked.seen)
    assert [drawings.records[row]["name"] for row in asked.negated.rows] == ["no fox"]
    assert asked.affirmed.texts == (asked.negated.texts[0].replace("no fox", "fox"),)
    names = {
        (drawings.records[a]["name"], drawings.records[b]["name"]) for a, b in zip(asked.ordered.rows, asked.twins)
    }
    assert names == {("left saw right", "right saw left"), ("right saw left", "left saw right")}


def test_controls_are_real_drawings_of_the_same_style(drawings: Drawings) -> None:
    for row in drawings.asked("train"):
        record = drawings.records[row]
        kinds: tuple[Kin, ...] = ("class", "family")
        for kind in kinds:
            for other in drawings.kin(row, kind):
                assert drawings.records[other]["name"] != record["name"]
                assert not drawings.records[other]["tones"]
                assert all(drawings.records[other][same] == record[same] for same in (kind, "style"))
        others = [drawings.records[other] for other in drawings.kin(row, "style")]
        assert {other["style"] for other in others} == {*cells.STYLES} - {record["style"]}
        assert {other["name"] for other in others} == {record["name"]}


def test_a_sheet_shows_pictures_beside_their_own_drawings(bench: Bench, drawings: Drawings) -> None:
    prompts = Asked.of(drawings, 100).seen
    drawing = replace(bench, draw=lambda prompts, step: drawings.pixels(torch.tensor(list(prompts.rows) * SEEDS)))
    sheet = drawing.sheet(drawing.drawn(prompts, SEEN))
    assert torch.equal(sheet.pictures, sheet.own)
    assert torch.equal(sheet.own, sheet.nearest)
    assert [label[0] for label in sheet.labels] == [label[2] for label in sheet.labels]
    assert {label[1] for label in sheet.labels} == {f"{style}, place 1" for style in cells.STYLES}
    assert {label[0] for label in sheet.labels} == {drawings.records[row]["name"] for row in prompts.rows}
    assert sheet.picture().width > 400


def test_the_rows_of_both_sides_read_the_pictures_of_their_records(emoji_cells: Path, drawings: Drawings) -> None:
    for row in (0, 11, 20, len(drawings) - 1):
        record = drawings.records[row]
        expected = torch.from_numpy(cells.pattern(record["name"], record["style"], 16).copy()).permute(2, 0, 1)
        assert torch.equal(drawings.pixels(torch.tensor([row]))[0], expected)
    assert NO_STYLE != NO_TEXT
