"""The CUDA kernels' own sources on the host, and the emulation that runs them."""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import host_cuda
from tests.ops.common import DTYPES, compare, device_for, in_layout
from vidops import ops, reference
from vidops.reference import Projection

ALL_TAPS = ((8, 1, 1), (8, 3, 1), (8, 5, 1), (8, 7, 1), (8, 3, 2), (8, 9, 1))
ODD_GROUPS = ((3, 1, 1), (1, 9, 1), (4, 7, 1), (2, 5, 1), (3, 3, 2))
# Positions whose rows are aligned for 16 bytes in every dtype, for 8 in the 2-byte ones, and for one element.
PLANES = [(4, 4), (2, 6), (3, 5)]
# Columns and frames that reach every kernel of temporal_projection: those compiled for a number of columns and for up
# to 8 or 16 frames, and the general ones.
PROJECTIONS = [*itertools.product((1, 2, 3, 4), (8, 16)), (4, 17), (5, 8)]


@pytest.fixture(scope="session")
def probe() -> Any:
    if reason := host_cuda.available():
        pytest.skip(f"cuda_host: {reason}")
    library = ctypes.CDLL(
        str(host_cuda.build([host_cuda.ROOT / "tests" / "host_cuda" / "probe.cu"], "probe"))
    )
    for name in ("probe_columns", "probe_last_offset", "probe_rows"):
        getattr(library, name).restype = ctypes.c_int64
    return library


def clip(groups: Any, n: int, t: int, hw: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    c = sum(c for c, _, _ in groups)
    shapes = [(n, c, t, *hw), (sum(c * k for c, k, _ in groups),), (c,)]
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def test_a_missing_barrier_is_caught(probe: Any) -> None:
    assert probe.probe_mirror(1) == 0
    assert probe.probe_mirror(0) > 0  # NaN where nothing had been written yet
    assert probe.probe_rotate(1) == 0
    assert probe.probe_rotate(0) > 0  # overwritten before it was read


def test_threads_that_miss_each_other_are_caught(probe: Any) -> None:
    assert probe.probe_deadlock(64, 0) == 1  # one thread passes the barrier by
    assert probe.probe_deadlock(40, 1) == 1  # a shuffle of 32 lanes in a warp of 8
    assert probe.probe_deadlock(64, 1) == 0


def test_shuffles(probe: Any) -> None:
    assert probe.probe_shuffle() == 0


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 49, 392, 3136, 65535, 65536, 99991, 2**30 - 1, 2**30])
def test_division_by_multiplication(probe: Any, divisor: int) -> None:
    assert probe.probe_divisor(ctypes.c_uint32(divisor)) == 0


@pytest.mark.parametrize(
    "clips,units,places,lanes", [(1, 1, 1, 0), (3, 49, 5, 0), (5, 7, 37, 3), (2, 129, 33, 5)]
)
@pytest.mark.parametrize("min_blocks,trips", [(1, 1), (1, 4), (64, 16), (4096, 16)])
@pytest.mark.parametrize("slab", [2**30, 130])
def test_every_column_is_walked_once(
    probe: Any, clips: int, units: int, places: int, lanes: int, min_blocks: int, trips: int, slab: int
) -> None:
    arguments = [ctypes.c_int64(v) for v in (clips, units, places, lanes, min_blocks, trips, slab)]
    arguments[3] = ctypes.c_int(lanes)
    assert probe.probe_columns(*arguments) == 0


@pytest.mark.parametrize(
    "clips,outer,inner,frames,per_frame",
    [(2, 1, 1, 1, 1), (3, 5, 7, 2, 9), (5, 3, 33, 1, 49), (2, 19, 4, 3, 130), (1, 2, 3, 5, 400)],
)
@pytest.mark.parametrize("across", [0, 1])
@pytest.mark.parametrize("at_once,most", [(1, 2**30), (4, 16)])
@pytest.mark.parametrize("slab", [2**30, 150])
def test_every_unit_of_every_row_is_walked_once(
    probe: Any,
    clips: int,
    outer: int,
    inner: int,
    frames: int,
    per_frame: int,
    across: int,
    at_once: int,
    most: int,
    slab: int,
) -> None:
    numbers = [ctypes.c_int64(v) for v in (clips, outer, inner, frames, per_frame, at_once, most, slab)]
    assert probe.probe_rows(*numbers[:5], across, *numbers[5:]) == 0


