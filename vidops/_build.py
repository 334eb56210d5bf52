"""The native libraries: which were built, with what, which of them loaded, and why another did not.

Importing this module loads them and, in a checkout, makes ``vidops.triton_kernels`` importable. A library
that cannot be loaded never keeps vidops from being imported: the reason is kept for :func:`status`, where the
backends and ``python -m vidops info`` read it. A ``VIDOPS_CPU_LEVEL`` that names no level does, with ValueError.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ._command import one_line

LEVELS = ("baseline", "avx2", "avx512")
LEVEL_VARIABLE = "VIDOPS_CPU_LEVEL"
HOW_TO_BUILD = "run `pip install -e .` or `python setup.py build_ext --inplace` in the checkout"

_FOLDER = Path(os.path.abspath(__file__)).parent  # not resolved: a strict editable install is a tree of links
_MINIMUM_TORCH = (2, 11)
_CUDA_FILE = "_ops_cuda.so"


@dataclass(frozen=True)
class LibraryStatus:
    """What became of one native library.

    Attributes:
        loaded: its operators can be called.
        reason: why it was not loaded; empty where it was.
        broken: it should have loaded and did not: the installation is damaged or out of date.
        path: its file, None where there is none.
        level: the instruction-set level of the CPU library; empty for others.
    """

    loaded: bool
    reason: str
    broken: bool = False
    path: Path | None = None
    level: str = ""


@dataclass(frozen=True)
class BuildFacts:
    """What is known of the build.

    Attributes:
        record: what the install wrote down: mode, and for every library whether it was built or why not; None
            in a checkout that has not been built.
        info: compiler, flags, levels, torch and CUDA versions; None where there is no ``vidops._C``.
        cpu_capability: the highest level of this CPU, None likewise.
        cuda_archs: GPU targets of the CUDA library.
    """

    record: dict[str, Any] | None
    info: dict[str, Any] | None
    cpu_capability: str | None
    cuda_archs: tuple[str, ...]


def requested_level(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the checked value of ``VIDOPS_CPU_LEVEL``, None where it is not set.

    Raises:
        ValueError: it is set to something else than a level.

    Example:
        >>> requested_level({"VIDOPS_CPU_LEVEL": "avx2"})
        'avx2'
    """
    level = environ.get(LEVEL_VARIABLE)
    if not level:
        return None
    if level not in LEVELS:
        raise ValueError(f"{LEVEL_VARIABLE}={level!r} is not one of {', '.join(LEVELS)}")
    return level


def choose_level(capability: str, requested: str | None, built: Sequence[str]) -> str:
    """Return the highest built level that neither the CPU nor the user rules out.

    Example:
        >>> choose_level("avx512", "avx2", ["baseline", "avx2", "avx512"])
        'avx2'
    """
    limit = min(LEVELS.index(capability), LEVELS.index(requested or LEVELS[-1]))
    return max((level for level in built if LEVELS.index(level) <= limit), key=LEVELS.index)


