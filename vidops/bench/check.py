"""No speed without a right result: every variant is held against the reference in fp64 before it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Verdict", "compare", "poison", "tensors_of"]


@dataclass(frozen=True)
class Verdict:
    """Outcome of a comparison.

    Attributes:
        error: largest difference from fp64 over the largest fp64 value, of the worst result.
        allowed: for a kernel, twice that of the reference in the same dtype, plus one unit in the last place.
        reason: what is wrong; empty for a right result.
    """

    error: float
    allowed: float
    reason: str = ""


def tensors_of(results: object) -> tuple[Tensor, ...]:
    """The tensors among results, which may be one tensor or a tuple with None in it.

    Example:
        >>> len(tensors_of((torch.zeros(1), None)))
        1
    """
    if isinstance(results, Tensor):
        return (results,)
    if not isinstance(results, (tuple, list)):
        raise TypeError(f"results must be a Tensor or a tuple of them, got {type(results).__name__}")
    return tuple(r for r in results if r is not None)


def compare(
    results: Sequence[Tensor],
    same_dtype: Sequence[Tensor],
    exact: Sequence[Tensor],
    slack: float = 1.0,
    rounding: float = 1.0,
) -> Verdict:
    """Hold results against the reference in fp64.

    Args:
        results: what a variant returned.
        same_dtype: what the reference returns from the same inputs.
        exact: what the reference returns from the same inputs in fp64.
        slack: how many times a kernel's bound is allowed.
        rounding: factor for the error of ``same_dtype``, where it was computed in another dtype.

    Returns:
        The verdict on the result that is worst in terms of what is allowed.

    Example:
        >>> one = [torch.ones(2)]
        >>> compare(one, one, [torch.ones(2, dtype=torch.float64)]).reason
        ''
    """
    if len(results) != len(exact):
        return Verdict(float("inf"), 0.0, f"{len(results)} results, not {len(exact)}")
    worst = Verdict(0.0, 0.0)
    for i, (result, same, true) in enumerate(zip(results, same_dtype, exact, strict=True)):
        verdict = _compare_one(f"result {i}", result, same, true, slack, rounding)
        if verdict.reason:
            return verdict
        if verdict.error * max(worst.allowed, 1e-300) >= worst.error * max(verdict.allowed, 1e-300):
            worst = verdict
    return worst


def _compare_one(
    name: str, result: Tensor, same: Tensor, true: Tensor, slack: float, rounding: float
) -> Verdict:
    if result.shape != true.shape or result.dtype != same.dtype:
        given, wanted = f"{tuple(result.shape)} {result.dtype}", f"{tuple(true.shape)} {same.dtype}"
        return Verdict(float("inf"), 0.0, f"{name} is {given}, not {wanted}")
    if not result.dtype.is_floating_point:
        wrong = int((result != true).sum())
        return Verdict(float(wrong), 0.0, f"{name} differs in {wrong} places" if wrong else "")
    if result.numel() == 0:
        return Verdict(0.0, 0.0)
    scale = float(true.abs().max()) or 1.0
    error = float((result.double() - true).abs().max()) / scale
    eps = torch.finfo(result.dtype).eps
    of_reference = rounding * float((same.double() - true).abs().max()) / scale
    if (
        result.dtype == torch.float64
    ):  # compared with itself; its own error is unknown and taken to be 8 units
        of_reference = max(of_reference, 8 * eps)
    allowed = slack * (2 * of_reference + eps)
    if not error <= allowed:  # also where it is no number
        return Verdict(
            error, allowed, f"{name} is off by {error:.2e} of its largest value, {allowed:.2e} is allowed"
        )
    return Verdict(error, allowed)


def poison(like: Sequence[Tensor]) -> None:
    """Leave NaN in the memory that results of these sizes are given next, so that an unwritten element shows.

    Example:
        >>> poison([torch.zeros(8)])
    """
    # A small block that is given back may join its free neighbours, and another of its size be given next: spoil some.
    blocks = [
        torch.full_like(t, float("nan"))
        for t in like
        if t.dtype.is_floating_point
        for _ in range(8 if t.nbytes < 1 << 20 else 1)
    ]
    del blocks
