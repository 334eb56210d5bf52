"""temporal_conv: mixed depthwise temporal convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .backends import Operator
from .checks import check_clip, check_int, check_like
from .layouts import empty_clip

__all__ = ["temporal_conv"]

_PADDINGS = ("zeros", "replicate", "valid")


class _Groups:
    """A checked ``groups=``: the flat form the operators take, and what follows from it."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        try:
            self.triples = tuple((int(c), int(k), int(d)) for c, k, d in groups)
            kinds = {type(value) for triple in groups for value in triple}
            whole = all(
                a == b
                for triple, given in zip(self.triples, groups, strict=True)
                for a, b in zip(triple, given, strict=True)
            )
        except (TypeError, ValueError):
            whole, kinds = False, set()
        if not whole or bool in kinds or float in kinds:
            raise TypeError(
                f"groups must be (channels, kernel size, dilation) triples of ints, got {groups!r}"
            )
        if not self.triples:
            raise ValueError(
                "groups must hold at least one (channels, kernel size, dilation) triple, got none"
            )
        for c, k, d in self.triples:
            if c < 0:
                raise ValueError(f"groups must have channel counts of at least 0, got {c}")
            if k < 1 or k % 2 == 0:
                raise ValueError(f"groups must have odd kernel sizes, got {k}")
            if d < 1:
                raise ValueError(f"groups must have dilations of at least 1, got {d}")
        self.flat = [value for triple in self.triples for value in triple]
        self.channels = sum(c for c, _, _ in self.triples)
        self.dilation = max([d for _, _, d in self.triples])
        self.weights = sum(c * k for c, k, _ in self.triples)
        self.reach = max([0, *[(k - 1) // 2 * d for c, k, d in self.triples if c]])


_checked: dict[Any, _Groups] = {}


def _check_groups(groups: Any) -> _Groups:
    # Layers pass the same tuple at every call, so checking it costs one look-up. Dynamo must not see the store.
    if type(groups) is not tuple:
        return _Groups(groups)
    try:
        known = _checked.get(groups)
    except TypeError:
        return _Groups(groups)
    if known is None:
        known = _Groups(groups)
        if not torch.compiler.is_compiling() and len(_checked) < 4096:
            _checked[groups] = known
    return known


def _flatten(weight: Any, groups: Any) -> tuple[Tensor, tuple[tuple[int, int, int], ...]]:
    """Pack a sequence of ``(C_m, 1, k_m)`` tensors; ``groups`` may give their dilations."""
    if not isinstance(weight, (list, tuple)):
        raise TypeError(f"weight must be a Tensor or a sequence of Tensors, got {type(weight).__name__}")
    if not weight:
        raise ValueError("weight must hold at least one tensor (C_m, 1, k_m), got an empty sequence")
    for i, w in enumerate(weight):
        if not isinstance(w, Tensor):
            raise TypeError(f"weight[{i}] must be a Tensor, got {type(w).__name__}")
        if w.dim() != 3 or w.shape[1] != 1:
            raise ValueError(f"weight[{i}] must have shape (C_m, 1, k_m), got {tuple(w.shape)}")
        if w.dtype != weight[0].dtype:
            raise TypeError(f"weight[{i}] must have the dtype of weight[0], {weight[0].dtype}, got {w.dtype}")
        if w.device != weight[0].device:
            raise ValueError(
                f"weight[{i}] must be on the device of weight[0], {weight[0].device}, got {w.device}"
            )
    if groups is None:
        triples = tuple((w.shape[0], w.shape[2], 1) for w in weight)
    else:
        triples = _check_groups(groups).triples
        shapes = [(w.shape[0], w.shape[2]) for w in weight]
        if shapes != [(c, k) for c, k, _ in triples]:
            raise ValueError(f"groups {triples} do not match the shapes of weight, (C_m, k_m) = {shapes}")
    return torch.cat([w.reshape(-1) for w in weight]), triples


def _frames_out(frames: int, stride: int, padding: str, reach: int) -> int:
    span = max(frames - 2 * reach, 0) if padding == "valid" else frames
    return (span + stride - 1) // stride


def temporal_conv(
    x: Tensor,
    weight: Tensor | Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    groups: Sequence[tuple[int, int, int]] | None = None,
    stride: int = 1,
    padding: str = "zeros",
    backend: str | None = None,
) -> Tensor:
    """Convolve every channel along time with its group's kernel size and dilation, in one pass over the clip.

    ``y[n,c,t,h,w] = b_c + sum_j W_m[c,j] * x[n, c, t*stride + (j - (k_m-1)/2)*d_m, h, w]``, group m owning the next
    C_m channels. Frames outside the clip are zero, or the edge frame with ``padding="replicate"``.

    Args:
        x: clip ``(N, C, T, H, W)``, float32, float16, bfloat16 or float64. NCTHW, NTCHW and channels-last memory
            are native, and the result has the memory layout of ``x``.
        weight: flat tensor of sum(C_m * k_m) taps, group after group, channel-major; or a sequence of
            ``(C_m, 1, k_m)`` tensors, which are packed at every call.
        bias: ``(C,)`` or ``None``.
        groups: ``(C_m, k_m, d_m)`` of every group: channels (0 is allowed), odd kernel size and dilation in frames.
            Required with a flat ``weight``; with a sequence it may be left out, for dilations of 1.
        stride: temporal stride in frames.
        padding: ``"zeros"``, ``"replicate"``, or ``"valid"``: with R the widest reach ``(k_m-1)/2*d_m`` of any group,
            ``y[t]`` is centred at frame ``t*stride + R``.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice.

    Returns:
        Clip ``(N, C, T_out, H, W)``; T_out = ceil(T/stride), or ceil((T-2R)/stride) for ``"valid"``.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a rank, shape, device, kernel size or padding is not allowed, or T_out would be 0.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    A frame outside the clip counts as zeros, so a NaN or infinite tap that meets one gives NaN. The gradient of the
    taps on Triton alone leaves the products with such frames out.

    Source: MixTConv, eq. 1-2 (Shan et al., 2020). Sums are in fp32 for fp32, fp16 and bf16, in fp64 for fp64, and
    results do not depend on the number of threads. Under autocast it runs in autocast's dtype.

    Example:
        >>> import torch, vidops
        >>> y = vidops.ops.temporal_conv(torch.randn(1, 4, 8, 7, 7), torch.randn(8), groups=[(2, 1, 1), (2, 3, 1)])
    """
    check_clip(x)
    if isinstance(weight, Tensor):
        if groups is None:
            raise ValueError(
                "groups is required with a flat weight: (channels, kernel size, dilation) a group"
            )
        spec = _check_groups(groups)
    else:
        weight, triples = _flatten(weight, groups)
        spec = _check_groups(triples)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        x, weight, bias = _operator.cast(device, x, weight, bias)  # type: ignore[assignment]
    if x.shape[1] != spec.channels:
        raise ValueError(f"groups must hold as many channels as x, {x.shape[1]}, got {spec.channels}")
    check_like(weight, "weight", x, (spec.weights,))
    if bias is not None:
        check_like(bias, "bias", x, (spec.channels,))
    check_int(stride, "stride", 1)
    if padding not in _PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(_PADDINGS)}, got {padding!r}")
    frames = x.shape[2]
    if padding == "valid" and frames <= 2 * spec.reach:
        raise ValueError(
            f"padding 'valid' needs more than {2 * spec.reach} frames for a reach of {spec.reach}, x has {frames}"
        )
    if frames and (stride > frames or (spec.dilation > frames and padding != "valid")):
        # The same result, in numbers that no kernel overflows on: what lies past the clip is one frame past it.
        stride = min(stride, frames)
        spec = spec if padding == "valid" else _Groups([(c, k, min(d, frames)) for c, k, d in spec.triples])
    name = _operator.choose(backend, device, x, weight, bias, spec.flat, stride, padding)
    if name == "reference":
        return _operator.reference(x, weight, bias, groups=spec.triples, stride=stride, padding=padding)
    return _operator.kernels[name](x, weight, bias, spec.flat, stride, padding)


def _reach(groups: Sequence[int]) -> int:
    return max(((k - 1) // 2 * d for c, k, d in zip(*[iter(groups)] * 3, strict=True) if c), default=0)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, groups: list[int], stride: int, padding: str
) -> Tensor:
    return empty_clip(x, _frames_out(x.shape[2], stride, padding, _reach(groups)))


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    groups: list[int],
    stride: int,
    padding: str,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_clip(x) if need_x else x.new_empty(0),
        x.new_empty(weight.shape[0] if need_weight else 0),
        x.new_empty(x.shape[1] if need_bias else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.spec = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, kernel: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = kernel(grad, x, weight, *ctx.spec, needs[0], needs[1], needs[2])
    return (*(g if need else None for g, need in zip(grads, needs[:3], strict=True)), None, None, None)


def _positions(x: Sequence[int]) -> int:
    return x[0] * x[3] * x[4]


def _products(shape: Sequence[int], groups: Sequence[int], stride: int, padding: str) -> int:
    """Multiply-adds as the plain convolution has them: every tap of every output frame."""
    taps = sum(c * k for c, k, _ in zip(*[iter(groups)] * 3, strict=True))
    return _positions(shape) * _frames_out(shape[2], stride, padding, _reach(groups)) * taps


def _flops(x: Any, weight: Any, bias: Any, groups: Any, stride: int, padding: str, **_: Any) -> int:
    return 2 * _products(x, groups, stride, padding)


def _flops_backward(
    grad: Any,
    x: Any,
    weight: Any,
    groups: Any,
    stride: int,
    padding: str,
    need_x: bool,
    need_weight: bool,
    *_: Any,
    **__: Any,
) -> int:
    return 2 * _products(x, groups, stride, padding) * (int(need_x) + int(need_weight))


_operator = Operator(
    "temporal_conv",
    reference=reference.temporal_conv,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
    flops_backward=_flops_backward,
)
