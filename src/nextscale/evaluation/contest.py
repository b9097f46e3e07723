"""Ways to run a model held against each other in one run: what pictures they draw, and what they cost.

The first entrant is the plain model. The others run it by some method, or are other models, a smaller control among
them; all draw the same classes or texts with the same seeds, and their times are measured in turns.
``contest_table.py`` makes text of what is found, ``contest_pictures.py`` pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nextscale import __version__
from nextscale.conditions.base import Features
from nextscale.data.emoji_reader import families_of
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData
from nextscale.device import busy
from nextscale.errors import InputError
from nextscale.evaluation.compare import reads_captions, same_weights
from nextscale.evaluation.eye import Eye, Seen
from nextscale.evaluation.generated import balanced_rows, label_name
from nextscale.evaluation.random_weights import ROLES
from nextscale.evaluation.speed import Contestant, Speed, generation_speeds
from nextscale.evaluation.subject import Judge, Progress, Subject, no_progress, square_resolution
from nextscale.generate import generate
from nextscale.measures.paired import Difference
from nextscale.measures.tokenizer import BATCH, Step, encode_all, psnr, silent
from nextscale.measures.told import score_plan
from nextscale.plan import Plan
from nextscale.price import Price, price
from nextscale.rehearse import rehearse
from nextscale.results import decode
from nextscale.sampling import IndependentNoise

FEWEST = 2
"""Pictures that a Frechet distance takes."""
Shown = Callable[[Tensor], Features]
"""What the held-out images ``rows`` (B,) show."""


@dataclass(frozen=True)
class Entrant:
    """One row of the contest.

    kind: "plain" (the first), "method", "model", or "control", a smaller plain model; plan: what draws; told: the same
    methods with one branch, by which held-out loss is measured; beside: parts that the plans name beside the networks.
    """

    name: str
    kind: str
    subject: Subject
    plan: Plan
    told: Plan
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Any]:
        return {"tokenizer": self.subject.tokenizer, "model": self.subject.model, **self.beside}


@dataclass(frozen=True)
class Cost:
    """seconds: per picture, of a batch with its pixels, the median of the rounds; slowest, fastest: rounds; undecoded:
    without the pixels; flops: per picture; attended, kept: tokens of the layers that see earlier scales, on average, at
    the last scale and before it; live, most: bytes of the batch's memory after the last scale, and at the most; peak:
    predicted bytes of the batch, weights and activations included.
    """

    seconds: float
    slowest: float
    fastest: float
    undecoded: float
    flops: int
    attended: float
    kept: float
    live: int
    most: int
    peak: int


@dataclass(frozen=True)
class Fidelity:
    """What became of the plain model's pictures at equal seeds: PSNR of the pictures in dB, mean, and the share of
    equal tokens (of bits, of equal bits), of all and of the last scale.
    """

    psnr: float
    same: float
    same_last: float


@dataclass(frozen=True)
class Standing:
    """What was measured of one entrant. seen: None without a classifier; loss: held-out, teacher-forced, in nats per
    draw of a token; more: its difference to the plain model's, in nats per image; None where tokens are other ones;
    fidelity: None for other models.
    """

    name: str
    kind: str
    model: str
    revision: str
    cost: Cost
    seen: Seen | None = None
    loss: float | None = None
    more: Difference | None = None
    fidelity: Fidelity | None = None


@dataclass(frozen=True)
class Contest:
    """Everything measured, and on what. real: what the classifier says of the held-out images that lend their labels;
    None without one.
    """

    settings: dict[str, Any]
    real: Seen | None
    rows: tuple[Standing, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything that the table shows, unrounded."""
        return asdict(self)


class Sheet(NamedTuple):
    """Pictures uint8 (N, 3, H, W) of the plain model and of another entrant, and what was asked for."""

    plain: Tensor
    drawn: Tensor
    asked: list[str]


class Drawn(NamedTuple):
    """Pictures uint8 (N, 3, H, W), and their tokens, one map per scale, both on the CPU."""

    images: Tensor
    tokens: list[Tensor]


