"""nonlocal_attention: every position of a clip gathers values from all of them, weighted by likeness."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..reference.nonlocal_attention import clip_of, tokens_of, unit_vectors
from .attention_checks import KINDS, check_pairs, check_value
from .backends import Operator
from .checks import check_clip
from .explain import REMARKS
from .layouts import layout_of
from .tracing import assume_constant_result

__all__ = ["nonlocal_attention"]

WIDE = (torch.float32, torch.float64)
MOST_CHANNELS = 1024  # of the kernels on a GPU


def nonlocal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kind: str = "gaussian",
    over: str = "all",
    scale: float | None = None,
    query_weight: Tensor | None = None,
    key_weight: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Give every position the values of all positions, weighted by how alike its query and their keys are.

    With q_i, k_j and v_j the channels at a position, L' the number of keys a query sees and w_q, w_k the two weights:

    ===================  =======================================================
    ``"gaussian"``       softmax_j(scale q_i . k_j) v_j
    ``"dot"``            (1/L') sum_j (q_i . k_j) v_j, by q (kt v): O(L D E)
    ``"cosine"``         (1/L') sum_j relu(cos(q_i, k_j)) v_j
    ``"concatenation"``  (1/L') sum_j relu(w_q . q_i + w_k . k_j) v_j
    ===================  =======================================================

    The matrix of all pairs never exists, forward or backward: memory is O(L (D + E)).

    Args:
        query: clip ``(N, D, T, H, W)``, float32, float16, bfloat16 or float64, in any native layout; D at least 1.
        key: clip ``(N, D, T', H', W')`` of the dtype of ``query``; the size may be another.
        value: clip ``(N, E, T', H', W')`` of the dtype of ``query``.
        kind: how alike two positions are, as above. A zero vector has the cosine 0 with any, and no gradient.
        over: ``"all"``: every position sees all of the clip; ``"space"``: its own frame, T' = T; ``"time"``: its own
            place in all frames, H' = H and W' = W.
        scale: factor of ``"gaussian"``'s products; None for 1, as the source has it.
        query_weight: w_q ``(D,)``, of the dtype of ``query``, for ``"concatenation"`` alone.
        key_weight: w_k ``(D,)``, likewise.
        backend: ``"reference"``, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``None`` for the automatic choice. ``"dot"``
            is two products of PyTorch's own on each but the reference, to the bits that these have. Where an automatic
            choice comes to a GPU, PyTorch's `scaled_dot_product_attention` runs the Gaussian kind in 16 bits without
            gradients, for D = E up to 256; `explain` says when.

    Returns:
        Clip ``(N, E, T, H, W)`` of the dtype and memory layout of ``query``; zeros where there are no keys.

    Raises:
        TypeError: a tensor has an unsupported or another dtype, or an argument is of the wrong kind.
        ValueError: a shape, device, number or word is not allowed, or an argument does not go with ``kind``.
        RuntimeError: ``backend`` was asked for and cannot run this call.

    Source: thesis of Huang, eq. 4.1 and 4.4-4.9; Wang et al., Non-local Neural Networks. Sums are in fp32 for fp32,
    fp16 and bf16, in fp64 for fp64. Under autocast it runs in autocast's dtype.

    Example:
        >>> import torch, vidops
        >>> x = torch.randn(1, 16, 4, 7, 7)
        >>> y = vidops.ops.nonlocal_attention(x, x, x, kind="cosine")  # (1, 16, 4, 7, 7)
    """
    for name, clip in (("query", query), ("key", key), ("value", value)):
        check_clip(clip, name)
    device, same = query.device.type, key is query
    query, key, value, query_weight, key_weight = _operator.cast(  # type: ignore[assignment]
        device, query, key, value, query_weight, key_weight
    )
    key = query if same else key
    check_pairs(query, key, kind, over, scale, query_weight, key_weight)
    check_value(key, value, query)
    name = _operator.choose(backend, device, query, key, value, kind)
    options: dict[str, Any] = {
        "kind": kind,
        "scale": scale,
        "query_weight": query_weight,
        "key_weight": key_weight,
    }
    with without_autocast(device):
        if name == "reference":
            result = _operator.reference(query, key, value, over=over, **options)
        elif kind == "gaussian" and _operator.automatic(backend) and flash_serves(query, key, value):
            result = clip_of(by_flash(query, key, value, over, scale), query.shape, over)
        else:
            result = clip_of(_attend(name, query, key, value, over, **options), query.shape, over)
        return _laid_out_as(query, result)


