"""Temporal squeeze pooling: a clip summarised in a few squeezed images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops.temporal_projection import MOST_COLUMNS, MOST_FRAMES, Projection, check_ridge

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
}


def check_projection_sizes(
    num_frames: int, basis_size: int, names: tuple[str, str] = ("num_frames", "basis_size")
) -> None:
    """Raise unless so many frames can be projected on so many columns; ``names`` are what the caller calls them.

    Example:
        >>> check_projection_sizes(10, 3)
    """
    for name, value in zip(names, (num_frames, basis_size), strict=True):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not 2 <= num_frames <= MOST_FRAMES:
        raise ValueError(f"{names[0]} must be 2 to {MOST_FRAMES}, got {num_frames}")
    most = min(num_frames - 1, MOST_COLUMNS)
    if not 1 <= basis_size <= most:
        raise ValueError(
            f"{names[1]} must be 1 to {most} (below {names[0]}={num_frames}, at most {MOST_COLUMNS}),"
            f" got {basis_size}"
        )


def check_frames(x: Tensor, num_frames: int, channels: int | None = None) -> None:
    """Raise unless a layer was given clips of the frames and channels that it was made for."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    wanted = f"(N, {'C' if channels is None else channels}, {num_frames}, H, W)"
    shape = tuple(x.shape)
    if len(shape) != 5 or shape[2] != num_frames or channels not in (None, shape[1]):
        raise ValueError(f"x must be clips {wanted}, got {shape}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating dtype, got {x.dtype}")


class TemporalSqueezePool(nn.Module):
    """Temporal squeeze pooling (TSP): K frames become the D images that tell the most of them.

    The mean of every frame, over its pixels and channels, goes through two linear layers without bias, which make
    the K x D matrix that the whole frame is projected on; the D coefficients of each pixel are the squeezed images.
    Frames of a video and feature maps are taken alike. `error` of the projection is the layer's loss.

    The second layer starts such that every squeezed image is about the mean of its own K/D consecutive frames:
    the columns are independent, and the images are as bright as the frames were. That is reckoned for a sigmoid first;
    after another activation, whose results have no such mean, the first images may be far brighter.

    Args:
        num_frames: K, frames of the clips, at most 64.
        basis_size: D, squeezed images, below K and at most 16.
        activations: after the first and the second layer, each ``"sigmoid"``, ``"tanh"``, ``"relu"`` or
            ``"leaky_relu"``.
        ridge: added to the diagonal of the normal matrix, as in `vidops.ops.temporal_projection`.
        backend: backend of the operator; None leaves the choice to vidops. State-dict keys do not depend on it.

    Returns:
        Calling it on clips ``(N, C, K, H, W)`` returns squeezed clips ``(N, C, D, H, W)``; with
        ``return_losses=True`` these and ``{"error": what is lost of each clip, (N,)}`` (eq. 3.5).

    Raises:
        ValueError: an argument or the clip's shape is out of range; the text names it.
        TypeError: a number is no int.

    Source: section 3.2 of Huang's thesis, eq. 3.1 to 3.5; table 3.1 for the activations. The initial weights
        ("properly initialized" there) are ours.

    Example:
        >>> import torch
        >>> TemporalSqueezePool(10)(torch.rand(2, 3, 10, 16, 16)).shape
        torch.Size([2, 3, 3, 16, 16])
    """

    def __init__(
        self,
        num_frames: int,
        basis_size: int = 3,
        *,
        activations: Sequence[str] = ("sigmoid", "leaky_relu"),
        ridge: float = 1e-6,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_projection_sizes(num_frames, basis_size)
        pair = isinstance(activations, (tuple, list)) and len(activations) == 2
        if not pair or not all(name in tuple(ACTIVATIONS) for name in activations):
            raise ValueError(
                f"activations must be two of {', '.join(ACTIVATIONS)}, the same one twice too, got {activations!r}"
            )
        self.num_frames = num_frames
        self.basis_size = basis_size
        self.activations = tuple(activations)
        self.ridge = check_ridge(ridge)
        self.backend = ops.backends.check_backend(backend)
        self.fc1 = nn.Linear(num_frames, num_frames, bias=False)
        self.fc2 = nn.Linear(num_frames, num_frames * basis_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the parameters to their initial values."""
        k, d = self.num_frames, self.basis_size
        self.fc1.reset_parameters()
        weight = self.fc2.weight
        columns = torch.arange(d, device=weight.device)
        own = torch.arange(k, device=weight.device)[:, None] * d // k == columns
        # About 1 for a column's own frames and 1/8 for the others: at 0 a rectifier would stay shut.
        values = torch.rand_like(weight).div_(4).add_(own.view(k * d, 1))
        weight.copy_(values * (2 / k))  # what comes out of a sigmoid is about 1/2

    def basis(self, x: Tensor) -> Tensor:
        """Compute the matrix that each clip ``(N, C, K, H, W)`` is projected on, ``(N, K, D, 1, 1)``."""
        check_frames(x, self.num_frames)
        first, second = (ACTIVATIONS[name] for name in self.activations)
        matrix = second(self.fc2(first(self.fc1(x.mean((1, 3, 4))))))
        return matrix.view(-1, self.num_frames, self.basis_size, 1, 1)

    def project(self, x: Tensor, outputs: Sequence[str]) -> Projection:
        """Project clips ``(N, C, K, H, W)`` and return the results named in ``outputs``."""
        return ops.temporal_projection(
            x, self.basis(x), ridge=self.ridge, outputs=outputs, backend=self.backend
        )

    def forward(self, x: Tensor, return_losses: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Squeeze clips ``(N, C, K, H, W)``."""
        found = self.project(x, ("coefficients", "error") if return_losses else ("coefficients",))
        assert found.coefficients is not None
        squeezed = found.coefficients.transpose(1, 2)
        if not return_losses:
            return squeezed
        assert found.error is not None
        return squeezed, {"error": found.error}

    def extra_repr(self) -> str:
        """Show the arguments."""
        return (
            f"{self.num_frames}, basis_size={self.basis_size}, activations={self.activations},"
            f" ridge={self.ridge}, backend={self.backend!r}"
        )
