"""benchmarks/gpu_check.sh, rehearsed on the CPU, and the program that it gives to compute-sanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vidops.ops.backends import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
if not SCRIPT.is_file():
    pytest.skip("there is no benchmarks folder beside the tests", allow_module_level=True)


def check(out: Path, *stages: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "PYTHON": sys.executable,
        "VIDOPS_GPU_CHECK_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    return subprocess.run(
        [str(SCRIPT), str(out), *stages],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_rehearsal(tmp_path: Path) -> None:
    if OPERATORS["temporal_shift"].why_not("cpu", "cpu"):
        pytest.skip("the CPU kernels are not built")
    done = check(tmp_path / "out", "info", "sanitize:temporal_shift")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "=== info"
    assert lines[1].startswith("machine ")
    assert "temporal_shift cpu on cpu: 48 comparisons, 0 wrong" in lines
    assert any(line.startswith("no GPU: each operator's program runs on the CPU backend") for line in lines)
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert [line.split()[0] for line in summary] == ["===", "info", "sanitize:temporal_shift", "no"]
    assert (tmp_path / "out" / "sanitize_temporal_shift.log").is_file()


def test_a_stage_that_fails_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text("def test_broken():\n    assert False\n")
    done = check(tmp_path / "out", f"test:{broken}", "sanitize:no_such_operator")
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert summary.count("FAILED, status") == 2
    (log,) = (tmp_path / "out").glob("test_*.log")
    assert "1 failed" in log.read_text()


def test_time_runs_out(tmp_path: Path) -> None:
    slow = tmp_path / "test_slow.py"
    slow.write_text("import time\n\ndef test_slow():\n    time.sleep(60)\n")
    done = check(tmp_path / "out", f"test:{slow}", VIDOPS_GPU_CHECK_LIMIT="6")
    assert done.returncode == 1
    assert "FAILED: ran out of time" in done.stdout


@pytest.mark.parametrize("stages", [("nonsense",), ("info", "tests")])
def test_unknown_stages(stages: tuple[str, ...], tmp_path: Path) -> None:
    done = check(tmp_path / "out", *stages)
    assert done.returncode == 2
    assert f"no stage {stages[-1]}" in done.stderr
    assert not done.stdout


def test_usage() -> None:
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "benchmarks/gpu_check.sh OUTDIR [STAGE...]" in done.stdout


def test_a_wrong_kernel_fails_the_program() -> None:
    program = ROOT / "benchmarks" / "run_operator.py"
    if OPERATORS["temporal_shift"].why_not("cpu", "cpu"):
        pytest.skip("the CPU kernels are not built")
    code = f"""
import runpy, sys
from vidops.ops.backends import OPERATORS
kernels = OPERATORS["temporal_shift"].kernels
right = kernels["cpu"]
kernels["cpu"] = lambda x, fold: right(x, fold) + 0.001
sys.argv = ["run_operator.py", "temporal_shift", "--backend", "cpu", "--device", "cpu"]
runpy.run_path({str(program)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "WRONG temporal_shift cpu case 0 float32 NCTHW forward" in done.stdout
