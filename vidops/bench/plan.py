"""What the options choose of the cases, and what of it can run here."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..ops.backends import BACKENDS, OPERATORS, PREFERENCE
from .case import Benchmark, Case, Workload, load_benchmarks
from .timing import Effort

__all__ = ["FUSED", "NETWORK", "Group", "Options", "left_out", "plan", "selects"]

NETWORK = "network"  # the first part of the names of networks' groups
FUSED = "fused"  # a network on the backends of the automatic choice


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        pattern: part of a group's name, with ``*`` and ``?``; empty for all operators. Networks are measured when
            ``network`` is in it, as in ``network/cpu/mstnet``.
        backends: kernels to time; None for all that an automatic choice considers and that can run here. In networks
            a backend runs every operator; None is the automatic choice in each.
        threads: thread counts of CPU groups; None for one and all. Networks train, and a call is timed, on the last.
        quick: a few sizes, in their first layout and dtype, and fewer samples.
        compile: time ``torch.compile(reference)`` too, and of networks the fused one; both take long to build.
    """

    pattern: str = ""
    backends: tuple[str, ...] | None = None
    threads: tuple[int, ...] | None = None
    quick: bool = False
    compile: bool = False

    def effort(self) -> Effort:
        """How long to measure."""
        return Effort(rounds=11, least=3, budget=0.4) if self.quick else Effort()


@dataclass(frozen=True)
class Group:
    """Variants that are timed together: one operator or network, size, dtype, direction and number of threads."""

    benchmark: Case
    workload: Workload
    dtype: str
    layouts: tuple[str, ...]
    direction: str
    threads: int | None
    backends: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name: what patterns are matched with."""
        threads = (f"{self.threads}-thread",) if self.threads else ()
        size = self.workload
        parts = (self.benchmark.operator, size.device, size.name, self.dtype, self.direction, *threads)
        return "/".join(parts)


def _usable(backend: str, operator: str, device: str) -> str:
    """Why a backend's kernel of an operator is not timed on a device, or nothing."""
    if backend == "triton" and (device == "cpu" or not torch.cuda.is_available()):
        return "Triton needs a GPU; the speed of its interpreter means nothing"
    if device == "cuda" and not torch.cuda.is_available():
        return "no GPU is visible"
    return OPERATORS[operator].why_not(backend, device)


def _why_not(backend: str, case: Case, device: str) -> str:
    """Why a backend is not timed: in an operator, or in all of them where it is to run whole networks."""
    if isinstance(case, Benchmark):
        return _usable(backend, case.operator, device)
    return next((why for name in OPERATORS if (why := _usable(backend, name, device))), "")


def _backends(options: Options, case: Case, device: str) -> tuple[str, ...]:
    """The kernels that are timed; of a network the automatic choice, where that is not the reference alone."""
    kernels = [name for name in PREFERENCE[device] if name != "reference"]
    if options.backends or isinstance(case, Benchmark):
        return tuple(b for b in options.backends or kernels if not _why_not(b, case, device))
    some = any(not _usable(b, name, device) for b in kernels for name in OPERATORS)
    return (FUSED,) if some else ()


def selects(pattern: str, name: str) -> bool:
    """Tell whether a pattern chooses a group; the networks only if it speaks of them.

    Args:
        pattern: of `Options`.
        name: of a group.

    Example:
        >>> selects("", "resize/cpu/a"), selects("", "network/cpu/a"), selects("network/cpu", "network/cpu/a")
        (True, False, True)
    """
    if name.startswith(f"{NETWORK}/") and NETWORK not in pattern:
        return False
    return fnmatch.fnmatchcase(name, f"*{pattern}*")


