"""``vidops tune``: better values for the kernels' knobs, measured on this GPU."""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys

from ._outputs import writable

HELP = "measure block shapes, widths, runs and the order of CUDA and Triton on this GPU, and write them to a file"

_INTERPRET = "TRITON_INTERPRET"  # Triton reads it when kernels are imported, which they are by now
_EPILOG = """\
A value is kept where results are right and it is faster beyond the spread of the samples, by the geometric mean over
the operator's GPU sizes, types, layouts and directions. The file says what was measured, on what, and what the limit
left out. It is written anew whenever a backend of an operator is done: a run that ends before its time leaves what it
found, and the file names the rest as not reached. VIDOPS_TUNING=FILE uses it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "pattern", nargs="?", default="", metavar="PATTERN", help="part of an operator's name; * and ?"
    )
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where to write the values")
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="stop once the size at hand is done (default: never)",
    )
    parser.add_argument("--quick", action="store_true", help="the quick sizes alone, in their first type")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run all of it on tiny sizes in Triton's interpreter; the file is marked and cannot be used",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    from vidops.tuning import write_tuning
    from vidops.tuning.tune import Options, plan, tune

    path = writable("--out", args.out)
    if args.rehearse and os.environ.get(_INTERPRET, "") not in ("1", "true", "True"):
        return _interpreted(args)
    options = Options(args.pattern, args.limit, args.quick, args.rehearse)
    plans = plan(options)
    if args.rehearse:
        print("a rehearsal: these figures mean nothing")
    for each in plans:
        knobs = ", ".join(f"{len(found)} of {backend}" for backend, found in each.knobs.items())
        print(f"{each.benchmark.operator}: knobs: {knobs}")
    result = tune(
        options,
        told=lambda line: print(line, flush=True),
        kept=functools.partial(write_tuning, path),
        plans=plans,
    )
    write_tuning(path, result)
    print(f"{len(result.values)} values, {len(result.orders)} orders of backends: {path}")
    if result.not_reached:
        print(f"not reached: {'; '.join(result.not_reached)}")
    return 0


def _interpreted(args: argparse.Namespace) -> int:
    """Run the command again in a process that has Triton's interpreter on, and give its exit status."""
    command = [sys.executable, "-m", "vidops", "tune", "--rehearse", "--out", args.out]
    command += [] if args.limit is None else [f"--limit={args.limit}"]
    command += [f"--{name}" for name in ("quick", "traceback") if getattr(args, name)]
    return subprocess.run([*command, "--", args.pattern], env=os.environ | {_INTERPRET: "1"}).returncode
