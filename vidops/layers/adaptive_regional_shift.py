"""Adaptive regional shifts: where the key points of a clip's channels move, in regions that are learned."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .. import ops
from .clips import check_channels, check_one_of, check_width

REGIONS = ("adaptive", "fixed")
BANDS = {1: 1, 4: 2, 9: 3, 16: 4}  # of an axis, for so many regions
MOST_SETS = 16
REACH = 0.25  # of a frame's side: the farthest that lines are moved
# Of the perceptron behind the lines, whose make-up the paper leaves open.
REDUCED, CELLS, UNITS = 12, 4, 16


class AdaptiveRegionalShift(nn.Module):
    """Adaptive regional shift extractor (AReSE), of several sets: how key points move in K regions of every frame.

    The lines of the equal grid of K = r * r regions are moved together by (tanh a * W / 4, tanh b * H / 4), with a and
    b of every frame and set from a perceptron of its own: a 1x1 convolution to 12 channels, adaptive average pooling to
    4x4, a linear layer to 16 units, ReLU, a linear layer to a and b. The last one starts at zero, the grid thus as the
    equal one. `vidops.ops.keypoint_shifts` does the rest. The sets' perceptrons run as one, with grouped convolutions,
    after the pooling, which may change places with the 1x1 convolution.

    Args:
        channels: C of the clips.
        num_regions: K: 1 (a single key point a frame, without lines or perceptron, all sets alike), 4, 9 or 16.
        num_sets: G, sets of regions, 1 to 16.
        regions: ``"adaptive"``; ``"fixed"``: each set's grid is moved once by random shares of the same reach, for all
            frames (table 2b), kept in the state dict.
        seed: of these.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns shifts ``(N, G, K, C, T-1, 2)``, (x, y) last, in pixels
        weighted by region; fp32, for an fp64 clip fp64.

    Raises:
        ValueError: an argument is out of range, or the clip has other channels or fewer than r rows or columns; the
            text names it.
        TypeError: the clip is of no floating dtype.

    Source: KPSEM (Cao et al., Effective Action Recognition with Embedded Key Point Shifts), section 3.3. The paper does
        not say what its perceptron is made of; ours is small enough for its count of parameters.

    Example:
        >>> import torch
        >>> AdaptiveRegionalShift(16, num_sets=2)(torch.rand(1, 16, 4, 14, 14)).shape
        torch.Size([1, 2, 4, 16, 3, 2])
    """

    offsets: Tensor

    def __init__(
        self,
        channels: int,
        num_regions: int = 4,
        num_sets: int = 1,
        *,
        regions: str = "adaptive",
        seed: int = 0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_width(channels, "channels")
        if type(num_regions) is not int or num_regions not in BANDS:
            raise ValueError(f"num_regions must be one of {', '.join(map(str, BANDS))}, got {num_regions!r}")
        if check_width(num_sets, "num_sets") > MOST_SETS:
            raise ValueError(f"num_sets must be at most {MOST_SETS}, got {num_sets}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
        self.num_regions = num_regions
        self.num_sets = num_sets
        self.bands = BANDS[num_regions]
        self.regions = check_one_of(regions, "regions", REGIONS)
        self.seed = seed
        self.backend = ops.backends.check_backend(backend)
        self.centre = None
        if self.bands > 1 and regions == "adaptive":
            self.centre = centre_heads(channels, num_sets)
        elif self.bands > 1:
            self.register_buffer("offsets", torch.empty(num_sets, 2))
            generator = torch.Generator().manual_seed(seed)
            self.offsets.copy_(torch.rand(num_sets, 2, generator=generator, device="cpu") * 2 - 1)

    def separators(self, x: Tensor) -> Tensor:
        """Compute the lines between the regions of a clip ``(N, C, T, H, W)``.

        Args:
            x: the clip.

        Returns:
            ``(N, G, T, 2, r-1)``, as `vidops.ops.keypoint_shifts` takes them: pixels, [0] along x, [1] along y.

        Example:
            >>> import torch
            >>> AdaptiveRegionalShift(16, 9).separators(torch.rand(1, 16, 1, 12, 24)).squeeze().tolist()
            [[8.0, 16.0], [4.0, 8.0]]
        """
        self._check(x)
        n, _, t, height, width = x.shape
        if self.bands == 1:
            return x.new_empty((n, self.num_sets, t, 2, 0))
        if self.centre is None:
            moved = self.offsets[:, None].expand(n, -1, t, -1)
        else:
            moved = self.centre(pooled(x)).tanh().view(n, self.num_sets, 2, t).transpose(2, 3)
        moved = (moved if x.dtype == torch.float64 else moved.float()).unsqueeze(-1) * REACH
        grid = torch.arange(1, self.bands, dtype=moved.dtype, device=x.device) / self.bands
        lines = torch.stack([(grid + moved[..., 0, :]) * width, (grid + moved[..., 1, :]) * height], 3)
        return lines.to(x.dtype)

    def key_points(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the shifts of a clip ``(N, C, T, H, W)`` with the key points they lead between.

        Args:
            x: the clip.

        Returns:
            What `vidops.ops.keypoint_shifts` returns with ``return_keypoints``: shifts, places in pixels, values.

        Example:
            >>> import torch
            >>> AdaptiveRegionalShift(16).key_points(torch.rand(1, 16, 4, 14, 14))[1].shape
            torch.Size([1, 1, 4, 16, 4, 2])
        """
        found = ops.keypoint_shifts(x, self.separators(x), return_keypoints=True, backend=self.backend)
        assert isinstance(found, tuple)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Compute the shifts of a clip ``(N, C, T, H, W)``."""
        shifts = ops.keypoint_shifts(x, self.separators(x), backend=self.backend)
        assert isinstance(shifts, Tensor)
        return shifts

    def _check(self, x: Tensor) -> None:
        check_channels(x, self.channels)
        height, width = x.shape[3:]
        if min(height, width) < self.bands:
            raise ValueError(
                f"x must have at least {self.bands} rows and columns for num_regions={self.num_regions},"
                f" got {height} x {width}"
            )

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.channels}, num_regions={self.num_regions}, num_sets={self.num_sets},"
            f" regions={self.regions!r}, seed={self.seed}, backend={self.backend!r}"
        )


def centre_heads(channels: int, num_sets: int) -> nn.Sequential:
    """Make what computes a and b of each set, ``(N, 2G, T, 1, 1)``, from clips pooled to 4x4.

    Example:
        >>> import torch
        >>> centre_heads(16, 8)(torch.rand(2, 16, 3, 4, 4)).shape
        torch.Size([2, 16, 3, 1, 1])
    """
    last = nn.Conv3d(num_sets * UNITS, num_sets * 2, 1, groups=num_sets)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(
        OrderedDict(
            reduce=nn.Conv3d(channels, num_sets * REDUCED, 1),
            fc1=nn.Conv3d(num_sets * REDUCED, num_sets * UNITS, (1, CELLS, CELLS), groups=num_sets),
            relu=nn.ReLU(),
            fc2=last,
        )
    )


def pooled(x: Tensor) -> Tensor:
    """Average every frame of a clip ``(N, C, T, H, W)`` to 4x4 as adaptive average pooling does.

    By matrices: they read the clip once in each of its layouts, and their gradient needs none of the atomic sums that
    PyTorch's pooling of overlapping windows has on a GPU.

    Example:
        >>> import torch
        >>> pooled(torch.rand(1, 16, 4, 14, 14)).shape
        torch.Size([1, 16, 4, 4, 4])
    """
    height, width = x.shape[3:]
    rows, columns = windows(height, x), windows(width, x)
    weights = (rows[:, None, :, None] * columns[:, None]).view(height * width, CELLS**2)
    by_frames = not x.is_contiguous()  # frames lie one after another
    maps = x.transpose(1, 2) if by_frames else x
    cells = (maps.flatten(3) @ weights).unflatten(3, (CELLS, CELLS))
    return cells.transpose(1, 2) if by_frames else cells


def windows(side: int, like: Tensor) -> Tensor:
    """Weigh the pixels of an axis for each of 4 cells, ``(side, 4)``, of the dtype and device of a tensor.

    Example:
        >>> import torch
        >>> windows(6, torch.zeros(())).argmax(0).tolist()
        [0, 1, 3, 4]
    """
    pixel = torch.arange(side, device=like.device)[:, None]
    cell = torch.arange(CELLS, device=like.device)
    first, end = cell * side // CELLS, ((cell + 1) * side + CELLS - 1) // CELLS
    return ((pixel >= first) & (pixel < end)).to(like.dtype) / (end - first)