def contest(
    entrants: Sequence[Entrant],
    folder: Path | str,
    judge: Judge | None,
    pictures: int,
    batch: int,
    rounds: int,
    show: Progress = no_progress,
) -> tuple[Contest, dict[str, Sheet]]:
    """Measure the entrants (on one device) on the held-out images of ``folder``; also a sheet of every entrant whose
    pictures are not the plain model's.

    judge: a classifier that nothing was trained or chosen by; pictures: that every entrant draws, with the seeds 0, 1,
    ... and the labels of as many held-out images, in their proportions; batch: pictures drawn together when times are
    measured, in so many rounds. Raises ``InputError`` or ``PlanError``, before anything runs, for what cannot be drawn.
    """
    subjects = [one.subject for one in entrants]
    priced, side = _priced(entrants, batch), _side(subjects)
    data = load_data(folder, side, "heldout", captions=reads_captions(subjects, folder))
    if min(pictures, len(data)) < FEWEST:
        raise InputError(f"{pictures} pictures and {len(data)} held-out images; expected at least {FEWEST} of each")
    rows = balanced_rows(data.labels * max(1, len(data.styles)) + data.style_labels, pictures)
    shown = [subject.shown(data) for subject in subjects]
    eye = None if judge is None else Eye.of(judge, data, rows)
    told, sheets = _told(
        entrants, shown, data, rows, _Losses(data, families_of(folder, data), rows.unique()), eye, show
    )
    features = [see(rows[torch.arange(batch) % pictures]) for see in shown]
    costs = _costs(entrants, priced, features, rounds, show)
    settings = _settings(entrants, batch, rounds) | {"data": str(folder), "split": data.split, "data_hash": data.hash}
    settings |= {"pictures": pictures, "held_out": len(rows.unique()), "sampling": dict(subjects[0].defaults)}
    settings |= {"classifier": judge and judge.name, "classifier_revision": judge and judge.revision}
    return Contest(settings, None if eye is None else eye.real, _standings(entrants, costs, told)), sheets


def contest_of_costs(entrants: Sequence[Entrant], batch: int, rounds: int, show: Progress = no_progress) -> Contest:
    """The costs alone, of networks with random weights, whose calibrations are by index."""
    priced, features = _priced(entrants, batch), list[Features]()
    for one in entrants:
        model = one.parts["model"]
        features.append(model.blank(batch, next(model.parameters()).device))
    costs = _costs(entrants, priced, features, rounds, show)
    settings = _settings(entrants, batch, rounds)
    settings |= {"roles": ROLES} if any(one.beside for one in entrants) else {}
    return Contest(settings, None, _standings(entrants, costs, [{}] * len(entrants)))


def _told(
    entrants: Sequence[Entrant],
    shown: Sequence[Shown],
    data: ImageData,
    rows: Tensor,
    losses: _Losses,
    eye: Eye | None,
    show: Progress,
) -> tuple[list[dict[str, Any]], dict[str, Sheet]]:
    """What pictures and held-out images tell of every entrant, as fields of ``Standing``; and the sheets."""
    found, sheets, plain = list[dict[str, Any]](), dict[str, Sheet](), None
    asked = [label_name(data, row, bool(data.styles)) for row in rows.tolist()]
    for entrant, see in zip(entrants, shown, strict=True):
        with show(f"drawing, {entrant.name}", "images") as step:
            drawn = draw(entrant, see, rows, step)
        plain = plain or drawn
        fidelity = _fidelity(drawn, plain) if entrant.kind in ("plain", "method") else None
        if fidelity is None or fidelity.same < 1:
            sheets[entrant.name] = Sheet(plain.images, drawn.images, asked)
        with show(f"predicting, {entrant.name}", "images") as step:
            loss, more = losses.of(entrant, see, step)
        seen = None if eye is None else eye.seen(drawn.images)
        found.append({"seen": seen, "loss": loss, "more": more, "fidelity": fidelity})
    return found, sheets


def draw(entrant: Entrant, shown: Shown, rows: Tensor, step: Step = silent) -> Drawn:
    """A picture of what each of the held-out images ``rows`` (N,) shows; picture i has seed i."""
    images, maps, count = list[Tensor](), list[list[Tensor]](), len(rows)
    device = next(entrant.parts["model"].parameters()).device
    for some in torch.arange(count).split(BATCH):
        features = shown(rows[some]).to(device)
        *_, last = generate(entrant.plan, entrant.parts, features, IndependentNoise(some.tolist()))
        images.append((decode(entrant.subject.tokenizer, last.canvas) * 255).round().clamp(0, 255).byte().cpu())
        maps.append([tokens.cpu() for tokens in last.history])
        step(int(some[-1]) + 1, count)
    return Drawn(torch.cat(images), [torch.cat(scale) for scale in zip(*maps, strict=True)])