def plan(options: Options) -> list[Group]:
    """List the groups that the options choose and this machine can run.

    Args:
        options: what to measure.

    Returns:
        Groups in the order of the cases.

    Raises:
        ValueError: a backend is unknown, nothing is called like the pattern, or a thread count is below 1.
        RuntimeError: a backend that was asked for runs none of the cases here; the text says why.

    Example:
        >>> [g.name for g in plan(Options("temporal_shift/cpu/1x256*backward", ("reference",), threads=(1,)))]
        ['temporal_shift/cpu/1x256x8x56x56/float32/backward/1-thread']
    """
    for name in options.backends or ():
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if options.threads is not None and min(options.threads, default=0) < 1:
        raise ValueError(f"threads must be at least 1, got {options.threads}")
    groups = [g for g in _groups(options) if selects(options.pattern, g.name)]
    if not groups:
        shows = "`vidops bench --list` shows what there is"
        if options.quick and plan(replace(options, quick=False)):
            raise ValueError(f"--quick leaves out all that is called like {options.pattern!r}; {shows}")
        networks = replace(options, pattern=f"{NETWORK}/*{options.pattern}")
        if NETWORK not in options.pattern and any(
            selects(networks.pattern, g.name) for g in _groups(networks)
        ):
            shows = f"networks are asked for by {networks.pattern!r}"
        raise ValueError(f"nothing is called like {options.pattern!r}; {shows}")
    runnable = [g for g in groups if g.backends]
    for name in options.backends or ():
        if not any(name in g.backends for g in runnable):
            reasons = {_why_not(name, g.benchmark, g.workload.device) for g in groups}
            raise RuntimeError(
                f"backend {name!r} runs none of these cases here: {'; '.join(sorted(reasons))}"
            )
    if not runnable:
        missing = sorted({BACKENDS[name].missing for name in BACKENDS if BACKENDS[name].missing})
        raise RuntimeError(f"no backend but the reference runs these cases here: {'; '.join(missing)}")
    return runnable


def _cases(pattern: str) -> list[Case]:
    """All cases; the networks only where they are meant, since what they are made of takes time to load."""
    found: list[Case] = list(load_benchmarks().values())
    if NETWORK in pattern:
        from .network_cases import NETWORKS

        found.append(NETWORKS)
    return found


def _groups(options: Options) -> Iterator[Group]:
    available = torch.get_num_threads()
    threads: tuple[int, ...] = options.threads or tuple(sorted({1, available}))
    if options.quick and options.threads is None:
        threads = (available,)
    for case in _cases(options.pattern):
        for workload in case.workloads:
            if options.quick and not workload.quick:
                continue
            some = slice(1) if options.quick else slice(None)
            backends = _backends(options, case, workload.device)
            for dtype in workload.dtypes[some]:
                for direction in workload.directions:
                    counts = threads if workload.device == "cpu" else (None,)
                    if direction.startswith("call") or direction == "training":  # nobody trains on one core
                        counts = counts[-1:]
                    for count in counts:
                        yield Group(case, workload, dtype, workload.layouts[some], direction, count, backends)


def left_out(options: Options) -> list[str]:
    """Say what ``--quick`` leaves out of what the other options choose.

    Example:
        >>> for line in left_out(Options("temporal_shift/cpu/*forward", ("reference",), quick=True)):
        ...     print(line)  # doctest: +ELLIPSIS
        --quick: ... of ... groups, with fewer samples; left out:
        ...
    """
    if not options.quick:
        return []
    groups, everything = plan(options), plan(replace(options, quick=False))
    lines = [f"--quick: {len(groups)} of {len(everything)} groups, with fewer samples; left out:"]
    kept = {(g.benchmark.operator, g.workload.name) for g in groups}
    sizes: dict[str, list[str]] = {}
    for group in everything:
        operator, size = group.benchmark.operator, group.workload.name
        names = sizes.setdefault(operator, [])
        if (operator, size) not in kept and size not in names:
            names.append(size)
    lines += [f"  {operator}: {', '.join(names)}" for operator, names in sizes.items() if names]
    for what, of in (
        ("layouts", lambda g: g.layouts),
        ("dtypes", lambda g: (g.dtype,)),
        ("threads", lambda g: (g.threads,)),
    ):
        used = {value for g in groups for value in of(g)}
        more = dict.fromkeys(str(value) for g in everything for value in of(g) if value not in used)
        lines += [f"  {what}: {', '.join(more)}"] if more else []
    return lines
