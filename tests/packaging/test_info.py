"""What vidops makes of whole, damaged and missing libraries, and how ``vidops info`` tells it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vidops import _build
from vidops.cli import info

from .conftest import environment, run_info


def library_in_use() -> str:
    """Name the library that a subprocess loads."""
    return f"_ops_cpu_{_build.facts().cpu_capability}.so"


def test_whole_installation(built):
    status, report, errors = run_info(sys.executable, built)
    assert (status, errors) == (0, "")
    assert report["folder"] == str(built / "vidops")
    assert report["backends"]["cpu"]["available"]
    assert {"temporal_conv", "temporal_shift"} <= set(report["backends"]["cpu"]["operators"])
    assert report["backends"]["cpu"]["path"] == str(built / "vidops" / library_in_use())
    assert report["build"]["torch_target"] == "2.11"
    assert report["cpu"]["level"] == report["cpu"]["available"]


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_level_is_lowered(built, level):
    available = _build.facts().cpu_capability
    if available is None or _build.LEVELS.index(available) < _build.LEVELS.index(level):
        pytest.skip(f"this CPU has no {level}")
    status, report, _ = run_info(sys.executable, built, environment(VIDOPS_CPU_LEVEL=level))
    assert status == 0
    assert report["cpu"]["level"] == level
    assert report["backends"]["cpu"]["path"].endswith(f"_ops_cpu_{level}.so")
    assert report["environment"]["VIDOPS_CPU_LEVEL"] == level


def test_unknown_level_is_an_error(built):
    status, _, errors = run_info(sys.executable, built, environment(VIDOPS_CPU_LEVEL="sse9"))
    assert status == 2
    assert errors == "vidops: error: VIDOPS_CPU_LEVEL='sse9' is not one of baseline, avx2, avx512\n"


def check_broken(checkout, reason) -> None:
    """The installation is called broken for that reason, and vidops is of use all the same."""
    status, report, errors = run_info(sys.executable, checkout)
    assert (status, errors) == (1, "")
    cpu = report["backends"]["cpu"]
    assert (cpu["available"], cpu["broken"]) == (False, True)
    assert reason in cpu["reason"]
    assert "reinstall vidops" in cpu["reason"]
    assert report["backends"]["reference"]["available"]


@pytest.mark.parametrize("size", [1000, 150_000])
def test_truncated_library_is_broken(built, size):
    name = library_in_use()
    file = built / "vidops" / name
    assert file.stat().st_size > size
    file.write_bytes(file.read_bytes()[:size])
    check_broken(built, f"{name} is cut short")


def test_file_that_is_no_library_is_broken(built):
    (built / "vidops" / library_in_use()).write_text("version https://git-lfs", encoding="utf-8")
    check_broken(built, f"{library_in_use()} does not load (")


def test_library_of_another_abi_is_broken(built):
    name = library_in_use()
    file = built / "vidops" / name
    code = file.read_bytes()
    assert b"torch_call_dispatcher\0" in code or b"aoti_torch_get_dim\0" in code
    for symbol in (b"torch_call_dispatcher\0", b"aoti_torch_get_dim\0"):
        code = code.replace(symbol, symbol.replace(b"torch", b"tarch"))
    file.write_bytes(code)
    check_broken(built, "undefined symbol")


def test_missing_library_is_broken(built):
    name = library_in_use()
    (built / "vidops" / name).unlink()
    check_broken(built, f"{name} missing")


def test_damaged_facts_module_is_broken(built):
    (module,) = (built / "vidops").glob("_C.*.so")
    module.write_bytes(b"not a library")
    check_broken(built, "vidops._C does not load")


def test_facts_module_of_another_python_is_broken(built):
    (module,) = (built / "vidops").glob("_C.*.so")
    module.rename(module.with_name("_C.cpython-33m-x86_64-linux-gnu.so"))
    check_broken(built, "_C.cpython-33m-x86_64-linux-gnu.so was built for another Python")


def test_damaged_record_is_broken(built):
    (built / "vidops" / "_build_record.json").write_text("{", encoding="utf-8")
    check_broken(built, "_build_record.json cannot be read")


@pytest.mark.parametrize("text", ["", "[]", '{"cpu": {}}', '{"cpu": {"reason": 1}, "cuda": {"reason": ""}}'])
def test_damaged_record_is_told_from_none(tmp_path, text):
    assert _build._read_record(tmp_path) == (None, "")
    (tmp_path / "_build_record.json").write_text(text, encoding="utf-8")
    record, reason = _build._read_record(tmp_path)
    assert record is None
    assert reason.startswith("_build_record.json cannot be read (")


def test_checkout_without_libraries_says_how_to_build_them(checkout):
    status, report, errors = run_info(sys.executable, checkout)
    assert (status, errors) == (0, "")
    assert report["backends"]["cpu"]["reason"] == f"not built: {_build.HOW_TO_BUILD}"
    assert report["build"] is None
    assert report["cpu"] == {"level": None, "available": None, "built": [], "threads": 1}


def test_reason_of_the_install_is_shown(checkout):
    reason = "no C++ compiler was found (c++, g++ or clang++)"
    record = {name: {"built": False, "reason": reason} for name in ("cpu", "cuda")} | {
        "mode": "auto",
        "files": [],
    }
    (checkout / "vidops" / "_build_record.json").write_text(json.dumps(record), encoding="utf-8")
    status, report, _ = run_info(sys.executable, checkout)
    assert status == 0
    assert {report["backends"][name]["reason"] for name in ("cpu", "cuda")} == {f"not built: {reason}"}
    code = "import logging, torch, vidops; vidops.ops.temporal_shift(torch.ones(1, 8, 4, 2, 2))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=checkout, env=environment(), capture_output=True, text=True, check=True
    )
    assert reason in result.stderr  # the first fallback tells it too


def test_checkout_finds_its_triton_kernels(checkout):
    (checkout / "triton_kernels" / "_probe.py").write_text("WHERE = __name__\n", encoding="utf-8")
    code = "import vidops, vidops.triton_kernels._probe as p; print(p.WHERE, p.__file__)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=checkout, env=environment(), capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [
        "vidops.triton_kernels._probe",
        str(checkout / "triton_kernels" / "_probe.py"),
    ]


def test_second_copy_in_one_process_is_refused(built, tmp_path):
    import shutil

    shutil.copytree(built / "vidops", tmp_path / "again" / "vidops")
    code = f"""
