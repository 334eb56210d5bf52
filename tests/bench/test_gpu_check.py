"""benchmarks/gpu_check.sh: rehearsed on the CPU, and its ways on a GPU with stubs for Python and NVIDIA's tools."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vidops.bench.small import replay_small
from vidops.ops.backends import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
if not SCRIPT.is_file():
    pytest.skip("there is no benchmarks folder beside the tests", allow_module_level=True)

GO_ON = "to go on: "
# A Python that knows two operators and does at once, or in $SLOW seconds, what the script asks of the real one.
STUB = """#!/bin/bash
case "$*" in
  *find_spec*) ;;
  *load_benchmarks*) printf 'one\\ntwo\\n' ;;
  *capability*) echo 9.0 ;;
  *run_network.py*--list*) echo net_a; echo net_b ;;
  *"run_operator.py two"*) sleep "${SLOW:-0}"; echo "$*"; exit "${BROKEN:-0}" ;;
  *run_operator.py* | *run_network.py*) sleep "${SLOW:-0}"; echo "$*" ;;
  *"bench "*--list*) printf 'two/cuda/a\\ntwo/cuda/b\\none/cuda/a\\nnetwork/cuda/a\\n' ;;
  *"bench --show"*) echo shown > "${@: -1}"; echo picture ;;
  *"bench two"*) [ -z "${CRASH:-}" ] || { echo two > "${@: -1}"; echo "Traceback: $CRASH"; exit 1; }
    echo '1 kernels measured'; echo "${MORE:-}"; echo two > "${@: -1}" ;;
  *"bench "*) echo '1 kernels measured'; echo one > "${@: -1}" ;;
  *"vidops tune"*) echo values > "${@: -1}" ;;
  *"setup.py"*) echo "arch $TORCH_CUDA_ARCH_LIST"; exit "${BROKEN:-0}" ;;
  *) cat > /dev/null; echo "asked for $*" ;;
esac
"""


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


def going_on(done: subprocess.CompletedProcess[str]) -> str:
    """OUTDIR and stages of the command that goes on, which is the last line."""
    command = done.stdout.splitlines()[-1]
    assert command.startswith(GO_ON)
    return command.split("benchmarks/gpu_check.sh ")[1]


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder of programs that stand for those of a machine with a GPU."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    program(folder, "python", STUB)
    program(folder, "nvidia-smi", "#!/bin/bash\necho 'NVIDIA H200, 580.1, 143771 MiB, 345 MHz, 30'\n")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def check_gpu(stubs: Path, *stages: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script where it believes in a GPU."""
    return check(
        stubs.parent / "out",
        *stages,
        PYTHON=str(stubs / "python"),
        PATH=f"{stubs}:/usr/bin:/bin",
        VIDOPS_GPU_CHECK_DEVICE="cuda",
        **environment,
    )


def test_rehearsal(tmp_path: Path) -> None:
    if OPERATORS["temporal_shift"].why_not("cpu", "cpu"):
        pytest.skip("the CPU kernels are not built")
    done = check(tmp_path / "out", "info", "sanitize:temporal_shift")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "=== info"
    assert lines[1].startswith("machine ")
    assert sum("temporal_shift cpu on cpu: 48 comparisons, 0 wrong" in line for line in lines) == 1
    assert any(line.startswith("no GPU: each operator's program runs on the CPU backend") for line in lines)
    summary = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert [line.split()[0] for line in summary] == ["===", "info", "sanitize:temporal_shift", "no"]
    with tarfile.open(tmp_path / "out" / "logs.tgz") as logs:
        assert "logs/sanitize-temporal_shift.log" in logs.getnames()
    assert "comparisons, 0 wrong" in (tmp_path / "out" / "log.txt").read_text()


def test_a_stage_that_fails_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text("def test_broken():\n    assert False\n")
    done = check(tmp_path / "out", f"test:{broken}", "sanitize:no_such_operator")
    assert done.returncode == 1
    assert "no operator no_such_operator" in done.stdout
    assert (tmp_path / "out" / "summary.txt").read_text().count("FAILED") == 2
    assert GO_ON not in done.stdout
    with tarfile.open(tmp_path / "out" / "logs.tgz") as logs:
        log = logs.extractfile("logs/test-paths.log")
        assert log is not None
        assert b"1 failed" in log.read()


