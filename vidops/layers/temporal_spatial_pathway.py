"""The temporal-spatial pathway block: convolutions of several receptive fields, and attention that chooses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.checks import check_triple
from ..ops.pathway_select import MOST_PATHWAYS
from .clips import ClipNorm, Triple, check_channels, check_one_of, check_width

RECEPTIVE_FIELDS = ("O1", "O2")
ATTENTIONS = ("TC", "C")
USUAL_PATHWAYS = 3
MOST_CUBES = 7  # of O1
CUSTOMIZED: dict[int, tuple[Triple, ...]] = {
    2: ((1, 1, 1), (4, 1, 1)),
    3: ((1, 1, 1), (4, 1, 1), (1, 4, 4)),
    4: ((1, 1, 1), (4, 4, 4), (1, 4, 4), (4, 1, 1)),
    7: ((1, 1, 1), (3, 3, 3), (5, 5, 5), (1, 3, 3), (1, 5, 5), (3, 1, 1), (5, 1, 1)),
}


def pathway_dilations(num_pathways: int, receptive_fields: str = "O1") -> tuple[Triple, ...]:
    """Look up the dilations of BTSNet's pathways along time, height and width.

    Args:
        num_pathways: M; 1 to 7 with O1; 2, 3, 4 or 7 with O2.
        receptive_fields: ``"O1"``: cubes, (i, i, i) for i = 1 to M; ``"O2"``: customized ones, of which some are wide
            along time alone or in space alone.

    Returns:
        M triples.

    Raises:
        ValueError: there is no such set.

    Source: Hong and Choi, BTSNet's poster; the sets of O2 for other M than its example's 4 are its authors' code's.

    Example:
        >>> pathway_dilations(2), pathway_dilations(2, "O2")
        (((1, 1, 1), (2, 2, 2)), ((1, 1, 1), (4, 1, 1)))
    """
    check_one_of(receptive_fields, "receptive_fields", RECEPTIVE_FIELDS)
    check_width(num_pathways, "num_pathways")
    if receptive_fields == "O1":
        if num_pathways > MOST_CUBES:
            raise ValueError(
                f"num_pathways must be 1 to {MOST_CUBES} with receptive_fields 'O1', got {num_pathways};"
                " dilations=[(t, h, w), ...] takes others"
            )
        return tuple((i, i, i) for i in range(1, num_pathways + 1))
    if num_pathways not in CUSTOMIZED:
        raise ValueError(
            f"num_pathways must be one of {', '.join(map(str, CUSTOMIZED))} with receptive_fields 'O2', got"
            f" {num_pathways}; dilations=[(t, h, w), ...] takes others"
        )
    return CUSTOMIZED[num_pathways]


def check_dilations(dilations: Sequence[int | Sequence[int]]) -> tuple[Triple, ...]:
    """Return dilations, each given as one number or three, as triples; raise unless there are 1 to 8 of at least 1.

    Example:
        >>> check_dilations([1, (1, 4, 4)])
        ((1, 1, 1), (1, 4, 4))
    """
    if not isinstance(dilations, (tuple, list)) or not 1 <= len(dilations) <= MOST_PATHWAYS:
        raise ValueError(f"dilations must be a list of 1 to {MOST_PATHWAYS}, got {dilations!r}")
    return tuple(check_triple(dilation, "dilations", 1) for dilation in dilations)


def choose_dilations(
    num_pathways: int | None, receptive_fields: str, dilations: Sequence[int | Sequence[int]] | None
) -> tuple[Triple, ...]:
    """Return the dilations that were given, or BTSNet's; raise where the two contradict each other.

    Example:
        >>> choose_dilations(None, "O1", [1, 3])
        ((1, 1, 1), (3, 3, 3))
    """
    if dilations is None:
        return pathway_dilations(USUAL_PATHWAYS if num_pathways is None else num_pathways, receptive_fields)
    check_one_of(receptive_fields, "receptive_fields", RECEPTIVE_FIELDS)
    found = check_dilations(dilations)
    if num_pathways not in (None, len(found)):
        raise ValueError(
            f"num_pathways must be that of dilations, {len(found)}, or None, got {num_pathways!r}"
        )
    return found


class TemporalSpatialPathway(nn.Module):
    """Temporal-spatial pathway block: M grouped 3x3x3 convolutions of one clip, each dilated otherwise, of which
    attention makes one.

    Split: ``U_m = ReLU(BN(conv_m(x)))``. Fuse: the sum of all U_m is averaged over height and width (``"TC"``) or over
    time too (``"C"``), and conv-BN-ReLU-conv of kernel 1 make M logits of each channel (and frame) of it. Select:
    ``V = sum_m softmax_m(logits) * U_m``. It stands for a 3x3x3 convolution with its batch norm and ReLU.

    No convolution has a bias, the fuse's last included: the size of the released network leaves room for none. d is
    that of selective kernels, of which the block is made.

    Args:
        in_channels: C' of the clips.
        out_channels: C of the results; None for C'.
        num_pathways: M; None for 3, or as many as there are ``dilations``.
        receptive_fields: which set of dilations, ``"O1"`` or ``"O2"``, see `pathway_dilations`.
        attention: ``"TC"``: each frame has its own; ``"C"``: all frames have one.
        dilations: 1 to 8 of your own, each one number or three (t, h, w); they take the place of ``receptive_fields``.
        groups: of the convolutions.
        stride: of the convolutions, in frames, rows and columns: one int for all, or three.
        hidden_channels: d, between the fuse's two convolutions; None for C/16, but at least 32.
        backend: backend of `vidops.ops.pathway_select`; None leaves the choice to vidops. State-dict keys do not depend
            on it.

    Returns:
        Calling it on a clip ``(N, C', T, H, W)`` returns a clip ``(N, C, T', H', W')``, of the same size for stride 1.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it. In training: a single value
            for each channel's batch norm in the fuse, as a single clip has with ``"C"``.
        TypeError: the clip is of no floating dtype; a number is no int.

    Source: Hong and Choi, Blockwise Temporal-Spatial Pathway Network, its poster; Li et al., Selective Kernel Networks,
        for d and for what the poster leaves open.

    Example:
        >>> TemporalSpatialPathway(32, num_pathways=2, groups=8)(torch.rand(1, 32, 4, 7, 7)).shape
        torch.Size([1, 32, 4, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        num_pathways: int | None = None,
        *,
        receptive_fields: str = "O1",
        attention: str = "TC",
        dilations: Sequence[int | Sequence[int]] | None = None,
        groups: int = 32,
        stride: int | Sequence[int] = 1,
        hidden_channels: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_width(in_channels, "in_channels")
        width = in_channels if out_channels is None else check_width(out_channels, "out_channels")
        check_width(groups, "groups")
        steps = check_triple(stride, "stride", 1)
        for name, count in (("in_channels", in_channels), ("out_channels", width)):
            if count % groups:
                raise ValueError(f"{name} must be a multiple of groups, {groups}, got {count}")
        hidden = (
            max(width // 16, 32)
            if hidden_channels is None
            else check_width(hidden_channels, "hidden_channels")
        )
        self.in_channels = in_channels
        self.out_channels = width
        self.attention = check_one_of(attention, "attention", ATTENTIONS)
        self.dilations = choose_dilations(num_pathways, receptive_fields, dilations)
        self.backend = ops.backends.check_backend(backend)
        self.pathways = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv3d(
                        in_channels, width, 3, steps, dilation, dilation, groups=groups, bias=False
                    ),
                    bn=ClipNorm(width),
                    relu=nn.ReLU(inplace=True),
                )
            )
            for dilation in self.dilations
        )
        self.fuse = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv1d(width, hidden, 1, bias=False),
                bn1=nn.BatchNorm1d(hidden),
                relu=nn.ReLU(inplace=True),
                conv2=nn.Conv1d(hidden, len(self.dilations) * width, 1, bias=False),
            )
        )

    @property
    def num_pathways(self) -> int:
        """M."""
        return len(self.dilations)

    def split(self, x: Tensor) -> list[Tensor]:
        """Compute the pathways U_1 ... U_M, each ``(N, C, T', H', W')``."""
        return [pathway(x) for pathway in self.pathways]

    def weigh(self, paths: Sequence[Tensor]) -> Tensor:
        """Compute the logits of the pathways, ``(N, M, C, T')`` for ``"TC"``, ``(N, M, C)`` for ``"C"``."""
        # The mean of the sum is the sum of the means: each pathway is read once, and their sum never written.
        axes = (3, 4) if self.attention == "TC" else (2, 3, 4)
        means = torch.stack([path.mean(axes) for path in paths]).sum(0)
        pooled = means if self.attention == "TC" else means[:, :, None]
        norm: Any = self.fuse.bn1
        whole = norm.training and not isinstance(norm, nn.SyncBatchNorm)  # that sees all ranks' clips
        if whole and pooled.shape[0] * pooled.shape[2] == 1:
            raise ValueError(
                "x: a single clip cannot train the batch norm of TemporalSpatialPathway's fuse, which has one value a"
                " channel of it; give two or more clips, or freeze that norm"
            )
        logits = self.fuse(pooled).unflatten(1, (self.num_pathways, self.out_channels))
        return logits if self.attention == "TC" else logits[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        """Split a clip ``(N, C', T, H, W)``, weigh the pathways and sum them."""
        check_channels(x, self.in_channels)
        paths = self.split(x)
        return ops.pathway_select(paths, self.weigh(paths), backend=self.backend)

    def extra_repr(self) -> str:
        """Show what the parts do not show."""
        return f"attention={self.attention!r}, backend={self.backend!r}"


def pathway_contributions(net: nn.Module, clip: Tensor) -> dict[str, Tensor]:
    """Compute how much each pathway counts at each time step of a network's temporal-spatial pathway blocks.

    Args:
        net: any network of clips; taken as it is, evaluation mode is the caller's.
        clip: ``(N, C, T, H, W)``, what the network takes.

    Returns:
        For each `TemporalSpatialPathway`, by name and in the order they run in: the attention, averaged over channels,
        ``(N, M, T')`` with the T' time steps of the block; over the M pathways it sums to 1. With ``"C"`` all time
        steps have the same.

    Raises:
        ValueError: a block runs more than once a clip.

    Source: Hong and Choi, BTSNet's poster: "pathways have top-1 contribution at each timestep", "normalized average
        weights".

    Example:
        >>> net = nn.Sequential(TemporalSpatialPathway(8, groups=8)).eval()
        >>> pathway_contributions(net, torch.rand(2, 8, 4, 7, 7))["0"].shape
        torch.Size([2, 3, 4])
    """
    logits: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    def keep(name: str, block: TemporalSpatialPathway) -> tuple[Callable[..., None], Callable[..., None]]:
        def weighed(module: nn.Module, inputs: Any, output: Tensor) -> None:
            logits[name] = output

        def selected(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if name in found:
                raise ValueError(f"net: {name} must run once a clip, runs more often")
            weights = logits.pop(name).detach().unflatten(1, (block.num_pathways, -1)).float().softmax(1)
            found[name] = weights.mean(2).expand(-1, -1, output.shape[2])

        return weighed, selected

    handles = []
    for name, module in net.named_modules():
        if isinstance(module, TemporalSpatialPathway):
            weighed, selected = keep(name, module)
            handles += [module.fuse.register_forward_hook(weighed), module.register_forward_hook(selected)]
    try:
        with torch.no_grad():
            net(clip)
    finally:
        for handle in handles:
            handle.remove()
    return found
