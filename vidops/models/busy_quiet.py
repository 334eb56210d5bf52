"""The Busy-Quiet Net: two pathways that exchange features through lateral connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import LateralConnection, MotionBandPass
from ..layers.lateral_connection import match_size
from ..layers.memory_format import AnyRank
from .backbone import Backbone, Block, check_clip, check_in_channels, refuse_losses
from .mbpm import FRAMES

FUSIONS = ("average", "max", "average_before_fc", "concatenate")
QUIET = ("complement", "frame")
INDICES = ("connection", "block")


class BusyQuietNet(AnyRank):
    """Busy-Quiet Net: two structurally equal pathways that exchange features after their residual blocks.

    A Motion Band-Pass Module makes one busy frame of every three; the quiet frames are the rest of them, reduced.
    ``busy_size`` and ``quiet_size`` are the sides of both pathways' frames: a clip comes in at ``busy_size``, and
    quiet frames are reduced by the ratio of the two, so that clips of other sizes keep it.

    Lateral connections are numbered from 1 in the order they stand in, and those of an alternating design take turns
    by that number: odd ones go from the busy to the quiet pathway, even ones back. With one after every block the
    number is that of the block, as in eq. 5.5; with fewer, ``lateral_index="block"`` keeps the block's, and then all
    may go one way.

    Args:
        make: makes a pathway of ``num_classes`` and ``num_segments``: a class of `Backbone`, or a partial of one.
        num_classes: classes of the head.
        num_segments: N, frames of the busy pathway; a clip has 3*N.
        busy_size: side of the frames of the busy pathway.
        quiet_size: side of the frames of the quiet pathway, at most ``busy_size``.
        num_lateral: number of lateral connections: one after every residual block (also None), after every second
            one, after the first block of every stage or of the first few, or 0.
        lateral: design of the connections, ``"bplc"`` or ``"lc1"`` to ``"lc5"``; see `LateralConnection`.
        lateral_index: what alternating connections take turns by: the number of the ``"connection"`` or of the
            residual ``"block"``.
        lateral_kernel_sizes: of the connections' MBPM, one for each stage; None for 7, and 3 at the last
            resolution.
        lateral_sigma: initial scale of the connections' MBPM.
        fusion: of the pathways: the mean (``"average"``) or maximum (``"max"``) of their clips' logits;
            ``"average_before_fc"`` or ``"concatenate"`` of what the classifier takes.
        quiet: ``"complement"``: the mean of three frames without the busy one (eq. 5.4); ``"frame"``: the first
            of the three, as in the release.
        quiet_frames: frames of the quiet pathway, at most N (also None); fewer are made by linear interpolation.
        phi: of the connections, ``"identity"``, ``"conv"`` or ``"mlp"``; see `LateralConnection`.
        sigma: initial scale of the input's MBPM.
        kernel_size: of the input's MBPM.
        norm: scale of all initial filters, ``"l1"`` or ``"sum"``; see `MotionBandPass`.
        trainable: whether the input's MBPM is trained.
        share_classifier: one classifier for both pathways; without it each has its own.
        dropout: probability before the classifier; None for the pathways' default.
        in_channels: C of a clip.
        backend: backend of all operators.
        network: further arguments of ``make``.

    Returns:
        Calling it on normalised clips ``(N, C, 3*num_segments, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; the text names it.

    Source: Huang's thesis, section 5.4; figures 5.2 and 5.5, tables 5.4 to 5.8.

    Example:
        >>> import torch
        >>> from vidops.models import create_model
        >>> create_model("tiny_bqn", num_classes=5)(torch.rand(2, 3, 24, 64, 64)).shape
        torch.Size([2, 5])
    """

    beside = ("band_pass", "lateral")  # for `load_weights`: what is no pathway's
    pathways = ("busy", "quiet")

    own_losses: tuple[str, ...] = ()

    def __init__(
        self,
        make: Callable[..., Backbone],
        num_classes: int,
        num_segments: int = 8,
        *,
        busy_size: int = 256,
        quiet_size: int = 160,
        num_lateral: int | None = None,
        lateral: str = "bplc",
        lateral_index: str = "connection",
        lateral_kernel_sizes: Sequence[int] | None = None,
        lateral_sigma: float = 0.9,
        fusion: str = "average",
        quiet: str = "complement",
        quiet_frames: int | None = None,
        phi: str = "identity",
        sigma: float = 1.1,
        kernel_size: int = 9,
        norm: str = "l1",
        trainable: bool = True,
        share_classifier: bool = True,
        dropout: float | None = None,
        in_channels: int = 3,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        super().__init__()
        quiet_frames = num_segments if quiet_frames is None else quiet_frames
        check_in_channels(in_channels)
        check_count("busy_size", busy_size, 1)
        check_count("quiet_size", quiet_size, 1, busy_size, "busy_size")
        check_count("quiet_frames", quiet_frames, 1, num_segments, "num_segments")
        check_one_of("fusion", fusion, FUSIONS)
        check_one_of("quiet", quiet, QUIET)
        check_one_of("lateral_index", lateral_index, INDICES)
        self.num_segments = num_segments
        self.in_channels = in_channels
        self.quiet_frames = quiet_frames
        self.busy_size = busy_size
        self.quiet_size = quiet_size
        self.quiet_input = quiet
        self.fusion = fusion
        self.backend = backend
        self.band_pass = MotionBandPass.stem(
            in_channels,
            sigma=sigma,
            kernel_size=kernel_size,
            norm=norm,
            trainable=trainable,
            quiet=quiet == "complement",
            backend=backend,
        )
        if dropout is not None:
            network["dropout"] = dropout
        network |= {"in_channels": in_channels, "backend": backend}
        self.busy = make(num_classes, num_segments, **network)
        self.quiet = make(num_classes, quiet_frames, **network)
        blocks = self.busy.residual_blocks()
        sizes = kernel_sizes_of(blocks, lateral_kernel_sizes)
        made = {
            str(place): LateralConnection(
                blocks[place].width,
                place + 1 if lateral_index == "block" else number,
                lateral,
                phi=phi,
                kernel_size=sizes[blocks[place].stage],
                sigma=lateral_sigma,
                norm=norm,
                backend=backend,
            )
            for number, place in enumerate(places_of(blocks, num_lateral), 1)
        }
        LateralConnection(
            1, 1, lateral, phi=phi, sigma=lateral_sigma, norm=norm
        )  # wrong ones raise without any, too
        self.lateral = nn.ModuleDict(made)
        self.classifier_name = f"busy.{self.busy.classifier_name}"
        self.stem_name = f"busy.{self.busy.stem_name}"
        self.own_classifiers = fusion in ("average", "max") and not share_classifier
        self.classifier_names = [self.classifier_name]
        if self.own_classifiers:
            self.classifier_names.append(f"quiet.{self.quiet.classifier_name}")
        self._join_classifiers(num_classes)

    def _join_classifiers(self, num_classes: int) -> None:
        if not self.own_classifiers:
            self.quiet.set_submodule(self.quiet.classifier_name, nn.Identity())
        if self.fusion == "concatenate":
            narrow = self.get_submodule(self.classifier_name)
            assert isinstance(narrow, nn.Linear)
            wide = nn.Linear(2 * narrow.in_features, num_classes)
            with torch.no_grad():
                wide.weight.copy_(narrow.weight.repeat(1, 2) / 2)
                wide.bias.copy_(narrow.bias)
            self.set_submodule(self.classifier_name, wide)

    def split(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Make the inputs of both pathways of a clip.

        Args:
            clip: ``(N, C, 3*num_segments, H, W)``.

        Returns:
            Busy frames ``(N, C, num_segments, H, W)`` and quiet ones ``(N, C, quiet_frames, H', W')``.
        """
        check_clip(clip, FRAMES * self.num_segments, self.in_channels)
        made = self.band_pass(clip)
        busy, quiet = made if self.quiet_input == "complement" else (made, clip[:, :, ::FRAMES])
        size = [max(1, round(side * self.quiet_size / self.busy_size)) for side in clip.shape[3:]]
        return busy, match_size(quiet, (self.quiet_frames, *size), self.backend)

    def forward_features(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the pathways' last blocks put out, of clips ``(N, C, 3*num_segments, H, W)``."""
        busy, quiet = self.split(clip)
        x = self.busy.forward_stem(self.busy.enter(busy))
        y = self.quiet.forward_stem(self.quiet.enter(quiet))
        pairs = zip(self.busy.residual_blocks(), self.quiet.residual_blocks(), strict=True)
        for place, (of_busy, of_quiet) in enumerate(pairs):
            x, y = of_busy.module(x), of_quiet.module(y)
            if str(place) in self.lateral:
                x, y = self._exchange(self.lateral[str(place)], x, y)
        return x, y

    def _exchange(self, lateral: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not self.busy.folded:
            return lateral(x, y)
        frames = self.num_segments, self.quiet_frames
        clips = (a.unflatten(0, (-1, n)).transpose(1, 2) for a, n in zip((x, y), frames, strict=True))
        x, y = (a.transpose(1, 2).flatten(0, 1) for a in lateral(*clips))
        return x, y

    def forward(self, clip: Tensor, return_losses: bool = False) -> Tensor:
        """Compute logits ``(N, num_classes)`` of clips ``(N, C, 3*num_segments, H, W)``."""
        refuse_losses(self, return_losses)
        x, y = self.forward_features(clip)
        rows, quiet_rows = self.busy.forward_pool(x), self.quiet.forward_pool(y)
        if self.fusion in ("average", "max"):
            classify = self.quiet.classify if self.own_classifiers else self.busy.classify
            logits = self.busy.leave(self.busy.classify(rows)), self.quiet.leave(classify(quiet_rows))
            return torch.maximum(*logits) if self.fusion == "max" else (logits[0] + logits[1]) / 2
        if self.busy.folded:
            rows, quiet_rows = self.busy.leave(rows), self.quiet.leave(quiet_rows)
        if self.fusion == "concatenate":
            return self.busy.classify(torch.cat([rows, quiet_rows], 1))
        return self.busy.classify((rows + quiet_rows) / 2)


def places_of(blocks: Sequence[Block], count: int | None) -> list[int]:
    """Find the residual blocks that a number of lateral connections stands after.

    Args:
        blocks: of a pathway.
        count: how many; None for one after every block.

    Returns:
        Indices of blocks, in ascending order.

    Raises:
        ValueError: there is no rule for such a number.

    Example:
        >>> places_of([Block("", nn.Identity(), 8, stage) for stage in (1, 1, 2, 2)], 2)
        [0, 2]
    """
    firsts = [i for i, block in enumerate(blocks) if i == 0 or blocks[i - 1].stage != block.stage]
    if count is None or count == len(blocks):
        return list(range(len(blocks)))
    if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= len(firsts):
        return firsts[:count]
    if count == len(blocks) // 2:
        return list(range(1, len(blocks), 2))
    raise ValueError(
        f"num_lateral must be 0 to {len(firsts)} (after the first block of so many stages), {len(blocks) // 2}"
        f" (every second block) or {len(blocks)} (every block), got {count!r}"
    )


def kernel_sizes_of(blocks: Sequence[Block], sizes: Sequence[int] | None) -> dict[int, int]:
    """Find the kernel size of each stage's lateral connections.

    Args:
        blocks: of a pathway.
        sizes: one a stage; None for 7, and 3 in the last one.

    Returns:
        The kernel size by stage.

    Raises:
        ValueError: these are not as many odd numbers as stages.

    Example:
        >>> kernel_sizes_of([Block("", nn.Identity(), 8, stage) for stage in (1, 2, 2)], None)
        {1: 7, 2: 3}
    """
    stages = sorted({block.stage for block in blocks})
    if sizes is None:
        sizes = [7] * (len(stages) - 1) + [3]
    if (
        isinstance(sizes, (int, str))
        or len(sizes) != len(stages)
        or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in sizes)
    ):
        raise ValueError(
            f"lateral_kernel_sizes must be {len(stages)} odd numbers, one for each stage, got {sizes!r}"
        )
    return dict(zip(stages, sizes, strict=True))


def check_count(name: str, value: Any, low: int, high: int | None = None, limit: str = "") -> None:
    """Raise unless an option is a whole number in range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    if high is not None and value > high:
        raise ValueError(f"{name} must be at most {limit}={high}, got {value}")


def check_one_of(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise unless an option is one of some words."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
