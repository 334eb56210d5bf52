"""The cases: one for every operator, baselines that compute the same, figures that a pencil confirms."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vidops.bench import Target, load_benchmarks
from vidops.bench.case import in_layout
from vidops.bench.check import compare, tensors_of
from vidops.bench.harness import Options, plan
from vidops.bench.small import run_small
from vidops.bench.variants import Data, Variant
from vidops.ops.backends import OPERATORS

BENCHMARKS = load_benchmarks()
BASELINES = [(op, name) for op, b in BENCHMARKS.items() for name in (*b.eager, *b.library)]


def test_every_operator_has_a_case() -> None:
    assert sorted(BENCHMARKS) == sorted(OPERATORS)


@pytest.mark.parametrize("operator", BENCHMARKS)
def test_a_case_is_complete(operator: str) -> None:
    benchmark = BENCHMARKS[operator]
    names = [(w.device, w.name) for w in benchmark.workloads]
    assert len(set(names)) == len(names)
    assert {w.device for w in benchmark.workloads} == {"cpu", "cuda"}
    assert any(w.quick for w in benchmark.workloads if w.device == "cpu")
    for workload in benchmark.workloads:
        for target in workload.targets:
            assert target.direction in workload.directions
            assert target.against is None or target.against in {**benchmark.eager, **benchmark.library}
            assert set(target.layouts) <= set(workload.layouts)
        if workload.device == "cpu":  # larger outputs would time page faults
            tensors = benchmark.inputs(workload.params, torch.Generator())
            assert all(t.numel() * 4 < 30e6 for t in tensors)
    assert benchmark.eager
    assert benchmark.small


@pytest.mark.parametrize(("operator", "name"), BASELINES)
def test_baselines_compute_the_operator(operator: str, name: str) -> None:
    benchmark = BENCHMARKS[operator]
    baseline = {**benchmark.eager, **benchmark.library}[name]
    tiny = next(w for w in benchmark.workloads if w.directions[0] == "call")
    workload = dataclasses.replace(tiny, params={**tiny.params, "shape": (2, 8, 5, 3, 4)})
    data = Data(benchmark, workload, torch.float64, sets=1)
    for direction in ("forward", "backward"):
        verdict = data.prepare(Variant(name, "eager", baseline.layout, baseline.run), direction).verdict
        assert not verdict.reason, verdict.reason
        assert verdict.error < 1e-14


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("operator", BENCHMARKS)
def test_small_cases_are_right(operator: str, backend: str) -> None:
    reason = OPERATORS[operator].why_not(backend, "cpu")
    if reason:
        pytest.skip(f"{backend}: {reason}")
    results = list(run_small(operator, backend, "cpu"))
    assert not [r for r in results if r.reason]
    assert len(results) == 2 * 3 * (4 + len(BENCHMARKS[operator].small) - 1)


def test_small_cases_of_an_unknown_operator() -> None:
    with pytest.raises(ValueError, match=r"operator must be one of .*temporal_conv.*, got 'no_op'"):
        list(run_small("no_op", "cpu", "cpu"))


def test_floor_of_temporal_conv() -> None:
    benchmark = BENCHMARKS["temporal_conv"]
    workload = next(w for w in benchmark.workloads if w.directions[0] == "call")
    assert workload.params["shape"] == (1, 8, 4, 2, 2)
    data = Data(benchmark, workload, torch.float32, sets=1)
    clip, weight = 8 * 4 * 2 * 2 * 4, (2 * 1 + 2 * 3 + 2 * 5 + 2 * 7) * 4
    assert data.traffic("forward") == 2 * clip + weight
    assert data.traffic("backward") == 3 * clip + 2 * weight
    assert data.traffic("call") == data.traffic("forward")
    assert benchmark.products(workload.params, "forward") == 4 * 2 * 2 * (2 + 6 + 10 + 14)
    assert benchmark.products(workload.params, "backward") == 2 * 4 * 2 * 2 * (2 + 6 + 10 + 14)
    assert data.result_bytes("backward") == clip + weight


def test_floor_of_temporal_shift() -> None:
    benchmark = BENCHMARKS["temporal_shift"]
    workload = next(w for w in benchmark.workloads if w.directions[0] == "call")
    data = Data(benchmark, workload, torch.float32, sets=1)
    assert data.traffic("forward") == data.traffic("backward") == 2 * 8 * 4 * 2 * 2 * 4
    assert benchmark.products(workload.params, "forward") == 0


def test_inputs_rotate_unless_they_are_tiny() -> None:
    benchmark = BENCHMARKS["temporal_shift"]
    tiny = next(w for w in benchmark.workloads if w.directions[0] == "call")
    seen = []
    variant = Variant("x", "eager", "NCTHW", lambda params, tensors: seen.append(tensors[0]) or tensors[0])
    Data(benchmark, tiny, torch.float32, sets=3).prepare(variant, "forward")
    step = Data(benchmark, tiny, torch.float32, sets=3).prepare(variant, "forward").step
    seen.clear()
    for _ in range(4):
        step()
    assert len({t.data_ptr() for t in seen}) == 3
    assert seen[0] is seen[3]
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("layout", ["NCTHW", "NTCHW", "NTHWC"])
def test_layouts(layout: str) -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    y = in_layout(x, layout)
    assert torch.equal(x, y)
    assert y.data_ptr() != x.data_ptr()
    order = sorted(range(5), key=lambda axis: -y.stride(axis))
    assert "".join("NCTHW"[axis] for axis in order) == layout


def test_targets() -> None:
    assert Target("forward", "speedup", 8.0).met(8.0)
    assert not Target("forward", "speedup", 8.0).met(7.9)
    assert Target("forward", "floor", 1.1).met(1.1)
    assert not Target("call", "seconds", 15e-6).met(16e-6)
    assert Target("call", "seconds", 15e-6).text() == "call without gradients <= 15 us"
    assert Target("backward", "speedup", 8, against="conv3d").text() == "backward >= 8 x conv3d"
    wish = Target("forward", "share", 0.6, dtypes=("bfloat16",), layouts=("NTHWC",), stretch=True)
    assert wish.text() == "forward >= 60 % of the machine's multiply-adds (stretch)"
    assert (wish.met(0.6), wish.met(0.59)) == (True, False)
    assert wish.concerns("forward", "bfloat16", "NTHWC")
    for other in (
        ("backward", "bfloat16", "NTHWC"),
        ("forward", "float32", "NTHWC"),
        ("forward", "bfloat16", "NCTHW"),
    ):
        assert not wish.concerns(*other)
    for words in (("sideways", "floor"), ("forward", "joules")):
        with pytest.raises(ValueError, match="unknown direction or metric"):
            Target(*words, 1.0)


def test_the_contracts_sizes_are_there() -> None:
    groups = {g.name for g in plan(Options("temporal_conv/cpu", ("reference",), threads=(1, 2)))}
    for direction in ("forward", "backward"):
        for threads in (1, 2):
            assert f"temporal_conv/cpu/1x256x8x56x56/float32/{direction}/{threads}-thread" in groups


# What a GPU has to reach: how many sizes, and the targets of these.
GPU = {
    "depthwise_conv3d": (
        3,
        {"forward floor 1.6", "forward floor 2", "forward speedup 5", "backward speedup 10"},
    ),
    "keypoint_shifts": (1, {"forward floor 2", "forward speedup 50"}),
    "motion_band_pass": (5, {"forward floor 1.6", "backward floor 2"}),
    "nonlocal_attention": (
        10,
        {
            *(f"{direction} speedup {limit}" for direction in ("forward", "backward") for limit in (1, 2)),
            *("forward speedup 20", "forward share 0.6", "forward share 0.45"),
        },
    ),
    "pathway_select": (2, {"forward floor 1.2", "backward floor 1.3"}),
    "resize": (3, {"forward speedup 1", "backward speedup 1"}),
    "temporal_conv": (
        3,
        {"forward floor 1.1", "backward floor 1.2", "call seconds 1.5e-05", "call_grad seconds 3e-05"},
    ),
    "temporal_descriptor": (2, {"forward speedup 1", "backward speedup 1"}),
    "temporal_projection": (2, {"forward floor 1.2", "backward floor 1.6"}),
    "temporal_shift": (2, {"forward floor 1.1", "backward floor 1.1"}),
}


@pytest.mark.parametrize("operator", BENCHMARKS)
def test_the_gpus_targets_are_there(operator: str) -> None:
    sizes, targets = GPU[operator]
    workloads = [w for w in BENCHMARKS[operator].workloads if w.device == "cuda" and w.targets]
    assert len(workloads) == sizes
    assert {f"{t.direction} {t.metric} {t.limit:g}" for w in workloads for t in w.targets} == targets
    assert {dtype for w in workloads for dtype in w.dtypes} == {"bfloat16", "float32"}


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


def test_comparison_refuses_wrong_results() -> None:
    exact, same = [ones(4, dtype=torch.float64)], [ones(4)]
    eps = torch.finfo(torch.float32).eps
    assert not compare([ones(4) * (1 + eps)], same, exact).reason
    assert "off by" in compare([ones(4) * (1 + 3 * eps)], same, exact).reason
    assert not compare([ones(4) * (1 + 3 * eps)], same, exact, slack=16.0).reason
    for bad in (float("nan"), float("inf")):
        result = ones(4)
        result[2] = bad
        assert "off by" in compare([result], same, exact).reason
    assert "(5,)" in compare([ones(5)], same, exact).reason
    assert "float64" in compare([ones(4, dtype=torch.float64)], same, exact).reason
    assert compare([], same, exact).reason == "0 results, not 1"
    # the reference's own error counts twice
    assert not compare([ones(4) * 1.019], [ones(4) * 1.01], exact).reason
    assert compare([ones(4) * 1.021], [ones(4) * 1.01], exact).reason


def test_comparison_of_indices_is_exact() -> None:
    exact = [torch.tensor([1, 2])]
    assert not compare([torch.tensor([1, 2])], exact, exact).reason
    assert "differs in 1 places" in compare([torch.tensor([1, 3])], exact, exact).reason


def test_comparison_tells_the_worst_result() -> None:
    exact = [ones(2, dtype=torch.float64)] * 2
    eps = torch.finfo(torch.float32).eps
    verdict = compare([ones(2), ones(2) * (1 + eps)], [ones(2)] * 2, exact)
    assert verdict.error == pytest.approx(eps)


def test_results_may_hold_none() -> None:
    assert len(tensors_of((ones(1), None, ones(2)))) == 2
    with pytest.raises(TypeError, match="results must be"):
        tensors_of(3.0)
