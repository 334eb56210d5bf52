"""RoIAlign against a loop over samples, against torchvision's numbers, and against torchvision where it imports."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.common import assert_close
from vidops.layers import roi_align
from vidops.layers.roi_align import look_for_torchvision, torchvision_lacks

MODULE = sys.modules["vidops.layers.roi_align"]
GOLDEN = Path(__file__).parent / "golden" / "roi_align.npz"


def by_hand(maps: Tensor, boxes: Tensor, size: Any, scale: float, ratio: int, aligned: bool) -> Tensor:
    """One sample after the other, as Mask R-CNN's paper and torchvision's kernel have them."""
    channels, height, width = maps.shape[1:]
    out = maps.new_zeros(len(boxes), channels, *size)

    def sample(image: Tensor, y: float, x: float) -> Tensor:
        if not (-1 <= y <= height and -1 <= x <= width):
            return maps.new_zeros(channels)
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = image[:, top, left] * (left + 1 - x) + image[:, top, right] * (x - left)
        lower = image[:, bottom, left] * (left + 1 - x) + image[:, bottom, right] * (x - left)
        return upper * (top + 1 - y) + lower * (y - top)

    for row, (index, *box) in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (edge * scale - (0.5 if aligned else 0) for edge in box)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        step_y, step_x = h / size[0], w / size[1]
        rows, columns = ratio or math.ceil(step_y), ratio or math.ceil(step_x)
        for p in range(size[0]):
            for q in range(size[1]):
                total = maps.new_zeros(channels)
                for i in range(rows):
                    for j in range(columns):
                        y = y1 + p * step_y + (i + 0.5) * step_y / rows
                        x = x1 + q * step_x + (j + 0.5) * step_x / columns
                        total = total + sample(maps[int(index)], y, x)
                out[row, :, p, q] = total / max(rows * columns, 1)
    return out


def some(seed: int, rows: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Maps of some size, and boxes within, across and beyond their edges; the first is empty, some of whole numbers."""
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(1, 13, (2,), generator=generator).tolist()
    maps = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    sides = torch.tensor([width * 4.0, height * 4.0], dtype=torch.float64)
    corner = (torch.rand(rows, 2, generator=generator, dtype=torch.float64) * 3 - 1) * sides
    extent = torch.rand(rows, 2, generator=generator, dtype=torch.float64) ** 3 * 3 * sides
    if seed % 3 == 0:
        corner, extent = corner.round(), extent.round()
    extent[:1] = 0
    index = torch.randint(0, 2, (rows, 1), generator=generator)
    return maps.to(dtype), torch.cat([index, corner, corner + extent], 1).to(dtype)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_is_the_definition(ratio: int, aligned: bool) -> None:
    for seed in range(8):
        maps, boxes = some(seed)
        found = roi_align(maps, boxes, (3, 2), 0.25, ratio, aligned, backend="torch")
        expected = by_hand(maps, boxes, (3, 2), 0.25, ratio, aligned)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", range(7))
