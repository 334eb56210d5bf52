"""The Motion Band-Pass Module."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from .. import ops

NORMS = ("l1", "sum")
PADDINGS = ("valid", "replicate")
LARGE_GAIN = 64.0  # takes values of a thousand past what fp16 holds


def laplacian_of_gaussian(kernel_size: int, sigma: float, norm: str = "l1") -> Tensor:
    """Sample a Laplacian of Gaussian on the integer grid and scale it, in fp64.

    The plain filter (eq. 5.2) has a negative centre and a sum near zero. ``norm="sum"`` divides by that sum, as the
    thesis and its released code do: the centre becomes positive and the gain, the sum of magnitudes, large (1589 for
    sigma 1.1, k 9). ``norm="l1"`` has the same shape and sign with gain 1.

    Args:
        kernel_size: k, odd.
        sigma: scale in pixels.
        norm: ``"l1"`` or ``"sum"``.

    Returns:
        ``(k, k)``, fp64.

    Raises:
        ValueError: an argument is out of range, or the sum is zero.

    Source: eq. 5.2 of Huang's thesis.

    Example:
        >>> round(laplacian_of_gaussian(9, 1.1).abs().sum().item(), 12)
        1.0
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    axis = torch.arange(kernel_size, dtype=torch.float64, device="cpu") - kernel_size // 2
    q = (axis[:, None] ** 2 + axis**2) / (2 * sigma**2)
    weight = torch.exp(-q) * (q - 1)  # the factor 1 / (pi sigma^4) cancels
    total = weight.sum()
    if total == 0:
        raise ValueError(f"sigma {sigma} and kernel_size {kernel_size} give a filter whose sum is zero")
    return weight / total if norm == "sum" else weight * total.sign() / weight.abs().sum()


@torch.fx.wrap
def of_channels(x: Tensor, channels: int) -> Tensor:
    """Return a clip of so many channels, refuse another."""
    if x.dim() == 5 and x.shape[1] != channels:
        raise ValueError(f"clip must have {channels} channels, (N, C, T, H, W), got {tuple(x.shape)}")
    return x


