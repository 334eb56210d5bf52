"""The search, on times that are made up and on kernels that sleep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from vidops.bench.case import Benchmark, Workload
from vidops.bench.cases import temporal_shift as shift_case
from vidops.bench.timing import Effort, Timing
from vidops.tuning import Knob, measure
from vidops.tuning.search import Found, Ratio, Timer, TimeUp, descend, ratio


@pytest.fixture
def other() -> Knob[int]:
    return Knob("temporal_shift", "triton", "other", 1, (1, 2, 4))


def made_up(seconds: Callable[[Mapping[str, Any]], float], spread: float = 0.01) -> Any:
    """A measurement that asks a formula."""

    def timing(values: Mapping[str, Any]) -> Timing:
        t = seconds(values)
        return Timing(t, t * (1 - spread), t * (1 + spread), 5)

    def compare(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Ratio]:
        first = timing(settings[""])
        return {name: ratio([(timing(values), first)]) for name, values in settings.items() if name}

    return compare


def test_the_best_of_two_knobs_that_depend_on_each_other_is_found(knob: Knob[int], other: Knob[int]) -> None:
    # The first knob's best value shows only once the second one has its own.
    def seconds(values: Mapping[str, Any]) -> float:
        a, b = values[knob.key], values[other.key]
        return 1 + abs(a - 4 * b) + 5 * abs(b - 4)

    found = descend([knob, other], made_up(seconds), Timer(None))
    assert found.values == {knob.key: 16, other.key: 4}
    assert found.not_reached == []
    assert [step["knob"].split("/")[-1] for step in found.steps] == ["spare", "other"] * 2


def test_a_gain_within_the_spread_is_none(knob: Knob[int]) -> None:
    def seconds(values: Mapping[str, Any]) -> float:
        return 1 - values[knob.key] / 1000

    assert descend([knob], made_up(seconds, spread=0.01), Timer(None)).values == {knob.key: 8}
    assert descend([knob], made_up(seconds, spread=0.001), Timer(None)).values == {knob.key: 16}


def test_a_fast_wrong_result_is_not_taken(knob: Knob[int]) -> None:
    def compare(settings: Mapping[str, Any]) -> dict[str, Ratio]:
        return {"4": Ratio(math.nan, math.nan, 1, "off by 1"), "16": Ratio(1.1, 1.2, 2)}

    lines: list[str] = []
    found = descend([knob], compare, Timer(None), lines.append)
    assert found.values == {knob.key: 8}
    assert found.steps[0]["tried"]["4"] == {"groups": 1, "reason": "off by 1"}
    assert lines == ["temporal_shift/triton/spare = 8 stays (4: off by 1, 16: x 1.100)"]


def test_what_the_limit_leaves_out_is_named(knob: Knob[int], other: Knob[int]) -> None:
    def compare(settings: Mapping[str, Any]) -> dict[str, Ratio]:
        if any(len({values[other.key], 1}) > 1 for values in settings.values()):
            raise TimeUp  # in the middle of the second knob
        return {name: Ratio(0.5, 0.6, 1) for name in settings if name}

    found = descend([knob, other], compare, Timer(None))
    assert found.not_reached == [other.key]
    assert set(found.values) == {knob.key}
    nothing = descend([knob, other], compare, Timer(0))
    assert nothing == Found({}, [], [knob.key, other.key])


def test_time_is_shared() -> None:
    assert Timer(None).share(3).left() == math.inf
    assert 2.9 < Timer(9).share(3).left() <= 3
    with pytest.raises(TimeUp):
        Timer(0).check()


def case(seconds: Callable[[str | None], float], factor: Callable[[str | None], float]) -> measure.Bench:
    """An operator that takes so long, and of which so many times is returned."""

    def call(params: Any, tensors: Any, backend: str | None) -> torch.Tensor:
        if backend == "reference":
            return tensors[0] * 1.0
        time.sleep(seconds(backend))
        return tensors[0] * factor(backend)

    benchmark: Benchmark = replace(shift_case.BENCHMARK, call=call)
    size = Workload("tiny", "cpu", {"shape": (1, 2, 2, 2, 2), "fold_div": 2}, directions=("forward",))
    return measure.Bench(benchmark, [size], Effort(rounds=3, least=3, budget=0.0, sample=1e-9))


def test_settings_are_timed_in_turns_and_checked(knob: Knob[int]) -> None:
    bench = case(lambda _: knob.value / 2000, lambda _: 1.0 if knob.value < 16 else 2.0)
    ratios = bench.compare("cpu", {"": {knob.key: 8}, "4": {knob.key: 4}, "16": {knob.key: 16}}, Timer(None))
    assert 0.3 < ratios["4"].typical < 0.9
    assert "result 0 is off by" in ratios["16"].reason
    assert knob.value == 8
    with pytest.raises(TimeUp):
        bench.compare("cpu", {"": {knob.key: 8}}, Timer(0))
    with pytest.raises(measure.Wrong, match=r"the present values do not do: .*off by"):
        bench.compare("cpu", {"": {knob.key: 16}, "4": {knob.key: 4}}, Timer(None))


def test_an_error_of_a_setting_is_its_reason(knob: Knob[int]) -> None:
    bench = case(lambda _: 0.0, lambda _: 4 / (knob.value - 4))
    ratios = bench.compare("cpu", {"": {knob.key: 8}, "4": {knob.key: 4}}, Timer(None))
    assert ratios["4"].reason == "tiny/float32/NCTHW/forward: ZeroDivisionError: division by zero"


@pytest.fixture
def times() -> dict[str | None, float]:
    return {"cpu": 0.004, "triton": 0.001}


def test_the_faster_backend_comes_first(times: dict[str | None, float]) -> None:
    both: dict[str, dict[str, Any]] = {"cpu": {}, "triton": {}}
    order, ratios = measure.order(case(times.__getitem__, lambda _: 1.0), both, Timer(None))
    assert order == ["triton", "cpu"]
    assert 0.1 < ratios["triton"].typical < 0.7
    times["triton"] = 0.006
    assert measure.order(case(times.__getitem__, lambda _: 1.0), both, Timer(None))[0] == ["cpu", "triton"]


@pytest.mark.parametrize(("spread", "order"), [(0.01, ["triton", "cuda"]), (0.1, ["cuda", "triton"])])
def test_the_order_is_of_both_directions_together_and_beyond_the_spread(
    spread: float, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"cuda": {"forward": 1.0, "backward": 10.0}, "triton": {"forward": 1.2, "backward": 9.2}}

    def times(bench: measure.Bench, group: Any, settings: Any, reasons: Any) -> dict[str, Timing]:
        found = {name: seconds[name][group.direction] for name in settings}
        return {name: Timing(t, t * (1 - spread), t * (1 + spread), 5) for name, t in found.items()}

    monkeypatch.setattr(measure.Bench, "times", times)
    size = Workload("tiny", "cpu", {}, directions=("forward", "backward"))
    bench = measure.Bench(shift_case.BENCHMARK, [size], Effort())
    found, ratios = measure.order(bench, {"cuda": {}, "triton": {}}, Timer(None))
    assert found == order
    assert ratios["triton"].typical == pytest.approx(10.4 / 11, abs=1e-4)


@pytest.mark.parametrize(("wrong", "order"), [("triton", ["cpu", "triton"]), ("cpu", ["triton", "cpu"])])
def test_a_wrong_backend_comes_last(wrong: str, order: list[str], times: dict[str | None, float]) -> None:
    bench = case(times.__getitem__, lambda backend: 2.0 if backend == wrong else 1.0)
    found, ratios = measure.order(bench, {"cpu": {}, "triton": {}}, Timer(None))
    assert found == order
    assert "off by" in ratios["triton"].reason


def test_data_go_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = case(lambda _: 0.0, lambda _: 1.0)
    (first,) = bench.groups
    second = replace(first, dtype="float64")
    data = bench.data(first)
    assert bench.data(second) is not data
    assert bench.data(first) is data
    monkeypatch.setattr(measure, "_crowded", lambda device: True)
    assert bench.data(first) is data
    third = bench.data(replace(first, dtype="bfloat16"))
    assert list(bench._data.values()) == [third]
    assert bench.data(first) is not data
