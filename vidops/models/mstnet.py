"""MSTNet: TSN with a mixed temporal convolution in every block.

| model | blocks | input | published |
|---|---|---|---|
| mstnet_resnet50 | 3, 4, 6, 3 | 8x224x224 | 32.88 G, 24.38 M (400 classes) |
| mstnet_resnet101 | 3, 4, 23, 3 | 8x224x224 | - |
| tiny_mstnet | 1, 1, 1, 1, basic, width 16 | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..layers import MixTConv
from .cards import Figure, Score
from .registry import register_model
from .tsn import RESNET50, RESNET101, TINY, TSN

PAPER = "MixTConv: Mixed Temporal Convolutional Kernels for Efficient Action Recognition (Shan et al., 2020)"
SOURCE = "the slides, and the authors' release for the initial weights"
ABLATION = "MixTConv slides, ablation"
COMPARISON = "MixTConv slides, comparison table"


def configuration(
    gmacs: float, kernel_sizes: Sequence[int], *, contradiction: str | None = None, **options: Any
) -> Figure:
    """Make a row of the slides' ablation, which is to be read as a difference to TSN's 33 G."""
    return Figure(
        ABLATION,
        num_classes=174,
        gmacs=gmacs,
        options={"kernel_sizes": tuple(kernel_sizes), **options},
        over="tsn_resnet50",
        over_gmacs=33.0,
        contradiction=contradiction,
    )


class MSTNet(TSN):
    """Mixed spatio-temporal network: a `MixTConv` in every bottleneck of a TSN.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        kernel_sizes: temporal taps of each group of channels.
        dilations: frames between taps, one for all groups or one a group.
        position: ``"head"``: before conv1 of each bottleneck; ``"inner"``: before conv2.
        ordinary: put an ordinary temporal convolution, all channels to all channels, in MixTConv's place,
            with the one kernel size and dilation given; it starts as the identity.
        init: initial weights of `MixTConv`, ``"shift"`` or ``"kaiming"``.
        backend: backend of the temporal convolution.
        network: further arguments of `TSN` and `ResNet`.

    Returns:
        Calling it on normalised clips ``(N, 3, T, H, W)`` returns logits ``(N, num_classes)``.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range; ``ordinary`` with several kernel sizes.

    Source: Shan et al., MixTConv, "Mixed Spatiotemporal Block".

    Example:
        >>> import torch
        >>> MSTNet(5, blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        kernel_sizes: Sequence[int] = (1, 3, 5, 7),
        dilations: int | Sequence[int] = 1,
        position: str = "head",
        ordinary: bool = False,
        init: str = "shift",
        backend: str | None = None,
        **network: Any,
    ) -> None:
        def temporal(channels: int) -> nn.Module:
            if ordinary:
                return ordinary_conv(channels, kernel_sizes, dilations)
            return MixTConv(channels, kernel_sizes, dilations, init=init, backend=backend)

        super().__init__(num_classes, num_segments, temporal=temporal, position=position, **network)


def ordinary_conv(
    channels: int, kernel_sizes: Sequence[int], dilations: int | Sequence[int] = 1
) -> nn.Conv3d:
    """Make the temporal convolution over all channels that MixTConv is compared with.

    Args:
        channels: C, in and out.
        kernel_sizes: one odd number of taps, in a sequence.
        dilations: frames between taps, one number, or a sequence of one.

    Returns:
        A bias-free convolution of clips ``(N, C, T, H, W)`` that keeps their shape and starts as the
        identity.

    Raises:
        ValueError: not one odd kernel size and one dilation.

    Example:
        >>> ordinary_conv(4, (3,)).weight.shape
        torch.Size([4, 4, 3, 1, 1])
    """
    if isinstance(kernel_sizes, int):
        raise TypeError(f"kernel_sizes must be a sequence of one number, got {kernel_sizes}")
    each = (dilations,) if isinstance(dilations, int) else tuple(dilations)
    if len(kernel_sizes) != 1 or len(each) != 1 or kernel_sizes[0] % 2 == 0 or min(*kernel_sizes, *each) < 1:
        raise ValueError(
            f"ordinary=True takes one odd number in kernel_sizes and one dilation,"
            f" got kernel_sizes={tuple(kernel_sizes)}, dilations={dilations}"
        )
    k, d = kernel_sizes[0], each[0]
    conv = nn.Conv3d(
        channels, channels, (k, 1, 1), padding=((k - 1) // 2 * d, 0, 0), dilation=(d, 1, 1), bias=False
    )
    nn.init.dirac_(conv.weight)
    return conv


register = partial(register_model, MSTNet, paper=PAPER)


@register(
    source=SOURCE,
    input_size=(3, 8, 224, 224),
    scores=(
        Score("Kinetics-400", None, 71.3, 89.5),
        Score("UCF101", None, 94.8, 99.6),
        Score("Something-Something v1", 8, 46.7, 75.4),
        Score("Something-Something v1", 16, 48.4, 78.8),
        Score("Something-Something v2", 8, 59.5, 86.0),
        Score("Something-Something v2", 16, 61.8, 87.3),
        Score("Jester", None, 96.9, 99.9),
    ),
    figures=(
        Figure("MSTNet, 8 frames", gmacs=32.88, params=24.38),
        Figure(COMPARISON, gmacs=33.2, params=24.3),
        Figure(COMPARISON, clip=(3, 16, 224, 224), gmacs=65.3, params=24.3),
        configuration(
            43,
            (3,),
            ordinary=True,
            position="inner",
            contradiction="10 G over TSN fit neither place of a full 1-D convolution in a block: 7.71 before"
            " conv2 (shown), 74.29 before conv1; the slides do not say where it stands",
        ),
        configuration(33.13, (3,)),
        configuration(33.23, (5,)),
        configuration(33.32, (7,)),
        configuration(33.09, (1, 3)),
        configuration(33.13, (1, 3, 5)),
        configuration(33.18, (1, 3, 5, 7)),
        configuration(33.13, (3, 3, 3), dilations=(1, 2, 3)),
    ),
)
def mstnet_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MSTNet:
    """MSTNet on ResNet-50; see `MSTNet`."""
    return MSTNet(num_classes, num_segments, backend=backend, **{**RESNET50, **options})


@register(source=SOURCE, input_size=(3, 8, 224, 224))
def mstnet_resnet101(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MSTNet:
    """MSTNet on ResNet-101; see `MSTNet`."""
    return MSTNet(num_classes, num_segments, backend=backend, **{**RESNET101, **options})


@register(source="MSTNet with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_mstnet(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MSTNet:
    """MSTNet cut down for tests and demos, see `MSTNet`; its narrow groups start from ``init="kaiming"``.

    With 16 channels a group has 4, an eighth of which is none: ``"shift"`` would start as plain TSN.
    """
    return MSTNet(num_classes, num_segments, backend=backend, **{**TINY, "init": "kaiming", **options})
