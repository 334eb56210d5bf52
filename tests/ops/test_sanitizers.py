"""The operator tests again, with the kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vidops.ops.backends import OPERATORS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", ["cpu_sanitized", "cuda_host"])
def test_operators_are_clean(backend: str) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++")
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not os.path.isabs(runtime):
        pytest.skip("g++ has no AddressSanitizer")
    # With the C++ runtime, or AddressSanitizer cannot follow the first exception that a library of it throws.
    cxx = subprocess.run(
        ["g++", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True
    ).stdout.strip()
    env = os.environ | {
        "LD_PRELOAD": f"{runtime} {cxx}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "VIDOPS_HOST_CUDA_SANITIZE": "1",
        "VIDOPS_TEST_BACKENDS": backend,
        "TRITON_INTERPRET": "0",
    }
    chosen = "layout or special or random or padding_and or zero or no_channels or extreme or same_bits"
    kernels = ROOT / "csrc" / ("cuda" if backend == "cuda_host" else "cpu")
    files = [f"tests/ops/test_{name}.py" for name in sorted(OPERATORS) if any(kernels.glob(f"{name}.c*"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *files, "-k", chosen, "--timeout=900"],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout.splitlines()[-1], done.stdout[-2000:]
