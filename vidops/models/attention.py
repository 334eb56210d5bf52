"""TSM with attention over space and time, or over channels, after some of its blocks.

| model | layer | published, 5 layers, 8x224x224, 400 classes |
|---|---|---|
| rnl_tsm_resnet50 | region-based non-local | 41.15 G, 35.48 M (ours 28.13 M, see `RegionNonLocal`) |
| rnl_tsm_resnet101 | the same | - |
| nl_tsm_resnet50 | non-local | 49.38 G, 31.69 M |
| cpa_tsm_resnet50 | convolution pyramid attention | - |
| se_tsm_resnet50 | squeeze and excitation | 32.89 G, 24.79 M |
| cbam_tsm_resnet50 | convolutional block attention module | 32.90 G, 24.80 M |
| gc_tsm_resnet50 | global context | 32.90 G, 24.79 M |
| tiny_rnl, tiny_nl, tiny_cpa, tiny_se, tiny_cbam, tiny_gc | on TSM, blocks 1, 1, 1, 1, basic, width 16 | ours |

The published multiply-adds of the first and the third leave out the attention's two products of matrices; with these
and the aggregation of regions five region-based blocks make 89.3 G, five non-local ones 97.0 G.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..layers import CBAM3d, GlobalContext, SqueezeExcite3d
from .attention_tsm import CPATSM, NLTSM, RNLTSM, ChannelTSM
from .cards import Figure, Score
from .registry import register_model
from .tsn import RESNET50, RESNET101
from .tsn import TINY as TINY_RESNET

PAPER = (
    "Region-based Non-local Operation for Video Classification (Huang and Bors, ICPR 2020); thesis, chapter 4"
)
SOURCE = "Huang's thesis, chapter 4; places of the layers as in TSM's release for ResNet-50"
TINY: dict[str, Any] = {**TINY_RESNET, "fold_div": 4}
K400, SSV1 = "Kinetics-400", "Something-Something v1"
CHAIN = {"chain": True}
# Positions and channels of what the layers see of 8x224x224: two in res3, three in res4; taps of the regions.
RES3, RES4 = (8 * 28 * 28, 512), (8 * 14 * 14, 1024)
FIVE = (RES3, RES3, RES4, RES4, RES4)
TAPS = {RES3: 3 * 7 * 7, RES4: 3 * 3 * 3}
MASKED = (
    "the release stores its channel-wise kernels as dense ones, 32 times as large, and counts their masks, too;"
    " ours is the same function"
)


def products(blocks: tuple[tuple[int, int], ...]) -> float:
    """Count what the published figures leave out of attention, in 10^9: query by key and weights by value, C/2 each.

    Example:
        >>> round(products(FIVE), 2)
        47.83
    """
    return sum(positions**2 * channels for positions, channels in blocks) / 1e9


def aggregation(blocks: tuple[tuple[int, int], ...]) -> float:
    """Count what they leave out of gathering regions, in 10^9.

    Example:
        >>> round(aggregation(FIVE), 2)
        0.54
    """
    return sum(TAPS[block] * block[0] * block[1] // 2 for block in blocks) / 1e9


def one_block(gmacs: float, params: float | None, aggregate: str) -> Figure:
    """Make a row of table 4.3: what one block in res3 adds."""
    return Figure(
        f"thesis, table 4.3, {aggregate}: the block alone",
        gmacs=gmacs,
        params=params,
        options={"num_blocks": 1, "aggregate": aggregate},
        over="tsm_resnet50",
        left_out=products((RES3,)) + (0 if aggregate == "max" else aggregation((RES3,))),
    )


def table_4_6(layer: str, *, gmacs: float | None = None, **row: Any) -> Figure:
    """Make a row of table 4.6, whose counts for Something-Something v1 are those of 400 classes, too."""
    return Figure(f"thesis, table 4.6, + 5 {layer}", gmacs=gmacs, **row)


def in_res3(top1: float, table: str, **options: Any) -> Score:
    """Make a row of tables 4.2 to 4.4 with one block."""
    return Score(K400, 8, top1, options={"num_blocks": 1, **options}, source=f"thesis, table {table}")


def tiny(options: dict[str, Any]) -> dict[str, Any]:
    """Make the arguments of a tiny network; of the five usual blocks it has two."""
    places = {} if "num_blocks" in options else {"places": ("layer2.0", "layer3.0")}
    return {**TINY, **places, **options}


register = partial(register_model, paper=PAPER)
full_size = partial(register, source=SOURCE, input_size=(3, 8, 224, 224))
small = partial(
    register, source="TSM with an attention layer, channels and depth cut", input_size=(3, 8, 64, 64)
)


@full_size(
    RNLTSM,
    scores=(
        *(
            in_res3(top1, "4.2", kernel_size=size)
            for size, top1 in (
                ((1, 1, 1), 73.28),
                ((3, 1, 1), 73.41),
                ((7, 1, 1), 73.12),
                ((1, 3, 3), 73.32),
                ((1, 7, 7), 73.43),
                ((1, 9, 9), 73.32),
                ((3, 3, 3), 73.53),
                ((3, 5, 5), 73.27),
                ((3, 7, 7), 73.66),
                ((3, 9, 9), 73.51),
                ((7, 7, 7), 73.11),
                ((7, 9, 9), 73.30),
            )
        ),
        in_res3(73.22, "4.3", aggregate="avg"),
        in_res3(73.47, "4.3", aggregate="max"),
        in_res3(73.22, "4.4", kind="dot"),
        in_res3(73.46, "4.4", kind="cosine"),
        Score(K400, 8, 74.16, options={"kind": "dot"}, source="thesis, table 4.4"),
        Score(K400, 8, 74.40, options={"kind": "cosine"}, source="thesis, table 4.4"),
        Score(K400, 8, 74.68, source="thesis, tables 4.4 and 4.6"),
        Score(K400, 8, 74.97, options=CHAIN, source="thesis, table 4.6"),
        Score(SSV1, 8, 49.24, source="thesis, table 4.6"),
        Score(SSV1, 8, 49.47, options=CHAIN, source="thesis, table 4.6"),
        Score(K400, 8, 75.6, 92.3, options=CHAIN, source="thesis, table 4.7: 100 epochs"),
        Score(K400, 16, 77.2, 93.1, options=CHAIN, source="thesis, table 4.7: 100 epochs"),
        Score(SSV1, 8, 47.3, options=CHAIN, source="thesis, table 4.8, 1 view"),
        Score(SSV1, 16, 49.4, options=CHAIN, source="thesis, table 4.8, 1 view"),
        Score(SSV1, 8, 49.5, 78.4, options=CHAIN, source="thesis, table 4.8, 6 views"),
        Score(SSV1, 16, 51.0, 80.3, options=CHAIN, source="thesis, table 4.8, 6 views"),
    ),
    figures=(
        table_4_6("RNL", gmacs=41.15, left_out=products(FIVE) + aggregation(FIVE)),
        table_4_6("RNL", params=35.48, contradiction=MASKED),
        table_4_6("[SE+RNL]", gmacs=41.16, options=CHAIN, left_out=products(FIVE) + aggregation(FIVE)),
        table_4_6("[SE+RNL]", params=35.95, options=CHAIN, contradiction=MASKED),
        one_block(1.65, None, "conv"),
        Figure(
            "thesis, table 4.3, conv: the block alone",
            params=2.67,
            options={"num_blocks": 1, "aggregate": "conv"},
            over="tsm_resnet50",
            contradiction=MASKED,
        ),
        one_block(1.65, 0.26, "avg"),
        one_block(1.65, 0.26, "max"),
    ),
)
def rnl_tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> RNLTSM:
    """TSM ResNet-50 with region-based non-local blocks; see `RNLTSM`."""
    return RNLTSM(num_classes, num_segments, backend=backend, **{**RESNET50, **options})


@full_size(
    RNLTSM,
    scores=(Score(SSV1, 8, 50.8, 79.8, options=CHAIN, source="thesis, table 4.8, 6 views"),),
)
def rnl_tsm_resnet101(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> RNLTSM:
    """TSM ResNet-101 with region-based non-local blocks after the blocks of the same names; see `RNLTSM`."""
    return RNLTSM(num_classes, num_segments, backend=backend, **{**RESNET101, **options})


@full_size(
    NLTSM,
    scores=(Score(K400, 8, 74.41), Score(SSV1, 8, 48.25)),
    figures=(table_4_6("NL", gmacs=49.38, params=31.69, left_out=products(FIVE)),),
)
def nl_tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> NLTSM:
    """TSM ResNet-50 with non-local blocks; see `NLTSM`."""
    return NLTSM(num_classes, num_segments, backend=backend, **{**RESNET50, **options})


@full_size(
    CPATSM,
    scores=(
        *(
            Score(K400, 8, top1, options={"kernel_sizes": sizes}, source="thesis, table 4.5")
            for sizes, top1 in (
                (((1, 1, 1),), 72.53),
                (((3, 3, 3),), 73.52),
                (((3, 7, 7),), 73.87),
                (((3, 9, 9),), 73.92),
                (((3, 3, 3), (3, 7, 7)), 73.86),
                (((1, 1, 1), (3, 3, 3), (3, 7, 7)), 74.01),
            )
        ),
        Score(K400, 8, 74.27, source="thesis, tables 4.5 and 4.6"),
        Score(K400, 8, 74.33, options=CHAIN, source="thesis, table 4.6"),
    ),
)
def cpa_tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> CPATSM:
    """TSM ResNet-50 with convolution pyramid attention; see `CPATSM`."""
    return CPATSM(num_classes, num_segments, backend=backend, **{**RESNET50, **options})


@full_size(
    ChannelTSM,
    scores=(Score(K400, 8, 73.70),),
    figures=(table_4_6("SE", gmacs=32.89, params=24.79),),
)
def se_tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> ChannelTSM:
    """TSM ResNet-50 with squeeze and excitation; see `ChannelTSM`."""
    return ChannelTSM(num_classes, num_segments, SqueezeExcite3d, backend=backend, **{**RESNET50, **options})


@full_size(
    ChannelTSM,
    scores=(Score(K400, 8, 73.99),),
    figures=(table_4_6("CBAM", gmacs=32.90, params=24.80),),
)
def cbam_tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> ChannelTSM:
    """TSM ResNet-50 with convolutional block attention modules; see `ChannelTSM`."""
    return ChannelTSM(num_classes, num_segments, CBAM3d, backend=backend, **{**RESNET50, **options})


@full_size(
    ChannelTSM,
    scores=(Score(K400, 8, 73.76),),
    figures=(table_4_6("GC", gmacs=32.90, params=24.79),),
)
def gc_tsm_resnet50(
    num_classes: int = 400, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> ChannelTSM:
    """TSM ResNet-50 with global context blocks; see `ChannelTSM`."""
    return ChannelTSM(num_classes, num_segments, GlobalContext, backend=backend, **{**RESNET50, **options})


@small(RNLTSM)
def tiny_rnl(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> RNLTSM:
    """TSM with region-based non-local blocks cut down for tests and demos; see `RNLTSM`."""
    return RNLTSM(num_classes, num_segments, backend=backend, **tiny(options))


@small(NLTSM)
def tiny_nl(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> NLTSM:
    """TSM with non-local blocks cut down for tests and demos; see `NLTSM`."""
    return NLTSM(num_classes, num_segments, backend=backend, **tiny(options))


@small(CPATSM)
def tiny_cpa(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> CPATSM:
    """TSM with convolution pyramid attention cut down for tests and demos; see `CPATSM`."""
    return CPATSM(num_classes, num_segments, backend=backend, **tiny(options))


@small(ChannelTSM)
def tiny_se(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> ChannelTSM:
    """TSM with squeeze and excitation cut down for tests and demos; see `ChannelTSM`."""
    return ChannelTSM(num_classes, num_segments, SqueezeExcite3d, backend=backend, **tiny(options))


@small(ChannelTSM)
def tiny_cbam(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> ChannelTSM:
    """TSM with convolutional block attention modules cut down for tests and demos; see `ChannelTSM`."""
    return ChannelTSM(num_classes, num_segments, CBAM3d, backend=backend, **tiny(options))


@small(ChannelTSM)
def tiny_gc(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> ChannelTSM:
    """TSM with global context blocks cut down for tests and demos; see `ChannelTSM`."""
    return ChannelTSM(num_classes, num_segments, GlobalContext, backend=backend, **tiny(options))
