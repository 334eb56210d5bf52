"""A report beside an older one: what counts as slower, and what the command makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.common import kernel
from vidops.bench.against import compare, compare_lines
from vidops.bench.report import write_report
from vidops.cli import main

MACHINE = {"cpu": "X", "cores": 2, "cpu_level": "avx2", "gpu": None, "revision": "abc", "versions": {}}
GPU = {**MACHINE, "gpu": {"name": "NVIDIA Y"}}


def record(seconds: float, copy: float = 1.0, spread: float = 0.02, **more: Any) -> dict[str, Any]:
    """A kernel's record; ``copy``: seconds of the floor."""
    return {
        **kernel(seconds=seconds, floor_multiple=seconds / copy),
        "group": "g",
        "quartiles": [seconds * (1 - spread), seconds * (1 + spread)],
        "floor_seconds": copy,
        "floor_by": "memory",
        "bytes": 8,
        "products": 0,
        "copy_bytes_per_second": 8 / copy,
        "reason": "",
        "targets": [],
        "best": {},
        "error": 0,
        **more,
    }


def form(seconds: float, name: str = "cat", spread: float = 0.0, **more: Any) -> dict[str, Any]:
    return record(seconds, spread=spread, kind="eager", variant=name, **more)


def report(*records: dict[str, Any], machine: dict[str, Any] = MACHINE, **more: Any) -> dict[str, Any]:
    common = {"format": 1, "date": "then", "machine": machine, "options": {"pattern": ""}, "ceilings": []}
    return {**common, "results": [*records], **more}


def verdict(new: dict[str, Any], old: dict[str, Any], tolerance: float = 0.1) -> str:
    (change,) = compare(new, old, tolerance).changes
    return change.verdict


@pytest.mark.parametrize(
    ("seconds", "spread", "tolerance", "expected"),
    [
        (1.2, 0.02, 0.1, "slower"),
        (1.08, 0.02, 0.1, "same"),  # within the tolerance
        (1.2, 0.12, 0.1, "same"),  # the quartiles of both runs overlap
        (1.08, 0.02, 0.05, "slower"),
        (0.8, 0.02, 0.1, "faster"),
        (0.95, 0.02, 0.1, "same"),
        (0.8, 0.15, 0.1, "same"),
    ],
)
def test_beyond_the_tolerance_and_the_spread(
    seconds: float, spread: float, tolerance: float, expected: str
) -> None:
    assert (
        verdict(report(record(seconds, spread=spread)), report(record(1.0, spread=spread)), tolerance)
        == expected
    )


def test_a_machine_that_runs_slower_is_no_slower_kernel() -> None:
    old = report(record(2.0), form(4.0))
    assert verdict(report(record(3.0, copy=1.5), form(6.0)), old) == "same"
    assert verdict(report(record(4.0, copy=1.5), form(6.0)), old) == "slower"  # more than the machine
    assert verdict(report(record(2.0, copy=0.5), form(2.0)), old) == "slower"  # as long on a faster machine


def test_both_ratio_and_time_have_to_change_on_a_steady_machine() -> None:
    old = report(record(2.0), form(4.0), form(5.0, "slices"))
    assert verdict(report(record(2.0, copy=0.8), form(4.0), form(5.0, "slices")), old) == "same"
    (change,) = compare(report(record(2.5), form(4.0), form(5.0, "slices")), old).changes
    assert change.verdict == "slower"
    assert [measure.name for measure in change.measures] == ["x floor", "seconds"]


def test_calls_without_a_floor_are_held_against_the_fastest_form() -> None:
    old = report(record(1.0, floor_multiple=None), form(9.0, "slices"), form(4.0))
    (change,) = compare(report(record(1.5, floor_multiple=None), form(1.0, "slices"), form(4.0)), old).changes
    assert change.measures[0].name == "x cat"  # slices were not the fastest before
    assert change.measures[0].ratio == pytest.approx(1.5)
    assert change.verdict == "slower"


def test_a_floor_that_is_the_kernels_own_time_shows_nothing() -> None:
    own = {"floor_by": "arithmetic", "products_ceiling_by": "the fastest of these"}
    old = report(record(1.0, copy=1.0, **own), form(2.0))
    assert verdict(report(record(1.5, copy=1.5, **own), form(2.0)), old) == "slower"


def test_a_floor_of_arithmetic_stands_behind_the_forms() -> None:
    arithmetic = {"floor_by": "arithmetic", "products_ceiling_by": "a product"}
    old = report(record(1.0, **arithmetic), form(2.0))
    (change,) = compare(report(record(1.3, copy=1.3, **arithmetic), form(2.0)), old).changes
    assert (change.verdict, change.measures[0].name) == (
        "slower",
        "x cat",
    )  # the rate was measured at another moment
    (change,) = compare(report(record(1.3, **arithmetic)), old).changes
    assert (change.verdict, change.measures[0].name) == ("slower", "x floor")


def test_a_floor_of_other_bytes_is_not_compared() -> None:
    old = report(record(1.0), form(2.0))
    (change,) = compare(report(record(1.0, copy=0.5, bytes=4), form(2.0)), old).changes
    assert (change.verdict, change.measures[0].name) == ("same", "x cat")


def test_another_machine_is_compared_by_ratios_and_says_so() -> None:
    other = {**MACHINE, "cpu": "Z"}
    old = report(record(1.0), machine=other)
    found = compare(report(record(5.0, copy=5.0)), old)
    assert [c.verdict for c in found.changes] == ["same"]
    assert (
        "that was another machine (Z, 2 cores): ratios are compared, times are not" in compare_lines(found)[1]
    )
    assert verdict(report(record(1.0, copy=0.5)), old) == "slower"
    old = report(record(1.0, floor_multiple=None), machine=other)
    (change,) = compare(report(record(1.0, floor_multiple=None)), old).changes
    assert (change.verdict, change.why) == (
        "not judged",
        "nothing in common that its time could be related to",
    )


