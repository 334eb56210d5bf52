"""Real installs: sdist, wheel, editable, without a compiler, with one that fails."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .conftest import environment, run_info

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed"),
]

INSTALL = ("install", "--no-deps", "--no-build-isolation")
USE_KERNELS = """
import torch, vidops, vidops.triton_kernels
x = torch.randn(2, 16, 4, 5, 5)
assert torch.equal(vidops.ops.temporal_shift(x, backend="cpu"), vidops.reference.temporal_shift(x))
print(vidops.triton_kernels.__file__)
"""


def use_kernels(python: Path, cwd: Path) -> Path:
    """Run a kernel in an environment; return where its Triton kernels lie."""
    command = [str(python), "-c", USE_KERNELS]
    result = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def lines_with(text: str, start: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith(start)]


def test_sdist_to_wheel_to_environment_beside_torch(checkout, venv, tmp_path):
    # One build under isolation, from a source archive, with torch on disk beside it.
    code = "import _build_backend; print(_build_backend.build_sdist('dist'))"
    env = environment(PYTHONPATH=str(checkout))
    subprocess.run([sys.executable, "-c", code], cwd=checkout, env=env, check=True, capture_output=True)
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    sources = {str(path.relative_to(checkout)) for path in (checkout / "csrc").rglob("*") if path.is_file()}
    assert (
        sources | {"CMakeLists.txt", "_build_backend.py", "setup.py", "triton_kernels/__init__.py"} <= names
    )
    assert not [name for name in names if name.endswith((".so", ".pyc", "_build_record.json"))]

    environment_ = venv()
    environment_.link_torch()
    wheel = ("wheel", "-v", "--no-deps", "-w", tmp_path / "wheels", archive)
    result = environment_.pip(*wheel, cwd=tmp_path, VIDOPS_CPU_LEVELS="baseline")
    assert result.returncode == 0, result.stdout
    assert not lines_with(result.stdout, "Collecting torch")  # it was found where isolation hides it
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "vidops/_build_record.json",
        "vidops/triton_kernels/__init__.py",
        "vidops/configs/demo/tiny_mstnet.yaml",
        "vidops/_ops_cpu_baseline.so",
    } <= names
    assert not [
        name for name in names if name.endswith((".cpp", ".cu", ".h")) or name.startswith(("triton", "csrc"))
    ]

    result = environment_.pip("install", "--no-deps", wheel, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    environment_.share_packages()
    status, report, errors = run_info(environment_.python, tmp_path)
    assert (status, errors) == (0, "")
    assert report["backends"]["cpu"]["available"]
    assert report["folder"] == str(environment_.site / "vidops")
    assert (
        use_kernels(environment_.python, tmp_path).parent == environment_.site / "vidops" / "triton_kernels"
    )


def test_editable_then_strict_then_none(checkout, venv, tmp_path):
    environment_ = venv()
    environment_.share_packages()
    result = environment_.pip(*INSTALL, "-e", checkout, cwd=tmp_path, VIDOPS_CPU_LEVELS="baseline")
    assert result.returncode == 0, result.stdout
    status, report, errors = run_info(environment_.python, tmp_path)
    assert (status, errors, report["folder"]) == (0, "", str(checkout / "vidops"))
    assert use_kernels(environment_.python, tmp_path).parent == checkout / "triton_kernels"

    strict = ("--config-settings", "editable_mode=strict", "-e", checkout)
    result = environment_.pip(*INSTALL, *strict, cwd=tmp_path, VIDOPS_CPU_LEVELS="baseline")
    assert result.returncode == 0, result.stdout
    status, report, errors = run_info(environment_.python, tmp_path)
    assert (status, errors) == (0, "")
    folder = Path(report["folder"])
    assert folder.is_relative_to(checkout / "build")
    assert Path(report["backends"]["cpu"]["path"]).parent == folder
    assert use_kernels(environment_.python, tmp_path).parent == folder / "triton_kernels"

    # A wheel holds what this build made, nothing of the libraries that lie in the checkout by now.
    result = environment_.pip(*INSTALL, checkout, cwd=tmp_path, VIDOPS_BUILD="none")
    assert result.returncode == 0, result.stdout
    assert not list((environment_.site / "vidops").glob("*.so"))
    assert list((checkout / "vidops").glob("*.so"))
    result = environment_.pip(*INSTALL, "-e", checkout, cwd=tmp_path, VIDOPS_BUILD="none")
    assert result.returncode == 0, result.stdout
    assert not list((checkout / "vidops").glob("*.so"))
    status, report, _ = run_info(environment_.python, tmp_path)
    assert status == 0
    assert report["backends"]["cpu"]["reason"] == (
        "not built: VIDOPS_BUILD=none was set when vidops was installed"
    )


def test_without_a_compiler(checkout, venv, tmp_path):
    environment_ = venv()
    environment_.share_packages()
    (tmp_path / "bin").mkdir()
    path = {"PATH": str(tmp_path / "bin"), "CXX": ""}
    result = environment_.pip(*INSTALL, checkout, cwd=tmp_path, **path)
    assert result.returncode == 0, result.stdout
    status, report, errors = run_info(environment_.python, tmp_path)
    assert (status, errors) == (0, "")
    assert report["backends"]["cpu"]["reason"].startswith("not built: no C++ compiler was found")
    assert report["backends"]["reference"]["available"]
    result = environment_.pip(*INSTALL, checkout, cwd=tmp_path, VIDOPS_BUILD="cpu", **path)
    assert result.returncode != 0
    assert len(lines_with(result.stdout, "error: VIDOPS_BUILD=cpu: no C++ compiler was found")) == 1
    assert "Traceback" not in result.stdout


def test_unknown_mode_fails_in_one_line(checkout, venv, tmp_path):
    environment_ = venv()
    environment_.share_packages()
    result = environment_.pip(*INSTALL, checkout, cwd=tmp_path, VIDOPS_BUILD="gpu")
    assert result.returncode != 0
    expected = "error: VIDOPS_BUILD='gpu' is not one of auto, cpu, cuda, none"
    assert lines_with(result.stdout, "error: VIDOPS") == [expected]
    assert "Traceback" not in result.stdout


def test_compiler_error_fails_the_install(checkout, venv, tmp_path):
    (checkout / "csrc" / "schema.cpp").write_text("int broken = ;\n", encoding="utf-8")
    environment_ = venv()
    environment_.share_packages()
    result = environment_.pip(*INSTALL, checkout, cwd=tmp_path, VIDOPS_CPU_LEVELS="baseline")
    assert result.returncode != 0
    assert "schema.cpp:1:14: error:" in result.stdout  # the compiler's own words
    assert len(lines_with(result.stdout, "error: compiling the kernels of vidops failed")) == 1
    assert "Traceback" not in result.stdout
    assert not (environment_.site / "vidops").exists()