def _read_record(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the record of the build and, where it is there and cannot be read, why."""
    file = folder / "_build_record.json"
    if not file.is_file():
        return None, ""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(record[name]["reason"], str) for name in ("cpu", "cuda")):
            raise TypeError("reasons are no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{file.name} cannot be read ({error}); reinstall vidops"
    return record, ""


def _truncated(path: Path) -> bool:
    """Whether the end of a 64-bit ELF file is missing: mapping such a file ends the process."""
    with open(path, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return False  # the loader says what it is
    table = int.from_bytes(header[0x28:0x30], "little")
    entry, count = (int.from_bytes(header[at : at + 2], "little") for at in (0x3A, 0x3C))
    return path.stat().st_size < table + entry * count


def _import_c(folder: Path) -> tuple[ModuleType | None, str]:
    """Import ``vidops._C``; where its file exists and does not load, say why."""
    if cut := [file.name for file in folder.glob("_C.*.so") if _truncated(file)]:
        return None, f"{cut[0]} is cut short; reinstall vidops"
    # By name, not by importing: an editable install of another folder would lend its own.
    if not any((folder / f"_C{suffix}").is_file() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        others = sorted(file.name for file in folder.glob("_C.*.so"))
        running = sys.implementation.cache_tag
        reason = (
            f"{others[0]} was built for another Python than this {running}; reinstall vidops"
            if others
            else ""
        )
        return None, reason
    try:
        return importlib.import_module(f"{__package__}._C"), ""
    except ImportError as error:
        return None, f"vidops._C does not load: {error}; reinstall vidops"


def _load(path: Path) -> str:
    """Load an operator library; return why it does not load, or nothing."""
    # Registering an operator twice ends the process: a second library of the same kind is never even tried.
    kind = _CUDA_FILE if path.name == _CUDA_FILE else "_ops_cpu_"
    for other in torch.ops.loaded_libraries:
        if Path(other).name.startswith(kind) and other != os.path.realpath(path):
            return f"{other} has been loaded into this process already"
    if _truncated(path):
        return f"{path.name} is cut short; reinstall vidops"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        cause = str(error.__cause__ or error)
        return f"{path.name} does not load ({cause}); damaged, or built from other sources: reinstall vidops"
    return ""


def _load_all(folder: Path) -> tuple[dict[str, LibraryStatus], BuildFacts]:
    """Load what there is in ``folder``."""
    with one_line():
        requested = requested_level()
    record, bad_record = _read_record(folder)
    c, bad_c = _import_c(folder)
    facts = BuildFacts(
        record,
        c.build_info() if c else None,
        c.cpu_capability() if c else None,
        tuple(c.cuda_arch_list()) if c else (),
    )
    cpu = _cpu_status(folder, facts, bad_record or bad_c, requested)
    return {"cpu": cpu, "cuda": _cuda_status(folder, facts, cpu, bad_record or bad_c)}, facts


def _cpu_status(folder: Path, facts: BuildFacts, damage: str, requested: str | None) -> LibraryStatus:
    if damage:
        return LibraryStatus(False, damage, broken=True)
    if facts.record is not None:
        if not facts.record["cpu"]["built"]:
            return LibraryStatus(False, f"not built: {facts.record['cpu']['reason']}")
        needed = [name for name in facts.record["files"] if name != _CUDA_FILE]
        if missing := [name for name in needed if not (folder / name).is_file()]:
            return LibraryStatus(False, f"{', '.join(missing)} missing; reinstall vidops", broken=True)
    if facts.info is None or facts.cpu_capability is None:
        return LibraryStatus(False, f"not built: {HOW_TO_BUILD}")
    level = choose_level(facts.cpu_capability, requested, facts.info["levels"])
    path = folder / f"_ops_cpu_{level}.so"
    if not path.is_file():
        return LibraryStatus(False, f"{path.name} missing; reinstall vidops", broken=True)
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < _MINIMUM_TORCH:
        minimum = ".".join(map(str, _MINIMUM_TORCH))
        return LibraryStatus(False, f"torch {torch.__version__} is older than {minimum}", True, path)
    reason = _load(path)
    return LibraryStatus(not reason, reason, broken=bool(reason), path=path, level=level)


def _cuda_status(folder: Path, facts: BuildFacts, cpu: LibraryStatus, damage: str) -> LibraryStatus:
    path = folder / _CUDA_FILE
    if damage:
        return LibraryStatus(False, damage, broken=True)
    if facts.record is not None and not facts.record["cuda"]["built"]:
        return LibraryStatus(False, f"not built: {facts.record['cuda']['reason']}")
    if facts.record is None and not path.is_file():
        return LibraryStatus(False, f"not built: {HOW_TO_BUILD}")
    if not path.is_file():
        return LibraryStatus(False, f"{path.name} missing; reinstall vidops", broken=True)
    if torch.version.cuda is None:
        return LibraryStatus(False, f"built, but torch {torch.__version__} is not a CUDA build", path=path)
    if not cpu.loaded:  # it holds the operators' schemas
        return LibraryStatus(False, "the CPU library, which declares the operators, did not load", True, path)
    reason = _load(path)
    return LibraryStatus(not reason, reason, broken=bool(reason), path=path)


class _CheckoutFinder:
    """Finds ``vidops.triton_kernels`` in the top-level folder of a checkout that is not installed."""

    folder = _FOLDER.parent / "triton_kernels"

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != f"{__package__}.triton_kernels":
            return None
        return importlib.util.spec_from_file_location(
            fullname, cls.folder / "__init__.py", submodule_search_locations=[str(cls.folder)]
        )


def _find_triton_kernels() -> None:
    """Make ``vidops.triton_kernels`` importable in a checkout; does nothing where vidops is installed."""
    checkout = (_FOLDER.parent / "setup.py").is_file() and _CheckoutFinder.folder.is_dir()
    if checkout and not (_FOLDER / "triton_kernels").exists() and _CheckoutFinder not in sys.meta_path:
        sys.meta_path.insert(0, _CheckoutFinder)  # before an editable install of another folder


def package_folder() -> Path:
    """Return the folder that vidops was imported from.

    Example:
        >>> package_folder().name
        'vidops'
    """
    return _FOLDER


_find_triton_kernels()
_status, _facts = _load_all(_FOLDER)


def status() -> dict[str, LibraryStatus]:
    """Return what became of the ``"cpu"`` and the ``"cuda"`` library.

    Example:
        >>> sorted(status())
        ['cpu', 'cuda']
    """
    return dict(_status)


def facts() -> BuildFacts:
    """Return what is known of the build.

    Example:
        >>> facts().cpu_capability in (None, "baseline", "avx2", "avx512")
        True
    """
    return _facts
