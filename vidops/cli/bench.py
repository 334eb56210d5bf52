"""``vidops bench``: speed of the operators beside eager PyTorch and the machine's own ceilings."""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from ._outputs import writable

if TYPE_CHECKING:
    from vidops.bench.judge import Record

HELP = "measure operators or networks: time, rate, multiple of the least possible time, speed-up over eager PyTorch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    from vidops.bench.against import TOLERANCE
    from vidops.bench.report import LEGEND

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = LEGEND
    parser.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="part of a name of --list; * and ?. All operators without one; networks are measured by `network`,"
        " `network/cpu/mstnet` and the like",
    )
    parser.add_argument("--list", action="store_true", help="list what can be measured here and stop")
    parser.add_argument(
        "--backend", type=_names, metavar="A,B", help="kernels to time (default: all that can run here)"
    )
    parser.add_argument("--threads", type=_counts, metavar="1,2", help="CPU threads (default: one and all)")
    parser.add_argument(
        "--quick", action="store_true", help="few sizes and samples; says at the end what it left out"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="time torch.compile(reference) too, and of networks both; takes minutes",
    )
    parser.add_argument(
        "--limit",
        type=_seconds,
        metavar="SECONDS",
        help="start no further group after this time; the one at hand is finished",
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure, after each group")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the result (also .svg, .pdf)")
    parser.add_argument(
        "--roofline",
        metavar="FILE.png",
        help="draw the kernels under the rates of a copy and of multiply-adds",
    )
    parser.add_argument(
        "--show",
        metavar="FILE",
        nargs="+",
        help="print (and --plot) an older --json file; measure nothing. Several of one machine become one, with --json",
    )
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="compare with an older --json file: exit with status 1 where a kernel is slower than there or missing,"
        " or none is in common",
    )
    parser.add_argument(
        "--tolerance",
        type=_percent,
        default=TOLERANCE,
        metavar="PERCENT",
        help=f"how much slower than in --against a kernel may be ({TOLERANCE:.0%})".replace("%", " %%"),
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 when a judged target is missed, or --against could judge no kernel",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(count) for count in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers separated by commas, got {text!r}") from None


def _percent(text: str) -> float:
    try:
        value = float(text.rstrip("% "))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a percentage of at least 0, such as 10, got {text!r}")
    return value / 100


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Measure, print, write; return 1: a result is wrong, a kernel slower or missing, none compared; see --strict."""
    from vidops.bench import harness, report

    before = report.read_report(args.against) if args.against else None
    if args.json:
        writable("--json", args.json, new_folder=True)
    for picture in filter(None, (args.plot, args.roofline)):
        from vidops.visualize import check_picture

        check_picture(picture)
    if args.show:
        from vidops.bench.merge import merge

        return _finish(args, merge(map(report.read_report, args.show)), before, tables=True)
    options = harness.Options(args.pattern, args.backend, args.threads, args.quick, args.compile)
    groups = harness.plan(options)
    if args.list:
        print("\n".join(group.name for group in groups))
        return 0
    progress = sys.stderr.isatty()
    kept = False

    def started(name: str, number: int, count: int) -> None:
        begin, end = ("\r\033[K", "") if progress else ("", "\n")
        print(f"{begin}[{number}/{count}] {name}", end=end, file=sys.stderr, flush=True)

    def finished(records: list[Record], so_far: dict[str, Any]) -> None:
        nonlocal kept
        if progress:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        print("\n".join(report.group_lines(records)), end="\n\n", flush=True)
        if args.json:
            report.write_report(args.json, so_far)
            kept = True

    end = time.monotonic() + (args.limit or math.inf)
    try:
        result = harness.run(
            options, started=started, finished=finished, enough=lambda: time.monotonic() > end
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            *([f"the figures measured so far are in {args.json}"] if kept else [])
        ) from None
    return _finish(args, result, before, tables=False)


def _finish(
    args: argparse.Namespace, result: dict[str, Any], before: dict[str, Any] | None, *, tables: bool
) -> int:
    """Print what remains to be printed of a report, draw it, and give the exit status."""
    from vidops.bench import against, report

    if tables:
        print("\n\n".join("\n".join(report.group_lines(records)) for records in report.grouped(result)), "\n")
    print("\n".join([*report.head_lines(result), *report.summary_lines(result)]))
    slower = False
    if before:
        compared = against.compare(result, before, args.tolerance)
        print("\n".join(["", *against.compare_lines(compared)]))
        slower = bool(compared.of("slower") or compared.missing or not (compared.changes or compared.wrong))
        slower |= args.strict and not compared.judged
    if args.json:
        report.write_report(args.json, result)
        print(f"figures: {args.json}")
    if args.plot or args.roofline:
        _draw(args, result)
    wrong = any(r["status"] == "wrong" for r in result["results"])
    targets = (t for r in result["results"] for t in r.get("targets", ()) if not t.get("stretch"))
    missed = any(t["verdict"] == "missed" for t in targets)
    return 1 if wrong or slower or (args.strict and missed) else 0


def _draw(args: argparse.Namespace, result: dict[str, Any]) -> None:
    from vidops.visualize import benchmark_bars, roofline, save

    for draw, file in ((benchmark_bars, args.plot), (roofline, args.roofline)):
        if file:
            save(draw(result), file)
            print(f"picture: {file}")
