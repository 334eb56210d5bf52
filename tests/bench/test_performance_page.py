"""docs/performance.md: its tables and picture are those of the committed results, its floors those of a pencil."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.test_results import gpu
from vidops.bench import load_benchmarks

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import performance_page  # noqa: E402
import result_files  # noqa: E402


def test_the_page_is_up_to_date_and_a_stale_one_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert performance_page.main(["--check"]) == 0, "run: python benchmarks/performance_page.py"
    page, picture = tmp_path / "performance.md", tmp_path / "roofline.png"
    page.write_text(performance_page.PAGE.read_text().replace("| 1.00 to", "| 0.90 to", 1))
    picture.write_bytes(performance_page.PICTURE.read_bytes().replace(b"figures ", b"FIGURES "))
    monkeypatch.setattr(performance_page, "PAGE", page)
    monkeypatch.setattr(performance_page, "PICTURE", picture)
    assert performance_page.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [page.name, picture.name]
    assert performance_page.main([]) == 0
    assert performance_page.main(["--check"]) == 0


def test_marks_are_those_of_the_tables() -> None:
    text = "a\n<!-- ceilings -->\nold\n<!-- /ceilings -->\nb"
    assert performance_page.filled(text, {"ceilings": "new"}) == text.replace("old", "new")
    for made in ({}, {"ceilings": "", "cpu resize": ""}):
        with pytest.raises(ValueError, match="the page's marks are not those of its tables"):
            performance_page.filled(text, made)


def test_floors_by_a_pencil() -> None:
    clip = 16 * 256 * 8 * 56 * 56
    conv = performance_page.h200_floors("temporal_conv")
    found = {(f.workload.name, f.dtype, f.direction): f for f in conv}
    taps = 64 * (1 + 3 + 5 + 7)
    forward = found["16x256x8x56x56", "bfloat16", "forward"]
    assert forward.bytes == 2 * (2 * clip + taps)
    assert forward.products == 4 * clip
    assert forward.seconds == pytest.approx(forward.bytes / 4.3e12)
    assert found["16x256x8x56x56", "float32", "backward"].bytes == 4 * (3 * clip + 2 * taps)
    attention = performance_page.h200_floors("nonlocal_attention")
    first = next(f for f in attention if f.dtype == "bfloat16")
    assert (first.products, first.by) == (8 * 6272 * 6272 * 512, "arithmetic")
    assert first.seconds == pytest.approx(first.products / 395e12)


def test_gradients_of_linear_operators_need_no_clip() -> None:
    before, after = 16 * 256 * 8 * 56 * 56, 16 * 256 * 8 * 35 * 35
    found = {(f.workload.name, f.dtype, f.direction): f for f in performance_page.h200_floors("resize")}
    for direction in ("forward", "backward"):
        assert found["256x56x56 to 35", "bfloat16", direction].bytes == 2 * (before + after)


def test_a_floor_that_was_counted_otherwise_is_not_shown() -> None:
    clip = 2 * 4 * 256 * 8 * 56 * 56
    kept = {
        **record(9.0, "met", "NCTHW"),
        **{"operator": "temporal_shift", "workload": "1x256x8x56x56", "dtype": "float32"},
        **{"bytes": clip, "products": 0},
    }
    assert result_files.with_todays_floor(kept) == kept
    target = {**kept["targets"][0], "metric": "floor"}
    old = {**kept, "bytes": clip + 4, "targets": [*kept["targets"], target]}
    shown = result_files.with_todays_floor(old)
    assert shown["targets"] == kept["targets"]
    assert performance_page._floor(shown) == performance_page._multiples([shown]) == "-"
    assert performance_page.readme_table.floors(shown) == "-"


def test_every_size_for_a_gpu_has_a_floor() -> None:
    for operator, benchmark in load_benchmarks().items():
        timed = [w for w in benchmark.workloads if w.device == "cuda" and "call" not in w.directions]
        expected = [(w.name, dtype, d) for w in timed for dtype in w.dtypes for d in w.directions]
        found = performance_page.h200_floors(operator)
        assert [(f.workload.name, f.dtype, f.direction) for f in found] == expected


def record(value: float, verdict: str, layout: str) -> dict[str, Any]:
    target = {"text": "forward >= 8 x eager", "metric": "speedup", "limit": 8.0, "value": value}
    return {
        **{"operator": "temporal_conv", "workload": "w", "device": "cpu", "kind": "kernel", "status": "ok"},
        **{
            "direction": "forward",
            "threads": 1,
            "layout": layout,
            "seconds": 8 / value,
            "floor_multiple": 9 / value,
        },
        **{"floor_seconds": 1.0, "floor_by": "arithmetic", "targets": [{**target, "verdict": verdict}]},
    }


def test_a_missed_target_says_by_how_much() -> None:
    records = (record(6.0, "missed", "NCTHW"), record(9.0, "met", "NTHWC"))
    result = result_files.Result(Path("x.json"), "m", {}, records)
    row = performance_page.cpu_reached("temporal_conv", [result]).splitlines()[-1]
    assert row == (
        "| w | forward | 1.00 s* | 888.89 ms | 1.00 to 1.50 |"
        " >= 8 x eager: 6.00 x to 9.00 x, missed in 1 of 2, by 25 % at most |"
    )


def test_a_gpus_results_fill_the_page() -> None:
    made = gpu()
    for entry in made["results"]:
        entry["floor_multiple"] = 1.25
    made["ceilings"] = [{"device": "cuda", "threads": None, "fma": 30e12, "matrix": 400e12}]
    for entry in made["results"]:
        entry |= {"threads": None, "copy_bytes_per_second": 4e12, "products_ceiling": 30e12}
    result = result_files.Result(Path("x.json"), "nvidia-h200", made, tuple(made["results"]))
    table = performance_page.gpu_floors("temporal_shift", [result])
    assert performance_page.UNMEASURED not in table
    assert "| 1.00 s, 1.25 x floor (cuda), met |" in table
    assert performance_page.ceilings([result]).splitlines()[-1] == (
        "| NVIDIA H200 | 4000 GB/s | 30.0 T/s | 400.0 T/s | measured |"
    )
    assert "assumed; not yet measured on a GPU" in performance_page.ceilings([])


def test_resources_in_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["threads", "registers", "shared", "stack", "spills", "occupancy"]
    kernels = {
        "a_kernel<float, 3>": {"9.0": [128, 40, 0, 0, 0, 0.75], "8.0": [128, 38, 0, 0, 0, 0.75]},
        "a_kernel<double>": {"9.0": [256, 80, 512, 0, 0, 0.25]},
    }
    spilling = {
        "fp32: b_kernel (2)": {"9.0": [32, 255, 0, 8, 0.125], "8.0": [32, 255, 0, 0, 0.125]},
        "fp32: c_kernel": {"8.0": [32, 255, 0, 0, 0.125]},  # not compiled for this target
    }
    triton = [name for name in columns if name != "stack"]
    for name, heads, found in (("cuda", columns, kernels), ("triton", triton, spilling)):
        content = {"columns": heads, "groups": {"op": {"kernels": found}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr(performance_page, "RESOURCES", tmp_path)
    assert performance_page.resources("op").splitlines()[2:] == [
        "| CUDA | `a_kernel` | 2 | 128 to 256 | 40 to 80 | 0 to 512 | 25 to 75 % | none |",
        "| Triton | `b_kernel` | 1 | 32 | 255 | 0 | 12 % | 8 bytes in 1 of 2 |",
    ]


def test_where_eager_is_faster() -> None:
    def measured(ratio: float, layout: str, workload: str) -> dict[str, Any]:
        best = {"eager": {"variant": "cat", "ratio": ratio}}
        return {**record(9.0, "met", layout), "workload": workload, "best": best}

    records = (measured(0.7, "NCTHW", "a"), measured(1.2, "NTHWC", "a"), measured(1.1, "NCTHW", "b"))
    result = result_files.Result(Path("x.json"), "m", {}, records)
    assert performance_page.slower([result]).splitlines()[2:] == [
        "| `temporal_conv` | a | cpu | forward | 1 of 2 | 0.70 x cat |"
    ]
    assert performance_page.slower([]) == "None."