def flash_serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether PyTorch's flash attention takes a call on a GPU: forward alone, in 16 bits.

    Its gradients leave the error bound where one key dominates (they come from the rounded result), and their sums are
    in no fixed order.
    """
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[1] == value.shape[1] <= 256
        and not (
            torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
        )
    )


def by_flash(query: Tensor, key: Tensor, value: Tensor, over: str, scale: float | None) -> Tensor:
    """The Gaussian kind over tokens by PyTorch's scaled_dot_product_attention, ``(B, L, E)``."""
    q, k, v = (tokens_of(x, over).unsqueeze(1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0 if scale is None else float(scale)).squeeze(1)


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Keep autocast from products in fp32: what it wants has been cast already."""
    if device == "meta" or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def _attend(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    over: str,
    *,
    kind: str,
    scale: float | None,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
) -> Tensor:
    """What the values' tokens ``(B, L', E)`` become, ``(B, L, E)``."""
    query, key = _of_both(lambda x: tokens_of(x, over), query, key)
    value, dtype = tokens_of(value, over), query.dtype
    lengths: Tensor | None = None
    if kind == "cosine" and (backend == "cpu" or dtype in WIDE):
        query, key = _of_both(lambda x: unit_vectors(_wide(x)), query, key)
    elif kind == "cosine":
        (query, lengths), (key, of_keys) = _of_both(_near_unit, query, key)
        value = (value.float() * of_keys).to(dtype)
    elif kind == "concatenation":
        pairs = ((query, query_weight), (key, key_weight))
        query, key = (_wide(x) @ _wide(weight)[:, None] for x, weight in pairs)
        if backend != "cpu" and dtype not in WIDE:
            kind, query, key = "cosine", _in_parts(query, dtype, False), _in_parts(key, dtype, True)
    value = value.to(query.dtype)  # on the CPU in fp32, as the kernels compute
    if 0 in (*query.shape, *value.shape):  # sums of nothing, with gradients
        return torch.bmm(query[:, :, :0], torch.bmm(key[:, :, :0].mT, value)).to(dtype)
    if kind == "dot":
        return _dot(query, key, value)
    (query, key), value = _of_both(Tensor.contiguous, query, key), value.contiguous()
    factor = 1.0 if scale is None else float(scale)
    result: Tensor = _operator.kernels[backend](query, key, value, KINDS.index(kind), factor, _allows_tf32())[
        0
    ]
    return (result if lengths is None else result * lengths).to(dtype)


def _of_both(make: Callable[[Tensor], Any], query: Tensor, key: Tensor) -> tuple[Any, Any]:
    """What is made of the queries and of the keys, once where these are the same."""
    made = make(query)
    return made, made if key is query else make(key)


def _near_unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """16-bit vectors as they are but for a power of two, of length 1 to 4, and one over their lengths ``(B, L, 1)``.

    Unit vectors in 16 bits would be rounded, and products near 0 change their signs: gradients jump with relu's slope
    there. Products of these have the sign they should have, and relu lets positive factors through.
    """
    wide = x.float()
    size = torch.linalg.vector_norm(wide.detach(), torch.inf, -1, keepdim=True)
    length = torch.linalg.vector_norm(wide.detach() / torch.where(size == 0, 1, size), dim=-1, keepdim=True)
    exponent = torch.where(size == 0, 0, torch.frexp(size)[1] + torch.frexp(length)[1] - 2)
    near = wide * torch.ldexp(torch.ones_like(size), -exponent)
    length = torch.linalg.vector_norm(near, dim=-1, keepdim=True)
    return near.to(x.dtype), 1 / torch.where(length == 0, torch.inf, length)


def _in_parts(x: Tensor, dtype: torch.dtype, key: bool) -> Tensor:
    """Numbers ``(B, L, 1)`` in fp32 as three of 16 bits, beside three ones: products of two such are sums in fp32."""
    first = x.to(dtype)
    rest = x.detach() - first.detach().float()
    second = rest.to(dtype)
    third = (rest - second.float()).to(dtype)
    ones = torch.ones_like(first).expand(-1, -1, 3)
    return torch.cat([ones, first, second, third] if key else [first, second, third, ones], 2)


@assume_constant_result
def _allows_tf32() -> bool:
    """Whether products of fp32 may be in tf32 on a GPU, for a stable-ABI library cannot ask.

    Not ``allow_tf32``: that raises once a user has set the precision by its present name. A compiled graph is made
    anew when the setting changes: Dynamo guards on it as on other global state.
    """
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def _wide(x: Any) -> Tensor:
    wide: Tensor = x if x.dtype == torch.float64 else x.float()
    return wide


def _dot(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(1/L') q (kt v). Powers of two near the square root of L' keep inner sums in fp16's range; they round nothing."""
    dtype, factor = query.dtype, 1 / key.shape[1]
    if query.device.type == "cpu":  # in fp16 and bf16 PyTorch's products are slow there, and sum in them
        query, key, value = _wide(query), _wide(key), _wide(value)
    if query.dtype == torch.float16:
        part = 2.0 ** round(math.log2(factor) / 2)
        key, value, factor = key * part, value * part, factor / part**2
    return torch.bmm(query, torch.bmm(key.mT, value) * factor).to(dtype)


