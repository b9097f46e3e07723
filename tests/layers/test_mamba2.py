"""Mamba-2: the chunked scan is the recurrence, whatever the chunks and splits; the layer is the published
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nextscale.layers.mamba2 import CHUNK, Mamba2, chunks, recurrence, scan

LENGTH = 155


class Held:
    """A slot that holds whatever state it is given."""

    def __init__(self, state: tuple[Tensor, ...] | None = None) -> None:
        self.state = state


def operands(length: int = LENGTH, decay: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, delta, a, b, c, d, state of 2 rows, 3 heads of 4 channels and 5 states, with steps as Mamba-2 starts
    with.
    """
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    delta = torch.rand((2, length, 3), generator=generator, dtype=dtype) * 0.1 * decay
    x, b, c, state = normal(2, length, 3, 4), normal(2, length, 5), normal(2, length, 5), normal(2, 3, 4, 5)
    return [x, delta, -1 - 15 * torch.rand(3, generator=generator, dtype=dtype), b, c, normal(3), state]


def scanned(operands: Sequence[Tensor], chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    x, delta, a, b, c, d, *state = operands
    return scan(x, delta, a, b, c, d, state[0] if state else None, chunk)


def layer(width: int = 32, states: int = 16, head_width: int = 16) -> Mamba2:
    """A small layer, every parameter drawn; step sizes and decays in the usual range, so that the state
    lives.
    """
    torch.manual_seed(3)
    mamba = Mamba2(width, states, head_width)
    with torch.no_grad():
        mamba.D.add_(torch.randn(mamba.heads) * 0.3)
        mamba.norm.weight.add_(torch.randn(mamba.inner) * 0.3)
    return mamba


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, LENGTH])
def test_the_scan_is_the_recurrence_with_all_gradients(chunk: int) -> None:
    ours, theirs = [[t.clone().requires_grad_() for t in operands()] for _ in range(2)]
    cotangents = torch.randn(2, LENGTH, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for leaves, results in ((ours, scanned(ours, chunk)), (theirs, recurrence(*theirs))):
        torch.autograd.backward(results, cotangents)
        leaves.extend(results)
    for a, b in zip(ours[7:], theirs[7:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)
    for a, b in zip(ours[:7], theirs[:7], strict=True):
        assert a.grad is not None
        assert a.grad.isfinite().all()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 128, 129, 169])
