"""What ``auto`` chooses can be carried out here, and what is asked for is either given or refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from nextscale import device as device_module
from nextscale.device import BFLOAT16_FLAGS, busy, choose_device, choose_dtype, cpu_flags
from nextscale.errors import InputError

CPU = torch.device("cpu")


def test_auto_chooses_a_device_that_computes() -> None:
    device, reason = choose_device("auto")
    assert float(torch.ones(2, device=device).sum()) == 2
    assert reason
    if torch.cuda.is_available():
        assert device.type == "cuda"


def test_a_named_device_is_taken_as_asked() -> None:
    assert choose_device("cpu") == (CPU, "as asked")
    assert choose_device(CPU) == (CPU, "as asked")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:1", "cuda:x", "cuda:", "tpu:0"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="there is no device"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(InputError, match=f"finds {count} CUDA devices"):
        choose_device(f"cuda:{count}")


def test_auto_takes_bfloat16_only_where_the_cpu_has_it() -> None:
    dtype, reason = choose_dtype("auto", CPU)
    has = [flag for flag in BFLOAT16_FLAGS if flag in cpu_flags()]
    assert dtype == (torch.bfloat16 if has else torch.float32)
    assert BFLOAT16_FLAGS[0] in reason or BFLOAT16_FLAGS[1] in reason


@pytest.mark.parametrize("name", ["float32", "bfloat16", torch.float32])
def test_a_named_dtype_is_taken_as_asked(name: str | torch.dtype) -> None:
    dtype, reason = choose_dtype(name, CPU)
    assert str(dtype).endswith(str(name).removeprefix("torch."))
    assert reason == "as asked"


@pytest.mark.parametrize("name", ["int8", "float64", "half", ""])
def test_an_unknown_dtype_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected one of auto, float32, bfloat16, float16"):
        choose_dtype(name, CPU)


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(InputError, match="float16 was asked for on a CPU"):
        choose_dtype("float16", CPU)


@pytest.fixture
def crowd() -> Iterator[None]:
    """Four other programs for every core."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    time.sleep(0.5)
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("crowd", "two_threads")
def test_a_busy_machine_is_noticed_and_fewer_threads_are_advised() -> None:
    sentence = busy()
    assert sentence is not None
    assert "the machine is busy" in sentence
    assert "OMP_NUM_THREADS=1" in sentence


@pytest.mark.parametrize(
    ("threads", "share", "advice"),
    [
        (1, 0.3, "gets 30% of one core's time"),
        (2, 0.6, "OMP_NUM_THREADS=1"),
        (16, 0.5, "OMP_NUM_THREADS=8"),
        (64, 0.001, "OMP_NUM_THREADS=1"),
        (2, 0.95, None),
    ],
)
def test_the_advice_is_as_many_threads_as_the_machine_has_time_for(
    monkeypatch: pytest.MonkeyPatch, threads: int, share: float, advice: str | None
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(device_module, "_share_of_time", lambda threads: share)
    sentence = busy()
    assert (sentence is None) if advice is None else (advice in str(sentence))


def test_a_process_that_gets_all_the_time_it_asks_for_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(time, "process_time", lambda: threads * time.perf_counter())
    assert busy() is None
