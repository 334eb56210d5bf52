"""The committed results, and the tables that are made of them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vidops.bench import load_benchmarks

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("there is no benchmarks folder beside the tests", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import readme_table  # noqa: E402
import result_files  # noqa: E402
import run_network  # noqa: E402

CPU = "2026-11-22_amd-epyc-2-cores.json"


def report(**more: Any) -> dict[str, Any]:
    machine = {"cpu": "AMD EPYC", "cores": 2, "cpu_level": "avx512", "gpu": None, "revision": "abc"}
    return {
        "format": 1,
        "date": "2026-11-22T06:00:00+00:00",
        "machine": {**machine, "versions": {"torch": "2.13.0", "triton": "3.7.1"}},
        "options": {"quick": False, "pattern": ""},
        "ceilings": [],
        "results": [],
        "foreign_load": 0.0,
        **more,
    }


def record(group: str = "g", **more: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "kind": "kernel",
        "variant": "cuda",
        "layout": "NCTHW",
        "status": "ok",
        "device": "cuda",
    }
    common |= {"workload": "w", "dtype": "float32", "direction": "forward", "threads": None, "reason": ""}
    figures = {"seconds": 1.0, "quartiles": [1.0, 1.0], "error": 0.0, "foreign_load": 0.0}
    return {"group": group, "operator": group, **common, **figures, "targets": [], **more}


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def test_committed_results_are_in_order() -> None:
    results = result_files.load()
    assert results
    assert all(result.report["results"] for result in results)


def test_readme_shows_the_committed_results() -> None:
    assert readme_table.main(["--check"]) == 0, "run: python benchmarks/readme_table.py"


def test_a_stale_table_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "README.md"
    text = readme_table.README.read_text(encoding="utf-8")
    stale.write_text(text.replace("| cpu |", "| gpu |", 1), encoding="utf-8")
    monkeypatch.setattr(readme_table, "README", stale)
    assert readme_table.main(["--check"]) == 1
    assert readme_table.main([]) == 0
    assert stale.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("name", "more", "text"),
    [
        (CPU, {}, ""),
        ("2026-11-22_amd-epyc-zen5-2-cores_part_one.json", {}, ""),
        ("results.json", {}, "its name is not DATE_MACHINE"),
        ("2026-11-23_amd-epyc-2-cores.json", {}, "it was measured on 2026-11-22"),
        ("2026-11-22_intel-2-cores.json", {}, "does not hold amd and epyc"),
        ("2026-11-22_amd-epyc-4-cores.json", {}, "does not end in 2-cores"),
        (CPU, {"options": {"quick": True}}, "--quick"),
        (CPU, {"results": [record(status="wrong")]}, "cuda is wrong in g"),
        (CPU, {"results": [record(device="cpu", foreign_load=0.9)]}, "others kept 0.90 cores busy"),
    ],
)
def test_names_and_contents_are_checked(name: str, more: dict[str, Any], text: str) -> None:
    found = "; ".join(result_files.faults(name, report(**more)))
    assert (text in found) if text else not found


def test_uncommitted_revisions_are_refused() -> None:
    for revision in ("abc-dirty", None):
        changed = report()
        changed["machine"]["revision"] = revision
        assert result_files.faults(CPU, changed) == ["it is of no committed revision"]


def test_the_newest_measurement_of_a_group_counts(tmp_path: Path) -> None:
    late = {"date": "2026-11-22T09:00:00+00:00"}
    write(tmp_path, CPU, report(results=[record("a"), record("b")]))
    write(tmp_path, CPU.replace(".json", "_a.json"), report(results=[record("a")], **late))
    write(tmp_path, "2026-11-22_amd-epyc-zen5-2-cores.json", report(results=[record("a")]))
    counted = {
        result.path.name: [r["group"] for r in result.records] for result in result_files.load(tmp_path)
    }
    assert counted == {
        CPU: ["b"],
        "2026-11-22_amd-epyc-2-cores_a.json": ["a"],
        "2026-11-22_amd-epyc-zen5-2-cores.json": ["a"],
    }
    write(tmp_path, CPU.replace(".json", "_b.json"), report(results=[record("b")], **late))
    with pytest.raises(ValueError, match=r"2026-11-22_amd-epyc-2-cores\.json: newer files hold all"):
        result_files.load(tmp_path)


def test_files_of_one_run_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = {"date": "2026-11-22T07:00:00+00:00", "foreign_load": 0.1}
    write(tmp_path, "a.json", report(results=[record("a")], **later))
    write(tmp_path, "b.json", report(results=[record("b")]))
    files, into = [str(tmp_path / "a.json"), str(tmp_path / "b.json")], tmp_path / "results"
    into.mkdir()
    command = [*files, "--machine", "zen5", "--part", "ab", "--into", str(into)]
    assert result_files.main(command) == 0
    (result,) = result_files.load(into)
    assert result.path.name == "2026-11-22_amd-epyc-zen5-2-cores_ab.json"
    assert [r["group"] for r in result.records] == ["b", "a"]
    assert (result.report["date"], result.report["foreign_load"]) == ("2026-11-22T06:00:00+00:00", 0.1)
    assert result_files.main(command) == 2
    assert "exists" in capsys.readouterr().err
    other = report(results=[record("c")])
    other["machine"]["revision"] = "def"
    write(tmp_path, "c.json", other)
    assert result_files.main([files[0], str(tmp_path / "c.json"), "--into", str(into)]) == 2
    assert "their revisions differ: 'def' and 'abc'" in capsys.readouterr().err


def gpu(name: str = "NVIDIA H200") -> dict[str, Any]:
    """A report as a GPU would give one, of made-up figures: every target of every case, in every layout."""
    results = []
    for operator, benchmark in load_benchmarks().items():
        for workload in (w for w in benchmark.workloads if w.device == "cuda"):
            for dtype in workload.dtypes:
                for direction in workload.directions:
                    for layout in workload.layouts:
                        for variant, seconds in (("cuda", 1.0), ("triton", 2.0)):
                            results.append(
                                record(
                                    f"{operator}/cuda/{workload.name}/{dtype}/{direction}",
                                    operator=operator,
                                    workload=workload.name,
                                    dtype=dtype,
                                    direction=direction,
                                    layout=layout,
                                    variant=variant,
                                    seconds=seconds,
                                    targets=[
                                        {
                                            "text": target.text(),
                                            "metric": target.metric,
                                            "value": target.limit * seconds,
                                            "verdict": "met" if seconds == 1 else "missed",
                                        }
                                        for target in workload.targets
                                        if target.concerns(direction, dtype, layout)
                                    ],
                                )
                            )
    made = copy.deepcopy(report(results=results))
    made["machine"]["gpu"] = {"name": name}
    return made


def test_without_a_gpu_the_table_says_so() -> None:
    table = readme_table.gpu_table([])
    assert table.startswith("GPU: not yet measured on a GPU.")
    rows = table.splitlines()[4:]
    assert rows
    assert all("not yet measured on a GPU" in row for row in rows)
    assert {row.split("`")[1] for row in rows} == set(load_benchmarks())


def test_a_gpus_results_fill_the_table(tmp_path: Path) -> None:
    made = gpu()
    slow = next(r for r in made["results"] if r["group"].startswith("temporal_shift/cuda/16x256"))
    slow["seconds"] = 3.0  # its CUDA kernel is slower than Triton's in the first layout
    bad = [
        r for r in made["results"] if r["group"].startswith("temporal_shift/cuda/64x1024x8x14x14/float32/b")
    ]
    for entry in bad:
        entry["status"] = "wrong"
    write(tmp_path, "2026-11-22_nvidia-h200.json", made)
    with pytest.raises(ValueError, match="cuda is wrong in temporal_shift"):
        result_files.load(tmp_path)
    result = result_files.Result(Path("x.json"), "nvidia-h200", made, tuple(made["results"]))
    table = readme_table.gpu_table([result])
    assert table.startswith(
        "NVIDIA H200, torch 2.13.0, Triton 3.7.1; from [x.json](benchmarks/results/x.json)."
    )
    assert "not yet measured" not in table
    rows = {tuple(row.split(" | ")[:3]): row.split(" | ")[3:] for row in table.splitlines()[4:]}
    layouts = "(NCTHW / NTCHW / NTHWC)"
    key = ("| `temporal_shift`", "forward <= 1.1 x floor", f"16x256x8x56x56 {layouts}")
    assert rows[key] == [
        "2.20 x triton missed / 1.10 x cuda / 1.10 x cuda",
        "1.10 x / 1.10 x / 1.10 x cuda |",
    ]
    key = ("| `temporal_shift`", "backward <= 1.1 x floor", f"64x1024x8x14x14 {layouts}")
    assert rows[key] == ["1.10 x / 1.10 x / 1.10 x cuda", "wrong / wrong / wrong cuda |"]
    assert "| 15.0 us cuda |" in table


def test_a_gpus_file_changes_the_readme(tmp_path: Path) -> None:
    write(tmp_path, "2026-11-22_nvidia-h200.json", gpu())
    text = readme_table.filled(f"a{readme_table.BEGIN}old{readme_table.END}b", result_files.load(tmp_path))
    assert "old" not in text
    assert "GPU: not yet" not in text
    assert "Networks: not yet measured on a GPU." in text  # the file holds none
    assert (text[0], text[-1]) == ("a", "b")


def network(workload: str, direction: str, speed: float, **more: Any) -> dict[str, Any]:
    target = {
        "text": f"{direction} >= 1.5 x reference",
        "metric": "speedup",
        "value": speed,
        "verdict": "met",
    }
    return {
        **record(f"network/{workload}/{direction}", operator="network", workload=workload, variant="fused"),
        **{"dtype": "bfloat16", "direction": direction, "threads": None, "seconds": 1.0},
        **{"clips_per_second": 1000 * speed, "ratios": {"reference": speed}, "targets": [target]},
        **more,
    }


def test_networks_have_a_table(tmp_path: Path) -> None:
    table = readme_table.network_table([], "cuda")
    named = ["mstnet_resnet50", "bqn_x3d_m", "dan_x3d_xs", "rnl_tsm_resnet50", "mf_kpsem"]
    assert [row.split()[1] for row in table.splitlines()[4:]] == named
    assert table.count("not yet measured on a GPU") == 2 * len(named) + 1
    assert readme_table.network_table([], "cpu") == ""
    made = gpu()
    first = table.splitlines()[4].split(" | ")[0].removeprefix("| ")
    other = network("tsm 1x8", "inference", 1.1, targets=[])
    other["ratios"]["torch.compile"] = 0.9
    made["results"] = [network(first, "inference", 1.6), network(first, "training", 1.4), other]
    write(tmp_path, "2026-11-22_nvidia-h200.json", made)
    rows = readme_table.network_table(result_files.load(tmp_path), "cuda").splitlines()
    assert rows[0].startswith("Networks on NVIDIA H200, torch 2.13.0; from [2026-11-22_nvidia-h200.json](")
    assert rows[4] == (
        f"| {first} | bfloat16 | 1600 (1.60 x) | 1400 (1.40 x) |"
        " inference >= 1.5 x reference: 1.60 x, met; training >= 1.5 x reference: 1.40 x, met |"
    )
    assert rows[-1] == "| tsm 1x8 | bfloat16 | 1100 (1.10 x; 0.90 x torch.compile) | - | - |"
    assert readme_table.UNMEASURED in rows[5]


def test_networks_on_a_cpu(tmp_path: Path) -> None:
    common = {"device": "cpu", "foreign_load": 0.0, "targets": []}
    one, two = (network("tsm 1x8", "inference", n / 1000, threads=n, **common) for n in (1, 2))
    write(tmp_path, CPU, report(results=[two, one]))
    assert readme_table.network_table(result_files.load(tmp_path), "cpu").splitlines()[-1] == (
        "| tsm 1x8 | bfloat16 | 1.00 / 2.00 (0.00 x / 0.00 x) | - | - |"
    )


def test_a_copy_without_git_is_told_its_revision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gpu()
    made["machine"]["revision"] = None
    write(tmp_path, "a.json", made)
    command = [str(tmp_path / "a.json"), "--into", str(tmp_path / "results")]
    assert result_files.main(command) == 2
    assert "no committed revision" in capsys.readouterr().err
    assert result_files.main([*command, "--revision", "abc1234"]) == 0
    (result,) = result_files.load(tmp_path / "results")
    assert (result.path.name, result.gpu) == ("2026-11-22_nvidia-h200.json", "NVIDIA H200")
    assert result.report["machine"]["revision"] == "abc1234"
    write(tmp_path, "a.json", gpu())
    assert result_files.main([*command, "--revision", "def"]) == 2
    assert "say that they are of abc" in capsys.readouterr().err


def test_an_unknown_network_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_network.py", "tsm_resnet5", "--list"])
    with pytest.raises(SystemExit) as end:
        run_network.main()
    assert end.value.code == 2
    assert "no network is called like 'tsm_resnet5'; did you mean tsm_resnet50?" in capsys.readouterr().err
