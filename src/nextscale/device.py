"""Which device and number type a run takes, and why: ``auto`` chooses, anything else is held to its word.

bfloat16 is chosen where the machine multiplies it in hardware, because only there is it faster than float32.
"""

from __future__ import annotations

import mmap
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from nextscale.errors import InputError, quoted
from nextscale.values import is_whole

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")  # as Linux spells them in /proc/cpuinfo
ENOUGH = 0.8
"""Share of the processor time it asks for with which a process is undisturbed; one program beside it on two cores, both
of which it uses, leaves it two thirds."""
TURNS, TURN_SECONDS = 3, 0.05


def choose_device(name: str | torch.device | int = "auto") -> tuple[torch.device, str]:
    """The device called ``name`` (``auto``, ``cpu``, ``cuda``, ``cuda:1`` or 1, ``mps``) and the reason in a few words.

    Raises:
        InputError: there is no such device, or this machine or this build of PyTorch has none.
    """
    wanted = f"cuda:{name}" if is_whole(name) else str(name).replace("cpu:0", "cpu")
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"{torch.cuda.get_device_name()} is available"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "Apple's GPU is available"
        return torch.device("cpu"), f"no GPU that PyTorch {torch.__version__} can use"
    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted) is None:
        raise InputError(f"there is no device {quoted(wanted)}; expected auto, cpu, cuda, cuda:1 (and so on) or mps")
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(wanted.removeprefix("cuda").removeprefix(":") or 0) >= count:
            raise InputError(
                f"the device {wanted!r} was asked for, but PyTorch {torch.__version__} finds {count} CUDA devices; "
                "expected one that is there, or auto"
            )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise InputError("the device 'mps' was asked for, but Apple's GPU is not available here; expected cpu or auto")
    return torch.device(wanted), "as asked"


def choose_dtype(name: str | torch.dtype, device: torch.device) -> tuple[torch.dtype, str]:
    """The number type the networks compute in on ``device`` and the reason in a few words.

    ``name`` is ``auto``, ``float32``, ``bfloat16`` or ``float16``, or a torch dtype of these names.

    Raises:
        InputError: an unknown name, or float16 on a CPU, where PyTorch is slow and overflows.
    """
    wanted = str(name).removeprefix("torch.")
    if wanted == "auto":
        return _auto_dtype(device)
    if wanted not in DTYPES:
        raise InputError(f"there is no dtype {quoted(wanted)}; expected one of auto, {', '.join(DTYPES)}")
    if wanted == "float16" and device.type == "cpu":
        raise InputError("float16 was asked for on a CPU; expected float32 or bfloat16 there")
    return DTYPES[wanted], "as asked"


def place(
    given: Sequence[torch.device | torch.dtype | str | int | None],
    device: torch.device | str | int | None,
    dtype: torch.dtype | str | None,
    current: torch.device,
) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the number type that are named, at most one of each; None for what is not.

    given: as for PyTorch's ``to``, in any order: ``("cuda", torch.bfloat16)``, ``(torch.float32,)``, ``(1,)`` for the
    second CUDA device; device, dtype: the same by name. current: where the networks are. Raises ``InputError`` as the
    two functions above, and for a second one of a kind.
    """
    dtypes, devices = list[Any](), list[Any]()
    for one in given:
        is_dtype = isinstance(one, torch.dtype) or str(one).removeprefix("torch.") in DTYPES
        (dtypes if is_dtype else devices).append(one)
    devices, dtypes = ([one for one in some if one is not None] for some in ([*devices, device], [*dtypes, dtype]))
    for kind, named in (("device", devices), ("dtype", dtypes)):
        if len(named) > 1:
            raise InputError(f"{quoted(named[0])} and {quoted(named[1])} were both given; expected one {kind}")
    chosen = choose_device(devices[0])[0] if devices else None
    return chosen, choose_dtype(dtypes[0], chosen or current)[0] if dtypes else None


def memory_of(device: torch.device) -> int | None:
    """Bytes of memory that ``device`` has in all; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such question on Windows
        return None


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process has on ``device`` now; on a CPU what is resident, Python and libraries included."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE
    return _resident("rss") or peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had on ``device``; 0 where nobody counts them."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return _resident("peak_wset")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident(kind: str) -> int:
    """What psutil, which accelerate brings along, says of this process; 0 where it is not installed."""
    try:
        info = import_module("psutil").Process().memory_info()
    except ImportError:
        return 0
    return int(getattr(info, kind, info.rss))


def busy() -> str | None:
    """One sentence where this process gets much less processor time than its threads ask for, with what helps; None
    where it gets it.

    Other programs take it, or a container's quota. Measured, which takes 0.05 s on an idle machine and 0.2 s elsewhere.
    """
    threads, share = torch.get_num_threads(), 0.0
    for _ in range(TURNS):  # the best one: a moment's disturbance is nothing to speak of
        share = max(share, _share_of_time(threads))
        if share >= ENOUGH:
            return None
    if threads == 1:
        return f"the machine is busy: this process gets {share:.0%} of one core's time, so everything takes longer"
    return (
        f"the machine is busy: this process asks for {threads} cores' time and gets {share:.0%} of it; threads that "
        "wait for one another make it many times slower, so set the environment variable "
        f"OMP_NUM_THREADS={max(1, int(share * threads))}"
    )


def _share_of_time(threads: int) -> float:
    """The processor time that ``threads`` threads get while all of them compute, as a share of what there could be."""
    numbers = torch.ones(1 << 16, threads)
    torch.sin(numbers)  # which starts the threads
    start, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < TURN_SECONDS:
        torch.sin(numbers)
    return (time.process_time() - used) / (threads * (time.perf_counter() - start))


def _auto_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "the GPU multiplies bfloat16 in hardware"
        return torch.float32, "the GPU has no bfloat16"
    if device.type == "cpu":
        found = [flag for flag in BFLOAT16_FLAGS if flag in cpu_flags()]
        if found:
            return torch.bfloat16, f"the CPU has {found[0]}"
        return torch.float32, f"the CPU has neither {' nor '.join(BFLOAT16_FLAGS)}"
    return torch.float32, "the safe choice on this device"


@cache
def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux lists them; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name() -> str:
    """What the CPU calls itself, or its architecture where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
