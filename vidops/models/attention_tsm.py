"""TSM with attention over space and time, or over channels, after some of its blocks: the networks' classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..layers import AttentionChain, ConvPyramidAttention, NonLocal, RegionNonLocal
from ..layers.conv_pyramid_attention import PYRAMID
from ..layers.placement import build_in
from .tsm import TSM

PLACES = {1: ("layer2.0",), 5: ("layer2.0", "layer2.2", "layer3.0", "layer3.2", "layer3.4")}
REGION = {"layer2": (3, 7, 7)}  # of res3; (3, 3, 3) elsewhere
Make = Callable[[int, str], nn.Module]


class AttentionTSM(TSM):
    """TSM on a ResNet with an attention layer after some of its blocks; see the classes that inherit it.

    State-dict keys are those of `TSM`, and ``layerS.B.attention.layer.*``.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        attention: makes the layer for a number of channels and the name of the block that it follows.
        num_blocks: 1: after the first block of the second stage (res3); 5: after every other block of the second and
            the first five of the third, as far as the thesis' table 4.1 and its released code for ResNet-50 tell. Of
            other depths they say nothing; the names are the same there.
        places: names of the blocks, in place of those that ``num_blocks`` stands for.
        backend: backend of the operators.
        network: further arguments of `TSM`, such as ``fold_div``: one channel in so many is shifted each way.

    Raises:
        ValueError: an argument, or the clip's shape, is out of range, or the network has no such block.

    Source: Huang's thesis, section 4.5 and table 4.1.
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int,
        attention: Make,
        *,
        num_blocks: int = 5,
        places: Sequence[str] | None = None,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        if num_blocks not in PLACES:
            raise ValueError(f"num_blocks must be 1 or 5, got {num_blocks!r}; places names any other blocks")
        super().__init__(num_classes, num_segments, backend=backend, **network)
        self.places = PLACES[num_blocks] if places is None else tuple(places)
        for place in self.places:
            build_in(self, place, lambda channels, place=place: attention(channels, place))  # type: ignore[misc]


class RNLTSM(AttentionTSM):
    """TSM with region-based non-local blocks; see `AttentionTSM` and `RegionNonLocal`.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        kind: of the attention: ``"gaussian"``, ``"dot"``, ``"cosine"`` or ``"concatenation"``.
        aggregate: of the regions: ``"conv"``, ``"avg"`` or ``"max"``.
        kernel_size: of the regions; None for (3, 7, 7) in the second stage (res3) and (3, 3, 3) elsewhere.
        chain: put a `SqueezeExcite3d` before each, the thesis' vision attention chain, which `RNLTSM` and `CPATSM`
            have, and no other network.
        scale: of the gaussian kind's products.
        backend: backend of the operators.
        network: ``num_blocks`` or ``places`` of `AttentionTSM`, and what `TSM` takes, ``fold_div`` among it.

    Example:
        >>> import torch
        >>> RNLTSM(5, places=["layer2.0"], blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        kind: str = "gaussian",
        aggregate: str = "conv",
        kernel_size: int | Sequence[int] | None = None,
        chain: bool = False,
        scale: float | None = None,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        def attention(channels: int, place: str) -> nn.Module:
            size = REGION.get(place.partition(".")[0], (3, 3, 3)) if kernel_size is None else kernel_size
            layer = RegionNonLocal(
                channels, kind, aggregate=aggregate, kernel_size=size, scale=scale, backend=backend
            )
            return AttentionChain(channels, layer, backend=backend) if chain else layer

        super().__init__(num_classes, num_segments, attention, backend=backend, **network)


class NLTSM(AttentionTSM):
    """TSM with non-local blocks; see `AttentionTSM` and `NonLocal`.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        kind: of the attention: ``"gaussian"``, ``"dot"``, ``"cosine"`` or ``"concatenation"``.
        embed: whether query and key are projected.
        pool: whether keys and values are pooled.
        scale: of the gaussian kind's products.
        backend: backend of the operators.
        network: ``num_blocks`` or ``places`` of `AttentionTSM`, and what `TSM` takes, ``fold_div`` among it.

    Example:
        >>> import torch
        >>> NLTSM(5, places=["layer2.0"], blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        kind: str = "gaussian",
        embed: bool = True,
        pool: bool = False,
        scale: float | None = None,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        def attention(channels: int, place: str) -> nn.Module:
            return NonLocal(channels, kind, embed=embed, pool=pool, scale=scale, backend=backend)

        super().__init__(num_classes, num_segments, attention, backend=backend, **network)


class CPATSM(AttentionTSM):
    """TSM with convolution pyramid attention; see `AttentionTSM` and `ConvPyramidAttention`.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        kernel_sizes: of the pyramid, a list of kernels as for `ConvPyramidAttention`: table 4.5's rows.
        scale: multiply the softmax by the number of positions.
        chain: put a `SqueezeExcite3d` before each, the thesis' vision attention chain, which `RNLTSM` and `CPATSM`
            have, and no other network.
        backend: backend of the operators.
        network: ``num_blocks`` or ``places`` of `AttentionTSM`, and what `TSM` takes, ``fold_div`` among it.

    Example:
        >>> import torch
        >>> CPATSM(5, places=["layer2.0"], blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 8,
        *,
        kernel_sizes: Sequence[int | Sequence[int]] = PYRAMID,
        scale: bool = True,
        chain: bool = False,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        def attention(channels: int, place: str) -> nn.Module:
            layer = ConvPyramidAttention(kernel_sizes, scale=scale, backend=backend)
            return AttentionChain(channels, layer, backend=backend) if chain else layer

        super().__init__(num_classes, num_segments, attention, backend=backend, **network)


class ChannelTSM(AttentionTSM):
    """TSM with one of the baselines of table 4.6; see `AttentionTSM`.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        layer: the baseline: `SqueezeExcite3d`, `CBAM3d` or `GlobalContext`.
        reduction: of the layer.
        backend: backend of the operators.
        network: ``num_blocks`` or ``places`` of `AttentionTSM`, and what `TSM` takes, ``fold_div`` among it.

    Example:
        >>> import torch
        >>> from vidops.layers import GlobalContext
        >>> net = ChannelTSM(5, 8, GlobalContext, places=["layer2.0"], blocks=(1, 1), width=8)
        >>> net(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int,
        layer: Callable[..., nn.Module],
        *,
        reduction: int = 16,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        def attention(channels: int, place: str) -> nn.Module:
            return layer(channels, reduction, backend=backend)

        super().__init__(num_classes, num_segments, attention, backend=backend, **network)
