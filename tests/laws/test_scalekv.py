"""Laws of ScaleKV's memory, over every model with attention to earlier scales: what it keeps, costs and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import PlanError
from nextscale.layers.attention import Attention
from nextscale.layers.rope import rotary_table
from nextscale.layers.slots import PlainQueries
from nextscale.memory.base import Course, MemoryPlan
from nextscale.memory.cut import CutMemory, CutOutlook
from nextscale.memory.full import FullMemory
from nextscale.memory.make import look_ahead, make_memory
from nextscale.memory.scalekv_calibration import Statistics, Table
from nextscale.models.base import NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.plan import Plan, default_plan
from nextscale.price import price, table
from nextscale.rehearse import rehearse
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from tests.laws.test_loop import Best, culled, handed, run, same, second
from tests.laws.test_memory import (
    passes_overwrite_and_time_goes_back,
    run_scale,
    selected_rows_take_what_they_kept_along,
)
from tests.laws.test_policies import PAST
from tests.makers import MODELS, features_of, some_inputs, tiny_tokenizer, tiny_var, tokenizer_of
from tests.memory.test_scalekv_rules import official, vectors
from tests.test_price import counted

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"budget": 6, "window": 4, "kernel": 3, "score": "logits"}
SETTINGS |= {"drafters": 0.34, "floor": 4, "allocation": "saturate", "literal": False}


def statistics(model: NextScaleModel, **changed: Any) -> Statistics:
    """Numbers that nobody measured; the first block is the drafter of the last scales."""
    depth, scales = len(model.blocks), len(model.schedule) - 1
    current = tuple(tuple(0.5 + 0.4 * (block > 0) for block in range(depth)) for _ in range(scales))
    history = tuple(tuple((1 - c) / 2 for c in row) for row in current)
    known: dict[str, Any] = {"model": "tiny", "weights": weights_hash(model), "sizes": model.schedule.sizes}
    return Statistics(**known | {"share": 0.1, "pictures": 1, "current": current, "history": history} | changed)


def with_scalekv(plan: Plan, **changed: Any) -> Plan:
    settings = {name: value for name, value in (SETTINGS | changed).items() if value is not None}
    memory = MemoryPlan("scalekv", settings, "measured")
    return replace(plan, memories={name: replace(memory, takeover=m.takeover) for name, m in plan.memories.items()})


def memory_of(model: NextScaleModel, rows: int = 2, **changed: Any) -> CutMemory:
    plan = with_scalekv(default_plan(model), **changed)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model), {"measured": statistics(model)})
    memory = make_memory(plan.memories["model"], outlook, rows, torch.float32, CPU)
    assert isinstance(memory, CutMemory)
    return memory


UNLIKE = ("var", "flexvar", "infinity", "prefix")


@pytest.fixture(params=UNLIKE)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return PAST[request.param]()


def test_a_budget_of_everything_is_the_full_memory_and_less_shows_where_it_may(model: NextScaleModel) -> None:
    plan, measured = default_plan(model, guidance_scale=2.0), statistics(model)
    full = run(plan, model)
    everything = run(with_scalekv(plan, budget=14), model, measured=measured)
    assert isinstance(everything[-1].memory, FullMemory)
    assert same(everything, full)
    for score in ("logits", "softmax"):
        less = run(with_scalekv(plan, score=score), model, measured=measured)
        assert isinstance(less[-1].memory, CutMemory)
        assert all(torch.equal(a.branch_logits, b.branch_logits) for a, b in zip(less[:3], full[:3], strict=True))
        assert not torch.equal(less[3].branch_logits, full[3].branch_logits)


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "plain") for name in (*UNLIKE, "m-var-attention-between-scales")]
    + [("prefix", method) for method in ("culled", "handed over", "handed over, empty", "fewer blocks")],
)
def test_bytes_and_flops_are_those_that_were_predicted(name: str, method: str) -> None:
    model = PAST[name]()
    plan, depth = default_plan(model, guidance_scale=2.0), len(model.blocks)
    rows = tuple(replace(row, blocks=(0, depth - 1) if k < 2 else (depth - 1,)) for k, row in enumerate(plan.rows))
    plan = with_scalekv(
        {
            "plain": plan,
            "culled": culled(plan, 4, {0: 5, 2: 1}),
            "handed over": handed(plan, 2, model),
            "handed over, empty": handed(plan, 2, model, "empty"),
            "fewer blocks": replace(plan, rows=rows),
        }[method],
        budget=4,
    )
    parts = {"refiner": model, "best": Best(), "measured": statistics(model)}
    flops, live = counted(plan, model, 2, **parts)
    parts |= {"tokenizer": tokenizer_of(model), "model": model}
    priced = price(plan, parts, 2)
    assert priced.flops == pytest.approx(flops, rel=0.002)
    assert [line.memory for line in priced.lines[1:-1]] == live
    assert rehearse(plan, parts, 2, CPU).drawing > 0


@pytest.mark.parametrize("score", ["logits", "softmax"])
def test_choosing_costs_what_is_said(score: str) -> None:
    model = tiny_var()
    plan = with_scalekv(default_plan(model), budget=4, score=score)
    parts = {"measured": statistics(model)}
    flops, _ = counted(plan, model, 1, **parts)
    assert price(plan, {"tokenizer": tiny_tokenizer(), "model": model} | parts).flops == flops
    text = table(plan, price(plan, {"tokenizer": tiny_tokenizer(), "model": model} | parts))
    assert [line.split()[-6:-4] for line in text.splitlines()[3:6]] == [["5", "4"], ["13", "4"], ["20", "4"]]
    outlook = look_ahead(plan.memories["model"], plan.course(0, model), parts)
    assert [outlook.drop_flops(k) > 0 for k in range(4)] == [False, True, True, False]


def test_what_is_dropped_is_gone_and_what_stays_is_what_was(model: NextScaleModel) -> None:
    """Every layer, row and head keeps copies of what the full memory has, in its order: prefix, window, and others."""
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    cut, plan = memory_of(model, budget=4), default_plan(model)
    whole = make_memory(
        plan.memories["model"], look_ahead(plan.memories["model"], plan.course(0, model)), 2, torch.float32, CPU
    )
    assert isinstance(whole, FullMemory)
    for memory in (cut, whole):
        model.prefill(condition, memory)
        for k in range(2):
            run_scale(model, k, inputs, condition, memory)
    outlook, prefix = cut._outlook, cut._outlook.course.prefix
    full_bytes = whole.live_bytes
    assert cut.live_bytes == outlook.bytes(1, 2, 4) < full_bytes
    different = False
    for i, (kept, _) in cut._kept.items():
        held = whole._arenas[i][:, :, :, : prefix + 5]
        same_token = (kept[:, :, :, :, None] == held[:, :, :, None]).all(-1).all(0)  # (R, H, kept, held)
        assert bool((same_token.sum(3) == 1).all())
        places = same_token.float().argmax(3)
        assert bool((places.diff() > 0).all())
        assert bool((places[:, :, :prefix] == torch.arange(prefix)).all())
        assert bool((places[:, :, -4:] == prefix + torch.arange(1, 5)).all())  # a map of 2x2 is its window
        assert kept.shape[3] == outlook.kept[1][i] < held.shape[3]
    for i, (kept, _) in cut._kept.items():
        run_scale_kept = kept.shape[3]
        assert outlook.attended[2][i] == run_scale_kept + 9
    run_scale(model, 2, inputs, condition, cut)
    for i, (kept, _) in cut._kept.items():
        assert kept.shape[3] == outlook.kept[2][i]
        different |= not torch.equal(kept[:, 0, 0], kept[:, 1, 0])
    assert different


def test_a_drafter_keeps_more_than_the_others() -> None:
    memory = memory_of(tiny_var())
    assert memory._outlook.kept == ((1, 1, 1), (5, 5, 5), (10, 4, 4), (10, 4, 4))
    assert memory._outlook.attended == ((1, 1, 1), (5, 5, 5), (14, 14, 14), (26, 20, 20))


def test_an_image_does_not_depend_on_its_company(model: NextScaleModel) -> None:
    plan, measured = with_scalekv(default_plan(model, guidance_scale=2.0), budget=4), statistics(model)
    together = run(plan, model, measured=measured)
    alone = run(plan, model, second(model), noise=IndependentNoise([11]), measured=measured)
    assert all(torch.equal(a.tokens[1:2], b.tokens) for a, b in zip(together, alone, strict=True))


def test_a_population_chooses_among_what_was_kept(model: NextScaleModel) -> None:
    measured, plan = statistics(model), default_plan(model, top_k=1)
    one = run(with_scalekv(plan, budget=4), model, measured=measured)
    several = run(with_scalekv(culled(plan, 2, {1: 1}), budget=4), model, measured=measured, best=Best())
    assert len(several[-1].tokens) == 3
    assert same(several[1:], one[1:])


def test_passes_overwrite_and_time_goes_back(model: NextScaleModel) -> None:
    passes_overwrite_and_time_goes_back(model, lambda: memory_of(model, budget=4))


def test_selected_rows_take_what_they_kept_along(model: NextScaleModel) -> None:
    selected_rows_take_what_they_kept_along(model, lambda: memory_of(model, budget=4))


class Asking:
    """Every slot of a memory that asks for plain queries of the tokens 3 and 0."""

    def __init__(self, schedule: ScaleSchedule) -> None:
        self.schedule, self.seen = schedule, list[Tensor]()

    def slot(self, index: int) -> Asking:
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        assert plain is not None
        self.seen.append(plain(torch.tensor([3, 0])))
        return q


def test_the_queries_that_choose_are_those_of_the_projection_alone() -> None:
    """Neither biases, norms and scales, nor rotary positions are in them, whichever model it is."""
    for name in ("var", "infinity"):
        model = MODELS[name]()
        asking, inputs = Asking(model.schedule), list[Tensor]()
        block: Any = model.blocks[0]
        block.attention.register_forward_pre_hook(lambda module, given, inputs=inputs: inputs.append(given[0]))
        model.step(some_inputs(model)[0], 1, model.condition(features_of(model)), asking)
        width = block.attention.proj.in_features
        whole = F.linear(inputs[0], block.attention.qkv.weight[:width]).unflatten(2, (block.attention.heads, -1))
        torch.testing.assert_close(asking.seen[0], whole[:, [3, 0]].transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("m-var", "this model reads a recurrent state"), ("hmar", "this model reads nothing of earlier scales")],
)
def test_a_model_without_a_past_to_drop_is_refused_with_the_reason(name: str, reason: str) -> None:
    model = MODELS[name]()
    with pytest.raises(PlanError, match=f"'scalekv' keeps keys and values of earlier scales, but {reason}"):
        run(with_scalekv(default_plan(model)), model, measured=None)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"budget": 3}, "budget is 3 tokens; expected at least 4, the window"),
        ({"window": 6}, "window is 6; expected the number of a square grid"),
        ({"kernel": 4}, "kernel is 4; expected an odd number"),
        ({"score": "guess"}, "score is 'guess'; expected logits or softmax"),
        ({"floor": 3}, "floor is 3; expected at least the window, 4, and at most 6"),
        ({"floor": 7}, "floor is 7; expected at least the window, 4, and at most 6"),
        ({"drafters": 1.5}, "drafters is 1.5; expected a share"),
        ({"allocation": "fair"}, "allocation is 'fair'; expected saturate or linear"),
        ({"literal": None}, "scalekv has drafters, floor, allocation of"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed: dict[str, Any], sentence: str) -> None:
    model = tiny_var()
    with pytest.raises(PlanError, match=sentence):
        run(with_scalekv(default_plan(model), **changed), model, measured=statistics(model))


def test_a_calibration_of_something_else_is_refused() -> None:
    model = tiny_var()
    plan, right = with_scalekv(default_plan(model)), statistics(model)
    two = tuple(row[:2] for row in right.current)
    for wrong, sentence in (
        (replace(right, current=two, history=two), "the calibration is of 2 blocks, and the model has 3"),
        (statistics(tiny_var(seed=1)), "was made for the weights [0-9a-f]{16} of tiny, and the model has"),
        (replace(right, sizes=((1, 1), (2, 2), (3, 3), (5, 5))), "of the scales .*; expected the same"),
        ([3], r"the calibration is \[3\]; expected one that read_calibration gave"),
    ):
        with pytest.raises(PlanError, match=sentence):
            run(plan, model, measured=wrong)
        with pytest.raises(PlanError, match=sentence):
            price(plan, {"tokenizer": tiny_tokenizer(), "model": model, "measured": wrong})
    assert price(plan, {"tokenizer": tiny_tokenizer(), "model": model.to("meta"), "measured": right}).flops > 0


def test_the_hash_of_weights_knows_them_in_any_number_type() -> None:
    model = tiny_var()
    known = weights_hash(model)
    assert weights_hash(tiny_var().bfloat16()) == weights_hash(tiny_var().half()) == known
    assert weights_hash(tiny_var(seed=1)) != known
    assert weights_hash(tiny_var(shared_adaln=True)) != known
    for p in model.parameters():
        p.add_(0.02 * p.std())
    assert weights_hash(model) != known
    assert weights_hash(model.to("meta")) is None


def test_a_budget_file_is_taken_as_it_is() -> None:
    model = tiny_var()
    row = {"Block 0": 1, "Block 1": 0, "Block 2": 0, "High": 1, "Max": 8, "Min": 5, "Limit": 14}
    table = Table.from_official({"Scale 4": row})
    own = dict.fromkeys(("drafters", "floor", "allocation", "literal"))
    plan = with_scalekv(default_plan(model), **own)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model), {"measured": table})
    assert outlook.kept[2] == (8, 5, 5)
    for changed, table_changed, sentence in (
        ({"floor": 4}, {}, "floor is 4, but a budget file says what blocks keep; leave it out"),
        ({"budget": 7}, {}, "budget is 7 .*, but the budget file has 6 tokens a block"),
        ({}, {"Limit": 13}, "with 13 tokens before the first of them; the plan has 4 scales, .*: 0, 1, 5, 14"),
        ({"window": 9, "budget": 9}, {"Min": 5, "Max": 17}, "and blocks that keep 5"),
    ):
        wrong = with_scalekv(default_plan(model), **own | changed)
        with pytest.raises(PlanError, match=sentence):
            look_ahead(
                wrong.memories["model"],
                wrong.course(0, model),
                {"measured": Table.from_official({"Scale 4": row | table_changed})},
            )
    flatter = replace(plan.course(0, model), slots=model.slots[:2])
    with pytest.raises(PlanError, match="of 3 blocks, and the model has 2"):
        look_ahead(plan.memories["model"], flatter, {"measured": table})


@official
@pytest.mark.parametrize("case", ["attention_small", "full_budget"])
def test_the_authors_attention_layer_sees_and_keeps_the_same(case: str) -> None:
    tensors, runs, tolerance = vectors(case)
    for name, config in runs.items():
        schedule, heads, width = ScaleSchedule.of(config["sides"]), config["heads"], config["embed_dim"]
        layers = [official_layer(tensors, i, width, heads) for i in range(config["layers"])]
        slots = tuple(replace(layer.spec, block=i) for i, layer in enumerate(layers))
        course = Course(slots, schedule, ((0, 1),) * len(schedule))
        last = config["budget"].get(f"Scale {len(schedule)}")
        if name == "compressed":
            table = Table.from_official({f"Scale {len(schedule)}": last})
            settings = {"budget": 31, "window": config["window_size"], "kernel": config["kernel_size"]}
            settings |= {"score": "logits"}
            plan = MemoryPlan("scalekv", settings, "measured")
            outlook = look_ahead(plan, course, {"measured": table})
            assert isinstance(outlook, CutOutlook)
        else:
            plan = MemoryPlan("full")
            outlook = look_ahead(plan, course)
        memory = make_memory(plan, outlook, config["B"], torch.float32, CPU)
        turns = rotary_table(schedule, (config["rope_reference_side"],) * 2, width // heads, CPU, "stretched")
        for k in range(len(schedule)):
            memory.begin_scale(k)
            for i, layer in enumerate(layers):
                found = layer(tensors[f"in/x_{i}_{k}"], memory.slot(i), turns[schedule.slice(k)])
                expected = tensors[f"out/{name}/attn_{i}_{k}"]
                torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
            memory.end_scale(k)
            if f"out/{name}/kept_0_{k}" in tensors:
                counts = tuple(tensors[f"out/{name}/kept_{i}_{k}"].shape[2] for i in range(len(layers)))
                assert outlook.kept[k] == counts


def official_layer(tensors: dict[str, Tensor], i: int, width: int, heads: int) -> Attention:
    """Layer i of a file, with its weights."""
    layer = Attention(width, heads, l2_norm=True)
    names = {"mat_qkv.weight": "qkv.weight", "scale_mul_1H11": "scale_mul"}
    state = {k.split(".", 1)[1]: t.float() for k, t in tensors.items() if k.startswith(f"state/{i}.")}
    del state["zero_k_bias"]
    state["scale_mul_1H11"] = state["scale_mul_1H11"][0]
    layer.load_state_dict({names.get(name, name): t for name, t in state.items()})
    return layer.requires_grad_(False)
