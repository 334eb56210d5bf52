"""What setup.py decides to build, from settings, tools and torch."""

from __future__ import annotations

import importlib.util
import stat
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ROOT

KNOWN = ["75", "80", "86", "87", "88", "89", "90", "100", "103", "110", "120", "121"]


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_build_backend", ROOT / "_build_backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_build_backend"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("text", [None, ""])
def test_default_mode(backend, text):
    assert backend.build_mode({} if text is None else {"VIDOPS_BUILD": text}) == "auto"


@pytest.mark.parametrize("mode", ["auto", "cpu", "cuda", "none"])
def test_modes(backend, mode):
    assert backend.build_mode({"VIDOPS_BUILD": mode}) == mode


@pytest.mark.parametrize("mode", ["gpu", "CPU", "cpu,cuda", " "])
def test_unknown_mode_names_the_setting(backend, mode):
    with pytest.raises(backend.BuildError, match=r"^VIDOPS_BUILD='.*' is not one of auto, cpu, cuda, none$"):
        backend.build_mode({"VIDOPS_BUILD": mode})


def test_jobs(backend):
    assert backend.max_jobs({"MAX_JOBS": "3"}) == 3
    assert backend.max_jobs({}) >= 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1 "])
def test_bad_jobs_name_the_setting(backend, text):
    with pytest.raises(backend.BuildError, match=r"^MAX_JOBS="):
        backend.max_jobs({"MAX_JOBS": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["8.0", "9.0", "10.0", "12.0+PTX"]),
        (" ", ["8.0", "9.0", "10.0", "12.0+PTX"]),
        ("9.0", ["9.0"]),
        ("9.0a", ["9.0a"]),
        ("9.0+PTX", ["9.0+PTX"]),
        ("8.0;9.0", ["8.0", "9.0"]),
        ("8.0 9.0a 12.0+PTX", ["8.0", "9.0a", "12.0+PTX"]),
        ("8.0, 9.0;", ["8.0", "9.0"]),
        ("9.0 9.0", ["9.0"]),
        ("Hopper", ["9.0+PTX"]),
        ("Ampere;Ada", ["8.0", "8.6+PTX", "8.9+PTX"]),
        ("10.3f", ["10.3f"]),
    ],
)
def test_arch_list(backend, text, expected):
    assert backend.parse_arch_list(text, KNOWN) == expected


def test_default_archs_leave_out_what_an_older_nvcc_lacks(backend):
    assert backend.parse_arch_list(None, ["80", "86", "90"]) == ["8.0", "9.0+PTX"]
    with pytest.raises(backend.BuildError, match="TORCH_CUDA_ARCH_LIST"):
        backend.parse_arch_list(None, ["70"])


@pytest.mark.parametrize("text", ["9", "sm_90", "9.0+ptx", "Hopper+PTX", "Voodoo", "9.0x", "9.0 native"])
def test_unknown_arch_is_named(backend, text):
    with pytest.raises(backend.BuildError, match=r"^TORCH_CUDA_ARCH_LIST=.*is neither a number"):
        backend.parse_arch_list(text, KNOWN)


def test_arch_that_nvcc_lacks_is_named(backend):
    with pytest.raises(backend.BuildError, match=r"^TORCH_CUDA_ARCH_LIST='6\.0': .*cannot compile for 6\.0$"):
        backend.parse_arch_list("6.0", KNOWN)


