"""nonlocal_attention in Triton: a program owns a tile of tokens and walks all those that they are paired with.

Forward, a program has M queries; keys and values come in tiles of N through shared memory. Weights of M x N pairs
are made in registers and multiplied into M x E sums there, under a running maximum. Where tokens fit, the queries
stay in shared memory; where not, those and the keys stream through it in slices of 64 elements, for every tile.
Results of more than 512 elements take several programs, which make the same weights.

Backward makes the weights again from the logarithms of their sums, in passes of programs that own what they write.
The first, of softmax alone, walks keys for what its gradient needs of all: the mean of the weights' gradients,
which is also the product of a result with its gradient, but results are rounded, and what weights lack to one, as
logarithms are. Then the gradients of queries and of keys, one kernel with the roles exchanged, and that of values.
These are 10 products of pairs where 5 would do, 8 without softmax; in return a program's sums are M x D or M x E,
not both, so that M is large and nothing is added up in memory. No matrix of pairs exists in memory, and no sum is
atomic. In fp16 weights' gradients are multiplied by powers of two that follow the largest of a row, as a softmax does,
or they would leave its range; that is one more maximum a pair and one more product a sum and step.

The floor is 2 L L' (D + E) operations forward and 2 L L' (3 D + 2 E) backward, at the rate of the matrix units:
every byte of 2 L D + 2 L E is used L' / 2 times and more. Of 790 TFLOP/s in bf16 on an H200, 8 clips of L = 6272, D
= E = 256 are 322 GFLOP or 0.41 ms forward, 1.02 ms backward; L = 1568, D = E = 512 are 40 GFLOP or 0.051 ms, 0.13
ms.

Predicted, not measured: 45 % and 30 % of that rate forward, 0.9 ms and 0.17 ms (60 % and 45 % are wanted). At D =
256 a tile of 128 x 64 pairs is 2,048 cycles of products and about 1,000 of exponentials, maxima and conversions,
which Triton overlaps little. At D = 512 a program's sums of 64 x 512 are half its registers, so that M is 64: a
step of 32 keys brings 64 KB for 4.2 MFLOP, which L2 gives at half the rate of the matrix units, and the 200
programs are one and a half waves of 132. Backward 35 % and 20 % of the products that it makes: 5.8 ms and 1.3 ms.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..tuning import Knob
from ._attention_backward import (
    nonlocal_attention_sums_kernel,
    nonlocal_attention_tokens_kernel,
    nonlocal_attention_values_kernel,
)
from ._attention_kernels import nonlocal_attention_kernel
from ._clip import power
from ._compile import CompileCase
from ._register import operator, wrap_triton

GAUSSIAN = 0  # the kind that has sums of exponentials
SLICE = 64  # elements of tokens that do not fit whole
# Own tokens and tokens of a step, the fastest first, by major compute capability. In 9 and 10 matrix units read shared
# memory and sums may be half of all registers; elsewhere what is multiplied goes through registers too.
RESULTS = {8: ((64, 64), (64, 32)), 9: ((128, 64), (128, 32), (64, 32), (64, 16)), 10: ((128, 32), (64, 32))}
TOKENS = {8: ((64, 32),), 9: ((128, 32), (64, 32), (64, 16)), 10: ((128, 32), (64, 32), (64, 16))}
# A tile to try before those of the tables: more own tokens use what is loaded more often, fewer leave room for longer
# steps. 64 own tokens are the least that a group of four warps multiplies at once.
TABLE = "table"
FIRST_OF_RESULTS = Knob(
    "nonlocal_attention", "triton", "results", TABLE, (TABLE, "128x64", "128x32", "64x64", "64x32")
)
FIRST_OF_TOKENS = Knob(
    "nonlocal_attention", "triton", "tokens", TABLE, (TABLE, "128x32", "128x16", "64x64", "64x32")
)
# Steps whose tokens lie in shared memory, where tokens lie there whole: three hide more of a load than two.
STAGES = Knob("nonlocal_attention", "triton", "stages", 2, (2, 3))


class _Device(NamedTuple):
    """Major compute capability, and bytes of shared memory that a program may have."""

    major: int
    room: int
    step: int = 128  # bytes of a slice of fp32 and fp64 tokens

    @property
    def sums(self) -> int:
        """Numbers of a tile of results: half the registers of a program, or a quarter."""
        return 128 * 256 if self.major in (9, 10) else 64 * 256

    @property
    def elements(self) -> int:
        """Elements of tokens that may lie whole in shared memory."""
        return 1024 if self.major in (9, 10) else 256


AMPERE, HOPPER = _Device(8, 163 << 10), _Device(9, 227 << 10)
BLACKWELL, GEFORCE = _Device(10, 227 << 10), _Device(12, 99 << 10)
INTERPRETER = _Device(9, 227 << 10, 512)  # whose operations take as long on a few numbers as on many


def _device(x: Tensor) -> _Device:
    if x.device.type != "cuda":
        return INTERPRETER
    found = torch.cuda.get_device_properties(x.device)
    return _Device(int(found.major), int(found.shared_memory_per_block_optin))


class _Tile(NamedTuple):
    """Whether tokens lie whole in shared memory; own ones, those of a step; elements of slices and of results."""

    whole: bool
    m: int
    n: int
    d_slice: int
    e_slice: int
    columns: int
    warps: int
    stages: int


def _fit(elements: int, most: int = 1024) -> int:
    """A power of two that holds the elements, within what matrix units take and ``most``."""
    return min(max(power(elements), 16), most)


def _tile(whole: bool, m: int, n: int, d_slice: int, e_slice: int, columns: int, stages: int = 2) -> _Tile:
    """A tile of fp16 or bf16; ptxas fails on programs of 16 warps."""
    return _Tile(whole, m, n, d_slice, e_slice, columns, 8 if m * columns > 8192 else 4, stages)


def _tried(
    first: str, table: dict[int, tuple[tuple[int, int], ...]], device: _Device
) -> list[tuple[int, int]]:
    """Own tokens and tokens of a step, in the order in which they are tried."""
    found = list(table.get(device.major, table[8]))
    if first != TABLE:
        m, n = map(int, first.split("x"))
        found.insert(0, (m, n))
    return found


def _wide_tile(D: int, E: int, columns: int, size: int, device: _Device) -> _Tile:
    """A tile of fp32 or fp64, whose products take threads, or small matrix units."""
    step = device.step // size
    return _Tile(False, device.step // 4, step, _fit(D, step), _fit(E, step), _fit(columns, 4 * step), 8, 1)


@functools.lru_cache(maxsize=256)
def _results_tile(D: int, E: int, size: int, device: _Device, first: str = TABLE, stages: int = 2) -> _Tile:
    """The tile of results of E elements, of logits of D: of the forward kernel and of that of the values' gradient."""
    if size > 2:
        return _wide_tile(D, E, E, size, device)
    d, e = _fit(D), _fit(E, 512)
    for m, n in _tried(first, RESULTS, device):
        room = 2 * (m * d + stages * n * (d + e))
        if m * e <= device.sums and d <= device.elements and room <= device.room:
            return _tile(True, m, n, d, d, e, stages)
    n = 32 if device.major in (9, 10) else 64
    return _tile(False, 64, n, SLICE, SLICE, min(e, device.sums // 64))


@functools.lru_cache(maxsize=256)
def _tokens_tile(D: int, E: int, size: int, device: _Device, first: str = TABLE, stages: int = 2) -> _Tile:
    """The tile of the kernel that makes gradients of D elements, of products of D and of E."""
    if size > 2:
        return _wide_tile(D, E, D, size, device)
    d, e = _fit(D), _fit(E)
    for m, n in _tried(first, TOKENS, device):
        if m * d <= device.sums and 2 * (m + stages * n) * (d + e) <= device.room:
            return _tile(True, m, n, d, e, d, stages)
    return _tile(False, 64, 64, SLICE, SLICE, min(d, 128 if device.major == 10 else 256))


class _Call:
    """What the launches of one call share."""

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, kind: int, scale: float, tf32: bool, device: _Device
    ) -> None:
        self.B, self.L, self.K = query.shape[0], query.shape[1], key.shape[1]
        self.D, self.E = int(query.shape[2]), int(value.shape[2])
        size = query.element_size()
        stages = STAGES.value
        self.results = _results_tile(self.D, self.E, size, device, FIRST_OF_RESULTS.value, stages)
        self.tokens = _tokens_tile(self.D, self.E, size, device, FIRST_OF_TOKENS.value, stages)
        self.exact = size > 2
        self.scale = float(scale)
        self.constants = {
            "D": self.D, "E": self.E, "KIND": kind, "PRECISION": "tf32" if tf32 else "ieee",
            # A number of a launch is fp32: a scale for fp64 is compiled in, others are not, as they may change by step.
            "scale": self.scale, "SCALE": self.scale if size == 8 else None,
        }  # fmt: skip

    def settings(self, tile: _Tile, steps: int) -> dict[str, Any]:
        """Constants of a launch whose programs walk ``steps`` tokens."""
        return self.constants | {
            "EVEN": bool(steps % tile.n == 0), "WHOLE": tile.whole, "M_BLOCK": tile.m, "N_BLOCK": tile.n,
            "num_warps": tile.warps, "num_stages": tile.stages,
        }  # fmt: skip

    def grid(self, tile: _Tile, tokens: int, columns: int) -> tuple[int, int, int]:
        """Programs, tiles of tokens, and parts of their elements."""
        tiles, parts = triton.cdiv(tokens, tile.m), triton.cdiv(columns, tile.columns)
        return self.B * tiles * parts, tiles, parts


def _forward(
    query: Tensor, key: Tensor, value: Tensor, kind: int, scale: float, tf32: bool, device: _Device
) -> tuple[Tensor, Tensor]:
    call = _Call(query, key, value, kind, scale, tf32, device)
    out = query.new_empty((call.B, call.L, call.E))
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    lse = query.new_empty((call.B, call.L) if kind == GAUSSIAN else (0,), dtype=wide)
    tile = call.results
    programs, tiles, parts = call.grid(tile, call.L, call.E)
    wrap_triton(nonlocal_attention_kernel)[(programs,)](
        query, key, value, out, lse, L=call.L, K=call.K, tiles=tiles, parts=parts,
        RISING=call.scale > 0, D_SLICE=tile.d_slice, E_BLOCK=tile.columns, **call.settings(tile, call.K),
    )  # fmt: skip
    return out, lse


@operator
def nonlocal_attention(
    query: Tensor, key: Tensor, value: Tensor, kind: int, scale: float, allow_tf32: bool
) -> tuple[Tensor, Tensor]:
    """Forward over tokens (B, L, D), (B, L', D), (B, L', E); see :func:`vidops.ops.nonlocal_attention`.

    Kind 0 is gaussian, 1 cosine of normalised tokens, 2 concatenation of numbers. The second result is the logarithm
    of the sum of every query's exponentials, of kind 0.
    """
    return _forward(query, key, value, kind, scale, allow_tf32, _device(query))


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, kind: int, scale: float,
    tf32: bool, device: _Device,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = _Call(query, key, value, kind, scale, tf32, device)
    dq, dk, dv = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    mean = torch.empty_like(lse)
    part = torch.empty_like(lse)
    delta = torch.empty_like(lse) if call.exact else mean
    tile = call.tokens
    slices = {"D_SLICE": tile.d_slice, "E_SLICE": tile.e_slice}
    if kind == GAUSSIAN:
        tiles = triton.cdiv(call.L, tile.m)
        wrap_triton(nonlocal_attention_sums_kernel)[(call.B * tiles,)](
            query, key, grad, value, out, lse, delta, mean, part, L=call.L, K=call.K, tiles=tiles,
            EXACT=call.exact, **slices, **call.settings(tile, call.K),
        )  # fmt: skip
    of_queries = (query, key, grad, value, dq, call.L, call.K)
    of_keys = (key, query, value, grad, dk, call.K, call.L)
    for keys, (x, others, gx, gothers, dx, own, steps) in enumerate((of_queries, of_keys)):
        programs, tiles, parts = call.grid(tile, own, call.D)
        wrap_triton(nonlocal_attention_tokens_kernel)[(programs,)](
            x, others, gx, gothers, lse, delta, mean, part, dx, L=own, K=steps, count=call.K, tiles=tiles, parts=parts,
            EXACT=call.exact, KEYS=bool(keys), D_BLOCK=tile.columns, **slices, **call.settings(tile, steps),
        )  # fmt: skip
    tile = call.results
    programs, tiles, parts = call.grid(tile, call.K, call.E)
    wrap_triton(nonlocal_attention_values_kernel)[(programs,)](
        query, key, grad, lse, part, dv, L=call.L, K=call.K, tiles=tiles, parts=parts,
        D_SLICE=tile.d_slice, E_BLOCK=tile.columns, **call.settings(tile, call.L),
    )  # fmt: skip
    return dq, dk, dv


@operator
def nonlocal_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, kind: int, scale: float,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key and value."""
    return _backward(grad.contiguous(), query, key, value, out, lse, kind, scale, allow_tf32, _device(query))


def _cases(
    what: str,
    channels: tuple[int, int],
    dtype: torch.dtype,
    device: _Device,
    *,
    length: int = 6272,
    kind: int = GAUSSIAN,
    scale: float = 1.0,
    tf32: bool = False,
    quick: bool = False,
) -> list[CompileCase]:
    """Forward and backward of 8 clips on one kind of device, whose shared memory they may fill."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    options = (kind, scale, tf32, device)

    def tokens() -> list[Tensor]:
        return [torch.empty((8, length, c), dtype=dtype, device="meta") for c in (*channels, channels[0])]

    def forward() -> None:
        query, value, key = tokens()
        _forward(query, key, value, *options)

    def backward() -> None:
        query, value, key = tokens()
        lse = torch.empty((8, length), dtype=wide, device="meta")
        _backward(value, query, key, value, value, lse, *options)

    # Threads that multiply take few registers, and ptxas spills some more numbers to have more of them at once.
    target: dict[str, Any] = {"capabilities": (device.major * 10,), "shared": device.room}
    # The gradient of 512 channels of keys holds one number too many on Hopper: at every tile that was tried.
    half = dtype in (torch.float16, torch.bfloat16)
    target["spilled"] = 32 if not half else 8 if max(channels) == 512 else 0
    return [
        CompileCase(f"forward, {what}", forward, 255, quick, **target),
        CompileCase(f"backward, {what}", backward, 255, **target),
    ]


_HALF, _SINGLE, _DOUBLE = torch.bfloat16, torch.float32, torch.float64
_DEVICES = (AMPERE, HOPPER, BLACKWELL, GEFORCE)
COMPILE_CASES = [
    *(
        case
        for device in _DEVICES
        for what, dtype in (("bf16, D 256", _HALF), ("fp32", _SINGLE))
        for case in _cases(what, (256, 256), dtype, device, quick=dtype == _HALF and device == HOPPER)
    ),
    *(
        case
        for device in _DEVICES[:3]
        for case in _cases("bf16, D 512", (512, 512), _HALF, device, length=1569)
    ),
    *(case for device in _DEVICES[1:3] for case in _cases("fp64", (256, 256), _DOUBLE, device, length=1569)),
    *_cases("bf16, D 1024", (1024, 1024), _HALF, HOPPER, length=1568, scale=0.5),
    *_cases("fp16, D 256", (256, 256), torch.float16, HOPPER),
    *_cases("cosine, fp16, D 64", (64, 64), torch.float16, HOPPER, length=785, kind=1),
    *_cases("concatenation, bf16", (1, 256), _HALF, HOPPER, kind=2),
    *_cases("tf32", (256, 256), _SINGLE, HOPPER, tf32=True),
]
