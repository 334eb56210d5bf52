"""In-tree PEP 517 backend: setuptools, and the one place that decides what of the native code gets built.

The decision is made from the environment (`VIDOPS_BUILD`, `VIDOPS_CPU_LEVELS`, `TORCH_CUDA_ARCH_LIST`,
`MAX_JOBS`), from the tools that are present and from the torch that is installed. setup.py carries it out.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent
MODES = ("auto", "cpu", "cuda", "none")
MINIMUM_TORCH = (2, 11)
MINIMUM_CMAKE = (3, 22)
DEFAULT_ARCHS = ("8.0", "9.0", "10.0", "12.0")
NAMED_ARCHS = {
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere": "8.0 8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0 12.0+PTX",
}


class BuildError(Exception):
    """What was asked for cannot be built; the text is one line for the user."""


# ---- settings


def build_mode(environ: Mapping[str, str] = os.environ) -> str:
    """Return the checked value of ``VIDOPS_BUILD``."""
    mode = environ.get("VIDOPS_BUILD") or "auto"
    if mode not in MODES:
        raise BuildError(f"VIDOPS_BUILD={mode!r} is not one of {', '.join(MODES)}")
    return mode


def max_jobs(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many compilers may run at once: ``MAX_JOBS`` or the number of cores."""
    text = environ.get("MAX_JOBS")
    if not text:
        return os.cpu_count() or 1
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise BuildError(f"MAX_JOBS={text!r} is not a positive whole number")
    return int(text)


def parse_arch_list(text: str | None, known: Iterable[str]) -> list[str]:
    """Read ``TORCH_CUDA_ARCH_LIST`` into names such as ``["8.0", "9.0a", "12.0+PTX"]``.

    Args:
        text: names of generations or numbers, divided by blanks, commas or semicolons; None or empty: the
            default list, as far as this nvcc knows it, with PTX of the newest.
        known: what nvcc can compile for, as ``80``, ``90`` ...

    Raises:
        BuildError: a part is not understood, or this nvcc cannot compile for it.
    """
    known = set(known)
    if not text or not text.strip(" ,;"):
        archs = [arch for arch in DEFAULT_ARCHS if arch.replace(".", "") in known]
        if not archs:
            raise BuildError(
                f"nvcc knows none of the GPUs {', '.join(DEFAULT_ARCHS)}; set TORCH_CUDA_ARCH_LIST"
            )
        return [*archs[:-1], archs[-1] + "+PTX"]
    expanded: list[str] = []
    for part in re.split(r"[\s,;]+", text.strip(" ,;")):
        name, plus, _ = part.partition("+")
        expanded += NAMED_ARCHS[name].split() if name in NAMED_ARCHS and not plus else [part]
    archs = []
    for part in expanded:
        match = re.fullmatch(r"([0-9]+)\.([0-9])([af]?)(\+PTX)?", part)
        if not match:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST={text!r}: {part!r} is neither a number such as 9.0, 9.0a or 9.0+PTX"
                f" nor one of {', '.join(NAMED_ARCHS)}"
            )
        if match[1] + match[2] not in known:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST={text!r}: this nvcc cannot compile for {match[1]}.{match[2]}"
            )
        if part not in archs:
            archs.append(part)
    return archs


def gencode(archs: Iterable[str]) -> list[str]:
    """Return nvcc's options for targets named as by :func:`parse_arch_list`."""
    options = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options


# ---- torch


@dataclass(frozen=True)
class Torch:
    """An installed torch, read from its files alone."""

    root: Path
    version: str
    cuda: str | None

    @property
    def recent_enough(self) -> bool:
        """Whether it has the stable ABI that the kernels are compiled against."""
        return tuple(int(n) for n in re.findall(r"\d+", self.version)[:2]) >= MINIMUM_TORCH


