"""RoIAlign: the features inside boxes, resampled to one size; torchvision's where it is installed, else ours."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.nonlocal_attention import without_autocast
from ..ops.tracing import assume_constant_result

BACKENDS = ("torchvision", "torch")
# Between two whole numbers lie two samples at most, which are more than half a pixel apart; and one for rounding.
NEAREST = 6
FEW = 8  # boxes that are cut out at a time, though there are fewer maps
_log = logging.getLogger(__name__)


def roi_align(
    features: Tensor,
    boxes: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
    *,
    backend: str | None = None,
) -> Tensor:
    """Cut boxes out of feature maps, each resampled bilinearly to one size and averaged within its bins.

    A bin is the mean of samples on an even grid; samples up to one pixel outside of the map have the value of its edge,
    those farther out are zero. Ours is two small products, ``Wy F Wx^T`` with a row of weights a bin, for a bin's grid
    is even along both axes; how many samples there are is computed where the boxes are, so that nothing waits for the
    GPU. A value that is not finite reaches every bin of boxes of its map, where torchvision's reaches those near it.
    Gradients flow to the features alone. Ours sums boxes of one map atomically on a GPU, in no fixed order, unless
    `torch.use_deterministic_algorithms` is on; torchvision's kernel always does, and is left to ours then.

    Args:
        features: maps ``(N, C, H, W)``, of a floating dtype; 16 bits are resampled in fp32.
        boxes: ``(R, 5)``: the map's index, x1, y1, x2, y2 in pixels of the image, of a floating dtype, in any order;
            keep them in fp32, as 16 bits do not hold every index and pixel.
        output_size: P and Q, or one number for both.
        spatial_scale: pixels of the map in one of the image, such as 1/16.
        sampling_ratio: samples along each axis of a bin; 0 for as many as a bin has pixels, rounded up.
        aligned: whether pixel centres lie half a pixel off whole numbers, as they should; False is the elder form,
            which also widens boxes to one pixel of the map.
        backend: ``"torchvision"`` or ``"torch"`` (ours); None for torchvision's where it runs. It is looked for once.

    Returns:
        ``(R, C, P, Q)`` of the dtype of ``features``.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: a shape, device or number is not allowed. The numbers in ``boxes`` are looked at on the CPU; on a
            GPU, bad ones stop the program at its next synchronisation.
        RuntimeError: torchvision's was asked for and cannot run.

    Source: He et al., Mask R-CNN, section 3; torchvision.ops.roi_align.

    Example:
        >>> roi_align(torch.rand(2, 8, 16, 16), torch.tensor([[1.0, 32, 32, 160, 200]]), 7, 1 / 16).shape
        torch.Size([1, 8, 7, 7])
    """
    size = check_size(output_size)
    if not isinstance(features, Tensor) or features.dim() != 4:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be maps (N, C, H, W), got {shape}")
    if not features.is_floating_point():
        raise TypeError(f"features must be of a floating dtype, got {features.dtype}")
    if isinstance(sampling_ratio, bool) or not isinstance(sampling_ratio, int) or sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must be a whole number of at least 0, got {sampling_ratio!r}")
    if not 0.0 < spatial_scale < math.inf:
        raise ValueError(f"spatial_scale must be a finite number above 0, got {spatial_scale!r}")
    check_boxes(boxes, features, features.shape[0])
    wide = torch.promote_types(features.dtype, torch.float32)
    given: Any = (
        features.to(wide),
        boxes.detach().to(wide),
        float(spatial_scale),
        size,
        sampling_ratio,
        aligned,
    )
    with without_autocast(features.device.type):
        if by_torchvision(backend, features):
            maps, rois, scale, (p, q), ratio, aligned = given
            found: Tensor = torch.ops.torchvision.roi_align(maps, rois, scale, p, q, ratio, aligned)
        else:
            found = resampled(*given)
    return found.to(features.dtype)


def resampled(
    features: Tensor, boxes: Tensor, scale: float, size: tuple[int, int], ratio: int, aligned: bool
) -> Tensor:
    """Ours; the arguments are those of `roi_align`, all of one dtype."""
    height, width = features.shape[2:]
    index = boxes[:, 0].long()
    x1, y1, x2, y2 = (boxes[:, 1:] * scale - (0.5 if aligned else 0.0)).unbind(1)
    of_rows = bin_weights(y1, y2, size[0], height, ratio, aligned)
    of_columns = bin_weights(x1, x2, size[1], width, ratio, aligned)
    if torch.compiler.is_compiling():
        return cut_out(features, index, of_rows, of_columns)
    # Each box takes a copy of its map: not more of them at a time than there are maps, or a few.
    some = max(FEW, features.shape[0])
    parts = zip(index.split(some), of_rows.split(some), of_columns.split(some), strict=True)
    cut = [cut_out(features, *part) for part in parts]
    return cut[0] if len(cut) == 1 else torch.cat(cut)


def cut_out(features: Tensor, index: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """Take boxes out of maps by their weights: ``(R, C, P, Q)``."""
    columns = torch.einsum("rchw,rqw->rchq", features.index_select(0, index), of_columns)
    return torch.einsum("rchq,rph->rcpq", columns, of_rows).contiguous()


def bin_weights(start: Tensor, end: Tensor, bins: int, size: int, ratio: int, aligned: bool) -> Tensor:
    """How much each of ``size`` pixels counts in each bin of boxes along one axis: ``(R, bins, size)``.

    Coordinates are computed as torchvision computes them, to the bit: the mean of a bin jumps where a sample leaves the
    map. Of an adaptive grid only the samples within a pixel of each pixel are looked at, so that there is a bound on
    them that no box changes.
    """
    length = end - start if aligned else (end - start).clamp(min=1.0)
    step = (length / bins)[:, None, None, None]
    places = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None, None]
    pixels = torch.arange(size, device=start.device, dtype=start.dtype)[:, None]
    first = start[:, None, None, None] + places * step  # (R, bins, 1, 1)
    if ratio > 0:
        number = torch.full_like(step, ratio)
        at = torch.arange(ratio, device=start.device, dtype=start.dtype)
    else:
        number = step.ceil()
        nearest = ((pixels - 1 - first) * number / step - 0.5).ceil().clamp(min=0.0)  # none of an empty bin
        at = nearest + torch.arange(-1, NEAREST - 1, device=start.device, dtype=start.dtype)
    y = first + (at + 0.5) * step / number
    counts = (at >= 0) & (at < number) & (y >= -1.0) & (y <= size)
    weight = (1.0 - (y.clamp(0.0, size - 1.0) - pixels).abs()).clamp(min=0.0)
    total = torch.where(counts, weight, 0.0).sum(3)
    return torch.where(number[..., 0] > 0, total / number[..., 0], 0.0)


def check_size(value: Any) -> tuple[int, int]:
    """Return two numbers of bins; raise unless there are one or two whole ones of at least 1.

    Example:
        >>> check_size(7)
        (7, 7)
    """
    sizes = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(sizes) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sizes):
        raise ValueError(f"output_size must be one or two whole numbers of at least 1, got {value!r}")
    return sizes


def check_boxes(boxes: Any, features: Tensor, count: int) -> None:
    """Raise unless boxes are ``(R, 5)`` on the features' device, whose numbers make sense for so many maps or clips.

    The numbers are read on the CPU alone: elsewhere that would wait for the device, which is told to check them.

    Example:
        >>> check_boxes(torch.tensor([[0.0, 1, 1, 5, 5]]), torch.rand(1, 2, 8, 8), 1)
    """
    if not isinstance(boxes, Tensor):
        raise TypeError(f"boxes must be a Tensor (R, 5), got {type(boxes).__name__}")
    if boxes.dim() != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes must be (R, 5): index, x1, y1, x2, y2; got {tuple(boxes.shape)}")
    if not boxes.is_floating_point():
        raise TypeError(f"boxes must be of a floating dtype, got {boxes.dtype}")
    if boxes.device != features.device:
        raise ValueError(f"boxes must be on {features.device}, got {boxes.device}")
    if torch.compiler.is_compiling() or boxes.device.type == "meta":
        return
    index = boxes[:, 0]
    known = (index >= 0) & (index < count) & (index == index.floor())
    ordered = (boxes[:, 3:] >= boxes[:, 1:3]).all(1) & boxes.isfinite().all(1)
    if boxes.device.type != "cpu":
        torch._assert_async(
            (known & ordered).all(), "boxes: an index without a clip, or x2 < x1, y2 < y1, NaN, inf"
        )
        return
    for good, rule in (
        (known, f"have a whole index from 0 to {count - 1} in front"),
        (ordered, "have finite x1 <= x2 and y1 <= y2"),
    ):
        if not good.all():
            row = int((~good).nonzero()[0, 0])
            raise ValueError(f"boxes must {rule}; row {row} is {boxes[row].tolist()}")


def by_torchvision(backend: str | None, features: Tensor) -> bool:
    """Whether torchvision's kernel runs a call; raises where it is asked for and cannot."""
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, or None, got {backend!r}")
    if backend == "torch" or (backend is None and (features.numel() == 0 or ordered_sums_wanted(features))):
        return False
    why_not = torchvision_lacks(features.device.type)
    if backend is not None and why_not:
        raise RuntimeError(f"backend 'torchvision' cannot run: {why_not}")
    return not why_not


def ordered_sums_wanted(features: Tensor) -> bool:
    """Whether sums on a device must be in a fixed order, which those of torchvision's gradient are not."""
    return features.device.type != "cpu" and torch.are_deterministic_algorithms_enabled()


_lacks: dict[str, str] = {}


@assume_constant_result
def torchvision_lacks(device: str) -> str:
    """Why torchvision's kernel does not run on a kind of device, empty where it does; found out once."""
    if device not in _lacks:
        _lacks[device] = look_for_torchvision(device)
    return _lacks[device]


def look_for_torchvision(device: str) -> str:
    """Import torchvision and look for its kernel."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return "torchvision is not installed"
    except Exception as error:  # of another build than torch's it raises a RuntimeError, or an OSError
        reason = f"torchvision does not import: {str(error).partition(chr(10))[0]}"
        _log.warning("roi_align: %s; ours in plain PyTorch takes its place", reason)
        return reason
    key = {"cpu": "CPU", "cuda": "CUDA", "meta": "Meta"}.get(device, "")
    if not key or not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::roi_align", key):
        return f"torchvision was built without roi_align for {device}"
    return ""
