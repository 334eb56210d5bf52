"""Case of resize: the steps between the pathways of the Busy-Quiet Net, at 160x160 and 256x256 input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTCHW", "NTHWC")


def _params(shape: tuple[int, int, int, int, int], size: tuple[int, int]) -> Params:
    return {"shape": shape, "size": size}


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    return (torch.randn(params["shape"], generator=generator, dtype=torch.float64),)


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    return ops.resize(tensors[0], params["size"], backend=backend)


def _frames(params: Params, tensors: Tensors) -> Tensor:
    """The frames as a batch of images; NTCHW clips and channels-last ones need no copy for it."""
    (x,) = tensors
    images = x.transpose(1, 2).flatten(0, 1)
    small = F.interpolate(images, size=params["size"], mode="bilinear", align_corners=False)
    return small.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _trilinear(params: Params, tensors: Tensors) -> Tensor:
    (x,) = tensors
    return F.interpolate(x, size=(x.shape[2], *params["size"]), mode="trilinear", align_corners=False)


def _traffic(direction: str, inputs: Tensors, outputs: Tensors) -> int:
    """A clip of either size is moved in both directions: the gradient does not need ``x``."""
    return inputs[0].nbytes + outputs[0].nbytes


_TARGETS = (Target("forward", "speedup", 1.0), Target("backward", "speedup", 1.0))
# PyTorch takes the places of its samples in fp32: at 256 to 160 it is 50 times as far from fp64 as the reference.
_PLACES = 64.0
_SIZES = (
    ("256x56x56 to 35", (1, 256, 8, 56, 56), (35, 35), True),
    ("256x40x40 to 64", (1, 256, 8, 40, 40), (64, 64), False),
    ("3x256x256 to 160", (1, 3, 8, 256, 256), (160, 160), False),
)

BENCHMARK = Benchmark(
    operator="resize",
    inputs=_inputs,
    call=_call,
    eager={
        "frames": Baseline(_frames, "NTCHW", slack=_PLACES),
        "frames_last": Baseline(_frames, "NTHWC", slack=_PLACES),
        "trilinear": Baseline(_trilinear, slack=_PLACES),
    },
    traffic=_traffic,
    workloads=(
        *(
            Workload(name, "cpu", _params(shape, size), layouts=LAYOUTS, quick=quick, targets=_TARGETS)
            for name, shape, size, quick in _SIZES
        ),
        Workload("1x8x4x2x2", "cpu", _params((1, 8, 4, 2, 2), (3, 3)), directions=("call", "call_grad")),
        *(
            Workload(
                name,
                "cuda",
                _params((16, *shape[1:]), size),
                dtypes=("bfloat16", "float32"),
                layouts=LAYOUTS,
                quick=quick,
                targets=_TARGETS,
            )
            for name, shape, size, quick in _SIZES
        ),
    ),
    small=(
        _params((2, 5, 2, 5, 7), (4, 9)),
        _params((1, 17, 2, 9, 9), (6, 6)),
        _params((1, 2, 1, 6, 5), (12, 9)),
        _params((1, 3, 2, 16, 8), (2, 4)),
        _params((1, 3, 2, 4, 3), (1, 1)),
        _params((1, 4, 2, 1, 1), (3, 2)),
    ),
)