def test_golden_numbers(case: int) -> None:
    """Results and gradients of torchvision's own kernel, in the file with their origin."""
    file = np.load(GOLDEN)
    p, q, scale, ratio, aligned = file["calls"][case].tolist()
    maps = torch.from_numpy(file["features"]).requires_grad_()
    boxes = torch.from_numpy(file["boxes"])
    found = roi_align(maps, boxes, (int(p), int(q)), scale, int(ratio), bool(aligned), backend="torch")
    found.backward(torch.linspace(-1, 1, found.numel()).reshape(found.shape))
    torch.testing.assert_close(found.detach(), torch.from_numpy(file[f"result_{case}"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps.grad, torch.from_numpy(file[f"gradient_{case}"]), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_torchvision(dtype: torch.dtype, ratio: int, aligned: bool) -> None:
    if torchvision_lacks("cpu"):
        pytest.skip(torchvision_lacks("cpu"))
    for seed in range(20, 40):
        maps, boxes = some(seed, 12, dtype)
        both = []
        for backend in ("torch", "torchvision"):
            leaf = maps.clone().requires_grad_()
            found = roi_align(leaf, boxes, (4, 5), 0.25, ratio, aligned, backend=backend)
            found.backward(torch.linspace(-1, 1, found.numel(), dtype=dtype).reshape(found.shape))
            both.append((found.detach(), leaf.grad))
        torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients(ratio: int) -> None:
    for seed in range(3):
        maps, boxes = some(seed)
        maps.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda m, boxes=boxes: roi_align(m, boxes, 2, 0.25, ratio, backend="torch"), (maps,)
        )
    boxes.requires_grad_()
    assert torch.autograd.grad(
        roi_align(maps, boxes, 2, 0.25, backend="torch").sum(), boxes, allow_unused=True
    ) == (None,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    for seed in range(3):
        maps, boxes = some(seed, dtype=torch.float32)
        maps = maps.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found = roi_align(maps, boxes, (3, 2), 0.25, backend="torch")
        exact = by_hand(maps.double(), boxes.double(), (3, 2), 0.25, 0, True)
        assert found.dtype == dtype
        assert_close(found, exact.to(dtype), exact, f"seed {seed}")


def test_many_boxes_do_not_copy_their_map_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 9, 11, generator=g, dtype=torch.float64).requires_grad_()
    corners = torch.rand(21, 2, 2, generator=g, dtype=torch.float64).sort(1).values.flatten(1) * 80
    boxes = torch.cat([torch.arange(21).remainder(2)[:, None], corners], 1)
    alone = torch.cat([roi_align(maps, box[None], 3, 1 / 8, backend="torch") for box in boxes])
    (expected,) = torch.autograd.grad(alone.square().sum(), maps)
    counts = []

    def counted(features: Tensor, index: Tensor, *weights: Tensor) -> Tensor:
        counts.append(len(index))
        return cut_out(features, index, *weights)

    cut_out = MODULE.cut_out
    monkeypatch.setattr(MODULE, "cut_out", counted)
    found = roi_align(maps, boxes, 3, 1 / 8, backend="torch")
    assert counts == [8, 8, 5]
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.square().sum(), maps)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_nothing_waits_for_the_device() -> None:
    """Tensors without values have none to read: an adaptive grid must not ask how large boxes are."""
    with torch.device("meta"):
        maps, boxes = torch.empty(2, 3, 8, 8, requires_grad=True), torch.empty(5, 5)
        found = roi_align(maps, boxes, 7, 0.25, backend="torch")
        found.sum().backward()
    assert found.shape == (5, 3, 7, 7)
    assert maps.grad.shape == maps.shape


def test_compiles_for_any_number_of_boxes() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda m, b: roi_align(m, b, 3, 0.25, backend="torch"),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for seed, rows in ((1, 4), (1, 7), (1, 2)):
        maps, boxes = some(seed, rows)
        torch.testing.assert_close(compiled(maps, boxes), roi_align(maps, boxes, 3, 0.25, backend="torch"))


@pytest.mark.parametrize(
    ("shape", "rows"), [((2, 3, 8, 8), 0), ((2, 0, 8, 8), 3), ((0, 3, 8, 8), 0), ((2, 3, 0, 8), 3)]
)
def test_nothing_in_nothing_out(shape: tuple[int, ...], rows: int) -> None:
    maps = torch.rand(shape, requires_grad=True)
    for backend in ("torch", None):
        found = roi_align(maps, torch.ones(rows, 5), 7, backend=backend)
        found.sum().backward()
        assert found.shape == (rows, shape[1], 7, 7)
        assert not found.any()


MAPS = torch.rand(2, 3, 8, 8)
BOXES = torch.tensor([[0.0, 1, 1, 4, 4], [1.0, 2, 2, 9, 9]])


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"features": MAPS[0]}, ValueError, r"features must be maps \(N, C, H, W\), got \(3, 8, 8\)"),
        ({"features": MAPS.long()}, TypeError, r"features must be of a floating dtype, got torch\.int64"),
        ({"boxes": [[0, 1, 1, 4, 4]]}, TypeError, r"boxes must be a Tensor \(R, 5\), got list"),
        ({"boxes": BOXES[:, 1:]}, ValueError, r"boxes must be \(R, 5\): index, x1, y1, x2, y2; got \(2, 4\)"),
        ({"boxes": BOXES[0]}, ValueError, r"boxes must be \(R, 5\): index, x1, y1, x2, y2; got \(5,\)"),
        ({"boxes": BOXES.long()}, TypeError, r"boxes must be of a floating dtype, got torch\.int64"),
        ({"boxes": BOXES.to("meta")}, ValueError, r"boxes must be on cpu, got meta"),
        (
            {"boxes": BOXES + 1},
            ValueError,
            r"boxes must have a whole index from 0 to 1 in front; row 1 is \[2\.0, 3",
        ),
        (
            {"boxes": BOXES - 1},
            ValueError,
            r"boxes must have a whole index from 0 to 1 in front; row 0 is \[-1\.0, 0",
        ),
        (
            {"boxes": BOXES + torch.tensor([0.5, 0, 0, 0, 0])},
            ValueError,
            r"boxes must have a whole index from 0 to 1 in front; row 0 is \[0\.5, 1",
        ),
        ({"spatial_scale": 0.0}, ValueError, r"spatial_scale must be a finite number above 0, got 0\.0"),
        ({"spatial_scale": -0.5}, ValueError, r"spatial_scale must be a finite number above 0, got -0\.5"),
        ({"spatial_scale": math.nan}, ValueError, "spatial_scale must be a finite number above 0, got nan"),
        (
            {"boxes": BOXES * torch.tensor([1, 1, 1, 0, 1])},
            ValueError,
            "boxes must have finite x1 <= x2 and y1",
        ),
        (
            {"boxes": BOXES / torch.tensor([1, 1, 1, 1, 0])},
            ValueError,
            "boxes must have finite x1 <= x2 and y1",
        ),
        (
            {"boxes": BOXES * torch.tensor([1, 1, math.nan, 1, 1])},
            ValueError,
            "boxes must have finite x1 <= x2",
        ),
        ({"output_size": 0}, ValueError, "output_size must be one or two whole numbers of at least 1, got 0"),
        ({"output_size": (7, 7, 7)}, ValueError, r"output_size must be one or two whole .* got \(7, 7, 7\)"),
        ({"output_size": 7.0}, ValueError, r"output_size must be one or two whole numbers .* got 7\.0"),
        ({"output_size": True}, ValueError, "output_size must be one or two whole numbers .* got True"),
        ({"sampling_ratio": -1}, ValueError, "sampling_ratio must be a whole number of at least 0, got -1"),
        (
            {"sampling_ratio": 2.0},
            ValueError,
            r"sampling_ratio must be a whole number of at least 0, got 2\.0",
        ),
        ({"backend": "cuda"}, ValueError, "backend must be one of torchvision, torch, or None, got 'cuda'"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=f"^{text}"):
        roi_align(**{"features": MAPS, "boxes": BOXES, "output_size": 7, **changes})


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of torchvision's name stands in for it, and gets what it takes; ours is asked for by name."""
    if not torchvision_lacks("cpu"):
        pytest.skip("torchvision itself is there, and tested above")
    maps, boxes = some(2)
    expected = roi_align(maps, boxes, (3, 2), 0.25, 2, False)
    with torch.library._scoped_library("torchvision", "DEF") as library:
        library.define(
            "roi_align(Tensor x, Tensor b, float s, int p, int q, int ratio, bool aligned) -> Tensor"
        )
        library.impl("roi_align", lambda x, b, s, p, q, *rest: by_hand(x, b, (p, q), s, *rest) + 1, "CPU")
        monkeypatch.setitem(MODULE._lacks, "cpu", "")
        for backend in (None, "torchvision"):
            found = roi_align(maps, boxes, (3, 2), 0.25, 2, False, backend=backend)
            torch.testing.assert_close(found, expected + 1)
        assert roi_align(maps.bfloat16(), boxes, 3).dtype == torch.bfloat16
        assert torch.equal(roi_align(maps, boxes, (3, 2), 0.25, 2, False, backend="torch"), expected)


def test_a_torchvision_that_is_not_there_or_broken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(MODULE, "_lacks", {})
    expected = roi_align(MAPS, BOXES, 7, backend="torch")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(roi_align(MAPS, BOXES, 7), expected)
    assert [record.getMessage() for record in caplog.records] == [
        "roi_align: torchvision does not import: operator torchvision::nms does not exist;"
        " ours in plain PyTorch takes its place"
    ]
    with pytest.raises(
        RuntimeError, match=r"^backend 'torchvision' cannot run: torchvision does not import: operator"
    ):
        roi_align(MAPS, BOXES, 7, backend="torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert look_for_torchvision("cpu") == "torchvision is not installed"


def test_torchvisions_unordered_sums_are_not_used_where_order_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MODULE, "_lacks", {"cpu": "", "meta": ""})
    elsewhere = MAPS.to("meta")
    assert MODULE.by_torchvision(None, elsewhere)
    torch.use_deterministic_algorithms(True)
    try:
        assert not MODULE.by_torchvision(None, elsewhere)
        assert MODULE.by_torchvision("torchvision", elsewhere)
        assert MODULE.by_torchvision(None, MAPS)  # in order on the CPU
    finally:
        torch.use_deterministic_algorithms(False)