def test_tests_end_in_time_and_what_is_left_is_named(tmp_path: Path) -> None:
    some = tmp_path / "test_some.py"
    some.write_text("def test_first():\n    pass\n\ndef test_second():\n    pass\n")
    done = check(tmp_path / "out", f"test:{some}", VIDOPS_GPU_CHECK_LIMIT="20")
    assert done.returncode == 3, done.stdout
    assert "1 passed" in done.stdout
    assert "ok, not finished: the time is over" in done.stdout
    (left,) = going_on(done).split()[1:]
    assert left.startswith("test:")
    assert left.endswith("test_some.py::test_second")


@pytest.mark.slow
def test_a_test_that_hangs_ends_with_the_time(tmp_path: Path) -> None:
    slow = tmp_path / "test_slow.py"
    slow.write_text("import time\n\ndef test_slow():\n    time.sleep(60)\n")
    done = check(tmp_path / "out", f"test:{slow}", "info", VIDOPS_GPU_CHECK_LIMIT="12")
    assert done.returncode == 3
    assert going_on(done) == f"{tmp_path}/out test:{slow} info"


def test_a_broken_context_is_told_with_its_error(tmp_path: Path) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text(
        "import torch\n"
        "def test_it(monkeypatch):\n"
        "    def fail():\n        raise RuntimeError('an illegal memory access')\n"
        "    torch.cuda.is_initialized = lambda: True\n"
        "    torch.cuda.synchronize = fail\n"
        "    assert False\n\n"
        "def test_next():\n    pass\n"
    )
    done = check(tmp_path / "out", f"test:{broken}")
    assert done.returncode == 1
    assert "the GPU ran nothing more after these:" in done.stdout
    assert "test_broken.py::test_it: an illegal memory access" in done.stdout
    assert GO_ON in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("stages", [("nonsense",), ("info", "tests")])
def test_unknown_stages(stages: tuple[str, ...], tmp_path: Path) -> None:
    done = check(tmp_path / "out", *stages)
    assert done.returncode == 2
    assert f"no stage {stages[-1]}" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    ("stages", "settings", "text"),
    [
        (("info:x",), {}, "the stage info takes no items, got info:x"),
        (("plot:x",), {}, "the stage plot takes no items, got plot:x"),
        (("build:all",), {}, "the stage build takes carried and nothing else, got build:all"),
        ((), {"LIMIT": "abc"}, "VIDOPS_GPU_CHECK_LIMIT must be a whole number above 0, got abc"),
        ((), {"JOBS": "0"}, "VIDOPS_GPU_CHECK_JOBS must be a whole number above 0, got 0"),
        ((), {"DEVICE": "tpu"}, "VIDOPS_GPU_CHECK_DEVICE must be cuda or cpu, got tpu"),
    ],
)
def test_what_is_refused_leaves_no_folder(
    stages: tuple[str, ...], settings: dict[str, str], text: str, tmp_path: Path
) -> None:
    given = {f"VIDOPS_GPU_CHECK_{name}": value for name, value in settings.items()}
    done = check(tmp_path / "out", *stages, **given)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"gpu_check.sh: {text}\n")
    assert not (tmp_path / "out").exists()


def test_a_stage_is_no_folder() -> None:
    done = check(Path("info"))
    assert done.returncode == 2
    assert done.stderr == (
        "gpu_check.sh: OUTDIR comes first, and info is a stage; write ./info for a folder of that name\n"
    )


def test_without_time_nothing_is_begun(stubs: Path) -> None:
    stages = "build:carried", "bench", "tune:one", "plot"
    done = check_gpu(stubs, *stages, VIDOPS_GPU_CHECK_LIMIT="15")
    assert done.returncode == 3, done.stdout
    summary = (stubs.parent / "out" / "summary.txt").read_text().splitlines()[1:-1]
    assert [line.split(" s  ")[1] for line in summary] == [
        "ok", "not begun: the time is over", "not begun: the time is over", "nothing to draw",
    ]  # fmt: skip
    assert going_on(done) == f"{stubs.parent}/out bench:one,two tune:one"


