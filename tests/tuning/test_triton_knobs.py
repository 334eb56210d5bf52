"""Triton's kernels are right, and fit an H200, at every value that a measurement may give their knobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ops.common import device_for
from tests.ops.test_triton_compile import OPERATORS as FILES
from tests.ops.test_triton_compile import python
from vidops.bench.case import Benchmark, Params, Workload, load_benchmarks
from vidops.bench.variants import Data, Variant
from vidops.ops.backends import BACKENDS
from vidops.tuning import KNOBS, Knob, trial

if BACKENDS["triton"].missing:
    pytest.skip(BACKENDS["triton"].missing, allow_module_level=True)

OPERATORS = sorted({knob.operator for knob in KNOBS.values() if knob.backend == "triton"})
# Tiles of attention's 16-bit kernels have knobs, those of the others are what devices have room for.
DTYPES = {"nonlocal_attention": torch.bfloat16}


def knobs_of(operator: str) -> list[Knob[Any]]:
    return [knob for knob in KNOBS.values() if (knob.operator, knob.backend) == (operator, "triton")]


def settings(operator: str) -> Iterator[dict[str, Any]]:
    """Every knob at its first and at its last candidate, then each candidate by itself."""
    knobs = knobs_of(operator)
    for end in (0, -1):
        yield {knob.key: knob.candidates[end] for knob in knobs}
    for knob in knobs:
        yield from ({knob.key: value} for value in knob.candidates if value != knob.default)


def smallest(benchmark: Benchmark) -> Params:
    """The smallest of a case's small inputs: a second in the interpreter, and tiles have parts that are not there."""
    generator = torch.Generator()
    return min(
        benchmark.small, key=lambda params: sum(t.numel() for t in benchmark.inputs(params, generator))
    )


def check(
    operator: str, tried: list[dict[str, Any]], layouts: tuple[str, ...], *, quick: bool = False
) -> None:
    benchmark = load_benchmarks()[operator]
    params = smallest(benchmark) if quick else benchmark.small[0]
    dtype, device = DTYPES.get(operator, torch.float32), device_for("triton", operator)
    host = Data(benchmark, Workload("small", "cpu", params), dtype, sets=1)
    data = Data(benchmark, Workload("small", device, params), dtype, sets=1, truth_of=host)
    for layout in layouts:
        variant = Variant("triton", "kernel", layout, lambda p, t: benchmark.call(p, t, "triton"))
        for setting in tried:
            with trial(setting):
                for direction in ("forward", "backward"):
                    verdict = data.prepare(variant, direction).verdict
                    assert not verdict.reason, (setting, layout, direction, verdict.reason)


@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_are_right_at_the_ends_of_all_knobs(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few_programs(operator, monkeypatch)
    lowest, highest, *_ = settings(operator)
    check(operator, [lowest], ("NTHWC",), quick=True)
    check(operator, [highest], ("NCTHW",), quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_kernels_are_right_at_every_value(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few_programs(operator, monkeypatch)
    _, highest, *each = settings(operator)
    check(operator, [highest], ("NTHWC",))
    for setting in each:  # in the layout whose tiles it shapes
        (key,) = setting
        last = key.split("/")[-1] in ("line", "share_last", "warps", "channels")
        check(operator, [setting], ("NTHWC" if last else "NCTHW",), quick=True)


def few_programs(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small clips, too, have more to do than programs, and runs their lengths."""
    if found := KNOBS.get(f"{operator}/triton/programs"):
        monkeypatch.setattr(found, "candidates", (2, 3, 5))
        monkeypatch.setattr(found, "default", 3)
        monkeypatch.setattr(found, "value", 3)


# Where a candidate takes most of a kernel: the knob's value, the case, and which of its launches.
GREEDIEST = [
    ["nonlocal_attention/triton/stages", 3, "backward, bf16, D 256", 1],
    ["temporal_conv/triton/share_backward", 8, "backward, bf16, channels last", 0],
]
FIT = """
import importlib, json, sys
from vidops.tuning import KNOBS, trial
from vidops.triton_kernels import _compile
for key, value, name, number in json.loads(sys.argv[1]):
    cases = importlib.import_module("vidops.triton_kernels." + key.split("/")[0]).COMPILE_CASES
    case = next(c for c in cases if c.name == name and 90 in (c.capabilities or (90,)))
    default = _compile.launches(case)[number]
    with trial({key: value}):
        launch = _compile.launches(case)[number]
    same = [(l.options, {k: v for k, v in l.arguments.items() if isinstance(v, (int, str))}) for l in (default, launch)]
    used = _compile.compile_launch(launch, 90)
    print(json.dumps([key, used.spilled - case.spilled, used.shared - case.shared, same[0] == same[1]]))
"""


@pytest.mark.slow
def test_kernels_of_the_greediest_values_fit_an_h200() -> None:
    found = [json.loads(line) for line in python("-c", FIT, json.dumps(GREEDIEST)).splitlines()]
    assert [key for key, *_ in found] == [key for key, *_ in GREEDIEST]
    for key, spilled, shared, same in found:
        assert spilled <= 0, f"{key}: spills {spilled} bytes a thread more than it may"
        assert shared <= 0, f"{key}: takes {shared} bytes of shared memory more than it may"
        assert not same, f"{key}: the launch is that of the default"


def test_every_operator_has_knobs() -> None:
    assert set(FILES) - set(OPERATORS) <= {"keypoint_shifts"}
