"""Case of motion_band_pass: the input stem, and lateral connections at the sizes of ResNet-50's stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")

Shape = tuple[int, int, int, int, int]


def _params(shape: Shape, k: int, stride: int = 1, padding: str = "replicate", quiet: bool = False) -> Params:
    return {"shape": shape, "k": k, "stride": stride, "temporal_padding": padding, "quiet": quiet}


def _stem(clips: int) -> Params:
    return _params((clips, 3, 24, 224, 224), 9, 3, "valid")


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    channels, k = params["shape"][1], params["k"]
    # Gains near 1, as layers hold them.
    return randn(*params["shape"]), randn(channels, k, k) / (2 * k), randn(channels, 3) / 4


def _call(params: Params, tensors: Tensors, backend: str | None) -> Any:
    keys = ("stride", "temporal_padding", "quiet")
    return ops.motion_band_pass(*tensors, **{key: params[key] for key in keys}, backend=backend)


def _over_space(x: Tensor, spatial: Tensor) -> Tensor:
    n, reach = x.shape[0], spatial.shape[-1] // 2
    frames = F.pad(x.transpose(1, 2).flatten(0, 1), (reach,) * 4, mode="reflect")
    y = F.conv2d(frames, spatial.unsqueeze(1), groups=len(spatial))
    return y.unflatten(0, (n, -1)).transpose(1, 2)


def _held(x: Tensor, params: Params) -> Tensor:
    """The clip with its ends held for one frame, where the temporal padding says so."""
    if params["temporal_padding"] == "replicate":
        return torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return x


def _over_time(x: Tensor, temporal: Tensor, params: Params) -> Tensor:
    weight = temporal.view(-1, 1, 3, 1, 1)
    return F.conv3d(_held(x, params), weight, stride=(params["stride"], 1, 1), groups=len(temporal))


def _spatial_first(params: Params, tensors: Tensors) -> Tensor:
    x, spatial, temporal = tensors
    return _over_time(_over_space(x, spatial), temporal, params)


def _temporal_first(params: Params, tensors: Tensors) -> Tensor:
    x, spatial, temporal = tensors
    return _over_space(_over_time(x, temporal, params), spatial)


def _temporal_sums(params: Params, tensors: Tensors) -> Tensor:
    """The temporal filter as three scaled slices of the clip, summed, before the spatial one."""
    x, spatial, temporal = tensors
    x, stride = _held(x, params), params["stride"]
    taps = temporal.view(-1, 3, 1, 1, 1).unbind(1)
    end = (x.shape[2] - 3) // stride * stride + 1
    total = x[:, :, :end:stride] * taps[0]
    for j in (1, 2):
        total = torch.addcmul(total, x[:, :, j : j + end : stride], taps[j])
    return _over_space(total, spatial)


def _products(params: Params, direction: str) -> int:
    n, c, t, h, w = params["shape"]
    span = t if params["temporal_padding"] == "replicate" else t - 2
    frames = (span + params["stride"] - 1) // params["stride"]
    forward: int = n * c * frames * h * w * (params["k"] ** 2 + 3)
    return 2 * forward if direction == "backward" else forward


# Lateral connections by stage, with the kernel sizes of the Busy-Quiet Net: channels, pixels a side, k.
_STAGES = {"res2": (256, 56, 7), "res3": (512, 28, 7), "res4": (1024, 14, 7), "res5": (2048, 7, 3)}


def _stage(name: str, clips: int) -> Params:
    channels, side, k = _STAGES[name]
    return _params((clips, channels, 8, side, side), k)


_GPU_TARGETS = (Target("forward", "floor", 1.6), Target("backward", "floor", 2.0))
_GPU = (
    ("stem_16x3x24x224x224", _stem(16)),
    *((f"{name}_8x{c}x8x{side}x{side}", _stage(name, 8)) for name, (c, side, _) in _STAGES.items()),
)

BENCHMARK = Benchmark(
    operator="motion_band_pass",
    inputs=_inputs,
    call=_call,
    eager={
        "spatial_first": Baseline(_spatial_first),
        "spatial_first_frames": Baseline(_spatial_first, "NTCHW"),
        "temporal_first": Baseline(_temporal_first),
        "temporal_sums": Baseline(_temporal_sums),
        "temporal_sums_frames": Baseline(_temporal_sums, "NTCHW"),
    },
    products=_products,
    workloads=(
        Workload(
            "stem_1x3x24x224x224",
            "cpu",
            _stem(1),
            layouts=LAYOUTS,
            quick=True,
            targets=(
                Target("forward", "speedup", 15.0, against="spatial_first", layouts=("NCTHW",)),
                Target("forward", "speedup", 4.0, against="temporal_first", layouts=("NCTHW",)),
                Target("backward", "speedup", 8.0, against="spatial_first", layouts=("NCTHW",)),
            ),
        ),
        Workload(
            "res2_1x256x8x56x56",
            "cpu",
            _stage("res2", 1),
            layouts=LAYOUTS,
            quick=True,
            targets=(
                Target("forward", "speedup", 4.0, layouts=("NCTHW",)),
                Target("backward", "speedup", 8.0, layouts=("NCTHW",)),
            ),
        ),
        Workload("res3_1x512x8x28x28", "cpu", _stage("res3", 1)),
        Workload("res4_1x1024x8x14x14", "cpu", _stage("res4", 1)),
        Workload("res5_1x2048x8x7x7", "cpu", _stage("res5", 1)),
        Workload("1x8x4x8x8", "cpu", _params((1, 8, 4, 8, 8), 3), directions=("call", "call_grad")),
        *(
            Workload(
                name,
                "cuda",
                params,
                dtypes=("bfloat16", "float32"),
                layouts=LAYOUTS,
                quick=name.startswith(("stem", "res2")),
                targets=_GPU_TARGETS,
            )
            for name, params in _GPU
        ),
    ),
    small=(
        _params((2, 3, 4, 4, 5), 3, 2, quiet=True),
        _params((2, 20, 6, 20, 18), 7),
        _params((3, 5, 5, 7, 9), 5, 2, quiet=True),
        _params((1, 3, 9, 12, 13), 9, 3, "valid"),
        _params((2, 3, 4, 2, 2), 3, 1, "valid", quiet=True),
        _params((1, 6, 3, 1, 1), 1),
        _params((1, 2, 3, 7, 8), 11, 3, "valid"),
    ),
)
