"""Clocks, load, memory and verdicts: no verdict on a busy machine."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.common import kernel
from tests.ops.common import device_for
from vidops.bench import Options, Target, ceilings, load_benchmarks
from vidops.bench import machine as machine_module
from vidops.bench.harness import _figures, plan
from vidops.bench.judge import FOREIGN_LOAD_LIMIT, relate
from vidops.bench.machine import LoadMeter, cache_bytes, describe, peak_growth
from vidops.bench.records import ceiling_of
from vidops.bench.report import group_lines
from vidops.bench.timing import CpuClock, Effort, Timing, interleave
from vidops.ops.backends import OPERATORS


def eager(seconds: float, name: str = "conv3d") -> dict[str, Any]:
    return {**kernel(), "kind": "eager", "variant": name, "seconds": seconds}


def verdicts(record: dict[str, Any], *baselines: dict[str, Any]) -> list[str]:
    targets = load_benchmarks()["temporal_conv"].workloads[0].targets
    relate([record, *baselines], targets)
    return [t["verdict"] for t in record["targets"]]


def test_targets_are_judged() -> None:
    assert verdicts(kernel(), eager(8.1)) == ["met", "missed"]
    assert verdicts(kernel(copy_multiple=1.3), eager(7.9)) == ["missed", "met"]
    assert verdicts(kernel(layout="NTHWC"), eager(8.1)) == []
    # the named baseline counts, not the fastest one
    record = kernel()
    assert verdicts(record, eager(8.1), eager(2.0, "conv2d"))[0] == "met"
    assert record["best"]["eager"] == {"variant": "conv2d", "ratio": 2.0}
    assert verdicts(kernel())[0] == "not judged"


def test_gradients_are_judged_against_their_own_forward() -> None:
    target = Target("backward", "own forward", 4.0)
    assert target.text() == "backward <= 4 x own forward"
    forward = kernel(seconds=1.0)
    for seconds, verdict in ((4.0, "met"), (4.1, "missed")):
        record = kernel(direction="backward", seconds=seconds)
        relate([record], [target], [kernel(layout="NTHWC", seconds=9.0), eager(9.0), forward])
        assert record["own_forward_multiple"] == seconds
        assert [t["verdict"] for t in record["targets"]] == [verdict]
    alone = kernel(direction="backward")
    relate([alone], [target], [kernel(threads=2), kernel(status="wrong", reason="off")])
    assert [(t["verdict"], t["why"]) for t in alone["targets"]] == [("not judged", "its forward did not run")]


def test_a_share_of_the_multiply_adds_is_judged() -> None:
    target = Target("forward", "share", 0.6, stretch=True)
    record = kernel(products_per_second=5.9, products_ceiling=10.0)
    relate([record], [target])
    (judged,) = record["targets"]
    assert (judged["verdict"], judged["stretch"]) == ("missed", True)
    assert judged["value"] == pytest.approx(0.59)
    line = "target cpu NCTHW: forward >= 60 % of the machine's multiply-adds (stretch): 59 %, MISSED"
    record |= {"group": "g", "error": 0}
    assert group_lines([record])[-1].strip() == line


def test_a_busy_machine_is_not_judged() -> None:
    busy = kernel(foreign_load=FOREIGN_LOAD_LIMIT + 0.01)
    assert verdicts(busy, eager(9.0)) == ["not judged", "not judged"]
    assert "others kept 0.31 cores busy" in busy["targets"][0]["why"]
    assert verdicts(kernel(foreign_load=FOREIGN_LOAD_LIMIT), eager(9.0))[0] == "met"
    assert verdicts(kernel(foreign_load=None), eager(9.0))[0] == "not judged"
    assert verdicts(kernel(threads=4096), eager(9.0))[0] == "not judged"
    assert verdicts(kernel(device="cuda", foreign_load=3.0), eager(9.0))[0] == "met"


def test_variants_take_turns() -> None:
    order: list[str] = []

    class Clock:
        def sample(self, step: Any, calls: int) -> float:
            step()
            return {"fast": 1e-3, "slow": 1.0}[order[-1]]

    effort = Effort(rounds=10, least=2, budget=0.1, sample=1e-3)
    steps = {"fast": lambda: order.append("fast"), "slow": lambda: order.append("slow")}
    timings = interleave(steps, Clock(), effort)
    assert (timings["fast"].samples, timings["slow"].samples) == (10, 2)
    assert timings["slow"].median == 1.0
    timed = order[2:]
    assert timed.index("slow") < 8  # not left to the end
    assert timed[-1] == "slow" or "slow" in timed[5:]


def test_short_calls_are_timed_many_at_a_time() -> None:
    count = [0]

    def step() -> None:
        count[0] += 1

    interleave({"a": step}, CpuClock(), Effort(rounds=2, least=2, budget=1.0, sample=1e-3))
    assert count[0] > 100


def test_timing_sums_samples_up() -> None:
    assert Timing.of([1.0]) == Timing(1.0, 1.0, 1.0, 1)
    assert Timing.of([4.0, 1.0, 2.0, 3.0]).median == 2.5


def test_load_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_module, "_PROC", tmp_path)
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 0 500 0 0 0 0 0 0\n")
    with LoadMeter() as meter:
        time.sleep(0.1)
        stat.write_text("cpu  1100 0 0 500 50 0 0 0 0 0\n")  # 10 s of others' work in 0.1 s
    assert meter.cores is not None
    assert meter.cores > 10
    with LoadMeter() as meter:
        time.sleep(0.02)
    assert meter.cores == 0.0
    stat.unlink()
    with LoadMeter() as meter:
        pass
    assert meter.cores is None


def test_own_work_is_no_foreign_load(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = LoadMeter._between((0.0, 100.0, 7.0), (10.0, 130.0, 27.0))
    assert spent == pytest.approx(1.0)  # 30 s busy, 20 s of them ours, over 10 s


def test_memory_of_a_call() -> None:
    size = 24 << 20
    grown = peak_growth(lambda: torch.ones(size // 4), "cpu")
    if grown is None:
        pytest.skip("this system does not tell peak memory")
    assert 0.98 * size <= grown < 1.5 * size
    twice = peak_growth(lambda: torch.ones(size // 4) + torch.ones(size // 4), "cpu")
    assert twice is not None
    assert twice >= 1.96 * size
    assert peak_growth(lambda: None, "cpu") < size


def test_machine_is_described() -> None:
    facts = describe("cpu")
    assert facts["cores"] >= 1
    assert facts["gpu"] is None
    assert cache_bytes("cpu") >= 1 << 18


@pytest.mark.parametrize(("cold", "first"), [(1e-3, [1, 2]), (40e-3, [1, 1])])
def test_a_cold_first_call_does_not_shorten_the_samples(cold: float, first: list[int]) -> None:
    asked: list[int] = []

    class Clock:
        def sample(self, step: Any, calls: int) -> float:
            asked.append(calls)
            return cold if len(asked) == 1 else 1e-5

    interleave({"a": lambda: None}, Clock(), Effort(rounds=2, least=2, budget=1.0, sample=2e-3))
    assert asked == [*first, 200, 200]


def test_no_variant_is_faster_than_the_least_possible_time() -> None:
    """A kernel may beat the product that the rate was measured with: then the rate is its own."""
    group = plan(Options("nonlocal_attention/cpu/gaussian L6272*forward", ("reference",), threads=(1,)))[0]
    rates = {"fma": 1e9, "fma_by": "fp32 product", "matrix": 8e9, "matrix_by": "bf16 product"}
    products = 6272**2 * 512
    slow, fast, copy = (Timing.of([seconds]) for seconds in (30.0, 10.0, 0.01))
    assert ceiling_of(group, rates, [slow]) == (1e9, "fp32 product")
    assert ceiling_of(group, rates, []) == (1e9, "fp32 product")
    ceiling = ceiling_of(group, rates, [slow, fast])
    assert ceiling == (products / 10.0, "the fastest of these")
    timings = {"copy": copy}
    found = [_figures(timing, timings, 1, group, ceiling) for timing in (fast, slow)]
    assert [f["floor_multiple"] for f in found] == pytest.approx([1.0, 3.0])
    record = {**kernel(), **found[0], "error": 0.0}
    assert "floor 10.00 s (2.01 G products/s, the fastest of these)" in group_lines([record])[1]


def test_products_of_matrices_in_16_bits_are_a_gpus_matrix_units() -> None:
    rates = {"fma": 1e9, "fma_by": "fp32", "matrix": 8e9, "matrix_by": "bf16 product"}
    pattern = "{}/cpu/*forward"
    for operator, by in (("nonlocal_attention", "bf16 product"), ("temporal_conv", "fp32")):
        group = plan(Options(pattern.format(operator), ("reference",), threads=(1,)))[0]
        assert ceiling_of(replace(group, dtype="bfloat16"), rates, [])[1] == by
        assert ceiling_of(group, rates, [])[1] == "fp32"


def test_the_rate_is_of_the_faster_product(monkeypatch: pytest.MonkeyPatch) -> None:
    device_for("cpu", "nonlocal_attention")
    monkeypatch.setattr(ceilings, "interleave", lambda steps, *_: dict.fromkeys(steps, Timing.of([2.0])))
    by, rate = ceilings._best_of_cpu(Effort())
    assert (by, rate) == ("vidops' attention", 1568**2 * 256)
    monkeypatch.setitem(OPERATORS["nonlocal_attention"].missing, "cpu", "not built")
    assert ceilings._best_of_cpu(Effort()) == ("PyTorch's fp32 product", 768**3 / 2)
