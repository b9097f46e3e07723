"""Mamba-2 (Dao and Gu, arXiv 2405.21060) in plain PyTorch: a linear-cost causal mixer with a state that can
be carried on.

The scan is computed in chunks (the paper's SSD form), all chunks at once: inside a chunk as a small masked
attention, between chunks through the state. It runs in float32 (float64 where the layer does) whatever the
precision of the weights. A layer goes over long sequences piece by piece, so that what it holds beside its
input and output does not grow with them.

Shape letters: ``R`` rows, ``l`` tokens of this call, ``C`` width, ``D`` = 2C inner width, ``H`` heads of
``P`` channels (D = H P), ``N`` states; ``n`` chunks of ``Q`` tokens; ``t`` and ``s`` tokens of one chunk.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.layers.precision import no_autocast
from nextscale.layers.slots import Count, SlotSpec, StateSlot

CHUNK = 32
"""Most tokens of a chunk; 32 to 64 are about equally fast on a CPU, and fewer need less memory."""
PIECE = 1024
"""Most tokens that a layer goes over at once."""
TAPS = 4
"""Width of the causal convolution."""


class Mamba2(nn.Module):
    """One Mamba-2 layer; parameter names and shapes are those of the published implementations.

    Its state is (conv_tail (R, 3, D + 2N), the last three rows of x|B|C *before* the convolution, oldest
    first; ssm (R, H, P, N)).
    """

    def __init__(self, width: int, states: int = 64, head_width: int = 64, expand: int = 2, eps: float = 1e-5) -> None:
        super().__init__()
        inner = expand * width
        self.inner, self.states, self.heads, self.eps = inner, states, inner // head_width, eps
        mixed = inner + 2 * states
        self.spec = SlotSpec("state", self.heads, head_width, ((TAPS - 1, mixed), (self.heads, head_width, states)))
        self.in_proj = nn.Linear(width, inner + mixed + self.heads, bias=False)  # rows: z | x | B | C | dt
        self.conv1d = nn.Conv1d(mixed, mixed, TAPS, groups=mixed)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(inner, eps)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.init_decay()

    @torch.no_grad()
    def init_decay(self) -> None:
        """The published start: step sizes log-uniform in [1e-3, 0.1], A = -U(1, 16), so that the state lives
        for many tokens.
        """
        delta = torch.exp(torch.rand(self.heads) * math.log(100) + math.log(1e-3))
        self.dt_bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus
        self.A_log.copy_(torch.empty(self.heads).uniform_(1, 16).log())

    @torch.no_grad()
    def init_weights(self) -> None:
        """M-VAR's start of all but the projections, which start as the matrices of their model do."""
        self.init_decay()
        nn.init.trunc_normal_(self.conv1d.weight, std=0.02)
        assert self.conv1d.bias is not None
        nn.init.zeros_(self.conv1d.bias)

    def forward(self, u: Tensor, slot: StateSlot) -> Tensor:
        """u (R, l, C) to (R, l, C); reads and writes ``slot.state``."""
        state, found = slot.state, list[Tensor]()
        for piece in u.split(PIECE, 1):
            projected = self.in_proj(piece)
            with no_autocast(u):
                g, state = self._mix(projected, state)
            found.append(self.out_proj(g.to(u.dtype)))
        slot.state = state
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def _mix(self, projected: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Everything between the projections: (R, l, z | x | B | C | dt) and the state to (R, l, D) and the new
        state, in float32 at least.
        """
        mixed, precise = self.inner + 2 * self.states, torch.promote_types(projected.dtype, torch.float32)
        z, xbc, dt = projected.split([self.inner, mixed, self.heads], -1)
        tail, ssm = state or (xbc.new_zeros((len(xbc), TAPS - 1, mixed), dtype=precise), None)
        seen = torch.cat([tail, xbc], 1)
        weight, bias = self.conv1d.weight.to(precise), self.conv1d.bias
        assert bias is not None
        convolved = F.silu(causal_conv(seen, weight, bias.to(precise)))
        x, b, c = convolved.split([self.inner, self.states, self.states], -1)
        delta = F.softplus(dt.to(precise) + self.dt_bias)
        y, ssm = scan(x.unflatten(-1, (self.heads, -1)), delta, -self.A_log.to(precise).exp(), b, c, self.D, ssm)
        gated = y.flatten(2) * F.silu(z.to(precise))
        normed = F.rms_norm(gated, (self.inner,), self.norm.weight.to(precise), self.eps)
        return normed, (seen[:, -(TAPS - 1) :].clone(), ssm)

    def flops(self, tokens: int, seen: Count) -> int:
        """FLOPs of ``tokens`` tokens of one row; what came before (``seen`` tokens in all) costs nothing."""
        if tokens > PIECE:
            pieces, rest = divmod(tokens, PIECE)
            return pieces * self.flops(PIECE, seen) + (self.flops(rest, seen) if rest else 0)
        width, inner, n = self.out_proj.out_features, self.inner, self.states
        count, q = chunks(tokens)
        linear = self.in_proj.out_features * width + inner * width + TAPS * (inner + 2 * n)
        inside = q * n + q * inner  # C B^T once for all heads, then the weighted sum of x
        return 2 * tokens * linear + 2 * count * q * (inside + 2 * n * inner)


def causal_conv(seen: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution over tokens without padding: (R, l + 3, channels), weight (channels, 1, 4), to
    (R, l, channels).

    As a picture of height 1 in channels-last order, which is how the tokens lie in memory: nothing is
    transposed.
    """
    picture = seen.transpose(1, 2)[:, :, None]
    return F.conv2d(picture, weight[:, :, None], bias, groups=len(bias))[:, :, 0].transpose(1, 2)


def chunks(tokens: int, chunk: int = CHUNK) -> tuple[int, int]:
    """How many chunks, and how long: as few as ``chunk`` allows, and equal, so that little is padded."""
    count = -(-tokens // chunk)
    return count, -(-tokens // count)


def scan(
    x: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """S_t = exp(delta_t a) S_{t-1} + delta_t x_t (outer) B_t; y_t = S_t C_t + d x_t, in chunks.

    x (R, l, H, P); delta (R, l, H), at least 0; a, d (H); b, c (R, l, N), shared by the heads; state (R, H,
    P, N), zeros if None. Returns y (R, l, H, P) and the state after the last token.

    Inside a chunk, with log decays l_t = delta_t a: y_t = sum_{s<=t} (C_t.B_s) exp(l_{s+1} + .. + l_t)
    delta_s x_s + d x_t + exp(l_1 + .. + l_t) S_0 C_t.
    """
    rows, length, heads, width = x.shape
    count, q = chunks(length, chunk)
    pad = count * q - length
    if pad:  # delta 0: a padded token neither adds to the state nor lets it decay
        x, delta, b, c = (F.pad(v, (0, 0) * (v.ndim - 2) + (0, pad)) for v in (x, delta, b, c))
    x, delta, b, c = (v.unflatten(1, (count, q)) for v in (x, delta, b, c))
    delta = delta.transpose(2, 3)  # (R, n, H, Q)
    log_decay = delta * a[:, None]
    # Sums l_{s+1} + .. + l_t at [s, t], added up for every s on its own: differences of one running sum would
    # lose all digits behind a strong decay. Entries with t < s are 0 here, harmless to exp, and cut off by
    # triu.
    decays = log_decay[..., None, :].expand(-1, -1, -1, q, -1).triu(1).cumsum_(-1).exp_()
    reach = decays * delta[..., None]  # what token s still amounts to at t, but for B and C
    weights = reach * (b @ c.mT).triu()[:, :, None]
    weights.diagonal(dim1=-2, dim2=-1).add_(d[:, None])
    inside = weights.mT @ x.transpose(2, 3)  # (R, n, H, Q, P)
    # Between chunks: what each adds to the state, the states in front of each, and what those give to y.
    added = ((x * reach[..., -1].transpose(2, 3)[..., None]).flatten(3).mT @ b).unflatten(2, (heads, width))
    carried = log_decay.cumsum(-1).exp()
    states = [x.new_zeros((rows, heads, width, b.shape[-1])) if state is None else state]
    for more, decay in zip(added.unbind(1), carried[..., -1].unbind(1), strict=True):
        states.append(torch.addcmul(more, states[-1], decay[..., None, None]))
    before = states[0][:, None] if count == 1 else torch.stack(states[:-1], 1)
    y = (c @ before.flatten(2, 3).mT).unflatten(-1, (heads, width)) * carried.transpose(2, 3)[..., None]
    y += inside.transpose(2, 3)
    return y.flatten(1, 2)[:, :length], states[-1]


def recurrence(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What :func:`scan` computes, token by token: slow, plain, and what the tests hold the scan against."""
    s = x.new_zeros((*x.shape[:1], *x.shape[2:], b.shape[-1])) if state is None else state
    ys = []
    for t in range(x.shape[1]):
        decay = (delta[:, t] * a).exp()[..., None, None]
        s = decay * s + delta[:, t, :, None, None] * x[:, t, :, :, None] * b[:, t, None, None, :]
        ys.append((s * c[:, t, None, None, :]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(ys, 1), s