class MotionBandPass(nn.Module):
    """Motion Band-Pass Module: what moves, in a band of scales, out of every three frames.

    A depthwise k x k filter that starts as a Laplacian of Gaussian, then a depthwise temporal filter that starts as
    [-1, 2, -1] / 3, run as one operator. A still clip gives zero; what moves lights up along its boundary.
    `MotionBandPass.stem` is the module before a network's input, `MotionBandPass.features` the one between stages.

    ``norm="sum"`` scales the spatial filter as the thesis does, for weights that were trained that way: its gain is in
    the hundreds or more. Under autocast it then runs in fp32, and a layer that becomes one of fp16 weights warns
    once. Weights of such a gain that are loaded into a layer of ``norm="l1"`` are told: the state dict has no norm.

    Args:
        channels: C, channels of the clips.
        kernel_size: k, odd taps along each spatial axis; frames must be larger than k // 2.
        sigma: scale of the initial filter in pixels.
        stride: temporal stride in frames.
        temporal_padding: ``"valid"`` or ``"replicate"``, as in `vidops.ops.motion_band_pass`.
        norm: ``"l1"`` (gain 1) or ``"sum"`` of the initial filter.
        trainable: whether the parameters ask for gradients; a frozen module has the same ones.
        quiet: return ``(busy, quiet)``, quiet being the mean of the same three frames minus busy.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns ``(N, C, T_out, H, W)``, T_out = T/3 at the defaults, or
        two of them.

    Raises:
        ValueError: an argument is out of range; the text names it.

    Source: section 5.3 of Huang's thesis, eq. 5.1 to 5.4.

    Example:
        >>> import torch
        >>> MotionBandPass.stem(quiet=True)(torch.rand(1, 3, 24, 32, 32))[0].shape
        torch.Size([1, 3, 8, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 9,
        sigma: float = 1.1,
        *,
        stride: int = 3,
        temporal_padding: str = "valid",
        norm: str = "l1",
        trainable: bool = True,
        quiet: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        laplacian_of_gaussian(kernel_size, sigma, norm)  # raises what is wrong with these
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if temporal_padding not in PADDINGS:
            raise ValueError(
                f"temporal_padding must be one of {', '.join(PADDINGS)}, got {temporal_padding!r}"
            )
        self.channels = channels
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.stride = stride
        self.temporal_padding = temporal_padding
        self.norm = norm
        self.trainable = trainable
        self.quiet = quiet
        self.backend = ops.backends.check_backend(backend)
        self._warned = False
        self.spatial = nn.Parameter(torch.empty(channels, kernel_size, kernel_size), requires_grad=trainable)
        self.temporal = nn.Parameter(torch.empty(channels, 3), requires_grad=trainable)
        self.reset_parameters()
        self._warn_of_fp16()

    @classmethod
    def stem(cls, channels: int = 3, **options: Any) -> MotionBandPass:
        """Make the module before a network's input: k 9, sigma 1.1, one frame out of every three.

        Example:
            >>> sum(p.numel() for p in MotionBandPass.stem().parameters())
            252
        """
        return cls(channels, **{"kernel_size": 9, "sigma": 1.1, "stride": 3, **options})

    @classmethod
    def features(cls, channels: int, **options: Any) -> MotionBandPass:
        """Make the module of a lateral connection: k 7, sigma 0.9, as many frames as it is given.

        Example:
            >>> MotionBandPass.features(64, kernel_size=3)(torch.rand(1, 64, 8, 7, 7)).shape
            torch.Size([1, 64, 8, 7, 7])
        """
        preset = {"kernel_size": 7, "sigma": 0.9, "stride": 1, "temporal_padding": "replicate"}
        return cls(channels, **{**preset, **options})

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the parameters to their initial values."""
        self.spatial.copy_(laplacian_of_gaussian(self.kernel_size, self.sigma, self.norm))
        self.temporal.copy_(torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64) / 3)

    def _warn_of_fp16(self) -> None:
        """Warn where the weights come to be fp16; `forward` may be compiled, and then warns no one."""
        if self.norm == "sum" and self.spatial.dtype == torch.float16 and not self._warned:
            self._warned = True
            warnings.warn(
                "MotionBandPass with norm='sum' has a gain in the hundreds or more and may overflow in float16;"
                " norm='l1', bfloat16 or autocast do not",
                stacklevel=2,
            )

    def _apply(self, fn: Any, recurse: bool = True) -> MotionBandPass:
        super()._apply(fn, recurse)
        self._warn_of_fp16()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        loaded = state_dict.get(f"{prefix}spatial")
        if self.norm != "sum" and isinstance(loaded, Tensor) and loaded.numel() and not loaded.is_meta:
            gain = loaded.detach().double().abs().flatten(1).sum(1).max().item()
            if gain > LARGE_GAIN:
                warnings.warn(
                    f"{prefix}spatial has gain {gain:.0f}, as norm='sum' gives: with norm={self.norm!r} it may overflow"
                    " in float16, also under autocast; build the layer with norm='sum'",
                    stacklevel=2,
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _run(self, x: Tensor, spatial: Tensor, temporal: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return ops.motion_band_pass(
            x,
            spatial,
            temporal,
            stride=self.stride,
            temporal_padding=self.temporal_padding,
            quiet=self.quiet,
            backend=self.backend,
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Filter a clip ``(N, C, T, H, W)``."""
        x = of_channels(x, self.channels)
        if self.norm != "sum":
            return self._run(x, self.spatial, self.temporal)
        device = x.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            low = (torch.float16, torch.bfloat16)
            with torch.autocast(device, enabled=False):
                tensors = (t.float() if t.dtype in low else t for t in (x, self.spatial, self.temporal))
                return self._run(*tensors)
        return self._run(x, self.spatial, self.temporal)

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, sigma={self.sigma}, stride={self.stride},"
            f" temporal_padding={self.temporal_padding!r}, norm={self.norm!r}, trainable={self.trainable},"
            f" quiet={self.quiet}, backend={self.backend!r}"
        )