def test_gencode(backend):
    assert backend.gencode(["9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


def make_torch(folder: Path, version: str, cuda: str | None) -> Path:
    root = folder / "torch"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "libtorch_cpu.so").touch()
    lines = ["from typing import Optional", f"__version__ = {version!r}", f"cuda: Optional[str] = {cuda!r}"]
    (root / "version.py").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_torch_is_read_without_importing_it(backend, tmp_path, cuda):
    root = make_torch(tmp_path, "2.11.0+cu130", cuda)
    torch = backend.read_torch(root)
    assert (torch.root, torch.version, torch.cuda) == (root.resolve(), "2.11.0+cu130", cuda)


def test_incomplete_torch_is_none(backend, tmp_path):
    root = make_torch(tmp_path, "2.11.0", None)
    (root / "lib" / "libtorch_cpu.so").unlink()
    assert backend.read_torch(root) is None
    assert backend.read_torch(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("version", "enough"), [("2.10.1", False), ("2.11.0", True), ("2.13.0+cpu", True), ("3.0.0a0+git1", True)]
)
def test_torch_version_bound(backend, tmp_path, version, enough):
    assert backend.read_torch(make_torch(tmp_path, version, None)).recent_enough is enough


def test_torch_is_found_on_disk_where_isolation_hides_it(backend, tmp_path, monkeypatch):
    root = make_torch(tmp_path, "2.12.0", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(backend, "site_folders", lambda: [tmp_path / "other", tmp_path])
    assert backend.find_torch().root == root.resolve()
    monkeypatch.setattr(backend, "site_folders", lambda: [tmp_path / "other"])
    assert backend.find_torch() is None


def test_the_torch_that_python_imports_comes_first(backend):
    import torch

    assert backend.find_torch().version == torch.__version__


def test_site_folders_hold_the_environment(backend):
    import sysconfig

    assert Path(sysconfig.get_path("purelib")) in backend.site_folders()


@pytest.fixture
def tools(backend, monkeypatch):
    """A machine with every tool and no torch but an imagined one."""
    state = {"compiler": "/usr/bin/g++", "cmake": "/usr/bin/cmake", "ninja": "/usr/bin/ninja", "torch": None}
    monkeypatch.setattr(backend, "find_compiler", lambda: state["compiler"])
    monkeypatch.setattr(backend, "find_cmake", lambda: state["cmake"])
    monkeypatch.setattr(backend, "find_program", lambda name: state[name])
    monkeypatch.setattr(backend, "find_torch", lambda: state["torch"])
    for name in ("VIDOPS_BUILD", "MAX_JOBS", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return state


def test_torch_is_required_only_where_there_is_none(backend, tools):
    assert backend._native_requirements() == ["torch>=2.11"]
    tools["torch"] = backend.Torch(Path("/x"), "2.13.0", None)
    assert backend._native_requirements() == []
    tools["torch"] = backend.Torch(Path("/x"), "2.9.1", None)
    assert backend._native_requirements() == ["torch>=2.11"]


def test_cmake_and_ninja_are_required_only_where_missing(backend, tools):
    tools.update(torch=backend.Torch(Path("/x"), "2.13.0", None), cmake=None, ninja=None)
    assert backend._native_requirements() == ["cmake>=3.22", "ninja"]


@pytest.mark.parametrize("reason", ["none", "no compiler"])
def test_nothing_is_required_for_what_is_not_built(backend, tools, monkeypatch, reason):
    if reason == "none":
        monkeypatch.setenv("VIDOPS_BUILD", "none")
    else:
        tools["compiler"] = None
    assert backend._native_requirements() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"VIDOPS_BUILD": "gpu"}, "error: VIDOPS_BUILD='gpu' is not one of"),
        ({"MAX_JOBS": "x"}, "error: MAX_JOBS='x'"),
        ({"VIDOPS_BUILD": "cpu"}, "error: VIDOPS_BUILD=cpu: no C++ compiler was found"),
    ],
)
def test_a_front_end_is_told_in_one_line(backend, tools, monkeypatch, settings, message):
    tools["compiler"] = None
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        backend._native_requirements()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def plan(backend, mode, *, cuda=None, missing=(), nvcc="/usr/bin/nvcc", sources=True):
    torch = backend.Torch(Path("/x"), "2.13.0", cuda)
    return backend.make_plan(mode, torch, list(missing), nvcc, sources)


def test_auto_builds_cuda_for_a_cuda_torch_with_nvcc(backend):
    made = plan(backend, "auto", cuda="13.0")
    assert (made.cpu, made.cuda, made.cpu_reason, made.cuda_reason) == (True, True, "", "")


def test_auto_says_why_there_is_no_cuda(backend):
    assert "not a CUDA build" in plan(backend, "auto").cuda_reason
    assert "nvcc was not found" in plan(backend, "auto", cuda="13.0", nvcc=None).cuda_reason
    assert "no CUDA kernels" in plan(backend, "auto", cuda="13.0", sources=False).cuda_reason


def test_cuda_builds_against_any_torch(backend):
    made = plan(backend, "cuda")
    assert (made.cpu, made.cuda) == (True, True)


def test_cpu_and_none_say_that_they_were_asked_for(backend):
    assert (
        plan(backend, "cpu", cuda="13.0").cuda_reason == "VIDOPS_BUILD=cpu was set when vidops was installed"
    )
    made = plan(backend, "none", missing=["no C++ compiler was found"])
    assert (made.cpu, made.cuda) == (False, False)
    assert made.cpu_reason == "VIDOPS_BUILD=none was set when vidops was installed"


def test_a_missing_tool_is_a_reason_only_for_auto(backend):
    made = plan(backend, "auto", cuda="13.0", missing=["no C++ compiler was found", "ninja was not found"])
    assert (made.cpu, made.cuda) == (False, False)
    assert made.cpu_reason == "no C++ compiler was found; ninja was not found"
    for mode in ("cpu", "cuda"):
        with pytest.raises(backend.BuildError, match=f"^VIDOPS_BUILD={mode}: no C"):
            plan(backend, mode, missing=["no C++ compiler was found"])
    with pytest.raises(backend.BuildError, match=r"^VIDOPS_BUILD=cuda: nvcc was not found"):
        plan(backend, "cuda", nvcc=None)


def test_compiler_of_the_user_comes_first(backend, tmp_path, monkeypatch):
    compiler = tmp_path / "my++"
    compiler.write_text("#!/bin/sh\n", encoding="utf-8")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    assert backend.find_compiler({"CXX": f"{compiler} -pipe"}) == str(compiler)
    assert backend.find_compiler({"CXX": str(tmp_path / "gone++")}) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert backend.find_compiler({}) is None


def test_levels_by_machine(backend):
    assert backend.levels("x86_64", {}) == ["baseline", "avx2", "avx512"]
    assert backend.levels("aarch64", {}) == ["baseline"]
    assert backend.levels("x86_64", {"VIDOPS_CPU_LEVELS": "avx2, baseline"}) == ["baseline", "avx2"]
    for text, why in (("baseline,sse9", "'sse9' is not one of baseline, avx2"), ("avx2", "lacks baseline")):
        with pytest.raises(backend.BuildError, match=f"VIDOPS_CPU_LEVELS='{text}'.*{why}"):
            backend.levels("x86_64", {"VIDOPS_CPU_LEVELS": text})
