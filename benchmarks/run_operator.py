"""Runs one operator's small cases forward and backward, and checks them: a program for compute-sanitizer.

python benchmarks/run_operator.py OPERATOR [--backend cuda,triton] [--device cuda]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout this file belongs to

import torch

from vidops.bench import load_benchmarks
from vidops.bench.small import run_small
from vidops.ops.backends import OPERATORS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operator", choices=sorted(load_benchmarks()))
    parser.add_argument("--backend", help="names with commas between (default: all that the device has)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
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
        for result in run_small(args.operator, backend, args.device):
            ran += 1
            if result.reason:
                wrong += 1
                print(f"WRONG {result.name}: {result.reason}")
        print(f"{args.operator} {backend} on {args.device}: {ran} comparisons, {wrong} wrong", flush=True)
    if args.device == "cuda":
        torch.cuda.synchronize()
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
