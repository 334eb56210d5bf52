"""Memory layout of clips, as ``csrc/common/clip.h`` has it: fake tensors must agree with the kernels."""

from __future__ import annotations

from torch import Tensor

__all__ = ["clip_strides", "empty_clip", "empty_images", "layout_of"]


def layout_of(x: Tensor) -> str:
    """Name the native layout of a clip ``(N, C, T, H, W)``: ``"NCTHW"``, ``"NTCHW"`` or ``"NTHWC"``.

    Axes of size one decide nothing. A clip in none of the three is named by the one its results get.

    Example:
        >>> import torch
        >>> layout_of(torch.empty(2, 8, 4, 5, 5).transpose(1, 2))
        'NTCHW'
    """
    _, c, t, h, w = x.shape
    _, stride_c, stride_t, _, _ = x.stride()
    if c > 1 and stride_c == 1 and h * w > 1:
        return "NTHWC"
    return "NTCHW" if c > 1 and t > 1 and stride_t > stride_c else "NCTHW"


def clip_strides(shape: tuple[int, int, int, int, int], layout: str) -> tuple[int, int, int, int, int]:
    """Strides of a dense clip of ``shape`` in ``layout``, in elements.

    NTCHW frames of one pixel are NTHWC as well, and get its strides: with 1 as those of height and width PyTorch calls
    such a clip channels last in one place and not in another, and its CPU batch norm then returns wrong gradients.

    Example:
        >>> clip_strides((1, 8, 4, 5, 5), "NTHWC")
        (800, 1, 200, 40, 8)
    """
    _, c, t, h, w = shape
    p = h * w
    if layout == "NTHWC" or (layout == "NTCHW" and p == 1):
        return (c * t * p, 1, c * p, w * c, c)
    if layout == "NTCHW":
        return (c * t * p, p, c * p, w, 1)
    return (c * t * p, t * p, p, w, 1)


def empty_clip(like: Tensor, frames: int | None = None, layout: str | None = None) -> Tensor:
    """Uninitialised dense clip shaped like ``like`` with ``frames`` frames, in ``layout`` or the layout of ``like``.

    Example:
        >>> import torch
        >>> empty_clip(torch.empty(1, 2, 4, 5, 5), frames=2).shape
        torch.Size([1, 2, 2, 5, 5])
    """
    n, c, t, h, w = like.shape
    shape = (n, c, t if frames is None else frames, h, w)
    return like.new_empty_strided(shape, clip_strides(shape, layout or layout_of(like)))


def empty_images(like: Tensor, channels: int) -> Tensor:
    """Uninitialised images ``(N, channels, H, W)`` of the clip ``like``, channels last in memory if it is.

    Example:
        >>> import torch
        >>> empty_images(torch.empty(1, 2, 4, 5, 5), 3).stride()
        (75, 25, 5, 1)
    """
    n, _, _, h, w = like.shape
    p = h * w
    strides = (
        (channels * p, 1, w * channels, channels) if layout_of(like) == "NTHWC" else (channels * p, p, w, 1)
    )
    return like.new_empty_strided((n, channels, h, w), strides)
