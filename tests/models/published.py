"""Every published row of parameters and multiply-adds, written out, and how close a reproduction must come.

`test_published` measures each row here and demands that the models' cards show the same rows; so a row that
goes missing from a card, or is changed there to fit, is seen.
"""

from __future__ import annotations

from typing import Any

from vidops.models import Figure

PARAMS_TOLERANCE = 0.005
GMACS_TOLERANCE = 0.015
# A difference of two figures that are each printed to 0.01 G (the slides' 33 G stands for 33.00).
DIFFERENCE_TOLERANCE = 0.01

# Where what a source counts is less certain, the models page allows a row more: (parameters, GMACs).
WIDER = {
    ("bqn_x3d_m", "thesis, table 5.9"): (0.015, 0.025),
    ("dan_tsm_resnet50", "thesis, table 3.7"): (0.005, 0.03),
    ("dan_x3d_m", "thesis, table 3.7"): (0.005, 0.03),
}

# Rows that no reading of their source fits; the model's card says why.
CONTRADICTIONS = 4

_SLIDES = "MixTConv slides, comparison table"


def _ablation(gmacs: float, **options: object) -> tuple[str, Figure]:
    """Build a row of the slides' ablation, which counts beside TSN's 33 G."""
    source, clip = "MixTConv slides, ablation", (3, 8, 224, 224)
    return "mstnet_resnet50", Figure(
        source, clip, 174, gmacs=gmacs, options=options, over="tsn_resnet50", over_gmacs=33.0
    )


_RELEASE = "X3D's release"
_NINE = "thesis, table 5.9"


def _pathways(
    gmacs: float, quiet: int, busy: int, table: str = "5.8", **options: object
) -> tuple[str, Figure]:
    """Build a row of the thesis' tables of the Busy-Quiet Net's inputs and connections."""
    options = {"busy_size": busy, "quiet_size": quiet, **options}
    return "bqn_tsm_resnet50", Figure(
        f"thesis, table {table}", (3, 24, busy, busy), 174, gmacs=gmacs, options=options
    )


_SIX = "thesis, table 3.6"


def _appearance(table: str, gmacs: float, frames: int, **options: object) -> tuple[str, Figure]:
    """Build a row of the thesis' ablations of DAN on X3D-XS; each has 156 multiply-adds a pixel unaccounted for."""
    options = {"frames_per_segment": frames, **options}
    clip = (3, 4 * frames, 160, 160)
    source = f"thesis, table {table}"
    return "dan_x3d_xs", Figure(source, clip, 174, gmacs=gmacs, options=options, unaccounted=156)


def _convolution(gmacs: float, stride: int, kernel: int, channels: int) -> tuple[str, Figure]:
    """Build a row of table 3.11."""
    return _appearance(
        "3.11",
        gmacs,
        8,
        descriptor_stride=stride,
        descriptor_kernel_size=kernel,
        descriptor_channels=channels,
    )


def _thirty_views(name: str, gmacs: float) -> tuple[str, Figure]:
    """Build a row of table 3.7, 16 segments of 8 frames."""
    options = {"frames_per_segment": 8}
    return name, Figure("thesis, table 3.7", (3, 128, 256, 256), 400, gmacs=gmacs / 30, options=options)


# Of table 4.6: multiply-adds of the attention's two products, and of the aggregation of regions, which it leaves out;
# positions and channels (C/2) of 8 frames of 28 x 28 and of 14 x 14.
_PRODUCTS = {"res3": 2 * 6272 * 6272 * 256 / 1e9, "res4": 2 * 1568 * 1568 * 512 / 1e9}
_REGIONS = {"res3": 147 * 6272 * 256 / 1e9, "res4": 27 * 1568 * 512 / 1e9}


def _five(layer: str, left_out: float = 0.0, **row: Any) -> tuple[str, Figure]:
    """Build a row of table 4.6."""
    name = {"[SE+RNL]": "rnl"}.get(layer, layer.lower())
    options = {"chain": True} if "+" in layer else {}
    source = f"thesis, table 4.6, + 5 {layer}"
    return f"{name}_tsm_resnet50", Figure(source, options=options, left_out=left_out, **row)


