"""Copies of the project and throw-away environments to install it into."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    *(
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "setup.py",
        "CMakeLists.txt",
        "MANIFEST.in",
        "_build_backend.py",
    ),
    *("csrc", "vidops", "triton_kernels", "configs"),
)
# What would change the outcome if the caller's shell had set it.
SETTINGS = (
    *("VIDOPS_BUILD", "VIDOPS_CPU_LEVEL", "VIDOPS_CPU_LEVELS", "VIDOPS_BACKEND"),
    *("TORCH_CUDA_ARCH_LIST", "PYTHONPATH", "CXX"),
)


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a subprocess."""
    return {key: value for key, value in os.environ.items() if key not in SETTINGS} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **changes,
    }


def copy_project(target: Path, *, built: bool) -> Path:
    """Copy the files of the project that make it up, with or without the libraries built in place."""
    products = () if built else ("*.so", "_build_record.json")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", *products))
        elif source.exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


def run_info(
    python: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any], str]:
    """Run ``vidops info --json``; return its exit status, its report and its standard error."""
    command = [str(python), "-m", "vidops", "info", "--json"]
    result = subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True)
    return result.returncode, json.loads(result.stdout) if result.stdout else {}, result.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the project without libraries."""
    return copy_project(tmp_path / "project", built=False)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a copy of the project with the libraries that lie in this checkout."""
    if not (ROOT / "vidops" / "_build_record.json").is_file() or not list((ROOT / "vidops").glob("_C.*.so")):
        pytest.skip("no libraries in this checkout: python setup.py build_ext --inplace")
    return copy_project(tmp_path / "project", built=True)


def unoptimised_compiler(folder: Path, objects: Path) -> dict[str, str]:
    """Return a setting of ``CXX`` under which kernels are compiled as they are, and once for all these tests.

    How fast they run is for other tests; these tests are about what is compiled, from where, and where it goes.
    """
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return {}
    command = [sys.executable, "-S", str(Path(__file__).with_name("unoptimised.py")), str(objects), compiler]
    script = folder / "unoptimised"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return {"CXX": str(script)}


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the objects that the session's installs have compiled, one for all of its processes."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "objects"
    folder.mkdir(exist_ok=True)
    return folder


class Venv:
    """A virtual environment; torch can be put among its files, our other packages after installing."""

    def __init__(self, folder: Path, objects: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = folder / "lib" / version / "site-packages"
        import torch

        self.outer = Path(torch.__file__).parents[1]
        self.compiler = unoptimised_compiler(folder, objects)

    def link_torch(self) -> None:
        """Put torch on disk, the way pip would; build isolation hides this folder from the build."""
        for entry in [self.outer / "torch", *self.outer.glob("torch-*.dist-info")]:
            (self.site / entry.name).symlink_to(entry)

    def share_packages(self) -> None:
        """Let the environment import everything of the outer one, after its own."""
        (self.site / "outer.pth").write_text(f"{self.outer}\n", encoding="utf-8")

    def pip(self, *arguments: str | Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run pip on this environment."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *map(str, arguments)]
        env = environment(MAX_JOBS="2", **self.compiler) | settings
        return subprocess.run(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def venv(tmp_path: Path, objects: Path) -> Callable[[], Venv]:
    """Return a function that makes a virtual environment."""
    return lambda: Venv(tmp_path / "venv", objects)
