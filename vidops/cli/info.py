"""``vidops info``: what is installed, what loaded and what did not."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import textwrap
from typing import Any

import torch

from .. import __version__, _build
from ..ops.backends import BACKENDS, OPERATORS
from ..tuning import KNOBS, in_use

HELP = "show versions, backends and why one of them is not there; exit status 1 on a broken install"

VARIABLES = (
    "VIDOPS_BACKEND",
    "VIDOPS_CPU_LEVEL",
    "VIDOPS_TUNING",
    "VIDOPS_BUILD",
    "VIDOPS_CPU_LEVELS",
    "TRITON_INTERPRET",
    "TORCH_CUDA_ARCH_LIST",
    "MAX_JOBS",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 where the installation is broken."""
    report = collect()
    print(json.dumps(report, indent=2) if args.json else format_report(report))
    return 1 if report["broken"] else 0


def collect() -> dict[str, Any]:
    """Gather everything that ``vidops info`` shows, ready for JSON."""
    status, facts = _build.status(), _build.facts()
    backends = {name: _backend(name, status.get(name)) for name in BACKENDS}
    info = facts.info
    gpus = _gpus()  # which starts CUDA, and that applies measured values
    return {
        "versions": {
            "vidops": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
            "CUDA of torch": torch.version.cuda,
            "GPU": gpus,
        },
        "cpu": {
            "level": status["cpu"].level or None,
            "available": facts.cpu_capability,
            "built": info["levels"] if info else [],
            "threads": torch.get_num_threads(),
        },
        "build": {**info, "cuda_archs": list(facts.cuda_archs)} if info else None,
        "backends": backends,
        "tuning": _tuning(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "folder": str(_build.package_folder()),
        "broken": any(backend["broken"] for backend in backends.values()),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    try:
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except torch.cuda.DeferredCudaCallError as error:  # behind its first line are the places it came through
        raise RuntimeError(str(error.__cause__ or error)) from error


def _tuning() -> dict[str, Any]:
    """Describe the measured values that kernels use."""
    state = in_use.state()
    path = state.tuning.path if state.tuning else None
    orders = state.tuning.orders if state.tuning else {}
    return {
        "text": state.text,
        "path": str(path) if path else None,
        "machine": dict(state.tuning.machine) if state.tuning else None,
        "values": {key: knob.value for key, knob in KNOBS.items() if knob.value != knob.default},
        "orders": {name: list(order) for name, order in orders.items()},
        "told": state.told,
    }


def _backend(name: str, library: _build.LibraryStatus | None) -> dict[str, Any]:
    """Describe one backend as the registry sees it; ``library`` is its native library, if it has one."""
    backend = BACKENDS[name]
    operators = sorted(op.name for op in OPERATORS.values() if not op.missing[name])
    lacking = {op.name: op.missing[name] for op in OPERATORS.values() if op.missing[name]}
    broken = library is not None and library.broken
    reason = backend.missing
    if not reason and lacking:
        reason = "; ".join(f"{operator}: {why}" for operator, why in sorted(lacking.items()))
        if library is not None and not all(map(_declared, lacking)):
            broken = True
            reason += "; the library is older than the Python code: reinstall vidops"
    if not reason and backend.devices == ("cuda",) and not torch.cuda.is_available():
        reason = "no GPU is visible"
    return {
        "available": bool(operators),
        "broken": broken,
        "reason": reason,
        "operators": operators,
        "path": str(library.path) if library is not None and library.path else None,
    }


def _declared(operator: str) -> bool:
    """Whether some native library that was loaded knows an operator."""
    return bool(torch._C._dispatch_has_kernel(f"vidops::{operator}"))


# ---- on the terminal


def format_report(report: dict[str, Any]) -> str:
    """Lay the report out as one screen."""
    versions, cpu, build = report["versions"], report["cpu"], report["build"]
    lines = [f"vidops {versions['vidops']}  ({report['folder']})", ""]
    machine = ", ".join(versions["GPU"]) or "no GPU"
    cuda = f"CUDA {versions['CUDA of torch']}" if versions["CUDA of torch"] else "CPU only"
    lines.append(
        f"  running    Python {versions['python']}, torch {versions['torch']} ({cuda}),"
        f" Triton {versions['triton'] or 'not installed'}, {machine}"
    )
    if build:
        nvcc = f", nvcc {build['cuda']} for {' '.join(build['cuda_archs'])}" if build["cuda"] else ""
        abi = f"torch {build['torch']} (stable ABI {build['torch_target']})"
        lines.append(f"  built      {build['compiler']}, {abi}{nvcc}")
    levels = f"{cpu['level'] or 'no kernels'} in use, {cpu['available'] or 'unknown'} available"
    built = f", built: {' '.join(cpu['built'])}" if cpu["built"] else ""
    lines += [
        f"  CPU        {levels}{built}; {cpu['threads']} threads",
        "",
        "  backend    state       operators",
    ]
    for name, backend in report["backends"].items():
        state = "BROKEN" if backend["broken"] else "ready" if backend["available"] else "off"
        lines.append(f"  {name:<10} {state:<11} {_fill(' '.join(backend['operators']) or '-', 25)}")
        if backend["reason"]:
            lines.append(f"{'':25}{_fill(backend['reason'], 25)}")
    tuning = "; ".join([report["tuning"]["text"], *report["tuning"]["told"]])
    lines += ["", f"  tuning     {_fill(tuning, 13)}"]
    settings = " ".join(f"{name}={value}" for name, value in report["environment"].items())
    lines += [f"  settings   {_fill(settings or 'none', 13)}"]
    if report["broken"]:
        lines += ["", "This installation is broken: see the lines marked BROKEN."]
    return "\n".join(lines)


def _fill(text: str, indent: int) -> str:
    return f"\n{'':{indent}}".join(textwrap.wrap(text, 100 - indent, break_long_words=False)) or text