def test_what_goes_on_has_the_settings(tmp_path: Path, stubs: Path) -> None:
    out = tmp_path / "a folder"
    python = str(stubs / "python")
    done = check(out, "build:carried", PYTHON=python, VIDOPS_GPU_CHECK_LIMIT="5", VIDOPS_GPU_CHECK_JOBS="2")
    settings = f"PYTHON={python} VIDOPS_GPU_CHECK_DEVICE=cpu VIDOPS_GPU_CHECK_LIMIT=5 VIDOPS_GPU_CHECK_JOBS=2"
    folder = str(out).replace(" ", "\\ ")
    assert done.stdout.splitlines()[-1] == f"{GO_ON}{settings} benchmarks/gpu_check.sh {folder} build:carried"


def test_a_program_that_wants_a_gpu_says_so() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/run_operator.py"), "temporal_shift", "--device", "cuda"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "no GPU is visible\n", "")


def test_usage() -> None:
    asked = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True)
    assert (asked.returncode, asked.stdout) == (0, done.stdout)
    assert done.returncode == 2
    assert "benchmarks/gpu_check.sh OUTDIR [STAGE" in done.stdout
    assert done.stdout.rstrip().endswith("PYTHON names the interpreter (python3).")


SANITIZERS = {
    "missing": "",
    "cannot run": "#!/bin/bash\necho 'Device not supported'\nexit 1\n",
    "finds nothing": "#!/bin/bash\necho fine\n",
    "finds": '#!/bin/bash\n[[ "$*" != *"racecheck"*" two "* ]] || { echo "Race reported"; exit 9; }\necho fine\n',
}


@pytest.mark.parametrize("tool", SANITIZERS)
def test_sanitizers(stubs: Path, tool: str) -> None:
    if SANITIZERS[tool]:
        program(stubs, "compute-sanitizer", SANITIZERS[tool])
    done = check_gpu(stubs, "sanitize")
    assert done.stderr == ""
    ran = [line.split()[0] for line in done.stdout.splitlines() if " ok " in line and "  s  " not in line]
    plain = ["one", "two"]
    checked = [f"{t}/{op}" for t in ("memcheck", "initcheck", "racecheck", "synccheck") for op in plain]
    if tool in ("missing", "cannot run"):
        assert done.returncode == 0
        assert "ok (without compute-sanitizer)" in done.stdout
        assert ("Device not supported" in done.stdout) == (tool == "cannot run")
        assert set(plain) <= set(ran)
        return
    assert done.returncode == (1 if tool == "finds" else 0), done.stdout
    found = {"racecheck/two"} if tool == "finds" else set()
    assert set(plain + checked) - found <= set(ran)
    assert ("Race reported" in done.stdout) == (tool == "finds")


def test_chosen_runs_of_the_sanitizer(stubs: Path) -> None:
    program(stubs, "compute-sanitizer", "#!/bin/bash\necho fine\n")
    done = check_gpu(stubs, "sanitize:racecheck/two,memcheck", VIDOPS_GPU_CHECK_JOBS="1")
    ran = [line.split()[0] for line in done.stdout.splitlines() if "fine" in line]
    assert ran == ["memcheck/one", "memcheck/two", "racecheck/two"]


def test_jobs_that_do_not_fit_are_left(stubs: Path) -> None:
    done = check_gpu(stubs, "graphs", SLOW="3", VIDOPS_GPU_CHECK_JOBS="1", VIDOPS_GPU_CHECK_LIMIT="17")
    assert done.returncode == 3, done.stdout
    assert done.stdout.count(" ok ") == 1
    assert going_on(done) == f"{stubs.parent}/out graphs:net_a,net_b,two"


@pytest.mark.slow
def test_a_job_is_stopped_with_the_time(stubs: Path) -> None:
    done = check_gpu(
        stubs, "graphs:one,net_a", "plot", SLOW="60", VIDOPS_GPU_CHECK_JOBS="2", VIDOPS_GPU_CHECK_LIMIT="17"
    )
    assert done.returncode == 3
    assert done.stdout.count("the time is over") == 4, done.stdout
    assert going_on(done) == f"{stubs.parent}/out graphs:net_a,one plot"


