"""The region-based non-local block."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .. import ops
from .clips import check_kernel, check_one_of, check_width
from .depthwise_conv3d import DepthwiseConv3d
from .non_local import AttentionBlock

AGGREGATES = ("conv", "avg", "max")


class RegionNonLocal(AttentionBlock):
    """Region-based non-local block: positions are compared by the regions around them.

    ``out = x + BN(W_z attention(P, P, g))``, g = W_g x the one projection, C -> C/2, and P what gathers the region of
    ``kernel_size`` around each position of g, channel by channel; the values are g itself. W_g and W_z are biased 1x1x1
    convolutions. Eq. 4.8 has no batch norm; we put one there, as the non-local block has it, and it starts with weight
    zero: a new block changes nothing.

    The thesis counts 35.48 M parameters for five of these in a TSM ResNet-50. That is its released code, which keeps
    each channel-wise kernel in a dense one, 32 times as large, beside a mask of that size; the function has 28.13 M.

    Args:
        channels: C of the clips.
        kind: ``"gaussian"`` (eq. 4.5), ``"dot"`` (4.6) or ``"cosine"`` (4.7) of two regions; ``"concatenation"`` too,
            which the thesis does not try with regions.
        aggregate: F_theta: ``"conv"``: a channel-wise convolution without bias; ``"avg"`` or ``"max"`` of the region.
        kernel_size: odd sizes of the region along time, height and width, one int or three, at most 9; the thesis names
            (3, 7, 7) in res3, and its counts of parameters fit (3, 3, 3) in res4.
        inner_channels: of g; None for C // 2.
        scale: what the gaussian kind's products are multiplied by; None for 1, as in the thesis.
        backend: backend of the operators; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Huang's thesis, eq. 4.2 to 4.9, figure 4.3, tables 4.2 to 4.4.

    Example:
        >>> import torch
        >>> RegionNonLocal(16, kernel_size=3)(torch.rand(1, 16, 4, 7, 7)).shape
        torch.Size([1, 16, 4, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        kind: str = "gaussian",
        *,
        aggregate: str = "conv",
        kernel_size: int | Sequence[int] = (3, 7, 7),
        inner_channels: int | None = None,
        scale: float | None = None,
        backend: str | None = None,
    ) -> None:
        check_width(channels, "channels")
        inner = (
            max(channels // 2, 1) if inner_channels is None else check_width(inner_channels, "inner_channels")
        )
        check_one_of(aggregate, "aggregate", AGGREGATES)
        size = check_kernel(kernel_size)
        super().__init__(channels, inner, inner, kind=kind, scale=scale, backend=backend)
        self.kernel_size = size
        self.aggregate = aggregate
        self.g = nn.Conv3d(channels, inner, 1)
        self.region = None
        if aggregate == "conv":
            self.region = DepthwiseConv3d(inner, inner, size, padding="same", bias=False, backend=backend)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what describes the regions of a clip ``(N, C, T, H, W)``, as query and as key, and the values."""
        value = self.g(x)
        if self.region is not None:
            regions = self.region(value)
        else:
            regions = ops.region_aggregate(
                value, self.aggregate, kernel_size=self.kernel_size, backend=self.backend
            )
        return regions, regions, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute what each region gathers, ``(N, inner_channels, T, H, W)``; ``key`` is ``query``."""
        return ops.region_attention(
            query,
            value,
            kind=self.kind,
            scale=self.scale,
            query_weight=self.query_weight,
            key_weight=self.key_weight,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, kind={self.kind!r}, aggregate={self.aggregate!r}, kernel_size={self.kernel_size},"
            f" inner_channels={self.inner_channels}, scale={self.scale}, backend={self.backend!r}"
        )