def _one(aggregate: str, left_out: float = 0.0, **row: Any) -> tuple[str, Figure]:
    """Build a row of table 4.3: what one block in res3 adds."""
    return "rnl_tsm_resnet50", Figure(
        f"thesis, table 4.3, {aggregate}: the block alone",
        options={"num_blocks": 1, "aggregate": aggregate},
        over="tsm_resnet50",
        left_out=left_out,
        **row,
    )


_NL = 2 * _PRODUCTS["res3"] + 3 * _PRODUCTS["res4"]
_RNL = _NL + 2 * _REGIONS["res3"] + 3 * _REGIONS["res4"]
_ONE = _PRODUCTS["res3"] + _REGIONS["res3"]

ROWS: list[tuple[str, Figure]] = [
    ("tsn_resnet50", Figure(_SLIDES, (3, 8, 224, 224), 400, gmacs=33, params=24.3)),
    ("tsm_resnet50", Figure(_SLIDES, (3, 8, 224, 224), 400, gmacs=33, params=24.3)),
    ("tsm_resnet50", Figure(_SLIDES, (3, 16, 224, 224), 400, gmacs=65, params=24.3)),
    (
        "tsm_resnet50",
        Figure("thesis, table 4.6, baseline", (3, 8, 224, 224), 400, gmacs=(32.7, 32.9), params=24.33),
    ),
    (
        "tsm_resnet50",
        Figure("TSM, Something-Something", (3, 8, 224, 224), 174, gmacs=(32.7, 32.9), params=23.86),
    ),
    ("tsm_resnet50", Figure("thesis, table 3.6", (3, 8, 256, 256), 174, gmacs=42.9, params=23.8)),
    ("mstnet_resnet50", Figure("MSTNet, 8 frames", (3, 8, 224, 224), 400, gmacs=32.88, params=24.38)),
    ("mstnet_resnet50", Figure(_SLIDES, (3, 8, 224, 224), 400, gmacs=33.2, params=24.3)),
    ("mstnet_resnet50", Figure(_SLIDES, (3, 16, 224, 224), 400, gmacs=65.3, params=24.3)),
    _ablation(43, kernel_sizes=(3,), ordinary=True, position="inner"),
    _ablation(33.13, kernel_sizes=(3,)),
    _ablation(33.23, kernel_sizes=(5,)),
    _ablation(33.32, kernel_sizes=(7,)),
    _ablation(33.09, kernel_sizes=(1, 3)),
    _ablation(33.13, kernel_sizes=(1, 3, 5)),
    _ablation(33.18, kernel_sizes=(1, 3, 5, 7)),
    _ablation(33.13, kernel_sizes=(3, 3, 3), dilations=(1, 2, 3)),
    ("x3d_xs", Figure(_RELEASE, (3, 4, 160, 160), 400, gmacs=0.605, params=3.79)),
    ("x3d_xs", Figure("thesis, table 3.6", (3, 4, 160, 160), 174, params=3.33)),
    ("x3d_s", Figure(_RELEASE, (3, 13, 160, 160), 400, gmacs=1.96, params=3.79)),
    ("x3d_s", Figure("as X3D-XS and X3D-M", (3, 13, 160, 160), 174, params=3.33)),
    ("x3d_m", Figure(_RELEASE, (3, 16, 224, 224), 400, gmacs=4.73, params=3.79)),
    (
        "x3d_m",
        Figure(
            "thesis, tables 3.6, 3.7, 5.9 and 5.10",
            (3, 16, 256, 256),
            174,
            gmacs=(6.2, 6.4),
            params=3.33,
        ),
    ),
    ("x3d_l", Figure(_RELEASE, (3, 16, 312, 312), 400, gmacs=18.4, params=6.15)),
    (
        "mbpm_tsm_resnet50",
        Figure(
            "thesis, table 5.1: the module alone, 0.2 K parameters",
            (3, 24, 224, 224),
            174,
            gmacs=0.3,
            over="tsm_resnet50",
        ),
    ),
    _pathways(65.9, 224, 224),
    _pathways(58.0, 192, 224),
    _pathways(50.5, 160, 224),
    _pathways(44.4, 128, 224),
    _pathways(77.1, 224, 256),
    _pathways(68.3, 192, 256),
    _pathways(60.7, 160, 256),
    _pathways(54.6, 128, 256),
    _pathways(55.5, 160, 256, quiet_frames=6),
    _pathways(49.4, 224, 224, quiet_frames=4),
    _pathways(65.7, 224, 224, "5.6", num_lateral=0),
    _pathways(65.8, 224, 224, "5.6", num_lateral=4),
    _pathways(65.8, 224, 224, "5.6", num_lateral=8),
    _pathways(65.9, 224, 224, "5.6", num_lateral=16),
    ("bqn_tsm_resnet50", Figure(_NINE, (3, 24, 256, 256), 174, gmacs=60)),
    ("bqn_tsm_resnet50", Figure(_NINE, (3, 48, 256, 256), 174, gmacs=121)),
    # The thesis leaves the lateral connections out of its parameters.
    ("bqn_tsm_resnet50", Figure(_NINE, (3, 24, 256, 256), 174, params=47.4, options={"num_lateral": 0})),
    ("bqn_tsm_resnet101", Figure(_NINE, (3, 48, 256, 256), 174, gmacs=231)),
    ("bqn_tsm_resnet101", Figure(_NINE, (3, 48, 256, 256), 174, params=85.4, options={"num_lateral": 0})),
    ("bqn_x3d_m", Figure(_NINE, (3, 48, 256, 256), 174, gmacs=9.7)),
    ("bqn_x3d_m", Figure(_NINE, (3, 48, 256, 256), 174, params=6.6, options={"num_lateral": 0})),
    ("dan_tsm_resnet50", Figure(_SIX, (3, 32, 256, 256), 174, gmacs=43.1, params=23.8)),
    ("dan_x3d_xs", Figure(_SIX, (3, 32, 160, 160), 174, params=3.34)),
    ("dan_x3d_m", Figure(_SIX, (3, 48, 256, 256), 174, gmacs=7.0, params=3.34, unaccounted=156)),
    _appearance("3.10", 0.71, 4),
    _appearance("3.10", 0.71, 4, basis_size=2),
    _appearance("3.10", 0.82, 8),
    _appearance("3.10", 0.83, 8, basis_size=3),
    _appearance("3.10", 1.12, 16),
    _convolution(2.60, 1, 7, 12),
    _convolution(4.06, 1, 7, 24),
    _convolution(0.95, 4, 7, 24),
    _convolution(0.82, 8, 9, 24),
    _convolution(0.86, 8, 11, 24),
    _thirty_views("dan_tsm_resnet50", 2602),
    _thirty_views("dan_x3d_m", 216),
    _five("SE", gmacs=32.89, params=24.79),
    _five("CBAM", gmacs=32.90, params=24.80),
    _five("GC", gmacs=32.90, params=24.79),
    _five("NL", _NL, gmacs=49.38, params=31.69),
    _five("RNL", _RNL, gmacs=41.15),
    _five("RNL", params=35.48),
    _five("[SE+RNL]", _RNL, gmacs=41.16),
    _five("[SE+RNL]", params=35.95),
    _one("conv", _ONE, gmacs=1.65),
    _one("conv", params=2.67),
    _one("avg", _ONE, gmacs=1.65, params=0.26),
    _one("max", _PRODUCTS["res3"], gmacs=1.65, params=0.26),
    ("mfnet", Figure("KPSEM, table 1", (3, 16, 224, 224), 400, gmacs=11.1, params=8.0)),
    ("mfnet", Figure("PyTorch-MFNet", (3, 16, 224, 224), 400, gmacs=11.05, params=8.0)),
    ("mfnet", Figure("PyTorch-MFNet, Mini-Kinetics' classes", (3, 16, 224, 224), 200, params=7.84)),
    ("mf_kpsem", Figure("KPSEM, table 1", (3, 16, 224, 224), 200, gmacs=11.21, params=8.11)),
    ("i3d_resnet50", Figure("PyTorchVideo's model zoo", (3, 8, 256, 256), gmacs=37.53, params=28.04)),
    ("btsnet26", Figure("BTSNet's release", (3, 30, 112, 112), 101, gmacs=18.83, params=16.66)),
    ("btsnet50", Figure("BTSNet's release", (3, 30, 112, 112), 101, gmacs=22.94, params=29.93)),
]
