"""Runs one operator's cases forward and backward, and checks them: a program for memory checkers, and for itself.

python benchmarks/run_operator.py OPERATOR [--backend cuda,triton] [--device cuda] [--graph | --sizes]

Small cases, which reach every special one, are held against the reference on the CPU. With --graph they are captured
in CUDA graphs and replayed on fresh inputs, bit by bit as the eager call; with --sizes the sizes that `vidops bench`
measures are held against the reference instead, so that their kernels are compiled before anything is timed.
Exit status: 0 all right, 1 something wrong, 2 cannot run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout this file belongs to

import torch

from vidops.bench import Options, load_benchmarks
from vidops.bench.harness import plan, variants
from vidops.bench.small import SmallResult, replay_small, run_small
from vidops.bench.variants import Data, first_line, launch_errors
from vidops.ops.backends import OPERATORS


def run_sizes(operator: str, backend: str, device: str) -> Iterator[SmallResult]:
    """The kernel's results at every size, dtype and layout of `vidops bench`; on a CPU those of --quick."""
    data: Data | None = None
    groups = plan(Options(f"{operator}/{device}/", (backend,), (1,), quick=device == "cpu"))
    for group in groups:
        if group.benchmark.operator != operator or group.direction.startswith("call"):
            continue
        dtype = getattr(torch, group.dtype)
        if data is None or (data.workload, data.dtype) != (group.workload, dtype):
            data = None  # the old tensors go before the new ones come
            data = Data(group.benchmark, group.workload, dtype, sets=1)
        for variant in variants(group):
            if variant.kind == "kernel":
                name = f"{group.name} {variant.key}"
                try:
                    verdict = data.prepare(variant, group.direction).verdict
                except launch_errors() as error:
                    yield SmallResult(name, float("inf"), first_line(error))
                else:
                    yield SmallResult(name, verdict.error, verdict.reason)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operator", choices=sorted(load_benchmarks()))
    parser.add_argument("--backend", help="names with commas between (default: all that the device has)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--graph", action="store_true", help="capture in CUDA graphs and replay")
    what.add_argument("--sizes", action="store_true", help="the sizes of `vidops bench`, not the small ones")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is visible")
        return 2
    run: Callable[[str, str, str], Iterator[SmallResult]] = (
        replay_small if args.graph else run_sizes if args.sizes else run_small
    )
    names = args.backend.split(",") if args.backend else ["cpu", "cuda", "triton"]
    ran = wrong = 0
    for backend in names:
        reason = OPERATORS[args.operator].why_not(backend, args.device)
        if reason:
            if args.backend:
                print(f"{args.operator}: backend {backend} cannot run: {reason}")
                return 2
            print(f"{args.operator} {backend}: not run: {reason}")
            continue
        for result in run(args.operator, backend, args.device):
            ran += 1
            if result.reason:
                wrong += 1
                print(f"WRONG {result.name}: {result.reason}", flush=True)
        print(f"{args.operator} {backend} on {args.device}: {ran} comparisons, {wrong} wrong", flush=True)
    if args.device == "cuda":
        torch.cuda.synchronize()
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
