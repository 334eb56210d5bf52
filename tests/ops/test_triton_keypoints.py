"""What is particular to the Triton kernels of keypoint_shifts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ops.common import compare, device_for, in_layout, past_32_bits
from vidops import ops


@pytest.fixture
def device() -> str:
    return device_for("triton", "keypoint_shifts")


@pytest.fixture
def kernels(device: str) -> Any:
    from vidops.triton_kernels import keypoint_shifts

    return keypoint_shifts


def clip_and_lines(n: int, c: int, t: int, h: int, w: int, g: int, r: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    lines = torch.rand((n, g, t, 2, r - 1), generator=generator) * 1.2 - 0.1
    return [torch.randn((n, c, t, h, w), generator=generator), lines * torch.tensor([w, h])[:, None]]


@pytest.mark.parametrize(
    ("layout", "shape", "r", "long"),
    [
        ("NCTHW", (1, 9, 2, 3, 9), 2, False),
        ("NTHWC", (1, 35, 2, 2, 5), 2, False),
        ("NTHWC", (2, 3, 2, 3, 4), 3, True),
        ("NTCHW", (2, 11, 3, 3, 9), 1, True),
    ],
)
def test_clips_that_take_many_programs(
    layout: str,
    shape: tuple[int, ...],
    r: int,
    long: bool,
    kernels: Any,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What only large clips need: lanes, pairs and pixels of several programs, sums of long rows in parts, long offsets.
    monkeypatch.setattr(kernels, "LANES", 32)
    monkeypatch.setattr(kernels, "CHUNK", 4)
    monkeypatch.setattr(kernels, "PAIRS", (128, 128))
    monkeypatch.setattr(kernels, "SHARE", 2)
    if long:
        monkeypatch.setattr(kernels, "MANY", 0)
        monkeypatch.setattr(kernels, "far", lambda *_: True)
    x, lines = clip_and_lines(*shape, 2, r)
    compare(ops.keypoint_shifts, [in_layout(x, layout), lines], "triton", device, grad_layout=layout)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_offsets_have_64_bits(axis: int, device: str) -> None:
    x = past_32_bits([1, 1, 2, 2, 4], axis, device)
    lines = torch.full((x.shape[0], 1, 2, 2, 1), 1.5, dtype=torch.float16, device=device)
    found = []
    for given in (x, x.contiguous()):
        leaf = lines.clone().requires_grad_()
        y = ops.keypoint_shifts(given, leaf, return_keypoints=True, backend="triton")
        found.append([*y, *torch.autograd.grad(y[0].square().sum(), leaf)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_an_epsilon_that_changes_is_no_new_program(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not among the numbers and constants of a launch, which programs and graphs may be compiled for."""
    launches: list[Any] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            def launch(*given: Any, **named: Any) -> None:
                numbers = [a for a in given if not isinstance(a, Tensor)]
                launches.append((self.kernel.fn.__name__, grid, numbers, named))

            return launch

    def launched(epsilon: float) -> list[Any]:
        launches.clear()
        x, lines = clip_and_lines(1, 3, 2, 4, 4, 2, 2)
        shifts, *kept = kernels.keypoint_shifts(x, lines, epsilon)
        kernels.keypoint_shifts_backward(shifts, x, lines, *kept, epsilon, True, True)
        assert len(launches) == 7
        return list(launches)

    monkeypatch.setattr(kernels, "wrap_triton", Recorder)
    assert launched(0.1) == launched(0.25)
