"""Pixel-wise temporal projection: what of a clip does not stay as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .. import ops
from ..ops.temporal_projection import Projection, check_ridge
from .fold_time import as_clips, as_frames
from .temporal_squeeze_pool import check_frames, check_projection_sizes


class PixelwiseTemporalProjection(nn.Module):
    """Pixel-wise temporal projection (PWTP): the dynamic appearance of every T frames, without what stays.

    A convolution of every frame describes what is around each place of a coarse grid, the products of these
    descriptions how alike any two frames are there; a multilayer perceptron makes of them the T x D matrix that the
    place's pixels are projected on, up-sampled between places. What the projection leaves over, averaged over time, is
    the dynamic appearance (eq. 3.12); its mean square is the layer's loss `energy` (eq. 3.13).

    Parameter names: ``descriptor.*``, ``mlp.*``.

    Args:
        num_frames: T, frames of a segment, at most 64; a clip has S segments one after another.
        basis_size: D, columns of the matrices, below T and at most 16.
        in_channels: C of the clips.
        descriptor_kernel_size: k, odd, of the convolution.
        descriptor_stride: s, pixels from one place of the grid to the next.
        descriptor_channels: C' of the convolution.
        bottleneck_ratio: beta, of the bottlenecks in the perceptron.
        num_bottlenecks: B, how many there are.
        expansion_ratio: r, features inside the perceptron for each of the T(T-1)/2 pairs of frames.
        ridge: added to the diagonal of the normal matrices, as in `vidops.ops.temporal_projection`.
        backend: backend of the operators; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on clips ``(N, C, S*T, H, W)`` returns the dynamic appearance of every T frames, clips
        ``(N, C, S, H, W)``; with ``return_losses=True`` these and ``{"energy": that of what is left of each clip,
        the mean of its segments, (N,)}``.

    Raises:
        ValueError: an argument or the clip's shape is out of range; the text names it.
        TypeError: a number is no int.

    Source: section 3.5.2 of Huang's thesis, eq. 3.7 to 3.14; tables 3.11 and 3.13 for the options.

    Example:
        >>> import torch
        >>> PixelwiseTemporalProjection(8)(torch.rand(2, 3, 32, 40, 40)).shape
        torch.Size([2, 3, 4, 40, 40])
    """

    def __init__(
        self,
        num_frames: int = 8,
        basis_size: int = 1,
        *,
        in_channels: int = 3,
        descriptor_kernel_size: int = 9,
        descriptor_stride: int = 8,
        descriptor_channels: int = 24,
        bottleneck_ratio: float = 0.25,
        num_bottlenecks: int = 1,
        expansion_ratio: int = 2,
        ridge: float = 1e-6,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_projection_sizes(num_frames, basis_size)
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("descriptor_kernel_size", descriptor_kernel_size, 1),
            ("descriptor_stride", descriptor_stride, 1),
            ("descriptor_channels", descriptor_channels, 1),
            ("num_bottlenecks", num_bottlenecks, 0),
            ("expansion_ratio", expansion_ratio, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if descriptor_kernel_size % 2 == 0:
            raise ValueError(f"descriptor_kernel_size must be odd, got {descriptor_kernel_size}")
        if not isinstance(bottleneck_ratio, (int, float)) or not 0 < bottleneck_ratio <= 1:
            raise ValueError(f"bottleneck_ratio must be above 0 and at most 1, got {bottleneck_ratio!r}")
        self.num_frames = num_frames
        self.basis_size = basis_size
        self.in_channels = in_channels
        self.ridge = check_ridge(ridge)
        self.backend = ops.backends.check_backend(backend)
        k = descriptor_kernel_size
        self.descriptor = nn.Conv2d(in_channels, descriptor_channels, k, descriptor_stride, k // 2)
        pairs = num_frames * (num_frames - 1) // 2
        width = expansion_ratio * pairs
        inner = math.ceil(bottleneck_ratio * width)
        self.mlp = nn.Sequential(
            nn.Conv2d(pairs, width, 1),
            nn.GELU(),
            *(Bottleneck(width, inner) for _ in range(num_bottlenecks)),
            nn.Conv2d(width, num_frames * basis_size, 1),
        )

    def basis(self, x: Tensor) -> Tensor:
        """Compute the matrices of clips ``(N, C, T, H, W)`` on the coarse grid, ``(N, T, D, H/s, W/s)``."""
        check_frames(x, self.num_frames, self.in_channels)
        features = as_clips(self.descriptor(as_frames(x)), self.num_frames)
        matrices = self.mlp(ops.temporal_descriptor(features, backend=self.backend))
        return matrices.unflatten(1, (self.num_frames, self.basis_size))

    def project(self, x: Tensor, outputs: Sequence[str]) -> Projection:
        """Project clips ``(N, C, T, H, W)`` and return the results named in ``outputs``."""
        return ops.temporal_projection(
            x, self.basis(x), ridge=self.ridge, outputs=outputs, backend=self.backend
        )

    def forward(self, x: Tensor, return_losses: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute the dynamic appearance of every T frames of clips ``(N, C, S*T, H, W)``."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
        shape = tuple(x.shape)
        if len(shape) != 5 or shape[1] != self.in_channels or shape[2] < 1 or shape[2] % self.num_frames:
            raise ValueError(
                f"x must be clips (N, {self.in_channels}, S*T, H, W) of whole segments of T={self.num_frames}"
                f" frames, got {shape}"
            )
        segments = x.shape[2] // self.num_frames
        runs = as_clips(as_frames(x), self.num_frames)  # (N*S, C, T, H, W)
        found = self.project(runs, ("residual_mean", "energy") if return_losses else ("residual_mean",))
        assert found.residual_mean is not None
        appearance = as_clips(found.residual_mean, segments)
        if not return_losses:
            return appearance
        assert found.energy is not None
        return appearance, {"energy": found.energy.view(-1, segments).mean(1)}

    def extra_repr(self) -> str:
        """Show what the parts do not show."""
        return (
            f"{self.num_frames}, basis_size={self.basis_size}, ridge={self.ridge}, backend={self.backend!r}"
        )


class Bottleneck(nn.Module):
    """A residual branch of the perceptron: batch norm, to fewer features, back; GELU after both.

    Args:
        width: features in and out.
        inner: features between.

    Returns:
        Calling it on ``(N, width, h, w)`` returns the same shape.

    Source: figure 3.14 of Huang's thesis.

    Example:
        >>> import torch
        >>> Bottleneck(8, 2)(torch.rand(2, 8, 3, 3)).shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, inner, 1),
            nn.GELU(),
            nn.Conv2d(inner, width, 1),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to its input."""
        return x + self.branch(x)
