"""Lateral connections between the busy and the quiet pathway of a Busy-Quiet Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .. import ops
from .clips import ClipNorm
from .motion_band_pass import MotionBandPass

PHIS = ("identity", "conv", "mlp")
# Of each design: what goes to the quiet pathway, what to the busy one, and whether the two take turns.
DESIGNS = {
    "lc1": (None, "band_pass", False),
    "lc2": ("phi", None, False),
    "lc3": ("phi", "band_pass", False),
    "lc4": ("phi", "band_pass", True),
    "lc5": ("phi", "linear", True),
}
BPLC = "lc4"
REDUCTION = 4  # of the bottleneck MLP


def match_size(x: Tensor, size: Sequence[int], backend: str | None = None) -> Tensor:
    """Resample a clip linearly along each axis, with `vidops.ops.resize`: frame by frame, then along time.

    Args:
        x: clip ``(N, C, T, H, W)``.
        size: frames, height and width ``(T', H', W')``.
        backend: backend of the operator.

    Returns:
        ``(N, C, T', H', W')``; ``x`` itself where it has that size.

    Example:
        >>> import torch
        >>> match_size(torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 4, 1, 1), (2, 1, 1)).flatten().tolist()
        [2.0, 6.0]
    """
    frames, height, width = size
    x = ops.resize(x, (height, width), backend=backend)
    if x.shape[2] == frames:
        return x
    return ops.resize(x.transpose(2, 3), (frames, width), backend=backend).transpose(2, 3)


def linear_map(channels: int, kind: str) -> nn.Module:
    """Make phi of eq. 5.5: the identity, a 1x1x1 convolution, or two with a quarter of the channels between them.

    Example:
        >>> sum(p.numel() for p in linear_map(64, "mlp").parameters())
        2048
    """
    if kind not in PHIS:
        raise ValueError(f"phi must be one of {', '.join(PHIS)}, got {kind!r}")
    if kind == "identity":
        return nn.Identity()
    if kind == "conv":
        return nn.Conv3d(channels, channels, 1, bias=False)
    inner = max(channels // REDUCTION, 1)
    return nn.Sequential(
        nn.Conv3d(channels, inner, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv3d(inner, channels, 1, bias=False),
    )


class Transfer(nn.Module):
    """One direction of a lateral connection: what it adds to a pathway, at first nothing.

    Args:
        channels: C of both pathways.
        layer: from clips to clips of the same shape.
        after: resample after the layer rather than before it.
        backend: backend of the resampling.

    Returns:
        Calling it on the features it starts from and those it goes to returns the sum of the latter and
        ``BN(layer(features))``, resampled to their size; the batch norm's weight starts at zero.
    """

    def __init__(self, channels: int, layer: nn.Module, *, after: bool, backend: str | None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = ClipNorm(channels)
        nn.init.zeros_(self.norm.weight)
        self.after = after
        self.backend = ops.backends.check_backend(backend)

    def forward(self, x: Tensor, to: Tensor) -> Tensor:
        """Add clips ``(N, C, T, H, W)`` to clips ``(N, C, T', H', W')``."""
        if self.after:
            return to + self.norm(match_size(self.layer(x), to.shape[2:], self.backend))
        return to + self.norm(self.layer(match_size(x, to.shape[2:], self.backend)))


class LateralConnection(nn.Module):
    """Exchanges features between the two pathways of a Busy-Quiet Net after a residual block.

    The designs of figure 5.5, whose drawings are not in the text; it says which are unidirectional, bidirectional and
    alternating, and which has no MBPM. We read them as::

        lc1          always  busy += BN(MBPM(quiet))
        lc2          always  quiet += BN(phi(busy))
        lc3          both of these
        lc4 (BPLC)   index odd: quiet += BN(phi(busy)); even: busy += BN(MBPM(quiet))     eq. 5.5
        lc5          as lc4 with a 1x1x1 convolution W_1 in place of the MBPM

    Features are resampled by `vidops.ops.resize`: before phi and W_1, after the MBPM. Every batch norm starts with
    weight zero, so that a new connection changes nothing.

    Args:
        channels: C of both pathways.
        index: which connection of the network, from 1.
        design: ``"lc1"`` to ``"lc5"``; ``"bplc"`` is ``"lc4"``.
        phi: ``"identity"``, ``"conv"`` (1x1x1) or ``"mlp"`` (1x1x1 to a quarter, ReLU, 1x1x1 back).
        kernel_size: k of the MBPM.
        sigma: initial scale of the MBPM.
        norm: of the MBPM's initial filter, ``"l1"`` or ``"sum"``.
        backend: backend of the operators. State-dict keys do not depend on it.

    Returns:
        Calling it on ``(busy, quiet)``, clips ``(N, C, T, H, W)`` of the same N and C and any two sizes, returns both.
        Where T differs too, what is added is resampled linearly along time.

    Raises:
        ValueError: an argument is out of range, the two have not the same N and the layer's C, or the quiet features
            are no larger than half the kernel.

    Source: Huang's thesis, eq. 5.5, figure 5.5 and section 5.5.3.

    Example:
        >>> import torch
        >>> busy, quiet = LateralConnection(16, index=2)(torch.rand(1, 16, 8, 9, 9), torch.rand(1, 16, 8, 5, 5))
        >>> busy.shape, quiet.shape
        (torch.Size([1, 16, 8, 9, 9]), torch.Size([1, 16, 8, 5, 5]))
    """

    def __init__(
        self,
        channels: int,
        index: int = 1,
        design: str = "bplc",
        *,
        phi: str = "identity",
        kernel_size: int = 7,
        sigma: float = 0.9,
        norm: str = "l1",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if design != "bplc" and design not in DESIGNS:
            raise ValueError(f"lateral must be one of bplc, {', '.join(DESIGNS)}, got {design!r}")
        if channels < 1 or index < 1:
            raise ValueError(f"channels and index must be at least 1, got {channels} and {index}")
        made: dict[str, Callable[[], nn.Module]] = {
            "phi": lambda: linear_map(channels, phi),
            "linear": lambda: linear_map(channels, "conv"),
            "band_pass": lambda: MotionBandPass.features(
                channels, kernel_size=kernel_size, sigma=sigma, norm=norm, backend=backend
            ),
        }
        linear_map(1, phi)  # raises what is wrong with phi, in every design
        to_quiet, to_busy, turns = DESIGNS[BPLC if design == "bplc" else design]
        if turns and index % 2:
            to_busy = None
        elif turns:
            to_quiet = None
        self.channels = channels
        self.design = design
        self.kernel_size = kernel_size if to_busy == "band_pass" else 1
        self.to_quiet = (
            Transfer(channels, made[to_quiet](), after=False, backend=backend) if to_quiet else None
        )
        self.to_busy = (
            Transfer(channels, made[to_busy](), after=to_busy == "band_pass", backend=backend)
            if to_busy
            else None
        )

    def forward(self, busy: Tensor, quiet: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange features of clips ``(N, C, T, H, W)``, each direction from what came in."""
        if busy.shape[0] != quiet.shape[0]:
            raise ValueError(
                f"busy and quiet must be as many clips, got {busy.shape[0]} and {quiet.shape[0]}"
            )
        if busy.shape[1] != self.channels or quiet.shape[1] != self.channels:
            raise ValueError(
                f"busy and quiet must have {self.channels} channels, got {busy.shape[1]} and {quiet.shape[1]}"
            )
        if min(quiet.shape[3:]) <= self.kernel_size // 2:
            raise ValueError(
                f"clip: its quiet features are {quiet.shape[3]}x{quiet.shape[4]} here, too small for a lateral"
                f" connection of {self.kernel_size}x{self.kernel_size}; larger frames, a larger quiet_size or"
                " smaller lateral_kernel_sizes fit"
            )
        new_busy = busy if self.to_busy is None else self.to_busy(quiet, busy)
        new_quiet = quiet if self.to_quiet is None else self.to_quiet(busy, quiet)
        return new_busy, new_quiet

    def extra_repr(self) -> str:
        """Show the design."""
        return f"design={self.design!r}"


class BandPassLateralConnection(LateralConnection):
    """Band-Pass Lateral Connection: the two pathways take turns, and the quiet one passes on only what moves.

    At an odd index the busy features go to the quiet pathway through phi, at an even one the quiet features to the
    busy pathway through an MBPM. See `LateralConnection`, of which it is the design ``"bplc"``.

    Args:
        channels: C of both pathways.
        index: which connection of the network, from 1.
        phi: as for `LateralConnection`.
        kernel_size: likewise.
        sigma: likewise.
        norm: likewise.
        backend: likewise.

    Returns:
        Calling it on ``(busy, quiet)`` returns both.

    Raises:
        ValueError: an argument is out of range.

    Source: Huang's thesis, eq. 5.5.

    Example:
        >>> import torch
        >>> clips = torch.rand(1, 16, 8, 9, 9), torch.rand(1, 16, 8, 5, 5)
        >>> torch.equal(BandPassLateralConnection(16, index=1)(*clips)[1], clips[1])
        True
    """

    def __init__(
        self,
        channels: int,
        index: int = 1,
        *,
        phi: str = "identity",
        kernel_size: int = 7,
        sigma: float = 0.9,
        norm: str = "l1",
        backend: str | None = None,
    ) -> None:
        super().__init__(
            channels, index, phi=phi, kernel_size=kernel_size, sigma=sigma, norm=norm, backend=backend
        )