def read_torch(root: Path) -> Torch | None:
    """Read the torch package in ``root``; None where that is no complete torch."""
    version_file = root / "version.py"
    if not version_file.is_file() or not (root / "lib" / "libtorch_cpu.so").is_file():
        return None
    values: dict[str, Any] = {}
    for node in ast.parse(version_file.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            values[target.id] = value.value
    if "__version__" not in values:
        return None
    return Torch(root.resolve(), values["__version__"], values.get("cuda"))


def site_folders() -> list[Path]:
    """Return where pip installs for this interpreter, even where build isolation hides it."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    config = Path(sys.prefix, "pyvenv.cfg")
    isolated = config.is_file() and not re.search(
        r"^include-system-site-packages\s*=\s*true",
        config.read_text(encoding="utf-8"),
        re.MULTILINE | re.IGNORECASE,
    )
    if not isolated:
        base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
        folders += [sysconfig.get_path("purelib", vars=base), sysconfig.get_path("platlib", vars=base)]
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in dict.fromkeys(folders)]


def find_torch() -> Torch | None:
    """Find torch on the import path or, under build isolation, on disk beside the interpreter."""
    spec = importlib.util.find_spec("torch")
    roots = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for root in [*roots, *(folder / "torch" for folder in site_folders())]:
        if torch := read_torch(root):
            return torch
    return None


# ---- tools


def find_program(name: str) -> str | None:
    """Find a program on PATH or among the scripts of this interpreter, where pip puts cmake and ninja."""
    return shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))


def find_compiler(environ: Mapping[str, str] = os.environ) -> str | None:
    """Find the C++ compiler: ``CXX``, else c++, g++ or clang++."""
    if environ.get("CXX"):
        return shutil.which(shlex.split(environ["CXX"])[0])
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def find_cmake() -> str | None:
    """Find a CMake that is new enough."""
    for path in (shutil.which("cmake"), shutil.which("cmake", path=sysconfig.get_path("scripts"))):
        if path:
            text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            match = re.search(r"version (\d+)\.(\d+)", text)
            if match and (int(match[1]), int(match[2])) >= MINIMUM_CMAKE:
                return path
    return None


def find_nvcc(environ: Mapping[str, str] = os.environ) -> str | None:
    """Find nvcc: ``CUDACXX``, ``CUDA_HOME``, PATH, then the usual place."""
    if environ.get("CUDACXX"):
        return shutil.which(environ["CUDACXX"])
    homes = [environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    for home in homes:
        if path := shutil.which("nvcc", path=str(Path(home, "bin"))):
            return path
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def nvcc_archs(nvcc: str) -> list[str]:
    """Return what this nvcc compiles for, as ``80``, ``90`` ..."""
    text = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"compute_(\d+)\b", text)


def pybind11_include() -> str | None:
    """Return the folder of pybind11's headers."""
    if importlib.util.find_spec("pybind11") is None:
        return None
    import pybind11

    return str(pybind11.get_include())


# ---- the decision


@dataclass(frozen=True)
class Plan:
    """What will be built and, for what will not, why; the reasons are installed with the package."""

    mode: str
    cpu: bool
    cpu_reason: str
    cuda: bool
    cuda_reason: str


def missing_tools(torch: Torch | None) -> list[str]:
    """Name every tool that building the CPU kernels lacks."""
    missing = []
    if sys.platform != "linux":
        missing.append(f"the kernels are built on Linux only, not on {sys.platform}")
    if find_compiler() is None:
        named = f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else "c++, g++ or clang++"
        missing.append(f"no C++ compiler was found ({named})")
    if torch is None:
        missing.append("torch was not found; install it before vidops")
    elif not torch.recent_enough:
        missing.append(f"torch {torch.version} is older than {'.'.join(map(str, MINIMUM_TORCH))}")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append("Python.h was not found (the package python3-dev or python3-devel)")
    if find_cmake() is None:
        missing.append(f"no cmake of at least {'.'.join(map(str, MINIMUM_CMAKE))} was found")
    if find_program("ninja") is None:
        missing.append("ninja was not found")
    if pybind11_include() is None:
        missing.append("pybind11 was not found")
    return missing


def make_plan(
    mode: str, torch: Torch | None, missing: list[str], nvcc: str | None, cuda_sources: bool
) -> Plan:
    """Decide what to build.

    Raises:
        BuildError: ``mode`` names what a missing tool makes impossible.
    """
    if mode == "none":
        reason = "VIDOPS_BUILD=none was set when vidops was installed"
        return Plan(mode, False, reason, False, reason)
    no_cuda = ""
    if mode == "cpu":
        no_cuda = "VIDOPS_BUILD=cpu was set when vidops was installed"
    elif mode == "auto" and torch is not None and torch.cuda is None:
        no_cuda = f"torch {torch.version}, found when vidops was installed, is not a CUDA build"
    elif nvcc is None:
        no_cuda = "nvcc was not found when vidops was installed"
    elif not cuda_sources:
        no_cuda = "there are no CUDA kernels in csrc/cuda"
    if mode != "auto" and missing:
        raise BuildError(f"VIDOPS_BUILD={mode}: {'; '.join(missing)}")
    if mode == "cuda" and no_cuda:
        raise BuildError(f"VIDOPS_BUILD=cuda: {no_cuda}")
    if missing:
        reason = "; ".join(missing)
        return Plan(mode, False, reason, False, reason)
    return Plan(mode, True, "", not no_cuda, no_cuda)


def current_plan() -> tuple[Plan, Torch | None]:
    """Decide from the environment of this process."""
    mode = build_mode()
    if mode == "none":
        return make_plan(mode, None, [], None, False), None
    torch = find_torch()
    sources = any((ROOT / "csrc" / "cuda").glob("*.cu"))
    return make_plan(mode, torch, missing_tools(torch), find_nvcc(), sources), torch


def levels(machine: str = platform.machine(), environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the instruction-set levels to build on a machine, lowest first: all, or ``VIDOPS_CPU_LEVELS``."""
    known = ["baseline", "avx2", "avx512"] if machine in ("x86_64", "AMD64") else ["baseline"]
    text = environ.get("VIDOPS_CPU_LEVELS") or ",".join(known)
    chosen = [name for name in re.split(r"[\s,;]+", text) if name]
    if unknown := [name for name in chosen if name not in known]:
        raise BuildError(f"VIDOPS_CPU_LEVELS={text!r}: {unknown[0]!r} is not one of {', '.join(known)}")
    if "baseline" not in chosen:
        raise BuildError(f"VIDOPS_CPU_LEVELS={text!r} lacks baseline, which every CPU runs")
    return [name for name in known if name in chosen]


# ---- PEP 517 and 660 hooks


def _native_requirements() -> list[str]:
    """Return what pip must bring for the native build; never torch where one is installed."""
    try:
        max_jobs()
        levels()
        if build_mode() == "none" or sys.platform != "linux":
            return []
        if find_compiler() is None:
            if build_mode() != "auto":
                current_plan()
            return []
    except BuildError as error:
        raise SystemExit(f"error: {error}") from None
    requirements = []
    if find_cmake() is None:
        requirements.append(f"cmake>={'.'.join(map(str, MINIMUM_CMAKE))}")
    if find_program("ninja") is None:
        requirements.append("ninja")
    torch = find_torch()
    if torch is None or not torch.recent_enough:
        requirements.append(f"torch>={'.'.join(map(str, MINIMUM_TORCH))}")
    return requirements


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """PEP 517."""
    return [*_setuptools().get_requires_for_build_wheel(config_settings), *_native_requirements()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """PEP 660."""
    return [*_setuptools().get_requires_for_build_editable(config_settings), *_native_requirements()]


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """PEP 517; modules and libraries that an earlier build left behind do not get into the wheel."""
    for folder in ROOT.glob("build/lib*"):
        shutil.rmtree(folder)
    return str(_setuptools().build_wheel(wheel_directory, config_settings, metadata_directory))


def __getattr__(name: str) -> Any:
    """Every other hook is that of setuptools."""
    if name not in _PASSED_ON:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_setuptools(), name)


_PASSED_ON = (
    "build_editable",
    "build_sdist",
    "get_requires_for_build_sdist",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
)


def _setuptools() -> ModuleType:
    # Only for a front end: the decisions above must not need setuptools.
    from setuptools import build_meta

    return build_meta
