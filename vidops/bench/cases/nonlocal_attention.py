"""Case of nonlocal_attention: the blocks of Region-based Non-local networks.

Floor: arithmetic, for every byte is used L times over: L L' (D + E) multiply-adds, 20 G at L = 6272 and D = E = 256.
Backward has five products of that kind where forward has two. "x floor" counts by the best rate known of the machine,
which may be that of these kernels: PyTorch's matrix product stays with AVX2 on AMD's cores, at half their rate.

Foretold for two AMD cores, against the matrix of pairs: the products at 90 % of 113 G multiply-adds a second and core,
where PyTorch has 50, and softmax a tenth more: twice scaled_dot_product_attention, and no matrix to write and read:
three times eager. Seen, on a busy machine: 2.0 to 2.2 and 2.8 to 4; cosine 4, concatenation 4.5, dot 28 to 32 times.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ...reference.nonlocal_attention import clip_of, tokens_of
from ..case import Baseline, Benchmark, Params, Target, Tensors, Workload

LAYOUTS = ("NCTHW", "NTHWC")

Shape = tuple[int, int, int, int, int]


def _params(
    shape: Shape,
    kind: str = "gaussian",
    *,
    over: str = "all",
    keys: tuple[int, int, int] | None = None,
    values: int | None = None,
    scale: float | None = None,
) -> Params:
    """``keys``: T', H', W', those of ``shape`` if None; ``values``: E, D if None."""
    return {
        "shape": shape, "kind": kind, "over": over, "keys": keys or shape[2:], "values": values or shape[1],
        "scale": scale,
    }  # fmt: skip


