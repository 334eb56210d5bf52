"""Squeeze and excitation of clips."""

from __future__ import annotations

from torch import Tensor, nn

from .. import ops
from .clips import check_channels, check_flag, check_one_of, hidden_units, zeroed

FORMS = ("add", "gate")


class SqueezeExcite3d(nn.Module):
    """Squeeze and excitation: what a clip's channel means say of each channel is added to all its positions.

    ``s = W_2 ReLU(BN(W_1 mean(x)))`` and ``out = x + s`` (eq. 4.12 to 4.14). The thesis writes C/2 between the two
    layers, but its tables count C/16, which is the default here. W_1 has no bias, as its batch norm has one. W_2 and
    its bias start at zero: a new layer changes nothing.

    Args:
        channels: C of the clips.
        reduction: the hidden layer has C // reduction units, at least 4.
        form: ``"add"``: eq. 4.14; ``"gate"``: ``x * 2 sigmoid(s)``, the squeeze and excitation of Hu et al., doubled so
            that a new layer changes nothing, too.
        norm: whether the first layer has a batch norm. Its statistics are over clips, so that it cannot be trained with
            one a step, but with ``nn.SyncBatchNorm`` in its place with one a rank.
        backend: taken as by every layer, and not kept: there is no operator of vidops inside.

    Returns:
        Calling it on a clip ``(N, C, T, H, W)`` returns a clip of the same shape.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; a single clip in training, with ``norm``.

    Source: Huang's thesis, eq. 4.12 to 4.14 and table 4.6; Hu et al., Squeeze-and-Excitation Networks.

    Example:
        >>> import torch
        >>> SqueezeExcite3d(64)(torch.rand(2, 64, 4, 7, 7)).shape
        torch.Size([2, 64, 4, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        form: str = "add",
        norm: bool = True,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        hidden = hidden_units(channels, reduction)
        self.channels = channels
        self.reduction = reduction
        self.form = check_one_of(form, "form", FORMS)
        ops.backends.check_backend(backend)
        check_flag(norm, "norm")
        self.fc1 = nn.Linear(channels, hidden, bias=not norm)
        self.norm = nn.BatchNorm1d(hidden) if norm else None
        self.fc2 = zeroed(nn.Linear(hidden, channels))

    def excite(self, x: Tensor) -> Tensor:
        """Compute s ``(N, C, 1, 1, 1)`` of a clip."""
        hidden = self.fc1(x.mean((2, 3, 4)))
        if self.norm is not None:
            alone = x.shape[0] == 1 and not isinstance(
                self.norm, nn.SyncBatchNorm
            )  # that sees all ranks' clips
            if self.norm.training and alone:
                raise ValueError(
                    "x: a single clip cannot train the batch norm of SqueezeExcite3d, whose statistics are over clips;"
                    " give two or more, freeze its norm or build it with norm=False"
                )
            hidden = self.norm(hidden)
        return self.fc2(hidden.relu())[:, :, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate the channels of a clip ``(N, C, T, H, W)``."""
        check_channels(x, self.channels)
        s = self.excite(x)
        return x + s if self.form == "add" else x * (2 * s.sigmoid())

    def extra_repr(self) -> str:
        """Show the arguments."""
        return f"{self.channels}, reduction={self.reduction}, form={self.form!r}"