def test_bench_networks_and_plot(stubs: Path) -> None:
    more = "not measured for want of time: two/cuda/b"
    done = check_gpu(stubs, "bench", "networks", "plot", MORE=more)
    assert done.returncode == 3, done.stdout
    assert "there is nothing" not in done.stdout
    assert (stubs.parent / "out" / "operators.json").read_text() == "shown\n"
    assert {file.name for file in (stubs.parent / "out").iterdir()} == {
        "log.txt", "summary.txt", "logs.tgz", "operators.json", "operators.png", "networks.json", "networks.png",
    }  # fmt: skip
    lines = done.stdout.splitlines()
    timed = [line for line in lines if line.endswith("1 kernels measured")]
    assert [line.split(":")[0] for line in timed] == ["one", "two", "speed"]
    assert going_on(done) == f"{stubs.parent}/out bench:two"
    (summary,) = (line for line in lines if line.startswith("bench "))
    assert "ok, not finished" in summary


@pytest.mark.slow
def test_checks_leave_half_of_the_time_to_what_is_timed(stubs: Path) -> None:
    done = check_gpu(stubs, "bench", SLOW="300", VIDOPS_GPU_CHECK_JOBS="2", VIDOPS_GPU_CHECK_LIMIT="63")
    assert done.stdout.count(" s: the time is over") == 2, done.stdout
    assert done.stdout.count("stopped after 31 s") + done.stdout.count("stopped after 32 s") == 2


def test_values_of_several_operators_are_one_file(stubs: Path) -> None:
    done = check_gpu(stubs, "tune:one,two")
    assert done.returncode == 0, done.stdout
    out = stubs.parent / "out"
    with tarfile.open(out / "tuning.tgz") as values:
        assert sorted(values.getnames()) == ["tuning_one.json", "tuning_two.json"]
    assert not list(out.glob("tuning*.json"))


def test_a_bench_that_breaks_off_fails(stubs: Path) -> None:
    done = check_gpu(stubs, "bench:one,two", CRASH="out of resources")
    assert done.returncode == 1, done.stdout
    assert "Traceback: out of resources" in done.stdout
    assert (stubs.parent / "out" / "operators.json").is_file()  # what was measured is kept


@pytest.mark.parametrize("broken", ["0", "1"])
def test_build(stubs: Path, broken: str) -> None:
    done = check_gpu(stubs, "build", BROKEN=broken)
    assert done.returncode == int(broken)
    assert "GPU of compute capability 9.0" in done.stdout
    assert ("arch 9.0" in done.stdout) == (broken == "1")  # the end of the log
    assert ("asked for -m vidops info" in done.stdout) == (broken == "0")
    carried = check_gpu(stubs, "build:carried", BROKEN="1")
    assert carried.returncode == 0
    assert "asked for -m vidops info" in carried.stdout
    assert "to go on" not in carried.stdout


def test_what_was_carried_is_not_compiled_in_a_rehearsal(stubs: Path) -> None:
    out = stubs.parent / "out"
    done = check(out, "build:carried", PYTHON=str(stubs / "python"), BROKEN="1")
    assert done.returncode == 0, done.stdout
    assert "asked for -m vidops info" in done.stdout
    assert not (out / "build").exists()


def test_a_wrong_kernel_fails_the_program() -> None:
    program = ROOT / "benchmarks" / "run_operator.py"
    if OPERATORS["temporal_shift"].why_not("cpu", "cpu"):
        pytest.skip("the CPU kernels are not built")
    code = f"""
import runpy, sys
from vidops.bench.small import replay_small
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


def test_a_replay_that_differs_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    if OPERATORS["temporal_shift"].why_not("cpu", "cpu"):
        pytest.skip("the CPU kernels are not built")
    kernels = OPERATORS["temporal_shift"].kernels
    right, calls = kernels["cpu"], []

    def drifting(x: object, fold: int) -> object:
        calls.append(fold)
        return right(x, fold) + len(calls) * 1e-3

    monkeypatch.setitem(kernels, "cpu", drifting)
    result = next(replay_small("temporal_shift", "cpu", "cpu"))
    assert "replay 0: result 0 differs from the eager call's in" in result.reason
