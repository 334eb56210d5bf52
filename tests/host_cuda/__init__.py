"""The CUDA kernels' own sources, built for the host: backend ``"cuda_host"``, for tests only.

Every file of ``csrc/cuda`` is compiled by the host compiler with ``cuda_host.h``, which gives a block's threads
fibers, into a library of CPU operators in the namespace ``vidops_cuda_host``. A new operator needs nothing here.

The arithmetic of indices is checked while it runs: signed overflow, bounds of arrays and the alignment of wide loads,
as far as UndefinedBehaviorSanitizer sees them; a finding ends the process with its place. With
``VIDOPS_HOST_CUDA_SANITIZE=1`` AddressSanitizer watches all memory as well; it must be in the process from the start:

    LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 VIDOPS_HOST_CUDA_SANITIZE=1 pytest ...
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from vidops.ops import backends

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "host_cuda"
NAMESPACE = "vidops_cuda_host"


def _sanitize() -> bool:
    return os.environ.get("VIDOPS_HOST_CUDA_SANITIZE", "") not in ("", "0")


def compiler() -> list[str]:
    """The host compiler's command, with its options if ``CXX`` holds some; empty where there is none."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return command if shutil.which(command[0]) else []


def flags() -> list[str]:
    """What a CUDA source of this project needs to be compiled for the host."""
    checks = "alignment,bounds,shift,signed-integer-overflow"
    return [
        "-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=fast",
        f"-fsanitize={'address,undefined' if _sanitize() else checks}", "-fno-sanitize=vptr", "-fno-sanitize-recover=all",
        "-Wno-unknown-pragmas", "-Wno-attributes",
        "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-DVIDOPS_NAMESPACE={NAMESPACE}", "-DVIDOPS_CUDA_KEY=CPU",
        f"-I{ROOT / 'csrc'}", f"-I{Path(__file__).parent}", "-isystem", f"{Path(torch.__file__).parent / 'include'}",
    ]


def build(sources: list[Path], name: str) -> Path:
    """Compile sources (``.cu`` or ``.cpp``) into one library, unless that has been done before; return its path.

    Raises:
        RuntimeError: the compiler failed; the text is what it said.
    """
    torch_lib = Path(torch.__file__).parent / "lib"
    command = [*compiler(), *flags()]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\0".join([version, torch.__version__, *command]).encode())
    for file in sorted([*sources, *ROOT.glob("csrc/**/*.*"), *Path(__file__).parent.glob("*.h")]):
        digest.update(file.name.encode() + file.read_bytes())
    library = FOLDER / f"{name}-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        objects = [Path(scratch, f"{i}-{source.stem}.o") for i, source in enumerate(sources)]
        for source, target in zip(sources, objects, strict=True):
            _run([*command, "-c", "-x", "c++", str(source), "-o", str(target)])
        made = Path(scratch, library.name)
        _run([*command, "-shared", *map(str, objects), "-o", str(made), str(torch_lib / "libtorch_cpu.so")])
        for old in FOLDER.glob(f"{name}-*.so"):
            old.unlink(missing_ok=True)
        made.rename(library)
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")


@functools.cache
def available() -> str:
    """Why the CUDA kernels cannot run on the host here; empty where they can."""
    if not compiler():
        return "no host compiler (g++, or CXX)"
    if _sanitize() and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        return "VIDOPS_HOST_CUDA_SANITIZE=1 needs LD_PRELOAD=$(g++ -print-file-name=libasan.so)"
    return ""


@functools.cache
def register() -> str:
    """Build and load the kernels, give them to every operator, and return the name of their backend."""
    if reason := available():
        raise RuntimeError(reason)
    library = build([ROOT / "csrc" / "schema.cpp", *sorted(ROOT.glob("csrc/cuda/*.cu"))], "ops")
    torch.ops.load_library(str(library))
    backend = backends.Backend("cuda_host", NAMESPACE, ("cpu",), key="CPU")
    backends.BACKENDS[backend.name] = backend
    for operator in backends.OPERATORS.values():
        operator.add_backend(backend)
    return backend.name
