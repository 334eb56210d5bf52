"""Runs networks on small clips forward and backward, and checks them; on a GPU also replayed from CUDA graphs.

python benchmarks/run_network.py NAME... [--backend NAME] [--device cuda] [--graph]
python benchmarks/run_network.py --all | --tiny | --list

NAME is one of `vidops models`, with * and ?; --all stands for every published network, --tiny for every tiny one,
--list prints names and stops. Each network runs on two small clips on its kernels (the automatic choice, or --backend),
inference and training, fp32 and bf16, and is held against the reference in fp64 and in the same dtype. --graph captures
inference and training in bf16 instead, replays each twice, and wants equal bits and right results; it needs a GPU.
Prints a line a network. Exit status: 0 all right, 1 something wrong, 2 cannot run.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout this file belongs to

import torch

from vidops.bench.small_networks import replay_small, run_small_network
from vidops.models import list_models


def chosen(args: argparse.Namespace) -> list[str]:
    """Names of the networks, each once."""
    tiny = list_models("tiny_*")
    names = set()
    for pattern in args.names:
        found = list_models(pattern)
        if not found:
            close = difflib.get_close_matches(pattern, list_models(), n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"no network is called like {pattern!r}{meant}")
        names |= set(found)
    names |= set(tiny) if args.tiny else set()
    names |= set(list_models()) - set(tiny) if args.all else set()
    return sorted(names)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every published network")
    parser.add_argument("--tiny", action="store_true", help="every tiny network")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--backend", help="backend of every operator (default: the automatic choice)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--graph", action="store_true", help="capture into CUDA graphs and replay")
    args = parser.parse_args()
    try:
        names = chosen(args)
    except ValueError as error:
        parser.error(str(error))
    if args.list:
        print("\n".join(names or list_models()))
        return 0
    if not names:
        parser.error("name a network of `vidops models`, or give --all or --tiny")
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is visible")
        return 2
    if args.graph and args.device != "cuda":
        print("--graph needs a GPU: --device cuda")
        return 2
    status = 0
    for name in names:
        run = replay_small if args.graph else run_small_network
        ran = wrong = 0
        for result in run(name, args.device, args.backend):
            ran += 1
            if result.reason:
                wrong += 1
                print(f"WRONG {result.name}: {result.reason}")
        what = "graphs" if args.graph else "comparisons"
        print(f"{name} on {args.device}: {ran} {what}, {wrong} wrong", flush=True)
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