@pytest.mark.parametrize(
    "clips,units,clip_stride,unit_stride",
    [(2**31 + 5, 1, 1, 1), (70000, 2**16, 2**40, 8), (3, 2**30 - 1, 2**33, 8), (2, 2**20, 2**31, 2**31)],
)
def test_offsets_pass_32_bits(probe: Any, clips: int, units: int, clip_stride: int, unit_stride: int) -> None:
    arguments = [ctypes.c_int64(v) for v in (clips, units, clip_stride, unit_stride)]
    assert probe.probe_last_offset(*arguments) == (clips - 1) * clip_stride + (units - 1) * unit_stride


@pytest.mark.parametrize("axis", ["clip", "channel", "frame"])
def test_strides_past_2_to_the_31(axis: str) -> None:
    device_for("cuda_host", "temporal_conv")
    far = 2**31 + 64
    strides = {"clip": (far, 96, 32, 8, 1), "channel": (96, far, 32, 8, 1), "frame": (96, 32, far, 8, 1)}[
        axis
    ]
    memory = torch.empty(3 * far, dtype=torch.bfloat16)  # never touched but in a few places
    groups = ((1, 3, 1), (1, 7, 1))
    for shift in (0, 1):  # aligned, and not
        x = memory[shift:].as_strided((2, 2, 2, 4, 8), strides)
        values, weight, bias = clip(groups, 2, 2, (4, 8), torch.bfloat16)
        x.copy_(values)
        y = ops.temporal_conv(x, weight, bias, groups=groups, backend="cuda_host")
        assert torch.equal(y, ops.temporal_conv(values, weight, bias, groups=groups, backend="cuda_host"))
        kernel = torch.ops.vidops_cuda_host.temporal_conv_backward
        flat = [v for g in groups for v in g]
        want = kernel(values, values, weight, flat, 1, "zeros", True, True, True)
        for a, b in zip(kernel(x, x, weight, flat, 1, "zeros", True, True, True), want, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(
            ops.temporal_shift(x, 2, backend="cuda_host"), ops.temporal_shift(values, 2, backend="cuda_host")
        )
        projection = torch.ops.vidops_cuda_host.temporal_projection
        basis = torch.linspace(-1, 2, 16, dtype=torch.bfloat16).view(2, 2, 1, 2, 2)
        for a, b in zip(projection(x, basis, 0.1, 63), projection(values, basis, 0.1, 63), strict=True):
            assert torch.equal(a, b)
        kernel = torch.ops.vidops_cuda_host.temporal_projection_backward
        rest = (None, None, None, values, basis, 0.1, True, True)  # x is its own gradient, at its residual
        for a, b in zip(
            kernel(None, None, x, *rest[:3], x, *rest[4:]), kernel(None, None, values, *rest), strict=True
        ):
            assert torch.equal(a, b)
        lines = torch.linspace(1, 6, 8, dtype=torch.bfloat16).view(2, 1, 2, 2, 1)
        first = torch.ops.vidops_cuda_host.keypoint_shifts(values, lines, 0.1)
        for a, b in zip(torch.ops.vidops_cuda_host.keypoint_shifts(x, lines, 0.1), first, strict=True):
            assert torch.equal(a, b)
        kernel, rest = (
            torch.ops.vidops_cuda_host.keypoint_shifts_backward,
            (lines, *first[1:], 0.1, True, True),
        )
        for a, b in zip(kernel(first[0], x, *rest), kernel(first[0], values, *rest), strict=True):
            assert torch.equal(a, b)
        u = ops.temporal_descriptor(values, backend="cuda_host")
        assert torch.equal(ops.temporal_descriptor(x, backend="cuda_host"), u)
        kernel = torch.ops.vidops_cuda_host.temporal_descriptor_backward
        assert torch.equal(kernel(u, x), kernel(u, values))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC", "offset"])
@pytest.mark.parametrize("groups", [ALL_TAPS, ODD_GROUPS], ids=["even", "odd"])
def test_every_tap_count_in_every_width(dtype: torch.dtype, layout: str, groups: Any) -> None:
    device = device_for("cuda_host", "temporal_conv")
    for hw, n, t in zip(PLANES, (1, 2, 1), (19, 8, 3), strict=True):
        x, weight, bias = clip(groups, n, t, hw, dtype)
        compare(
            functools.partial(ops.temporal_conv, groups=groups),
            [in_layout(x, layout), weight, bias],
            "cuda_host",
            device,
            grad_layout=layout,
        )
        shifted = ops.temporal_shift(in_layout(x, layout), 4, backend="cuda_host")
        assert torch.equal(shifted, reference.temporal_shift(x, 4))


def test_every_kernel_has_run() -> None:
    """Whatever the library holds has been launched by calls of every dtype, layout and alignment."""
    device_for("cuda_host", "temporal_conv")
    path = host_cuda.library()
    for dtype in DTYPES:
        for layout in ("NCTHW", "NTHWC"):
            for hw in PLANES:
                x, weight, bias = (v.requires_grad_() for v in clip(ALL_TAPS, 1, 2, hw, dtype))
                y = ops.temporal_conv(
                    in_layout(x, layout), weight, bias, groups=ALL_TAPS, backend="cuda_host"
                )
                y.sum().backward()
                ops.temporal_shift(in_layout(x.detach(), layout), 4, backend="cuda_host")
        for kernel, stride in (((3, 3, 3), 1), ((3, 3, 3), (1, 2, 2)), ((3, 7, 7), 1), ((1, 3, 1), 1)):
            x, weight = (
                torch.randn(s, dtype=dtype).requires_grad_() for s in ((1, 2, 2, 3, 4), (2, 1, *kernel))
            )
            ops.depthwise_conv3d(x, weight, stride=stride, backend="cuda_host").sum().backward()
        for k in (1, 3, 5, 7, 9):
            x, *taps = (
                torch.randn(s, dtype=dtype).requires_grad_() for s in ((1, 2, 3, 5, 6), (2, k, k), (2, 3))
            )
            ops.motion_band_pass(x, *taps, stride=1, backend="cuda_host").sum().backward()
        for size, layout in itertools.product((3, 8), ("NCTHW", "NTHWC")):
            x = in_layout(torch.randn(1, size, 1, 2, size, dtype=dtype), layout).requires_grad_()
            y = ops.resize(x, (3, 2 * size), backend="cuda_host")
            y.backward(torch.ones_like(y))
        for (d, t), width in (*itertools.product(PROJECTIONS, (3, 4)), ((16, 64), 13)):
            x, basis = (
                torch.randn(s, dtype=dtype).requires_grad_()
                for s in ((1, 2, t, 2, width), (1, t, d, 1, width if t == 64 else 2))
            )
            sum(
                f.square().sum() for f in ops.temporal_projection(x, basis, backend="cuda_host")[3:5]
            ).backward()
        sizes = itertools.product((4, 8), [*PLANES, (16, 17)], ("NCTHW", "NTHWC"))
        for pathways, hw, layout in sizes:
            logits = torch.randn(1, pathways, 8, 2, dtype=dtype).requires_grad_()
            paths = [
                in_layout(torch.randn(1, 8, 2, *hw, dtype=dtype), layout).requires_grad_()
                for _ in range(pathways)
            ]
            y = ops.pathway_select(paths, logits, backend="cuda_host")
            y.backward(torch.ones_like(y))
        for tf32 in (False, True) if dtype == torch.float32 else (False,):
            x = torch.randn(1, 3, 4, dtype=dtype)
            attention = torch.ops.vidops_cuda_host.nonlocal_attention(x, x, x, 0, 1.0, tf32)
            torch.ops.vidops_cuda_host.nonlocal_attention_backward(x, x, x, x, *attention, 0, 1.0, tf32)
        for r in (1, 2, 3, 4):
            x, lines = (
                torch.randn(s, dtype=dtype).requires_grad_() for s in ((1, 2, 2, 4, 4), (1, 2, 2, 2, r - 1))
            )
            ops.keypoint_shifts(x, lines, backend="cuda_host").sum().backward()
        wide = torch.randn(1, 1, 2, 2, 70, dtype=dtype)  # than the kernel for four regions takes
        ops.keypoint_shifts(wide, torch.ones(1, 1, 2, 2, 1, dtype=dtype), backend="cuda_host")
        for t in (8, 9):
            x = torch.randn(1, 2, t, 2, 2, dtype=dtype).requires_grad_()
            ops.temporal_descriptor(x, backend="cuda_host").square().sum().backward()
    library = ctypes.CDLL(str(path))
    addresses = (ctypes.c_void_p * 4096)()
    count = library.vidops_host_launched(addresses, len(addresses))
    symbols = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout
    at = {m[2]: int(m[1], 16) for m in re.finditer(r"^(\w+) \w (.*)$", symbols, re.MULTILINE)}
    base = ctypes.cast(library.vidops_host_launched, ctypes.c_void_p).value - at["vidops_host_launched"]
    kernels = {name: a + base for name, a in at.items() if re.match(r"void vidops::.*_kernel<.*>\(", name)}
    launched = set(addresses[:count])
    assert len(kernels) > 20
    missing = [name.split("(anonymous namespace)::")[1] for name, a in kernels.items() if a not in launched]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize(
    ("shape", "columns", "grid"),
    [
        ((1, 2, 5, 3, 300), 1, (2, 40)),  # rows of several segments
        ((1, 2, 5, 2, 131), 2, (1, 1)),  # that all read the one column of the grid
        ((1, 2, 3, 2, 131), 1, (2, 131)),  # a gradient that no kernel adds up
        ((1, 2, 3, 5, 131), 2, (2, 131)),
        ((1, 1, 4, 150, 4), 1, (9, 2)),  # frames of several bands
        ((2, 40, 3, 5, 6), 2, (2, 3)),  # channels in parts
        ((2, 40, 3, 5, 6), 1, (5, 6)),
        ((1, 21, 16, 3, 4), 3, (2, 2)),  # channels in chunks, where they are last
        ((1, 1, 18, 3, 130), 2, (2, 3)),  # the general kernels' segments
        ((1, 1, 64, 2, 13), 16, (1, 13)),  # a basis that shared memory does not hold
    ],
)
def test_projections_of_several_blocks(
    shape: tuple[int, int, int, int, int], columns: int, grid: tuple[int, int], layout: str
) -> None:
    device = device_for("cuda_host", "temporal_projection")
    g = torch.Generator().manual_seed(3)
    n, _, t, _, _ = shape
    time = (torch.arange(t) + 0.5) * torch.pi / t
    cosines = torch.cos(time[:, None] * torch.arange(columns))[:, :, None, None]
    x, basis = torch.randn(shape, generator=g), cosines + torch.randn(n, t, columns, *grid, generator=g) / 4
    function = functools.partial(ops.temporal_projection, outputs=Projection._fields)
    compare(function, [in_layout(x, layout), basis], "cuda_host", device, grad_layout=layout)


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize(
    ("shape", "sets", "r"),
    [
        ((1, 2, 2, 30, 40), 1, 3),  # frames of several tiles of rows
        ((1, 2, 2, 3, 900), 1, 2),  # and of parts of rows
        ((1, 33, 2, 4, 5), 11, 4),  # sets of several blocks
        ((1, 2, 2, 3, 4), 70, 2),  # and more than a block's shared memory holds the lines of
        ((2, 3, 12, 3, 4), 2, 3),  # frames of several blocks, and of several writes
        ((1, 2, 12, 4, 60), 4, 2),  # the same of the kernel for four regions
        ((1, 35, 2, 5, 8), 5, 2),  # whose rows are loaded by packs of pixels
        ((1, 3, 2, 5, 6), 4, 2),  # all but the last
    ],
)
def test_key_points_of_several_blocks(shape: Any, sets: int, r: int, layout: str) -> None:
    device = device_for("cuda_host", "keypoint_shifts")
    g = torch.Generator().manual_seed(5)
    n, _, t, h, w = shape
    x = torch.randn(shape, generator=g)
    lines = torch.rand(n, sets, t, 2, r - 1, generator=g) * torch.tensor([w, h])[:, None]
    compare(ops.keypoint_shifts, [in_layout(x, layout), lines], "cuda_host", device, grad_layout=layout)
    for rare in (3.0, float("nan")):  # equal maxima, and several NaN, in different tiles
        y = torch.where(torch.rand(shape, generator=g) < 0.02, rare, x.clamp(max=3.0))
        found, wanted = (
            ops.keypoint_shifts(in_layout(y, layout), lines, return_keypoints=True, backend=b)[1:]
            for b in ("cuda_host", "reference")
        )
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1].nan_to_num(), wanted[1].nan_to_num())


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_long_sums_stay_exact(layout: str) -> None:
    """Taps' gradients over 10^5 products of one sign, where a plain fp32 sum loses digits."""
    device = device_for("cuda_host", "temporal_conv")
    groups = ((2, 3, 1), (2, 7, 1))
    x, weight, bias = clip(groups, 4, 8, (64, 48), torch.float32)
    inputs = [in_layout(x.abs() + 1, layout).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    y = ops.temporal_conv(*inputs, groups=groups, backend="cuda_host")
    grad = torch.ones(y.shape) + torch.rand(y.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(y, inputs, in_layout(grad, layout))
    exact = [v.detach().double().to(device).requires_grad_() for v in inputs]
    wanted = torch.autograd.grad(reference.temporal_conv(*exact, groups=groups), exact, grad.double())
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert ((a - b).abs() / b.abs()).max() < 4 * torch.finfo(torch.float32).eps


def test_more_groups_than_a_launch_takes() -> None:
    device = device_for("cuda_host", "temporal_conv")
    groups = tuple((1 + i % 3, (1, 3, 5, 7, 9)[i % 5], 1 + i % 2) for i in range(37))
    for layout in ("NCTHW", "NTHWC"):
        x, weight, bias = clip(groups, 2, 8, (3, 4), torch.float32)
        compare(
            functools.partial(ops.temporal_conv, groups=groups),
            [in_layout(x, layout), weight, bias],
            "cuda_host",
            device,
        )


def test_huge_dilations_and_strides() -> None:
    device = device_for("cuda_host", "temporal_conv")
    groups = ((2, 3, 2**31), (2, 5, 2**40), (1, 3, 1))
    for padding in ("zeros", "replicate"):
        x, weight, bias = clip(groups, 1, 5, (2, 2), torch.float32)
        near = tuple((c, k, min(d, 5)) for c, k, d in groups)
        for stride in (1, 2**33):
            found = [
                ops.temporal_conv(x, weight, bias, groups=g, stride=s, padding=padding, backend=b)
                for g, s, b in ((groups, stride, "cuda_host"), (near, min(stride, 5), "reference"))
            ]
            torch.testing.assert_close(*found)
    assert device == "cpu"


def test_a_library_is_compiled_once_for_all_processes(tmp_path: Path, monkeypatch: Any) -> None:
    log, compiler = tmp_path / "log", tmp_path / "compiler"
    # Asked for its version it says nothing; else it notes that it was called, takes its time and makes its output.
    compiler.write_text(
        f"#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --version) exit;; -o) out=$2;; esac; shift; done\n"
        f"echo x >> {log}; sleep 0.3; touch $out\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(host_cuda, "FOLDER", tmp_path / "build")
    sources = [host_cuda.ROOT / "csrc" / "schema.cpp"]
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(host_cuda.build, sources, "twice").result for _ in range(2)]
        assert made[0]() == made[1]()
    assert log.read_text().count("x") == 2, "one object and one library"
