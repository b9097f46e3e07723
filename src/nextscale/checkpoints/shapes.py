"""Networks without weights: what their tensors are called and how large they are, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nextscale.errors import CheckpointError

Module = TypeVar("Module", bound=nn.Module)


def without_values(make: Callable[[], Module], tensors: int = 50_000) -> Module:
    """The module that ``make`` makes, with shapes for weights (on the meta device): nothing is computed or allocated.

    tensors: how many weights there are to be put into it. Raises ``CheckpointError`` once it has made many more, so
    that no network is built that cannot be the right one.
    """
    with torch.device("meta"), _Shapes(4 * tensors + 100):
        return make()


class _Shapes(TorchFunctionMode):
    """Counts the tensors that are made, and passes over what would give them values: on the meta device there are
    none, and asking for them imports torch's compiler, which takes a second. In force in its own thread alone.
    """

    MAKING = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.tensor})
    FILLING = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.mul_, Tensor.div_})
    COMPUTING = frozenset({"add", "sub", "mul", "div", "neg", "exp", "expm1", "log", "__rsub__", "__rdiv__"})

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = self.most = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLING or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if getattr(func, "__name__", None) in self.COMPUTING and args[0].is_meta:
            largest = max((value for value in args if isinstance(value, Tensor)), key=Tensor.numel)
            return largest.new_empty(largest.shape)
        if func in self.MAKING:
            self.left -= 1
            if self.left < 0:
                raise CheckpointError(
                    f"these settings make a network of more than {self.most:,} tensors, far more than there are weights"
                )
            func = torch.empty if func in (torch.rand, torch.randn) else func
        return func(*args, **(kwargs or {}))
