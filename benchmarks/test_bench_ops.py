"""The cases of ``vidops bench`` under pytest-benchmark: ``python -m pytest benchmarks``.

Kernels and baselines of one size share a group. ``--benchmark-json``, ``--benchmark-compare`` and the like
work as ever; ``vidops bench`` itself relates the times to the floor and judges the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from vidops.bench.harness import Group, Options, plan, variants
from vidops.bench.variants import Data, Variant


def _groups() -> list[Group]:
    try:
        return plan(Options(threads=(torch.get_num_threads(),)))
    except RuntimeError:  # nothing but the reference can run here
        return []


CASES = [(group, variant) for group in _groups() for variant in variants(group)]
_kept: dict[tuple[str, str, str], Data] = {}


def _data(group: Group) -> Data:
    """Inputs of a group; those of one size are kept while its directions are timed."""
    key = (group.benchmark.operator, group.workload.device + group.workload.name, group.dtype)
    if key not in _kept:
        _kept.clear()
        _kept[key] = Data(group.benchmark, group.workload, getattr(torch, group.dtype))
    return _kept[key]


def _synchronised(step: Callable[[], Any], device: str) -> Callable[[], None]:
    def call() -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


@pytest.fixture(autouse=True, scope="module")
def _free() -> Iterator[None]:
    yield
    _kept.clear()


@pytest.mark.parametrize(
    ("group", "variant"),
    CASES,
    ids=[f"{group.name}-{variant.key.replace('/', '-')}" for group, variant in CASES],
)
def test_speed(benchmark: Any, group: Group, variant: Variant) -> None:
    prepared = _data(group).prepare(variant, group.direction)
    assert not prepared.verdict.reason, prepared.verdict.reason
    benchmark.group = group.name
    benchmark.extra_info.update(layout=variant.layout, kind=variant.kind)
    with torch.inference_mode(group.direction in ("forward", "call")):
        benchmark.pedantic(
            _synchronised(prepared.step, group.workload.device),
            rounds=15 if variant.kind == "kernel" else 5,
            iterations=200 if group.direction.startswith("call") else 1,
            warmup_rounds=1,
        )
