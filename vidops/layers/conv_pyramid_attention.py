"""Convolution pyramid attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops.depthwise_conv3d import MAX_KERNEL
from .clips import Triple, check_channels, check_flag, kernel_triple

PYRAMID: tuple[Triple, ...] = ((1, 1, 1), (3, 3, 3), (3, 7, 7), (3, 9, 9))


class ConvPyramidAttention(nn.Module):
    """Convolution pyramid attention: positions are weighed by what convolutions of several sizes see around them.

    The mean of the channels goes through single-channel convolutions of several sizes, whose sum, by a softmax over all
    positions, is what each position is multiplied by (eq. 4.10, 4.11). Convolutions add up, so the sum runs as one, of
    the largest size. They have no bias, which the softmax would take away, and start at zero.

    Eq. 4.10 as it stands gives positions a mean weight of 1 / THW; that would wipe out what a network's later layers
    were trained on. With ``scale`` the weights are multiplied by THW, so that their mean is 1 and a new layer changes
    nothing.

    Args:
        kernel_sizes: a list of kernels, each (kt, kh, kw), or an int for a cube, odd and at most 9: ``[(3, 7, 7)]`` is
            the one kernel f^(3x7x7) of table 4.5. The default is the best of that table, the sum of four. Three ints
            alone are refused, for they may be one kernel or three cubes.
        scale: multiply the softmax by the number of positions; False gives the bare eq. 4.10.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` of any C returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    It takes no number of channels: `insert_after` wants ``lambda channels: ConvPyramidAttention()``.

    Source: Huang's thesis, eq. 4.10 and 4.11, figure 4.5, table 4.5.

    Example:
        >>> import torch
        >>> ConvPyramidAttention(((3, 3, 3), (3, 7, 7)))(torch.rand(1, 16, 4, 7, 7)).shape
        torch.Size([1, 16, 4, 7, 7])
    """

    def __init__(
        self,
        kernel_sizes: Sequence[int | Sequence[int]] = PYRAMID,
        *,
        scale: bool = True,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.kernel_sizes = check_pyramid(kernel_sizes)
        self.scale = check_flag(scale, "scale")
        self.backend = ops.backends.check_backend(backend)
        self.weights = nn.ParameterList(torch.zeros(1, 1, *size) for size in self.kernel_sizes)

    def merged(self) -> Tensor:
        """Add up the kernels, each in the middle of the largest size: (1, 1, kt, kh, kw)."""
        largest = [max(sizes) for sizes in zip(*self.kernel_sizes, strict=True)]
        padded = []
        for weight, size in zip(self.weights, self.kernel_sizes, strict=True):
            around = [(big - k) // 2 for big, k in zip(largest, size, strict=True)]
            padded.append(F.pad(weight, [p for p in reversed(around) for _ in range(2)]))
        return torch.stack(padded).sum(0) if len(padded) > 1 else padded[0]

    def gains(self, x: Tensor) -> Tensor:
        """Compute what each position of a clip is multiplied by: ``(N, 1, T, H, W)``.

        Of clips in half precision it is fp32: with ``scale`` it reaches THW, which fp16 cannot hold past 65,504.
        """
        seen = ops.depthwise_conv3d(x.mean(1, keepdim=True), self.merged(), backend=self.backend)
        logits = seen.flatten(1)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if not self.scale:
            gains = logits.softmax(1)
        else:  # equal logits give 1 to the last bit
            above = (logits - logits.amax(1, keepdim=True)).exp()
            gains = above * (above.shape[1] / above.sum(1, keepdim=True))
        return gains.reshape(seen.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the positions of a clip ``(N, C, T, H, W)``."""
        check_channels(x, None)
        return (x * self.gains(x)).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"kernel_sizes={self.kernel_sizes}, scale={self.scale}, backend={self.backend!r}"


def check_pyramid(kernel_sizes: Any) -> tuple[Triple, ...]:
    """Return a pyramid's kernel sizes as triples of odd numbers up to 9; raise where they are none.

    Example:
        >>> check_pyramid([1, (3, 7, 7)])
        ((1, 1, 1), (3, 7, 7))
    """
    wanted = "kernel_sizes must be a list of kernels, each (kt, kh, kw) or an int for a cube"
    if not isinstance(kernel_sizes, (list, tuple)) or not kernel_sizes:
        alone = isinstance(kernel_sizes, int) and not isinstance(kernel_sizes, bool)
        hint = "; ConvPyramidAttention takes no channels" if alone else ""
        raise ValueError(f"{wanted}, such as [(3, 7, 7)], got {kernel_sizes!r}{hint}")
    if len(kernel_sizes) == 3 and all(isinstance(size, int) for size in kernel_sizes):
        cubes = [(size,) * 3 for size in kernel_sizes]
        raise ValueError(
            f"{wanted}; {kernel_sizes!r} may be one kernel, [{tuple(kernel_sizes)}], or three cubes, {cubes}: give one"
            " of these"
        )
    made = [(size, kernel_triple(size)) for size in kernel_sizes]
    for size, triple in made:
        if triple is None:
            raise ValueError(f"{wanted}, odd and at most {MAX_KERNEL}, got {size!r}")
    return tuple(triple for _, triple in made if triple is not None)