def _laid_out_as(clip: Tensor, result: Tensor) -> Tensor:
    """The result in the memory layout of a clip."""
    layout = layout_of(clip)
    if layout == "NTHWC" or (layout == "NTCHW" and result.shape[3] * result.shape[4] == 1):
        return result.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    if layout == "NTCHW":
        return result.transpose(1, 2).contiguous().transpose(1, 2)
    return result.contiguous()


def _fake(
    query: Tensor, key: Tensor, value: Tensor, kind: int, scale: float, allow_tf32: bool
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    lse = query.new_empty(query.shape[:2] if kind == 0 else (0,), dtype=dtype)
    return query.new_empty((*query.shape[:2], value.shape[2])), lse


def _fake_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    kind: int,
    scale: float,
    allow_tf32: bool,
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.kind, ctx.scale, ctx.allow_tf32 = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, *output)


def _backward(ctx: Any, kernel: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 6
    found = kernel(grad.contiguous(), *ctx.saved_tensors, ctx.kind, ctx.scale, ctx.allow_tf32)
    needs = ctx.needs_input_grad[:3]
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), None, None, None)


def _flops(query: Any, key: Any, value: Any, kind: int, *_: Any, **__: Any) -> int:
    """The two products of the matrix of pairs."""
    b, length, d = query
    return 2 * b * length * key[1] * (d * (kind != 2) + value[2])


def _flops_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **__: Any) -> int:
    """Those of the pairs once more, of their gradient, and of the three gradients."""
    b, length, d = query
    return 2 * b * length * key[1] * (3 * d * (args[2] != 2) + 2 * value[2])


def _limit(query: Any = None, key: Any = None, value: Any = None, kind: str = "gaussian", *_: Any) -> str:
    """Why the kernels on a GPU cannot take a call."""
    channels = {name: x.shape[1] for name, x in (("query", query), ("value", value)) if x is not None}
    if kind == "dot" or kind == "concatenation":
        channels.pop("query", None)
    for name, count in channels.items() if kind != "dot" else ():
        if count > MOST_CHANNELS:
            return f"{name} has {count} channels; it takes {MOST_CHANNELS} at most"
    return ""


_operator = Operator(
    "nonlocal_attention",
    reference=reference.nonlocal_attention,
    fake=_fake,
    fake_backward=_fake_backward,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
    flops_backward=_flops_backward,
    limits={"cuda": _limit, "triton": _limit},
)


def remark(chosen: str, automatic: bool, given: Mapping[str, Any]) -> str:
    """What `explain` adds: which calls no kernel of vidops runs."""
    query, kind = given["query"], given["kind"]
    if chosen == "reference":
        return ""
    if kind == "dot":
        return "'dot' is two products of PyTorch's own there, q (kt v)"
    if kind == "gaussian" and automatic and flash_serves(query, given.get("key", query), given["value"]):
        return "PyTorch's scaled_dot_product_attention runs it; backend= keeps to the kernels"
    return ""


REMARKS["nonlocal_attention"] = REMARKS["region_attention"] = remark