def _inputs(params: Params, generator: torch.Generator) -> Tensors:
    """Queries and keys whose products are of size 1, so that no softmax is all on one key."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, d, *_ = params["shape"]
    query, key = randn(*params["shape"]), randn(n, d, *params["keys"])
    value = randn(n, params["values"], *params["keys"])
    if params["kind"] == "concatenation":
        return query, key, value, randn(d) / d**0.5, randn(d) / d**0.5
    return query / d**0.25, key / d**0.25, value


def _options(params: Params, tensors: Tensors) -> dict[str, Any]:
    weights = {"query_weight": tensors[3], "key_weight": tensors[4]} if len(tensors) > 3 else {}
    return {key: params[key] for key in ("kind", "over", "scale")} | weights


def _call(params: Params, tensors: Tensors, backend: str | None) -> Tensor:
    return ops.nonlocal_attention(*tensors[:3], **_options(params, tensors), backend=backend)


def _pairs(params: Params, tensors: Tensors) -> Tensor:
    """The matrix of all pairs, and two products with it, in the dtype of the clips."""
    q, k, v = (tokens_of(x, params["over"]) for x in tensors[:3])
    kind = params["kind"]
    if kind == "gaussian":
        scale = params["scale"]
        weights = torch.softmax(torch.bmm(q if scale is None else q * scale, k.mT), -1)
    else:
        if kind == "concatenation":
            pairs = (q @ tensors[3]).unsqueeze(2) + (k @ tensors[4]).unsqueeze(1)
        else:
            if kind == "cosine":
                q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            pairs = torch.bmm(q, k.mT)
        weights, v = pairs if kind == "dot" else pairs.relu_(), v / k.shape[1]
    return clip_of(torch.bmm(weights, v), params["shape"], params["over"])


def _sdpa(params: Params, tensors: Tensors) -> Tensor:
    if params["kind"] != "gaussian":
        raise RuntimeError("scaled_dot_product_attention has the Gaussian kind alone")
    q, k, v = (tokens_of(x, params["over"]).unsqueeze(1) for x in tensors[:3])
    out = F.scaled_dot_product_attention(q, k, v, scale=params["scale"] or 1.0)
    return clip_of(out.squeeze(1), params["shape"], params["over"])


def _products(params: Params, direction: str) -> int:
    n, d, t, h, w = params["shape"]
    frames, height, width = params["keys"]
    e, kind = params["values"], params["kind"]
    batch, length, keys = {
        "all": (n, t * h * w, frames * height * width),
        "space": (n * t, h * w, height * width),
        "time": (n * h * w, t, frames),
    }[params["over"]]
    if kind == "dot":
        forward = batch * (length + keys) * d * e
        return 2 * forward if direction == "backward" else forward
    d = 0 if kind == "concatenation" else d
    return batch * length * keys * ((3 * d + 2 * e) if direction == "backward" else d + e)


_RES3, _RES4 = (1, 256, 8, 28, 28), (1, 512, 8, 14, 14)
_TARGETS: dict[str, tuple[Target, ...]] = {
    "gaussian": (Target("forward", "speedup", 1.4), Target("forward", "speedup", 0.95, against="sdpa")),
    "cosine": (Target("forward", "speedup", 1.3),),
    "dot": (Target("forward", "speedup", 20.0),),
    "concatenation": (),
}
_BF16 = ("bfloat16",)


def _gpu_targets(kind: str, dot: float, rate: float | None = None) -> tuple[Target, ...]:
    """Never slower than the library's kernel, twice the matrix of pairs elsewhere; ``dot`` times where that is linear.

    ``rate``: share of the matrix rate that the Gaussian kind should reach.
    """
    if kind == "gaussian":
        library = [Target(d, "speedup", 1.0, against="sdpa", dtypes=_BF16) for d in ("forward", "backward")]
        wishes = [Target("forward", "share", rate, dtypes=_BF16, stretch=True)] if rate else []
        return (*library, *wishes)
    factor = dot if kind == "dot" else 2.0
    return (
        Target("forward", "speedup", factor, dtypes=_BF16),
        Target("backward", "speedup", 2.0, dtypes=_BF16),
    )


_KINDS = ("gaussian", "cosine", "dot", "concatenation")

BENCHMARK = Benchmark(
    operator="nonlocal_attention",
    inputs=_inputs,
    call=_call,
    eager={"pairs": Baseline(_pairs, "NTHWC")},
    library={"sdpa": Baseline(_sdpa, "NTHWC")},
    products=_products,
    matrix=True,
    clips=(0, 1, 2),
    batched=(0, 1, 2),
    workloads=(
        *(
            Workload(
                f"{kind} L6272 D256", "cpu", _params(_RES3, kind), layouts=LAYOUTS,
                quick=kind == "gaussian", targets=_TARGETS[kind],
            )
            for kind in _KINDS
        ),
        *(Workload(f"{kind} L1568 D512", "cpu", _params(_RES4, kind), layouts=LAYOUTS) for kind in _KINDS),
        *(
            Workload(f"gaussian {over} 8x28x28 D256", "cpu", _params(_RES3, over=over), layouts=LAYOUTS)
            for over in ("space", "time")
        ),
        Workload("gaussian L16 D8", "cpu", _params((1, 8, 4, 2, 2)), directions=("call", "call_grad")),
        *(
            Workload(
                f"{kind} 8xL6272 D256", "cuda", _params((8, *_RES3[1:]), kind), dtypes=("bfloat16", "float32"),
                layouts=LAYOUTS, quick=kind == "gaussian", targets=_gpu_targets(kind, 20.0, 0.6),
            )
            for kind in _KINDS
        ),
        *(
            Workload(
                f"{kind} 8xL1568 D512", "cuda", _params((8, *_RES4[1:]), kind), dtypes=("bfloat16", "float32"),
                layouts=LAYOUTS, targets=_gpu_targets(kind, 2.0, 0.45),
            )
            for kind in _KINDS
        ),
        *(
            Workload(
                f"gaussian {over} 8x8x28x28 D256", "cuda", _params((8, *_RES3[1:]), over=over),
                dtypes=_BF16, layouts=LAYOUTS, targets=_gpu_targets("gaussian", 2.0),
            )
            for over in ("space", "time")
        ),
    ),
    small=(
        _params((2, 5, 2, 3, 3), keys=(3, 1, 5), values=3, scale=0.5),
        _params((1, 3, 1, 2, 2), "cosine", keys=(1, 1, 3), values=2),
        _params((1, 19, 2, 5, 7), "cosine", values=17),
        _params((1, 3, 2, 5, 7), "concatenation", keys=(1, 9, 8), values=5),
        _params((2, 4, 2, 3, 3), "dot", keys=(3, 2, 2), values=6),
        _params((1, 33, 3, 5, 5), over="space", keys=(3, 2, 3), values=40),
        _params((1, 6, 4, 2, 3), "cosine", over="time", keys=(5, 2, 3)),
        _params((1, 16, 1, 1, 1), keys=(1, 9, 15)),
        _params((1, 1, 1, 9, 15), keys=(1, 1, 1)),
        _params((1, 70, 1, 9, 15), values=130),
    ),
)  # fmt: skip