import sys, vidops
for name in [name for name in sys.modules if name.split(".")[0] == "vidops"]:
    del sys.modules[name]
sys.path.insert(0, {str(tmp_path / "again")!r})
from vidops import _build
print(_build.status()["cpu"].reason)
"""
    command = [
        sys.executable,
        "-c",
        code.replace("from vidops import _build", "import vidops._build as _build"),
    ]
    result = subprocess.run(command, cwd=built, env=environment(), capture_output=True, text=True)
    assert "has been loaded into this process already" in result.stdout + result.stderr


# ---- in this process


def test_choice_of_level():
    built = list(_build.LEVELS)
    assert _build.choose_level("avx512", None, built) == "avx512"
    assert _build.choose_level("avx2", "avx512", built) == "avx2"
    assert _build.choose_level("avx512", "baseline", built) == "baseline"
    assert _build.choose_level("avx512", None, ["baseline"]) == "baseline"


@pytest.mark.parametrize("value", ["sse9", "AVX2", " avx2"])
def test_requested_level_is_checked(value):
    with pytest.raises(ValueError, match=r"^VIDOPS_CPU_LEVEL='.*' is not one of baseline, avx2, avx512$"):
        _build.requested_level({"VIDOPS_CPU_LEVEL": value})
    assert _build.requested_level({}) is None
    assert _build.requested_level({"VIDOPS_CPU_LEVEL": ""}) is None


def test_library_older_than_the_python_code_is_broken(monkeypatch):
    lacking = SimpleNamespace(name="new_op", missing={"cpu": "vidops::new_op is not registered"})
    monkeypatch.setitem(info.OPERATORS, "new_op", lacking)
    monkeypatch.setattr(info.BACKENDS["cpu"], "missing", "")
    backend = info._backend("cpu", _build.LibraryStatus(True, ""))
    assert backend["broken"]
    assert "new_op: vidops::new_op is not registered" in backend["reason"]


def test_kernel_that_only_the_other_library_has_is_no_damage(monkeypatch):
    if not _build.status()["cpu"].loaded:
        pytest.skip("no CPU library")
    operator = SimpleNamespace(name="temporal_shift", missing={"cuda": "it has no CUDA kernel"})
    monkeypatch.setattr(info, "OPERATORS", {"temporal_shift": operator})
    monkeypatch.setattr(info.BACKENDS["cuda"], "missing", "")
    backend = info._backend("cuda", _build.LibraryStatus(True, ""))
    assert (backend["broken"], backend["available"]) == (False, False)
    assert backend["reason"] == "temporal_shift: it has no CUDA kernel"


def test_gpu_backend_without_gpu_says_so(monkeypatch):
    operator = SimpleNamespace(name="temporal_shift", missing={"cuda": ""})
    monkeypatch.setattr(info, "OPERATORS", {"temporal_shift": operator})
    monkeypatch.setattr(info.BACKENDS["cuda"], "missing", "")
    monkeypatch.setattr(info.torch.cuda, "is_available", lambda: False)
    backend = info._backend("cuda", _build.LibraryStatus(True, ""))
    assert (backend["available"], backend["reason"]) == (True, "no GPU is visible")


def test_report_fits_a_screen():
    report = info.collect()
    report["backends"]["cpu"] |= {"broken": True, "reason": "word " * 40, "operators": ["some_operator"] * 9}
    report["broken"] = True
    lines = info.format_report(report).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines[1:])) <= 120
    assert any("BROKEN" in line and line.split()[0] == "cpu" for line in lines)


def test_command_prints_the_same_report(capsys):
    from vidops.cli import main

    assert main(["info", "--json"]) == int(info.collect()["broken"])
    report = json.loads(capsys.readouterr().out)
    assert report["versions"] == info.collect()["versions"]
    main(["info"])
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in report["backends"])


def test_a_reader_that_has_enough_is_no_error():
    code = "import time; time.sleep(1)\nfrom vidops.cli import main; raise SystemExit(main(['info']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert errors == ""
