"""Operator libraries built by tests: the CUDA kernels' own sources for the host, and the CPU kernels under sanitizers.

Backend ``"cuda_host"``: every file of ``csrc/cuda`` is compiled by the host compiler with ``cuda_host.h``, which gives
a block's threads fibers. The arithmetic of indices is checked while it runs: signed overflow, bounds of arrays and the
alignment of wide loads, as far as UndefinedBehaviorSanitizer sees them; a finding ends the process with its place.

Backend ``"cpu_sanitized"``: the files of ``csrc/cpu``, under AddressSanitizer and UndefinedBehaviorSanitizer.

Each is a library of CPU operators in a namespace of its own, and a new operator needs nothing here. With
``VIDOPS_HOST_CUDA_SANITIZE=1`` AddressSanitizer watches ``cuda_host`` too. It must be in the process from the start,
and the C++ runtime with it, or the first exception ends the process:

    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)" \\
        ASAN_OPTIONS=detect_leaks=0 VIDOPS_HOST_CUDA_SANITIZE=1 pytest ...
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vidops import _build
from vidops.ops import backends

ROOT = Path(__file__).resolve().parents[2]
# Whether a pointer is null, has wrapped around or leaves its object, AddressSanitizer sees at the access: these checks
# are left out, as they take a quarter of the time to compile and more. Nothing here has a vptr.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize=null,object-size,pointer-overflow,vptr")
HOST_BACKENDS = {"cuda_host": "csrc/cuda/*.cu", "cpu_sanitized": "csrc/cpu/*.cpp"}


def _sanitize() -> bool:
    return os.environ.get("VIDOPS_HOST_CUDA_SANITIZE", "") not in ("", "0")


FOLDER = ROOT / "build" / ("host_cuda_sanitized" if _sanitize() else "host_cuda")


def compiler() -> list[str]:
    """The host compiler's command, with its options if ``CXX`` holds some; empty where there is none."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return command if shutil.which(command[0]) else []


def flags(backend: str) -> list[str]:
    """What a source of this project needs to be compiled for a test backend."""
    options = [
        "-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
        "-fno-sanitize-recover=all", "-Wno-unknown-pragmas", "-Wno-attributes", "-Wno-psabi",
        "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-DVIDOPS_NAMESPACE=vidops_{backend}",
        f"-I{ROOT / 'csrc'}", "-isystem", f"{Path(torch.__file__).parent / 'include'}",
    ]  # fmt: skip
    if backend == "cuda_host":
        checks = SANITIZERS if _sanitize() else ["-fsanitize=alignment,bounds,shift,signed-integer-overflow"]
        options += [
            *checks, "-fno-strict-aliasing", "-DVIDOPS_CUDA_KEY=CPU", f"-I{Path(__file__).parent}",
        ]  # fmt: skip
    else:
        options += SANITIZERS
        if _build.status()["cpu"].level in ("avx2", "avx512"):
            options += ["-mavx2", "-mfma", "-mf16c"]
    if _sanitize() or backend == "cpu_sanitized":
        # Not optimised: a quarter of the time to compile, and nothing that is out of bounds gets optimised away.
        options.append("-O0")
    return options


def build(sources: list[Path], name: str, backend: str = "cuda_host") -> Path:
    """Compile sources (``.cu`` or ``.cpp``) into one library, unless that has been done before; return its path.

    One process compiles; another one that needs the same library waits for it.

    Raises:
        RuntimeError: the compiler failed; the text is what it said.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _compile(sources, name, backend)


def _compile(sources: list[Path], name: str, backend: str) -> Path:
    torch_lib = Path(torch.__file__).parent / "lib"
    command = [*compiler(), *flags(backend)]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    shared = hashlib.sha256("\0".join([version, torch.__version__, *command]).encode())
    own = (ROOT / HOST_BACKENDS[backend]).parent
    headers = [
        *own.glob("*.h"),
        *own.glob("*.cuh"),
        *ROOT.glob("csrc/common/*.h"),
        *Path(__file__).parent.glob("*.h"),
    ]
    for file in sorted(headers):
        shared.update(file.name.encode() + file.read_bytes())
    objects = {source: _object(source, name, shared) for source in sources}
    digest = hashlib.sha256("\0".join(path.name for path in objects.values()).encode())
    library = FOLDER / f"{name}-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch, ThreadPoolExecutor(_build_jobs()) as pool:

        def compile_one(source: Path, target: Path) -> None:
            if not target.is_file():
                made = Path(scratch, target.name)
                _run([*command, "-c", "-x", "c++", str(source), "-o", str(made)])
                made.rename(target)

        # The longest first, or the others would wait for it at the end.
        longest = sorted(objects.items(), key=lambda item: item[0].stat().st_size, reverse=True)
        for done in [pool.submit(compile_one, *item) for item in longest]:
            done.result()
        made = Path(scratch, library.name)
        linked = [*map(str, objects.values()), "-o", str(made), str(torch_lib / "libtorch_cpu.so")]
        _run([*command, "-shared", *linked])
        for old in [*FOLDER.glob(f"{name}-*.so"), *FOLDER.glob(f"{name}-*.o")]:
            if old not in objects.values():
                old.unlink(missing_ok=True)
        made.rename(library)
    return library


def _object(source: Path, name: str, shared: hashlib._Hash) -> Path:
    """Where the object of a source lies; its name changes with all that the object is made of."""
    digest = shared.copy()
    digest.update(source.name.encode() + source.read_bytes())
    return FOLDER / f"{name}-{source.stem}-{digest.hexdigest()[:16]}.o"


def _build_jobs() -> int:
    """Compilers at once."""
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def _run(command: list[str]) -> None:
    # Without AddressSanitizer in the compiler itself, where it takes a quarter of the time and finds nothing of ours.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")


@functools.cache
def available(backend: str = "cuda_host") -> str:
    """Why a test backend cannot be built and loaded here; empty where it can."""
    if not compiler():
        return "no host compiler (g++, or CXX)"
    if (_sanitize() or backend == "cpu_sanitized") and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        return "AddressSanitizer needs LD_PRELOAD=$(g++ -print-file-name=libasan.so)"
    return ""


@functools.cache
def library(backend: str = "cuda_host") -> Path:
    """The library of a test backend, built if it has not been."""
    sources = [ROOT / "csrc" / "schema.cpp", *sorted(ROOT.glob(HOST_BACKENDS[backend]))]
    return build(sources, backend, backend)


@functools.cache
def register(backend: str = "cuda_host") -> str:
    """Build and load a test backend and give it to every operator; returns why it cannot run here, or ``""``.

    Raises:
        RuntimeError: the compiler failed; the text is what it said.
    """
    if reason := available(backend):
        return reason
    torch.ops.load_library(str(library(backend)))
    made = backends.Backend(backend, f"vidops_{backend}", ("cpu",), key="CPU")
    backends.BACKENDS[backend] = made
    for operator in backends.OPERATORS.values():
        operator.add_backend(made)
    return ""