def test_any_length_from_zero_or_from_a_state(length: int) -> None:
    whole = operands(length)
    for given in (whole, whole[:6]):
        for ours, theirs in zip(scanned(given), recurrence(*given), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_chunks_are_few_and_equal() -> None:
    assert [chunks(n, 64) for n in (1, 64, 65, 100, 169, 256, 680)] == [
        (1, 1),
        (1, 64),
        (2, 33),
        (2, 50),
        (3, 57),
        (4, 64),
        (11, 62),
    ]


def test_strong_decay_stays_accurate_in_float32_and_never_overflows() -> None:
    """A token whose decay is e^-1600 stands before weak ones: differences of one running sum would lose their
    digits.
    """
    exact = operands()
    exact[1][:, ::9] = 100.0
    single = [t.float().requires_grad_() for t in exact]
    y, state = scanned(single)
    for ours, theirs in zip((y, state), recurrence(*exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-6 * float(theirs.abs().max()), rtol=0)
    (y.sum() + state.sum()).backward()
    assert all(t.grad is not None and bool(t.grad.isfinite().all()) for t in single)


def test_the_scan_in_parts_is_the_scan() -> None:
    x, delta, a, b, c, d, state = operands()
    whole, last = scan(x, delta, a, b, c, d, state)
    parts = []
    for part in torch.arange(LENGTH).split([1, 4, 9, 16, 125]):
        y, state = scan(x[:, part], delta[:, part], a, b[:, part], c[:, part], d, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(state, last, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("first", [1, 2, 3, 4, 30])
def test_the_layer_in_two_parts_is_the_layer_and_a_lost_state_shows(first: int) -> None:
    mamba, u = layer().double(), torch.randn(2, 64, 32, dtype=torch.float64)
    slot, whole = Held(), Held()
    expected = mamba(u, whole)
    head = mamba(u[:, :first], slot)
    assert slot.state is not None
    tail, ssm = slot.state
    rest = {
        name: mamba(u[:, first:], Held(state))
        for name, state in {
            "carried": (tail, ssm),
            "no tail": (tail * 0, ssm),
            "no state": (tail, ssm * 0),
            "tail shifted": (tail.roll(1, 1), ssm),
        }.items()
    }
    torch.testing.assert_close(torch.cat([head, rest["carried"]], 1), expected, atol=1e-12, rtol=1e-12)
    for name in ("no tail", "no state", "tail shifted"):
        assert (rest[name] - expected[:, first:]).abs().max() > 1e-3, name


def test_the_state_after_parts_is_the_state_after_the_whole() -> None:
    mamba, u, whole, slot = layer().double(), torch.randn(2, 30, 32, dtype=torch.float64), Held(), Held()
    mamba(u, whole)
    for part in u.split([1, 4, 9, 16], 1):
        mamba(part, slot)
    assert slot.state is not None
    assert whole.state is not None
    assert [tuple(t.shape[1:]) for t in slot.state] == list(mamba.spec.state)
    for ours, theirs in zip(slot.state, whole.state, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_the_state_it_was_given_is_not_written_into() -> None:
    mamba, slot = layer(), Held()
    mamba(torch.randn(2, 5, 32), slot)
    assert slot.state is not None
    before, copies = slot.state, [t.clone() for t in slot.state]
    mamba(torch.randn(2, 7, 32), slot)
    assert all(torch.equal(a, b) for a, b in zip(before, copies, strict=True))
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in slot.state)


@pytest.mark.parametrize("how", ["bfloat16 weights", "autocast"])
def test_scan_and_state_stay_float32_under_bfloat16(how: str) -> None:
    mamba, u, slot, exact = layer().requires_grad_(False), torch.randn(2, 100, 32), Held(), Held()
    expected = mamba(u, exact)
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            y = mamba(u, slot)
    else:
        y = mamba.bfloat16()(u.bfloat16(), slot)
    assert y.dtype == torch.bfloat16
    assert slot.state is not None
    assert exact.state is not None
    assert [t.dtype for t in slot.state] == [torch.float32, torch.float32]
    torch.testing.assert_close(y.float(), expected, atol=0.02 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(slot.state[1], exact.state[1], atol=0.02 * float(exact.state[1].abs().max()), rtol=0)


def test_training_mode_changes_nothing() -> None:
    mamba, u = layer(), torch.randn(2, 9, 32)
    assert torch.equal(mamba.train()(u, Held()), mamba.eval()(u, Held()))


def test_it_is_the_layer_of_transformers() -> None:
    """Same names, same values, same gradients as the independent implementation, on more tokens than one
    chunk has.
    """
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    ours = layer(64, 64, 64)
    config = transformers.Mamba2Config(
        hidden_size=64,
        state_size=64,
        expand=2,
        head_dim=64,
        num_heads=ours.heads,
        n_groups=1,
        conv_kernel=4,
        use_bias=False,
        use_conv_bias=True,
        layer_norm_epsilon=1e-5,
        chunk_size=16,
    )
    theirs = module.Mamba2Mixer(config, layer_idx=0)
    theirs.load_state_dict(ours.state_dict())
    u = torch.randn(2, LENGTH, 64).requires_grad_()
    v = u.detach().clone().requires_grad_()
    a, b = ours(u, Held()), theirs(v)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn_like(a)
    a.backward(cotangent)
    b.backward(cotangent)
    torch.testing.assert_close(u.grad, v.grad, atol=1e-4, rtol=1e-4)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        assert p.grad is not None
        assert (p.grad - gradients[name]).abs().max() <= 1e-4 * p.grad.abs().max(), name


@pytest.mark.parametrize("piece", [2, 7, 32])
def test_a_long_sequence_is_gone_over_piece_by_piece(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Output, state and gradients are those of the whole, and its price too; a piece may be shorter than the tail."""
    mamba, given, found = layer().double(), torch.randn(2, 64, 32, dtype=torch.float64), []
    counted = []
    for most in (1024, piece):
        monkeypatch.setattr("nextscale.layers.mamba2.PIECE", most)
        mamba.zero_grad()
        u, slot = given.clone().requires_grad_(), Held()
        with FlopCounterMode(display=False) as counter:
            y = mamba(u, slot)
        counted.append((2 * mamba.flops(64, 64), counter.get_total_flops()))
        y.square().sum().backward()
        assert slot.state is not None
        found.append([y, *slot.state, u.grad, *(p.grad for p in mamba.parameters())])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, atol=1e-10, rtol=1e-10)
    assert all(predicted == real for predicted, real in counted)


@pytest.mark.parametrize("tokens", [1, 9, 100, 169, 256])
def test_the_price_is_what_pytorch_counts(tokens: int) -> None:
    mamba, u = layer().requires_grad_(False), torch.randn(3, tokens, 32)
    counter = FlopCounterMode(display=False)
    with counter:
        mamba(u, Held())
    assert mamba.flops(tokens, 10 * tokens) * 3 == counter.get_total_flops()


def test_steps_and_decays_start_in_the_published_range() -> None:
    mamba = Mamba2(512).requires_grad_(False)
    delta = torch.nn.functional.softplus(mamba.dt_bias)
    assert 1e-3 * 0.99 <= float(delta.min()) < 0.01
    assert 0.02 < float(delta.max()) <= 0.1 * 1.01
    assert 1 <= float(mamba.A_log.exp().min()) < float(mamba.A_log.exp().max()) <= 16
