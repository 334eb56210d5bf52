"""Builds the native libraries with CMake and Ninja; pyproject.toml describes the rest of the package."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TextIO

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a PEP 517 front end does not put it there

import _build_backend as backend  # noqa: E402

RECORD = "_build_record.json"
EXTENSION = "_C" + str(sysconfig.get_config_var("EXT_SUFFIX"))


def products(plan: backend.Plan) -> list[str]:
    """Return the files in ``vidops/`` that building leaves there, besides the record."""
    names = [EXTENSION, *(f"_ops_cpu_{level}.so" for level in backend.levels())] if plan.cpu else []
    return [*names, "_ops_cuda.so"] if plan.cuda else names


class CMakeBuild(build_ext):
    """Builds what the plan says, and writes down what was built or why it was not."""

    def run(self) -> None:
        """Build into ``build_lib``; for an editable install and ``--inplace``, beside the Python sources."""
        try:
            plan, torch = backend.current_plan()
            jobs = backend.max_jobs()
            target = ROOT / "vidops" if self.inplace else Path(self.build_lib).resolve() / "vidops"
            built = self._compile(plan, torch, jobs) if plan.cpu and torch else []
            target.mkdir(parents=True, exist_ok=True)
            for pattern in ("_C.*.so", "_ops_*.so", RECORD):
                for old in target.glob(pattern):
                    if old.name not in products(plan):
                        old.unlink()
            for file in built:
                shutil.copy2(file, target / f".{file.name}.new")
                os.replace(target / f".{file.name}.new", target / file.name)  # a process may run the old one
        except backend.BuildError as error:
            raise SetupError(str(error)) from None
        record = {
            "mode": plan.mode,
            "python": sysconfig.get_config_var("SOABI"),
            "cpu": {"built": plan.cpu, "reason": plan.cpu_reason},
            "cuda": {"built": plan.cuda, "reason": plan.cuda_reason},
            "files": products(plan),
        }
        (target / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name in ("cpu", "cuda"):
            print(f"vidops: {name} kernels: {record[name]['reason'] or 'built'}", file=sys.stderr)

    def _compile(self, plan: backend.Plan, torch: backend.Torch, jobs: int) -> list[Path]:
        """Configure, compile and return the results."""
        compiler, cmake, ninja = backend.find_compiler(), backend.find_cmake(), backend.find_program("ninja")
        assert compiler is not None
        assert cmake is not None
        assert ninja is not None
        options = {
            "CMAKE_MAKE_PROGRAM": ninja,
            "VIDOPS_TORCH_DIR": torch.root,
            "VIDOPS_TORCH_VERSION": torch.version,
            "VIDOPS_PYTHON_INCLUDE": sysconfig.get_path("include"),
            "VIDOPS_PYBIND11_INCLUDE": backend.pybind11_include(),
            "VIDOPS_EXT_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "VIDOPS_LEVELS": ";".join(backend.levels()),
            "VIDOPS_CUDA": "ON" if plan.cuda else "OFF",
        }
        if not os.environ.get("CXX"):  # CMake reads CXX itself, with the options it may hold
            options["CMAKE_CXX_COMPILER"] = compiler
        if plan.cuda:
            nvcc = backend.find_nvcc()
            assert nvcc is not None
            archs = backend.parse_arch_list(os.environ.get("TORCH_CUDA_ARCH_LIST"), backend.nvcc_archs(nvcc))
            options["CMAKE_CUDA_COMPILER"] = nvcc
            options["CMAKE_CUDA_HOST_COMPILER"] = compiler
            options["VIDOPS_CUDA_ARCHS"] = ";".join(archs)
            options["VIDOPS_CUDA_GENCODE"] = " ".join(backend.gencode(archs))
        # What CMake cannot change in a folder once configured gets its own folder; the rest is incremental.
        environment = [os.environ.get(name, "") for name in ("CXX", "CXXFLAGS", "CUDAFLAGS", "LDFLAGS")]
        key = [str(ROOT), str(torch.root), compiler, str(options.get("CMAKE_CUDA_COMPILER")), *environment]
        digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
        folder = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        define = [f"-D{name}={value}" for name, value in options.items()]
        with open(folder / "build.log", "w", encoding="utf-8") as log:
            run([cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *define], log, "configuring")
            run([cmake, "--build", str(folder), "--parallel", str(jobs)], log, "compiling")
        return [folder / "out" / name for name in products(plan)]

    def get_outputs(self) -> list[str]:
        """Return what the build leaves under ``build_lib`` (or would, were it not in place)."""
        plan, _ = backend.current_plan()
        return [str(Path(self.build_lib, "vidops", name)) for name in [*products(plan), RECORD]]

    def get_output_mapping(self) -> dict[str, str]:
        """Return where each of them lies in the source tree; a strict editable install links to there."""
        if not self.inplace:
            return {}
        return {name: str(Path("vidops", Path(name).name)) for name in self.get_outputs()}


def run(command: list[str], log: TextIO, what: str) -> None:
    """Run a command, showing its output and keeping it in a file; kernels' resource use is read there."""
    print(shlex.join(command), file=log, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(line)
        log.write(line)
    if process.wait():
        raise CompileError(
            f"{what} the kernels of vidops failed (the messages are above and in {log.name});"
            " VIDOPS_BUILD=none installs without them"
        )


packages = find_packages(include=["vidops", "vidops.*"], exclude=["vidops.triton_kernels*"])
setup(
    packages=[*packages, "vidops.triton_kernels", "vidops.configs"],
    package_dir={"vidops.triton_kernels": "triton_kernels", "vidops.configs": "configs"},
    package_data={"vidops": ["py.typed"], "vidops.tuning": ["*.json"], "vidops.configs": ["**/*.yaml"]},
    ext_modules=[Extension("vidops._C", ["csrc/bindings.cpp"])],
    cmdclass={"build_ext": CMakeBuild},
)
