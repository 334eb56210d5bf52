"""The non-local block: every position gathers from all others in space and time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .clips import ClipNorm, check_channels, check_factor, check_flag, check_one_of, check_width

KINDS = ("gaussian", "dot", "cosine", "concatenation")


class AttentionBlock(nn.Module):
    """What a non-local and a region-based block share: ``x + BN(conv(attention(query, key, value)))``.

    The batch norm starts with weight and bias zero, so that a new block returns what it is given, bit by bit.

    Args:
        channels: C of the clips.
        inner_channels: of the value; None for C // 2.
        query_channels: of query and key.
        kind: of the attention.
        scale: of the gaussian kind's logits; None for 1.
        backend: backend of the operators.
    """

    query_weight: nn.Parameter | None
    key_weight: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        inner_channels: int,
        query_channels: int,
        *,
        kind: str,
        scale: float | None,
        backend: str | None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.inner_channels = inner_channels
        self.kind = check_one_of(kind, "kind", KINDS)
        check_factor(scale, "scale")
        if scale is not None and kind != "gaussian":
            raise ValueError(f"scale must be None with kind {kind!r}, got {scale!r}")
        self.scale = scale
        self.backend = ops.backends.check_backend(backend)
        for name in ("query_weight", "key_weight"):
            made = None
            if kind == "concatenation":  # as a convolution from 2 * query_channels to 1 starts
                bound = (2 * query_channels) ** -0.5
                made = nn.Parameter(torch.empty(query_channels).uniform_(-bound, bound))
            self.register_parameter(name, made)
        self.out = nn.Conv3d(inner_channels, channels, 1)
        self.norm = ClipNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute query, key and value of a clip ``(N, C, T, H, W)``."""
        raise NotImplementedError

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute what each position gathers, ``(N, inner_channels, T, H, W)``."""
        return ops.nonlocal_attention(
            query,
            key,
            value,
            kind=self.kind,
            scale=self.scale,
            query_weight=self.query_weight,
            key_weight=self.key_weight,
            backend=self.backend,
        )

    def attention_map(self, x: Tensor, point: Sequence[int]) -> Tensor:
        """Compute how much one position takes from each, for pictures; see `vidops.ops.attention_map`.

        Args:
            x: clip ``(N, C, T, H, W)`` that the block is given.
            point: frame, row and column ``(t, y, x)`` of the position.

        Returns:
            Weights ``(N, T', H', W')`` of all keys.

        Raises:
            ValueError: the clip has other channels, or no such position.

        Example:
            >>> import torch
            >>> block = NonLocal(16).eval()
            >>> block.attention_map(torch.rand(1, 16, 4, 7, 7), (2, 3, 3)).shape
            torch.Size([1, 4, 7, 7])
        """
        check_channels(x, self.channels)
        query, key, _ = self.embed(x)
        return ops.attention_map(
            query,
            key,
            point,
            kind=self.kind,
            scale=self.scale,
            query_weight=self.query_weight,
            key_weight=self.key_weight,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add to a clip ``(N, C, T, H, W)`` what its positions gather."""
        check_channels(x, self.channels)
        return x + self.norm(self.out(self.attend(*self.embed(x))))


class NonLocal(AttentionBlock):
    """Non-local block: every position adds a weighted mean of what all positions hold.

    ``out = x + BN(W_z attention(theta(x), phi(x), g(x)))`` with four biased 1x1x1 convolutions theta, phi, g: C -> C/2
    and W_z: C/2 -> C. As in the paper's code the batch norm, which the thesis' figure 4.2 does not show, starts with
    weight zero: a new block changes nothing. `vidops.ops.nonlocal_attention` runs it without the matrix of all pairs.

    Args:
        channels: C of the clips.
        kind: ``"gaussian"``: softmax of the products; ``"dot"``: the products over the number of positions;
            ``"cosine"``: eq. 4.7; ``"concatenation"``: a learned weighing of query and key, rectified.
        inner_channels: of theta, phi and g; None for C // 2.
        embed: whether theta and phi are there; without them x itself is query and key (instantiation (i), the paper's
            plain Gaussian).
        pool: take the largest of every 2 x 2 keys and values of a frame (a quarter of the work); the paper's
            "subsampling". A frame of odd size loses its last row or column of them, one of one pixel none.
        scale: what the gaussian kind's products are multiplied by; None for 1, as in the paper.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Wang et al., Non-local Neural Networks, eq. 6 and section 3.3; Huang's thesis, eq. 4.1 and figure 4.2.

    Example:
        >>> import torch
        >>> NonLocal(16, pool=True)(torch.rand(1, 16, 4, 7, 7)).shape
        torch.Size([1, 16, 4, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        kind: str = "gaussian",
        *,
        inner_channels: int | None = None,
        embed: bool = True,
        pool: bool = False,
        scale: float | None = None,
        backend: str | None = None,
    ) -> None:
        check_width(channels, "channels")
        check_flag(embed, "embed")
        check_flag(pool, "pool")
        inner = (
            max(channels // 2, 1) if inner_channels is None else check_width(inner_channels, "inner_channels")
        )
        super().__init__(
            channels, inner, inner if embed else channels, kind=kind, scale=scale, backend=backend
        )
        self.pool = pool
        self.theta = nn.Conv3d(channels, inner, 1) if embed else None
        self.phi = nn.Conv3d(channels, inner, 1) if embed else None
        self.g = nn.Conv3d(channels, inner, 1)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute theta, phi and g of a clip ``(N, C, T, H, W)``, the latter two pooled where that is asked for."""
        query = x if self.theta is None else self.theta(x)
        key = x if self.phi is None else self.phi(x)
        value = self.g(x)
        if self.pool:
            size = (1, min(2, x.shape[3]), min(2, x.shape[4]))
            key, value = F.max_pool3d(key, size), F.max_pool3d(value, size)
        return query, key, value

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, kind={self.kind!r}, inner_channels={self.inner_channels},"
            f" embed={self.theta is not None}, pool={self.pool}, scale={self.scale}, backend={self.backend!r}"
        )