def test_a_gpu_is_known_by_its_name() -> None:
    old = report(record(1.0, device="cuda"), machine={**GPU, "cpu": "Z"})
    assert not compare(report(record(1.0, device="cuda"), machine=GPU), old).another
    renamed = {**GPU, "gpu": {"name": "NVIDIA W"}}
    assert compare(report(record(1.0, device="cuda"), machine=renamed), old).another == "NVIDIA Y"


@pytest.mark.parametrize("load", [0.5, None])
def test_a_busy_machine_is_not_judged(load: float | None) -> None:
    busy, quiet = report(record(2.0, foreign_load=load)), report(record(1.0))
    assert verdict(busy, quiet) == verdict(quiet, busy) == "not judged"
    line = compare_lines(compare(busy, quiet))[1]
    assert line.startswith("  not judged  g: ")
    assert ("0.50 cores busy" in line) == (load is not None)
    on_gpu = report(record(2.0, foreign_load=load, device="cuda"))
    assert verdict(on_gpu, report(record(1.0, device="cuda"))) == "slower"


def test_what_is_wrong_missing_or_new_is_told() -> None:
    old = report(
        record(1.0, group="a"),
        record(1.0, group="b"),
        record(1.0, group="c"),
        record(1.0, group="b2", threads=2),
    )
    bad = {**record(1.0, group="a"), "status": "wrong", "reason": "off by 3"}
    new = report(bad, record(1.0, group="d"), options={"pattern": "b", "threads": [1]})
    found = compare(new, old)
    assert compare_lines(found)[1:] == [
        "  wrong now  a cpu NCTHW: off by 3",
        "  missing  b cpu NCTHW",
        "  2 kernels of that report were not asked for this time, or cannot run here",
        "  1 kernels are not in that report",
    ]


def test_a_kernel_that_no_longer_fits_is_missing() -> None:
    old = record(1.0)
    full = {**record(1.0), "status": "unavailable", "reason": "out of memory"}
    assert compare(report(full), report(old)).missing == (old,)
    assert compare(report(old), report(full)).missing == ()


@pytest.mark.parametrize("lost", ["missing", "wrong"])
def test_the_command_fails_on_a_kernel_that_is_lost(lost: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_report(old, report(record(1.0), record(2.0, layout="NTHWC")))
    bad = [record(2.0, layout="NTHWC", status="wrong")] if lost == "wrong" else []
    write_report(new, report(record(1.0), *bad))
    assert main(["bench", "--show", str(new), "--against", str(old)]) == 1


def test_a_quick_run_misses_what_it_leaves_out_no_more() -> None:
    old = report(record(1.0), record(1.0, layout="NTHWC"), record(1.0, group="other"))
    quick = report(record(1.0), form(1.0, layout="NTHWC"), options={"quick": True})
    found = compare(quick, old)
    assert (found.missing, found.left_out) == ((), 2)
    gone = record(1.0, variant="triton")  # in a place that the run did measure
    assert compare(quick, report(record(1.0), gone)).missing == (gone,)


def test_the_command_fails_on_a_slower_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_report(old, report(record(1.0), record(2.0, layout="NTHWC")))
    write_report(new, report(record(1.3), record(1.0, layout="NTHWC")))
    assert main(["bench", "--show", str(new), "--against", str(old)]) == 1
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        "against the report of then (abc), beyond 10 %: 1 slower, 1 faster",
        "  SLOWER  g cpu NCTHW: x floor 1.00 -> 1.30 (1.30 times), time 1.00 s -> 1.30 s (1.30 times)",
        "  faster  g cpu NTHWC: x floor 2.00 -> 1.00 (0.50 times), time 2.00 s -> 1.00 s (0.50 times)",
    ]
    assert main(["bench", "--show", str(new), "--against", str(old), "--tolerance", "30%"]) == 0
    assert main(["bench", "--show", str(old), "--against", str(old)]) == 0


def test_a_comparison_of_nothing_has_not_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    write_report(old, report(record(1.0), machine=GPU))
    write_report(new, report(record(1.0, group="other"), options={"pattern": "other"}))
    command = ["bench", "--show", str(new), "--against", str(old)]
    assert main(command) == 1
    assert "no kernel in common, nothing was compared" in capsys.readouterr().out
    write_report(new, report(record(1.0, foreign_load=0.5)))
    assert main(command) == 0
    assert "NO kernel was judged" in capsys.readouterr().out
    assert main([*command, "--strict"]) == 1
    write_report(new, report(record(1.0)))
    assert main([*command, "--strict"]) == 0
    assert capsys.readouterr().out.count("NO kernel was judged") == 1  # of the run before


@pytest.mark.parametrize("text", ["-1", "much", "inf", "nan"])
def test_bad_tolerances(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--against", "x.json", "--tolerance", text])
    assert "must be a percentage of at least 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"tolerance must be at least 0, got -0\.1"):
        compare(report(), report(), -0.1)


def test_what_cannot_run_or_had_no_time_is_not_missing() -> None:
    old = report(record(1.0, device="cuda"), record(1.0, group="late"), machine=GPU)
    found = compare(report(record(1.0, group="x"), left=["late"]), old)
    assert (found.missing, found.left_out) == ((), 2)
    assert len(compare(report(record(1.0, group="x"), machine=GPU), old).missing) == 2
    merged = report(record(1.0, group="x"), options={"pattern": "g, late"}, machine=GPU)
    assert len(compare(merged, old).missing) == 2
