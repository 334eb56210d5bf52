"""Published networks on small clips: forward and backward on kernels against the reference, and in CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..models import model_card
from .case import Workload
from .networks import NetworkData, graphed
from .small import SmallResult
from .variants import first_line, launch_errors

__all__ = ["replay_small", "run_small_network", "small_network"]

DIRECTIONS = ("inference", "training")
_SEGMENTS = 4
# Eight where a network halves its frames, so that its last stage has as many as its kernels: with fewer, PyTorch 2.13's
# gradients of 3-D weights in bf16 are garbage on the CPU.
_HALVING = ("i3d", "mf", "r3d", "btsnet")


def small_network(name: str, device: str, dtype: torch.dtype) -> NetworkData:
    """Two clips for a network: four segments, as few pixels as its last stage takes.

    Args:
        name: one of `vidops.list_models`.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: as of `NetworkData`.

    Example:
        >>> small_network("tiny_bqn", "cpu", torch.float32).clip
        (2, 3, 12, 112, 112)
    """
    card = model_card(name)
    side = 112 if "bqn" in name else 80 if "inception" in name else 64
    halving = any(part in name for part in _HALVING)
    segments = min(8 if halving else _SEGMENTS, card.num_segments)
    clip = (2, card.input_size[0], segments * card.frames_per_segment, side, side)
    layout = "NTHWC" if device == "cuda" else "NCTHW"
    return NetworkData(Workload("small", device, {"network": name, "clip": clip}, layouts=(layout,)), dtype)


def run_small_network(name: str, device: str, backend: str | None = None) -> Iterator[SmallResult]:
    """Run a network in fp32, bf16 and fp64, forward and backward, and compare with the reference and with fp64.

    Args:
        name: one of `vidops.list_models`.
        device: ``"cpu"`` or ``"cuda"``.
        backend: of its operators; None for the automatic choice.

    Yields:
        A result a dtype and direction.

    Example:
        >>> [result.reason for result in run_small_network("tiny_tsn", "cpu")]
        ['', '', '', '']
    """
    for dtype in (torch.float32, torch.bfloat16):
        data = small_network(name, device, dtype)
        for direction in DIRECTIONS:
            net = data.network(backend, direction)
            verdict = data.judge(data.results(net, direction), direction)
            if dtype == torch.float32 and not verdict.reason:
                exact = data.same_function(backend, direction)
                verdict = exact if exact.reason else verdict
            title = f"{name} {backend or 'fused'} {str(dtype).removeprefix('torch.')} {direction}"
            yield SmallResult(title, verdict.error, verdict.reason)


def replay_small(name: str, device: str = "cuda", backend: str | None = None) -> Iterator[SmallResult]:
    """Capture a network's inference and training in bf16 in CUDA graphs, and compare replays bit by bit.

    Two replays must be the same bits, and right by the rule of `NetworkData.judge`. Where a library's own kernels are
    not deterministic, as cuDNN's gradients of weights, they are asked to be.

    Args:
        name: one of `vidops.list_models`.
        device: ``"cuda"``.
        backend: of its operators; None for the automatic choice.

    Yields:
        A result a direction.
    """
    data = small_network(name, device, torch.bfloat16)
    for direction in DIRECTIONS:
        title = f"{name} {backend or 'fused'} bfloat16 {direction} in a CUDA graph"
        net = data.network(backend, direction)
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True
        try:
            with torch.inference_mode(direction == "inference"):
                replay = graphed(data.step(net, direction))
            found = []
            for _ in range(2):
                _spoil(net)
                found.append(data.results(net, direction, step=replay))
        except launch_errors() as error:
            yield SmallResult(title, float("inf"), first_line(error))
            continue
        finally:
            torch.backends.cudnn.deterministic = before
        differing = [key for key in found[0] if not torch.equal(found[0][key], found[1][key])]
        verdict = data.judge(found[1], direction)
        reason = verdict.reason or (f"two replays differ in {', '.join(differing[:3])}" if differing else "")
        yield SmallResult(title, verdict.error, reason)


def _spoil(net: nn.Module) -> None:
    """Leave NaN where a replay writes gradients, so that one it does not write is seen."""
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(float("nan"))