class _Losses:
    """Held-out loss of one entrant after the other, on some of the images; the first one's is what others are held
    against.
    """

    def __init__(self, data: ImageData, families: Sequence[str], rows: Tensor) -> None:
        self.data, self.rows, self.families = data, rows, [families[row] for row in rows.tolist()]
        self._tokens: list[tuple[Subject, list[Tensor]]] = []
        self._first: tuple[Subject, Tensor] | None = None

    def of(self, entrant: Entrant, shown: Shown, step: Step) -> tuple[float, Difference | None]:
        """In nats per draw, and what it is more than the first one's in nats per image."""
        tokens = self._encoded(entrant.subject)
        scores, each = score_plan(entrant.told, entrant.parts, tokens, lambda some: shown(self.rows[some]), step)
        if self._first is None:
            self._first = (entrant.subject, each)
            return scores.total.loss, None
        first, before = self._first
        if not same_weights(entrant.subject.tokenizer, first.tokenizer):
            return scores.total.loss, None
        return scores.total.loss, Difference.of(each - before, self.families)

    def _encoded(self, subject: Subject) -> list[Tensor]:
        for known, tokens in self._tokens:
            if same_weights(known.tokenizer, subject.tokenizer):
                return tokens
        self._tokens.append((subject, encode_all(subject.tokenizer, self.data, rows=self.rows)))
        return self._tokens[-1][1]


def _priced(entrants: Sequence[Entrant], batch: int) -> list[tuple[Price, Price]]:
    """Of one picture, and of a batch. Raises ``PlanError`` for a plan that cannot be carried out."""
    found = []
    for one in entrants:
        element = next(one.parts["model"].parameters()).element_size()
        price(one.told, one.parts, 1, element)
        found.append((price(one.plan, one.parts, 1, element), price(one.plan, one.parts, batch, element)))
    return found


def _costs(
    entrants: Sequence[Entrant],
    priced: Sequence[tuple[Price, Price]],
    features: Sequence[Features],
    rounds: int,
    show: Progress,
) -> list[Cost]:
    """Times are measured when all else has been."""
    peaks, contestants = list[int](), list[Contestant]()
    with show("rehearsing", "plans") as step:
        for i, (one, shown) in enumerate(zip(entrants, features, strict=True)):
            model: Any = one.subject.model
            device = next(model.parameters()).device
            peaks.append(priced[i][1].weights + rehearse(one.plan, one.parts, shown.images, device).peak)
            contestants.append(Contestant(one.subject.tokenizer, model, one.plan, shown.to(device), one.beside))
            step(i + 1, len(entrants))
    with show("drawing in turns", "rounds") as step:
        speeds = generation_speeds(contestants, rounds, step)
    return [_cost(*one) for one in zip(entrants, priced, peaks, speeds, strict=True)]


def _cost(entrant: Entrant, priced: tuple[Price, Price], peak: int, speed: Speed) -> Cost:
    one, batch = priced
    scales = batch.lines[1 : 1 + len(entrant.plan.rows)]
    before = scales[-2] if len(scales) > 1 else scales[-1]
    return Cost(
        seconds=1 / speed.images_per_second,
        slowest=1 / speed.slowest,
        fastest=1 / speed.fastest,
        undecoded=1 / speed.undecoded,
        flops=one.flops,
        attended=scales[-1].attended,
        kept=before.kept,
        live=scales[-1].memory,
        most=batch.memory,
        peak=peak,
    )


def _standings(
    entrants: Sequence[Entrant], costs: Sequence[Cost], told: Sequence[Mapping[str, Any]]
) -> tuple[Standing, ...]:
    return tuple(
        Standing(one.name, one.kind, one.subject.name, one.subject.revision, cost, **more)
        for one, cost, more in zip(entrants, costs, told, strict=True)
    )


def _side(subjects: Sequence[Subject]) -> int:
    """Of the pictures of all."""
    first, *others = [square_resolution(subject.tokenizer) for subject in subjects]
    for subject, side in zip(subjects[1:], others, strict=True):
        if side != first:
            raise InputError(f"{subject.name} draws {side} pixels, and {subjects[0].name} {first}; expected the same")
    return first


def _settings(entrants: Sequence[Entrant], batch: int, rounds: int) -> dict[str, Any]:
    weight = next(entrants[0].parts["model"].parameters())
    return {
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "busy": weight.device.type == "cpu" and busy() is not None,
        "batch": batch,
        "rounds": rounds,
        "nextscale": __version__,
        "torch": torch.__version__,
    }


def _fidelity(drawn: Drawn, plain: Drawn) -> Fidelity:
    equal = [(a == b).flatten(1).double() for a, b in zip(drawn.tokens, plain.tokens, strict=True)]
    noise = psnr(drawn.images / 255, plain.images / 255)
    return Fidelity(float(noise.mean()), float(torch.cat(equal, 1).mean()), float(equal[-1].mean()))
